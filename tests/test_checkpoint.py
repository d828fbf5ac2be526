"""Tests of checkpoints: a record never claims bytes that no sync has made durable."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import nullcontext
from typing import cast

import pytest

from osp_fetch.concurrency import stop
from osp_fetch.engine.checkpoint import Checkpoint
from osp_fetch.engine.state import FileState
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import StorageError
from osp_fetch.model.protocols import Ledger, Partial
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.model.record import Record
from osp_fetch.storage.folder.disk import storage_error

SIZE = 1 << 20


class Held:
    """A partial and a ledger. A sync waits for `let` and raises once if `fails` is set."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.fails = False
        self.syncing = asyncio.Event()
        self.records: list[Record] = []
        self.rehashed = self.cleared = False

    async def sync(self, held: RangeSet) -> RangeSet:
        self.syncing.set()
        await self.let.wait()
        if self.fails:
            self.fails = False  # Linux reports a write-back error once
            raise storage_error(OSError(errno.EIO, os.strerror(errno.EIO)), "it cannot be synced")
        return held

    async def put(self, record: Record) -> None:
        self.records.append(record)

    @property
    def hashing(self) -> Held:
        return self

    async def reset(self) -> None:
        self.rehashed = True

    async def clear(self) -> None:
        self.cleared = True


def begun(disk: Held) -> tuple[Checkpoint, FileState]:
    download = FileState(entry("f", "http://h/f", size=8 * SIZE))
    return Checkpoint(cast("Ledger", disk), cast("Partial", disk), download, SIZE), download


def wrote(checkpoint: Checkpoint, download: FileState, start: int) -> None:
    download.wrote(ByteRange(start * SIZE, (start + 1) * SIZE))
    checkpoint.wrote(SIZE, 1)


async def test_what_a_sync_has_failed_for_is_never_claimed() -> None:
    disk = Held()
    checkpoint, download = begun(disk)
    disk.fails = True
    disk.let.set()
    wrote(checkpoint, download, 0)
    await disk.syncing.wait()
    await asyncio.sleep(0)
    wrote(checkpoint, download, 1)  # a further sync would succeed, and its record would claim both blocks
    for claimed in (checkpoint.done, checkpoint.last):  # each attempt must raise
        with pytest.raises(StorageError):
            await claimed()
        wrote(checkpoint, download, 2)
    assert disk.records == []
    download.parts.empty()
    await checkpoint.forget()  # forgetting a file needs no successful sync
    assert [record.held for record in disk.records] == [RangeSet()]


async def test_what_came_all_at_once_is_published_not_claimed() -> None:
    disk = Held()
    disk.let.set()
    checkpoint, download = begun(disk)
    for start in range(7):
        download.wrote(ByteRange(start * SIZE, (start + 1) * SIZE))
    wrote(checkpoint, download, 7)
    await checkpoint.settle()
    assert disk.records == []


async def test_a_claim_says_what_was_known_before_the_sync() -> None:
    disk = Held()
    checkpoint, download = begun(disk)
    wrote(checkpoint, download, 0)
    await disk.syncing.wait()
    download.parts.length = 5 * SIZE  # the server has replaced the file meanwhile
    disk.let.set()
    await checkpoint.settle()
    (record,) = disk.records
    assert (record.length, record.held) == (8 * SIZE, RangeSet.upto(SIZE))


@pytest.mark.parametrize(("fails", "sound"), [(False, 2), (True, 1)])
async def test_a_retraction_claims_nothing_that_was_not_synced(fails: bool, sound: int) -> None:
    disk = Held()
    checkpoint, download = begun(disk)
    disk.let.set()
    wrote(checkpoint, download, 0)
    await checkpoint.settle()
    disk.let.clear()
    disk.fails = fails
    wrote(checkpoint, download, 1)
    await asyncio.sleep(0)  # the checkpoint of this block is under way
    wrote(checkpoint, download, 2)
    wrote(checkpoint, download, 3)
    download.unwrote(ByteRange(3 * SIZE, 4 * SIZE))
    disk.let.set()
    with pytest.raises(StorageError) if fails else nullcontext():
        await checkpoint.retract()
    assert disk.records[-1].held == RangeSet.upto(sound * SIZE)
    assert disk.rehashed
    assert download.held == RangeSet.upto(3 * SIZE)


async def test_a_retraction_that_is_stopped_midway_is_still_recorded() -> None:
    disk = Held()
    checkpoint, download = begun(disk)
    wrote(checkpoint, download, 0)
    await disk.syncing.wait()
    download.unwrote(ByteRange(0, SIZE))
    retracting = asyncio.create_task(checkpoint.retract())
    await asyncio.sleep(0)
    ending = asyncio.create_task(stop({retracting}))
    await asyncio.sleep(0)
    disk.let.set()
    await ending
    assert retracting.cancelled()
    assert disk.records[-1].held == RangeSet()
    assert disk.rehashed


async def test_a_sync_that_fails_while_the_transfer_is_cancelled_is_not_lost() -> None:
    disk = Held()
    checkpoint, download = begun(disk)
    disk.fails = True
    wrote(checkpoint, download, 0)
    await disk.syncing.wait()
    waiting = asyncio.create_task(checkpoint.done())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    disk.let.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(StorageError):
        await checkpoint.last()
    assert not disk.records
