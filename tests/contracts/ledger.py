"""The contract of `model.protocols.Ledger`."""

from __future__ import annotations

import asyncio

from osp_fetch.model.entry import RelativePath
from osp_fetch.model.http import Validator
from osp_fetch.model.protocols import Ledger
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.model.record import Published, Record

PATH = RelativePath("d/file.bin")
HELD = Record(PATH, "host/f", 1000, Validator('"tag"', "Sat, 28 Nov 2026 00:00:00 GMT"), RangeSet.upto(300))
PUBLISHED = Record(
    PATH, "host/f", 1000, Validator(), RangeSet((ByteRange(0, 1000),)), {"sha256": "0" * 64}, (1, 2),
    Published(1000, 1_700_000_000_123_456_789),
)  # fmt: skip


class LedgerContract:
    """Derive a class with a fixture `ledger`, an empty `Ledger` that is open."""

    async def test_a_path_without_a_record_has_none(self, ledger: Ledger) -> None:
        assert await ledger.get([PATH]) == [None]
        assert await ledger.get([]) == []

    async def test_a_record_is_returned_as_it_was_put(self, ledger: Ledger) -> None:
        for record in (HELD, PUBLISHED):
            await ledger.put(record)
            assert await ledger.get([PATH]) == [record]

    async def test_records_are_returned_in_the_order_of_the_paths(self, ledger: Ledger) -> None:
        paths = [RelativePath(f"f{number}") for number in range(600)]
        records = [Record(path, f"host/{path}", number) for number, path in enumerate(paths)]
        await asyncio.gather(*(ledger.put(record) for record in records[::2]))
        found = await ledger.get(paths[::-1])
        assert found[::-1] == [record if number % 2 == 0 else None for number, record in enumerate(records)]
