"""Tests of bodies that a thread receives, writes and hashes, in place of the event loop."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import resource
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from osp_fetch import Entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from osp_fetch.model.digest import Digest
from osp_fetch.model.draining import Receive
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import DiskFullError, NetworkError, TooLongError
from osp_fetch.model.ranges import ByteRange
from osp_fetch.model.settings import Storage
from osp_fetch.network.body import Body
from osp_fetch.storage.folder.disk import Disk
from osp_fetch.storage.folder.store import FolderStore
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.world import LOOPS, Play, World, player, read

DATA = noise(24 << 20)


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return player(request.param, tmp_path)


@pytest.fixture(params=[loop for loop in LOOPS if "TLS" not in loop])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return player(request.param, tmp_path)


async def drained(reply: Body, size: int, body: bytearray) -> int:
    """Receive the rest of a body in threads, and in the event loop where they cannot; append it to `body`.

    Returns:
        Number of bytes that threads received.
    """
    view, by_threads = memoryview(bytearray(size)), 0

    async def fill(receive: Receive) -> None:
        body.extend(view[: await asyncio.to_thread(receive, view)])

    while True:
        by_threads += (count := await reply.drain(fill) if reply.is_ready() else 0)
        if not count:
            count = await reply.readinto(view)
            body.extend(view[:count])
        if not count:
            return by_threads


@pytest.mark.parametrize("size", [70_001, 1 << 20, 5 << 20])
def test_threads_receive_every_byte_once_and_the_connection_serves_the_next_request(
    play: Play, size: int, request: pytest.FixtureRequest
) -> None:
    is_tls = "TLS" in request.node.callspec.params["play"]

    async def script(w: World) -> None:
        w.origin.add("large", DATA)
        w.origin.add("small", DATA[:1000])
        for _ in range(3):
            body = bytearray()
            async with w.transport.send(w.request("large")) as reply:
                assert isinstance(reply, Body)
                count = await drained(reply, size, body)
            assert body == DATA
            assert count == 0 if is_tls else count > len(DATA) // 2
            async with w.transport.send(w.request("small")) as reply:
                assert (await read(reply))[0] == DATA[:1000]
        assert w.connections == 1

    play(script)


def test_what_came_before_a_cut_is_given_and_then_the_cut_is_said(plain: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA, o.cut(15_000_000))
        body = bytearray()
        async with w.transport.send(w.request("large")) as reply:
            assert isinstance(reply, Body)
            with pytest.raises(NetworkError, match="the connection was cut"):
                await drained(reply, 1 << 20, body)
        assert 4_000_000 < len(body) <= 15_000_000
        assert body == DATA[: len(body)]

    plain(script)


def test_a_body_that_stalls_is_left_in_time(plain: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA, o.stall(9_000_000))
        body = bytearray()
        async with w.transport.send(w.request("large")) as reply:
            assert isinstance(reply, Body)
            with pytest.raises(NetworkError, match=r"no byte for 0\.5 s"):
                await drained(reply, 1 << 20, body)
        assert body == DATA[:9_000_000]

    plain(script)


def test_an_unrequested_answer_is_not_the_next_files(plain: Play) -> None:
    files = {f"f{n}": noise(3_000_000, n) for n in range(6)}
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"

    async def script(w: World) -> None:
        async def two_answers(exchange: Exchange, page: o.Page) -> None:
            await exchange.raw(head + page.data + head + b"x" * 3_000_000)

        for name, data in files.items():
            w.origin.add(name, data, always=two_answers)
        for name, data in files.items():
            body = bytearray()
            async with w.transport.send(w.request(name)) as reply:
                assert isinstance(reply, Body)
                await drained(reply, 1 << 20, body)
            assert body == data

    plain(script)


def test_bytes_that_the_event_loop_reads_meanwhile_spoil_the_body(plain: Play) -> None:
    """Nothing in aiohttp resumes the transport of another body; if it does after all, no byte is trusted."""

    async def script(w: World) -> None:
        w.origin.add("large", DATA)
        view = memoryview(bytearray(1 << 20))
        async with w.transport.send(w.request("large")) as reply:
            assert isinstance(reply, Body)
            while not reply.is_ready():
                await reply.readinto(view)

            async def fill(receive: Receive) -> None:
                await asyncio.to_thread(receive, view)
                assert reply._receiver is not None
                reply._receiver._transport.resume_reading()
                while not reply._receiver._early:
                    await asyncio.sleep(0.01)

            with pytest.raises(TooLongError, match="outside of their order"):
                await reply.drain(fill)

    plain(script)


def test_without_a_free_descriptor_the_event_loop_receives(plain: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA)
        view, body = memoryview(bytearray(1 << 20)), bytearray()
        async with w.transport.send(w.request("large")) as reply:
            assert isinstance(reply, Body)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            taken = [os.dup(0)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
            try:
                for _ in range(8):
                    with suppress(OSError):  # until no descriptor is free, also one that was closed meanwhile
                        while True:
                            taken.append(os.dup(0))
                    assert not reply.is_ready()
                    body += view[: await reply.readinto(view)]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for each in taken:
                    os.close(each)
            await drained(reply, 1 << 20, body)
        assert body == DATA

    plain(script)


# ---- the partial


class _FullDisk(Disk):
    """Fails once, with the third write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        self.writes += 1
        if self.writes == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(fd, offset, data)


def source(data: bytes) -> Receive:
    left = [data]

    def receive(view: memoryview) -> int:
        count = min(len(view), len(left[0]))
        view[:count], left[0] = left[0][:count], left[0][count:]
        return count

    return receive


