"""Sizes, times and summaries in the words that people read."""

from __future__ import annotations

import time

from ..model.report import Outcome, Report, Status


def size(count: float) -> str:
    """`1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def duration(seconds: float) -> str:
    """`45 s`, `12 min 3 s`, `5 h 12 min`, `29 d 4 h`."""
    total = round(seconds)
    for large, small, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if total >= large:
            rest = total % large // small
            return f"{total // large} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{total} s"


def moment(when: float) -> str:
    """A point in time, local, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def expiry(when: float, now: float) -> str:
    """When links die, or died by our clock: only the server decides."""
    if when < now:
        return f"links past their date since {moment(when)}; they are tried all the same"
    return f"links die {moment(when)}, in {duration(when - now)}"


def summary(report: Report) -> str:
    """One line for the end of a run."""
    counts = report.counts
    parts = [f"{n} {status.value}" for status, n in counts.items() if n or status is Status.FETCHED]
    rate = report.bytes / report.seconds if report.seconds > 0 else 0
    share = f" (shard {report.shard[0]} of {report.shard[1]}, no other)" if report.shard else ""
    return f"{', '.join(parts)}{share}; {size(report.bytes)} in {duration(report.seconds)} ({size(rate)}/s)"


def advice(report: Report) -> list[str]:
    """What went wrong, one line a cause, and what to do next; nothing where all is well."""
    said: list[str] = []
    by_cause: dict[str, list[Outcome]] = {}
    for outcome in report.failures:
        by_cause.setdefault(outcome.error.cause if outcome.error else "", []).append(outcome)
    for cause, outcomes in by_cause.items():
        said.append(f"  {outcomes[0].status.value}, {cause}: {outcomes[0].error}")
        if len(outcomes) > 1:
            # a bad row has no path, but says first where it stands
            names = [o.path or str(o.error).partition(": ")[0] for o in outcomes[1:4]]
            names += ["…"] * (len(outcomes) > 4)
            said.append(f"    … and so {len(outcomes) - 1} more: {', '.join(names)}")
    if report.counts[Status.PARKED]:
        said.append("Everything fetched so far is kept.")
    elif report.stopped:
        said.append(f"Stopped by {report.stopped}. Run the same command again to go on from here.")
    elif said:
        said.append("Run the same command again to try these once more; the rest is not fetched again.")
    return said
