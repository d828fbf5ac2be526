"""Tests of what killed and stopped runs leave in a bucket, on a SeaweedFS server. Not run on AWS."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from osp_fetch import Entry, Status, fetch_all
from osp_fetch.model.entry import entry
from tests.conftest import quick
from tests.held import Held
from tests.origin import Origin, noise
from tests.s3_proxy import Call, Proxy, cuts, proxied
from tests.seaweed import Seaweed
from tests.test_cli import QUICK, start

PART = 8 << 20
LARGE = noise(2 * PART + 777, 1)


class Killed:
    """A run of `get` in a process that a proxy kills once the store has done what a request asks for.

    Args:
        kind: the operation during which it is killed.
        state: the local state folder.
    """

    def __init__(self, kind: str, state: Path) -> None:
        self._kind, self._state = kind, state
        self._process: asyncio.subprocess.Process | None = None

    async def __call__(self, proxy: Proxy, call: Call, request: Any) -> Any:
        if call.kind != self._kind:
            return None
        await proxy.passed_on(call, request)
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        return await cuts(proxy, call, request) if request.transport else web.Response()

    async def run(self, link: str, target: str) -> int:
        """Run it and return the exit code."""
        words = ("get", link, "-o", target, "--state", str(self._state), "-q", "-k", "4MiB")
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "osp_fetch", *words), env=dict(os.environ)
        )
        return await self._process.wait()


@pytest.mark.parametrize("kind", ["CreateMultipartUpload", "CompleteMultipartUpload", "Abort"])
async def test_what_a_killed_run_did_last_is_tidied_up_by_the_next(
    origin: Origin, seaweed: Seaweed, held: Held, bucket: str, tmp_path: Path, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    foreign = held.client.create_multipart_upload(Bucket=bucket, Key="p/f")["UploadId"]
    held.client.upload_part(Bucket=bucket, Key="p/f", UploadId=foreign, PartNumber=1, Body=b"of another")
    wrong = "sha256:" + "0" * 64 if kind == "Abort" else None
    link, state = origin.add("f", LARGE), tmp_path / "state"
    if wrong:
        (tmp_path / "m.csv").write_text(f"url,sha256\n{link},{wrong}\n")
    run = Killed(kind, state)
    async with proxied(seaweed.url) as proxy:
        proxy.fault = run
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        code = await run.run(str(tmp_path / "m.csv") if wrong else link, f"s3://{bucket}/p")
        assert code == -signal.SIGKILL
        assert proxy.counts[kind] >= 1
        proxy.fault = None
        report = await fetch_all(
            [entry("f", link)], f"s3://{bucket}/p", settings=quick(), state=state
        )  # fmt: skip
    assert report.ok, report.failures
    assert held.data("p/f") == LARGE
    assert held.every() == ["p/f"], "no note is left"
    assert held.uploads() == ["p/f"], "that of the other program is left alone"
    held.client.abort_multipart_upload(Bucket=bucket, Key="p/f", UploadId=foreign)
    assert held.uploads() == []


async def test_a_run_that_is_stopped_while_an_upload_begins_records_it(
    origin: Origin, seaweed: Seaweed, held: Held, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def late(proxy: Proxy, call: Call, request: Any) -> Any:
        if call.kind != "CreateMultipartUpload":
            return None
        reply = await proxy.passed_on(call, request)
        begun.set()
        await stopped.wait()
        return reply

    wanted: list[Entry] = [entry("f", origin.add("f", LARGE))]
    async with proxied(seaweed.url) as proxy:
        proxy.fault = late
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        target, state = f"s3://{bucket}/p", tmp_path / "state"
        run = asyncio.create_task(fetch_all(wanted, target, settings=quick(), state=state))
        await begun.wait()
        run.cancel()
        asyncio.get_running_loop().call_later(0.2, stopped.set)
        await asyncio.wait({run})
        assert held.uploads() == ["p/f"]
        report = await fetch_all(wanted, target, settings=quick(), state=state)
    assert report.counts[Status.FETCHED] == 1
    assert (held.every(), held.uploads()) == (["p/f"], [])


async def test_a_note_whose_writing_was_cut_off_is_removed(origin: Origin, held: Held, bucket: str) -> None:
    """SeaweedFS creates an empty object from a request that is cut off before its body."""
    held.put("p/.osp-fetch/uploads/run/0123", b"")
    report = await fetch_all([entry("f", origin.add("f", b"1"))], f"s3://{bucket}/p", settings=quick())
    assert report.ok
    assert held.every() == ["p/f"]


@pytest.mark.parametrize("kind", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
async def test_a_copy_on_the_server_that_was_killed_is_tidied_up_by_the_next(
    seaweed: Seaweed, held: Held, bucket: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.client.put_object(Bucket=bucket, Key="from/f", Body=LARGE, ChecksumAlgorithm="CRC64NVME")
    run, source, target = Killed(kind, tmp_path / "state"), f"s3://{bucket}/from/f", f"s3://{bucket}/p"
    async with proxied(seaweed.url) as proxy:
        proxy.fault = run
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        assert await run.run(source, target) == -signal.SIGKILL
        assert proxy.counts[kind] == 1
        proxy.fault = None
        assert await run.run(source, target) == 0
    assert held.data("p/f") == LARGE
    assert (held.every(), held.uploads()) == (["from/f", "p/f"], [])


async def test_a_stop_is_heard_while_the_store_does_not_answer(tmp_path: Path) -> None:
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "XDG_STATE_HOME": str(tmp_path)}
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        words = ("http://127.0.0.1:1/f", "-o", "s3://bucket/x", "--s3-endpoint", f"http://127.0.0.1:{port}")
        run = await start("get", *words, *QUICK, cwd=tmp_path, environment=keys)
        await connected.wait()
        run.send_signal(signal.SIGTERM)
        assert await run.wait() == 75
