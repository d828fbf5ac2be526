"""Connection pool: grants slots per host and in total, and applies the pauses that hosts ask for.

Slots go to the earliest file of the manifest first. Few files are therefore open at a time, and each
finishes soon. At the end of a run, the last files share all slots equally. This gives the effect of work
stealing without a protocol for it.
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
from .byte_rate import ByteRate
from .controller import LOOK, Controller, HostReport
from .host import Connection, Host
from .limit import START, ConcurrencyLimit
from .streams import Streams
from .throughput import FIRST_PART, Throughput
from .wait_queue import Turn

# Upper bound of the total number of connections when `limits.connections` is "auto".
_AUTO: Final = 128
# Bytes that one connection may hold at full speed, in this process and in the libraries below.
_MEMORY: Final = 3 << 19


def most_connections(limits: Limits) -> int:
    """Return the largest total number of connections.

    Args:
        limits: Settings. With `connections` = "auto", the number is what fits into `memory` bytes.
    """
    if limits.connections == "auto":
        return max(1, min(_AUTO, limits.memory // _MEMORY))
    return limits.connections


def _nobody(_: events.Event) -> None:
    pass


class ConnectionPool:
    """Grants slots: a budget for all connections, a concurrency limit per host, and pauses per host.

    Args:
        limits: Limits on connections, memory (bytes), byte rate and requests per second.
        retry: Delays of the circuit breakers.
        observe: Receives LimitChanged, HostDown and HostBack events.
        profiles: `host:port` → measured settings of the host, from `bench --save`.
        share: Initial connections per host if this process is one of several workers. The parent then
            sets each host's limit with `assign`; this process does not measure.
        most: Upper bound of open connections, in addition to `limits`.
        yields: Lower a host's limit after a refusal, until the next `assign`. Only used with `share`.

    Attributes:
        total: Largest number of open connections.
        per_host: Largest number of open connections to one host.
        rate: The byte rate of all connections together. Readers wait for it; `received` charges it.
        last_files: Whether all files of the manifest have been started.
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
        self._steers = limits.connections == "auto" and share is None  # otherwise the limits are fixed
        self._timer: asyncio.TimerHandle | None = None
        self._limits, self._profiles = limits, profiles or {}
        self._retry = retry or Retry()
        self._observe = observe
        self._hosts: dict[str, Host] = {}
        self._open = 0
        self._numbers = itertools.count()
        self.rate = ByteRate(limits.rate)
        self.last_files = False

    @property
    def open(self) -> int:
        """Number of slots that are held now."""
        return self._open

    def connection(self, host: str, order: int) -> Connection:
        """Return a context that holds one slot for `host`.

        Args:
            host: `host:port`.
            order: Position of the file in the manifest. Among waiting requests the smallest goes first.
        """
        return Connection(self._enter, self._leave, self._room(host), order)

    async def _enter(self, room: Host, order: int) -> None:
        """Wait for a slot of the host `room` and take it.

        Args:
            room: State of the host.
            order: Position of the file in the manifest.
        """
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
                self._leave(room, order)
            raise

    def _leave(self, room: Host, order: int) -> None:
        """Release a slot that `_enter` took, with the same arguments."""
        probed, room.probing = room.probing, False
        room.open -= 1
        room.queue.left(order)
        self._open -= 1
        self._admit(sys.maxsize if probed else 1)

    def _admit(self, most: int = sys.maxsize) -> None:
        """Grant slots to waiting requests as far as the limits allow, but at most `most` slots."""
        most = min(most, self.total - self._open)
        now = asyncio.get_running_loop().time() if most > 0 else 0.0
        while most > 0 and (room := self._next(now)) is not None:
            room.queue.admit(self._turn(room))
            self._opened(room, now)
            most -= 1

    def _next(self, now: float) -> Host | None:
        """Return the host that gets the next slot: the one with the earliest waiting request."""
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
            return Turn.ANYONE  # the earliest file may itself be the reason that the host does not answer
        # A file that is left alone at the end is hashed on one core and written by one thread. Equal shares
        # let the last files end together.
        return Turn.FEWEST if self.last_files else Turn.EARLIEST

    def _room(self, host: str) -> Host:
        if host not in self._hosts:
            known = self._profiles.get(host) if self._steers else None
            start = known.connections if known else START if self._steers else self._share or self.per_host
            steering = Controller(ConcurrencyLimit(self.per_host, start, known=known is not None))
            self._hosts[host] = Host(steering, CircuitBreaker(self._retry))
        return self._hosts[host]

    # ---- measuring, and the concurrency limit of a host

    def streams(self, host: str) -> Streams:
        """Return the connections to `host` that are transferring a body."""
        return self._room(host).streams

    def received(self, host: str, count: int) -> None:
        """Record that a connection to `host` received `count` bytes."""
        self._room(host).steering.received += count
        self.rate.charge(count)

    def refused(self, host: str) -> None:
        """Record that `host` refused a connection, and lower its limit if this process controls it."""
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
        """Set the concurrency limit of `host`, as decided by the parent process.

        Args:
            host: `host:port`.
            connections: The new limit.
            shed: Close the connections above the limit at once.
            number: Sequence number of the assignment, to be reported back.
        """
        room = self._room(host)
        room.level.value, room.assigned = connections, number
        if shed:
            room.streams.shed(room.open - connections)
        self._admit()

    def report(self) -> list[HostReport]:
        """Return the state of every host and reset the counters of received bytes and refusals."""
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
        """Evaluate the limit of every host that has open connections, and schedule the next evaluation."""
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
        """Record that `host` has sent the head of a reply.

        Args:
            host: `host:port`.
            after: Seconds between the request and the head of its reply, None if not measured.
        """
        room = self._room(host)
        if after is not None:
            room.steering.answered(asyncio.get_running_loop().time(), after)
        room.probing = False
        if room.outage.answered():
            room.quiet_until = 0.0
            self._observe(events.HostBack(host))
            self._admit()

    def silent(self, host: str) -> bool:
        """Record that `host` did not answer a connection.

        Args:
            host: `host:port`.

        Returns:
            True during an outage. Failed attempts do not count against a file then.
        """
        now = asyncio.get_running_loop().time()
        room = self._room(host)
        if room.streams and not room.outage.down:
            self.refused(host)  # the host serves other connections, so this one exceeded its limit
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
        """Return whether `host` has not answered for so long that no further request is sent to it."""
        return host in self._hosts and self._hosts[host].outage.dead

    def cool(self, host: str, seconds: float) -> None:
        """Grant no slot for `host` for `seconds` seconds. Open connections continue."""
        room = self._room(host)
        self._quiet(room, asyncio.get_running_loop().time() + seconds)

    def _quiet(self, room: Host, until: float) -> None:
        if until > room.quiet_until:
            room.quiet_until = until
            asyncio.get_running_loop().call_at(until + 0.001, self._admit)

    def throughput(self, host: str) -> Throughput:
        """Return the throughput of single connections to `host`."""
        return self._room(host).pace

    def worth(self, host: str) -> float:
        """Return the seconds of transfer that justify a further request to `host` at the end of a run."""
        return self._room(host).steering.worth

    def idle(self, host: str) -> bool:
        """Return whether a slot of `host` is free and no request waits for one."""
        now = asyncio.get_running_loop().time()
        if self._open >= self.total or self._next(now) is not None:
            return False
        room = self._room(host)
        return room.open < room.level.value and room.quiet_until <= now and room.queue.first is None

    def part_size(self, host: str, free: int | None = None, order: int = 0) -> int:
        """Return the size in bytes of the next part from `host`.

        Args:
            host: `host:port`.
            free: Bytes of the file that no request has taken yet, None if not known.
            order: Position of the file in the manifest.
        """
        if self._limits.part_size != "auto":
            return self._limits.part_size
        room, known = self._hosts.get(host), self._profiles.get(host)
        if room is None or room.pace.value is None:
            return known.part_size if known else FIRST_PART
        others = not self.last_files and room.queue.has_others(order)
        return room.pace.part_size(free, room.level.value, None if others else 2 * room.steering.worth)
