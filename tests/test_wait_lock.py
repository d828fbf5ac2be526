"""Tests of `--wait-lock`: a folder in use is waited for, and then fails as without the flag."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from osp_fetch import Event, FolderBusyError, FolderWaiting, Status, entry, fetch_all
from osp_fetch.storage.folder.run_lock import RunLock
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start

SETTINGS = quick()


async def said(process: asyncio.subprocess.Process, text: bytes) -> None:
    """Return when the process has printed `text`."""
    assert process.stderr is not None
    while text not in (line := await process.stderr.readline()):
        assert line, "it has ended"


async def test_a_run_waits_until_the_other_has_ended(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(1000), o.silent)
    first = await start("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    while not origin.open:
        await asyncio.sleep(0.01)
    second = await start("get", url, "-o", "out", "--wait-lock", "1m", *QUICK, cwd=tmp_path)
    await said(second, f"process {first.pid} on".encode())
    assert origin.requests.total() == 1
    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 75
    assert await second.wait() == 0
    assert (tmp_path / "out/f").read_bytes() == noise(1000)


async def test_after_the_time_it_fails_as_without_the_flag(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(1000))
    with RunLock(tmp_path / "out/.osp-fetch"):
        found = [
            await get("get", url, "-o", "out", *QUICK, *more, cwd=tmp_path)
            for more in ([], ["--wait-lock", "0"], ["--wait-lock", "100ms"])
        ]
    assert [code for code, _, _ in found] == [6, 6, 6]
    lines = [err.splitlines()[-1] for _, _, err in found]
    assert set(lines) == {lines[0]}
    assert f"process {os.getpid()}" in lines[0]
    assert origin.requests.total() == 0


@pytest.mark.parametrize(
    ("number", "more", "code"),
    [(signal.SIGINT, (), 130), (signal.SIGTERM, (), 75), (None, ("--max-duration", "1s"), 75)],
)
async def test_a_waiting_run_can_be_stopped(
    origin: Origin, tmp_path: Path, number: signal.Signals | None, more: tuple[str, ...], code: int
) -> None:
    url = origin.add("f", noise(1000))
    with RunLock(tmp_path / "out/.osp-fetch"):
        words = ("get", url, "-o", "out", "--wait-lock", "1h", *more, *QUICK)
        process = await start(*words, cwd=tmp_path)
        await said(process, b"waiting: ")
        if number is not None:
            process.send_signal(number)
        _, err = await process.communicate()
    assert process.returncode == code
    assert b"Run the same command again" in err
    assert b"Traceback" not in err
    assert origin.requests.total() == 0


async def test_the_library_waits_too_and_says_so_once(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", noise(1000)))
    seen: list[Event] = []
    lock = RunLock(tmp_path / ".osp-fetch")
    lock.__enter__()

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, FolderWaiting):
            asyncio.get_running_loop().call_later(1.5, lock.__exit__)

    report = await fetch_all([row], tmp_path, settings=SETTINGS, wait_lock="30s", observer=observe)
    assert report.counts[Status.FETCHED] == 1
    assert [type(event) for event in seen].count(FolderWaiting) == 1


async def test_a_cancelled_wait_leaves_no_lock(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", noise(1000)))
    with RunLock(tmp_path / ".osp-fetch"):
        waiting = asyncio.create_task(fetch_all([row], tmp_path, settings=SETTINGS, wait_lock=60))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(FolderBusyError):
            await fetch_all([row], tmp_path, settings=SETTINGS)
    assert (await fetch_all([row], tmp_path, settings=SETTINGS)).ok


@pytest.mark.parametrize("time", ["soon", "-1", "1 fortnight"])
async def test_a_time_that_is_none_is_refused(origin: Origin, tmp_path: Path, time: str) -> None:
    url = origin.add("f", noise(1000))
    code, _, err = await get("get", url, "--wait-lock", time, *QUICK, cwd=tmp_path)
    assert (code, "is not a time" in err, origin.requests.total()) == (2, True, 0), err
    with pytest.raises(TypeError, match="wait_lock="):
        await fetch_all([url], tmp_path, wait_lock=time)


@pytest.mark.parametrize(("first", "second"), [(".", "shards/0-of-4"), ("shards/3-of-32", ".")])
def test_a_run_over_all_files_and_one_over_a_shard_keep_each_other_out(
    tmp_path: Path, first: str, second: str
) -> None:
    state = tmp_path / ".osp-fetch"
    with RunLock(state / first, is_run=True):
        with (
            pytest.raises(FolderBusyError, match="works in this folder") as caught,
            RunLock(state / second, is_run=True),
        ):
            pass
        assert caught.value.is_whole == (first == ".")
        with RunLock(state / "shards/1-of-4", is_run=first != "."):
            pass
    with RunLock(state / second, is_run=True):
        assert (state / first / "lock").read_bytes() == b""


async def test_shards_of_another_number_are_refused(origin: Origin, tmp_path: Path) -> None:
    """They would fetch the same files, and each take those of the other for files of the user."""
    links = [origin.add(f"f{n}", noise(1000, n)) for n in range(4)]
    with RunLock(tmp_path / ".osp-fetch/shards/0-of-3", is_run=True):
        for shard in ("0/2", "1/2"):
            with pytest.raises(FolderBusyError, match="a run over one of 3 shards works in this folder"):
                await fetch_all(links, tmp_path, settings=quick(), shard=shard)
        assert (await fetch_all(links, tmp_path, settings=quick(), shard="1/3")).ok
    assert (await fetch_all(links, tmp_path, settings=quick(), shard="0/2")).ok


def test_the_lock_that_a_killed_run_of_another_machine_left_keeps_nobody_out(tmp_path: Path) -> None:
    left = tmp_path / ".osp-fetch/shards/0-of-2/lock"
    left.parent.mkdir(parents=True)
    left.write_text('{"pid": 1, "host": "elsewhere", "since": 0, "token": "x"}')
    with RunLock(tmp_path / ".osp-fetch", beat=0.05, is_run=True):
        pass
