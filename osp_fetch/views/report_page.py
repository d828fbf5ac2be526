"""The report as one HTML page: no script, nothing from elsewhere, every name escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..model.html import Child, Html, join, table, tag
from . import formatting
from .bottleneck import shares
from .charts import stacked
from .report_style import STYLE

MARK: Final = "<!doctype html>\n<!-- report of osp-fetch -->\n"
"""How each report begins. A file that begins otherwise is not replaced."""

# nothing may be loaded, run or sent, whatever a name in the report contains
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SHOWN: Final = 12  # rows of the shorter tables
_PROOFS: Final = {
    "size": "size in the list",
    "length": "length that the server stated",
    "samples": "samples of the server's bytes",
}


def report_page(summary: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        summary: what `inspection.summary` found.
    """
    title = f"osp-fetch: {summary['place']}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    main = tag(
        "main",
        _header(summary), _tiles(summary), _goodput(summary), _failures(summary), _proofs(summary),
        _hosts(summary), _nodes(summary), _limits(summary), _cost(summary), _timeline(summary),
        _runs(summary), _slowest(summary), _copy(summary),
    )  # fmt: skip
    return MARK + tag("html", head, tag("body", main), lang="en")


def _section(title: str, *content: Child) -> Html:
    return tag("section", tag("h2", title), *content)


def _moment(when: float | None) -> str:
    return formatting.moment(when) if when is not None else ""


def _header(summary: Mapping[str, Any]) -> Html:
    state = f"A run goes on: {summary['running']}" if summary["running"] else _last(summary)
    zone = time.strftime("%Z", time.localtime(summary["made"]))
    return tag(
        "header",
        tag("h1", summary["place"]),
        tag("p", state, class_="state " + ("busy" if summary["running"] else _mood(summary))),
        tag("p", f"Report of osp-fetch, made {_moment(summary['made'])} {zone}.", class_="quiet"),
    )


def _mood(summary: Mapping[str, Any]) -> str:
    last = _last_run(summary)
    bad = summary["failures"] or (last and (last["error"] or not last["ended"]))
    return "bad" if bad else "good"


