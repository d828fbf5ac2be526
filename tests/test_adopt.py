"""Tests of adoption: files left by a lost ledger or another downloader, and digests that are wrong."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from osp_fetch import Entry, Event, Report, Status, entry, fetch_all
from osp_fetch.demo.server import Exchange
from osp_fetch.engine.adopt import spots
from osp_fetch.model import events
from osp_fetch.views.formatting import ledger_replaced
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256

DATA = noise(4 << 20)
LEDGER = ".osp-fetch/ledger.sqlite3"


async def get(row: Entry, folder: Path, **sections: dict[str, object]) -> Report:
    return await fetch_all([row], folder, settings=quick(**sections))


def counted(origin: Origin) -> o.Fault:
    """Return a fault that serves correctly and adds the requested bytes to `origin.sent`."""

    async def fault(exchange: Exchange, page: o.Page) -> None:
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        origin.sent[exchange.path] += stop - start
        await o.polite(exchange, page)

    return fault


def lose(folder: Path, how: str) -> None:
    ledger = folder / LEDGER
    for ending in ("-wal", "-shm"):
        ledger.with_name(ledger.name + ending).unlink(missing_ok=True)
    match how:
        case "lost":
            ledger.unlink()
        case "torn":
            ledger.write_bytes(ledger.read_bytes()[:3000])
        case "scribbled":
            ledger.write_bytes(ledger.read_bytes()[:4096] + os.urandom(8192))
        case "foreign":
            ledger.unlink()
            other = sqlite3.connect(ledger)
            other.execute("CREATE TABLE files (name TEXT, done INTEGER)")
            other.commit()
            other.close()
        case "unreleased":
            with closing(sqlite3.connect(ledger)) as db:
                db.execute("PRAGMA user_version=2")


WAYS = ["lost", "torn", "scribbled", "foreign", "unreleased"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("digest", [True, False])
async def test_finished_files_outlive_the_ledger(
    origin: Origin, tmp_path: Path, how: str, digest: bool
) -> None:
    url = origin.add("f.bin", DATA, always=counted(origin))
    row = entry("f.bin", url, None, sha256(DATA) if digest else None)
    assert (await get(row, tmp_path)).ok
    lose(tmp_path, how)
    origin.sent.clear()
    inode = (tmp_path / "f.bin").stat().st_ino
    seen: list[Event] = []
    report = await fetch_all([row], tmp_path, settings=quick(), observer=seen.append)
    assert report.counts[Status.PRESENT] == 1
    said = [(event.why, event.kept) for event in seen if isinstance(event, events.LedgerReplaced)]
    assert [kept for _, kept in said] == [f"{tmp_path / LEDGER}.damaged"] * (how != "lost")
    assert [note for note in report.notes if "ledger" in note] == [ledger_replaced(*each) for each in said]
    assert (tmp_path / "f.bin").stat().st_ino == inode
    assert origin.sent.total() <= (0 if digest else 32 << 10)
    # The adopted file is in the ledger now: the next run needs no request.
    origin.requests.clear()
    assert (await get(row, tmp_path)).counts[Status.PRESENT] == 1
    assert origin.requests.total() == 0


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("digest", [True, False])
async def test_held_bytes_outlive_the_ledger(origin: Origin, tmp_path: Path, how: str, digest: bool) -> None:
    url = origin.add("f.bin", DATA, always=counted(origin))
    row = entry("f.bin", url, None, sha256(DATA) if digest else None)
    work: asyncio.Task[Report]
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        if isinstance(event, events.Wrote):
            seen += event.count
            if seen > len(DATA) // 2:
                asyncio.get_running_loop().call_soon(work.cancel)

    slow = quick(limits={"per_host": 3, "rate": 8 << 20, "part_size": "256KiB"})
    work = asyncio.create_task(fetch_all([row], tmp_path, settings=slow, observer=observe))
    await asyncio.wait({work})
    assert work.cancelled()
    lose(tmp_path, how)
    origin.sent.clear()
    report = await get(row, tmp_path, limits={"part_size": "256KiB"})
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA
    assert origin.sent.total() < len(DATA) * 0.75


@pytest.mark.parametrize("size", [1, 5000, 70_000, 3 << 20])
async def test_another_downloaders_file_is_adopted_by_samples(
    origin: Origin, tmp_path: Path, size: int
) -> None:
    data = noise(size)
    (tmp_path / "f.bin").write_bytes(data)
    adopted: list[Event] = []
    url = origin.add("f.bin", data, always=counted(origin))
    report = await fetch_all([entry("f.bin", url)], tmp_path, settings=quick(), observer=adopted.append)
    assert report.counts[Status.PRESENT] == 1
    assert report.outcomes[0].digest == sha256(data)
    assert origin.sent.total() <= max(32 << 10, min(size, 64 << 10))
    assert [e.proof for e in adopted if isinstance(e, events.Adopted)] == ["samples"]
    assert "1 file that was here already: only samples were compared" in report.notes[0]


@pytest.mark.parametrize("update", [True, False])
async def test_what_samples_took_for_right_is_kept_when_a_digest_says_otherwise(
    origin: Origin, tmp_path: Path, update: bool
) -> None:
    mine = bytearray(DATA)
    mine[1_234_567:1_234_571] = b"mine"
    (tmp_path / "f.bin").write_bytes(mine)
    url = origin.add("f.bin", DATA)
    assert (await get(entry("f.bin", url), tmp_path)).counts[Status.PRESENT] == 1
    (tmp_path / "sums").write_text(f"{sha256(DATA)}  f.bin\n")
    if update:
        origin.add("f.bin", noise(4 << 20, 7))
    sums = [] if update else [tmp_path / "sums"]
    row = entry("f.bin", url)
    report = await fetch_all([row], tmp_path, settings=quick(), update=update, checksums=sums)
    assert report.counts[Status.FETCHED] == 1, report.failures
    assert (tmp_path / "f.bin").read_bytes() == (noise(4 << 20, 7) if update else DATA)
    assert (tmp_path / ".osp-fetch/replaced/f.bin").read_bytes() == mine


async def test_what_a_run_has_fetched_stays_its_own_when_it_is_looked_at_anew(
    origin: Origin, tmp_path: Path
) -> None:
    row = entry("f.bin", origin.add("f.bin", DATA, headers={"ETag": '"1"'}))
    assert (await get(row, tmp_path)).ok
    assert (await fetch_all([row], tmp_path, settings=quick(), recheck=True)).ok
    os.utime(tmp_path / "f.bin", (1, 1))  # as a copy of the folder looks
    assert (await get(row, tmp_path)).ok
    newer = noise(4 << 20, 7)
    origin.add("f.bin", newer, headers={"ETag": '"2"'})
    report = await fetch_all([row], tmp_path, settings=quick(), update=True)
    assert report.counts[Status.FETCHED] == 1, report.failures
    assert (tmp_path / "f.bin").read_bytes() == newer
    assert not (tmp_path / ".osp-fetch/replaced").exists()


def truncated(data: bytearray) -> None:
    data[-100_000:] = bytes(100_000)


def holed(data: bytearray) -> None:
    data[1_000_000:1_100_000] = bytes(100_000)


def altered_at_a_spot(data: bytearray) -> None:
    data[spots("f.bin", len(data))[2].start] ^= 1


@pytest.mark.parametrize("harm", [truncated, holed, altered_at_a_spot])
async def test_another_downloaders_wrong_file_is_replaced(origin: Origin, tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    left = bytearray(DATA)
    harm(left)
    (tmp_path / "f.bin").write_bytes(left)
    report = await get(entry("f.bin", origin.add("f.bin", DATA)), tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA


async def test_a_file_that_aria2_is_not_done_with_is_not_adopted(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(DATA)
    (tmp_path / "f.bin.aria2").write_bytes(b"")
    report = await get(entry("f.bin", origin.add("f.bin", DATA)), tmp_path)
    assert report.counts[Status.FETCHED] == 1


async def test_without_ranges_nothing_is_adopted_by_samples(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(DATA)
    report = await get(entry("f.bin", origin.add("f.bin", DATA, always=o.rangeless)), tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA


async def test_dead_links_do_not_cost_another_downloaders_file(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(DATA)
    url = origin.add("f.bin", DATA, always=o.status(403, "URL signature expired"))
    assert (await get(entry("f.bin", url), tmp_path)).counts[Status.PARKED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA


async def test_zeros_where_bytes_were_lost_are_fetched_again(origin: Origin, tmp_path: Path) -> None:
    """A power loss can leave no ledger, no digest and a partial with zeros in its middle."""
    left = bytearray(DATA[: 3 << 20])
    holed(left)
    place = tmp_path / ".osp-fetch/partial/f.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(left)
    report = await get(entry("f.bin", origin.add("f.bin", DATA)), tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA


# Digests that are wrong in the list.

WRONG = "sha256:" + "0" * 64


async def test_bytes_with_a_wrong_published_digest_are_kept_aside(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("d/f.bin", DATA, always=counted(origin), headers={"ETag": '"1"'})
    report = await get(entry("d/f.bin", url, None, WRONG), tmp_path)
    assert report.counts[Status.FAILED] == 1
    assert "probably wrong" in str(report.failures[0].error)
    assert not (tmp_path / "d/f.bin").exists()
    assert (tmp_path / ".osp-fetch/aside/d/f.bin").read_bytes() == DATA
    assert origin.sent.total() == 2 * len(DATA)  # one retry, no loop
    # The same command again does not fetch the complete file again.
    origin.sent.clear()
    report = await get(entry("d/f.bin", url, None, WRONG), tmp_path)
    assert report.counts[Status.FAILED] == 1
    assert "correct the digest" in str(report.failures[0].error)
    assert origin.sent.total() <= 32 << 10
    # With a corrected list nothing is fetched.
    origin.requests.clear()
    report = await get(entry("d/f.bin", url, None, sha256(DATA)), tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "d/f.bin").read_bytes() == DATA
    assert origin.requests.total() == 0


async def test_bytes_with_a_wrong_published_digest_come_once_a_run_without_a_validator(
    origin: Origin, tmp_path: Path
) -> None:
    """ModelScope sends no ETag: only the bytes show whether they have been corrected."""
    url = origin.add("f.bin", DATA, always=counted(origin))
    for times in (2, 1, 1):
        origin.sent.clear()
        report = await get(entry("f.bin", url, None, WRONG), tmp_path)
        assert "probably wrong" in str(report.failures[0].error)
        assert origin.sent.total() <= times * len(DATA) + (64 << 10)
        assert (tmp_path / ".osp-fetch/aside/f.bin").read_bytes() == DATA
    right = noise(4 << 20, 8)
    origin.add("f.bin", right)
    report = await get(entry("f.bin", url, None, sha256(right)), tmp_path)
    assert report.ok, report.failures
    assert (tmp_path / "f.bin").read_bytes() == right


async def test_what_was_set_aside_gives_way_to_a_corrected_server(origin: Origin, tmp_path: Path) -> None:
    bad = noise(len(DATA), 9)
    url = origin.add("f.bin", bad)
    row = entry("f.bin", url, None, sha256(DATA))
    assert (await get(row, tmp_path)).counts[Status.FAILED] == 1
    origin.add("f.bin", DATA)
    assert (await get(row, tmp_path)).counts[Status.FETCHED] == 1
    assert (tmp_path / "f.bin").read_bytes() == DATA
    assert not (tmp_path / ".osp-fetch/aside/f.bin").exists()


async def test_bytes_that_differ_each_time_are_not_kept(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f.bin", noise(90_000, 1), o.replaced(noise(90_000, 2)), o.replaced(noise(90_000, 3)))
    report = await get(entry("f.bin", url, None, WRONG), tmp_path, limits={"part_size": "1MiB"})
    assert report.counts[Status.FAILED] == 1
    assert not (tmp_path / ".osp-fetch/aside/f.bin").exists()
