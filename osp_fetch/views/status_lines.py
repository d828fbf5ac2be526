"""The state of a run in lines of text, from the document that `status.json` and `osp-fetch ctl` give."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from . import formatting
from .bottleneck import shares
from .nodes import node_lines

_NODES: Final = 20  # lines for the nodes of a cluster
_OLD: Final = 15.0  # seconds without a new state after which its age is shown; it is written each second


def run_lines(run: Mapping[str, Any]) -> list[str]:
    """Return the state of a run.

    Args:
        run: The document of `Board.snapshot`.

    Returns:
        Lines: files and bytes; then, where there is something to say, failures, links, and what commands
        have changed.
    """
    lines = [_progress(run)]
    failed, parked = run["counts"]["failed"], run["counts"]["parked"]
    if failed or parked:
        lines.append(f"{failed} failed, {parked} parked")
    if run["retries"]:
        causes = sorted(run["retries"].items(), key=lambda each: -each[1])
        lines.append("retries: " + ", ".join(f"{cause} {number}" for cause, number in causes[:6]))
    if run.get("limited"):
        lines.append(run["limited"]["text"])
    if run["links_expire"] is not None:
        lines.append(formatting.expiry(run["links_expire"], run["time"]))
    if run["stopping"]:
        lines.append(f"stopping: {run['stopping']}")
    if run["control"] is not None:
        lines += _control(run["control"])
    return lines + node_lines(run.get("nodes", []), _NODES)


def _age(run: Mapping[str, Any]) -> list[str]:
    """Return a line if what a run stated last is old: it is stopped, or cannot write."""
    old = time.time() - run["time"]
    if old < _OLD:
        return []
    return [
        f"as of {formatting.duration(old)} ago by this machine's clock: the run has written nothing since"
    ]


def last_run(run: Mapping[str, Any]) -> list[str]:
    """Return how the last run ended, in lines; `run` is what it wrote last."""
    at, took = formatting.moment(run["time"]), formatting.duration(run["seconds"])
    counts = ", ".join(f"{number:,} {status}" for status, number in run["counts"].items() if number)
    if not run["ended"]:
        how = f"was killed, last seen {at}, after {took}"
    elif run.get("stopped"):
        how = f"stopped {at} by {run['stopped']}, after {took}"
    elif run.get("error"):
        how = f"ended {at} with an error, after {took}"
    else:
        how = f"ended {at}, after {took}"
    lines = [f"last run {how}: {counts or 'no files'}; {formatting.size(run['bytes_received'])} received"]
    if run.get("error"):
        lines.append(f"error: {run['error']}")
    failures = sorted(run.get("failures", {}).items(), key=lambda each: -each[1])
    if failures:
        more = f", … ({len(failures) - 8} more causes)" if len(failures) > 8 else ""
        lines.append("failures: " + ", ".join(f"{cause} {number:,}" for cause, number in failures[:8]) + more)
    if limits := shares(run.get("limited_seconds", {}), run["seconds"]):
        lines.append(f"limited by {', '.join(limits[:3])} of the time")
    return lines


def folder_lines(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the runs of a folder: those that work, and how the others ended.

    Args:
        runs: As `inspection.status.FolderStatus.runs` has them.
    """
    lines = []
    for each in runs:
        name = f"shard {each['shard']}: " if each["shard"] is not None else ""
        state = each["state"]
        if each["owner"] is not None:
            lines.append(f"{name}running: {each['owner']}")
            lines += [f"{name}{line}" for line in [*_age(state), *run_lines(state)]] if state else []
        elif state is not None:
            lines += [f"{name}{line}" for line in last_run(state)]
    return lines


def _progress(run: Mapping[str, Any]) -> str:
    """Return how far the run is."""
    ended, rows = sum(run["counts"].values()), run["rows"]
    about = "" if run["bytes_total_exact"] else "about "
    total = "" if run["bytes_total"] is None else f" of {about}{formatting.size(run['bytes_total'])}"
    parts = [
        f"{ended:,} of {formatting.count(rows, 'file')}" + ("" if run["rows_final"] else " read so far"),
        f"{formatting.size(run['bytes_done'])}{total}",
        f"{formatting.size(run['bytes_per_second'])}/s",
        formatting.count(run["connections"], "connection"),
    ]
    if run["eta_seconds"] is not None:
        parts.append(f"{about}{formatting.duration(run['eta_seconds'])} left")
    return ", ".join(parts)


def _control(control: Mapping[str, Any]) -> list[str]:
    """Return what commands have changed: the present state, and the last changes."""
    state = ["paused"] * control["paused"]
    if control["paused_hosts"]:
        state.append(f"paused hosts: {', '.join(control['paused_hosts'])}")
    state += [f"rate: {rate_limit(control['rate'])}", f"connections: {control['connections']}"]
    lines = ["; ".join(state)]
    for change in control["changes"][-5:]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change["time"]))
        lines.append(f"  {at}  {change['what']}")
    return lines


def rate_limit(rate: int | str) -> str:
    """Return the setting `limits.rate` in words, such as `08:00 10.0 MiB/s, 19:00 no limit`."""
    if isinstance(rate, int):
        return _limit(rate)
    return ", ".join(f"{at} {_limit(int(limit))}" for at, limit in (step.split(",") for step in rate.split()))


def _limit(rate: int) -> str:
    return f"{formatting.size(rate)}/s" if rate else "no limit"
