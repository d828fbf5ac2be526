"""Tests of the event log and the history: bounded, in whole lines, readable in a run and after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_fetch import Settings, fetch_all
from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import StorageError
from osp_fetch.model.report import Outcome, Status
from osp_fetch.views.event_log import EventLog
from osp_fetch.views.history import period_at
from osp_fetch.views.rotated import RotatedFile, lines_of
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.test_cli import QUICK, start
from tests.test_schemas import check


def sizes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(80, 900), st.integers(1, 4))
@settings(deadline=None)
def test_lines_are_bounded_and_the_latest_ones_stay_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], most: int, times: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    written: list[str] = []
    for part in range(times):  # runs after each other
        file = RotatedFile(folder / "log", most)
        for number, length in enumerate(lengths):
            written.append(f"{part}:{number}:{'x' * length}")
            file.write(written[-1])
        file.close()
    kept = [line.rstrip("\n") for line in lines_of(folder / "log")]
    assert kept == written[len(written) - len(kept) :]
    longest = max(map(len, written), default=0) + 1
    assert sizes(folder) <= max(most, 8 * longest) + longest
    if written:
        assert kept[-1] == written[-1]


def test_the_event_log_of_many_files_has_its_bound_and_no_bound_on_request(tmp_path: Path) -> None:
    for most, folder in ((100_000, tmp_path / "bounded"), (0, tmp_path / "unbounded")):
        folder.mkdir()
        log = EventLog(folder / "events.jsonl", most=most)
        for number in range(2000):
            outcome = Outcome(f"f{number}", Status.FETCHED, size=5, digest="sha256:" + "0" * 64)
            log(events.Finished(outcome))
        log.close()
        lines = [json.loads(line) for line in lines_of(folder / "events.jsonl")]
        assert lines[-1]["path"] == "f1999"
        assert sizes(folder) <= 100_000 if most else len(lines) == 2000
        assert all(each.stat().st_mode & 0o077 == 0 for each in folder.iterdir())


def test_a_log_goes_on_when_a_full_disk_has_space_again(tmp_path: Path) -> None:
    place = tmp_path / "log"
    place.symlink_to("/dev/full")
    file = RotatedFile(place, pause=0.0)
    file.write("lost", now=True)
    place.unlink()
    place.write_text("a torn li")
    file.write("kept", now=True)
    file.close()
    assert list(lines_of(place)) == ["a torn li\n", "kept\n"]


def test_a_log_does_not_go_on_in_another_folder_of_that_name(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    file = RotatedFile(state / "log", 80)
    state.rename(tmp_path / "old")
    state.mkdir()
    for number in range(50):
        file.write(f"line {number}", now=True)
    file.close()
    assert list(state.iterdir()) == []


def of(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines_of(place)]


async def test_a_history_has_all_sums_in_each_line_and_says_how_the_run_ended(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(1000)
    rows = [
        entry("proved.bin", origin.add("a", data), digest=sha256(data)),
        entry("sized.bin", origin.add("b", data), size=1000),
        entry("plain.bin", origin.add("c", data, o.status(503))),
        entry("gone.bin", origin.add("d", b"", always=o.status(404))),
    ]
    report = await fetch_all(rows, tmp_path, settings=quick())
    first, *_, last = of(tmp_path / ".osp-fetch/history.jsonl")
    for line in (first, last):
        check("history", line)
    assert (first["ended"], first["bytes_received"]) == (False, 0)
    assert last["counts"] == {"fetched": 3, "present": 0, "parked": 0, "failed": 1}
    assert last["proofs"] == {"sha256": 1, "size": 1, "length": 1}
    assert last["failures"] == {"status 404": 1}
    assert last["retries"] == {"status 503": 1}
    assert last["hosts"] == {f"127.0.0.1:{origin.url.rpartition(':')[2]}": 3000}
    assert (last["ended"], last["stopped"], last["error"]) == (True, None, None)
    assert last["bytes_received"] == report.bytes == 3000


async def test_the_histories_of_runs_follow_each_other_and_name_the_error(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [entry("a.bin", origin.add("a", noise(1000)))]
    for _ in range(2):
        await fetch_all(rows, tmp_path, settings=quick())

    broken = Settings.load(("test", {"storage": {"min_free": 1 << 60, "disk_patience": 0}}))
    with pytest.raises(StorageError):
        await fetch_all([entry("b.bin", origin.add("b", noise(1000)))], tmp_path, settings=broken)
    lines = of(tmp_path / ".osp-fetch/history.jsonl")
    runs = list(dict.fromkeys(line["run"] for line in lines))
    assert len(runs) == 3
    assert [line["ended"] for line in lines].count(True) == 3
    assert "free" in str(lines[-1]["error"])


async def test_a_killed_run_leaves_a_history_that_the_next_one_continues(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("slow.bin", noise(500_000), always=o.slow(50_000))
    process = await start("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    place = tmp_path / "out/.osp-fetch/history.jsonl"
    while not (place.exists() and place.read_text()):
        await asyncio.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    with place.open("a") as file:
        file.write('{"torn": ')  # the kill may come in the middle of a line
    origin.pages["/slow.bin"].always = None
    await fetch_all([entry("slow.bin", url)], tmp_path / "out", settings=quick())
    torn = [line for line in lines_of(place) if not line.endswith("}\n")]
    assert torn == ['{"torn": \n']
    runs = {json.loads(line)["run"] for line in lines_of(place) if line not in torn}
    assert len(runs) == 2


def test_lines_become_rarer_with_the_age_of_a_run() -> None:
    age, count = 0.0, 0
    while age < 30 * 86400:
        count += 1
        age += period_at(age)
    assert count < 5000
    assert period_at(30 * 86400) == 900
