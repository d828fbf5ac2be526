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
        self._controls = limits.connections == "auto" and share is None  # otherwise the limits are fixed
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
        return Connection(self._enter, self._leave, self._host(host), order)

    async def _enter(self, state: Host, order: int) -> None:
        """Wait for a slot of the host `state` and take it.

        Args:
            state: State of the host.
            order: Position of the file in the manifest.
        """
        now = asyncio.get_running_loop().time()
        if state.queue.first is None and self._open < self.total and state.may(now):
            state.queue.pass_by(order)
            self._opened(state, now)
            return
        ticket = state.queue.join(order, next(self._numbers))
        self._admit()
        if ticket.done():
            return
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._leave(state, order)
            raise

    def _leave(self, state: Host, order: int) -> None:
        """Release a slot that `_enter` took, with the same arguments."""
        probed, state.probing = state.probing, False
        state.open -= 1
        state.queue.left(order)
        self._open -= 1
        self._admit(sys.maxsize if probed else 1)

    def _admit(self, most: int = sys.maxsize) -> None:
        """Grant slots to waiting requests as far as the limits allow, but at most `most` slots."""
        most = min(most, self.total - self._open)
        now = asyncio.get_running_loop().time() if most > 0 else 0.0
        while most > 0 and (state := self._next(now)) is not None:
            state.queue.admit(self._turn(state))
            self._opened(state, now)
            most -= 1

    def _next(self, now: float) -> Host | None:
        """Return the host that gets the next slot: the one with the earliest waiting request."""
        found: tuple[tuple[int, int], Host] | None = None
        for state in self._hosts.values():
            if state.may(now) and (place := state.queue.first) and (found is None or place < found[0]):
                found = place, state
        return found[1] if found else None

    def _opened(self, state: Host, now: float) -> None:
        state.open += 1
        state.probing = state.breaker.down
        self._look_later(now)
        self._open += 1
        if self._limits.requests_per_second:
            self._quiet(state, now + 1 / self._limits.requests_per_second)

    def _turn(self, state: Host) -> Turn:
        if state.breaker.down:
            return Turn.ANYONE  # the earliest file may itself be the reason that the host does not answer
        # A file that is left alone at the end is hashed on one core and written by one thread. Equal shares
        # let the last files end together.
        return Turn.FEWEST if self.last_files else Turn.EARLIEST

    def _host(self, host: str) -> Host:
        if host not in self._hosts:
            known = self._measured(host) if self._controls else None
            start = known.connections if known else START if self._controls else self._share or self.per_host
            controller = Controller(ConcurrencyLimit(self.per_host, start, known=known is not None))
            self._hosts[host] = Host(controller, CircuitBreaker(self._retry))
            self._hosts[host].manners.widest = self._profiles[host].widest if host in self._profiles else None
        return self._hosts[host]

    def _measured(self, host: str) -> Profile | None:
        """Return the profile that `bench` made of `host`; a run alone learns only which ranges it takes."""
        profile = self._profiles.get(host)
        return profile if profile and profile.bytes_per_second else None

    # ---- measuring, and the concurrency limit of a host

    def streams(self, host: str) -> Streams:
        """Return the connections to `host` that are transferring a body."""
        return self._host(host).streams

    def received(self, host: str, count: int) -> None:
        """Record that a connection to `host` received `count` bytes."""
        self._host(host).controller.received += count
        self.rate.charge(count)

    def refused(self, host: str) -> None:
        """Record that `host` refused a connection, and lower its limit if this process controls it."""
        state = self._host(host)
        state.refused += 1
        if self._controls:
            now = asyncio.get_running_loop().time()
            why = state.controller.refused(now, state.open - 1, streaming=len(state.streams) > 0)
            self._changed(host, state, why)
        elif self._yields:
            left = state.open - 1 if state.streams else state.limit.value // 2
            state.limit.value = min(state.limit.value, max(1, left))

    def assign(self, host: str, connections: int, *, shed: bool, number: int) -> None:
        """Set the concurrency limit of `host`, as decided by the parent process.

        Args:
            host: `host:port`.
            connections: The new limit.
            shed: Close the connections above the limit at once.
            number: Sequence number of the assignment, to be reported back.
        """
        state = self._host(host)
        state.limit.value, state.assigned = connections, number
        if shed and not self.rate.slows():
            state.streams.shed(state.open - connections)
        self._admit()

    def report(self) -> list[HostReport]:
        """Return the state of every host and reset the counters of received bytes and refusals."""
        reports = []
        for host, state in self._hosts.items():
            waiting = len(state.queue)
            controller = state.controller
            reports.append(
                HostReport(
                    host, state.open, len(state.streams), waiting, controller.received, state.refused,
                    state.limit.value, controller.latency, state.assigned,
                )
            )  # fmt: skip
            controller.received = state.refused = 0
        return reports

    def _look_later(self, now: float) -> None:
        if self._controls and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(now + LOOK, self._look)

    def _look(self) -> None:
        """Evaluate the limit of every host that has open connections, and schedule the next evaluation."""
        self._timer = None
        now, slowed = asyncio.get_running_loop().time(), self.rate.slows()
        for host, state in self._hosts.items():
            if slowed:
                state.controller.skip(now)
            elif state.open:
                self._changed(host, state, state.controller.look(now, state.open, len(state.streams)))
        if self._open:
            self._look_later(now)

    def _changed(self, host: str, state: Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, state.limit.value, why))
            if state.limit.shed:
                state.streams.shed(state.open - state.limit.value)
            self._admit()

    def answered(self, host: str, after: float | None = None) -> None:
        """Record that `host` has sent the head of a reply.

        Args:
            host: `host:port`.
            after: Seconds between the request and the head of its reply, None if not measured.
        """
        state = self._host(host)
        if after is not None:
            state.controller.answered(asyncio.get_running_loop().time(), after)
        state.probing = False
        if state.breaker.answered():
            state.quiet_until = 0.0
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
        state = self._host(host)
        if state.streams and not state.breaker.down:
            self.refused(host)  # the host serves other connections, so this one exceeded its limit
            return False
        pause = state.breaker.silent(now, paused=state.quiet_until > now)
        if state.breaker.dead:
            state.quiet_until = 0.0
            self._admit()
        elif pause is not None:
            self._observe(events.HostDown(host, pause))
            self._quiet(state, now + pause)
        return state.breaker.down

    def dead(self, host: str) -> bool:
        """Return whether `host` has not answered for so long that no further request is sent to it."""
        return host in self._hosts and self._hosts[host].breaker.dead

    def cool(self, host: str, seconds: float) -> None:
        """Grant no slot for `host` for `seconds` seconds. Open connections continue."""
        state = self._host(host)
        self._quiet(state, asyncio.get_running_loop().time() + seconds)

    def _quiet(self, state: Host, until: float) -> None:
        if until > state.quiet_until:
            state.quiet_until = until
            asyncio.get_running_loop().call_at(until + 0.001, self._admit)

    def throughput(self, host: str) -> Throughput:
        """Return the throughput of single connections to `host`."""
        return self._host(host).throughput

    def worth(self, host: str) -> float:
        """Return the seconds of transfer that justify a further request to `host` at the end of a run."""
        return self._host(host).controller.worth

    def idle(self, host: str) -> bool:
        """Return whether a slot of `host` is free, no request waits for one, and it would add to the rate."""
        if self.rate.slows():
            return False
        now = asyncio.get_running_loop().time()
        if self._open >= self.total or self._next(now) is not None:
            return False
        state = self._host(host)
        return state.open < state.limit.value and state.quiet_until <= now and state.queue.first is None

    def part_size(self, host: str, free: int | None = None, order: int = 0) -> int:
        """Return the size in bytes of the next part from `host`.

        Args:
            host: `host:port`.
            free: Bytes of the file that no request has taken yet, None if not known.
            order: Position of the file in the manifest.
        """
        size = self._part_size(host, free, order)
        state = self._hosts.get(host)
        if state is not None and not state.manners.limits and not self._profiles:
            return size  # most hosts take any range
        widest = state.manners.width(order) if state else None
        if widest is None and host in self._profiles:
            widest = self._profiles[host].widest
        return min(size, widest or sys.maxsize)

    def _part_size(self, host: str, free: int | None, order: int) -> int:
        if self._limits.part_size != "auto":
            return self._limits.part_size
        state, known = self._hosts.get(host), self._measured(host)
        if known and known.keeps_parts:
            return known.part_size
        if state is None or state.throughput.value is None:
            return known.part_size if known else FIRST_PART
        others = not self.last_files and state.queue.has_others(order)
        return state.throughput.part_size(
            free, state.limit.value, None if others else 2 * state.controller.worth
        )
