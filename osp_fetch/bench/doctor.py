"""Doctor: what limits the run of a folder, or may limit the next one, and what to do about it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from ..assembly import connections_of
from ..concurrency import cores
from ..inspection.past import HostPast, read_past
from ..inspection.status import runs_of
from ..model.dataclasses import dataclass
from ..model.errors import StorageError
from ..model.report import JSON_VERSION
from ..model.settings import Settings
from ..storage.destination import Destination
from ..storage.folder.disk import Disk
from ..storage.folder.run_lock import state_folders
from ..views import formatting
from ..views.bottleneck import shares
from ..views.status_lines import rate_limit
from .disk import DiskRates
from .verdict import rate

# Hosts that are named, those that gave most first.
_HOSTS: Final = 8
# Share of the measured rate of the disk, or of hashing, from which a run is near it.
_NEAR: Final = 0.7
# Seconds to sync a small file above which thousands of them take long.
_SLOW_SYNC: Final = 0.02
# Cores from which `--processes auto` starts a second process.
_MANY_CORES: Final = 8
# Connections that "auto" tries at most.
_CONNECTIONS: Final = 128
_NO_RUN: Final[dict[str, Any]] = {"state": None, "owner": None}

ADVICE: Final[Mapping[str, str]] = {
    "rate limit": "Raise it: osp-fetch ctl DIR rate RATE, or --limit-rate.",
    "processor": "Give the run more cores: --processes N on eight cores or more, or several machines.",
    "disk": "Write to a faster disk, or skip syncs: storage.durability=none; a power loss then costs files.",
    "finishing": "Write to a faster disk; with many cores, --processes N; or storage.durability=none.",
    "refused connections": "Nothing, the host decides; a mirror on another host adds connections (--mirror).",
    "host": "Nothing here; another mirror (--mirror) or another time of day may be faster.",
    "host per connection": "Allow more connections (-x N, -j N), unless the operator of the host forbids it.",
    "connections": "Allow more connections in total (-j N), if memory and descriptors suffice.",
    "few files": "Nothing; a server that answers ranges would let a file use more connections.",
    "refusals": "Allow fewer connections (-x N), or let the run find the number (-x auto).",
    "pause": "Wait; fewer connections or --set limits.requests_per_second=N avoid such pauses.",
    "no answer": "Check the network and the host; the run goes on by itself when the host answers.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact that decides how fast a run is, or whether it ends well.

    Attributes:
        topic: What it is about.
        is_wrong: Whether something should be done.
        text: The fact, in words.
        advice: What to do; empty if nothing.
    """

    topic: str
    is_wrong: bool
    text: str
    advice: str = ""

    def row(self) -> dict[str, Any]:
        """Return the finding as a JSON-serializable dict."""
        return {"topic": self.topic, "wrong": self.is_wrong, "text": self.text, "advice": self.advice}


def diagnosis(
    where: Destination, settings: Settings, disk: DiskRates | StorageError | None
) -> dict[str, Any]:
    """Return all findings about a destination, as a JSON-serializable dict. Blocks.

    Args:
        where: The destination.
        settings: Those that the next run would have.
        disk: What was measured of its disk, or why it could not be; None for a bucket.
    """
    states = [each for each in runs_of(where.root) if each["state"] is not None]
    running = [each for each in states if each["owner"] is not None]
    chosen = running or sorted(states, key=lambda each: -each["state"]["time"])[:1]
    runs: list[Mapping[str, Any]] = [each["state"] for each in chosen]
    run = runs[0] if runs else None
    found = [
        *(finding for each in chosen or [_NO_RUN] for finding in _of_run(each["state"], each["owner"])),
        *_of_rate(run, settings, works=bool(running)),
        *_of_hosts(where, run),
        *_of_disk(run, disk),
        *_of_space(where, runs, settings),
        *_of_links(run),
        _descriptors(),
        _processor(settings),
        *_extras(where),
    ]
    return {
        "version": JSON_VERSION,
        "place": str(where),
        "running": bool(running),
        "findings": [each.row() for each in found],
        "disk": disk.row() if isinstance(disk, DiskRates) else None,
    }


