"""Connection pool: grants slots per host and in total, and applies the pauses that hosts ask for.

The first few files of the manifest get one slot each, and further slots go to the earliest of them. Few files
are therefore open at a time, and each finishes soon. At the end of a run, the last files share all slots
equally. This gives the effect of work stealing without a protocol for it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Final

from ..model import events
from ..model.errors import HostDownError, Unreachable, UnreachableError
from ..model.profile import Profile
from ..model.settings import HostLimits, Limits
from .byte_rate import ByteRate
from .controller import LOOK, HostReport
from .host import Connection, Host
from .hosts import Hosts
from .limit import START
from .processor import Load, Processor, Times
from .throughput import FIRST_PART
from .totals import most_connections, per_host
from .wait_queue import Turn
from .waiting_hosts import WaitingHosts
from .waits import Waits

# Connections to hosts that have not answered yet, beside the total when `limits.connections` is "auto".
CONNECTING: Final = 256
# Connections that each host may have, however many hosts are in use.
LEAST_SHARE: Final = 4
# Seconds of a pause after which the requests of a host give back their places.
_LONG_PAUSE: Final = 1.0


class ConnectionPool:
    """Grants slots: a budget for all connections, a concurrency limit per host, and pauses per host.

    It may be used in one event loop after another, if no slot is held between them.

    Connections to hosts that have not answered yet have a budget of their own, because they may bring
    nothing for as long as a timeout lasts.

    Args:
        limits: Limits on connections, memory (bytes), byte rate and requests per second.
        observe: Receives LimitChanged events.
        profiles: `host:port` → measured settings of the host, from `bench --save`.
        share: Initial connections per host if this process is one of several workers. The parent then
            sets each host's limit with `assign`; this process does not measure.
        most: Upper bound of open connections, in addition to `limits`.
        yields: Lower a host's limit after a refusal, until the next `assign`. Only used with `share`.
        hosts: Name of a host → limits of its own.
        connecting: Upper bound of connections to hosts that have not answered, in addition to `limits`.
        times: Returns the processor times. Where the processor is the limit, no host gets more connections.

    Attributes:
        total: Largest number of open connections.
        per_host: Largest number of open connections to one host.
        most: Largest number that `total` may be changed to.
        named: Returns the `host:port` of each port that a host has, or may have; see `Hosts.named`.
        rate: The byte rate of all connections together. Readers wait for it; `received` charges it.
        waits: What the connections wait for.
        last_files: Whether all files of the manifest have been started.
    """

    def __init__(
        self,
        limits: Limits,
        observe: events.Observer = lambda _: None,
        profiles: Mapping[str, Profile] | None = None,
        share: int | None = None,
        most: int | None = None,
        *,
        yields: bool = False,
        hosts: Mapping[str, HostLimits] | None = None,
        times: Callable[[], Times] | None = None,
        connecting: int | None = None,
    ) -> None:
        self.most = most or sys.maxsize
        self.total = min(most_connections(limits), self.most)
        self.per_host = per_host(limits, self.total)
        self._yields, self._share = yields, share
        self._controls = limits.connections == "auto" and share is None  # otherwise the limits are fixed
        self._connecting_at_most = min(CONNECTING, connecting or CONNECTING)
        self._allow(self.total, is_fixed=limits.connections != "auto")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limits = limits
        self._observe = observe
        self._hosts = Hosts(limits, profiles or {}, self.per_host, share, hosts or {})
        self.named = self._hosts.named
        self._waiting = WaitingHosts()
        self._open = self._connecting = 0
        self._times, self._processor, self._numbers = times, Processor(), itertools.count()
        self.rate, self.waits = ByteRate(limits.rate), Waits()
        self.last_files = False

    def _allow(self, total: int, *, is_fixed: bool) -> None:
        """Set the number of connections. One that the user chose holds for all hosts, also for new ones."""
        self.total, self._is_fixed = total, is_fixed
        # a quarter is kept for hosts that answer
        self._most_connecting = total - total // 4 if is_fixed else self._connecting_at_most

    def resize(
        self, total: int, *, is_fixed: bool, most_open: int | None = None, parts: int | None = None
    ) -> None:
        """Change the number of connections. With a fixed total of 0, no slot is granted until the next call.

        Args:
            total: Largest number of open connections.
            is_fixed: Whether it holds for all hosts, also for those that have not answered yet.
            most_open: Transfers are closed until at most this many connections are open; None for none.
            parts: Number of processes on other machines, and this one, that share what the settings allow for
                one host; None for no change.
        """
        if parts is not None:
            self._hosts.divide(parts)
        self._allow(total, is_fixed=is_fixed)
        if total and self._share is None:
            self.per_host = per_host(self._limits, total, self._hosts.parts)
            self._hosts.resize(self.per_host)
        if most_open is not None:
            excess = self.open - most_open
            for state in list(self._hosts.in_use):
                excess -= state.streams.shed(excess)
        for state in self._hosts.all():
            self._waiting.update(state)
        self._admit()

    @property
    def open(self) -> int:
        """Number of slots that are held now."""
        return self._open + self._connecting

    def connection(self, host: str, order: int) -> Connection:
        """Return a context that holds one slot for `host`.

        Args:
            host: `host:port`.
            order: Position of the file in the manifest. Among waiting requests the smallest goes first.
        """
        return Connection(self._enter, self._leave, host, order)

    async def _enter(self, name: str, order: int) -> Host:
        """Wait for a slot of a host and take it.

        Args:
            name: `host:port`.
            order: Position of the file in the manifest.

        Returns:
            The state of the host, which is not forgotten while it has slots or requests that wait.

        Raises:
            HostDownError: The host is down, and another connection probes it.
            HostPausedError: The host asked for a pause that is not over soon.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        state, now = self.host(name), loop.time()
        if state.breaker.down and state.probe is not None:
            raise state.down_error()
        if state.paused_until - now > _LONG_PAUSE:
            raise state.paused_error()
        if state.queue.first is None and self._has_room(state) and state.may(now, self._fair_share):
            state.queue.pass_by(order)
            self._opened(state, order, now)
            return state
        ticket = state.queue.join(order, next(self._numbers))
        self._waiting.join(state)
        self._admit()
        if ticket.done() and not ticket.exception():
            return state
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and not ticket.exception():
                self._leave(state, order)
            raise
        return state

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule in `loop` what the event loop before was to do; it has ended, and all slots are free."""
        self._loop, self._timer = loop, None
        for state in self._hosts.all():
            state.back = None
            if state.quiet_until > loop.time():
                loop.call_at(state.quiet_until + 0.001, self._wake, state)

    def _leave(self, state: Host, order: int) -> None:
        """Release a slot of the host that `_enter` returned."""
        if state.probe == order:
            state.probe = None
        state.open -= 1
        self.waits.open.add(-1)
        if state.connecting:
            state.connecting -= 1
            self._connecting -= 1
        else:
            self._open -= 1
        state.queue.left(order)
        if not state.open:
            self._hosts.rest(state)
        self._wake(state)

    def _wake(self, state: Host) -> None:
        """Grant slots after something has changed for `state`."""
        if self._waiting:
            self._waiting.update(state)
            self._admit()

    def _admit(self) -> None:
        """Grant slots to waiting requests as far as the limits allow."""
        now = asyncio.get_running_loop().time()
        for are_new in (False, True):
            while (state := self._waiting.first(now, self._fair_share, new=are_new)) is not None:
                if not self._has_room(state):
                    break
                self._opened(state, state.queue.admit(self._turn(state)), now)
                self._waiting.update(state)

    @property
    def _fair_share(self) -> int:
        """Connections that one host may have, so that the hosts in use share the total."""
        return max(LEAST_SHARE, self.total // (len(self._hosts.serving) or 1))

    def _has_room(self, state: Host) -> bool:
        """Return whether one more connection to a host is within the budget."""
        if state.breaker.is_new and self._hosts.others_in_use(state):
            if self._connecting >= self._most_connecting:
                return False
            if not self._is_fixed:
                return True
        return self._open + (self._connecting if self._is_fixed or state.breaker.is_new else 0) < self.total

    def _opened(self, state: Host, order: int, now: float) -> None:
        state.open += 1
        self.waits.open.add(1)
        if state.breaker.is_new:
            state.connecting += 1
            self._connecting += 1
        else:
            self._open += 1
        if state.breaker.down:
            state.probe = order
        self._hosts.use(state)
        self._look_later(now)
        if state.interval:
            self._quiet(state, now + state.interval)

    def _turn(self, state: Host) -> Turn:
        if state.breaker.down:
            return Turn.ANYONE  # the earliest file may itself be the reason that the host does not answer
        # A file that is left alone at the end is hashed on one core and written by one thread. Equal shares
        # let the last files end together.
        return Turn.FEWEST if self.last_files else Turn.EARLIEST

    def host(self, name: str) -> Host:
        """Return the state of the host `name`, `host:port`."""
        return self._hosts.get(name)

    # ---- measuring, and the concurrency limit of a host

    def received(self, state: Host, count: int) -> None:
        """Record that a connection to a host received `count` bytes."""
        state.controller.received += count
        self.rate.charge(count)

    def refused(self, host: str) -> None:
        """Record that `host` refused a connection, and lower its limit if this process controls it."""
        state = self.host(host)
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
        state = self.host(host)
        state.limit.value, state.assigned = connections, number
        if shed and not self.rate.slows():
            state.streams.shed(state.open - connections)
        self._wake(state)

    def report(self) -> list[HostReport]:
        """Return the state of each host that has changed since the last report, and reset its counters."""
        return [found for state in self._hosts.all() if (found := state.report()) is not None]

    def _look_later(self, now: float) -> None:
        if self._controls and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(now + LOOK, self._look)

    def _look(self) -> None:
        """Evaluate the limit of every host that has open connections, and schedule the next evaluation."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        load = Load.LOW if self._times is None else self._processor.load(self._times())
        for state in list(self._hosts.in_use):
            if self.rate.slows():
                state.controller.skip(now)
            else:
                why = state.controller.look(now, state.open, len(state.streams), load=load)
                self._changed(state.name, state, why)
        if self._hosts.in_use:
            self._look_later(now)

    def _changed(self, host: str, state: Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, state.limit.value, why))
            if state.limit.shed:
                state.streams.shed(state.open - state.limit.value)
            self._wake(state)

    def answered(self, state: Host, after: float | None = None) -> None:
        """Record that a host has sent the head of a reply.

        Args:
            state: The state of the host.
            after: Seconds between the request and the head of its reply, None if not measured.
        """
        if after is not None:
            state.controller.answered(asyncio.get_running_loop().time(), after)
        was_new = state.breaker.is_new
        if state.breaker.answered():
            self._observe(events.HostBack(state.name))
            if state.back is not None:
                state.back.set_result(None)
                state.back = None
        if was_new:
            self._settle(state)

    def _settle(self, state: Host) -> None:
        """Count the connections to a host that has answered as connections that bring bytes."""
        self._open += state.connecting
        self._connecting -= state.connecting
        state.connecting = 0
        self._hosts.settle(state)
        self._wake(state)

    def silent(self, host: str, error: UnreachableError) -> HostDownError | None:
        """Record that `host` did not answer a connection.

        Args:
            host: `host:port`.
            error: Why it did not.

        Returns:
            The error to raise if the host is down now; None if the attempt counts against the file.
        """
        state = self.host(host)
        if state.streams and not state.breaker.down and error.why is not Unreachable.CERTIFICATE:
            self.refused(host)  # the host serves other connections, so this one exceeded its limit
            return None
        if not state.breaker.silent(error):
            return None
        self._hosts.settle(state)
        state.queue.send_away(state.down_error)
        return state.down_error(tried=True)

    def limit(self, host: str) -> int:
        """Return the number of connections that `host` may have now."""
        state = self._hosts.known(host)
        return state.limit.value if state is not None else min(START, self.per_host)

    def pause(self, host: str) -> float:
        """Return the seconds of a pause for which `host` asked, 0 for none or a short one."""
        state = self._hosts.known(host)
        if state is None or not state.paused_until:
            return 0.0
        left = state.paused_until - asyncio.get_running_loop().time()
        return left if left > _LONG_PAUSE else 0.0

    def cool(self, host: str, seconds: float, *, sheds: bool = False) -> None:
        """Grant no slot for `host` for `seconds` seconds. Open connections continue unless `sheds`.

        Requests that wait for a slot raise HostPausedError if the pause is long.
        """
        state = self.host(host)
        state.streams.shed(len(state.streams) if sheds else 0)
        now = asyncio.get_running_loop().time()
        state.paused_until = max(state.paused_until, now + seconds)
        self._quiet(state, now + seconds)
        if seconds > _LONG_PAUSE:
            state.queue.send_away(state.paused_error)

    def _quiet(self, state: Host, until: float) -> None:
        if until > state.quiet_until:
            state.quiet_until = until
            asyncio.get_running_loop().call_at(until + 0.001, self._wake, state)

    def idle(self, host: str | None = None) -> bool:
        """Return whether a slot is free, no request waits for one, and it would add to the rate.

        Args:
            host: `host:port`; None if a slot of each host in use has to be free.
        """
        if self.rate.slows():
            return False
        now = asyncio.get_running_loop().time()
        if self.open >= self.total or self._waiting.first(now, self._fair_share) is not None:
            return False
        states = self._hosts.in_use if host is None else (self.host(host),)
        return all(
            state.open < state.limit.value and state.quiet_until <= now and state.queue.first is None
            for state in states
        )

    def part_size(self, host: str, free: int | None = None, order: int = 0) -> int:
        """Return the size in bytes of the next part from `host`.

        Args:
            host: `host:port`.
            free: Bytes of the file that no request has taken yet, None if not known.
            order: Position of the file in the manifest.
        """
        state = self._hosts.known(host)
        widest = state.manners.width(order) if state else self._hosts.widest(host)
        return min(self._part_size(state, host, free, order), widest or sys.maxsize)

    def _part_size(self, state: Host | None, host: str, free: int | None, order: int) -> int:
        if self._limits.part_size != "auto":
            return self._limits.part_size
        known = self._hosts.measured(host)
        if known and known.keeps_parts:
            return known.part_size
        first = known.part_size if known else FIRST_PART
        # of the last files, all connections share the rest even before a measurement: on a slow link a large
        # part would take longer than everything else
        if state is None or (state.throughput.value is None and not self.last_files):
            return first
        others = not self.last_files and state.queue.has_others(order)
        worth = None if others else 2 * state.controller.worth
        return state.throughput.part_size(free, state.limit.value, worth, first)
