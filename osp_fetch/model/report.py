"""How it went: one Outcome a file, one Report a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from .entry import Entry
from .errors import FetchError

if TYPE_CHECKING:
    import pandas

OUTCOMES_KEPT = 20_000


class Status(StrEnum):
    """How a file ended; equal to its own name in lower case."""

    FETCHED = "fetched"
    PRESENT = "present"
    PARKED = "parked"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one row. `size` in bytes, `seconds` on the clock; `entry` is None for a bad row."""

    path: str
    status: Status
    entry: Entry | None = None
    size: int | None = None
    digest: str | None = None  # "sha256:…"
    seconds: float = 0.0
    error: FetchError | None = None

    def row(self) -> dict[str, Any]:
        """The same in plain values, as `--json`, the event log and `Report.frame` show it."""
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
    """One run: counts by status, bytes that came over the network, seconds, and what went wrong.

    `outcomes` holds the first twenty thousand, `failures` as many failed or parked ones, so that a
    manifest of ten million rows cannot fill the memory; the counts are always of all.
    """

    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    bytes: int = 0
    seconds: float = 0.0
    stopped: str | None = None  # why the run ended before its manifest did
    outcomes: list[Outcome] = field(default_factory=list, repr=False)
    failures: list[Outcome] = field(default_factory=list, repr=False)
    credentials: bool = False  # some failure was a refusal of who we are
    shard: tuple[int, int] | None = None  # the i-th of n, from 0, if no more than that share was fetched
    notes: list[str] = field(default_factory=list)  # what else to know, a sentence each

    def add(self, outcome: Outcome) -> None:
        """Count one more outcome."""
        self.counts[outcome.status] += 1
        if len(self.outcomes) < OUTCOMES_KEPT:
            self.outcomes.append(outcome)
        if outcome.status in (Status.FAILED, Status.PARKED) and len(self.failures) < OUTCOMES_KEPT:
            self.failures.append(outcome)
        if outcome.error is not None and outcome.error.cause in ("status 401", "credentials"):
            self.credentials = True

    @property
    def ok(self) -> bool:
        """Whether every row is present and verified."""
        bad = self.counts[Status.FAILED] + self.counts[Status.PARKED]
        return bad == 0 and self.stopped is None

    def raise_for_failures(self) -> None:
        """Raise one FetchError that names the first failures, where there are any."""
        if self.ok:
            return
        count = self.counts[Status.FAILED] + self.counts[Status.PARKED]
        shown = "; ".join(str(o.error) for o in self.failures[:3])
        raise FetchError(f"{count} of the files are not here ({self.stopped or shown})")

    def frame(self) -> pandas.DataFrame:
        """The outcomes as a pandas DataFrame, a row a file."""
        import pandas

        columns = ["path", "status", "size", "digest", "seconds", "cause", "error"]
        return pandas.DataFrame([o.row() for o in self.outcomes], columns=columns)

    def row(self) -> dict[str, Any]:
        """The same in plain values, for `--json`."""
        return {
            "counts": {status.value: n for status, n in self.counts.items()},
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "shard": list(self.shard) if self.shard else None,
            "notes": self.notes,
            "failures": [o.row() for o in self.failures],
        }
