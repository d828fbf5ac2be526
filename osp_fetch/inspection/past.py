"""The past of a folder, read from the history and the event log of its runs in bounded memory."""

from __future__ import annotations

import heapq
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final, TypeGuard

from ..model.dataclasses import dataclass
from ..model.report import JSON_VERSION
from ..views import formatting
from ..views.bins import Bins
from ..views.rotated import lines_of
from ..views.totals import Named

_RUNS: Final = 200  # the latest runs that are kept one by one
_EXAMPLES: Final = 5  # failed files that are named of one cause
_CAUSES: Final = 100
_SLOWEST: Final = 15
_HOSTS: Final = 1000
_DRAWN: Final = 50  # hosts of which is known when they gave what
_TIMELINE: Final = 200  # lines of the timeline
_LATEST: Final = 1e11  # Unix seconds: later times are damage

# sums of a line of the history, of which a run's last line has the final value
_NUMBERS: Final = (
    "bytes_received", "bytes_fetched", "bytes_lost", "bytes_adopted", "disk_waits", "links_renewed",
    "worker_deaths",
)  # fmt: skip
_BY_NAME: Final = ("hosts", "nodes", "proofs", "retries", "delays", "pauses", "limited")


def rows_of(place: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a rotated file. Lines that are torn or of another version are left out."""
    for line in lines_of(place):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.get("version", JSON_VERSION) == JSON_VERSION:
            yield row


@dataclass(slots=True)
class Run:
    """A run of the past.

    Attributes:
        begun: Unix seconds.
        shard: the shard, such as `0-of-8`; empty for a run without shards.
        last: the last line of its history.
    """

    begun: float
    shard: str
    last: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """Return the run as plain values."""
        last = self.last
        kept = ("seconds", "counts", "bytes_received", "ended", "stopped", "error")
        times = {"begun": self.begun, "last_seen": last["time"]}
        return {**times, "shard": self.shard, **{key: last.get(key) for key in kept}}


@dataclass(slots=True)
class Runs:
    """The runs of all state folders, and what they gave over time.

    Attributes:
        count: number of runs.
        seconds: their duration together.
        recent: the latest runs, oldest first.
        sums: name of a number → its sum over all runs.
        by_name: name of a table → its sums.
        over_time: bytes received.
        hosts_over_time: the same by host.
    """

    count: int = 0
    seconds: float = 0.0
    recent: list[Run] = field(default_factory=list)
    sums: Counter[str] = field(default_factory=Counter)
    by_name: dict[str, Named] = field(default_factory=lambda: {name: Named() for name in _BY_NAME})
    over_time: Bins = field(default_factory=Bins)
    hosts_over_time: dict[str, Bins] = field(default_factory=dict)

    def read(self, state: Path) -> None:
        """Add the runs of one state folder."""
        shard = state.name if state.parent.name == "shards" else ""
        run: Run | None = None
        own: deque[Run] = deque(maxlen=_RUNS)
        for line in rows_of(state / "history.jsonl"):
            if not _is_valid(line):
                continue
            if run is None or run.last["run"] != line["run"]:
                self._over(run)
                begun = line["time"] - line["seconds"]
                run = Run(begun, shard, {"run": line["run"], "time": begun, "hosts": {}, "bytes_received": 0})
                own.append(run)
            self._grown(run.last, line)
            run.last = line
        self._over(run)
        # of all state folders together, the latest: each of many shards may have more than enough
        self.recent = sorted([*self.recent, *own], key=lambda each: each.begun)[-_RUNS:]

    def _grown(self, before: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        """Add what came between two lines of a run."""
        begin, end = before["time"], line["time"]
        self.over_time.add(begin, end, line["bytes_received"] - before["bytes_received"])
        for host, count in line["hosts"].items():
            if (more := count - before["hosts"].get(host, 0)) > 0 and self._is_drawn(host):
                self.hosts_over_time[host].add(begin, end, more)

    def _is_drawn(self, host: str) -> bool:
        """Return whether a host has bins of its own; only the first ones do."""
        if host not in self.hosts_over_time and len(self.hosts_over_time) < _DRAWN:
            self.hosts_over_time[host] = Bins()
        return host in self.hosts_over_time

    def _over(self, run: Run | None) -> None:
        """Add the sums of a run whose last line was read."""
        if run is None:
            return
        self.count += 1
        self.seconds += run.last["seconds"]
        for name in _NUMBERS:
            if _is_number(value := run.last.get(name)):
                self.sums[name] += int(value)
        for name, sums in self.by_name.items():
            table = run.last.get(name)
            for key, value in table.items() if isinstance(table, dict) else ():
                if _is_number(value):
                    sums.add(key, value)


def _is_valid(line: Mapping[str, Any]) -> bool:
    numbers = all(_is_number(line.get(key)) for key in ("time", "seconds", "bytes_received"))
    hosts = line.get("hosts")
    sums = isinstance(hosts, dict) and all(_is_number(count) for count in hosts.values())
    return numbers and sums and line["time"] < _LATEST and isinstance(line.get("run"), str)


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that can be an amount; Python's JSON has infinity."""
    return isinstance(value, (int, float)) and 0 <= value < 1e18


@dataclass(slots=True)
class HostPast:
    """What the event log says of one host.

    Attributes:
        limit: connections that it got at last, None if that never changed.
        why: why it got that number.
        changes: changes of that number.
        changed: when the last one was, in Unix seconds; None if there was none.
        outages: times that it did not answer.
        down: seconds of these.
        since: since when it does not answer; None if it does.
    """

    limit: int | None = None
    why: str = ""
    changes: int = 0
    changed: float | None = None
    outages: int = 0
    down: float = 0.0
    since: float | None = None


@dataclass(slots=True)
class Failures:
    """Files of the last run that failed with one cause: their number, and the first of them."""

    count: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Happened:
    """What the event logs say.

    Attributes:
        hosts: by `host:port`.
        failures: by cause, of the last run of each state folder.
        slowest: (seconds, path, size) of the fetched files that took longest.
        timeline: (time, words) of what is worth a line of the timeline.
        adopted: what proved files that were there → their number.
        moved: files of the user that were moved aside.
        dropped: mirrors whose bytes were wrong: how often.
        over_time: bytes of fetched files, for folders that have no history.
        fetched: bytes of fetched files.
        first: time of the first line.
        last: time of the last line.
    """

    hosts: dict[str, HostPast] = field(default_factory=dict)
    failures: dict[str, Failures] = field(default_factory=dict)
    slowest: list[tuple[float, str, int]] = field(default_factory=list)
    timeline: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_TIMELINE))
    adopted: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    dropped: Named = field(default_factory=Named)
    over_time: Bins = field(default_factory=Bins)
    fetched: int = 0
    first: float | None = None
    last: float = 0.0

    def read(self, state: Path) -> None:
        """Add the log of one state folder."""
        failures: dict[str, Failures] = {}
        before, self.timeline = self.timeline, deque(maxlen=_TIMELINE)
        seen = 0.0  # time of the line before
        for line in rows_of(state / "events.jsonl"):
            when = float(line["time"]) if _is_number(line.get("time")) else _LATEST
            if when >= _LATEST:
                continue
            self.first = when if self.first is None else min(self.first, when)
            try:
                if line.get("event") in ("run started", "run ended"):
                    self._close_outages(seen)  # a run that was killed has left its last ones open
                if line.get("event") in ("run started", "repeating"):
                    failures = {}
                if line.get("event") == "finished":
                    self._finished(line, when, failures)
                else:
                    self._other(line, when)
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
                continue  # a line of another program
            finally:
                seen = when
        self.last = max(self.last, seen)
        self.timeline = deque(heapq.merge(before, sorted(self.timeline)), maxlen=_TIMELINE)
        for cause, found in failures.items():
            known = self.failures.setdefault(cause, Failures())
            known.count += found.count
            known.examples += found.examples[: _EXAMPLES - len(known.examples)]

    def _close_outages(self, when: float) -> None:
        for host in self.hosts.values():
            if host.since is not None:
                host.down, host.since = host.down + max(0.0, when - host.since), None

    def _finished(self, line: dict[str, Any], when: float, failures: dict[str, Failures]) -> None:
        if line["status"] == "fetched":
            seconds, size = float(line["seconds"]), int(line["size"] or 0)
            self.fetched += size
            self.over_time.add(when - seconds, when, size)
            item = (seconds, str(line["path"]), size)
            (heapq.heappush if len(self.slowest) < _SLOWEST else heapq.heappushpop)(self.slowest, item)
        elif line["error"] is not None:
            cause = str(line["cause"])
            if cause not in failures and len(failures) >= _CAUSES:
                cause = "other"
            found = failures.setdefault(cause, Failures())
            found.count += 1
            if len(found.examples) < _EXAMPLES:
                found.examples.append({"path": str(line["path"]), "error": str(line["error"])})

    def _other(self, line: dict[str, Any], when: float) -> None:
        match line["event"]:
            case "adopted":
                self.adopted[str(line["proof"])] += 1
            case "set aside":
                self.moved += 1
            case "mirror dropped":
                self.dropped.add(str(line["host"]))
            case "limit changed" | "host down" | "host back":
                self._of_host(line, when)
            case _:
                self._tell(line, when)

    def _of_host(self, line: dict[str, Any], when: float) -> None:
        name = str(line["host"])
        if name not in self.hosts and len(self.hosts) >= _HOSTS:
            return
        host = self.hosts.setdefault(name, HostPast())
        match line["event"]:
            case "limit changed":
                host.limit, host.why = int(line["connections"]), str(line["why"])
                host.changes, host.changed = host.changes + 1, when
            case "host down" if host.since is None:
                host.since, host.outages = when, host.outages + 1
                if line["heard"]:
                    self.timeline.append((when, f"{name} does not answer ({line['why']})"))
            case "host back" if host.since is not None:
                host.down, host.since = host.down + when - host.since, None
                self.timeline.append((when, f"{name} answers again"))

    def _tell(self, line: dict[str, Any], when: float) -> None:
        words = _words(line)
        # a full disk is waited for by each file: one line says it
        if words and not (self.timeline and self.timeline[-1][1] == words):
            self.timeline.append((when, words))


def _words(line: dict[str, Any]) -> str | None:
    """Return a line of the event log in words, None if the timeline does not have it."""
    match line["event"]:
        case "run started":
            return f"a run began in {line['folder']}"
        case "run ended":
            counts = ", ".join(f"{count} {status}" for status, count in line["counts"].items() if count)
            stopped = f"; stopped by {line['stopped']}" if line["stopped"] else ""
            return f"the run ended: {counts or 'no files'}{stopped}"
        case "node joined":
            return f"{line['node']} has joined"
        case "node left":
            return f"{line['node']} has left ({line['why']})"
        case "disk waiting":
            return f"waiting for disk space: {line['why']}"
        case "links renewed":
            return f"fresh links: {line['files']} files continue"
        case "ledger replaced":
            return formatting.ledger_replaced(line["why"], line["kept"])
        case "links command failed" | "worker died":
            return str(line["why"])
        case _:
            return None


def read_past(states: Iterable[Path]) -> tuple[Runs, Happened]:
    """Return the runs and the events of state folders. Files that are missing or damaged are left out."""
    runs, happened = Runs(), Happened()
    for state in states:
        runs.read(state)
        happened.read(state)
    return runs, happened
