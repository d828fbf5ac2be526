"""The gate: who may have a connection now.

Connections go to the earliest file first. So few files are open at a time, each finishes soon, and at
the tail the last files take every connection: work stealing without a stealing protocol.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from ..model.settings import Limits

AUTO_CONNECTIONS: Final = 64
AUTO_PER_HOST: Final = 16
_MIB: Final = 1 << 20
_FIRST_PART: Final = 8 * _MIB  # while no connection of the host has been measured
_PART_SECONDS: Final = 4.0
_MEMORY: Final = 0.3  # how fast the measured pace forgets: about the last three parts count


@dataclass(slots=True)
class _Host:
    open: int = 0
    quiet_until: float = 0.0
    pace: float | None = None  # bytes per second of one connection
    waiting: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)


class Gate:
    """One budget for all connections, one for each host, and the pauses that hosts ask for."""

    def __init__(self, limits: Limits) -> None:
        self.total = AUTO_CONNECTIONS if limits.connections == "auto" else limits.connections
        given = limits.connections if limits.connections != "auto" else AUTO_PER_HOST
        self.per_host = min(self.total, given if limits.per_host == "auto" else limits.per_host)
        self._limits = limits
        self._hosts: dict[str, _Host] = {}
        self._open = 0
        self._numbers = itertools.count()
        self._bytes_due = 0.0

    @asynccontextmanager
    async def connection(self, host: str, order: int) -> AsyncIterator[None]:
        """Hold one connection to `host`; among those who wait the smallest `order` goes first."""
        room = self._hosts.setdefault(host, _Host())
        ticket = asyncio.get_running_loop().create_future()
        heapq.heappush(room.waiting, (order, next(self._numbers), ticket))
        self._admit()
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._leave(room)
            raise
        try:
            yield
        finally:
            self._leave(room)

    def _leave(self, room: _Host) -> None:
        room.open -= 1
        self._open -= 1
        self._admit()

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._open < self.total:
            ready = [r for r in self._hosts.values() if self._may(r, now)]
            if not ready:
                return
            room = min(ready, key=lambda r: r.waiting[0][:2])
            ticket = heapq.heappop(room.waiting)[2]
            room.open += 1
            self._open += 1
            if self._limits.requests_per_second:
                self._quiet(room, now + 1 / self._limits.requests_per_second)
            ticket.set_result(None)

    def _may(self, room: _Host, now: float) -> bool:
        while room.waiting and room.waiting[0][2].done():  # cancelled while it waited
            heapq.heappop(room.waiting)
        return bool(room.waiting) and room.open < self.per_host and room.quiet_until <= now

    def cool(self, host: str, seconds: float) -> None:
        """Open nothing more to `host` for so many seconds; what is open goes on."""
        room = self._hosts.setdefault(host, _Host())
        self._quiet(room, asyncio.get_running_loop().time() + seconds)

    def _quiet(self, room: _Host, until: float) -> None:
        if until > room.quiet_until:
            room.quiet_until = until
            asyncio.get_running_loop().call_at(until + 0.001, self._admit)

    async def spend(self, count: int) -> None:
        """Wait until `count` more bytes fit under the byte rate."""
        if not self._limits.rate:
            return
        now = asyncio.get_running_loop().time()
        # a quarter of a second of silence may be made up for, no more: bursts hurt shared links
        self._bytes_due = max(self._bytes_due, now - 0.25) + count / self._limits.rate
        if self._bytes_due > now:
            await asyncio.sleep(self._bytes_due - now)

    def measured(self, host: str, count: int, seconds: float) -> None:
        """One connection brought `count` bytes in so many seconds."""
        if count < _MIB // 4 or seconds <= 0:
            return
        room = self._hosts.setdefault(host, _Host())
        pace = count / seconds
        room.pace = pace if room.pace is None else room.pace + _MEMORY * (pace - room.pace)

    def part_size(self, host: str) -> int:
        """How many bytes the next part from `host` should have."""
        if self._limits.part_size != "auto":
            return self._limits.part_size
        pace = self._hosts[host].pace if host in self._hosts else None
        if pace is None:
            return _FIRST_PART
        return int(min(max(pace * _PART_SECONDS, 4 * _MIB), 64 * _MIB)) // _MIB * _MIB
