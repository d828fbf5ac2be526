"""Tests of range leases: idle nodes fetch ranges of the last large file of another node."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.engine.parts import Parts
from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import StorageError
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.model.report import Status
from osp_fetch.s3.address import bucket_address
from osp_fetch.storage.folder.range_files import FolderRangeFiles
from osp_fetch.views.board import Board
from tests import origin as o
from tests.conftest import quick
from tests.fleet import Fleet, Make, fleets, served, tree
from tests.held import Held
from tests.origin import Origin, noise, slow

MIB = 1 << 20
LARGE = {"large": noise(80 * MIB + 7, 1)}
ADDRESSES = {"a": "127.0.0.10", "b": "127.0.0.11"}
# Bytes per second of a connection: of the node with the file until the other one helps, and then of both.
ALONE, BOTH = 0.25 * MIB, 2 * MIB


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Make]:
    async with fleets(tmp_path) as make:
        yield make


def of_nodes(run: Fleet) -> Counter[str]:
    """Return node → bytes of ranges that it has received for others; "" → bytes of the node with the file."""
    found: Counter[str] = Counter()
    for each in run.seen:
        if isinstance(each, events.Wrote):
            found[each.node] += each.count
    return found


class Place:
    """Where the runs of a test fetch to.

    Args:
        held: What the bucket holds; None if it is a folder.
        bucket: The bucket.
    """

    def __init__(self, held: Held | None = None, bucket: str = "") -> None:
        self._held = held
        self.bucket = bucket_address(f"s3://{bucket}/x") if bucket else None

    def files(self, run: Fleet) -> dict[str, bytes]:
        """Return path → bytes of all that was published."""
        if self._held is None:
            return tree(run.root)
        objects = {key.removeprefix("x/"): self._held.data(key) for key in self._held.every("x/")}
        return {path: data for path, data in objects.items() if not path.startswith(".osp-fetch/")}

    def ranges(self, run: Fleet) -> list[str]:
        """Return the names of range files that are there."""
        if self._held is None:
            return [str(place) for place in run.root.rglob("ranges/*") if place.is_file()]
        return self._held.every("x/.osp-fetch/ranges/")


# where a bucket adds nothing to what the test of a folder shows
IN_A_FOLDER = pytest.mark.parametrize("place", ["folder"], indirect=True)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "folder":
        return Place()
    return Place(request.getfixturevalue("held"), request.getfixturevalue("bucket"))


class Pair:
    """A run over two nodes, of which one gets the large file and the other one has nothing to do.

    Args:
        place: Where it is fetched to.
        to_helper: How the helper is served; None for a plain reply.
        ranges: The number of ranges after whose assignment the node with the file is served fast.
    """

    def __init__(
        self, fleet: Make, origin: Origin, place: Place, to_helper: Any = None, ranges: int = 1, **more: Any
    ) -> None:
        limits = {"part_size": "1MiB", "per_host": 8, "connections": 8}
        self.run = fleet(
            "a", "b", sources=ADDRESSES, settings=quick(limits=limits), bucket=place.bucket, **more
        )
        self._to_helper, self._ranges = to_helper, ranges
        self.run.start(served(origin, LARGE, self._serve))

    async def _serve(self, exchange: Exchange, page: o.Page) -> None:
        address, _ = exchange.writer.get_extra_info("peername")
        if address == ADDRESSES[self.owner]:
            assigned = sum(isinstance(each, events.RangeAssigned) for each in self.run.seen)
            await exchange.serve(
                Blob(page.data), page.headers, rate=BOTH if assigned >= self._ranges else ALONE
            )
        elif self._to_helper is not None:
            await self._to_helper(exchange, page)
        else:
            await exchange.serve(Blob(page.data), page.headers, rate=BOTH)

    @property
    def owner(self) -> str:
        """The node that has the file."""
        return next(each.node for each in self.run.seen if isinstance(each, events.FileAssigned))

    @property
    def helper(self) -> str:
        return "b" if self.owner == "a" else "a"

    def helped(self) -> int:
        """Return the bytes that the helper has received."""
        return of_nodes(self.run)[self.helper] if self.run.received() else 0

    async def until_helped(self, count: int = 1) -> None:
        await self.run.until(lambda: self.helped() >= count)


async def test_an_idle_node_fetches_ranges_of_the_last_file_of_another(
    origin: Origin, fleet: Make, place: Place
) -> None:
    board = Board()
    pair = Pair(fleet, origin, place, ranges=2, observers=[board])
    run = pair.run
    await pair.until_helped(8 * MIB)
    lines = {line.name: line for line in board.nodes.lines()}
    assert {name: line.files for name, line in lines.items()} == {pair.owner: 1, pair.helper: 0}
    assert lines[pair.helper].connections > 0
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert place.files(run) == LARGE
    received = of_nodes(run)
    assert received[pair.helper] > 16 * MIB
    assert received.total() < 1.05 * len(LARGE["large"])
    assert lines[pair.helper].received == received[pair.helper]
    assert lines[pair.owner].received == received[""]
    ranges = [each for each in run.seen if isinstance(each, events.RangeAssigned)]
    assert {each.node for each in ranges} == {pair.helper}
    assert not (run.root / ".osp-fetch" / "nodes").exists()
    assert place.ranges(run) == []


async def test_what_a_killed_helper_had_is_fetched_by_the_other_node(
    origin: Origin, fleet: Make, place: Place
) -> None:
    pair = Pair(fleet, origin, place)
    await pair.until_helped(2 * MIB)
    pair.run.nodes.signal(pair.helper, signal.SIGKILL)
    await pair.run.work
    assert pair.run.counts() == {Status.FETCHED: 1}
    assert place.files(pair.run) == LARGE


async def test_a_frozen_helper_holds_nothing_up_and_changes_nothing_when_it_wakes(
    origin: Origin, fleet: Make, place: Place
) -> None:
    pair = Pair(fleet, origin, place, patience=4.0, in_reach=False)
    run = pair.run
    await pair.until_helped(2 * MIB)
    run.nodes.signal(pair.helper, signal.SIGSTOP)
    await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
    run.nodes.signal(pair.helper, signal.SIGCONT)
    await run.work
    await run.nodes.processes[pair.helper].wait()
    assert run.counts() == {Status.FETCHED: 1}
    assert place.files(run) == LARGE


async def test_the_file_of_a_killed_node_goes_on_at_its_helper(
    origin: Origin, fleet: Make, place: Place
) -> None:
    kept: list[list[str]] = []

    def look(event: events.Event) -> None:
        if isinstance(event, events.Finished):
            kept.append(place.ranges(pair.run))

    pair = Pair(fleet, origin, place, observers=[look])
    await pair.until_helped(2 * MIB)
    pair.run.nodes.signal(pair.owner, signal.SIGKILL)
    await pair.run.work
    assert pair.run.counts() == {Status.FETCHED: 1}
    assert place.files(pair.run) == LARGE
    assert kept == [[]]  # the range file that came too late for its node was deleted during the run


@IN_A_FOLDER
async def test_wrong_bytes_of_a_helper_are_not_published_and_it_gets_no_more_of_the_file(
    origin: Origin, fleet: Make, place: Place
) -> None:
    async def wrong(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(Blob(bytes(len(page.data))), page.headers)

    pair = Pair(fleet, origin, place, wrong)
    await pair.until_helped()
    await pair.run.work
    assert pair.run.counts() == {Status.FETCHED: 1}
    assert place.files(pair.run) == LARGE
    seen = pair.run.seen
    lost = next(n for n, each in enumerate(seen) if isinstance(each, events.Lost))
    assert not [each for each in seen[lost:] if isinstance(each, events.RangeAssigned)]


async def test_a_file_that_must_come_in_one_request_waits_for_no_helper(
    origin: Origin, fleet: Make, place: Place
) -> None:
    class Whole(Pair):
        """A server that replies once with the whole file while a helper fetches a range of it."""

        is_over = False

        async def _serve(self, exchange: Exchange, page: o.Page) -> None:
            address, _ = exchange.writer.get_extra_info("peername")
            if self.is_over or address != ADDRESSES[self.owner]:
                slowly = None if address == ADDRESSES[self.owner] else BOTH / 4
                await exchange.serve(Blob(page.data), page.headers, rate=slowly)
                return
            if any(isinstance(each, events.RangeAssigned) for each in self.run.seen):
                self.is_over = True
                exchange.headers = {name: v for name, v in exchange.headers.items() if name != "range"}
            await super()._serve(exchange, page)

    pair = Whole(fleet, origin, place)
    await pair.run.work
    assert pair.run.counts() == {Status.FETCHED: 1}
    assert place.files(pair.run) == LARGE


@IN_A_FOLDER
async def test_a_range_that_the_server_refuses_a_helper_is_fetched_by_the_node_with_the_file(
    origin: Origin, fleet: Make, place: Place
) -> None:
    async def refused(exchange: Exchange, page: o.Page) -> None:
        await exchange.answer(403, "not you", {"Content-Type": "text/plain"})

    pair = Pair(fleet, origin, place, refused)
    await pair.run.work
    assert pair.run.counts() == {Status.FETCHED: 1}
    assert place.files(pair.run) == LARGE
    assert 0 < sum(isinstance(each, events.RangeAssigned) for each in pair.run.seen) <= 4


async def test_without_a_digest_or_a_validator_no_range_is_lent(origin: Origin, fleet: Make) -> None:
    data = LARGE["large"]
    url = origin.add("large", data, always=slow(2 * MIB), headers={})
    run = fleet("a", "b", sources=ADDRESSES, settings=quick(limits={"part_size": "1MiB", "per_host": 8}))
    await run.fetch([entry("large", url)])
    assert tree(run.root) == LARGE
    assert not [each for each in run.seen if isinstance(each, events.RangeAssigned)]


# the range files


async def test_a_piece_takes_only_bytes_of_its_range(tmp_path: Path) -> None:
    made = FolderRangeFiles(tmp_path)
    file = made.begin(ByteRange(100, 200))
    await asyncio.gather(*(file.write(at, bytes([at]) * 10) for at in range(190, 90, -10)))
    for at in (95, 195):
        with pytest.raises(StorageError, match="outside of the range"):
            await file.write(at, b"0123456789")
    with pytest.raises(StorageError, match="whole file"):
        await file.clear()
    whole = RangeSet((ByteRange(100, 200),))
    assert await file.sync(whole) == whole
    assert await file.read(ByteRange(150, 170)) == bytes([150]) * 10 + bytes([160]) * 10
    await file.close()
    assert await made.read(file.place, 50, 1000) == b"".join(bytes([at]) * 10 for at in range(150, 200, 10))
    await made.drop(file.place)
    await made.drop(file.place)
    assert not file.place.exists()
    with pytest.raises(StorageError):
        await made.read(file.place, 0, 1)


# the parts


def test_a_lent_part_is_the_end_and_is_not_hedged() -> None:
    parts = Parts(100)
    assert parts.lend(30, 0.0) is None, "no reply has shown that there are ranges"
    first = parts.next(20, 0.0)
    assert first is not None
    parts.probed = True
    lent = parts.lend(30, 0.0)
    assert lent is not None
    assert lent.range == ByteRange(70, 100)
    assert parts.free == 50
    parts.held |= first.range
    parts.release(first)
    assert not parts.busy, "no part is fetched here"
    assert parts.pending
    assert parts.alone
    assert parts.hedge(1000.0, 1.0) is None
    rest = parts.next(50, 0.0)
    assert rest is not None
    assert rest.range == ByteRange(20, 70)
    assert parts.lend(30, 0.0) is None
    parts.release(lent)
    again = parts.next(50, 0.0)
    assert again is not None
    assert again.range == ByteRange(70, 100)


def test_nothing_is_lent_of_a_file_whose_server_has_no_ranges() -> None:
    parts = Parts(100)
    parts.probed = parts.single = True
    assert parts.lend(30, 0.0) is None
