"""Results: one `Outcome` for each file, one `Report` for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from .advice import what_to_do
from .dataclasses import dataclass
from .entry import Entry
from .errors import FetchError
from .html import Child, join, table, tag

if TYPE_CHECKING:
    import pandas

# The version of every JSON document: of `--json`, `status.json` and `events.jsonl`. It increases when a field
# changes its meaning or is removed; new fields may appear without it. docs/schemas describes the documents.
JSON_VERSION: Final = 1
# Outcomes that a report keeps in each of its two lists. A manifest may have ten million rows; memory must not
# grow with it.
OUTCOMES_KEPT = 20_000
_EXAMPLES: Final = 3  # errors with one cause that a report shows
# Causes of failures by which a server or a source rejects the credentials.
_CREDENTIALS: Final = ("status 401", "status 407", "credentials")


class Status(StrEnum):
    """The final state of a file. Each member equals its own name in lower case.

    FETCHED: this run transferred and published the file.
    PRESENT: the file was already complete on disk.
    PARKED: the file waits for something outside the run, usually fresh links.
    FAILED: the file was given up, or its row was invalid.
    """

    FETCHED = "fetched"
    PRESENT = "present"
    PARKED = "parked"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one manifest row.

    Attributes:
        path: path below the output folder; empty for an invalid row.
        status: final state of the file.
        entry: the row; None if it was invalid.
        size: length of the file in bytes, if known.
        digest: verified digest, such as `sha256:…`.
        seconds: elapsed time for this file, in seconds.
        error: why the file failed or was parked.
    """

    path: str
    status: Status
    entry: Entry | None = None
    size: int | None = None
    digest: str | None = None
    seconds: float = 0.0
    error: FetchError | None = None

    def row(self) -> dict[str, Any]:
        """Return the outcome as plain values, for `--json`, the event log and `Report.frame`."""
        return {
            "path": self.path,
            "status": self.status.value,
            "size": self.size,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "cause": self.error.cause if self.error else None,
            "error": str(self.error) if self.error else None,
        }