def _last_run(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    runs: Sequence[Mapping[str, Any]] = summary["recent_runs"]
    return runs[-1] if runs else None


def _last(summary: Mapping[str, Any]) -> str:
    """Return how the last run ended."""
    last = _last_run(summary)
    if last is None:
        return "No run has left a history here."
    end = last["last_seen"]
    if last["error"]:
        return f"The last run ended with an error at {_moment(end)}: {last['error']}"
    if not last["ended"]:
        return f"The last run was killed after {_moment(end)}. Run the same command again to continue."
    if last["stopped"]:
        return f"The last run was stopped by {last['stopped']} at {_moment(end)}. The same command continues."
    missing = last["counts"].get("failed", 0) + last["counts"].get("parked", 0)
    if missing:
        return f"The last run ended at {_moment(end)}; {formatting.count(missing, 'file')} missing."
    return f"The last run ended at {_moment(end)}. Every file of it is present and verified."


def _tiles(summary: Mapping[str, Any]) -> Html:
    here, seconds = summary["here"], summary["seconds"]
    tiles: list[tuple[str, str]] = []
    if here:
        tiles.append((f"{here['published']:,}", f"files here, {formatting.size(here['published_bytes'])}"))
        if here["unfinished"]:
            tiles.append(
                (f"{here['unfinished']:,}", f"unfinished, {formatting.size(here['held_bytes'])} held")
            )
        if here["unpacked"]:
            tiles.append((f"{here['unpacked']:,}", "files of archives, unpacked and deleted"))
        if here["gone"] or here["changed"]:
            tiles.append((f"{here['gone'] + here['changed']:,}", "gone or changed since; run get again"))
    received = summary["bytes_received"]
    tiles.append((formatting.size(received), f"received in {formatting.count(summary['runs'], 'run')}"))
    if seconds:
        tiles.append((f"{formatting.size(received / seconds)}/s", f"mean of {formatting.duration(seconds)}"))
    failed = sum(each["files"] for each in summary["failures"])
    tiles.append((f"{failed:,}", "failed or waiting"))
    return tag(
        "dl",
        [tag("div", tag("dd", number), tag("dt", words)) for number, words in tiles],
        class_="tiles",
    )


def _goodput(summary: Mapping[str, Any]) -> Html:
    found = summary["goodput"]
    series: dict[str, Sequence[float]] = dict(found["hosts"])
    if series:
        rest = [
            max(0, total - sum(values))
            for total, *values in zip(found["total"], *series.values(), strict=True)
        ]
        if any(value > 0.01 * max(found["total"]) for value in rest):
            series["other hosts"] = rest
    elif found["total"]:
        series = {"all hosts": found["total"]}
    chart = stacked(found["begin"] or 0.0, found["step"], series, "Bytes received in a second, over time")
    details = None
    if found["total"]:
        begin, step = found["begin"], found["step"]
        form = "%Y-%m-%d %H:%M" if step >= 60 else "%Y-%m-%d %H:%M:%S"
        rows = [
            (time.strftime(form, time.localtime(begin + number * step)), f"{formatting.size(rate)}/s")
            for number, rate in enumerate(found["total"])
            if rate
        ]
        details = tag(
            "details", tag("summary", "The same as numbers"), table(("from", "rate"), rows, numbers=(1,))
        )
    return _section("Goodput over time", chart, details)


def _failures(summary: Mapping[str, Any]) -> Html:
    failures = summary["failures"]
    if not failures:
        return _section("What failed", tag("p", "Nothing failed in the last run."))
    parts = []
    for each in failures:
        shown = [_example(line["path"], line["error"]) for line in each["examples"]]
        more = each["files"] - len(shown)
        if more > 0:
            shown.append(tag("li", f"… and {more:,} more with this cause", class_="quiet"))
        parts.append(
            tag(
                "article",
                tag("h3", f"{each['cause']}: {formatting.count(each['files'], 'file')}"),
                tag("p", each["advice"]),
                tag("ul", shown),
            )
        )
    return _section("What failed in the last run, and what to do", *parts)


def _example(path: str, error: str) -> Html:
    """Return one failed file; most errors begin with its path."""
    return tag("li", tag("code", path or "a row"), ": ", error.removeprefix(f"{path}: "))


def _proofs(summary: Mapping[str, Any]) -> Html:
    rows: list[tuple[str, str]] = []
    for proof, files in summary["proofs"].items():
        rows.append((_PROOFS.get(proof, f"{proof} in the list"), f"{files:,} fetched"))
    for proof, files in summary["adopted"].items():
        rows.append((_PROOFS.get(proof, proof), f"{files:,} found on the disk"))
    notes = []
    if summary["moved"]:
        notes.append(
            f"{formatting.count(summary['moved'], 'file')} of yours had the name of a fetched file: see "
            ".osp-fetch/replaced/."
        )
    for host, times in summary["mirrors_dropped"].items():
        notes.append(
            f"{host} served other bytes than the digest says, {times:,} times; other mirrors were used."
        )
    content: list[Child] = [tag("p", note) for note in notes]
    if rows:
        content.insert(0, table(("proved by", "files"), rows, numbers=(1,)))
    return _section("How the files were proved", *(content or [tag("p", "No file was fetched yet.")]))


def _hosts(summary: Mapping[str, Any]) -> Html | None:
    hosts = summary["hosts"]
    if not hosts:
        return None
    total = sum(each["bytes"] for each in hosts) or 1
    rows = [
        (
            each["host"],
            formatting.size(each["bytes"]),
            f"{each['bytes'] / total:.1%}",
            f"{each['limit']} ({each['why']})" if each["limit"] is not None else "",
            formatting.duration(each["pauses"]) if each["pauses"] else "",
            f"{each['outages']} × {formatting.duration(each['down'])}" if each["outages"] else "",
        )
        for each in hosts
    ]
    head = ("host", "received", "share", "connections at last", "pauses asked for", "not answering")
    return _section("What each host gave", table(head, rows, numbers=(1, 2)))


def _nodes(summary: Mapping[str, Any]) -> Html | None:
    nodes = summary["nodes"]
    if not nodes:
        return None
    total = sum(nodes.values()) or 1
    rows = [(name, formatting.size(count), f"{count / total:.1%}") for name, count in nodes.items()]
    return _section("What each node received", _long(("node", "received", "share"), rows, numbers=(1, 2)))


def _cost(summary: Mapping[str, Any]) -> Html:
    received = summary["bytes_received"] or 1
    rows: list[tuple[str, str]] = []
    for key, words in (
        ("bytes_not_kept", "received and not kept: sent twice, discarded, or of files that failed"),
        ("bytes_refetched", "of these, held and discarded again"),
    ):
        if (count := summary[key]) is not None:
            rows.append((words, f"{formatting.size(count)} ({count / received:.1%})"))
    for cause, times in list(summary["retries"].items())[:_SHOWN]:
        waited = summary["delays"].get(cause, 0.0)
        pauses = f" with {formatting.duration(waited)} of pauses" if waited >= 1 else ""
        rows.append((f"retries: {cause}", f"{times:,}{pauses}"))
    asked = sum(summary["pauses"].values())
    for words, said in (
        ("pauses that servers asked for", formatting.duration(asked) if asked else ""),
        ("waits of files for disk space", f"{summary['disk_waits']:,}" if summary["disk_waits"] else ""),
        ("files that got fresh links", f"{summary['links_renewed']:,}" if summary["links_renewed"] else ""),
        ("worker processes that died", f"{summary['worker_deaths']:,}" if summary["worker_deaths"] else ""),
    ):
        if said:
            rows.append((words, said))
    return _section("What it cost", table(("", ""), rows, numbers=(1,)))


def _limits(summary: Mapping[str, Any]) -> Html | None:
    """Return what limited the runs, as shares of their time."""
    found = shares(summary["limited"], summary["seconds"])
    if not found:
        return None
    return _section("What limited the runs, of their time", tag("ul", [tag("li", each) for each in found]))


def _timeline(summary: Mapping[str, Any]) -> Html | None:
    if not summary["timeline"]:
        return None
    rows = [(_moment(each["time"]), each["text"]) for each in reversed(summary["timeline"])]
    return _section("What happened, latest first", _long(("when", "what"), rows))


def _runs(summary: Mapping[str, Any]) -> Html | None:
    rows = [
        (
            _moment(run["begun"]) + (f", shard {run['shard']}" if run["shard"] else ""),
            formatting.duration(run["seconds"]),
            formatting.size(run["bytes_received"]),
            ", ".join(f"{count:,} {status}" for status, count in run["counts"].items() if count),
            run["error"] or run["stopped"] or ("" if run["ended"] else "goes on, or was killed"),
        )
        for run in reversed(summary["recent_runs"])
        if isinstance(run["counts"], dict)
    ]
    head = ("begun", "took", "received", "files", "ended by")
    return _section("Runs", _long(head, rows, numbers=(1, 2))) if rows else None


def _long(head: Iterable[Child], rows: Sequence[Iterable[Child]], numbers: Iterable[int] = ()) -> list[Html]:
    """Return a table; rows beyond the first dozen are folded away."""
    head = tuple(head)
    found = [table(head, rows[:_SHOWN], numbers=numbers)]
    if len(rows) > _SHOWN:
        rest = table(head, rows[_SHOWN:], numbers=numbers)
        found.append(tag("details", tag("summary", f"{len(rows) - _SHOWN} more"), rest))
    return found


def _slowest(summary: Mapping[str, Any]) -> Html | None:
    rows = [
        (
            tag("code", each["path"]),
            formatting.size(each["size"]),
            formatting.duration(each["seconds"]),
            f"{formatting.size(each['size'] / each['seconds'])}/s" if each["seconds"] else "",
        )
        for each in summary["slowest"]
    ]
    if not rows:
        return None
    return _section(
        "Files that took longest", table(("file", "size", "took", "rate"), rows, numbers=(1, 2, 3))
    )


def _copy(summary: Mapping[str, Any]) -> Html:
    """Return the machine-readable copy. `<` is escaped, so that no name can end the element."""
    data = json.dumps(summary).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return join([Html(f'<script type="application/json" id="summary">{data}</script>')])
