"""Tests with a host of ten addresses: one is dead, one accepts and never answers.

Source: docs/sources.md, "How servers misbehave".
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from osp_fetch import fetch_all
from osp_fetch.demo.server import Exchange, Server
from tests import origin as o
from tests.conftest import quick
from tests.origin import noise

PRIVATE = ["unshare", "--mount", "sh", "-c"]  # a mount namespace, so that the test can replace /etc/hosts


async def test_one_dead_and_one_mute_address_of_ten_cost_a_moment(tmp_path: Path) -> None:
    if subprocess.run([*PRIVATE, "mount --bind /etc/hosts /etc/hosts"], check=False).returncode != 0:
        pytest.skip("this machine does not allow mount namespaces")
    files = {f"/f{n}": noise(50_000, n) for n in range(30)}
    served = set()

    def handler(address: str):  # type: ignore[no-untyped-def]
        async def handle(exchange: Exchange) -> None:
            served.add(address)
            await o.polite(exchange, o.Page(files[exchange.path]))

        return handle

    async def mute(exchange: Exchange) -> None:
        await asyncio.sleep(3600)

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Server(handler("127.0.1.3"), host="127.0.1.3"))
        port = first.port
        for n in range(4, 11):
            address = f"127.0.1.{n}"
            await stack.enter_async_context(Server(handler(address), host=address, port=port))
        await stack.enter_async_context(Server(mute, host="127.0.1.2", port=port))
        # The accept queue is full: the kernel neither accepts nor refuses further connections.
        dead = stack.enter_context(socket.create_server(("127.0.1.1", port), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(dead.getsockname())
        hosts = tmp_path / "hosts"
        hosts.write_text("".join(f"127.0.1.{n} many.test\n" for n in range(1, 11)))
        (tmp_path / "m.txt").write_text("\n".join(f"http://many.test:{port}{path}" for path in files))
        words = [sys.executable, "-m", "osp_fetch", "get", "m.txt", "-o", "out", "-q", "-x", "4"]
        words += ["--min-free", "0", "--set", "timeouts.connect=2"]
        words += ["--set", "timeouts.head=2", "--set", "retry.initial=0.05"]
        process = await asyncio.create_subprocess_exec(
            *PRIVATE, f"mount --bind hosts /etc/hosts && exec {shlex.join(words)}",
            cwd=tmp_path, env=dict(os.environ), stderr=subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate()
    assert process.returncode == 0, said
    assert len(served) >= 2
    for path, data in files.items():
        assert (tmp_path / "out" / path[1:]).read_bytes() == data


async def test_a_short_form_of_an_address_fails_at_once(tmp_path: Path) -> None:
    """aiohttp refuses 127.1: trying again would not help."""
    async with asyncio.timeout(30):
        report = await fetch_all(["http://127.1:9/f"], tmp_path, settings=quick(retry={"outage": 60}))
    (failed,) = report.failures
    assert "its URL is not valid (127.1 is not a canonical IPv4 address)" in str(failed.error)
