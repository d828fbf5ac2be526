"""Tests of the limits of one file: its size when no source states it, and its time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from osp_fetch import SizeLimitError, Status, TimeLimitError, entry, fetch_all
from osp_fetch.demo.server import Exchange, Server
from tests import origin as o
from tests.conftest import quick
from tests.origin import Fault, Origin, Page, noise
from tests.test_cli import QUICK, get

DATA = noise(3_000_000)


async def unknown_total(exchange: Exchange, page: Page) -> None:
    """Serve ranges without stating the length of the file."""
    start, stop = exchange.span(len(page.data)) or (0, len(page.data))
    headers = {"Content-Range": f"bytes {start}-{stop - 1}/*", "Content-Length": str(stop - start)}
    await exchange.head(206, {**page.headers, **headers})
    await exchange.raw(page.data[start:stop])


@pytest.mark.parametrize("fault", [o.endless, o.chunked, unknown_total])
async def test_a_file_of_unknown_length_is_bounded(origin: Origin, tmp_path: Path, fault: Fault) -> None:
    rows = [entry("endless", origin.add("endless", DATA, always=fault, headers={"ETag": '"1"'}))]
    rows.append(entry("other", origin.add("other", DATA)))
    report = await fetch_all(rows, tmp_path, settings=quick(limits={"file_size": "1MiB"}))
    (failure,) = report.failures
    assert isinstance(failure.error, SizeLimitError)
    assert "limits.file_size (1048576 bytes)" in str(failure.error)
    assert (tmp_path / "other").read_bytes() == DATA, "the run goes on"
    assert not (tmp_path / "endless").exists()
    held = tmp_path / ".osp-fetch/partial/endless"
    assert not held.exists() or held.stat().st_size == 0, "bytes that are of no use take no space"


@pytest.mark.parametrize(("limit", "expected"), [(2_999_999, "failed"), (3_000_000, "fetched")])
async def test_the_bound_is_exact(origin: Origin, tmp_path: Path, limit: int, expected: str) -> None:
    row = entry("f", origin.add("f", DATA, always=o.chunked))
    report = await fetch_all([row], tmp_path, settings=quick(limits={"file_size": limit}))
    assert report.outcomes[0].status == expected


async def test_a_length_that_is_stated_is_no_unknown_one(origin: Origin, tmp_path: Path) -> None:
    rows = [
        entry("by the server", origin.add("a", DATA)),
        entry("by the manifest", origin.add("b", DATA, always=o.chunked), len(DATA)),
    ]
    assert (await fetch_all(rows, tmp_path, settings=quick(limits={"file_size": 1000}))).ok


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("fault", [o.slow(100_000), o.stall(700_000)])
async def test_a_file_is_bounded_in_time_and_keeps_its_bytes(
    origin: Origin, tmp_path: Path, fault: Fault, processes: int
) -> None:
    rows = [
        entry("slow", origin.add("slow", DATA, always=fault, headers={"ETag": '"1"'})),
        entry("other", origin.add("other", DATA)),
    ]
    settings = quick(
        limits={"file_time": "2s", "processes": processes, "part_size": "16MiB"}, timeouts={"idle": 60}
    )
    report = await fetch_all(rows, tmp_path, settings=settings)
    (failure,) = report.failures
    assert isinstance(failure.error, TimeLimitError)
    assert "limits.file_time (2 s)" in str(failure.error)
    assert (tmp_path / "other").read_bytes() == DATA
    origin.pages["/slow"].always = None
    again = await fetch_all(rows, tmp_path, settings=settings)
    assert again.ok
    assert 0 < again.bytes < len(DATA), "what was held is not fetched again"
    assert (tmp_path / "slow").read_bytes() == DATA


async def test_time_that_a_file_waits_for_a_connection_does_not_count(origin: Origin, tmp_path: Path) -> None:
    rows = [
        entry(f"f{n}", origin.add(f"f{n}", noise(400_000, n), always=o.slow(1_000_000))) for n in range(8)
    ]
    settings = quick(limits={"file_time": 2, "connections": 1, "part_size": "1MiB"})
    report = await fetch_all(rows, tmp_path, settings=settings)
    assert report.counts[Status.FETCHED] == 8, report.failures
    assert report.seconds > 2


async def test_a_retry_does_not_begin_the_time_again(origin: Origin, tmp_path: Path) -> None:
    async def cut_late(exchange: Exchange, page: Page) -> None:
        await asyncio.sleep(0.2)
        await o.cut(100_000)(exchange, page)

    row = entry("f", origin.add("f", DATA, always=cut_late))
    report = await fetch_all([row], tmp_path, settings=quick(limits={"file_time": 1, "per_host": 1}))
    assert isinstance(report.failures[0].error, TimeLimitError)


@pytest.mark.parametrize(
    ("setting", "said"),
    [("limits.file_size=much", "file_size: 'much' is not a size"), ("limits.file_time=-1", "is not a time")],
)
async def test_bad_limits_are_refused(origin: Origin, tmp_path: Path, setting: str, said: str) -> None:
    code, _, err = await get("get", origin.add("f", b"x"), "--set", setting, *QUICK, cwd=tmp_path)
    assert (code, said in err, origin.requests.total()) == (2, True, 0), err


async def test_many_hosts_need_few_descriptors(origin: Origin, tmp_path: Path) -> None:
    origin.add("f", DATA[:1000])
    async with AsyncExitStack() as stack:
        hosts = [Server(origin.handle, host=f"127.0.0.{number}") for number in range(2, 202)]
        rows = []
        for server in hosts:
            await stack.enter_async_context(server)
            rows.append(f"{server.url}/f {server.url.rpartition('.')[2].partition(':')[0]}")
        (tmp_path / "m.tsv").write_text("url\tpath\n" + "\n".join(row.replace(" ", "\t") for row in rows))
        words = [sys.executable, "-m", "osp_fetch", "get", "m.tsv", "-o", "out", "-q"]
        run = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'ulimit -n 160; exec "$@"', "sh", *words),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await run.communicate()
    assert run.returncode == 0, said.decode()
