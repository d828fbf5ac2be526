"""The division of each host's concurrency limit among the workers of a run. No I/O, and no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..connections.controller import Controller, HostReport
from ..connections.limit import START, ConcurrencyLimit
from ..connections.pool import LEAST_SHARE
from ..model import events
from ..model.profile import Profile
from ..model.settings import Auto
from .messages import Assign


def part_of(number: int, worker: int, workers: int) -> int:
    """Return the part of one worker if a number of connections is divided among `workers` of them."""
    return number // workers + (worker < number % workers)


@dataclass(slots=True)
class _Host:
    """The state of one host. The lists have one number for each worker."""

    controller: Controller
    shares: list[int]
    most: list[int]  # what it may have open: a lowered share counts only once the worker has confirmed it
    open: list[int]
    demand: list[int]
    streaming: list[int]
    sent: list[int]  # assignments sent to it


class Budget:
    """The number of connections that each worker may have to each host.

    Args:
        workers: Number of workers.
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
        self._workers, self._total, self._per_host, self._controls = workers, total, per_host, steers
        self._observe, self._profiles, self._own = observe, profiles, own
        self._hosts: dict[str, _Host] = {}

    @property
    def first_share(self) -> int:
        """Connections to a host with which each worker starts."""
        return max(1, (min(START, self._per_host) if self._controls else self._per_host) // self._workers)

    def resize(self, total: int, per_host: int) -> None:
        """Change the numbers of connections of all workers together.

        Args:
            total: Most connections to all hosts.
            per_host: Most connections to one host.
        """
        self._total, self._per_host = total, per_host
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
            state.open[worker], state.streaming[worker] = report.open, report.streaming
            state.demand[worker] = report.open + report.waiting
            # the worker may yet use an assignment that it has not received
            late = report.assigned != state.sent[worker]
            state.most[worker] = max(report.open, report.share, state.most[worker] if late else 0)
            if not late:
                # a worker lowers its share itself when a host refuses a connection
                state.shares[worker] = min(state.shares[worker], report.share)
            state.controller.received += report.received
            state.controller.latency = max(state.controller.latency * 0.9, report.latency)
            if report.refused and self._controls:
                # the refused connections are closed by now, and none was opened in their place
                why = state.controller.refused(now, sum(state.open), streaming=any(state.streaming))
                self._changed(host, state, why)

    def gone(self, worker: int) -> None:
        """Take the connections and the shares of a worker that has died.

        Args:
            worker: The worker's number, from 0.
        """
        for state in self._hosts.values():
            state.open[worker] = state.demand[worker] = state.streaming[worker] = 0
            state.shares[worker] = state.most[worker] = state.sent[worker] = 0

    def begun(self, worker: int) -> list[Assign]:
        """Return the first assignments of a worker that starts during the run.

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

        Args:
            now: Seconds of a monotonic clock.

        Returns:
            Pairs of a worker's number and its assignment: for each share that has changed, and for each
            worker that has more connections open than its share while the host's limit sheds them.
        """
        assignments: list[tuple[int, Assign]] = []
        used = [state for state in self._hosts.values() if any(state.demand)]
        # where many hosts are in use, the total is smaller than the sum of their limits: divide it evenly
        crowded = sum(state.controller.limit.value for state in used) > self._total
        most = max(LEAST_SHARE, self._total // len(used)) if crowded else self._total
        for host, state in self._hosts.items():
            if self._controls and any(state.open):
                self._changed(
                    host,
                    state,
                    state.controller.look(now, sum(state.open), sum(state.streaming)),
                )
            shed, level = state.controller.limit.shed, min(state.controller.limit.value, most)
            for worker, share in enumerate(shared(level, state.demand, state.most, state.shares)):
                if share != state.shares[worker] or (shed and state.open[worker] > share):
                    state.shares[worker] = share
                    state.most[worker] = max(state.most[worker], share)
                    state.sent[worker] += 1
                    assignments.append((worker, Assign(host, share, shed, state.sent[worker])))
        return assignments

    def _changed(self, host: str, state: _Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, state.controller.limit.value, why))

    def _most(self, host: str) -> int:
        own = self._own(host)
        return self._per_host if own == "auto" else min(self._per_host, own)

    def _host(self, host: str) -> _Host:
        if host not in self._hosts:
            known = self._profiles.get(host) if self._controls else None
            own, most = self._own(host), self._most(host)
            start = known.connections if known else START if self._controls else most
            controller = Controller(ConcurrencyLimit(most, start, known=known is not None))
            none = [0] * self._workers
            first = [self.first_share] * self._workers
            if own != "auto":
                parts = (part_of(own, worker, self._workers) for worker in range(self._workers))
                first = [min(self.first_share, part) for part in parts]
            self._hosts[host] = _Host(controller, first, [*first], [*none], [*none], [*none], [*none])
        return self._hosts[host]


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
    targets = [0] * len(demand)
    for _ in range(level):
        hungry = [n for n in range(len(demand)) if targets[n] < demand[n]] or range(len(demand))
        targets[min(hungry, key=lambda n: targets[n])] += 1
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
