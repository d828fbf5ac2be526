"""Totals: sums of a run that only grow, in memory that does not grow with the manifest.

A `Board` knows the state of a run; `Totals` adds what it gave and cost: bytes by host, failures by cause,
what was fetched twice, and waits. Metrics and the history of a run are made of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, ClassVar, Final

from ..model import events
from ..model.dataclasses import dataclass
from ..model.report import Outcome, Status

OTHER: Final = "other"
"""The name under which everything is added up that has none of its own."""
_NAMED: Final = 50  # hosts, and causes, that are counted by name
_HOSTS_KEPT: Final = 10_000  # hosts of which is remembered that they are down


class Named(dict[str, float]):
    """Sums by name with a bound: names beyond the first ones are added up under `OTHER`.

    A name keeps what it has, so that no sum ever falls.

    Args:
        most: number of names.
    """

    def __init__(self, most: int = _NAMED) -> None:
        super().__init__()
        self._most = most

    def add(self, name: str, count: float = 1) -> None:
        """Add `count` under `name`, or under `OTHER`."""
        known = self.get(name)
        if known is None and len(self) - (OTHER in self) >= self._most:
            name, known = OTHER, self.get(OTHER)
        self[name] = (known or 0) + count


@dataclass(slots=True)
class Totals:
    """An observer that adds up what a run gave and cost.

    Attributes:
        hosts: host → bytes that were received from it and written.
        failures: cause → files that failed or are parked.
        proofs: what proved a file → number of files; see `proof_of`.
        fetched: bytes of the files that were fetched.
        lost: bytes that were held, discarded, and fetched again.
        adopted: bytes of files that were there without a record.
        pauses: host → seconds for which servers asked for a pause.
        retries: cause → requests that were repeated.
        delays: cause → seconds of the pauses before retries.
        waits: times that a file has waited for disk space.
        renewed: files that got fresh links.
        parked: files that wait for fresh links now.
        workers: worker processes that run.
        deaths: worker processes that died.
        down: hosts that do not answer now.
    """

    hosts: Named = field(default_factory=Named)
    failures: Named = field(default_factory=Named)
    proofs: Named = field(default_factory=Named)
    fetched: int = 0
    lost: int = 0
    adopted: int = 0
    pauses: Named = field(default_factory=Named)
    retries: Named = field(default_factory=Named)
    delays: Named = field(default_factory=Named)
    waits: int = 0
    renewed: int = 0
    parked: int = 0
    workers: int = 0
    deaths: int = 0
    down: set[str] = field(default_factory=set)
    passes_over: ClassVar = frozenset({events.Opened, events.Closed, events.FileBegun})
    handlers: ClassVar[Mapping[type[events.Event], Callable[[Any, Any], None]]]  # see `Fanout`

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        handler = self.handlers.get(type(event))
        if handler is not None:
            handler(self, event)

    def _wrote(self, event: events.Wrote) -> None:
        self.hosts.add(event.host or OTHER, event.count)

    def _finished(self, event: events.Finished) -> None:
        outcome = event.outcome
        if outcome.error is not None:
            self.failures.add(outcome.error.cause)
        elif outcome.status is Status.FETCHED:
            self.fetched += outcome.size or 0
            self.proofs.add(proof_of(outcome))

    def _retrying(self, event: events.Retrying) -> None:
        self.retries.add(event.cause)
        self.delays.add(event.cause, event.delay)

    def _host_down(self, event: events.HostDown) -> None:
        if len(self.down) < _HOSTS_KEPT:
            self.down.add(event.host)

    def _rare(self, event: events.Event) -> None:
        match event:
            case events.Lost(_, count):
                self.lost += count
            case events.Cooling(host, seconds, _):
                self.pauses.add(host, seconds)
            case events.HostBack(host):
                self.down.discard(host)
            case events.Adopted(_, count, _):
                self.adopted += count
            case events.Parked(files):
                self.parked = files
            case events.LinksRenewed(files):
                self.renewed += files
                self.parked = max(0, self.parked - files)
            case events.DiskWaiting():
                self.waits += 1
            case events.WorkerStarted():
                self.workers += 1
            case events.WorkerDied():
                self.workers -= 1
                self.deaths += 1

    def by_host(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return `counts`, by host, with hosts that have no name of their own under `OTHER`."""
        found = dict.fromkeys(self.hosts, 0)
        for host, count in counts.items():
            name = host if host in self.hosts else OTHER
            found[name] = found.get(name, 0) + count
        return found


def proof_of(outcome: Outcome) -> str:
    """Return what proved that a fetched file is right.

    Returns:
        The algorithm of a digest in the manifest, such as `sha256`; "size" if the manifest states only that;
        else "length", as the server stated it.
    """
    entry = outcome.entry
    if entry is not None and entry.digest is not None:
        return entry.digest.algorithm
    return "size" if entry is not None and entry.size is not None else "length"


# By type: matching one pattern after another would take twice as long as all of the work of a small file.
Totals.handlers = {
    events.Wrote: Totals._wrote,
    events.Finished: Totals._finished,
    events.Retrying: Totals._retrying,
    events.HostDown: Totals._host_down,
    **dict.fromkeys(
        (
            events.Lost, events.Cooling, events.HostBack, events.Adopted, events.Parked, events.LinksRenewed,
            events.DiskWaiting, events.WorkerStarted, events.WorkerDied,
        ),
        Totals._rare,
    ),
}  # fmt: skip
