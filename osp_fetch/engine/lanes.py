"""The lanes of one file: each fetches parts of it, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..concurrency import Scope, completed, stop
from ..model.errors import FetchError

Lane = Callable[[], Coroutine[Any, Any, None]]


class Lanes:
    """Runs a lane in the caller's own task, and in others as they are called while that goes on.

    Most files are one part, and need no task beside their own. `complete`: whether all is here.
    """

    def __init__(self, complete: Callable[[], bool]) -> None:
        self._complete = complete
        self._lane: Lane | None = None  # while it runs: its owner, held for good, would be garbage in a ring
        self._scope = Scope()  # around the first lane
        self._others: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def __len__(self) -> int:
        return 1 + len(self._others)

    async def run(self, lane: Lane) -> None:
        """Return when no lane finds anything to do, or all is here; raises the first failure."""
        self._failures.clear()
        self._lane, self._scope = lane, Scope()
        try:
            with self._scope:
                await lane()
                while self._others:
                    await asyncio.wait(self._others)
        except FetchError:
            # where all is here, it is the failure of a hedged part that nobody needs any more
            if not self._complete():
                raise
        finally:
            if self._others:
                await completed(stop(self._others))  # `stop` alone would swallow that we are cancelled
            self._lane = None
        if self._failures and not self._complete():
            raise self._failures[0]

    def call(self) -> None:
        """Begin one more lane, while the first one runs."""
        assert self._lane is not None
        task = asyncio.create_task(self._lane())
        self._others.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failures.append(failure)
            self._scope.end()  # the others would go on in vain

    def enough(self) -> None:
        """All is here: whoever still fetches what a hedge has brought is not waited for."""
        if self._others:
            self._scope.end()
