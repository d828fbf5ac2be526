"""What the runs over the shares of one manifest have in common in this process, and their own partials."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .connections.wait_reporter import WaitReporter
from .model import events
from .model.errors import FetchError
from .model.report import Report, Status
from .processor import processor_times
from .storage.folder.node_folders import collect, mark_ended, node_folder, take_all
from .views.fanout import Ticking

if TYPE_CHECKING:
    from .cluster.shares import SharedRun
    from .connections.byte_rate import ByteRate
    from .control.steering import Steering
    from .engine.context import Connections, Context
    from .sources.again import Again

_ORDERS: Final = 1 << 40  # orders of the jobs of one share


class Joint:
    """What the runs over the shares of one manifest have in common in this process.

    That is what commands have changed, the part of the limits that this machine has, and either the
    connections, or, where each run has worker processes of its own, the byte rate.

    Args:
        stack: closes the connections.
        session: the shares.
        again: what states which paths are fetched again although they are finished.
    """

    def __init__(self, stack: AsyncExitStack, session: SharedRun, again: Again) -> None:
        self._stack, self._session, self.again = stack, session, again
        self._connections: Connections | None = None
        self._opening = asyncio.Lock()
        self._rate: ByteRate | None = None
        self._shares = 0
        self._begun: dict[int, bool] = {}  # share → whether all of its files have been started
        self._observers: list[events.Observer] = []
        self._steering: Steering | None = None  # of the latest run
        self._present: list[Steering] = []
        self._part = 0, 1

    def observe(self, event: events.Event) -> None:
        """Pass an event of the connections on to all present runs."""
        for observe in list(self._observers):
            observe(event)

    async def connections(self, open_connections: Callable[..., Awaitable[Connections]]) -> Connections:
        """Return the connections of all runs, which the first one opens.

        Args:
            open_connections: opens them; its arguments are a stack and, by its name, `observe`.
        """
        async with self._opening:
            if self._connections is None:
                self._connections = await open_connections(self._stack, observe=self.observe)
                waits = WaitReporter(self._connections.pool, self.observe, processor_times)
                await self._stack.enter_async_context(Ticking(waits))
        return self._connections

    async def is_done(self, report: Report) -> bool:
        """Return whether another run has finished the share of `report` before this one got its lock."""
        assert report.shard is not None
        return await asyncio.to_thread(self._session.is_done, report.shard[0])

    async def ended(self, report: Report) -> None:
        """Record a share that is done, before its lock is released."""
        assert report.shard is not None
        if report.stopped is None and not report.counts[Status.PARKED]:
            await asyncio.to_thread(self._session.end, report.shard[0])

    def share_rate(self, context: Context) -> None:
        """Let the run of `context` continue with the rate of the one before, which may have used it up."""
        if self._rate is None:
            self._rate = context.pool.rate
        context.pool.rate = self._rate

    @contextmanager
    def share(self, observe: events.Observer) -> Iterator[tuple[int, Callable[[bool], None] | None]]:
        """Count a run as present until the context ends; `observe` gets the events of the connections.

        Yields:
            The arguments `first` and `begun` of the run.
        """
        self._shares += 1
        number = self._shares
        self._begun[number] = False
        self._observers.append(observe)

        def begun(are: bool) -> None:
            self._begun[number] = are
            self._tell()

        try:
            yield number * _ORDERS, begun if self._connections is not None else None
        finally:
            del self._begun[number]
            self._observers.remove(observe)
            self._tell()

    def _tell(self) -> None:
        if self._connections is not None:
            self._connections.pool.last_files = all(self._begun.values())

    def has_room(self, runs: int) -> bool:
        """Return whether at least `runs` runs are present, and all of them leave connections unused."""
        if self._connections is None or len(self._begun) < runs:
            return False
        return all(self._begun.values()) and self._connections.pool.idle()

    @contextmanager
    def steering(self, steering: Steering) -> Iterator[None]:
        """Let a run begin with what commands have changed in the ones before, until the context ends."""
        if self._steering is not None:
            steering.take_over(self._steering)
        steering.divide(*self._part)
        self._steering = steering
        self._present.append(steering)
        try:
            yield
        finally:
            self._present.remove(steering)

    def divide(self, place: int, parts: int) -> None:
        """Keep to part number `place` of `parts` parts of the limits, in these shares and the next ones."""
        if (place, parts) != self._part:
            self._part = place, parts
            for steering in self._present:
                steering.divide(place, parts)


def own_partials(stack: AsyncExitStack, state: Path) -> Path:
    """Return a folder for partials that no other run ever writes to; take over those of earlier runs."""
    collect(state)
    own = node_folder(state, secrets.token_hex(8))
    own.mkdir(parents=True)
    take_all(state, own)

    def give_back() -> None:
        mark_ended(own)
        with suppress(FetchError):  # else the next run collects them
            collect(state)

    stack.callback(give_back)
    return own
