"""The division of each host's concurrency limit among the workers of a run. No I/O, and no clock."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..connections.controller import Controller, HostReport
from ..connections.limit import START, ConcurrencyLimit
from ..connections.pool import LEAST_SHARE
from ..model import events
from ..model.dataclasses import dataclass
from ..model.profile import Profile
from ..model.quantities import Auto
from .limits import part_of
from .messages import Assign

OWN: Final = 1 << 40
"""Number of the process of the run, whose pages tell the workers what to fetch. It is served before them."""
# Seconds for which an idle connection of a node is counted as open: the transport keeps it for 2 s.
_IDLE: Final = 2.5
# Hosts without shares whose limits are remembered, at about 1.5 KB each.
_HOSTS_KEPT: Final = 10_000
# Hosts that one look adjusts. That takes about 0.2 s of processor time, in which nothing else is done.
_HOSTS_AT_ONCE: Final = 2_000


@dataclass(slots=True)
class _Share:
    """What one worker has of a host.

    Attributes:
        share: connections that it may have.
        most: connections that it may have open, never less than `share`: a lowered share counts only once it
            has confirmed it.
        open: connections that it has open.
        demand: connections that it has open or waits for.
        streaming: connections over which bytes come.
        sent: number of the last assignment that was sent to it.
        falls_at: when `most` sinks to what it has confirmed, None if it has not confirmed less.
        idle_at: since when it demands no connections, None if it does.
    """

    share: int = 0
    most: int = 0
    open: int = 0
    demand: int = 0
    streaming: int = 0
    sent: int = 0
    falls_at: float | None = None
    idle_at: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the worker has nothing of the host, and asks for nothing."""
        return not (self.most or self.open or self.demand)


@dataclass(slots=True)
class _Host:
    """The state of one host: its controller, and the shares of the workers that use it.

    Attributes:
        taken: connections that workers may have open, the sum of `most` of their shares.
    """

    controller: Controller
    shares: dict[int, _Share]
    taken: int = 0

    @property
    def open(self) -> int:
        return sum(each.open for each in self.shares.values())

    @property
    def free(self) -> int:
        """Connections of the limit that no worker has or may have."""
        return self.controller.limit.value - self.taken

    def of(self, worker: int) -> _Share:
        """Return the share of a worker, an empty one if it has none yet."""
        mine = self.shares.get(worker)
        if mine is None:
            mine = self.shares[worker] = _Share()
        return mine

    def take(self, mine: _Share, most: int) -> None:
        """Change the number of connections that a worker may have open."""
        self.taken += most - mine.most
        mine.most = most

    def drop(self, worker: int) -> None:
        """Forget the share of a worker, which has no connections any more."""
        if (mine := self.shares.pop(worker, None)) is not None:
            self.taken -= mine.most

    @property
    def is_wanted(self) -> bool:
        """Whether any worker has connections to it open, or waits for one."""
        return any(each.demand for each in self.shares.values())


