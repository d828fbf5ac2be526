"""One budget for each host, shared by the workers as they can use it. Awaits nothing and opens nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..connections.controller import Controller, HostReport
from ..connections.limit import START, ConcurrencyLimit
from ..model import events
from ..model.profile import Profile
from .messages import Assign


@dataclass(slots=True)
class _Host:
    steering: Controller
    shares: list[int]
    most: list[int]  # what each may have open by now: a share that is lowered holds until it says so
    open: list[int]
    demand: list[int]
    streaming: list[int]
    sent: list[int]  # how often each was told its share


class Budget:
    """How many connections each of `workers` may have to a host.

    `total`: connections of all hosts; `per_host`: never more to one, all workers together. `steers`: the
    number is found; else `per_host` it is.
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
    ) -> None:
        self._workers, self._total, self._per_host, self._steers = workers, total, per_host, steers
        self._observe, self._profiles = observe, profiles
        self._hosts: dict[str, _Host] = {}

    @property
    def first_share(self) -> int:
        """Connections to a host with which each worker begins."""
        return max(1, (min(START, self._per_host) if self._steers else self._per_host) // self._workers)

    def reported(self, worker: int, reports: Sequence[HostReport], now: float) -> None:
        """A worker has said how it does; a host that it does not name it does not use."""
        named = {report.host: report for report in reports}
        for host in {*self._hosts, *named}:
            room, report = self._room(host), named.get(host)
            if report is None:
                room.open[worker] = room.demand[worker] = room.streaming[worker] = 0
                continue
            room.open[worker], room.streaming[worker] = report.open, report.streaming
            room.demand[worker] = report.open + report.waiting
            # what was told and is still on its way may yet be taken up
            late = report.assigned != room.sent[worker]
            room.most[worker] = max(report.open, report.share, room.most[worker] if late else 0)
            if not late:
                room.shares[worker] = min(room.shares[worker], report.share)  # less, where it was refused
            room.steering.received += report.received
            room.steering.latency = max(room.steering.latency * 0.9, report.latency)
            if report.refused and self._steers:
                # those that were refused are gone by now, and nothing was opened in their place
                why = room.steering.refused(now, sum(room.open), streaming=any(room.streaming))
                self._changed(host, room, why)

    def gone(self, worker: int) -> None:
        """A worker has died, with all its connections."""
        for room in self._hosts.values():
            room.open[worker] = room.demand[worker] = room.streaming[worker] = 0
            room.shares[worker] = room.most[worker] = room.sent[worker] = 0

    def begun(self, worker: int) -> list[Assign]:
        """What a worker is told that begins in mid-run: the connections are with the others, and what may
        have been promised to the one before it went to nobody."""
        self.gone(worker)
        return [Assign(host, 0, False, 0) for host in self._hosts]

    def look(self, now: float) -> list[tuple[int, Assign]]:
        """A moment has passed: what to tell which worker."""
        told: list[tuple[int, Assign]] = []
        used = [room for room in self._hosts.values() if any(room.demand)]
        # the budget of all hosts together is the smaller one where many are used at once
        crowded = sum(room.steering.level.value for room in used) > self._total
        most = max(1, self._total // len(used)) if crowded else self._total
        for host, room in self._hosts.items():
            if self._steers and any(room.open):
                self._changed(host, room, room.steering.look(now, sum(room.open), sum(room.streaming)))
            shed, level = room.steering.level.shed, min(room.steering.level.value, most)
            for worker, share in enumerate(shared(level, room.demand, room.most, room.shares)):
                if share != room.shares[worker] or (shed and room.open[worker] > share):
                    room.shares[worker] = share
                    room.most[worker] = max(room.most[worker], share)
                    room.sent[worker] += 1
                    told.append((worker, Assign(host, share, shed, room.sent[worker])))
        return told

    def _changed(self, host: str, room: _Host, why: str | None) -> None:
        if why is not None:
            self._observe(events.LimitChanged(host, room.steering.level.value, why))

    def _room(self, host: str) -> _Host:
        if host not in self._hosts:
            known = self._profiles.get(host) if self._steers else None
            start = known.connections if known else START if self._steers else self._per_host
            steering = Controller(ConcurrencyLimit(self._per_host, start, known=known is not None))
            none = [0] * self._workers
            first = [self.first_share] * self._workers
            self._hosts[host] = _Host(steering, first, [*first], [*none], [*none], [*none], [*none])
        return self._hosts[host]


def shared(level: int, demand: Sequence[int], busy: Sequence[int], shares: Sequence[int]) -> list[int]:
    """The share of each worker: by demand, what is to spare evenly; never more than `level` in all,
    counting what is still open (`busy`) where a share has just been lowered."""
    targets = [0] * len(demand)
    for _ in range(level):
        hungry = [n for n in range(len(demand)) if targets[n] < demand[n]] or range(len(demand))
        targets[min(hungry, key=lambda n: targets[n])] += 1
    found = [min(target, share) for target, share in zip(targets, shares, strict=True)]
    free = level - sum(max(share, used) for share, used in zip(found, busy, strict=True))
    for number in range(len(found)):
        # what was promised and is not used yet is taken back where the level has sunk
        less = max(0, min(found[number] - busy[number], -free))
        found[number] -= less
        free += less
    for number, target in enumerate(targets):
        more = min(target - max(found[number], busy[number]), free)
        if more > 0:
            found[number] = max(found[number], busy[number]) + more
            free -= more
    return found
