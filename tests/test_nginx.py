"""Tests against a real nginx: ranges, ETags, keep-alive, and a restart of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from osp_fetch import Event, Status, entry, fetch_all
from osp_fetch.model import events
from tests.conftest import quick
from tests.origin import noise

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class Nginx:
    """A real server on a loopback port that a test can start and stop."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir(mode=0o755)
        self.process: asyncio.subprocess.Process
        self.locations = ""  # further ones

    async def start(self) -> None:
        config = self.folder / "nginx.conf"
        config.write_text(
            f"""
            daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log; user root;
            events {{ worker_connections 256; }}
            http {{
              access_log {self.folder}/access.log; client_body_temp_path {self.folder}/body;
              proxy_temp_path {self.folder}/p; fastcgi_temp_path {self.folder}/f;
              uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
              server {{ listen 127.0.0.1:{self.port}; root {self.files};
                location /slow {{ alias {self.files}; limit_rate 2m; }}
                {self.locations} }}
            }}"""
        )
        assert NGINX is not None
        command = [NGINX, "-p", str(self.folder), "-e", f"{self.folder}/error.log", "-c", str(config)]
        self.process = await asyncio.create_subprocess_exec(*command)
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise AssertionError("nginx did not start")

    async def stop(self) -> None:
        self.process.terminate()
        await self.process.wait()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Nginx]:
    server = Nginx(tmp_path)
    await server.start()
    yield server
    if server.process.returncode is None:
        await server.stop()


async def test_a_tree_of_every_size(nginx: Nginx, tmp_path: Path) -> None:
    data = {f"f{n}": noise(n * n * 1500, n) for n in range(40)}
    for name, content in data.items():
        (nginx.files / name).write_bytes(content)
    rows = [entry(f"d/{name}", nginx.url(name)) for name in data]
    report = await fetch_all(rows, tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    assert {p.name: p.read_bytes() for p in (tmp_path / "out/d").iterdir()} == data


async def test_the_server_dies_in_mid_run_and_comes_back(nginx: Nginx, tmp_path: Path) -> None:
    data = noise(8 << 20)
    (nginx.files / "f").write_bytes(data)
    restarted: list[asyncio.Task[None]] = []

    async def restart() -> None:
        await nginx.stop()
        await asyncio.sleep(1.5)  # the length of the outage
        await nginx.start()

    def observe(event: Event) -> None:
        if isinstance(event, events.Wrote) and not restarted:
            restarted.append(asyncio.create_task(restart()))

    # Five attempts take at most half a second, less than the outage. The run succeeds only because the
    # circuit breaker does not count an outage of the host as a failure of its files.
    settings = quick(limits={"per_host": 2, "part_size": "1MiB"}, retry={"attempts": 5, "longest": 0.1})
    report = await fetch_all(
        [entry("f", nginx.url("slow/f"))], tmp_path / "out", settings=settings, observer=observe
    )
    await restarted[0]
    assert report.counts[Status.FETCHED] == 1, report.failures
    assert (tmp_path / "out/f").read_bytes() == data


async def test_update_asks_a_real_server_and_takes_its_times(nginx: Nginx, tmp_path: Path) -> None:
    rows = []
    for name, size in (("small", 1000), ("large", 3_000_000)):
        (nginx.files / name).write_bytes(noise(size))
        os.utime(nginx.files / name, (1e9, 1e9))
        rows.append(entry(name, nginx.url(name)))

    async def update() -> dict[Status, int]:
        report = await fetch_all(rows, tmp_path / "out", settings=quick(), update=True)
        return {status: count for status, count in report.counts.items() if count}

    assert await update() == {Status.FETCHED: 2}
    assert {(tmp_path / "out" / row.path).stat().st_mtime for row in rows} == {1e9}
    assert await update() == {Status.PRESENT: 2}
    assert [line.split()[8] for line in log(nginx)[-2:]] == ["304", "304"]
    (nginx.files / "large").write_bytes(noise(3_000_000, 1))
    assert await update() == {Status.FETCHED: 1, Status.PRESENT: 1}
    assert (tmp_path / "out/large").read_bytes() == noise(3_000_000, 1)
    (nginx.files / "small").unlink()
    assert await update() == {Status.FAILED: 1, Status.PRESENT: 1}
    assert (tmp_path / "out/small").read_bytes() == noise(1000)


def log(nginx: Nginx) -> list[str]:
    """Return the lines of the access log."""
    return (nginx.folder / "access.log").read_text().splitlines()