@dataclass(slots=True)
class Report:
    """The result of one run.

    `outcomes` and `failures` are truncated, so that a manifest of ten million rows cannot fill the memory.
    `counts` and `causes` always cover every row.

    Attributes:
        counts: number of rows by status.
        bytes: bytes received over the network.
        seconds: duration of the run, in seconds.
        stopped: why the run ended before all rows were processed; None if it did not.
        outcomes: the first 20,000 outcomes.
        failures: the first 20,000 outcomes that are FAILED or PARKED.
        credentials: whether a server or a source rejected the credentials of at least one file.
        shard: (index, count), index from 0, if this run fetched one shard of the manifest.
        notes: further remarks for the user, one sentence each.
        widths: `host:port` → widest range in bytes that the host takes, for hosts that refused wider ones.
        causes: cause → number of outcomes that are FAILED or PARKED.
        lost: number of finished files that lie on nodes which have left the run.
        elsewhere: number of files that failed, or are parked, in other runs over shares of the same manifest;
            None if this run had the whole manifest.
    """

    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    bytes: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    outcomes: list[Outcome] = field(default_factory=list, repr=False)
    failures: list[Outcome] = field(default_factory=list, repr=False)
    credentials: bool = False
    shard: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict, repr=False)
    causes: Counter[str] = field(default_factory=Counter, repr=False)
    lost: int = 0
    elsewhere: int | None = None

    def add(self, outcome: Outcome) -> None:
        """Count `outcome`, and keep it while its list is not full."""
        self.counts[outcome.status] += 1
        if len(self.outcomes) < OUTCOMES_KEPT:
            self.outcomes.append(outcome)
        if outcome.status in (Status.FAILED, Status.PARKED):
            self.causes[_cause(outcome)] += 1
            if len(self.failures) < OUTCOMES_KEPT:
                self.failures.append(outcome)
        if outcome.error is not None and outcome.error.cause in _CREDENTIALS:
            self.credentials = True

    def merge(self, other: Report) -> None:
        """Add the files of `other`, a report on other rows of the same manifest."""
        for status, count in other.counts.items():
            self.counts[status] += count
        self.bytes += other.bytes
        self.stopped = self.stopped or other.stopped
        self.outcomes += other.outcomes[: max(0, OUTCOMES_KEPT - len(self.outcomes))]
        self.failures += other.failures[: max(0, OUTCOMES_KEPT - len(self.failures))]
        self.credentials = self.credentials or other.credentials
        self.notes += [note for note in other.notes if note not in self.notes]
        self.widths |= other.widths
        self.causes += other.causes
        self.lost += other.lost

    def forget(self, outcomes: Sequence[Outcome]) -> None:
        """Take back outcomes that `add` has counted: their files are fetched again."""
        paths = {outcome.path for outcome in outcomes}
        for outcome in outcomes:
            self.counts[outcome.status] -= 1
        self.causes -= Counter(_cause(o) for o in outcomes if o.status in (Status.FAILED, Status.PARKED))
        self.outcomes = [o for o in self.outcomes if o.path not in paths or o.error is None]
        self.failures = [o for o in self.failures if o.path not in paths]
        self.credentials = any(o.error and o.error.cause in _CREDENTIALS for o in self.failures)

    @property
    def ok(self) -> bool:
        """Return whether every row is present and verified, and the run was not stopped early."""
        bad = self.counts[Status.FAILED] + self.counts[Status.PARKED]
        return bad == 0 and self.lost == 0 and not self.elsewhere and self.stopped is None

    def raise_for_failures(self) -> None:
        """Raise one error for all failures; return if `ok`.

        Raises:
            FetchError: a file failed or is parked, or the run was stopped. The message states the number of
                files, and the reason of the stop or the first three errors.
        """
        if self.ok:
            return
        count = self.counts[Status.FAILED] + self.counts[Status.PARKED]
        if self.stopped and not count:
            raise FetchError(
                f"the run was stopped before its end ({self.stopped}); the same call continues it"
            )
        if self.lost and not count:
            raise FetchError(f"{self.lost} of the files lie on nodes that have left the run")
        if self.elsewhere and not count:
            raise FetchError(f"{self.elsewhere} of the files were not fetched by other runs of this folder")
        shown = "; ".join(str(o.error) for o in self.failures[:3])
        raise FetchError(f"{count} of the files were not fetched ({self.stopped or shown})")

    def __str__(self) -> str:
        """Return the report in one line: files by status, bytes and seconds, and why the run was stopped."""
        counts = ", ".join(f"{n} {status.value}" for status, n in self.counts.items() if n) or "no files"
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{counts}; {self.bytes} bytes received in {self.seconds:.1f} s{stopped}"

    def _repr_html_(self) -> str:
        """Return the report for a notebook: files by outcome, and failures by cause with what to do."""
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        by_cause: dict[str, list[Outcome]] = {}
        for outcome in self.failures:
            by_cause.setdefault(_cause(outcome), []).append(outcome)
        counts = [(status.value, f"{n:,}") for status, n in self.counts.items() if n]
        failed = [_failed(cause, number, by_cause.get(cause, [])) for cause, number in self.causes.items()]
        return tag(
            "div",
            tag("p", f"{self.bytes:,} bytes received in {self.seconds:.1f} s{stopped}"),
            table(["outcome", "files"], counts) if counts else "no files",
            table(["cause", "files", "what to do", "first of them"], failed) if failed else None,
            (tag("p", note) for note in self.notes),
        )

    def frame(self) -> pandas.DataFrame:
        """Return `outcomes` as a pandas DataFrame with one row for each file.

        The columns are path, status, size (bytes), digest, seconds, cause and error.
        """
        import pandas

        columns = ["path", "status", "size", "digest", "seconds", "cause", "error"]
        return pandas.DataFrame([o.row() for o in self.outcomes], columns=columns)

    def row(self) -> dict[str, Any]:
        """Return the report as plain values, for `--json`."""
        return {
            "version": JSON_VERSION,
            "counts": {status.value: n for status, n in self.counts.items()},
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "shard": list(self.shard) if self.shard else None,
            "notes": self.notes,
            "lost": self.lost,
            "failures": [o.row() for o in self.failures],
        }


def _cause(outcome: Outcome) -> str:
    return outcome.error.cause if outcome.error else ""


def _failed(cause: str, number: int, outcomes: Sequence[Outcome]) -> tuple[Child, ...]:
    """Return the row of a cause in the table of failures."""
    first = (tag("div", str(outcome.error)) for outcome in outcomes[:_EXAMPLES])
    return cause, f"{number:,}", what_to_do(cause), join(first)
