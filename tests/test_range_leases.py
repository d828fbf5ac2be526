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
from osp_fetch.storage.folder.range_files import FolderRangeFiles
from osp_fetch.views.board import Board
from tests import origin as o
from tests.conftest import quick
from tests.fleet import Fleet, Make, fleets, served, tree
from tests.origin import Origin, noise, slow

MIB = 1 << 20
LARGE = {"large": noise(96 * MIB + 7, 1)}
# "a" is the first node and has the file; the other one helps
ADDRESSES = {"a": "127.0.0.10", "b": "127.0.0.11"}


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


def left(run: Fleet) -> list[Path]:
    return [place for place in run.root.rglob("ranges/*") if place.is_file()]


def begin(fleet: Make, origin: Origin, fault: Any, **more: Any) -> Fleet:
    """Begin to fetch the large file with one node, in small parts, and let a second node come."""
    limits = {"part_size": "1MiB", "per_host": 8, "connections": 8}
    run = fleet("a", sources=ADDRESSES, settings=quick(limits=limits), **more)
    run.start(served(origin, LARGE, fault))
    return run


async def until_it_helps(run: Fleet, count: int = 1) -> None:
    """Let the node "b" come when "a" has begun, and wait until it has received bytes for it."""
    await run.until(lambda: run.received() > 0)
    run.nodes.add("b")
    await run.until(lambda: of_nodes(run)["b"] >= count)


async def test_an_idle_node_fetches_ranges_of_the_last_file_of_another(origin: Origin, fleet: Make) -> None:
    board = Board()
    run = begin(fleet, origin, slow(MIB), observers=[board])
    await until_it_helps(run, 8 * MIB)
    board.nodes.sample(1.0, 5.0)
    (a, b) = sorted(board.nodes.lines(), key=lambda line: line.name)
    assert (a.files, b.files) == (1, 0)
    assert b.connections > 0
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE
    received = of_nodes(run)
    assert received["b"] > 16 * MIB
    assert received.total() < 1.05 * len(LARGE["large"])
    assert b.received == received["b"]
    assert a.received == received[""]
    assert any(isinstance(each, events.RangeAssigned) and each.node == "b" for each in run.seen)
    assert not (run.root / ".osp-fetch" / "nodes").exists()


async def test_what_a_killed_helper_had_is_fetched_by_the_other_node(origin: Origin, fleet: Make) -> None:
    run = begin(fleet, origin, slow(MIB))
    await until_it_helps(run, 2 * MIB)
    run.nodes.signal("b", signal.SIGKILL)
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE


async def test_a_frozen_helper_holds_nothing_up_and_changes_nothing_when_it_wakes(
    origin: Origin, fleet: Make
) -> None:
    run = begin(fleet, origin, slow(MIB), patience=4.0, in_reach=False)
    await until_it_helps(run, 2 * MIB)
    run.nodes.signal("b", signal.SIGSTOP)
    await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
    run.nodes.signal("b", signal.SIGCONT)
    await run.work
    await run.nodes.processes["b"].wait()
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE


async def test_the_file_of_a_killed_node_goes_on_at_its_helper(origin: Origin, fleet: Make) -> None:
    run = begin(fleet, origin, slow(MIB))
    await until_it_helps(run, 2 * MIB)
    run.nodes.signal("a", signal.SIGKILL)
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE
    assert not left(run)


async def test_wrong_bytes_of_a_helper_are_not_published_and_it_gets_no_more_of_the_file(
    origin: Origin, fleet: Make
) -> None:
    async def by_node(exchange: Exchange, page: o.Page) -> None:
        address, _ = exchange.writer.get_extra_info("peername")
        data = bytes(len(page.data)) if address == ADDRESSES["b"] else page.data
        await exchange.serve(Blob(data), page.headers, rate=2 * MIB)

    run = begin(fleet, origin, by_node)
    await until_it_helps(run)
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE
    lost = next(n for n, each in enumerate(run.seen) if isinstance(each, events.Lost))
    assert not [each for each in run.seen[lost:] if isinstance(each, events.RangeAssigned)]


async def test_a_range_that_the_server_refuses_a_helper_is_fetched_by_the_node_with_the_file(
    origin: Origin, fleet: Make
) -> None:
    async def by_node(exchange: Exchange, page: o.Page) -> None:
        address, _ = exchange.writer.get_extra_info("peername")
        if address == ADDRESSES["b"]:
            await exchange.answer(403, "not you", {"Content-Type": "text/plain"})
        else:
            await exchange.serve(Blob(page.data), page.headers, rate=MIB)

    run = begin(fleet, origin, by_node)
    await run.until(lambda: run.received() > 0)
    run.nodes.add("b")
    await run.work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == LARGE
    assert 0 < sum(isinstance(each, events.RangeAssigned) for each in run.seen) <= 4


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
