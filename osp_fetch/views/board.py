"""The state of a run as its events tell it; every view draws from one of these."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ..model import events
from ..model.report import Report, Status

_WINDOW: Final = 15.0  # seconds that the shown rate is a mean of
_SET_ASIDE_KEPT: Final = 1000  # files of the user's that are named in the report
_MOMENT: Final = 1.0  # seconds in which a small file comes and goes


@dataclass(slots=True)
class FileLine:
    """One file in hand."""

    path: str
    length: int | None
    held: int
    connections: int
    since: float


@dataclass(slots=True)
class Board:
    """Counts, rates and the files in hand. Feed it events; read it whenever."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    rows: int = 0
    rows_final: bool = False
    sized: int = 0  # rows whose size is known: stated, or told by the server
    sizeless: int = 0  # rows that ended without one
    stated: int = 0  # bytes of the sized rows
    done: int = 0  # bytes held or published
    received: int = 0  # bytes that came over the network in this run
    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    files: dict[str, FileLine] = field(default_factory=dict)
    connections: int = 0
    levels: dict[str, tuple[int, str]] = field(default_factory=dict)  # host → connections it may have, why
    retries: Counter[str] = field(default_factory=Counter)
    expires: float | None = None
    set_aside: list[events.SetAside] = field(default_factory=list)  # the first of the user's own files
    set_aside_count: int = 0
    last_trouble: str = ""
    stopping: str = ""
    report: Report | None = None
    _begun: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self._samples.append((self._begun, 0))  # the first line comes late on a log

    def __call__(self, event: events.Event) -> None:
        often = _OFTEN.get(type(event))
        if often is not None:
            often(self, event)
            return
        match event:
            case events.FileBegun():
                self._file_begun(event)
            case events.Lost(path, count):
                self.done -= count
                if path in self.files:
                    self.files[path].held -= count
            case events.RowsRead(rows, sized, count, expires):
                self.rows += rows
                self.sized += sized
                self.stated += count
                self.expires = min(filter(None, (self.expires, expires)), default=None)
            case events.Retrying(_, cause, _, message):
                self.retries[cause] += 1
                self.last_trouble = message
            case events.LimitChanged(host, connections, why):
                self.levels[host] = (connections, why)
            case events.ManifestEnded():
                self.rows_final = True
            case events.Stopping(why):
                self.stopping = why
            case events.RunEnded(report):
                self.report = report
            case _:
                self._trouble(event)

    def _trouble(self, event: events.Event) -> None:
        match event:
            case events.SetAside():
                self.set_aside_count += 1
                if len(self.set_aside) < _SET_ASIDE_KEPT:
                    self.set_aside.append(event)
            case events.Cooling(host, seconds, why):
                self.last_trouble = f"{host} is left alone for {seconds:.0f} s: {why}"
            case events.HostDown(host, seconds):
                self.last_trouble = f"{host} does not answer; it is probed again in {seconds:.1f} s"
            case events.HostBack(host):
                self.last_trouble = f"{host} answers again"
            case events.Parked(files):
                self.last_trouble = (
                    f"{files} files wait for links: put a fresh link file in place of the old one"
                )
            case events.LinksRenewed(files):
                self.last_trouble = f"fresh links are here: {files} files go on with them"
            case events.LinksCommandFailed(why):
                self.last_trouble = why
            case events.DiskWaiting(why):
                self.last_trouble = f"waiting for room: {why}"
            case _:
                pass

    def _wrote(self, event: events.Wrote) -> None:
        self.received += event.count
        self.done += event.count
        if line := self.files.get(event.path):
            line.held += event.count

    def _opened(self, event: events.Opened) -> None:
        self.connections += 1
        self._line(event.path).connections += 1

    def _closed(self, event: events.Closed) -> None:
        self.connections -= 1
        if line := self.files.get(event.path):
            line.connections -= 1

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
        line = self.files.pop(outcome.path, None)
        unknown = outcome.entry is None or outcome.entry.size is None
        if unknown and (line is None or line.length is None):
            self.sized += outcome.size is not None
            self.sizeless += outcome.size is None
            self.stated += outcome.size or 0
        if outcome.status is Status.PRESENT:
            self.done += outcome.size or 0
        elif outcome.error is not None:
            self.last_trouble = str(outcome.error)
            if line is not None:
                self.done -= line.held

    @property
    def finished(self) -> int:
        return sum(self.counts.values())

    @property
    def seconds(self) -> float:
        return self.clock() - self._begun

    @property
    def total(self) -> int | None:
        """Bytes of all rows; an estimate by the mean size where some sizes are not known yet (`exact`),
        None where none is."""
        unknown = self.rows - self.sized - self.sizeless
        if self.sized == 0:
            return None if unknown else self.stated
        return self.stated + unknown * self.stated // self.sized

    @property
    def exact(self) -> bool:
        """Whether every row is read and its size known."""
        return self.rows_final and self.rows == self.sized + self.sizeless

    def rate(self) -> float:
        """Bytes per second over the last seconds. Call it regularly: it samples."""
        now = self.clock()
        self._samples.append((now, self.received))
        # the one before the window stays, for views that look more seldom than the window is long
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return (self.received - before) / (now - then) if now > then else 0.0

    def eta(self, rate: float) -> float | None:
        """Seconds until the end at `rate`; None while that cannot be told."""
        if not self.rows_final or self.total is None or rate <= 0:
            return None
        # three sizes make a mean, where some are unknown
        return max(0, self.total - self.done) / rate if self.exact or self.sized >= 3 else None

    def slowest(self, most: int) -> list[FileLine]:
        """The files in hand that have been so for the longest; not those of which there is nothing to see but
        that they are about to get their names."""
        now = self.clock()
        seen = [f for f in self.files.values() if f.connections or f.held or now - f.since > _MOMENT]
        return sorted(seen, key=lambda line: line.since)[:most]

    def snapshot(self) -> dict[str, Any]:
        """The state in plain values, for `status.json`."""
        rate = self.rate()
        return {
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
            "links_expire": self.expires,
            "stopping": self.stopping or None,
            "ended": self.report is not None,
        }


# by their class: to try one pattern after another takes longer than what they do
_OFTEN: Final[dict[type[events.Event], Callable[[Board, Any], None]]] = {
    events.Wrote: Board._wrote,
    events.Opened: Board._opened,
    events.Closed: Board._closed,
    events.Finished: Board._finished,
}
