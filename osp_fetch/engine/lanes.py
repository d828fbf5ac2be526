"""The lanes of one file. A lane is a task that fetches parts one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..concurrency import Scope, completed, stop
from ..model.errors import FetchError

Lane = Callable[[], Coroutine[Any, Any, None]]


class Lanes:
    """The first lane in the caller's task, and further lanes in tasks of their own.

    Most files have one part, so they need no task besides the caller's.

    Args:
        complete: Returns whether every byte of the file is held.
    """

    def __init__(self, complete: Callable[[], bool]) -> None:
        self._complete = complete
        # only set while it runs: a lasting reference to its owner would form a reference cycle
        self._lane: Lane | None = None
        self._scope = Scope()  # around the first lane
        self._others: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def __len__(self) -> int:
        return 1 + len(self._others)

    async def run(self, lane: Lane) -> None:
        """Run `lane`, and the lanes that `call` adds, until none has work left or the file is complete.

        Args:
            lane: Fetches parts until none is left.

        Raises:
            FetchError: The first failure of a lane, unless the file is complete all the same.
        """
        self._failures.clear()
        self._lane, self._scope = lane, Scope()
        try:
            with self._scope:
                await lane()
                while self._others:
                    await asyncio.wait(self._others)
        except FetchError:
            # if the file is complete, a hedged part has failed that is no longer needed
            if not self._complete():
                raise
        finally:
            if self._others:
                await completed(stop(self._others))  # `stop` alone would swallow a cancellation of this task
            self._lane = None
        if self._failures and not self._complete():
            raise self._failures[0]

    def call(self) -> None:
        """Start one more lane. Call this only while the first lane runs."""
        assert self._lane is not None
        task = asyncio.create_task(self._lane())
        self._others.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._failures.append(failure)
            self._scope.end()  # the file has failed: the work of the other lanes would be lost

    def enough(self) -> None:
        """Stop the other lanes because the file is complete.

        A lane may still be receiving bytes that a hedge has already delivered.
        """
        if self._others:
            self._scope.end()
