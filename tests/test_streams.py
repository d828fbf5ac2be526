"""Tests that the loss of stdout, stderr or the terminal costs a run nothing but its messages."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, manifest

FILES = 5


async def shell(command: str, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """Run `command` in Bash, with `$OSP` as osp-fetch; return the exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        cwd=cwd,
        env={**os.environ, "OSP": f"{sys.executable} -m osp_fetch", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def words(place: Path, *more: str) -> str:
    return shlex.join(["get", str(place), "-o", "out", "--verbose", *QUICK, *more])


def check_whole(folder: Path, size: int = 1000) -> None:
    for n in range(FILES):
        assert (folder / f"out/d/f{n}.bin").read_bytes() == noise(size, n)


@pytest.mark.parametrize(
    ("streams", "more"),
    [
        ("2>&-", ()),
        (">&-", ("--json",)),
        ("<&-", ("--processes", "2")),
        ("<&- >&- 2>&-", ()),
        ("<&- >&- 2>&-", ("--processes", "2", "--json")),
        ("2>&1 | :", ()),
        ("2> >(:) | :", ("--json",)),
        ("2> /dev/full", ()),
    ],
)
async def test_closed_streams_cost_nothing(
    origin: Origin, tmp_path: Path, streams: str, more: tuple[str, ...]
) -> None:
    place = manifest(origin, tmp_path, FILES)
    script = f"$OSP {words(place, *more)} {streams}; echo codes ${{PIPESTATUS[0]}}"
    _, out, err = await shell(script, tmp_path)
    assert out.endswith("codes 0\n"), out + err
    assert "Traceback" not in out + err
    check_whole(tmp_path)
    # nothing that was meant for a stream went into a file that was opened under its number
    code, out, err = await get("verify", "out", "--json", cwd=tmp_path)
    assert (code, json.loads(out)["counts"]) == (0, {"ok": FILES}), err


@pytest.mark.parametrize("streams", ["2>&1 | head -n 1", "--json 2>&1 | head -c 1", ">&- 2>&-"])
async def test_the_exit_code_is_that_of_the_work(origin: Origin, tmp_path: Path, streams: str) -> None:
    place = manifest(origin, tmp_path, FILES)
    del origin.pages["/f3"]
    _, out, err = await shell(f"$OSP {words(place)} {streams}; echo codes ${{PIPESTATUS[0]}}", tmp_path)
    assert out.endswith("codes 1\n"), out + err
    assert "Traceback" not in out + err


async def test_other_commands_end_quietly_where_their_reader_has_gone(origin: Origin, tmp_path: Path) -> None:
    await get("get", manifest(origin, tmp_path, FILES), "-o", "out", *QUICK, cwd=tmp_path)
    for command in ("status out --sums", "verify out --json", "config show", "get --help"):
        _, out, err = await shell(f"$OSP {command} | :; echo codes ${{PIPESTATUS[0]}}", tmp_path)
        assert (out, err) == ("codes 0\n", "")


async def test_a_full_disk_under_stdout_is_not_hidden(origin: Origin, tmp_path: Path) -> None:
    place = manifest(origin, tmp_path, FILES)
    code, _, err = await shell(f"$OSP {words(place, '--json')} > /dev/full", tmp_path)
    assert code == 3
    assert "stdout cannot be written (No space left on device)" in err
    assert "Traceback" not in err
    check_whole(tmp_path)


class Terminal:
    """A pseudo-terminal whose other end can be closed."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.said = b""

    def read(self) -> None:
        """Read what was written, as a terminal does, so that a writer never waits."""
        with suppress(OSError):  # EIO: no process has the other end open
            self.said += os.read(self._ours, 1 << 16)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)

    async def started(self, cwd: Path, *words: str | Path, controlling: bool) -> asyncio.subprocess.Process:
        def take() -> None:
            os.setsid()
            if controlling:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "osp_fetch", *map(str, words)),
            cwd=cwd,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            preexec_fn=take,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(self.theirs)
        asyncio.get_running_loop().add_reader(self._ours, self.read)
        return process


async def test_a_terminal_that_goes_away_costs_a_run_in_the_background_nothing(
    origin: Origin, tmp_path: Path
) -> None:
    place = manifest(origin, tmp_path, FILES, size=400_000)
    for page in origin.pages.values():
        page.always = o.slow(400_000)
    terminal = Terminal()
    process = await terminal.started(tmp_path, *shlex.split(words(place)), controlling=False)
    while not origin.open or b"connections" not in terminal.said:
        await asyncio.sleep(0.01)
    terminal.close()
    assert await process.wait() == 0
    check_whole(tmp_path, 400_000)


async def test_a_closed_terminal_saves_and_stops(origin: Origin, tmp_path: Path) -> None:
    data = noise(4 << 20)
    url = origin.add("f.bin", data, o.stall(3 << 20))
    terminal = Terminal()
    process = await terminal.started(tmp_path, "get", url, "-o", "out", *QUICK, controlling=True)
    while not (tmp_path / "out/.osp-fetch/partial/f.bin").exists():
        await asyncio.sleep(0.01)
    terminal.close()
    assert await process.wait() == 75
    _, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    assert json.loads(out)["held_bytes"] > 0
    log = (tmp_path / "out/.osp-fetch/events.jsonl").read_text()
    assert '"stopped": "SIGHUP"' in log
    assert (await get("get", url, "-o", "out", *QUICK, cwd=tmp_path))[0] == 0
    assert (tmp_path / "out/f.bin").read_bytes() == data


async def test_nohup_outlives_sighup(origin: Origin, tmp_path: Path) -> None:
    data = noise(1 << 20)
    url = origin.add("f.bin", data, always=o.slow(1 << 20))
    arguments = shlex.join(["get", url, "-o", "out", *QUICK])
    running = asyncio.create_task(shell(f"nohup $OSP {arguments} & echo $! > pid; wait $!", tmp_path))
    while not origin.open:
        await asyncio.sleep(0.01)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGHUP)
    code, _, err = await running
    assert code == 0, err
    assert (tmp_path / "out/f.bin").read_bytes() == data