def _of_run(run: Mapping[str, Any] | None, owner: str | None) -> Iterator[Finding]:
    """Yield what limits the run now, and what has limited it for how much of its time."""
    if run is None:
        yield Finding("run", is_wrong=False, text="no run has worked here yet")
        return
    now = run.get("limited") if owner is not None else None
    control = run.get("control")
    if owner is not None and control and control["paused"]:
        resume = "Resume it: osp-fetch ctl DIR resume."
        yield Finding("run", is_wrong=True, text=f"running, {owner}: paused", advice=resume)
    elif owner is not None:
        said = now["text"] if now else "nothing that is known limits it now"
        advice = ADVICE.get(now["cause"], "") if now else ""
        yield Finding("run", is_wrong=False, text=f"running, {owner}: {said}", advice=advice)
    seconds: Mapping[str, float] = run.get("limited_seconds", {})
    which = "this run" if owner is not None else f"the last run ({formatting.moment(run['time'])})"
    limits = shares(seconds, run["seconds"])
    if not limits:
        if owner is None:
            yield Finding("run", is_wrong=False, text=f"nothing that is known limited {which} for long")
        return
    most = max(seconds, key=lambda cause: seconds[cause])
    advice = ADVICE.get(most, "") if now is None or now["cause"] != most else ""
    text = f"{which} was limited by {', '.join(limits)} of its time"
    yield Finding("run", is_wrong=False, text=text, advice=advice)


def _of_rate(run: Mapping[str, Any] | None, settings: Settings, *, works: bool) -> Iterator[Finding]:
    control = (run or {}).get("control")
    limit = control["rate"] if control else settings.limits.rate
    if works and not control and not limit:
        return  # a run does not state the limit that it began with; if that limits it, it is said above
    if limit:
        advice = ADVICE["rate limit"]
        yield Finding("rate", is_wrong=False, text=f"limited to {rate_limit(limit)}", advice=advice)
    else:
        yield Finding("rate", is_wrong=False, text="no limit")


