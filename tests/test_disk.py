"""Tests on a real small disk: what fits is finished; the rest waits for free space and then goes on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from osp_fetch import Event, Status, entry, fetch_all
from osp_fetch.model import events
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import DiskFullError, Remedy, StorageError
from osp_fetch.storage.ledger.failures import ledger_error
from osp_fetch.storage.ledger.sqlite import PUBLICATIONS, SqliteLedger
from osp_fetch.storage.ordered_log import OrderedReader
from tests.conftest import quick
from tests.origin import Origin, endless, noise
from tests.test_publications import format_1, record


@pytest.fixture
def small(tmp_path: Path, small_disk: Callable[[Path], None]) -> Path:
    """A disk of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    small_disk(place)
    return place


def fill(place: Path) -> None:
    """Write zeros to a file until its disk is full."""
    with suppress(OSError), place.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


async def test_what_fits_is_finished_and_a_full_disk_ends_the_run(origin: Origin, small: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(6 << 20, n))) for n in range(4)]
    with pytest.raises(DiskFullError):
        await fetch_all(rows, small, settings=quick(storage={"disk_patience": 1}))
    finished = sorted(p.name for p in small.glob("f*"))
    assert len(finished) == 2
    assert all((small / name).read_bytes() == noise(6 << 20, int(name[1:])) for name in finished)


async def test_the_run_goes_on_by_itself_when_there_is_free_space(origin: Origin, small: Path) -> None:
    ballast = small / "ballast"
    ballast.write_bytes(bytes(12 << 20))
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(3 << 20, n))) for n in range(3)]
    waits: list[Event] = []

    def observe(event: Event) -> None:
        if isinstance(event, events.DiskWaiting):
            if not waits:
                asyncio.get_running_loop().call_later(0.2, ballast.unlink)
            waits.append(event)

    report = await fetch_all(rows, small, settings=quick(storage={"disk_patience": 30}), observer=observe)
    assert report.counts[Status.FETCHED] == 3
    assert waits
    assert all((small / f"f{n}").read_bytes() == noise(3 << 20, n) for n in range(3))


async def test_a_ledger_that_fills_the_disk_is_waited_for_like_a_file(origin: Origin, small: Path) -> None:
    """Small files leave so little space that their records do not fit."""
    ballast = small / "ballast"
    ballast.write_bytes(bytes(6 << 20))
    rows = [entry(f"f{n:03}", origin.add(f"f{n:03}", noise(20_000, n))) for n in range(600)]

    def observe(event: Event) -> None:
        if isinstance(event, events.DiskWaiting):
            asyncio.get_running_loop().call_later(0.5, partial(ballast.unlink, missing_ok=True))

    settings = quick(storage={"disk_patience": 60, "min_free": 0})
    report = await fetch_all(rows, small, settings=settings, observer=observe)
    assert report.counts[Status.FETCHED] == 600


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY]
)
def test_a_ledger_that_cannot_be_written_ends_the_run_and_not_each_file(tmp_path: Path, code: int) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    for place in (tmp_path / "ledger", tmp_path / "gone" / "ledger"):
        made = ledger_error(error, place, "the ledger cannot be written")
        assert made.remedy is Remedy.ABORT
        assert not isinstance(made, DiskFullError)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_found_where_sqlite_gives_no_reason(small: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    fill(small / "ballast")
    assert isinstance(ledger_error(error, small / "ledger", "it cannot be written"), DiskFullError)


async def test_a_disk_that_fills_in_mid_file_loses_nothing(origin: Origin, small: Path) -> None:
    ballast = small / "ballast"
    data = noise(10 << 20)
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        if isinstance(event, events.Wrote):
            seen += event.count
            if seen > 4 << 20 and not ballast.exists():
                ballast.write_bytes(bytes(4 << 20))  # another program fills the disk
        if isinstance(event, events.DiskWaiting):
            ballast.unlink(missing_ok=True)
            ballast.mkdir(exist_ok=True)

    url = origin.add("f", data)
    settings = quick(storage={"disk_patience": 30}, limits={"part_size": "1MiB"})
    report = await fetch_all([entry("f", url)], small, settings=settings, observer=observe)
    assert report.counts[Status.FETCHED] == 1
    assert (small / "f").read_bytes() == data


async def test_a_file_without_an_end_costs_itself_and_not_the_run(origin: Origin, small: Path) -> None:
    """With no size in the manifest and no length in the reply, the free space is the cap."""
    rows = [entry("endless", origin.add("endless", b"", always=endless))]
    rows += [entry(f"f{n}", origin.add(f"f{n}", noise(1 << 20, n))) for n in range(6)]
    report = await fetch_all(rows, small, settings=quick(storage={"disk_patience": 1}))
    assert report.counts[Status.FETCHED] == 6, report.failures
    assert report.counts[Status.FAILED] == 1
    assert "the disk is full after" in str(report.failures[0].error)
    assert not (small / "endless").exists()


async def test_a_ledger_of_format_1_is_used_as_it_is_while_the_disk_is_full(small: Path) -> None:
    names = [f"{n:05}" for n in range(3000)]
    place, log, ballast = await format_1(small, *names), small / PUBLICATIONS, small / "ballast"
    fill(ballast)
    async with SqliteLedger(place) as ledger:
        assert await ledger.get([RelativePath("00007")]) == [record("00007")]
        with pytest.raises(DiskFullError):
            await asyncio.gather(*(ledger.put(record(f"new {n}")) for n in range(1000)))
        ballast.unlink()
        await ledger.put(record("new"))
        assert (small / "ledger.sqlite3-wal").stat().st_size < 1 << 20
        assert await ledger.get([RelativePath("new")]) == [record("new")]
    assert not log.exists()
    async with SqliteLedger(place):
        found = [row[1] for row in OrderedReader(log).read_all()]
    assert set(found) >= {*names, "new"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="can be written"):
        await fetch_all([entry("f", "http://127.0.0.1:9/f")], tmp_path / "out", settings=quick())


async def test_a_disk_that_is_mounted_below_the_output_folder_gets_its_files(
    origin: Origin, tmp_path: Path, small_disk: Callable[[Path], None]
) -> None:
    place = tmp_path / "out/set"
    place.mkdir(parents=True)
    small_disk(place)
    rows = [entry(f"set/f{n}", origin.add(f"f{n}", noise(size, n))) for n, size in enumerate((1000, 3 << 20))]
    report = await fetch_all(rows, tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    assert [(place / f"f{n}").read_bytes() for n in range(2)] == [noise(1000, 0), noise(3 << 20, 1)]
    assert sorted(each.name for each in place.iterdir()) == ["f0", "f1"]
    before = len(origin.seen)
    again = await fetch_all(rows, tmp_path / "out", settings=quick())
    assert again.counts[Status.PRESENT] == 2
    assert len(origin.seen) == before
    # a file of the user there is moved to the other disk, and one of ours is replaced
    (place / "f1").write_bytes(b"mine")
    origin.add("f0", noise(1001, 7))
    report = await fetch_all(rows, tmp_path / "out", settings=quick(), update=True)
    assert report.ok, report.failures
    assert (place / "f0").read_bytes() == noise(1001, 7)
    assert (place / "f1").read_bytes() == noise(3 << 20, 1)
    assert (tmp_path / "out/.osp-fetch/replaced/set/f1").read_bytes() == b"mine"
    assert sorted(each.name for each in place.iterdir()) == ["f0", "f1"]
