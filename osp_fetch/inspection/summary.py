"""The summary of a folder over all its runs, as one document: what `osp-fetch report` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ..model.advice import what_to_do
from ..model.report import JSON_VERSION
from ..storage.folder.run_lock import state_folders
from ..views.bins import Bins
from .past import Happened, HostPast, Runs, read_past
from .place import Place, place_of
from .status import FolderStatus, folder_status

_COLUMNS: Final = 240  # columns of a drawing
_DRAWN: Final = 6  # hosts that are drawn by name
_HOSTS: Final = 50  # hosts of the table


def summary_of(
    where: Path | Place, name: str, wall: Callable[[], float] = time.time, *, check: bool = True
) -> dict[str, Any]:
    """Return the summary of a destination. Blocks.

    Args:
        where: The output folder, or the destination.
        name: The destination, as the user named it.
        wall: Clock in Unix seconds.
        check: Whether finished files are looked for on the disk.

    Raises:
        StorageError: A ledger cannot be read, or a bucket does not answer.
    """
    place = place_of(where)
    runs, happened = read_past(state_folders(place.root))
    status = folder_status(place) if check else None
    return {
        "version": JSON_VERSION,
        "made": round(wall(), 1),
        "place": name,
        "running": status.owner if status else None,
        "here": _here(status),
        **_work(runs, happened, status),
        **_files(runs, happened),
        **_obstacles(runs),
        "hosts": _hosts(runs, happened.hosts, wall() if status and status.owner else happened.last),
        "nodes": _whole(runs.by_name["nodes"]),
        "slowest": [
            {"path": path, "size": size, "seconds": round(seconds, 1)}
            for seconds, path, size in sorted(happened.slowest, reverse=True)
        ],
        "goodput": _goodput(runs.over_time if runs.count else happened.over_time, runs.hosts_over_time),
        "timeline": [{"time": round(when, 1), "text": text} for when, text in happened.timeline],
        "events_since": happened.first,
    }


def _work(runs: Runs, happened: Happened, status: FolderStatus | None) -> dict[str, Any]:
    """Return what the runs were, and the bytes that they received. Without a history, their log is used."""
    received, fetched = _sum(runs, "bytes_received"), _sum(runs, "bytes_fetched")
    held = status.held_bytes if status else 0
    return {
        "runs": runs.count,
        "seconds": round(runs.seconds, 1),
        "recent_runs": [run.row() for run in runs.recent],
        "bytes_received": received if runs.count else happened.fetched,
        "bytes_fetched": fetched if runs.count else happened.fetched,
        "bytes_refetched": _sum(runs, "bytes_lost"),
        "bytes_not_kept": max(0, received - fetched - held) if status else None,
        "bytes_adopted": _sum(runs, "bytes_adopted"),
    }


def _files(runs: Runs, happened: Happened) -> dict[str, Any]:
    """Return how files were proved, what became of them, and why others failed."""
    return {
        "proofs": _whole(runs.by_name["proofs"]),
        "adopted": dict(happened.adopted),
        "moved": happened.moved,
        "mirrors_dropped": _whole(happened.dropped),
        "failures": [
            {"cause": cause, "files": found.count, "advice": what_to_do(cause), "examples": found.examples}
            for cause, found in sorted(happened.failures.items(), key=lambda item: -item[1].count)
        ],
    }


def _obstacles(runs: Runs) -> dict[str, Any]:
    """Return what has delayed the runs."""
    return {
        "retries": _whole(runs.by_name["retries"]),
        "delays": _rounded(runs.by_name["delays"]),
        "pauses": _rounded(runs.by_name["pauses"]),
        "limited": _rounded(runs.by_name["limited"]),
        "disk_waits": _sum(runs, "disk_waits"),
        "links_renewed": _sum(runs, "links_renewed"),
        "worker_deaths": _sum(runs, "worker_deaths"),
    }


def _sum(runs: Runs, name: str) -> int:
    return int(runs.sums.get(name, 0))


def _here(status: FolderStatus | None) -> dict[str, int] | None:
    if status is None:
        return None
    kept = ("published", "published_bytes", "unpacked", "gone", "changed", "held_bytes")
    return {**{key: getattr(status, key) for key in kept}, "unfinished": len(status.begun)}


def _whole(sums: Mapping[str, float]) -> dict[str, int]:
    return {key: int(value) for key, value in sorted(sums.items(), key=lambda item: -item[1])}


def _rounded(sums: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 1) for key, value in sorted(sums.items(), key=lambda item: -item[1])}


def _hosts(runs: Runs, past: Mapping[str, HostPast], until: float) -> list[dict[str, Any]]:
    """Return what each host gave, most first, and then the hosts that gave nothing but outages.

    Args:
        runs: the runs.
        past: what the event log says, by host.
        until: the time until which a host that does not answer is down, in Unix seconds.
    """
    given, pauses = runs.by_name["hosts"], runs.by_name["pauses"]
    names = sorted(given, key=lambda host: -given[host])
    names += [host for host, each in past.items() if host not in given and each.outages]
    found = []
    for name in names[:_HOSTS]:
        each = past.get(name, HostPast())
        down = each.down + (max(0.0, until - each.since) if each.since is not None else 0.0)
        found.append(
            {
                "host": name,
                "bytes": int(given.get(name, 0)),
                "limit": each.limit,
                "why": each.why,
                "limit_changes": each.changes,
                "pauses": round(pauses.get(name, 0.0), 1),
                "outages": each.outages,
                "down": round(down, 1),
            }
        )
    return found


def _goodput(total: Bins, hosts: Mapping[str, Bins]) -> dict[str, Any]:
    """Return bytes per second over time: in all, and of the hosts that gave most."""
    if total.span is None:
        return {"begin": None, "step": 0.0, "total": [], "hosts": {}}
    while total.span[1] - total.span[0] >= _COLUMNS:
        total.widen()
    first, last = total.span
    width, count = total.width, last - first + 1

    def rates(bins: Bins) -> list[int]:
        return [round(rate) for rate in bins.rates(width, first, count)]

    of_hosts = {host: rates(bins) for host, bins in hosts.items()}
    names = sorted(of_hosts, key=lambda host: -sum(of_hosts[host]))[:_DRAWN]
    return {
        "begin": first * width,
        "step": width,
        "total": rates(total),
        "hosts": {name: of_hosts[name] for name in names},
    }