async def test_what_a_full_disk_took_is_said_with_the_error(tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    state.mkdir()
    data = DATA[: 5 << 20]
    async with FolderStore(tmp_path, state, Storage(min_free=0), _FullDisk()) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True, lost=print)
        buffer = memoryview(bytearray(1 << 20))
        count, error = await partial.fill(ByteRange(0, len(data)), source(data), buffer, len(data))
        assert count == 2 << 20
        assert isinstance(error, DiskFullError)
        rest = source(data[count:])
        assert await partial.fill(ByteRange(count, len(data)), rest, buffer, len(data)) == (3 << 20, None)
        digests, _ = await partial.hashing.digests(len(data))
        assert digests["sha256"] == hashlib.sha256(data).hexdigest()
        await partial.close()


async def test_two_threads_fill_one_file(tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    state.mkdir()
    async with FolderStore(tmp_path, state, Storage(min_free=0)) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True, lost=print)
        spans = [ByteRange(at, at + (3 << 20)) for at in range(0, len(DATA), 3 << 20)]
        random.Random(1).shuffle(spans)

        async def fill(span: ByteRange) -> None:
            buffer, filled = memoryview(bytearray(700_000)), random.Random(span.start).choice([0, 5, 700_000])
            data = DATA[span.start : span.stop]
            buffer[:filled] = data[:filled]
            done = await partial.fill(span, source(data[filled:]), buffer, len(DATA), filled=filled)
            assert done == (len(span), None)  # fmt: skip

        await asyncio.gather(*map(fill, spans))
        digests, _ = await partial.hashing.digests(len(DATA))
        assert digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        await partial.publish(len(DATA))
        await partial.close()
    assert (tmp_path / "f").read_bytes() == DATA


# ---- whole runs

LARGE = quick(limits={"part_size": "16MiB", "connections": 2}, timeouts={"idle": 0.5})


class Threads:
    """An observer that notes whether threads received bytes."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Wrote):
            names = {thread.name for thread in threading.enumerate()}
            self.received = self.received or any(name.startswith("osp-receive") for name in names)


def burst(first: int, seconds: float) -> o.Fault:
    """Send `first` bytes at full speed, pause, and send the rest."""

    async def fault(exchange: Exchange, page: o.Page) -> None:
        await exchange.head(200, {"Content-Length": str(len(page.data)), "ETag": '"1"'})
        await exchange.raw(page.data[:first])
        await asyncio.sleep(seconds)
        await exchange.raw(page.data[first:])

    return fault


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (o.cut(9_000_000), o.cut(6_000_001), o.cut(5_000_000)),
        (o.stall(7_000_000), o.cut(12_000_000)),
        (burst(9_000_000, 0.3), burst(13_000_000, 0.2)),
        (o.rangeless, o.rangeless),
    ],
    ids=["none", "cuts", "stall", "pauses", "no ranges"],
)
@pytest.mark.parametrize("stated", [True, False])
async def test_a_file_is_right_whatever_happens_to_its_connections(
    origin: Origin, tmp_path: Path, faults: tuple[o.Fault, ...], stated: bool
) -> None:
    threads = Threads()
    url = origin.add("large", DATA, *faults)
    entry = Entry(path=RelativePath("f"), urls=(url,), digest=Digest.parse(sha256(DATA)) if stated else None)
    report = await fetch_all([entry], tmp_path, settings=LARGE, observer=threads)
    assert not report.failures
    assert (tmp_path / "f").read_bytes() == DATA
    assert report.outcomes[0].digest == sha256(DATA)
    assert threads.received


async def test_a_run_that_is_stopped_meanwhile_keeps_what_the_thread_has_written(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("large", DATA, always=o.counted(origin, 100e6))
    entry = Entry(path=RelativePath("f"), urls=(url,), digest=Digest.parse(sha256(DATA)))
    came = asyncio.Event()

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Wrote) and origin.sent["/large"] > 9_000_000:
            came.set()

    running = asyncio.ensure_future(fetch_all([entry], tmp_path, settings=LARGE, observer=observe))
    await came.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = origin.sent["/large"]
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("osp-")]
    assert threads == []
    assert not (tmp_path / "f").exists()
    report = await fetch_all([entry], tmp_path, settings=LARGE)
    assert not report.failures
    assert (tmp_path / "f").read_bytes() == DATA
    # what was sent and neither read nor recorded: socket buffers, and a piece of each connection
    assert origin.sent["/large"] - before < len(DATA)


@pytest.mark.parametrize("etag", [True, False])
async def test_what_is_held_when_the_event_loop_ends_is_right(
    origin: Origin, tmp_path: Path, etag: bool
) -> None:
    """`asyncio.run` cancels every task at once, the inner ones too, while threads receive and write."""

    async def steadily(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(Blob(page.data), page.headers, rate=150e6)

    headers = {"ETag": '"1"'} if etag else {}
    url = origin.add("f", DATA, always=steadily, headers=headers)
    chance = random.Random(etag)

    async def leave(folder: Path, seconds: float) -> None:
        running = asyncio.create_task(fetch_all([url], folder, settings=quick(limits={"part_size": "8MiB"})))
        await asyncio.sleep(seconds)
        assert not running.cancelled()

    for n in range(12):
        folder = tmp_path / str(n)
        await asyncio.to_thread(asyncio.run, leave(folder, chance.uniform(0.03, 0.25)))
        report = await fetch_all([url], folder, settings=quick())
        assert report.ok, report.failures
        assert (folder / "f").read_bytes() == DATA