class Budget:
    """The number of connections that each worker may have to each host.

    Args:
        workers: Number of workers that begin with a share of every host, numbered from 0.
        total: Most connections to all hosts, of all workers together.
        per_host: Most connections to one host, of all workers together.
        observe: Receives a `LimitChanged` event whenever the limit of a host changes.
        profiles: `host:port` → what an earlier run learned of the host.
        steers: Whether a controller finds the limit of each host; otherwise it is `per_host`.
        own: Returns the most connections to one host, "auto" if it has no limit of its own.
    """

    def __init__(
        self,
        workers: int,
        total: int,
        per_host: int,
        observe: events.Observer,
        profiles: Mapping[str, Profile],
        *,
        steers: bool,
        own: Callable[[str], int | Auto] = lambda _: "auto",
    ) -> None:
        self._workers, self.total, self.per_host, self._controls = workers, total, per_host, steers
        self._observe, self._profiles, self._own = observe, profiles, own
        self._hosts: dict[str, _Host] = {}
        self._unused: dict[str, None] = {}  # hosts without shares, the one that was used last at the end
        self._wanted: set[str] = set()  # hosts for which any worker has demand
        self._present: set[int] = set()
        self._turn: list[str] = []  # hosts that are still to be looked at in this round
        self._numbers = itertools.count(1)  # of assignments

    @property
    def first_share(self) -> int:
        """Connections to a host with which each of the first workers starts."""
        return max(1, (min(START, self.per_host) if self._controls else self.per_host) // self._workers)

    def resize(self, total: int, per_host: int) -> None:
        """Change the numbers of connections of all workers together.

        Args:
            total: Most connections to all hosts.
            per_host: Most connections to one host.
        """
        self.total, self.per_host = total, per_host
        for host, state in self._hosts.items():
            state.controller.limit.resize(self._most(host), follows=not self._controls)

    def reported(self, worker: int, reports: Sequence[HostReport], now: float) -> None:
        """Take the report of a worker.

        Args:
            worker: The worker's number, from 0.
            reports: One report for each host of which something has changed since the worker's last one.
            now: Seconds of a monotonic clock.
        """
        for report in reports:
            host, state = report.host, self._host(report.host)
            mine = state.of(worker)
            mine.open, mine.streaming = report.open, report.streaming
            mine.demand = report.open + report.waiting
            if mine.demand:
                mine.idle_at = None
                self._wanted.add(host)
            elif mine.idle_at is None:
                mine.idle_at = now if mine.share else -math.inf
                self._drop_unwanted(host)
            # the worker may yet use an assignment that it has not received
            late = report.assigned != mine.sent
            most = max(report.open, report.share, mine.most if late else 0)
            if worker >= self._workers and most < mine.most:
                # idle connections of a node count at the host until the node closes them
                mine.falls_at = mine.falls_at or now + _IDLE
                most = mine.most if now < mine.falls_at else most
            state.take(mine, most)
            if most <= max(report.open, report.share):
                mine.falls_at = None
            if not late:
                # a worker lowers its share itself when a host refuses a connection
                mine.share = min(mine.share, report.share)
            state.controller.received += report.received
            state.controller.latency = max(state.controller.latency * 0.9, report.latency)
            if report.refused and self._controls:
                # the refused connections are closed by now, and none was opened in their place
                streaming = any(each.streaming for each in state.shares.values())
                why = state.controller.refused(now, state.open, streaming=streaming)
                self._changed(host, state, why)

    def gone(self, worker: int) -> None:
        """Take the connections and the shares of a worker that has died.

        Args:
            worker: The worker's number, from 0.
        """
        for host, state in self._hosts.items():
            if worker in state.shares:
                state.drop(worker)
                if worker < self._workers:
                    state.shares[worker] = _Share()
                self._drop_unwanted(host)
        self._present.discard(worker)

    def lost(self, worker: int) -> None:
        """Take no more demand of a worker that does not answer, but leave it what it may have open.

        Its connections may live on. `gone` gives them to others, once that is no longer possible.

        Args:
            worker: The worker's number.
        """
        for host, state in self._hosts.items():
            if (mine := state.shares.get(worker)) is not None:
                mine.share = mine.open = mine.demand = mine.streaming = 0
                mine.falls_at = None  # `most` holds until it has gone
                self._drop_unwanted(host)
        self._present.discard(worker)

    def joined(self, worker: int) -> None:
        """Count a worker that comes later, and has no connections until `grant` or `look` gives it some.

        Args:
            worker: The worker's number, which no other worker has had.
        """
        self._present.add(worker)

    def grant(self, worker: int, host: str) -> Assign | None:
        """Return the first connections of a worker to a host, so that a job for it need not wait for `look`.

        Args:
            worker: The number of a worker that has joined.
            host: `host:port`.

        Returns:
            An assignment; None if the worker has connections to the host or has left, or there is none left.
        """
        if not self._is_there(worker):
            return None
        state = self._host(host)
        mine = state.of(worker)
        if mine.most:
            return None
        count = min(max(1, START // max(1, len(self._present))), state.free)
        return self._assign(state, mine, host, count, shed=False) if count > 0 else None

    def begun(self, worker: int) -> list[Assign]:
        """Return the first assignments of a worker that starts during the run in place of another.

        It starts without connections, because the other workers have them. Assignments to its predecessor
        are void.

        Args:
            worker: The worker's number, from 0.

        Returns:
            One assignment of 0 connections for each known host.
        """
        self.gone(worker)
        return [Assign(host, 0, False, 0) for host in self._hosts]

    def look(self, now: float) -> list[tuple[int, Assign]]:
        """Adjust the limits and the shares; to be called every `LOOK` seconds.

        Of more than 2,000 hosts in use, each call adjusts the next 2,000.

        Args:
            now: Seconds of a monotonic clock.

        Returns:
            Pairs of a worker's number and its assignment: for each share that has changed, and for each
            worker that has more connections open than its share while the host's limit sheds them.
        """
        assignments: list[tuple[int, Assign]] = []
        # where many hosts are in use, the total is smaller than the sum of their limits: divide it evenly
        crowded = sum([self._hosts[host].controller.limit.value for host in self._wanted]) > self.total
        most = max(LEAST_SHARE, self.total // len(self._wanted)) if crowded else self.total
        for host in self._due():
            state = self._hosts[host]
            for mine in state.shares.values():
                if mine.falls_at is not None and now >= mine.falls_at:
                    state.take(mine, max(mine.open, mine.share))
                    mine.falls_at = None
            if self._controls and (is_open := state.open):
                streaming = sum(each.streaming for each in state.shares.values())
                self._changed(host, state, state.controller.look(now, is_open, streaming))
            assignments += self._divide(host, state, min(state.controller.limit.value, most), now)
            self._forget_shares(host, state)
        return assignments

    def _due(self) -> list[str]:
        """Return the hosts that are looked at now: all in use, or the next ones of them in turn."""
        if not self._turn:
            self._turn = [host for host in self._hosts if host not in self._unused]
        due, self._turn = self._turn[:_HOSTS_AT_ONCE], self._turn[_HOSTS_AT_ONCE:]
        return [host for host in due if host in self._hosts]

    def _divide(self, host: str, state: _Host, level: int, now: float) -> list[tuple[int, Assign]]:
        """Divide `level` connections to a host, and return the assignments that have changed."""
        shed, found = state.controller.limit.shed, list[tuple[int, Assign]]()
        each, others = list[tuple[int, _Share]](), 0
        for worker, mine in state.shares.items():
            if self._gets(worker, mine, now):
                each.append((worker, mine))
                continue
            others += mine.most
            if mine.share and self._is_there(worker):
                found.append((worker, self._assign(state, mine, host, 0, shed=shed)))
        if OWN in state.shares:
            each.sort(key=lambda one: one[0] != OWN)
        wanted = shared(
            max(0, level - others),
            [s.demand for _, s in each],
            [s.most for _, s in each],
            [s.share for _, s in each],
        )
        for (worker, mine), share in zip(each, wanted, strict=True):
            if share != mine.share or (shed and mine.open > share):
                found.append((worker, self._assign(state, mine, host, share, shed=shed)))
        return found

    def _assign(self, state: _Host, mine: _Share, host: str, count: int, *, shed: bool) -> Assign:
        """Change a share, and return the assignment. `most` sinks once the worker has replied."""
        state.take(mine, max(mine.most, count))
        mine.share, mine.sent = count, next(self._numbers)
        mine.falls_at = None  # that was about the assignment before
        return Assign(host, count, shed, mine.sent)

    def _gets(self, worker: int, mine: _Share, now: float) -> bool:
        """Return whether a worker takes part in the division of a host.

        The first workers always do. A node does while it has work for the host: of thousands of hosts, each
        node would else have a share of each, and a part of the limit that it does not use.
        """
        if worker < self._workers:
            return True
        return worker in self._present and (mine.idle_at is None or now - mine.idle_at < _IDLE)

    def _forget_shares(self, host: str, state: _Host) -> None:
        """Forget nodes that have nothing of a host, and hosts of which no node has anything, beyond some."""
        empty = [worker for worker, mine in state.shares.items() if worker >= self._workers and mine.is_empty]
        for worker in empty:
            state.drop(worker)
        if state.shares:
            return
        self._unused[host] = None
        if len(self._unused) > _HOSTS_KEPT:
            oldest = next(iter(self._unused))
            del self._unused[oldest], self._hosts[oldest]

    def _drop_unwanted(self, host: str) -> None:
        if host in self._wanted and not self._hosts[host].is_wanted:
            self._wanted.remove(host)

    def _is_there(self, worker: int) -> bool:
        return worker < self._workers or worker in self._present

    def _changed(self, host: str, state: _Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, state.controller.limit.value, why))

    def _most(self, host: str) -> int:
        own = self._own(host)
        return self.per_host if own == "auto" else min(self.per_host, own)

    def _host(self, host: str) -> _Host:
        if host not in self._hosts:
            known = self._profiles.get(host) if self._controls else None
            own, most = self._own(host), self._most(host)
            start = known.connections if known else START if self._controls else most
            controller = Controller(ConcurrencyLimit(most, start, known=known is not None))
            shares: dict[int, _Share] = {}
            for worker in range(self._workers):
                part = self.first_share
                if own != "auto":
                    part = min(part, part_of(own, worker, self._workers))
                shares[worker] = _Share(part, part)
            self._hosts[host] = _Host(controller, shares, sum(each.most for each in shares.values()))
        self._unused.pop(host, None)
        return self._hosts[host]


def _targets(level: int, demand: Sequence[int]) -> list[int]:
    """Return what each worker should have: as even as its demand allows, and what is left evenly, too."""
    if sum(demand) <= level:
        targets, left = list(demand), level - sum(demand)
        ceilings = [level + 1] * len(demand)
    else:
        targets, left, ceilings = [0] * len(demand), level, list(demand)
    while left and targets:
        # raise the lowest to the next height, all by the same number, or the first ones by one
        lowest = min(target for target, most in zip(targets, ceilings, strict=True) if target < most)
        low = [n for n, target in enumerate(targets) if target == lowest < ceilings[n]]
        above = [target for target in targets if target > lowest]
        height = min([ceilings[n] for n in low] + above) - lowest
        rise = min(height, left // len(low))
        for n in low if rise else low[:left]:
            targets[n] += max(rise, 1)
            left -= max(rise, 1)
    return targets


def shared(level: int, demand: Sequence[int], busy: Sequence[int], shares: Sequence[int]) -> list[int]:
    """Return the share of each worker.

    The shares follow the demand; connections that no worker demands are divided evenly. The sum of what the
    workers may have open never exceeds `level`: a share that was just lowered still counts as `busy`.

    Args:
        level: Connections to divide, the concurrency limit of the host.
        demand: Connections that each worker has open or waits for.
        busy: Connections that each worker may have open.
        shares: The present share of each worker.

    Returns:
        The new share of each worker.
    """
    targets = _targets(level, demand)
    found = [min(target, share) for target, share in zip(targets, shares, strict=True)]
    free = level - sum(max(share, used) for share, used in zip(found, busy, strict=True))
    for number in range(len(found)):
        # after the limit has sunk, take back what was assigned and is not used yet
        less = max(0, min(found[number] - busy[number], -free))
        found[number] -= less
        free += less
    for number, target in enumerate(targets):
        more = min(target - max(found[number], busy[number]), free)
        if more > 0:
            found[number] = max(found[number], busy[number]) + more
            free -= more
    return found
