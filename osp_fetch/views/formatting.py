"""Formatting of sizes, times and summaries for people."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Collection
from typing import Final

from ..model import events
from ..model.report import Outcome, Report, Status

# The blank between a number and its unit.
_UNIT: Final = re.compile(r"(\d) (?=(?:[KMGT]?i?B|ms|s|min|h|d|%)(?:\W|$))")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 file` or `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Return a number of bytes as text, such as `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def limit_reason(why: str, connections: int | None) -> str:
    """Return why a host has a limit of connections, with the number where the reason ends with "above"."""
    return f"{why} {connections}" if why.endswith("above") else why


def links_renewed(files: int, expires: float | None) -> str:
    """Return what `LinksRenewed` says as a sentence."""
    if files or expires is None:
        return f"fresh links found for {count(files, 'file')}"
    return f"the link file was replaced; its links expire at {moment(expires)}"


def duration(seconds: float) -> str:
    """Return seconds as text, such as `45 s`, `12 min 3 s`, `5 h 12 min` or `29 d 4 h`."""
    total = round(seconds)
    for large, small, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if total >= large:
            rest = total % large // small
            return f"{total // large} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{total} s"


def folded(text: str, width: int, begin: str = "", indent: str = "  ", most: int | None = None) -> list[str]:
    """Return text as lines of at most `width` columns, broken between words but not before a unit.

    Args:
        text: A line.
        width: Columns. A longer word has a line of its own.
        begin: What the first line begins with.
        indent: What the further lines begin with.
        most: Largest number of lines; what does not fit is replaced by an ellipsis. None for any number.
    """
    fold = textwrap.TextWrapper(
        width, initial_indent=begin, subsequent_indent=indent, max_lines=most, placeholder="…",
        break_long_words=most is not None, break_on_hyphens=False,
    )  # fmt: skip
    lines = fold.wrap(_UNIT.sub("\\1\N{NO-BREAK SPACE}", text))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [begin]


def moment(when: float) -> str:
    """Return a time in Unix seconds as local date and time, to the minute."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
    except (OverflowError, OSError, ValueError):
        return "at a time that no calendar has"


def expiry(when: float, now: float) -> str:
    """Return when links expire or have expired, as text.

    Links that look expired are still tried: the local clock may be wrong, and only the server decides.

    Args:
        when: Expiry in Unix seconds.
        now: Current time in Unix seconds.
    """
    if when < now:
        return f"links expired {moment(when)} by the local clock; they are tried anyway"
    return f"links expire {moment(when)}, in {duration(when - now)}"


def summary(report: Report) -> str:
    """Return the result of a run in one line."""
    counts, present = report.counts, report.counts[Status.PRESENT]
    if report.ok and present and present == sum(counts.values()):
        here = "the file is" if present == 1 else f"all {present:,} files are"
        return f"Nothing to do: {here} here ({present} present, looked at in {duration(report.seconds)})"
    parts = [f"{n:,} {status.value}" for status, n in counts.items() if n or status is Status.FETCHED]
    rate = report.bytes / report.seconds if report.seconds > 0 else 0
    share = f" (shard {report.shard[0]} of {report.shard[1]}, no other)" if report.shard else ""
    return f"{', '.join(parts)}{share}; {size(report.bytes)} in {duration(report.seconds)} ({size(rate)}/s)"


# causes of failures that the same command would meet again
_LASTING: Final = frozenset(
    {
        "manifest",
        "integrity",
        "not the payload",
        "no such name",
        "certificate",
        "name conflict",
        *(f"status {code}" for code in (0, 302, 400, 401, 404, 405, 407, 410, 451)),
    }
)


def _remedy(causes: Collection[str], *, is_shared: bool) -> str:
    """Return what to do about failures with these causes; a run that shares a folder has no --failed."""
    lasting = [cause for cause in causes if cause in _LASTING]
    correct = "orrect the list"
    if set(lasting) - {"manifest"} and not is_shared:  # a row that is not valid cannot be written as one
        them = "the files among them" if "manifest" in lasting else "them"
        correct += f", or write {them} to a file with --failed FILE"
    if lasting and len(lasting) < len(causes):
        return (
            "Run the same command again to retry these; finished files are not fetched again. Files with "
            f"these causes would fail again: {', '.join(lasting)}. C{correct}."
        )
    if lasting:
        return (
            f"The same command would fail for these again: c{correct}. Finished files are not fetched again."
        )
    return "Run the same command again to retry these; finished files are not fetched again."


def advice(report: Report) -> list[str]:
    """Return the failures of a run, grouped by cause, and what to do next.

    Returns:
        Lines of text; empty if nothing failed and the run was not stopped.
    """
    said: list[str] = []
    by_cause: dict[str, list[Outcome]] = {}
    for outcome in report.failures:
        by_cause.setdefault(outcome.error.cause if outcome.error else "", []).append(outcome)
    for cause, outcomes in by_cause.items():
        said.append(f"  {outcomes[0].status.value}, {cause}: {outcomes[0].error}")
        if (number := max(len(outcomes), report.causes[cause])) > 1:
            # a bad row has no path, but its message starts with its position, such as `m.tsv:7`
            names = [o.path or str(o.error).partition(": ")[0] for o in outcomes[1:4]]
            names += ["…"] * (number > 4)
            said.append(f"    … and {number - 1:,} more with this cause: {', '.join(names)}")
    if report.stopped:
        said.append(f"Stopped by {report.stopped}. Run the same command again to continue.")
    elif report.counts[Status.PARKED]:
        said.append("Everything fetched so far is kept.")
    elif said:
        said.append(_remedy(by_cause, is_shared=report.elsewhere is not None))
    return said


def destination(kind: str, place: str) -> str:
    """Return which kind of destination the nodes of a cluster have found; see `DestinationFound`."""
    if kind == "node-local folders":
        return f"destination: {kind}; each node writes to {place} on its own disk"
    return f"destination: {kind} {place}"


def host_down(event: events.HostDown) -> str:
    """Return a line about a host that does not answer."""
    why = f" ({event.why})" if event.why else ""
    if event.probed_in is None:
        return f"{event.host} does not answer{why}"
    return f"{event.host} does not answer{why}; next attempt in {event.probed_in:.1f} s"


def ledger_replaced(why: str, kept: str) -> str:
    """Return in one sentence that the ledger was begun anew, and what that means.

    Args:
        why: What was wrong with the old one.
        kept: Where it is now.
    """
    return (
        f"the ledger could not be used ({why}) and was begun anew; the old one is kept as {kept}: complete "
        "files are recognised by their digests, or by samples from their servers; those that neither proves "
        "are set aside and fetched again, partials of 1 MiB and more go on, and smaller ones begin again"
    )
