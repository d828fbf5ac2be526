"""Tests of Meta's link files, unchanged, into a SeaweedFS bucket, with links that die in mid-run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from osp_fetch.demo.server import Blob, Exchange, Server
from tests.conftest import SHARED
from tests.held import Held
from tests.origin import noise

HOST = "scontent.xx.fbcdn.net"
GENERATIONS = [SHARED / f"sa1b_links_2026-0{month}.tsv" for month in (1, 2)]
PART = 8 << 20
CONNECTIONS = 4
CHOSEN = "sa_0000[01]?.tar"


def links_of(place: Path) -> dict[str, str]:
    """Return name → path and query of each row of a link file."""
    rows = [line.split("\t") for line in place.read_text().splitlines()[1:]]
    return {name: link.removeprefix(f"https://{HOST}") for name, link in rows}


def content(name: str) -> bytes:
    """Return the stand-in for a tar: every fourth has several parts of an upload."""
    number = int(name[3:9])
    return noise(2 * PART + 999 if number % 4 == 0 else 40_000 + number, number)


@dataclass
class Cdn:
    """A stand-in for Meta's CDN, which takes the links of one generation, byte for byte.

    Attributes:
        alive: path and query → name.
        dead: path and query of links that have expired.
        other: targets of requests with a link that is in neither generation.
        dies_at: bytes after which all links of the generation are dead.
        sent: bytes that were asked for with living links.
        refused: path and query of requests with dead links.
        asked: name → bytes that were asked for.
    """

    alive: dict[str, str]
    dies_at: int
    dead: set[str] = field(default_factory=set)
    other: list[str] = field(default_factory=list)
    sent: int = 0
    refused: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)

    def unfinished(self, names: list[str]) -> int:
        """Return the number of files that were not asked for to their end."""
        return sum(self.asked[name] < len(content(name)) for name in names)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        if self.sent >= self.dies_at and not self.dead:
            self.dead, self.alive = set(self.alive), {}
        if name := self.alive.get(exchange.target):
            data = content(name)
            start, stop = exchange.span(len(data)) or (0, len(data))
            self.sent += stop - start
            self.asked[name] += stop - start
            await exchange.serve(Blob(data), {"Content-Type": "application/x-tar"}, rate=4e6)
        elif exchange.target in self.dead:
            self.refused.add(exchange.target)
            await exchange.answer(403, "URL signature expired", {"Content-Type": "text/plain"})
        else:
            self.other.append(exchange.target)
            await exchange.answer(403, "URL signature mismatch", {"Content-Type": "text/plain"})


def by_target(place: Path) -> dict[str, str]:
    """Return path and query → name for the rows of a link file."""
    return {target: name for name, target in links_of(place).items()}


def replace_links(place: Path, generation: int) -> None:
    """Put a link file in its place, as a user does."""
    fresh = place.with_suffix(".fresh")
    shutil.copyfile(GENERATIONS[generation], fresh)
    fresh.replace(place)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real link files are not present")
@pytest.mark.parametrize("mode", ["exit", "wait"])
async def test_the_real_link_file_is_mirrored_into_a_bucket_though_its_links_die(
    held: Held, bucket: str, tmp_path: Path, mode: str
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    names = sorted(name for name in links_of(GENERATIONS[0]) if Path(name).match(CHOSEN))
    total = sum(len(content(name)) for name in names)
    cdn, links = Cdn(by_target(GENERATIONS[0]), total // 2), tmp_path / "links.tsv"
    replace_links(links, 0)
    async with Server(cdn.handle, tls=context) as server:
        words = ["get", "sam-11m", "--links", str(links), "-o", f"s3://{bucket}/sam", "--include", CHOSEN]
        words += ["--connect-to", f"{HOST}:443:127.0.0.1:{server.port}", "-q", "-x", str(CONNECTIONS)]
        words += ["--cacert", str(tmp_path / "ca.pem"), "--on-expired", mode, "--set", "retry.initial=0.05"]

        async def run() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "osp_fetch", *words), env=dict(os.environ), stderr=subprocess.PIPE
            )

        process = await run()
        if mode == "exit":
            _, said = await process.communicate()
            assert process.returncode == 4, said.decode()
            seen = [key for key in await asyncio.to_thread(held.every) if "/.osp-fetch/" not in key]
            assert 0 < len(seen) < len(names)
            assert all(held.data(key) == content(key.removeprefix("sam/")) for key in seen)
        else:
            # a job that is refused after fresh links were read is not renewed by them (engine/run.py)
            try:
                await until(lambda: len(cdn.refused) >= cdn.unfinished(names) > 0)
            except TimeoutError:
                process.kill()
                raise
        cdn.alive = by_target(GENERATIONS[1])
        replace_links(links, 1)
        if mode == "exit":
            process = await run()
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    assert cdn.other == []
    found = {key: hashlib.sha256(held.data(key)).digest() for key in held.every()}
    assert found == {f"sam/{name}": hashlib.sha256(content(name)).digest() for name in names}
    assert held.uploads() == []
    assert cdn.sent <= total + CONNECTIONS * PART + PART, "only what was not recorded comes again"
