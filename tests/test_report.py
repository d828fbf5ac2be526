"""Tests of the report: what it says, that no name escapes its place, and that its making is bounded."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_fetch import fetch_all
from osp_fetch.inspection.past import read_past
from osp_fetch.inspection.summary import summary_of
from osp_fetch.model.advice import what_to_do
from osp_fetch.model.entry import entry
from osp_fetch.model.html import Html, tag
from osp_fetch.views.bins import Bins
from osp_fetch.views.charts import nice, stacked
from osp_fetch.views.report_page import report_page
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.test_cli import QUICK, get, start
from tests.test_docs import compare
from tests.test_schemas import check

HOSTILE = [
    "</script><script>document.title='owned'</script>.bin",
    '"><img src=x onerror="document.title=1">.bin',
    "&lt;b&gt; 'single' <!-- --> ]]>.bin",
    "{{7*7}} ${x} <style>*{display:none}</style>.bin",
]


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.copy = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "path"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            assert self._open.pop() == tag, "the elements are not nested"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.copy += data
        elif not (self._open and self._open[-1] == "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def page_of(folder: Path) -> tuple[dict[str, Any], Page]:
    summary = summary_of(folder, str(folder))
    return summary, Page(report_page(summary))


async def fetched(origin: Origin, folder: Path) -> None:
    """Run twice in a folder, with one of each: a digest, a size, nothing, a retry, failures of two causes."""
    data = noise(200_000)
    rows = [
        entry("proved.bin", origin.add("a", data), digest=sha256(data)),
        entry("sized.bin", origin.add("b", data), size=len(data)),
        entry("plain.bin", origin.add("c", data, o.status(503), o.cut(70_000))),
        *(entry(f"gone-{n}.bin", origin.add(f"g{n}", b"", always=o.status(404))) for n in range(8)),
        entry("wrong.bin", origin.add("w", b"x"), digest="sha256:" + "0" * 64),
    ]
    await fetch_all(rows[:1], folder, settings=quick())
    await fetch_all(rows, folder, settings=quick())


async def test_a_report_says_what_was_fetched_proved_failed_and_paid(origin: Origin, tmp_path: Path) -> None:
    await fetched(origin, tmp_path)
    summary, page = page_of(tmp_path)
    check("summary", summary)
    assert summary["here"]["published"] == 3
    assert summary["runs"] == 2
    assert summary["proofs"] == {"sha256": 1, "size": 1, "length": 1}
    assert summary["bytes_fetched"] == 600_000
    assert summary["bytes_received"] - 600_000 == summary["bytes_not_kept"] >= 2  # wrong.bin came twice
    assert [(each["cause"], each["files"]) for each in summary["failures"]] == [
        ("status 404", 8),
        ("integrity", 1),
    ]
    assert len(summary["failures"][0]["examples"]) == 5
    assert summary["retries"]["status 503"] == 1
    (host,) = summary["hosts"]
    assert host["bytes"] == summary["bytes_received"]
    columns = summary["goodput"]["total"]
    assert sum(columns) * summary["goodput"]["step"] == pytest.approx(
        summary["bytes_received"], abs=len(columns)
    )
    for said in (
        "9 files missing", "proved by", "sha256 in the list", "Correct the list.",
        "… and 3 more with this cause", "retries: status 503", "127.0.0.1:", "a run began in",
    ):  # fmt: skip
        assert said in page.text
    assert json.loads(page.copy) == json.loads(json.dumps(summary))


async def test_no_name_of_a_file_or_a_host_leaves_its_place(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"d/{n}.bin", origin.add(f"f{n}", b"", always=o.status(404))) for n in range(2)]
    await fetch_all(rows, tmp_path, settings=quick())
    log = tmp_path / ".osp-fetch/events.jsonl"
    history = tmp_path / ".osp-fetch/history.jsonl"
    evil = [*HOSTILE, "\u202e gnp.\x1b[31m\x00\ud800"]
    with log.open("a") as file:
        for number, name in enumerate(evil):
            row = {"path": name, "status": "failed", "size": None, "digest": None, "seconds": 0}
            row |= {"cause": name, "error": f"{name}: no"}
            found = {**row, "status": "fetched", "size": 5, "seconds": 9 + number, "error": None}
            for line in (
                {"event": "finished", **row}, {"event": "finished", **found},
                {"event": "limit changed", "host": name, "connections": 3, "why": name},
                {"event": "host down", "host": name, "probed_in": 1, "why": name, "heard": True},
                {"event": "links command failed", "why": name},
                {"event": "mirror dropped", "path": "x", "host": name},
                {"event": "adopted", "path": "x", "bytes": 1, "proof": name},
            ):  # fmt: skip
                file.write(json.dumps({"time": 2e9, **line}) + "\n")
    last = json.loads(history.read_text().splitlines()[-1])
    evil_sums = dict.fromkeys(evil, 7)
    last |= {
        "hosts": evil_sums,
        "retries": evil_sums,
        "proofs": evil_sums,
        "error": evil[0],
        "bytes_received": 99,
    }
    with history.open("a") as file:
        file.write(json.dumps(last) + "\n")
    summary = summary_of(tmp_path, evil[1])
    made = report_page(summary)
    page = Page(made)
    allowed = set(
        "html head meta title style body main header section article h1 h2 h3 p ul li dl dd dt div table "
        "thead tbody tr th td code details summary figure svg path line text span script".split()
    )
    assert {name for name, _ in page.tags} <= allowed
    assert [attributes for name, attributes in page.tags if name == "script"] == [
        {"type": "application/json", "id": "summary"}
    ]
    names = {name for _, attributes in page.tags for name in attributes}
    assert not any(name.startswith("on") or name in ("src", "href", "action", "style") for name in names)
    for name in HOSTILE:
        assert page.text.count(name) >= 5
    assert "\x1b" not in made
    assert "\u202e" not in page.text
    assert json.loads(page.copy)["failures"] == json.loads(json.dumps(summary["failures"]))
    made.encode()  # the lone surrogate, too


def test_the_page_asks_for_nothing_from_elsewhere_and_is_one_file(tmp_path: Path) -> None:
    _, page = page_of(tmp_path)
    policies = [each["content"] for name, each in page.tags if name == "meta" and "http-equiv" in each]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    made = report_page(summary_of(tmp_path, "x"))
    for word in ("http://", "https://", "@import", "url(", "<link", "<iframe"):
        assert word not in made


async def test_a_report_looks_the_same_in_a_real_browser_and_runs_nothing(
    origin: Origin, tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("Chromium is not installed")
    await fetched(origin, tmp_path / "out")
    with (tmp_path / "out/.osp-fetch/events.jsonl").open("a") as file:
        for name in HOSTILE:
            row = {
                "event": "finished",
                "path": name,
                "status": "failed",
                "seconds": 0,
                "cause": name,
                "error": name,
            }
            file.write(json.dumps({"time": 2e9, **row}) + "\n")
    place = tmp_path / "report.html"
    place.write_text(report_page(summary_of(tmp_path / "out", "my data")))
    words = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = await asyncio.to_thread(
        subprocess.run, [*words, "--dump-dom", f"file://{place}"], capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    seen = Page(done.stdout)
    assert "<title>osp-fetch: my data</title>" in done.stdout, done.stderr[-2000:]
    assert "9 files missing" in seen.text
    assert any(name == "svg" for name, _ in seen.tags)
    assert not any(name == "img" for name, _ in seen.tags)


async def test_a_report_of_a_run_at_work_and_of_a_killed_one_says_so(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("slow.bin", noise(500_000), always=o.slow(50_000))
    process = await start("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    place = tmp_path / "out/.osp-fetch/history.jsonl"
    while not (place.exists() and '"bytes_received": 0' not in place.read_text().splitlines()[-1]):
        await asyncio.sleep(0.05)
    summary, page = page_of(tmp_path / "out")
    assert f"process {process.pid}" in summary["running"]
    assert "A run goes on" in page.text
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    summary, page = page_of(tmp_path / "out")
    assert summary["running"] is None
    assert "The last run was killed" in page.text


async def test_shards_are_one_report(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}.bin", origin.add(f"f{n}", noise(1000, n))) for n in range(6)]
    rows += [entry(f"gone{n}.bin", origin.add(f"g{n}", b"", always=o.status(404))) for n in range(4)]
    for shard in range(2):
        await fetch_all(rows, tmp_path, settings=quick(), shard=(shard, 2))
    summary, _ = page_of(tmp_path)
    assert (summary["runs"], summary["here"]["published"]) == (2, 6)
    assert {run["shard"] for run in summary["recent_runs"]} == {"0-of-2", "1-of-2"}
    assert [(each["cause"], each["files"]) for each in summary["failures"]] == [("status 404", 4)]
    assert summary["bytes_received"] == 6000


async def test_a_folder_of_an_earlier_version_has_a_report_from_its_log(
    origin: Origin, tmp_path: Path
) -> None:
    await fetched(origin, tmp_path)
    (tmp_path / ".osp-fetch/history.jsonl").unlink()
    summary, page = page_of(tmp_path)
    assert summary["runs"] == 0
    assert summary["bytes_fetched"] == 600_000
    assert any(summary["goodput"]["total"])
    assert "No run has left a history here." in page.text


async def test_what_failed_once_and_is_here_now_is_no_failure(origin: Origin, tmp_path: Path) -> None:
    rows = [entry("a.bin", origin.add("a", noise(1000), *[o.status(404)]))]
    await fetch_all(rows, tmp_path, settings=quick(retry={"attempts": 1}))
    assert summary_of(tmp_path, "x")["failures"]
    await fetch_all(rows, tmp_path, settings=quick())
    summary, page = page_of(tmp_path)
    assert summary["failures"] == []
    assert "Every file of it is present and verified." in page.text


# ---- bounds


def log_of(state: Path, files: int) -> None:
    """Write a log and a history of many files, failures, hosts and runs."""
    state.mkdir(parents=True)
    (state / "ledger.sqlite3").touch()
    with (state / "events.jsonl").open("w") as log, (state / "history.jsonl").open("w") as history:
        for n in range(files):
            line = {"time": 1e9 + n, "event": "finished", "path": f"f{n}", "status": "fetched", "size": 5,
                    "digest": None, "seconds": n % 97, "cause": None, "error": None}  # fmt: skip
            log.write(json.dumps(line) + "\n")
            if n % 3 == 0:
                failed = {**line, "status": "failed", "cause": f"status {n % 1000}", "error": f"f{n}: no"}
                log.write(json.dumps(failed) + "\n")
            if n % 10 == 0:
                down = {"event": "host down", "host": f"h{n}:80", "probed_in": 1, "why": "x", "heard": True}
                log.write(json.dumps({"time": 1e9 + n, **down}) + "\n")
                sums = {f"h{n + k}:80": 5 for k in range(3)}
                run = {"version": 1, "time": 1e9 + n * 100, "run": f"r{n}", "seconds": 5.0, "hosts": sums}
                run |= {"bytes_received": 15, "counts": {}, "ended": True, "stopped": None, "error": None}
                history.write(json.dumps(run) + "\n")


def test_the_memory_of_a_report_does_not_grow_with_the_log(tmp_path: Path) -> None:
    peaks = []
    for files in (2_000, 20_000):
        state = tmp_path / str(files) / ".osp-fetch"
        log_of(state, files)
        tracemalloc.start()
        runs, happened = read_past([state])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(runs.recent) == 200
        assert runs.count == files / 10
        assert len(runs.hosts_over_time) <= 51
        assert len(happened.slowest) == 15
        assert len(happened.timeline) == 200
        assert len(happened.failures) <= 101
        assert sum(each.count for each in happened.failures.values()) == math.ceil(files / 3)
        assert len(happened.hosts) <= 1000
    assert peaks[1] < 1.5 * peaks[0] + (1 << 20)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                "time event run seconds bytes_received hosts path status size error cause host why".split()
            ),
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
            | st.sampled_from(["finished", "host down", "limit changed", "fetched", "run ended", "adopted"])
            | st.dictionaries(st.text(max_size=3), st.floats(0, 9), max_size=2),
        ),
        max_size=10,
    ),
    st.binary(max_size=50),
)  # fmt: skip
@settings(deadline=None)
def test_a_damaged_log_costs_its_lines_only(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], junk: bytes
) -> None:
    state = tmp_path_factory.mktemp("d") / ".osp-fetch"
    state.mkdir()
    good = {"time": 5.0, "event": "finished", "path": "a", "status": "fetched", "size": 7, "seconds": 1}
    for name in ("events.jsonl", "history.jsonl"):
        lines = [json.dumps(row) for row in rows] + [json.dumps(good)]
        (state / name).write_bytes(junk + b"\n" + "\n".join(lines).encode() + b'\n{"torn')
    _, happened = read_past([state])
    assert (1.0, "a", 7) in happened.slowest


@given(st.lists(st.tuples(st.floats(0, 4e9), st.floats(0, 1e7), st.integers(0, 10**12)), max_size=40))
def test_bins_keep_every_byte_and_stay_few(spans: list[tuple[float, float, int]]) -> None:
    bins = Bins(most=50)
    for begin, length, amount in spans:
        bins.add(begin, begin + length, amount)
    if bins.span is None:
        assert spans == []
        return
    first, last = bins.span
    assert last - first < 50
    rates = bins.rates(bins.width, first, last - first + 1)
    assert sum(rates) * bins.width == pytest.approx(sum(amount for _, _, amount in spans), rel=1e-6, abs=1e-3)
    total = sum(rates) * bins.width
    wide = bins.rates(bins.width * 4, first // 4, last // 4 - first // 4 + 1)
    assert sum(wide) * bins.width == pytest.approx(total, rel=1e-6, abs=1e-3)


@given(st.floats(0, 1e15))
def test_the_top_of_an_axis_is_round_and_high_enough(value: float) -> None:
    assert nice(value) >= value
    assert nice(value) <= max(2.1 * value, 1.0)


def test_a_chart_without_a_byte_says_so_and_one_column_is_drawn() -> None:
    assert "No bytes" in stacked(0.0, 1.0, {}, "x")
    chart = stacked(1e9, 60.0, {"a<b": [5.0], "c": [0.0]}, "label")
    assert chart.count("<path") == 2
    assert "a&lt;b" in chart
    assert "NaN" not in stacked(1e9, 60.0, {"a": [0.0, 0.0]}, "x")


def test_text_is_escaped_unless_it_was_made_as_markup() -> None:
    assert tag("p", "<b>", Html("<i>"), class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;<i></p>'


@pytest.mark.parametrize("cause", ["status 404", "status 418", "status 503", "integrity", "what is this", ""])
def test_every_cause_has_advice(cause: str) -> None:
    assert what_to_do(cause).endswith(".")


# ---- the command line


async def test_the_command_writes_a_page_that_only_its_owner_reads(origin: Origin, tmp_path: Path) -> None:
    await fetched(origin, tmp_path / "out")
    code, out, err = await get("report", "out", cwd=tmp_path)
    assert (code, out) == (0, ""), err
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600
    code, _, _ = await get("report", "out", "-o", "report.html", cwd=tmp_path)  # an older report gives way
    assert code == 0
    code, page, _ = await get("report", "out", "-o", "-", cwd=tmp_path)
    assert "9 files missing" in Page(page).text
    code, out, _ = await get("report", "out", "--json", cwd=tmp_path)
    document = json.loads(out)
    check("summary", document)
    assert len(list(tmp_path.iterdir())) == 2  # no page, and no temporary file


async def test_a_bucket_has_a_report_of_what_is_in_it(origin: Origin, bucket: str, tmp_path: Path) -> None:
    place = f"s3://{bucket}/data"
    url = origin.add("a.bin", noise(1000))
    code, _, err = await get("get", url, "-o", place, *QUICK, "--report", "r.html", cwd=tmp_path)
    assert code == 0, err
    assert place in Page((tmp_path / "r.html").read_text()).text
    code, out, err = await get("report", place, "--json", cwd=tmp_path)
    assert code == 0, err
    document = json.loads(out)
    check("summary", document)
    assert (document["place"], document["here"]["published"], document["bytes_fetched"]) == (place, 1, 1000)


async def test_a_file_that_is_no_report_is_not_replaced(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    url = origin.add("a", noise(1000))
    for words in (["report", "out"], ["get", url, "-o", "out", *QUICK, "--report", "report.html"]):
        (tmp_path / "out/.osp-fetch").mkdir(parents=True, exist_ok=True)
        code, _, err = await get(*words, cwd=tmp_path)
        assert code == 3
        assert "no report of osp-fetch" in err
    assert (tmp_path / "report.html").read_text() == "mine"
    assert origin.requests.total() == 0
    code, _, err = await get("report", "out", "-o", "absent/r.html", cwd=tmp_path)
    assert (code, "its folder" in err) == (3, True)
    code, _, _ = await get("report", "nothing", cwd=tmp_path)
    assert code == 3


async def test_get_writes_a_report_also_when_it_is_stopped_and_when_it_fails(
    origin: Origin, tmp_path: Path
) -> None:
    words = ["--report", "r.html", *QUICK]
    code, _, err = await get("get", origin.add("a", noise(1000)), "-o", "out", *words, cwd=tmp_path)
    assert code == 0, err
    assert "Every file of it is present" in Page((tmp_path / "r.html").read_text()).text
    slow = origin.add("slow", noise(500_000), always=o.slow(20_000))
    code, _, _ = await get("get", slow, "-o", "out", *words, "--max-duration", "500ms", cwd=tmp_path)
    assert code == 75
    assert "stopped by --max-duration" in Page((tmp_path / "r.html").read_text()).text
    full = ["--min-free", "999999TiB", "--set", "storage.disk_patience=0"]
    code, _, _ = await get("get", slow, "-o", "out", *words, *full, cwd=tmp_path)
    assert code == 3
    assert "ended with an error" in Page((tmp_path / "r.html").read_text()).text
    code, _, _ = await get("get", "absent.tsv", "-o", "new", "--report", "n.html", cwd=tmp_path)
    assert (code, (tmp_path / "n.html").exists()) == (2, False)


async def test_the_document_is_as_the_reference_says(origin: Origin, tmp_path: Path) -> None:
    await fetched(origin, tmp_path)
    summary = summary_of(tmp_path, "x")
    summary.update(
        pauses={"h:80": 1.5}, adopted={"samples": 1}, mirrors_dropped={"h:80": 1}, nodes={"a": 1},
        limited={"disk": 2.0},
    )  # fmt: skip
    stopped = {**summary["recent_runs"][0], "stopped": "SIGTERM", "error": "x"}
    summary["recent_runs"].append(stopped)
    summary["hosts"].append({**summary["hosts"][0], "limit": 4})
    running = {**summary, "running": "process 1", "bytes_not_kept": None, "events_since": None}
    running["goodput"] = {**summary["goodput"], "begin": None}
    compare("report --json", summary, running)


def lines(state: Path, name: str, *rows: dict[str, Any]) -> None:
    state.mkdir(parents=True, exist_ok=True)
    with (state / name).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def run_of(number: float, failed: int = 0) -> dict[str, Any]:
    counts = {"fetched": 1, "failed": failed}
    return {
        "version": 1, "time": 1e9 + number, "run": f"r{number}", "seconds": 5.0, "hosts": {},
        "counts": counts, "bytes_received": 0, "ended": True, "stopped": None, "error": None,
    }  # fmt: skip


def test_the_last_run_is_that_of_whichever_shard(tmp_path: Path) -> None:
    states = [tmp_path / "shards" / f"{n}-of-8" for n in range(8)]
    for state in states:
        lines(state, "history.jsonl", *(run_of(night) for night in range(60)))
    lines(states[0], "history.jsonl", run_of(1000, failed=5))
    runs, _ = read_past(states)
    assert (runs.count, len(runs.recent)) == (8 * 60 + 1, 200)
    assert (runs.recent[-1].begun, runs.recent[-1].shard) == (1e9 + 995, "0-of-8")
    assert runs.recent[-1].last["counts"]["failed"] == 5


def test_a_run_that_ended_while_a_host_was_down_does_not_leave_it_down(tmp_path: Path) -> None:
    down = {"event": "host down", "host": "h:1", "heard": True, "why": "reset"}
    lines(
        tmp_path, "events.jsonl",
        {"time": 1e9, "event": "run started", "folder": "d"}, {"time": 1e9 + 5, **down},
        {"time": 1e9 + 15, "event": "run ended", "counts": {}, "stopped": None},
        {"time": 2e9, "event": "run started", "folder": "d"}, {"time": 2e9 + 3, **down},
    )  # fmt: skip
    _, happened = read_past([tmp_path])
    host = happened.hosts["h:1"]
    assert (host.outages, host.down, host.since, happened.last) == (2, 0.0, 2e9 + 3, 2e9 + 3)


def test_files_that_were_fetched_again_on_command_have_not_failed(tmp_path: Path) -> None:
    failed = {"event": "finished", "path": "a", "status": "failed", "size": None, "seconds": 1, "cause": "c"}
    lines(
        tmp_path, "events.jsonl",
        {"time": 1e9, "event": "run started", "folder": "d"}, {"time": 1e9 + 1, **failed, "error": "no"},
        {"time": 1e9 + 2, "event": "repeating", "files": 1},
    )  # fmt: skip
    _, happened = read_past([tmp_path])
    assert happened.failures == {}
