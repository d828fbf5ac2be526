"""Tests of the logs that `finished` reads: of publications, and of archives that were unpacked."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from osp_fetch.archives.marks import Mark, Piece, UnpackedOrder
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.record import Published, Record
from osp_fetch.storage.ledger.rows import end_position, publications
from osp_fetch.storage.ledger.sqlite import PUBLICATIONS, SqliteLedger
from osp_fetch.storage.ordered_log import OrderedLog, OrderedReader


def record(path: str, size: int | None = 5) -> Record:
    state = None if size is None else Published(size, 1_700_000_000_000_000_000)
    return Record(RelativePath(path), "host/f", size, digests={"sha256": "0" * 64}, published=state)


# logs


def test_a_log_is_read_from_any_position(tmp_path: Path) -> None:
    log = OrderedLog(tmp_path / "log")
    log.append([n, f"file {n}", "x" * 90] for n in range(10, 30_000, 10))
    for after in (0, 5, 10, 11, 15_000, 29_989, 29_990, 40_000):
        found = list(OrderedReader(tmp_path / "log", after).read_all())
        assert [row[0] for row in found] == [n for n in range(10, 30_000, 10) if n > after]


def test_a_reader_goes_on_with_a_log_that_is_replaced(tmp_path: Path) -> None:
    log, reader = OrderedLog(tmp_path / "log"), OrderedReader(tmp_path / "log")
    assert reader.read(10) == []
    log.append([[1, "a"], [2, "b"], [3, "c"]])
    assert reader.read(2) == [[1, "a"], [2, "b"]]
    log.rewrite([[3, "c"], [4, "d"]])
    assert reader.read(10) == [[3, "c"], [4, "d"]]


@pytest.mark.parametrize("torn", [b'[3,"c', b"\0" * 500, b'[3,"c\n\0\0\0', b""])
def test_a_torn_end_is_not_read_and_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    place = tmp_path / "log"
    log, reader = OrderedLog(place), OrderedReader(place)
    log.append([[1, "a"], [2, "b"]])
    whole = place.read_bytes()
    place.write_bytes(whole + torn)
    assert reader.read(10) == [[1, "a"], [2, "b"]]
    assert log.settle() == 2
    assert place.read_bytes() == whole
    log.append([[5, "e"]])
    assert reader.read(10) == [[5, "e"]]


def test_a_log_without_a_line_has_position_0(tmp_path: Path) -> None:
    log = OrderedLog(tmp_path / "log")
    assert log.settle() == 0
    (tmp_path / "log").write_bytes(b"\0" * (3 << 20))
    assert log.settle() == 0


# the ledger's log


async def test_a_file_is_logged_each_time_that_it_is_published(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite3"
    async with SqliteLedger(place) as ledger:
        await ledger.put(record("a", None))
        await asyncio.gather(*(ledger.put(record(f"f{n}")) for n in range(200)))
        await ledger.put(record("a"))
    async with SqliteLedger(place) as ledger:
        await ledger.put(record("f0", None))
        await ledger.put(record("f0"))
    rows = list(OrderedReader(tmp_path / PUBLICATIONS).read_all())
    assert [row[1] for row in rows] == [*(f"f{n}" for n in range(200)), "a", "f0"]
    assert all(before[0] < after[0] for before, after in pairwise(rows))
    assert rows[0][2:] == [5, 1_700_000_000_000_000_000, {"sha256": "0" * 64}]


async def test_a_file_that_is_recorded_again_unchanged_is_not_logged_again(tmp_path: Path) -> None:
    place, log = tmp_path / "ledger.sqlite3", tmp_path / PUBLICATIONS
    async with SqliteLedger(place) as ledger:
        await asyncio.gather(*(ledger.put(record(f"{n}")) for n in range(700)))
    whole = log.read_bytes()
    async with SqliteLedger(place) as ledger:
        await asyncio.gather(*(ledger.put(record(f"{n}")) for n in range(700)))
        assert log.read_bytes() == whole
        await asyncio.gather(ledger.put(record("7", 6)), ledger.put(record("8")))
    assert [row[1] for row in OrderedReader(log).read_all()] == [*(f"{n}" for n in range(700)), "7"]
    log.unlink()
    async with SqliteLedger(place):
        found = [row[1] for row in OrderedReader(log).read_all()]
    assert found == [*(f"{n}" for n in range(700) if n != 7), "7"]


async def test_a_log_that_was_lost_or_torn_is_completed_from_the_ledger(tmp_path: Path) -> None:
    place, log = tmp_path / "ledger.sqlite3", tmp_path / PUBLICATIONS
    async with SqliteLedger(place) as ledger:
        for n in range(5):
            await ledger.put(record(f"f{4 - n}"))
    whole = log.read_bytes()
    for left in (None, whole[:40], whole[:-1], whole[:-30] + b"\0" * 30):
        log.unlink()
        if left is not None:
            log.write_bytes(left)
        async with SqliteLedger(place):
            assert log.read_bytes() == whole


async def test_a_log_that_has_lost_lines_is_written_anew(tmp_path: Path) -> None:
    place, log = tmp_path / "ledger.sqlite3", tmp_path / PUBLICATIONS
    async with SqliteLedger(place) as ledger:
        await asyncio.gather(*(ledger.put(record(f"{n}")) for n in range(1000)))
        whole = log.read_bytes()
        third = len(whole) // 3
        log.unlink()
        await ledger.put(record("last"))
    whole += log.read_bytes()
    for damaged in (log.read_bytes(), whole[200:], whole[:third] + bytes(third) + whole[2 * third :]):
        log.write_bytes(damaged)
        async with SqliteLedger(place):
            assert log.read_bytes() == whole
    inode = log.stat().st_ino
    async with SqliteLedger(place):
        assert log.stat().st_ino == inode


async def test_a_log_that_cannot_be_written_costs_no_record_and_catches_up(tmp_path: Path) -> None:
    log = tmp_path / PUBLICATIONS
    log.mkdir()
    async with SqliteLedger(tmp_path / "ledger.sqlite3", retry=0) as ledger:
        await ledger.put(record("a"))
        assert await ledger.get([RelativePath("a")]) == [record("a")]
        log.rmdir()
        await ledger.put(record("b"))
        assert [row[1] for row in OrderedReader(log).read_all()] == ["a", "b"]


@pytest.mark.parametrize("after", [0, 2])
def test_rows_that_cannot_all_be_written_leave_the_log_as_it_was(tmp_path: Path, after: int) -> None:
    log = OrderedLog(tmp_path / "log")
    log.append([n] for n in range(1, after + 1))

    def rows() -> Iterator[list[object]]:
        yield from ([n, "x" * 90] for n in range(10, 2000))
        raise OSError(errno.ENOSPC, "full")

    for write in (log.append, log.rewrite):
        with pytest.raises(OSError, match="full"):
            write(rows())
    assert list(OrderedReader(tmp_path / "log").read_all()) == [[n] for n in range(1, after + 1)]
    assert not (tmp_path / "log.new").exists()


async def test_a_log_that_cannot_be_written_is_not_tried_at_each_commit(tmp_path: Path) -> None:
    log = tmp_path / PUBLICATIONS
    async with SqliteLedger(tmp_path / "ledger.sqlite3", retry=3600) as ledger:
        await ledger.put(record("a"))
        log.rename(tmp_path / "kept")
        log.mkdir()
        await ledger.put(record("b"))
        log.rmdir()
        (tmp_path / "kept").rename(log)
        await ledger.put(record("c"))
        assert [row[1] for row in OrderedReader(log).read_all()] == ["a"]
    assert [row[1] for row in OrderedReader(log).read_all()] == ["a", "b", "c"]


async def test_a_log_is_written_anew_only_beside_the_space_that_stays_free(tmp_path: Path) -> None:
    place, log = tmp_path / "ledger.sqlite3", tmp_path / PUBLICATIONS
    async with SqliteLedger(place, min_free=1 << 60) as ledger:
        await ledger.put(record("a"))
    assert not log.exists()
    async with SqliteLedger(place):
        assert [row[1] for row in OrderedReader(log).read_all()] == ["a"]


async def format_1(folder: Path, *paths: str) -> Path:
    """Write a ledger of format 1, with published files and a partial."""
    place = folder / "ledger.sqlite3"
    async with SqliteLedger(place) as ledger:
        await asyncio.gather(*(ledger.put(record(path)) for path in paths))
        await ledger.put(record("partial", None))
    with closing(sqlite3.connect(place)) as db:
        db.execute("DROP INDEX published")
        db.execute("ALTER TABLE files DROP COLUMN position")
        db.execute("PRAGMA user_version=1")
    (folder / PUBLICATIONS).unlink()
    return place


async def test_a_ledger_of_format_1_is_continued(tmp_path: Path) -> None:
    place = await format_1(tmp_path, "b", "a", "c")
    async with SqliteLedger(place) as ledger:
        assert await ledger.get([RelativePath("a")]) == [record("a")]
        await ledger.put(record("d"))
    assert [row[1] for row in OrderedReader(tmp_path / PUBLICATIONS).read_all()] == ["a", "b", "c", "d"]


async def test_files_of_format_1_keep_their_positions_when_the_log_is_lost(tmp_path: Path) -> None:
    place, log = await format_1(tmp_path, "a", "b", "c"), tmp_path / PUBLICATIONS
    async with SqliteLedger(place) as ledger:
        before = {row[1]: row[0] for row in OrderedReader(log).read_all()}
        await ledger.put(record("a", 6))
    log.unlink()
    async with SqliteLedger(place):
        after = {row[1]: row[0] for row in OrderedReader(log).read_all()}
    assert (after["b"], after["c"]) == (before["b"], before["c"])
    assert after["a"] > before["c"]


async def test_queries_of_positions_use_their_index(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "ledger.sqlite3") as ledger:
        await asyncio.gather(*(ledger.put(record(f"{n}")) for n in range(9)))
    plans: list[str] = []
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db:

        def execute(query: str, values: Sequence[object]) -> sqlite3.Cursor:
            plans.extend(row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values))
            return db.execute(query, values)

        assert end_position(execute, "min")
        after = end_position(execute, "max")
        assert list(publications(execute, after)) == []
    assert len(plans) == 3
    assert all("USING INDEX published" in plan or "COVERING INDEX published" in plan for plan in plans)


# archives


def test_an_archive_is_not_logged_twice_when_its_plan_is_finished_again(tmp_path: Path) -> None:
    order, mark = UnpackedOrder(tmp_path), Mark((Piece(1, 2, 3, 4),), "target")
    order.add("a.tar", mark, repeated=True)
    order.add("a.tar", mark, repeated=True)
    order.add("b.tar", mark, repeated=True)
    order.add("a.tar", Mark((Piece(5, 6, 7, 8),), "target"), repeated=False)
    rows = [row for log in order.logs() for row in OrderedReader(log).read_all()]
    assert [row[1] for row in rows] == ["a.tar", "b.tar", "a.tar"]
    assert rows[0][0] < rows[1][0] < rows[2][0]
