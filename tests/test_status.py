"""Tests of `status`: the run that works, how the last one ended, and every shard."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from osp_fetch import fetch_all
from osp_fetch.views.status_lines import folder_lines
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start


def manifest(origin: Origin, folder: Path, *, slow: bool = False) -> None:
    rows = {"good": origin.add("good", noise(1000)), "gone": f"{origin.url}/nowhere"}
    if slow:
        rows["slow"] = origin.add("slow", noise(3_000_000), always=o.slow(500_000))
    lines = [json.dumps({"path": path, "url": url}) for path, url in rows.items()]
    (folder / "m.jsonl").write_text("\n".join(lines))


async def test_it_says_how_the_last_run_ended_and_why_files_failed(origin: Origin, tmp_path: Path) -> None:
    manifest(origin, tmp_path)
    assert (await get("get", "m.jsonl", "-o", "out", *QUICK, cwd=tmp_path))[0] == 1
    code, out, _ = await get("status", "out", cwd=tmp_path)
    assert code == 0
    first, second, *_ = out.splitlines()
    assert first.startswith("last run ended ")
    assert first.endswith("1 fetched, 1 failed; 1000 B received")
    assert second == "failures: status 404 1"


async def test_the_error_that_ended_the_last_run_is_stated(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(200_000))
    full = ("--min-free", str(1 << 60), "--set", "storage.disk_patience=1ms")
    words = ("get", url, "-o", "out", *QUICK, *full)
    code, _, said = await get(*words, cwd=tmp_path)
    assert code == 3, said
    code, out, _ = await get("status", "out", cwd=tmp_path)
    assert code == 0
    first, second, *_ = out.splitlines()
    assert " with an error, after " in first
    assert second.startswith("error: ")
    assert "not enough free space" in second


@pytest.mark.parametrize("command", ["status", "verify", "unpack", "report", "doctor", "layout", "coverage"])
async def test_a_file_in_place_of_the_folder_is_told(origin: Origin, tmp_path: Path, command: str) -> None:
    url = origin.add("f", b"x")
    assert (await get("get", url, "-o", "d/one.bin", *QUICK, cwd=tmp_path))[0] == 0
    code, _, said = await get(command, "d/one.bin", cwd=tmp_path)
    assert code == 3
    assert said.strip() == "osp-fetch: d/one.bin: it is a file; give its folder: d"


async def test_a_run_that_was_stopped_or_killed_is_told_from_one_that_ended(
    origin: Origin, tmp_path: Path
) -> None:
    manifest(origin, tmp_path, slow=True)
    words = ("get", "m.jsonl", "-o", "out", *QUICK)
    for number, said in ((signal.SIGTERM, "by SIGTERM, after"), (signal.SIGKILL, "was killed, last seen")):
        process = await start(*words, cwd=tmp_path)
        state = tmp_path / "out" / ".osp-fetch" / "status.json"
        before = state.stat().st_mtime_ns if state.exists() else 0
        async with asyncio.timeout(30):
            while not state.exists() or state.stat().st_mtime_ns == before:
                await asyncio.sleep(0.02)
        process.send_signal(number)
        await process.communicate()
        _, out, _ = await get("status", "out", cwd=tmp_path)
        assert said in out.splitlines()[0]


async def test_watch_shows_a_run_until_it_ends(origin: Origin, tmp_path: Path) -> None:
    manifest(origin, tmp_path, slow=True)
    process = await start("get", "m.jsonl", "-o", "out", *QUICK, cwd=tmp_path)
    async with asyncio.timeout(30):
        while not (tmp_path / "out" / ".osp-fetch" / "status.json").exists():
            await asyncio.sleep(0.02)
    code, out, _ = await asyncio.wait_for(get("status", "out", "--watch", cwd=tmp_path), 60)
    await process.communicate()
    assert code == 0
    assert out.splitlines()[0].startswith("running: process ")
    assert "of 3 files" in out
    assert "last run ended" in out
    assert "finished: 2 files" in out
    code, _, err = await get("status", "out", "--watch", "--json", cwd=tmp_path)
    assert (code, "cannot be combined" in err) == (2, True)


async def test_each_shard_has_its_lines(origin: Origin, tmp_path: Path) -> None:
    manifest(origin, tmp_path)
    for shard in ("0/2", "1/2"):
        await get("get", "m.jsonl", "-o", "out", "--shard", shard, *QUICK, cwd=tmp_path)
    _, out, _ = await get("status", "out", cwd=tmp_path)
    assert "shard 0/2: last run ended" in out
    assert "shard 1/2: last run ended" in out


def test_a_status_file_of_an_earlier_version_is_read() -> None:
    counts = {"fetched": 1200, "failed": 0}
    state = {"time": 0.0, "seconds": 5.0, "counts": counts, "ended": True, "bytes_received": 5}
    (line,) = folder_lines([{"shard": None, "owner": None, "state": state}])
    assert line.endswith("after 5 s: 1,200 fetched; 5 B received")


# everything is imported first: another user may not be able to read the packages of the tests' environment
COMMANDS_OF_ANOTHER_USER = """
import contextlib, importlib, os, pkgutil, sys
import osp_fetch
for each in pkgutil.walk_packages(osp_fetch.__path__, "osp_fetch."):
    with contextlib.suppress(ImportError, SystemExit):
        if "__main__" not in each.name:
            importlib.import_module(each.name)
if os.geteuid() == 0:
    os.setuid(65534)
sys.argv = ["osp-fetch", *sys.argv[1:]]
osp_fetch.cli.main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["status"], ["status", "--sums"], ["verify"], ["verify", "--repair"], ["unpack"], ["doctor"],
        ["ctl", "status"],
    ],
)  # fmt: skip
async def test_records_of_another_user_are_reported_not_taken_for_none(
    origin: Origin, words: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:  # other users can reach it, unlike `tmp_path`
        out = Path(name)
        out.chmod(0o755)
        await fetch_all(origin.add("f", b"x"), out, settings=quick())
        (out / ".osp-fetch").chmod(0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", COMMANDS_OF_ANOTHER_USER, words[0], name, *words[1:]),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = (await process.communicate())[0].decode()
        (out / ".osp-fetch").chmod(0o700)
    assert process.returncode == 3
    assert "cannot be read: Permission denied; run as the user who fetches" in said
    assert "Traceback" not in said