def _of_hosts(where: Destination, run: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Yield the number of connections that each host gets, and why it was changed last."""
    runs, happened = read_past(state_folders(where.root))
    given, levels = runs.by_name["hosts"], (run or {}).get("levels", {})
    # the log of a run that works is written with a delay; its state is not
    names = sorted({*happened.hosts, *levels}, key=lambda host: (-given.get(host, 0), host))
    for name in names[:_HOSTS]:
        past = happened.hosts.get(name, HostPast())
        limit = levels.get(name, past.limit)
        if limit is not None:
            why = f", {_changed(past)}" if past.changed is not None and past.limit == limit else ""
            text = f"{name}: {formatting.count(limit, 'connection')}{why}"
            yield Finding("hosts", is_wrong=False, text=text)
        if past.since is not None:
            text = f"{name} has not answered since {formatting.moment(past.since)}"
            yield Finding("hosts", is_wrong=True, text=text, advice=ADVICE["no answer"])
    if len(names) > _HOSTS:
        more = formatting.count(len(names) - _HOSTS, "more host")
        yield Finding("hosts", is_wrong=False, text=f"… and {more}")


def _changed(past: HostPast) -> str:
    why = formatting.limit_reason(past.why, past.limit)
    return f"{why} ({formatting.moment(past.changed or 0.0)}, {formatting.count(past.changes, 'change')})"


def _of_disk(run: Mapping[str, Any] | None, disk: DiskRates | StorageError | None) -> Iterator[Finding]:
    """Yield the rates of disk and digests, compared with that of the run."""
    if disk is None:
        return
    if isinstance(disk, StorageError):
        yield Finding("disk", is_wrong=True, text=str(disk))
        return
    pace = _pace(run)
    near = pace >= _NEAR * disk.write
    receives = "the last run received" if run and run["ended"] else "the run receives"
    text = f"writes and syncs {rate(disk.write)}" + (f"; {receives} {rate(pace)}" if pace >= 1 else "")
    yield Finding("disk", is_wrong=near, text=text, advice=ADVICE["disk"] if near else "")
    slow = disk.sync > _SLOW_SYNC
    advice = "Small files take that long each, some at a time. storage.durability=none skips it." * slow
    text = f"syncs a small file in {disk.sync * 1e3:.1f} ms"
    yield Finding("disk", is_wrong=slow, text=text, advice=advice)
    sha256 = disk.hashing["sha256"]
    near = pace >= _NEAR * sha256
    advice = "A single file is hashed on one core; several files at a time use several." if near else ""
    text = f"one core hashes {rate(sha256)} (SHA-256)"
    yield Finding("hashing", is_wrong=near, text=text, advice=advice)


def _pace(run: Mapping[str, Any] | None) -> float:
    """Return bytes per second: those of now, or the mean of a run that has ended."""
    if run is None or not run["seconds"]:
        return 0.0
    return float(run["bytes_received"] / run["seconds"] if run["ended"] else run["bytes_per_second"])


def _of_space(where: Destination, runs: Sequence[Mapping[str, Any]], settings: Settings) -> Iterator[Finding]:
    if where.bucket is not None:
        return
    try:
        free = Disk().free(where.root) - settings.storage.min_free
    except OSError as error:
        yield Finding("space", is_wrong=True, text=f"the free space cannot be read ({error.strerror})")
        return
    keeps = f"{formatting.size(max(0, free))} may be written before --min-free is reached"
    sized = [run for run in runs if run["bytes_total"] is not None]
    left = sum(max(0, run["bytes_total"] - run["bytes_done"]) for run in sized)
    if not left:
        yield Finding("space", is_wrong=free <= 0, text=keeps, advice="Make room." if free <= 0 else "")
        return
    short = left > free
    ended = " of the last run" if runs[0]["ended"] else ""
    is_exact = all(run["bytes_total_exact"] for run in runs)
    need = f"{'' if is_exact else 'about '}{formatting.size(left)}{ended} are to come"
    advice = "Make room, or unpack and delete archives (--unpack --delete-after)." if short else ""
    yield Finding("space", is_wrong=short, text=f"{keeps}; {need}", advice=advice)


def _of_links(run: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Yield how long links last, compared with the time that the run needs."""
    expires = run["links_expire"] if run else None
    if run is None or expires is None:
        return
    now, eta = time.time(), run["eta_seconds"]
    late = expires < now or (eta is not None and run["time"] + eta > expires)
    text = formatting.expiry(expires, now)
    if eta is not None and not run["ended"] and expires >= now:
        text += f"; the run needs {formatting.duration(eta)} more"
    advice = "Get a fresh link file, and put it in place of the old one." if late else ""
    yield Finding("links", is_wrong=late and not run["ended"], text=text, advice=advice)


def _descriptors() -> Finding:
    """Return how many connections the limit of open files allows; `get` raises the soft limit by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(soft, min(hard, 65536)) if hard != resource.RLIM_INFINITY else 65536
    most = connections_of(count)
    few = most < _CONNECTIONS
    text = f"{count:,} open files are allowed, enough for {formatting.count(most, 'connection')}"
    return Finding("open files", few, text, "Raise the hard limit (ulimit -Hn, LimitNOFILE=)." if few else "")


def _processor(settings: Settings) -> Finding:
    number, processes = cores(), settings.limits.processes
    text = f"{formatting.count(number, 'core')}, {processes} process{'' if processes == 1 else 'es'}"
    is_one = number >= _MANY_CORES and processes == 1
    advice = "With many small files, --processes auto uses more cores." if is_one else ""
    return Finding("processor", is_wrong=False, text=text, advice=advice)


def _extras(where: Destination) -> Iterator[Finding]:
    """Yield the optional packages that this destination or the environment needs and that are missing."""
    proxies = [os.environ.get(name, "") for name in ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy")]
    needs = (
        (where.bucket is not None, "aiobotocore", "s3", "a bucket as destination"),
        (any(each.startswith("socks") for each in proxies), "aiohttp_socks", "socks", "the SOCKS proxy"),
        ("OSP_FETCH_NOTIFY" in os.environ, "apprise", "notify", "OSP_FETCH_NOTIFY"),
        ("OSP_FETCH_METRICS" in os.environ, "prometheus_client", "metrics", "OSP_FETCH_METRICS"),
    )
    for is_needed, package, extra, purpose in needs:
        if is_needed and find_spec(package) is None:
            text = f"{purpose} needs {package}, which is not installed"
            yield Finding("packages", is_wrong=True, text=text, advice=f"pip install 'osp-fetch[{extra}]'")
