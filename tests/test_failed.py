"""Tests of `--failed`: what was not fetched becomes a manifest that `get` takes."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import (
    Finished,
    NetworkError,
    Outcome,
    Report,
    SettingsError,
    Status,
    entry,
    fetch_all,
)
from osp_fetch.model.report import OUTCOMES_KEPT
from osp_fetch.views.failed_file import FailedFile
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.test_cli import QUICK, get, start

SETTINGS = quick()


def lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text().splitlines()]


async def test_what_failed_is_a_manifest_of_the_next_run(origin: Origin, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"path": f"d/f{n}", "url": origin.add(f"f{n}", noise(1000, n)), "size": 1000} for n in range(4)
    ]
    rows[1]["sha256"] = sha256(noise(1000, 1))[7:]
    rows[2]["urls"] = [rows[2].pop("url") + "?sig=a%2Fb", f"{origin.url}/other"]
    rows.append({"path": "../out", "url": "http://h/x"})
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for n in (1, 2):
        origin.pages[f"/f{n}"].faults.append(o.status(404))
    code, _, said = await get("get", "m.jsonl", "-o", "out", "--failed", "f.txt", *QUICK, cwd=tmp_path)
    assert code == 1, said
    failed = {row["path"]: row for row in lines(tmp_path / "f.txt")}
    assert failed == {
        "d/f1": {
            "path": "d/f1",
            "url": rows[1]["url"],
            "size": 1000,
            "digest": f"sha256:{rows[1]['sha256']}",
        },
        "d/f2": {"path": "d/f2", "urls": rows[2]["urls"], "size": 1000},
    }
    assert (tmp_path / "f.txt").stat().st_mode & 0o777 == 0o600
    code, _, said = await get("get", "f.txt", "-o", "out", "--failed", "g.txt", *QUICK, cwd=tmp_path)
    assert code == 0, said
    for n in range(4):
        assert (tmp_path / f"out/d/f{n}").read_bytes() == noise(1000, n)
    assert (tmp_path / "g.txt").read_bytes() == b""
    code, _, said = await get("get", "g.txt", "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, "Nothing to fetch" in said) == (0, True)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["f.txt", "g.txt", "m.jsonl", "out"]
    assert not list((tmp_path / "out/.osp-fetch").glob("failed*"))


async def test_a_stop_writes_what_had_failed_or_was_parked(origin: Origin, tmp_path: Path) -> None:
    links = [origin.add(name, b"x") for name in ("dead", "gone", "slow")]
    origin.pages["/dead"].always = o.status(403, "URL signature expired")
    origin.pages["/gone"].always = o.status(404)
    origin.pages["/slow"].always = o.silent
    (tmp_path / "m.txt").write_text("\n".join(links))
    old = '{"path": "a", "url": "http://h/a"}\n'
    (tmp_path / "f.jsonl").write_text(old)
    words = ["m.txt", "-o", "out", "--failed", "f.jsonl", "--on-expired", "wait", *QUICK]
    process = await start("get", *words, cwd=tmp_path)
    while origin.requests.total() < 3:
        await asyncio.sleep(0.01)
    log = tmp_path / "out/.osp-fetch/failed.jsonl"
    while not log.exists():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert (tmp_path / "f.jsonl").read_text() == old
    process.send_signal(signal.SIGTERM)
    _, said = await process.communicate()
    assert process.returncode == 75, said
    assert b"Run the same command again" in said
    assert {row["path"] for row in lines(tmp_path / "f.jsonl")} == {"dead", "gone"}


@pytest.mark.parametrize("content", ["my notes\n", '{"a": 1}\n', "x,y\n"])
async def test_a_file_of_the_user_is_never_replaced(origin: Origin, tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.txt").write_text(content)
    (tmp_path / "m.txt").write_text(origin.add("a", b"x"))
    code, _, said = await get("get", "m.txt", "-o", "out", "--failed", "notes.txt", *QUICK, cwd=tmp_path)
    assert (code, (tmp_path / "notes.txt").read_text()) == (2, content), said
    assert "holds something else" in said


async def test_secrets_of_headers_are_left_out_and_the_others_are_kept(
    origin: Origin, tmp_path: Path
) -> None:
    own = {"Referer": "http://h/", "Authorization": "Bearer SECRET", "X-Api-Key": "SECRET"}
    rows = [entry("a", f"{origin.url}/absent", headers=own), entry("b", origin.add("b", b"x"))]
    report = await fetch_all(
        rows, tmp_path / "out", settings=SETTINGS, headers={"X-Mine": "1"}, failed=tmp_path / "f"
    )
    assert lines(tmp_path / "f") == [
        {"path": "a", "url": f"{origin.url}/absent", "headers": {"Referer": "http://h/"}}
    ]
    (note,) = report.notes
    assert "Authorization, X-Api-Key" in note
    assert "SECRET" not in note


def test_all_failures_are_written_however_many(tmp_path: Path) -> None:
    report, failed = Report(), FailedFile(tmp_path / "f", tmp_path / "collected")
    for n in range(OUTCOMES_KEPT + 10):
        row = entry(f"f{n}", "http://h/f")
        outcome = Outcome(row.path, Status.FAILED, row, error=NetworkError("no answer"))
        report.add(outcome)
        failed(Finished(outcome))
    assert failed.close() == []
    assert len(lines(tmp_path / "f")) == len(report.failures) + 10


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("absent/f", "its folder must exist"),
        ("folder", "not a regular file"),
        ("m.jsonl", "also a SOURCE"),
        ("f.parquet", "name it f.jsonl"),
    ],
)
async def test_a_file_that_cannot_be_written_is_refused_before_anything_is_asked(
    origin: Origin, tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.jsonl").write_text(json.dumps({"url": origin.add("f", b"x")}))
    words = ["m.jsonl", "-o", "out", "--failed", place, *QUICK]
    code, out, err = await get("get", *words, cwd=tmp_path)
    assert (code, out, origin.requests.total()) == (2, "", 0)
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match=said):
        await fetch_all(str(tmp_path / "m.jsonl"), tmp_path / "out", failed=tmp_path / place)
