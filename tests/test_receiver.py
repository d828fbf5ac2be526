"""Tests of the receiver: large bodies bypass aiohttp's stream and go into the reader's memory.

Each test runs on asyncio and on uvloop, with and without TLS.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from osp_fetch.demo.server import Exchange
from osp_fetch.model.errors import NetworkError
from osp_fetch.network.body import Body
from tests import origin as o
from tests.origin import noise
from tests.world import LOOPS, Play, World, player, read

DATA = noise(8 << 20)
# Bytes. A larger read than the stream may hold, or one receive of an event loop may return.
PAST_THE_STREAM = 512 << 10


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return player(request.param, tmp_path)


async def fetch(w: World, path: str, body: bytearray) -> None:
    async with w.transport.send(w.request(path)) as reply:
        await read(reply, body=body)


def test_a_large_body_fills_the_readers_memory_and_its_connection_serves_the_next_request(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA)
        w.origin.add("small", DATA[:1000])
        for path, data in [("large", DATA), ("small", DATA[:1000])] * 3:
            async with w.transport.send(w.request(path)) as reply:
                body, most = await read(reply)
            assert body == data
            assert path == "small" or most > PAST_THE_STREAM
        assert w.connections == 1

    play(script)


@pytest.mark.parametrize("size", [1, 1000, 65_537, len(DATA) - 1, len(DATA), len(DATA) + 1])
def test_memory_of_any_size_gets_every_byte_once(play: Play, size: int) -> None:
    async def script(w: World) -> None:
        data = DATA if size > 1000 else DATA[: 200 * size + 200_000]
        w.origin.add("large", data)
        async with w.transport.send(w.request("large")) as reply:
            body, _ = await read(reply, size)
        assert body == data

    play(script)


def test_a_connection_that_ends_with_the_last_byte_has_delivered_them_all(play: Play) -> None:
    async def at_once(exchange: Exchange, page: o.Page) -> None:
        await exchange.head(200, {"Content-Length": str(len(page.data)), "Connection": "close"})
        exchange.writer.write(page.data)
        exchange.keep_alive = False

    async def script(w: World) -> None:
        w.origin.add("large", DATA[:2_000_000], always=at_once)
        for _ in range(20):
            async with w.transport.send(w.request("large")) as reply:
                body, _ = await read(reply, 2_000_000)
            assert body == DATA[:2_000_000]

    play(script)


def test_a_chunked_body_goes_through_the_stream(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA[:2_000_000], always=o.chunked)
        async with w.transport.send(w.request("large")) as reply:
            body, _ = await read(reply)
        assert body == DATA[:2_000_000]

    play(script)


def test_what_came_before_a_cut_is_given_and_then_the_cut_is_said(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA, o.cut(5_000_000))
        body = bytearray()
        with pytest.raises(NetworkError, match="the connection was cut"):
            await fetch(w, "large", body)
        assert 4_000_000 < len(body) <= 5_000_000
        assert body == DATA[: len(body)]

    play(script)


def test_who_is_late_in_reading_the_body_before_does_no_harm(play: Play) -> None:
    async def script(w: World) -> None:
        here = asyncio.Event()

        async def in_pieces(exchange: Exchange, page: o.Page) -> None:
            await exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page.data))
            await exchange.raw(page.data[:50_000])
            await here.wait()
            await exchange.raw(page.data[50_000:])

        w.origin.add("before", DATA[:100_000], always=in_pieces)
        w.origin.add("large", DATA)
        known = w.request("before")
        # aiohttp's session writes this URL in another way, so that it sends the request
        by_session = replace(known, url=known.url.replace("http", "HTTP", 1))
        async with w.transport.send(by_session) as before:
            first = memoryview(bytearray(10))
            count = await before.readinto(first)
            here.set()
            # aiohttp has the complete body, and the connection is free for the next request.
            assert isinstance(before, Body)
            while before._response.connection is not None:
                await asyncio.sleep(0.01)
            async with w.transport.send(w.request("large")) as large:
                body, view = bytearray(), memoryview(bytearray(100_000))
                assert isinstance(large, Body)
                while large._receiver is None:
                    body += view[: await large.readinto(view)]
                rest, _ = await read(before)
                await asyncio.sleep(0.1)  # time for bytes that a resumed connection would receive
                assert bytes(first[:count]) + rest == DATA[:100_000]
                rest, _ = await read(large)
                assert body + rest == DATA
        async with w.transport.send(w.request("before")) as again:
            assert (await read(again))[0] == DATA[:100_000]
        assert w.connections == 1

    play(script)


def test_a_body_that_stalls_is_left_in_time(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("large", DATA, o.stall(3_000_000))
        with pytest.raises(NetworkError, match=r"no byte for 0\.5 s"):
            await fetch(w, "large", bytearray())

    play(script)


def test_a_body_that_is_left_early_writes_to_no_memory_any_more(play: Play) -> None:
    """The connection is closed, because the rest of the body would be taken for the next reply."""

    async def script(w: World) -> None:
        w.origin.add("large", DATA)
        view = memoryview(bytearray(1 << 20))
        async with w.transport.send(w.request("large")) as reply:
            for _ in range(3):
                await reply.readinto(view)
            reading = asyncio.ensure_future(reply.readinto(view))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            view[:] = bytes(len(view))
        async with w.transport.send(w.request("large")) as reply:
            body, _ = await read(reply)
        assert body == DATA
        assert not any(view)
        assert w.connections == 2

    play(script)


@pytest.mark.parametrize("size", [250_000, 262_144, 3_000_000])
def test_an_unrequested_answer_is_not_the_next_files(play: Play, size: int) -> None:
    files = {f"f{n}": noise(size, n) for n in range(12)}
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    async def script(w: World) -> None:
        async def two_answers(exchange: Exchange, page: o.Page) -> None:
            await exchange.raw(head + page.data + head + b"x" * size)

        for name, data in files.items():
            w.origin.add(name, data, always=two_answers)
        for name, data in files.items():
            async with w.transport.send(w.request(name)) as reply:
                body, _ = await read(reply, size=size)
            assert body == data

    play(script)
