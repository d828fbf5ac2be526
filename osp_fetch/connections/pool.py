"""The pool: who may have a connection now.

Connections go to the earliest file first. So few files are open at a time, each finishes soon, and at
the tail the last files take every connection, in equal shares: work stealing without a stealing protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Mapping
from typing import Final

from ..model import events
from ..model.events import Observer
from ..model.profile import Profile
from ..model.settings import Limits, Retry
from .breaker import CircuitBreaker
from .controller import LOOK, Controller, HostReport
from .host import Connection, Host
from .limit import START, ConcurrencyLimit
from .streams import Stream, Streams
from .throughput import FIRST_PART
from .wait_queue import Turn

_AUTO: Final = 128
_MEMORY: Final = 3 << 19  # bytes that a connection may hold at full speed, here and in what lies below


def most_connections(limits: Limits) -> int:
    """How many connections there may be in all; auto takes as many as fit in the memory allowed."""
    if limits.connections == "auto":
        return max(1, min(_AUTO, limits.memory // _MEMORY))
    return limits.connections


def _nobody(_: events.Event) -> None:
    pass


class ConnectionPool:
    """One budget for all connections, one for each host, and the pauses that hosts ask for.

    `profiles`: `host:port` → what was learnt of it. `most`: more connections cannot be open. `share`: this
    process is one of several, and is told how many connections each host has (`assign`); with so many it
    begins. `yields`: and where a host refuses one, it keeps to what is left until it is told again.
    """

    def __init__(
        self,
        limits: Limits,
        retry: Retry | None = None,
        observe: Observer = _nobody,
        profiles: Mapping[str, Profile] | None = None,
        share: int | None = None,
        most: int | None = None,
        *,
        yields: bool = False,
    ) -> None:
        self.total = min(most_connections(limits), most or sys.maxsize)
        self.per_host = min(self.total, self.total if limits.per_host == "auto" else limits.per_host)
        self._share, self._yields = share, yields
        self._steers = limits.connections == "auto" and share is None  # else a number is kept
        self._timer: asyncio.TimerHandle | None = None
        self._limits, self._profiles = limits, profiles or {}
        self._retry = retry or Retry()
        self._observe = observe
        self._hosts: dict[str, Host] = {}
        self._open = 0
        self._numbers = itertools.count()
        self._bytes_due = 0.0
        self.last_files = False  # all files have been begun

    @property
    def open(self) -> int:
        """How many connections are held now."""
        return self._open

    def connection(self, host: str, order: int) -> Connection:
        """Hold one connection to `host` while the context is open; among those who wait the smallest
        `order` goes first."""
        return Connection(self.enter, self.leave, self._room(host), order)

    async def enter(self, room: Host, order: int) -> None:
        """Return when one more connection of `room` is allowed, and counted."""
        now = asyncio.get_running_loop().time()
        if room.queue.first is None and self._open < self.total and room.may(now):
            room.queue.pass_by(order)
            self._opened(room, now)
            return
        ticket = room.queue.join(order, next(self._numbers))
        self._admit()
        if ticket.done():
            return
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self.leave(room, order)
            raise

    def leave(self, room: Host, order: int) -> None:
        probed, room.probing = room.probing, False
        room.open -= 1
        room.queue.left(order)
        self._open -= 1
        self._admit(sys.maxsize if probed else 1)

    def _admit(self, most: int = sys.maxsize) -> None:
        """Give connections to those who wait, as far as they may have some, but to no more than `most`."""
        most = min(most, self.total - self._open)
        now = asyncio.get_running_loop().time() if most > 0 else 0.0
        while most > 0 and (room := self._next(now)) is not None:
            room.queue.admit(self._turn(room))
            self._opened(room, now)
            most -= 1

    def _next(self, now: float) -> Host | None:
        """The host that gets the next connection: of those that may have one, where the earliest waits."""
        found: tuple[tuple[int, int], Host] | None = None
        for room in self._hosts.values():
            if room.may(now) and (place := room.queue.first) and (found is None or place < found[0]):
                found = place, room
        return found[1] if found else None

    def _opened(self, room: Host, now: float) -> None:
        room.open += 1
        room.probing = room.outage.down
        self._look_later(now)
        self._open += 1
        if self._limits.requests_per_second:
            self._quiet(room, now + 1 / self._limits.requests_per_second)

    def _turn(self, room: Host) -> Turn:
        if room.outage.down:
            return Turn.ANYONE  # the earliest may be what is wrong
        # one file alone, at the end, would be hashed on one core and written by one thread at a time
        return Turn.FEWEST if self.last_files else Turn.EARLIEST

    def _room(self, host: str) -> Host:
        if host not in self._hosts:
            known = self._profiles.get(host) if self._steers else None
            start = known.connections if known else START if self._steers else self._share or self.per_host
            steering = Controller(ConcurrencyLimit(self.per_host, start, known=known is not None))
            self._hosts[host] = Host(steering, CircuitBreaker(self._retry))
        return self._hosts[host]

    # how many connections a host should have

    def streaming(self, host: str, name: str) -> Stream:
        """While a connection to `host` brings bytes of the file `name`; raises YieldedError where there are
        too many, and they do harm."""
        return self._room(host).streams.stream(lambda: f"{name}: {host} does better with fewer connections")

    def streams(self, host: str) -> Streams:
        """The connections to `host` that bring bytes."""
        return self._room(host).streams

    def received(self, host: str, count: int) -> None:
        """One of its connections brought `count` bytes."""
        self._room(host).steering.received += count

    def refused(self, host: str) -> None:
        """`host` has turned a connection away."""
        room = self._room(host)
        room.refused += 1
        if self._steers:
            now = asyncio.get_running_loop().time()
            why = room.steering.refused(now, room.open - 1, streaming=len(room.streams) > 0)
            self._changed(host, room, why)
        elif self._yields:
            left = room.open - 1 if room.streams else room.level.value // 2
            room.level.value = min(room.level.value, max(1, left))

    def assign(self, host: str, connections: int, *, shed: bool, number: int) -> None:
        """From now on `host` gets so many; `shed`: those above are let go at once. `number`: of this word,
        to be reported."""
        room = self._room(host)
        room.level.value, room.assigned = connections, number
        if shed:
            room.streams.shed(room.open - connections)
        self._admit()

    def report(self) -> list[HostReport]:
        """Every host, and what has come since the last report."""
        reports = []
        for host, room in self._hosts.items():
            waiting = len(room.queue)
            steering = room.steering
            reports.append(
                HostReport(
                    host, room.open, len(room.streams), waiting, steering.received, room.refused,
                    room.level.value, steering.latency, room.assigned,
                )
            )  # fmt: skip
            steering.received = room.refused = 0
        return reports

    def _look_later(self, now: float) -> None:
        if self._steers and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(now + LOOK, self._look)

    def _look(self) -> None:
        """A moment has passed: what have the levels brought?"""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for host, room in self._hosts.items():
            if room.open:
                self._changed(host, room, room.steering.look(now, room.open, len(room.streams)))
        if self._open:
            self._look_later(now)

    def _changed(self, host: str, room: Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, room.level.value, why))
            if room.level.shed:
                room.streams.shed(room.open - room.level.value)
            self._admit()

    def answered(self, host: str, after: float | None = None) -> None:
        """`host` has sent the head of a reply, `after` so many seconds."""
        room = self._room(host)
        if after is not None:
            room.steering.answered(asyncio.get_running_loop().time(), after)
        room.probing = False
        if room.outage.answered():
            room.quiet_until = 0.0
            self._observe(events.HostBack(host))
            self._admit()

    def silent(self, host: str) -> bool:
        """`host` has not answered: whether that is an outage, in which nothing counts as a failure."""
        now = asyncio.get_running_loop().time()
        room = self._room(host)
        if room.streams and not room.outage.down:
            self.refused(host)  # it brings bytes to others: this one was too many
            return False
        pause = room.outage.silent(now, paused=room.quiet_until > now)
        if room.outage.dead:
            room.quiet_until = 0.0
            self._admit()
        elif pause is not None:
            self._observe(events.HostDown(host, pause))
            self._quiet(room, now + pause)
        return room.outage.down

    def dead(self, host: str) -> bool:
        """Whether `host` has been silent for so long that nothing more is asked of it."""
        return host in self._hosts and self._hosts[host].outage.dead

    def cool(self, host: str, seconds: float) -> None:
        """Open nothing more to `host` for so many seconds; what is open goes on."""
        room = self._room(host)
        self._quiet(room, asyncio.get_running_loop().time() + seconds)

    def _quiet(self, room: Host, until: float) -> None:
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
        self._room(host).pace.measured(count, seconds)

    def worth(self, host: str) -> float:
        """Seconds of fetching that are worth a request to `host` of their own, at the end of a run."""
        return self._room(host).steering.worth

    def pace(self, host: str) -> float | None:
        """Bytes per second that one connection to `host` makes; None while that is not known."""
        return self._hosts[host].pace.value if host in self._hosts else None

    def idle(self, host: str) -> bool:
        """Whether a connection to `host` is free that nobody waits for."""
        now = asyncio.get_running_loop().time()
        if self._open >= self.total or self._next(now) is not None:
            return False
        room = self._room(host)
        return room.open < room.level.value and room.quiet_until <= now and room.queue.first is None

    def lagging(self, host: str, pace: float) -> bool:
        """Whether `pace` is a tenth of what connections to `host` make in the median, or less."""
        return self._room(host).pace.lagging(pace)

    def part_size(self, host: str, free: int | None = None, order: int = 0) -> int:
        """How many bytes the next part from `host` should have, of a file of which `free` are fetched by
        nobody. `order`: whose part it is."""
        if self._limits.part_size != "auto":
            return self._limits.part_size
        room, known = self._hosts.get(host), self._profiles.get(host)
        if room is None or room.pace.value is None:
            return known.part_size if known else FIRST_PART
        others = not self.last_files and room.queue.has_others(order)
        return room.pace.part_size(free, room.level.value, None if others else 2 * room.steering.worth)
