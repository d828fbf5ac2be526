"""Tests with Google Drive: gdown proves the emulator, and osp-fetch then gets the same bytes."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from osp_fetch import Event, FetchOptions, Report, Status, fetch_all
from osp_fetch.demo.gdrive import Drive, DriveFile
from osp_fetch.demo.server import Server
from osp_fetch.model import events
from osp_fetch.model.errors import CredentialsError
from tests.conftest import quick
from tests.origin import noise

FOLDER, INSIDE = "1Eesj6HTqT1kCi6QLyL5j0mL_ELYRp3GV", "1Inside_Folder_0123456789abcdefg"
SMALL = DriveFile("1small_file_0123456789abcdefgh", "notes.bin", noise(5000, 1))
LARGE = DriveFile("1large_file_0123456789abcdefgh", "images.zip", noise(700_000, 2))
DEEP = DriveFile("1deep_file__0123456789abcdefgh", "a b.bin", noise(150_000, 3))
TREE = {"notes.bin": SMALL.data, "images.zip": LARGE.data, "sub/a b.bin": DEEP.data}
HOSTS = ("drive.google.com", "drive.usercontent.google.com", "www.googleapis.com")


@dataclass
class World:
    """A Drive emulator behind TLS, and a proxy that connects requests for Google's hosts to it."""

    drive: Drive
    port: int
    proxy: str
    ca: Path
    now: float = 1000.0

    @property
    def options(self) -> FetchOptions:
        rules = [f"{host}:443:127.0.0.1:{self.port}" for host in HOSTS]
        return {"settings": quick(), "connect_to": rules, "cafile": str(self.ca)}


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Connect a CONNECT request for one of Google's hosts to the local `port`."""
    head = await reader.readuntil(b"\r\n\r\n")
    match = re.match(rb"CONNECT ([^:]+):443 ", head)
    assert match
    assert match[1].decode() in HOSTS
    there, back = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def pump(source: asyncio.StreamReader, store: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                store.write(data)
                await store.drain()
        store.close()

    await asyncio.gather(pump(reader, back), pump(there, writer))


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    drive = Drive({FOLDER: ("AnyText", [SMALL, LARGE], [INSIDE]), INSIDE: ("sub", [DEEP], [])})
    async with Server(drive.handle, tls=context) as server:
        proxy = await asyncio.start_server(lambda r, w: tunnel(r, w, server.port), "127.0.0.1", 0)
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        made = World(drive, server.port, address, ca)
        drive.clock = lambda: made.now
        monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
        # gdown and the client of Drive's API obey these variables.
        for name, value in {"https_proxy": address, "REQUESTS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca}.items():
            monkeypatch.setenv(name, str(value))
        yield made
        proxy.close()


def tree(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".")}


async def get(
    world: World, source: str, folder: Path, observer: Callable[[Event], None] | None = None
) -> Report:
    options = world.options
    if observer is not None:
        options["observer"] = observer
    return await fetch_all(source, folder, **options)


async def test_gdown_and_ours_get_the_same_bytes(world: World, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gdown", "--folder", f"https://drive.google.com/drive/folders/{FOLDER}",
        "-O", str(tmp_path / "theirs"), "--no-cookies",
        env={**os.environ, "HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]
    assert tree(tmp_path / "theirs") == TREE
    report = await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "ours")
    assert report.ok, report.failures
    assert tree(tmp_path / "ours") == TREE


@pytest.mark.parametrize("folder", [FOLDER, INSIDE])
async def test_a_page_in_place_of_a_folder_is_not_an_empty_folder(
    world: World, tmp_path: Path, folder: str
) -> None:
    pytest.importorskip("gdown")
    world.drive.private = {folder}
    with pytest.raises(CredentialsError, match="another page in place of the list"):
        await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "out")


async def test_an_empty_folder_has_no_files_and_is_no_error(world: World, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    world.drive.folders[INSIDE] = ("sub", [], [])
    assert (await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "out")).ok
    assert set(tree(tmp_path / "out")) == {"notes.bin", "images.zip"}


async def test_one_file_by_its_id(world: World, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    assert (await get(world, f"gdrive://files/{LARGE.id}", tmp_path / "out")).ok
    assert tree(tmp_path / "out") == {"images.zip": LARGE.data}


async def test_a_link_that_is_cut_after_an_hour_is_asked_for_again_at_the_same_byte(
    world: World, tmp_path: Path
) -> None:
    pytest.importorskip("gdown")

    def observe(event: Event) -> None:
        if isinstance(event, events.Wrote) and world.now == 1000.0:
            world.now += 4000

    report = await get(world, f"gdrive://files/{LARGE.id}", tmp_path / "out", observer=observe)
    assert report.ok, report.failures
    assert tree(tmp_path / "out") == {"images.zip": LARGE.data}
    assert len(world.drive.links) >= 2


async def test_a_quota_page_parks_the_file_with_a_clock(world: World, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    world.drive.quota = {LARGE.id}
    report = await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "out")
    assert (report.counts[Status.FETCHED], report.counts[Status.PARKED]) == (2, 1)
    said = str(report.failures[0].error)
    assert "24 hours" in said
    assert "modelscope://" in said
    assert world.drive.requests["drive.google.com/uc"] <= 5  # one listing and one request per file: no loop
    world.drive.quota = set()
    assert (await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "out")).ok
    assert tree(tmp_path / "out") == TREE


async def test_with_an_api_key_sizes_and_digests_are_known(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "key")
    report = await get(world, f"gdrive://folders/{FOLDER}", tmp_path / "out")
    assert report.ok, report.failures
    assert all(str(outcome.digest).startswith("md5:") for outcome in report.outcomes)
    assert tree(tmp_path / "out") == TREE


async def test_a_file_that_is_not_public_is_said(world: World, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    rows = [{"url": "https://drive.google.com/uc?id=nothing", "path": "f.zip"}]
    report = await fetch_all(iter(rows), tmp_path / "out", **world.options)
    assert report.counts[Status.FAILED] == 1
    assert "404" in str(report.failures[0].error)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_page_that_needs_gdown_fails_its_file_with_the_command_that_installs_it(
    world: World,
    tmp_path: Path,
    without: Callable[..., subprocess.CompletedProcess[str]],
    processes: str,
) -> None:
    link = "https://drive.google.com/uc?id="
    (tmp_path / "m.csv").write_text(f"url,path\n{link}{LARGE.id},l.zip\n{link}{SMALL.id},s.bin\n")
    rules = [word for rule in world.options["connect_to"] for word in ("--connect-to", rule)]
    words = ["get", "m.csv", "-o", "out", "--min-free", "0", "--cacert", str(world.ca), *rules]
    done = await asyncio.to_thread(
        without, {"gdown"}, *words, "--processes", processes, https_proxy="", no_proxy="*"
    )
    assert done.returncode == 1
    assert "pip install 'osp-fetch[gdrive]'" in done.stderr
    assert "bug" not in done.stderr
    assert tree(tmp_path / "out") == {"s.bin": SMALL.data}
