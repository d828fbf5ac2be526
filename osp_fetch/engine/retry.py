"""When to try again: tenacity, told by the remedy that an error carries."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ..model.errors import FetchError, NetworkError, NotThePayloadError, Remedy
from ..model.settings import Retry

if TYPE_CHECKING:
    from tenacity import RetryCallState

_PAGES: Final = 3  # pages instead of the file that are enough to give up


class Patience:
    """Runs out on standstill, not on distance: getting further than ever makes an attempt a first one.

    `progress` tells how far the work has come, in any unit that grows.
    """

    def __init__(self, settings: Retry, progress: Callable[[], int]) -> None:
        self._settings, self._progress = settings, progress
        self._best = progress()
        self._failures = 0
        self._pages = 0
        self._excused = False

    def failed(self, state: RetryCallState) -> None:
        """Count one more failed attempt."""
        error = state.outcome.exception() if state.outcome else None
        self._excused = isinstance(error, NetworkError) and error.excused
        if self._excused:
            return
        now = self._progress()
        if now > self._best:
            self._best, self._failures, self._pages = now, 0, 0
        self._failures += 1
        self._pages += isinstance(error, NotThePayloadError)

    def stop(self, state: RetryCallState) -> bool:
        """Whether that was the last attempt."""
        # a page instead of the file may be a passing proxy, but nobody's page goes away in a minute
        tired = self._failures >= self._settings.attempts or self._pages >= _PAGES
        return not self._excused and tired

    def wait(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: full jitter, or what the server asked for."""
        if self._excused:
            return 0.0  # the pool makes it wait until the host may be probed
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, FetchError) else None
        ceiling = min(self._settings.longest, self._settings.initial * 2.0 ** min(self._failures - 1, 30))
        jitter = random.uniform(0, ceiling)
        # jitter on top of what was asked: all connections were told the same moment
        return jitter if asked is None else asked + min(jitter, 1.0)


async def persist(
    work: Callable[[], Awaitable[None]],
    settings: Retry,
    progress: Callable[[], int],
    observe: Callable[[FetchError, float], None],
) -> None:
    """Await `work()` until it succeeds, patience runs out, or an error says that no retry helps.

    `observe(error, delay)` is told before each pause. The last error is raised as it is.
    """
    try:
        # tenacity comes in when there is something to retry: most runs never need it, and it would cost each
        # file a tenth of its time
        await work()
        return
    except FetchError as error:
        if error.remedy is not Remedy.RETRY:
            raise
        failed: FetchError | None = error
    from tenacity import AsyncRetrying, retry_if_exception

    patience = Patience(settings, progress)

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, FetchError):
            observe(error, state.next_action.sleep if state.next_action else 0.0)

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda e: isinstance(e, FetchError) and e.remedy is Remedy.RETRY),
        after=patience.failed,
        stop=patience.stop,
        wait=patience.wait,
        before_sleep=before_sleep,
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            first, failed = failed, None
            if first is not None:
                raise first
            await work()
