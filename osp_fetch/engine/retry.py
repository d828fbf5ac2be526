"""Retries: tenacity repeats work whose error has the remedy RETRY."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ..model.dataclasses import dataclass
from ..model.errors import FetchError, NotThePayloadError, Remedy, TransferError
from ..model.settings import Retry

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

_PAGES: Final = 3  # replies with a web page instead of the file after which retries end


@dataclass(frozen=True, slots=True)
class Pace:
    """The least progress that resets the count of failed attempts; with the defaults, any progress does.

    Args:
        slowest: Progress per second, such as the bytes per second of `timeouts.slowest`.
        seconds: Seconds for which an attempt stands at least, such as `timeouts.slow_for`. A connection that
            is slower than `slowest` is closed after this time, so that an attempt which ended earlier must
            not count for less.
    """

    slowest: int = 0
    seconds: float = 0.0

    def least(self, waited: float) -> float:
        """Return the progress that is no standstill, after pauses of `waited` seconds in all."""
        return max(1.0, self.slowest * max(self.seconds, waited)) if self.seconds else 1.0


_ANY = Pace()  # any progress suffices


class Patience:
    """The count of failed attempts without progress. Sufficient progress resets it.

    Progress adds up over attempts. Within an attempt the transport closes a connection that is too slow. Here
    the pauses between attempts count, too: a server that sends 1,000 bytes in each attempt would otherwise be
    asked for years.

    Args:
        settings: Number of attempts and waiting times.
        progress: Returns how far the work has come, in any unit that grows.
        pace: The progress that suffices.
    """

    def __init__(self, settings: Retry, progress: Callable[[], int], pace: Pace = _ANY) -> None:
        self._settings, self._progress, self._pace = settings, progress, pace
        self._best = progress()
        self._waited = 0.0  # seconds of all pauses since the count was reset
        self._failures = 0
        self._pages = 0
        self._excused = False

    def failed(self, state: RetryCallState) -> None:
        """Count a failed attempt. Tenacity calls this."""
        error = state.outcome.exception() if state.outcome else None
        self._excused = isinstance(error, TransferError) and error.excused
        if self._excused:
            return
        now = self._progress()
        if now - self._best >= self._pace.least(self._waited):
            self._best, self._waited, self._failures, self._pages = now, 0.0, 0, 0
        self._failures += 1
        self._pages += isinstance(error, NotThePayloadError)

    def stop(self, state: RetryCallState) -> bool:
        """Return whether the last attempt has been made. Tenacity calls this."""
        # a web page may come from a proxy that is briefly in the way; login and error pages stay for longer
        tired = self._failures >= self._settings.attempts or self._pages >= _PAGES
        return not self._excused and tired

    def wait(self, state: RetryCallState) -> float:
        """Return the seconds to wait before the next attempt. Tenacity calls this.

        Without a Retry-After the wait has full jitter: it is random, up to a limit that doubles with each
        failure. A Retry-After is obeyed, plus up to one second.
        """
        if self._excused:
            return 0.0
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, FetchError) else None
        ceiling = min(self._settings.longest, self._settings.initial * 2.0 ** min(self._failures - 1, 30))
        jitter = random.uniform(0, ceiling)
        # all connections received the same Retry-After: the jitter spreads their next requests
        pause = jitter if asked is None else asked + min(jitter, 1.0)
        self._waited += pause
        return pause


async def persist(
    work: Callable[[], Awaitable[None]],
    settings: Retry,
    progress: Callable[[], int],
    observe: Callable[[FetchError, float], None],
    pace: Pace = _ANY,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Repeat `work()` until it succeeds, its error does not allow a retry, or attempts are used up.

    Args:
        work: The work.
        settings: Number of attempts without progress, and waiting times.
        progress: Returns how far the work has come, in any unit that grows.
        observe: Called before each pause with the error and the seconds to wait.
        pace: The progress that makes an attempt count as the first one again.
        sleep: Waits for a number of seconds.

    Raises:
        FetchError: The error of the last attempt, unchanged.
    """
    try:
        # tenacity is imported and used only after a failure: most runs never need it, and it would add a
        # tenth to the time of each small file
        await work()
        return
    except FetchError as error:
        if error.remedy is not Remedy.RETRY:
            raise
        failed: FetchError | None = error
    async for attempt in _attempts(Patience(settings, progress, pace), observe, sleep):
        with attempt:
            first, failed = failed, None
            if first is not None:
                raise first
            await work()


def _attempts(
    patience: Patience,
    observe: Callable[[FetchError, float], None],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncRetrying:
    """Return the attempts of tenacity, counted and spaced by `patience`."""
    from tenacity import AsyncRetrying, retry_if_exception

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, FetchError):
            observe(error, state.next_action.sleep if state.next_action else 0.0)

    return AsyncRetrying(
        retry=retry_if_exception(lambda e: isinstance(e, FetchError) and e.remedy is Remedy.RETRY),
        after=patience.failed,
        stop=patience.stop,
        wait=patience.wait,
        before_sleep=before_sleep,
        sleep=sleep,
        reraise=True,
    )
