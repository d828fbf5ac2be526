"""Tests of range objects: ranges that nodes fetch for each other, in a bucket that is a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import FetchError, StorageError
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.s3.address import bucket_address
from osp_fetch.storage.bucket.store import BucketStore
from tests.conftest import quick
from tests.held import Held, Store
from tests.origin import noise
from tests.s3_proxy import Fault, answers, damages, each, proxied

PIECE = 64 << 10
START = 1_000_000
DATA = noise(3 * PIECE + 100)
SPAN = ByteRange(START, START + len(DATA))
WHOLE = RangeSet((SPAN,))


@pytest.fixture
def opened(bucket: str, tmp_path: Path) -> Callable[..., BucketStore]:
    """Return a function that makes a store over the bucket with little memory."""
    state = tmp_path / ".osp-fetch"
    state.mkdir()

    def store(pieces: int = 8, scope: str = "run") -> BucketStore:
        address = bucket_address(f"s3://{bucket}/x")
        return BucketStore(address, state, quick(), memory=pieces * PIECE, least=PIECE, scope=scope)

    return store


@pytest.fixture
async def opened_store(opened: Callable[..., BucketStore]) -> AsyncIterator[BucketStore]:
    async with opened() as made:
        yield made


def ranges(held: Held) -> list[str]:
    return held.every("x/.osp-fetch/ranges/")


async def test_bytes_that_come_in_any_order_are_read_as_they_are(
    opened_store: BucketStore, held: Held
) -> None:
    files = opened_store.range_files
    file = files.begin(SPAN)
    steps = [(at, DATA[at : at + 10_000]) for at in range(0, len(DATA), 10_000)]
    await asyncio.gather(*(file.write(START + at, data) for at, data in reversed(steps)))
    await file.write(START + 5, b"x" * 100)  # of a piece that is complete
    assert await file.sync(WHOLE) == WHOLE
    await file.close()
    assert len(ranges(held)) == 4
    read = [await files.read(file.place, at, files.block) for at in range(0, len(DATA), files.block)]
    assert b"".join(read) == DATA
    assert await files.read(file.place, PIECE + 7, 20) == DATA[PIECE + 7 : PIECE + 27]
    await files.drop(file.place)
    await files.drop(file.place)
    assert ranges(held) == []
    with pytest.raises(StorageError, match="cannot be read"):
        await files.read(file.place, 0, 1)


async def test_a_range_object_takes_only_bytes_of_its_range(opened_store: BucketStore) -> None:
    file = opened_store.range_files.begin(SPAN)
    for at in (START - 5, SPAN.stop - 5):
        with pytest.raises(StorageError, match="outside of the range"):
            await file.write(at, b"0123456789")
    with pytest.raises(StorageError, match="whole file"):
        await file.clear()
    await file.close()


async def test_pieces_that_hold_all_memory_are_given_up_and_fetched_again(
    opened: Callable[..., BucketStore], held: Held
) -> None:
    async with opened(pieces=2) as store:
        lost: list[ByteRange] = []
        file = store.range_files.begin(SPAN, lost.append)
        await file.write(START + 100, DATA[100:PIECE])
        await file.write(START + 2 * PIECE, DATA[2 * PIECE : 3 * PIECE - 100])
        await file.write(START + PIECE, DATA[PIECE : 2 * PIECE])  # waits until one of them is given up
        assert lost == [ByteRange(START + 2 * PIECE, START + 3 * PIECE - 100)]
        await file.write(START, DATA[:100])
        await file.write(START + 2 * PIECE, DATA[2 * PIECE :])
        await file.sync(WHOLE)
        await file.close()
        files = store.range_files
        read = [await files.read(file.place, at, PIECE) for at in range(0, len(DATA), PIECE)]
        assert b"".join(read) == DATA


async def test_bytes_that_are_given_up_while_a_write_waits_for_memory_are_written_again(
    opened: Callable[..., BucketStore], held: Held
) -> None:
    class Busy:
        """A file that keeps a piece of memory, and is never idle."""

        touched = 1e18

        def give_up_part(self) -> bool:
            return False

    async with opened(pieces=2) as store:
        memory, busy = store.range_files._shared.memory, Busy()
        memory.add(busy)
        taken = await memory.take(PIECE, busy, is_next=True)
        lost: list[ByteRange] = []
        file = store.range_files.begin(SPAN, lost.append)
        half = PIECE // 2
        # the first piece gives way to the second, is written again, and then there is memory for both
        writing = asyncio.create_task(file.write(START + half, DATA[half : PIECE + half]))
        while not lost:
            await asyncio.sleep(0.05)
        memory.give(taken)
        await writing
        assert lost == [ByteRange(START + half, START + PIECE)]
        for first, last in ((0, half), (PIECE + half, 2 * PIECE), (2 * PIECE, len(DATA))):
            await file.write(START + first, DATA[first:last])
        await file.sync(WHOLE)
        await file.close()
        read = [await store.range_files.read(file.place, at, PIECE) for at in range(0, len(DATA), PIECE)]
        assert b"".join(read) == DATA


async def test_a_range_for_which_the_memory_does_not_suffice_fails(
    opened: Callable[..., BucketStore],
) -> None:
    async with opened(pieces=1) as store:
        file = store.range_files.begin(SPAN)
        half = PIECE // 2
        with pytest.raises(StorageError, match="too little memory"):
            await file.write(START + half, DATA[half : PIECE + half])
        await file.close()


async def test_a_range_of_which_a_piece_is_missing_is_not_complete(opened_store: BucketStore) -> None:
    file = opened_store.range_files.begin(SPAN)
    await file.write(START, DATA[:PIECE])
    with pytest.raises(StorageError, match="a piece of the fetched range was not uploaded"):
        await file.sync(WHOLE)
    await file.close()


async def test_memory_comes_back_when_a_range_is_not_completed(opened: Callable[..., BucketStore]) -> None:
    async with opened(pieces=2) as store:
        for _ in range(3):
            file = store.range_files.begin(SPAN)
            await file.write(START, DATA[:100])
            await file.write(START + PIECE, DATA[PIECE : PIECE + 100])
            await file.close()


@pytest.mark.parametrize("fault", [answers("AccessDenied", 403), damages], ids=["refused", "damaged"])
async def test_a_piece_that_cannot_be_uploaded_fails_the_range(
    opened: Callable[..., BucketStore], store: Store, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        async with opened() as made:
            proxy.counts.clear()
            proxy.fault = each("PutOwn", *[fault] * 100)
            file = made.range_files.begin(SPAN)
            await file.write(START, DATA)
            with pytest.raises(StorageError, match="a fetched range cannot be uploaded"):
                await file.sync(WHOLE)
            with pytest.raises(StorageError, match="a fetched range cannot be uploaded"):
                await file.write(START, DATA)
            await file.close()
            proxy.fault = None


async def test_pieces_that_cannot_be_deleted_are_left_and_states_that_cannot_be_read_are_one_error(
    opened: Callable[..., BucketStore], store: Store, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        async with opened() as made:
            file = made.range_files.begin(SPAN)
            await file.write(START, DATA)
            await file.sync(WHOLE)
            await file.close()
            proxy.fault = answers("AccessDenied", 403)
            with pytest.raises(FetchError):
                await made.stat([RelativePath("a"), RelativePath("b")])
            proxy.counts.clear()
            proxy.fault = each("DeleteObject", *[answers("AccessDenied", 403)] * 100)
            await made.range_files.drop(file.place)
            with pytest.raises(FetchError):
                await made.tidy_up()
            assert len(ranges(held)) == 4
            proxy.fault = None


async def test_the_next_run_and_clean_delete_what_was_left(
    opened: Callable[..., BucketStore], held: Held, command: Callable[..., object]
) -> None:
    for scope in ("run", "0-of-2"):
        async with opened(scope=scope) as store:
            file = store.range_files.begin(SPAN)
            await file.write(START, DATA)
            await file.sync(WHOLE)
            await file.close()
    assert len(ranges(held)) == 8
    async with opened():
        assert {key.split("/")[3] for key in ranges(held)} == {"0-of-2"}, "another shard may be at work"
    command("clean", f"s3://{held.bucket}/x", "-n")
    assert len(ranges(held)) == 4
    command("clean", f"s3://{held.bucket}/x")
    assert ranges(held) == []
