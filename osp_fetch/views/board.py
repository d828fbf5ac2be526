"""Board: the state of a run, added up from its events. Every view draws from a Board."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Final

from ..model import events
from ..model.dataclasses import dataclass
from ..model.report import JSON_VERSION, Outcome, Report, Status
from . import formatting
from .bottleneck import Bottleneck, Facts
from .few import Few
from .file_line import FileLine
from .host_facts import HostFacts
from .nodes import Nodes

# Seconds over which the displayed rate is averaged.
_WINDOW: Final = 15.0
# Largest number of changes by commands that are remembered.
_CHANGES: Final = 20
# Seconds without a byte, while connections are open, that are a stall. Bytes are counted once a second.
_STALL: Final = 5.0


@dataclass(slots=True)
class Board:
    """Counts, rates and the files in progress of a run.

    A Board is an observer: pass it the events of a run in order. It can be read at any time.

    Attributes:
        clock: Monotonic clock in seconds.
        wall: Wall clock in Unix seconds.
        rows: Rows of the manifest that have been read.
        rows_final: Whether all rows have been read.
        expected: Rows of the manifest, as a plan has counted them before; 0 if none has.
        sized: Rows with a known size, from the manifest or from the server.
        sizeless: Rows that ended without a known size.
        stated: Bytes of the sized rows.
        done: Bytes held or published.
        received: Bytes received over the network in this run.
        counts: Status → number of files that ended with it.
        files: Path → file in progress.
        connections: Open connections.
        at_hosts: `host:port` → open connections, of hosts that have any.
        levels: `host:port` → (concurrency limit, reason for its last change).
        retries: Cause → number of retries.
        failures: Cause → number of files that failed or are parked.
        expires: Unix seconds when the first link expires, None if unknown.
        expiring: Bytes of unfinished files whose links expire; None if that is not known.
        set_aside: The user's files that were moved out of the way.
        decoded: Files that came compressed.
        sampled: Files that were there, and of which only samples were compared.
        last_trouble: The most recent problem, in words.
        stopping: Why the run is being stopped, empty if it is not.
        steered: The last change by a command, None if there was none.
        changes: When the last changes by commands were made, in Unix seconds, and what they were.
        nodes: The nodes of a cluster; empty for a run of one machine.
        report: The report, once the run has ended.
        destination: The output folder, or the address of a bucket.
        limited: Cause of a bottleneck → seconds for which it limited the run.
        patience: Seconds without a byte after which a connection is given up; 0 if that is not known.
    """

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    rows: int = 0
    rows_final: bool = False
    expected: int = 0
    sized: int = 0
    sizeless: int = 0
    stated: int = 0
    done: int = 0
    received: int = 0
    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    files: dict[str, FileLine] = field(default_factory=dict)
    connections: int = 0
    at_hosts: Counter[str] = field(default_factory=Counter)
    levels: dict[str, tuple[int, str]] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    expires: float | None = None
    expiring: int | None = 0
    set_aside: Few[events.SetAside] = field(default_factory=Few)
    decoded: Few[events.Decoded] = field(default_factory=Few)
    _decoding: dict[str, events.Decoded] = field(default_factory=dict)
    sampled: Few[str] = field(default_factory=Few)
    widths: dict[str, int] = field(default_factory=dict)
    last_trouble: str = ""
    stopping: str = ""
    steered: events.Steered | None = None
    changes: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_CHANGES))
    nodes: Nodes = field(default_factory=Nodes)
    report: Report | None = None
    handlers: ClassVar[Mapping[type[events.Event], Callable[[Any, Any], None]]]  # see `Fanout`
    destination: str = ""
    patience: float = 0.0
    limited: dict[str, float] = field(init=False)
    _host_facts: HostFacts = field(init=False)
    _begun: float = 0.0
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)  # time, bytes, files that ended
    _came: float = 0.0  # when the last bytes came, or when no connection was open

    def __post_init__(self) -> None:
        self._begin()
        self._host_facts = HostFacts(self.clock)
        self.limited = self._host_facts.seconds

    def _begin(self) -> None:
        """Count seconds from now on: a list may be read for long before the run."""
        if self.received:
            return
        self._begun = self.clock()
        self._samples.clear()
        # without it, the line view, which first reads the rate after 30 s, would show 0 B/s
        self._samples.append((self._begun, 0, 0))
        self._came = self._begun

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        if (often := self.handlers.get(type(event))) is not None:
            often(self, event)
            return
        self._host_facts(event)
        match event:
            case events.FileBegun():
                self._file_begun(event)
            case events.Lost(path, count):
                self.done -= count
                if path in self.files:
                    self.files[path].held -= count
            case events.RowsRead(rows, sized, count, expires, expiring):
                self.rows += rows
                self.rows_final = False  # a manifest may be added after the end of another one
                self.sized += sized
                self.stated += count
                self.expires = min(filter(None, (self.expires, expires)), default=None)
                self._expiring(expires, expiring)
            case events.LimitChanged(host, connections, why):
                self.levels[host] = (connections, why)
            case events.ManifestEnded():
                self.rows_final = True
            case events.Stopping(why):
                self.stopping = why
            case events.Repeating(outcomes):
                self._repeating(outcomes)
            case events.Steered(what):
                self.steered = event
                self.changes.append((self.wall(), what))
            case events.NodeJoined() | events.NodeLeft() | events.FileAssigned():
                self.nodes.observe(event)
            case events.RunEnded(report):
                self.report = report
            case events.RunStarted(folder, idle):
                self.destination, self.patience = folder, idle
                self._begin()
            case events.Waited():
                self._host_facts.waited(event, self.received)
                if self._host_facts.is_due:
                    self._host_facts.count(self.bottleneck())
            case _:
                self._trouble(event)

    def _trouble(self, event: events.Event) -> None:
        match event:
            case events.Retrying(_, cause, _, message):
                self.retries[cause] += 1
                self.last_trouble = message
            case events.SetAside():
                self.set_aside.add(event)
            case events.Adopted(path, _, "samples"):
                self.sampled.add(path)
            case events.WidthLearned(host, width):
                self.widths[host] = width
            case events.Decoded(path):
                self._decoding[path] = event
            case events.Cooling(host, seconds, why):
                self.last_trouble = f"no new connections to {host} for {seconds:.0f} s: {why}"
            case events.HostDown():
                self.last_trouble = formatting.host_down(event)
            case events.HostBack(host):
                self.last_trouble = f"{host} answers again"
            case events.Parked(files):
                dead = formatting.count(files, "file")
                self.last_trouble = f"{dead} with a dead link: put a fresh link file in place of the old one"
            case events.LinksRenewed(files, expires):
                self.expires = expires or self.expires
                self.last_trouble = formatting.links_renewed(files, expires)
            case events.LinksCommandFailed(why):
                self.last_trouble = why
            case events.DiskWaiting(why):
                self.last_trouble = f"waiting for disk space: {why}"
            case _:
                pass

    def _expiring(self, expires: float | None, expiring: int | None) -> None:
        if expires is not None and self.expiring is not None:
            self.expiring = None if expiring is None else self.expiring + expiring

    def _wrote(self, event: events.Wrote) -> None:
        self.received += event.count
        self._came = self.clock()
        self.done += event.count - event.again
        if line := self.files.get(event.path):
            line.held += event.count - event.again
        if self.nodes.any:
            self.nodes.wrote(event)

    def _opened(self, event: events.Opened) -> None:
        if not self.connections:
            self._came = self.clock()
        self.connections += 1
        self.at_hosts[event.host] += 1
        self._line(event.path).connections += 1
        if self.nodes.any:
            self.nodes.opened(event, 1)

    def _closed(self, event: events.Closed) -> None:
        self.connections -= 1
        self.at_hosts[event.host] -= 1
        if not self.at_hosts[event.host]:
            del self.at_hosts[event.host]
        if line := self.files.get(event.path):
            line.connections -= 1
        if self.nodes.any:
            self.nodes.opened(event, -1)

    def _line(self, path: str) -> FileLine:
        line = self.files.get(path)
        if line is None:
            line = self.files[path] = FileLine(path, None, 0, 0, self.clock())
        return line

    def _file_begun(self, event: events.FileBegun) -> None:
        line = self._line(event.path)
        if line.length is None and event.stated is None and event.length is not None:
            self.stated += event.length
            self.sized += 1
        line.length = event.length
        self.done += event.held - line.held
        line.held = event.held

    def _finished(self, event: events.Finished) -> None:
        outcome = event.outcome
        self.counts[outcome.status] += 1
        if self.nodes.any:
            self.nodes.finished(event)
        if self._decoding and (decoded := self._decoding.pop(outcome.path, None)) and outcome.error is None:
            self.decoded.add(decoded)
        line = self.files.pop(outcome.path, None)
        unknown = outcome.entry is None or outcome.entry.size is None
        if unknown and outcome.status is Status.FAILED and line is not None and line.length is not None:
            # as if its size were not known: it may be fetched again, and is counted then
            self.sized, self.stated = self.sized - 1, self.stated - line.length
            line.length = None
        if unknown and (line is None or line.length is None):
            self.sized += outcome.size is not None
            self.sizeless += outcome.size is None
            self.stated += outcome.size or 0
        if outcome.status is Status.PRESENT:
            self.done += outcome.size or 0
        elif outcome.status is Status.FETCHED and line is not None and outcome.size is not None:
            self.done += outcome.size - line.held  # bytes that came twice, as after a lost worker
        elif outcome.error is not None:
            self.last_trouble = str(outcome.error)
            self.failures[outcome.error.cause] += 1
            if line is not None:
                self.done -= line.held

    def _repeating(self, outcomes: Sequence[Outcome]) -> None:
        """Take back the outcomes of files that are fetched again."""
        for outcome in outcomes:
            self.counts[outcome.status] -= 1
            if outcome.error is not None:
                self.failures[outcome.error.cause] -= 1
            if outcome.entry is None or outcome.entry.size is None:
                self.sized -= outcome.size is not None
                self.sizeless -= outcome.size is None
                self.stated -= outcome.size or 0

    @property
    def finished(self) -> int:
        """Number of files that have ended, with any status."""
        return sum(self.counts.values())

    @property
    def standing(self) -> str:
        """What is paused by a command, in words; empty if nothing is."""
        if self.steered is None:
            return ""
        if self.steered.paused:
            return "paused by command; osp-fetch ctl DIR resume goes on"
        return f"paused by command: {', '.join(self.steered.hosts)}" if self.steered.hosts else ""

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return self.clock() - self._begun

    @property
    def total(self) -> int | None:
        """Bytes of all rows, None if no size is known.

        If some sizes are unknown (see `exact`), this is an estimate from the mean of the known ones.
        """
        unknown = self.all_rows - self.sized - self.sizeless
        if self.sized == 0:
            return None if unknown else self.stated
        return self.stated + unknown * self.stated // self.sized

    @property
    def is_counted(self) -> bool:
        """Whether it is known how many rows there are."""
        return self.rows_final or self.expected > self.rows

    @property
    def all_rows(self) -> int:
        """Number of all rows, as far as it is known."""
        return self.rows if self.rows_final else max(self.rows, self.expected)

    @property
    def exact(self) -> bool:
        """Whether every row has been read and has a known size, so that `total` is exact."""
        return self.rows_final and self.rows == self.sized + self.sizeless

    def rate(self) -> float:
        """Return the mean rate of the last 15 seconds in bytes per second.

        Each call takes a sample, so the method must be called regularly.
        """
        now = self.clock()
        self._samples.append((now, self.received, self.finished))
        # keep one sample from before the window: the line view samples every 30 s, less often than 15 s
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW:
            self._samples.popleft()
        self.nodes.sample(now, _WINDOW)
        then, before, _ = self._samples[0]
        return (self.received - before) / (now - then) if now > then else 0.0

    def files_rate(self) -> float:
        """Return the files that ended a second, over the seconds of `rate`, which takes the samples."""
        (then, _, before), (now, _, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - then) if now > then else 0.0

    @property
    def stalled(self) -> float:
        """Seconds for which connections are open and bring nothing, 0 while that is no stall."""
        if not self.connections or self.report is not None:
            return 0.0
        silent = self.clock() - self._came
        return silent if silent >= _STALL else 0.0

    def eta(self, rate: float) -> float | None:
        """Return the seconds until the end, None while they cannot be estimated.

        Args:
            rate: Bytes per second.
        """
        if not self.is_counted or self.total is None or rate <= 0:
            return None
        # if some sizes are unknown, require three known ones for a usable mean
        return max(0, self.total - self.done) / rate if self.exact or self.sized >= 3 else None

    def bottleneck(self) -> Bottleneck | None:
        """Return what limits the run; None if that is not known, or the run is paused, stalled or ending."""
        if self.standing or self.stopping or self.stalled or self.report is not None:
            return None
        ((host, _),) = self.at_hosts.most_common(1) or (("", 0),)
        facts = Facts(
            None,
            hosts=len(self.at_hosts),
            limit=self.levels[host][0] if host in self.levels else None,
            files_left=self.rows - self.finished if self.rows_final else None,
            is_bucket="://" in self.destination,
        )
        return self._host_facts.find(facts, host)

    def slowest(self, most: int) -> list[FileLine]:
        """Return the files that have been in progress for the longest, oldest first.

        A file that is just being published, with no connection and no held bytes, is skipped; and so is a
        small one that has not been in progress for long.

        Args:
            most: Largest number of files.
        """
        now = self.clock()
        seen = [line for line in self.files.values() if line.is_shown(now - line.since)]
        return sorted(seen, key=lambda line: line.since)[:most]

    def progress(self) -> events.Progress:
        """Return how far the run is."""
        rate = self.rate()
        return events.Progress(self.finished, self.rows, self.done, self.total, rate, self.eta(rate))

    def _control(self) -> dict[str, Any] | None:
        """Return what commands have changed, for `status.json`."""
        if self.steered is None:
            return None
        return {
            "paused": self.steered.paused,
            "paused_hosts": list(self.steered.hosts),
            "rate": self.steered.rate,
            "connections": self.steered.connections,
            "changes": [{"time": round(when, 1), "what": what} for when, what in self.changes],
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the state as a JSON-serializable dict, for `status.json`."""
        rate, found = self.rate(), self.bottleneck()
        return {
            "version": JSON_VERSION,
            "time": round(self.wall(), 1),
            "seconds": round(self.seconds, 1),
            "rows": self.rows,
            "rows_final": self.rows_final,
            "counts": {status.value: n for status, n in self.counts.items()},
            "bytes_total": self.total,
            "bytes_total_exact": self.exact,
            "bytes_done": self.done,
            "bytes_received": self.received,
            "bytes_per_second": round(rate),
            "eta_seconds": self.eta(rate),
            "connections": self.connections,
            "levels": {host: n for host, (n, _) in self.levels.items()},
            "retries": dict(self.retries),
            "failures": {cause: n for cause, n in self.failures.items() if n},
            "links_expire": self.expires,
            "nodes": [line.row() for line in self.nodes.lines()],
            "limited": None if found is None else {"cause": found.cause, "text": found.text},
            "limited_seconds": {cause: round(seconds, 1) for cause, seconds in self.limited.items()},
            "control": self._control(),
            "stopping": self.stopping or None,
            "ended": self.report is not None,
            "stopped": self.report.stopped if self.report is not None else None,
        }


# The most frequent events, dispatched by type: matching one pattern after another takes longer than the
# handlers themselves.
Board.handlers = {
    events.Wrote: Board._wrote,
    events.Opened: Board._opened,
    events.Closed: Board._closed,
    events.Finished: Board._finished,
}
