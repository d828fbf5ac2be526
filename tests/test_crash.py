"""Tests of kill -9 at any instant: final names are right or absent, and little is fetched twice."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from osp_fetch.demo.server import Blob, Content, Exchange, Server
from osp_fetch.demo.sources import MetaCdn
from tests.conftest import SHARED
from tests.origin import Origin, noise

WORDS = ["--min-free", "0", "-q", "--set", "retry.initial=0.05", "--set", "timeouts.idle=5"]


async def killed(words: list[str], delay: float, begun: asyncio.Event | None = None) -> int:
    """Run osp-fetch and send SIGKILL after a delay.

    Args:
        words: The arguments of osp-fetch.
        delay: Seconds until the kill.
        begun: The event from which `delay` counts; by default, the start of the process. Without it, a slow
            machine would be killed each time before it has requested a byte.

    Returns:
        The exit code; negative if the process was killed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", *words, env=dict(os.environ), stderr=subprocess.PIPE
    )

    async def moment() -> None:
        if begun is not None:
            await begun.wait()
        await asyncio.sleep(delay)

    ended = asyncio.create_task(process.communicate())
    due = asyncio.create_task(moment())
    await asyncio.wait({ended, due}, return_when=asyncio.FIRST_COMPLETED)
    due.cancel()
    if not ended.done():
        process.kill()
    await ended
    return process.returncode or 0


async def test_kills_at_random_moments_never_leave_a_wrong_name(origin: Origin, tmp_path: Path) -> None:
    chance = random.Random(7)
    files = {f"big{n}.bin": noise(6 << 20, n) for n in range(3)} | {
        f"small{n}.bin": noise(3000 + n, n) for n in range(60)
    }
    asked = asyncio.Event()

    async def slowly(exchange: Exchange, page: object) -> None:
        asked.set()
        content = Blob(files[exchange.path[1:]])
        origin.sent["all"] += _asked(exchange, content)
        await exchange.serve(content, rate=1e6)

    rows = ["path\turl"]
    for name, data in files.items():
        rows.append(f"d/{name}\t{origin.add(name, data, always=slowly)}")
    place = tmp_path / "m.tsv"
    place.write_text("\n".join(rows))
    out = tmp_path / "out"
    words = ["get", str(place), "-o", str(out), "-k", "1MiB", "-x", "6", *WORDS]
    kills = 0
    for _ in range(40):
        # Every fourth kill falls into the start-up, the others into the transfer.
        starting = kills % 4 == 3
        asked.clear()
        code = await killed(words, chance.uniform(0.0, 1.0), None if starting else asked)
        for final in (out / "d").glob("*"):
            assert final.read_bytes() == files[final.name], f"{final} is wrong after a kill"
        if code == 0:
            break
        kills += 1
    else:
        pytest.fail("forty runs did not finish the manifest")
    assert kills >= 2
    assert {p.name for p in (out / "d").iterdir()} == set(files)
    # A kill may cost each of the six connections one part of 1 MiB that was under way.
    total = sum(map(len, files.values()))
    assert origin.sent["all"] <= total + kills * 6 * (1 << 20) + (1 << 20)


def _asked(exchange: Exchange, content: Content) -> int:
    start, stop = exchange.span(content.length) or (0, content.length)
    return stop - start


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real link files are not present")
@pytest.mark.timeout(240)
async def test_the_real_link_file_is_mirrored_through_ten_kills_and_a_new_generation(tmp_path: Path) -> None:
    """Use Meta's link files unchanged, a TLS stand-in for the CDN, ten SIGKILLs, then fresh links."""
    authority = trustme.CA()
    certificate = authority.issue_cert("scontent.xx.fbcdn.net")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    generations = [SHARED / f"sa1b_links_2026-0{n}.tsv" for n in (1, 2)]
    names: dict[str, str] = {}
    for line in generations[0].read_text().splitlines()[1:]:
        name, link = line.split("\t")
        names[link.partition("?")[0].removeprefix("https://scontent.xx.fbcdn.net")] = name
    wrong: list[str] = []
    sent = 0
    asked = asyncio.Event()

    def content(name: str) -> bytes:
        return noise(20_000 + int.from_bytes(name.encode(), "big") % 60_000, hash_of(name))

    async def handle(exchange: Exchange) -> None:
        nonlocal sent
        asked.set()
        place, _, query = exchange.target.partition("?")
        if (
            not query.startswith("_nc_gid&ccb=10-5&oh=00_")
            or exchange.headers["host"] != "scontent.xx.fbcdn.net"
        ):
            wrong.append(exchange.target)
        data = content(names[place])
        sent += _asked(exchange, Blob(data))
        await exchange.serve(Blob(data), {"Content-Type": "application/x-tar"})

    chance = random.Random(11)
    out = tmp_path / "sam"
    async with Server(handle, tls=context) as server:
        words = ["-o", str(out), "--connect-to", f"scontent.xx.fbcdn.net:443:127.0.0.1:{server.port}"]
        words += ["--cacert", str(tmp_path / "ca.pem"), "-x", "8", *WORDS]
        for _ in range(10):
            asked.clear()
            await killed(["get", str(generations[0]), *words], chance.uniform(0.0, 0.7), asked)
        assert await killed(["get", "sam-11m", "--links", str(generations[1]), *words], 120) == 0
    assert not wrong
    assert len(names) == 1002
    published = {p.name for p in out.iterdir() if p.is_file()}
    assert published == set(names.values()) - {"sa_co_gold.tar"}
    for name in published:
        assert (out / name).read_bytes() == content(name)
    total = sum(len(content(name)) for name in published)
    assert sent <= total + 10 * (8 + 64) * 80_000  # a kill can cost the open files, 80 kB each


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % (1 << 31)


async def test_the_stand_in_for_metas_cdn_behaves_as_the_facts_say() -> None:
    cdn = MetaCdn({"sa_000000.tar": Blob(noise(100))}, clock=lambda: 100.0)
    lines = cdn.link_file("https://scontent.xx.fbcdn.net", 200).split("\n")
    assert lines[0] == "file_name\tcdn_link"
    assert "?_nc_gid&ccb=10-5&oh=00_" in lines[1]
    assert lines[1].endswith("&oe=C8&_nc_sid=0fdd51")
    assert len(cdn.path_of("sa_000000.tar")) == len("/m1/v/t6/") + 99 + len(".tar")
