"""The lanes of one file: each fetches parts of it, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from ..model.errors import FetchError
from .tasks import at_most, stop


class Lanes:
    """Runs `lane` in the caller's own task, and in as many others as are called while that goes on.

    Most files are one part, and need no task beside their own. `complete`: whether all is here.
    """

    def __init__(self, lane: Callable[[int], Awaitable[None]], complete: Callable[[], bool]) -> None:
        self._lane, self._complete = lane, complete
        self._scope: asyncio.Timeout | None = None  # around the first lane
        self._others: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Return when no lane finds anything to do, or all is here; raises the first lane's failure."""
        try:
            async with asyncio.timeout(None) as self._scope:
                await self._lane(0)
                if self._others is not None:
                    await self._others
        except TimeoutError:
            pass  # see `enough`
        except FetchError:
            # where all is here, it is the failure of a hedged part that nobody needs any more
            if not self._complete():
                raise
        finally:
            others, self._others, self._scope = self._others, None, None
            if others is not None:
                await stop({others})
                others.cancelled() or others.exception()  # seen, also where this one is cancelled
        if others is not None and not self._complete():
            others.result()

    def call(self, count: int) -> None:
        """Begin more lanes, so that there are `count` of them."""
        if count > 1:
            self._others = asyncio.create_task(at_most(count - 1, _after_first(count), self._lane))
            self._others.add_done_callback(self._others_ended)

    def _others_ended(self, others: asyncio.Task[None]) -> None:
        if not others.cancelled() and others.exception() is not None:
            self.enough()  # the first lane would go on in vain

    def enough(self) -> None:
        """End the first lane: whoever still fetches what a hedge has brought is not waited for."""
        if self._others is not None and self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


async def _after_first(count: int) -> AsyncIterator[int]:
    for number in range(1, count):
        yield number
