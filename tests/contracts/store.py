"""The contract of `model.protocols.Store`, and of the protocols that a store consists of."""

from __future__ import annotations

import hashlib
import sys

import pytest

from osp_fetch.model.digest import Digest
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import DiskFullError, FetchError, IntegrityError
from osp_fetch.model.protocols import Partial, Store
from osp_fetch.model.ranges import ByteRange, RangeSet
from tests.origin import noise

PATH = RelativePath("d/file.bin")
SHA256 = frozenset({"sha256"})
DATA = noise(300_000)
HALF = len(DATA) // 2


async def written(store: Store, data: bytes = DATA) -> Partial:
    """Return a partial that holds all of `data`, written back to front."""
    partial = store.partial(PATH, SHA256, fresh=True)
    await partial.begin(len(data), len(data))
    await partial.write(HALF, memoryview(data)[HALF:])
    await partial.write(0, memoryview(data)[:HALF])
    return partial


class StoreContract:
    """Derive a class with a fixture `store`, an empty `Store` that is open."""

    async def test_a_new_store_has_no_file(self, store: Store) -> None:
        assert await store.stat([PATH, RelativePath("other")]) == [None, None]
        assert await store.deleted([PATH]) == [None]
        assert await store.held(PATH) is None
        assert await store.set_aside.find(PATH) is None
        assert store.in_progress == 0

    async def test_a_partial_has_no_final_name_before_it_is_published(self, store: Store) -> None:
        partial = await written(store)
        kept = await partial.sync(RangeSet.upto(len(DATA)))
        assert await store.stat([PATH]) == [None]
        await partial.close()
        assert await store.held(PATH) == len(kept) == kept.frontier
        assert await store.stat([PATH]) == [None]

    async def test_a_published_file_has_the_bytes_that_were_written(self, store: Store) -> None:
        partial = await written(store)
        placed = await partial.publish(len(DATA))
        await partial.close()
        assert placed.kept is None
        assert placed.published.size == len(DATA)
        assert await store.stat([PATH]) == [placed.published]
        assert await store.held(PATH) is None
        assert await store.published.read(PATH, ByteRange(1000, 2000)) == DATA[1000:2000]
        assert await store.published.read(PATH, ByteRange(len(DATA) - 5, len(DATA) + 5)) == DATA[-5:]
        examined = await store.published.examine(PATH, SHA256)
        assert (examined.size, examined.digests) == (len(DATA), {"sha256": hashlib.sha256(DATA).hexdigest()})

    async def test_a_partial_is_continued_unless_it_is_to_be_fresh(self, store: Store) -> None:
        partial = await written(store)
        kept = (await partial.sync(RangeSet.upto(len(DATA)))).frontier
        await partial.close()
        assert await store.held(PATH) == kept >= HALF
        continued = store.partial(PATH, SHA256, fresh=False)
        assert await continued.read(ByteRange(kept - 100, kept)) == DATA[kept - 100 : kept]
        await continued.write(kept, memoryview(DATA)[kept:], len(DATA))
        digests, _ = await continued.hashing.digests(len(DATA))
        assert digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        await continued.close()
        await store.held(PATH)
        fresh = store.partial(PATH, SHA256, fresh=True)
        await fresh.write(0, b"new")
        assert await fresh.read(ByteRange(0, 100)) == b"new"
        await fresh.close()

    async def test_digests_cover_the_bytes_on_the_disk(self, store: Store) -> None:
        partial = await written(store, bytes(len(DATA)))
        partial.hashing.advance(HALF, len(DATA))
        digests, _ = await partial.hashing.digests(len(DATA))
        assert digests["sha256"] == hashlib.sha256(bytes(len(DATA))).hexdigest()
        await partial.hashing.reset()
        await partial.write(0, DATA)
        digests, _ = await partial.hashing.digests(len(DATA))
        assert digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        await partial.close()

    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)])
    async def test_digests_are_right_in_whatever_order_bytes_are_written_that_no_other_write_replaces(
        self, store: Store, order: tuple[int, ...]
    ) -> None:
        partial = store.partial(PATH, SHA256, fresh=True)
        third = len(DATA) // 3
        for number in order:
            part = memoryview(DATA)[number * third : (number + 1) * third]
            await partial.write(number * third, part, len(DATA))
        digests, _ = await partial.hashing.digests(len(DATA))
        await partial.close()
        assert digests["sha256"] == hashlib.sha256(DATA).hexdigest()

    async def test_bytes_hashed_from_memory_are_forgotten_when_the_hashes_are_reset(
        self, store: Store
    ) -> None:
        partial = store.partial(PATH, SHA256, fresh=True)
        await partial.write(0, bytes(len(DATA)), len(DATA))
        await partial.hashing.reset()
        await partial.write(0, DATA)
        digests, _ = await partial.hashing.digests(len(DATA))
        await partial.clear()
        await partial.write(0, DATA[:HALF], HALF)
        halves, _ = await partial.hashing.digests(HALF)
        await partial.close()
        assert digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        assert halves["sha256"] == hashlib.sha256(DATA[:HALF]).hexdigest()

    async def test_a_cleared_partial_has_no_byte(self, store: Store) -> None:
        partial = await written(store)
        await partial.clear()
        assert await partial.read(ByteRange(0, len(DATA))) == b""
        await partial.close()
        assert await store.held(PATH) in (0, None)

    async def test_a_file_set_aside_is_found_read_and_restored(self, store: Store) -> None:
        partial = await written(store)
        where = await partial.set_aside()
        await partial.close()
        if where is None:  # the destination cannot keep it
            assert await store.set_aside.find(PATH) is None
            assert await store.held(PATH) is None
            return
        # what an earlier run set aside is looked for; a store may find out about it only when it is opened
        assert await store.set_aside.read(PATH, ByteRange(0, 10)) == DATA[:10]
        examined = await store.set_aside.examine(PATH, SHA256)
        assert examined.digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        await store.set_aside.restore(PATH)
        assert await store.held(PATH) == len(DATA)
        assert await store.stat([PATH]) == [None]

    async def test_a_small_file_is_published_from_memory(self, store: Store) -> None:
        memory = store.small_files.memory(1000)
        memory.view[10:510] = DATA[:500]
        memory.cut(10, 510)
        wanted = Digest("sha256", hashlib.sha256(DATA[:500]).hexdigest())
        placed, digests = await store.small_files.publish(PATH, memory, 500, SHA256, wanted)
        assert digests["sha256"] == wanted.hex
        assert await store.stat([PATH]) == [placed.published]
        assert await store.published.read(PATH, ByteRange(0, 1000)) == DATA[:500]

    async def test_a_small_file_with_a_wrong_digest_gets_no_name(self, store: Store) -> None:
        memory = store.small_files.memory(500)
        memory.view[:500] = DATA[:500]
        with pytest.raises(IntegrityError):
            await store.small_files.publish(PATH, memory, 500, SHA256, Digest("sha256", "0" * 64))
        assert await store.stat([PATH]) == [None]
        assert bytes(memory.view[:500]) == DATA[:500], "the caller goes on with the bytes"

    async def test_memory_that_is_not_published_can_be_freed(self, store: Store) -> None:
        store.small_files.memory(500).free()
        assert await store.stat([PATH]) == [None]

    async def test_reserved_space_is_not_there_for_others_until_it_is_released(self, store: Store) -> None:
        room = await store.room()
        partial = store.partial(PATH, SHA256, fresh=True)
        await partial.begin(room // 2, room // 2)
        other = store.partial(RelativePath("other"), SHA256, fresh=True)
        if room < sys.maxsize:  # else the destination states no bound
            with pytest.raises(DiskFullError):
                await other.begin(room, room)
        await partial.close()
        await other.begin(room // 2, room // 2)
        await other.close()

    async def test_files_in_progress_are_counted(self, store: Store) -> None:
        with store.expect(), store.expect():
            assert store.in_progress == 2
        assert store.in_progress == 0

    async def test_what_does_not_exist_cannot_be_read(self, store: Store) -> None:
        with pytest.raises(FetchError):
            await store.published.read(PATH, ByteRange(0, 10))
        with pytest.raises(FetchError):
            await store.set_aside.restore(PATH)
