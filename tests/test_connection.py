"""Tests of landing: a small plain reply is received into the memory that it is published from.

Any other reply takes the usual way through the stream.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osp_fetch.demo.server import Exchange
from osp_fetch.model.errors import FetchError, NetworkError, NotThePayloadError, UnreachableError
from osp_fetch.model.http import Landing
from osp_fetch.model.ranges import ByteRange
from tests import origin as o
from tests.origin import Page, noise
from tests.world import LOOPS, Play, World, player, read

DATA = noise(50_000)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    return player(request.param, tmp_path)


def place_for(room: int = len(DATA)) -> Landing:
    return Landing(memoryview(bytearray(Landing.HEAD + room)))


async def asked(
    w: World, path: str, room: int = len(DATA), span: ByteRange | None = None, *, sure: bool = True
) -> tuple[bytes, bool]:
    """Return the body, and whether it landed in the memory of the request."""
    place = place_for(room)
    async with w.transport.send(replace(w.request(path), landing=place, range=span, sure=sure)) as reply:
        whole = None if place.body is None else bytes(place.body)
        body, _ = await read(reply)
    assert whole in (None, body)
    return bytes(body), whole is not None


def test_small_replies_land_one_after_another_on_a_connection(play: Play) -> None:
    async def script(w: World) -> None:
        for size in (1, 100, 20_000, len(DATA), 0):
            w.origin.add(f"f{size}", DATA[:size])
            assert await asked(w, f"f{size}") == (DATA[:size], True)
        assert w.connections == 1

    play(script)


def test_a_range_lands_and_what_is_too_large_does_not(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("f", DATA)
        assert await asked(w, "f", span=ByteRange(10, 2000)) == (DATA[10:2000], True)
        assert await asked(w, "f", 40_000) == (DATA, False)
        w.origin.add("large", noise(1 << 20))
        assert await asked(w, "large") == (noise(1 << 20), False)
        assert await asked(w, "f") == (DATA, True)
        assert w.connections == 1

    play(script)


@pytest.mark.parametrize("loop", [loop for loop in LOOPS if "SOCKS" not in loop])  # a proxy hides resets
def test_a_reset_is_not_the_end_of_a_body_without_a_length(loop: str, tmp_path: Path) -> None:
    async def script(w: World) -> None:
        data = noise(1 << 20)
        w.origin.add("f", data, *[o.until_close_reset(600_000)] * 3, o.until_close)
        for room in (1 << 10, 2 << 20):
            with pytest.raises(NetworkError, match="cut"):
                await asked(w, "f", room)
        with pytest.raises(NetworkError, match="cut"):
            async with w.transport.send(w.request("f")) as reply:
                await read(reply)
        async with w.transport.send(w.request("f")) as reply:
            assert (await read(reply))[0] == data
            assert not reply.framed

    player(loop, tmp_path)(script)


def test_a_kept_connection_serves_a_streaming_reader_too(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("small", DATA)
        w.origin.add("large", noise(1 << 20))
        for _ in range(3):
            assert await asked(w, "small") == (DATA, True)
            async with w.transport.send(w.request("large")) as reply:
                assert (await read(reply))[0] == noise(1 << 20)
        assert w.connections == 1

    play(script)


NOT_PLAIN = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "the last on its connection": PLAIN[:-2] % 5 + b"Connection: close\r\n\r\nabcde",
    "hints before it": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN % 5 + b"abcde",
    "two lengths that agree": PLAIN[:-2] % 5 + b"Content-Length: 5\r\n\r\nabcde",
    "two that do not": PLAIN[:-2] % 5 + b"Content-Length: 6\r\n\r\nabcdef",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
    "a length and chunks": PLAIN[:-2] % 5 + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "a folded line": PLAIN[:-2] % 5 + b"X-A: b\r\n c\r\n\r\nabcde",
    "a control character": PLAIN[:-2] % 5 + b"X-A: b\x01c\r\n\r\nabcde",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nabcde",
    "lines without a return": PLAIN.replace(b"\r", b"") % 5 + b"abcde",
    "nonsense": b"what?\r\n\r\n",
    "a refusal": b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nabcde",
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "space at the end of a line": PLAIN[:-2] % 5 + b"X-A: b \r\n\r\nabcde",
    "a long head": PLAIN[:-2] % 5 + b"X-A: " + 60_000 * b"a" + b"\r\n\r\nabcde",
    "a page that may lead on": PLAIN.replace(b"image/jpeg", b"text/html") % 5 + b"abcde",
}


@pytest.mark.parametrize("reply", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_read_as_ever(play: Play, reply: bytes) -> None:
    async def oddly(exchange: Exchange, page: Page) -> None:
        await exchange.raw(reply)
        exchange.keep_alive = b"close" not in reply

    async def ended(w: World, *, land: bool) -> tuple[bytes, type[FetchError] | None]:
        place = place_for(1000) if land else None
        body = bytearray()
        try:
            async with w.transport.send(replace(w.request("f.html"), landing=place)) as answer:
                assert place is None or place.body is None
                await read(answer, body=body)
        except FetchError as error:
            return bytes(body), type(error)
        return bytes(body), None

    async def script(w: World) -> None:
        w.origin.add("f.html", b"", always=oddly)
        w.origin.add("g", DATA)
        ends = []
        for land in (False, True, False, True):
            ends.append(await ended(w, land=land))
            assert await asked(w, "g") == (DATA, True)
        assert len(set(ends)) == 1
        assert w.origin.requests["/f.html"] == 4

    play(script)


def test_a_body_up_to_the_end_of_its_connection_is_read_as_ever(play: Play) -> None:
    async def endless(exchange: Exchange, page: Page) -> None:
        await exchange.raw(b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + page.data)
        exchange.keep_alive = False

    async def script(w: World) -> None:
        w.origin.add("f", DATA, always=endless)
        assert await asked(w, "f") == (DATA, False)

    play(script)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=8), st.sampled_from(LOOPS))
def test_in_whatever_pieces_a_reply_comes_it_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], loop: str
) -> None:
    whole = PLAIN % 300 + DATA[:300]

    async def in_pieces(exchange: Exchange, page: Page) -> None:
        places = sorted({cut for cut in cuts if cut < len(whole)})
        for start, stop in zip([0, *places], [*places, len(whole)], strict=True):
            await exchange.raw(whole[start:stop])
            await asyncio.sleep(0.001)  # without a pause the pieces would be sent as one

    async def script(w: World) -> None:
        w.origin.add("f", b"", always=in_pieces)
        assert (await asked(w, "f"))[0] == DATA[:300]
        assert (await asked(w, "f"))[0] == DATA[:300]
        assert w.connections == 1

    player(loop, tmp_path_factory.mktemp("world"))(script)


def test_more_bytes_than_announced_are_no_part_of_the_file_nor_of_the_next_reply(play: Play) -> None:
    async def too_much(exchange: Exchange, page: Page) -> None:
        await exchange.raw(PLAIN % len(page.data) + page.data + PLAIN % 4 + b"evil")

    async def script(w: World) -> None:
        w.origin.add("f", DATA[:1000], always=too_much)
        w.origin.add("g", DATA)
        assert (await asked(w, "f"))[0] == DATA[:1000]
        assert await asked(w, "g") == (DATA, True)
        assert w.connections == 2

    play(script)


def test_what_comes_unasked_over_a_kept_connection_ends_it(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("f", DATA)
        await asked(w, "f")
        (lines,) = [each for way in w.transport._ways.values() for each in way.connector._lines.values()]
        writer = w.origin.seen[-1].writer
        writer.write(PLAIN % 4 + b"evil")
        await writer.drain()
        while lines[0].usable:
            await asyncio.sleep(0.01)
        assert await asked(w, "f") == (DATA, True)
        assert w.connections == 2

    play(script)


def test_a_body_that_stops_for_more_than_a_moment_goes_on_where_it_is(play: Play) -> None:
    here = asyncio.Event()

    async def in_two(exchange: Exchange, page: Page) -> None:
        await exchange.raw(PLAIN % len(page.data) + page.data[:20_000])
        await here.wait()
        await exchange.raw(page.data[20_000:])

    async def script(w: World) -> None:
        w.origin.add("f", DATA, in_two)
        place = place_for()
        async with w.transport.send(replace(w.request("f"), landing=place)) as reply:
            assert place.body is None
            here.set()
            assert (await read(reply))[0] == DATA
        assert w.origin.requests["/f"] == 1

    play(script)


def test_what_came_before_a_cut_is_delivered(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("f", DATA, o.cut(20_000))
        place, body = place_for(), bytearray()
        with pytest.raises(NetworkError):
            async with w.transport.send(replace(w.request("f"), landing=place)) as reply:
                await read(reply, body=body)
        assert body == DATA[:20_000]

    play(script)


def test_memory_is_left_alone_when_its_asker_has_gone(play: Play) -> None:
    asked_for, gone = asyncio.Event(), asyncio.Event()

    async def late(exchange: Exchange, page: Page) -> None:
        asked_for.set()
        await gone.wait()
        await exchange.raw(PLAIN % len(page.data) + page.data)

    async def script(w: World) -> None:
        w.origin.add("f", DATA, late)
        w.origin.add("g", DATA)
        place = place_for()

        async def wanting() -> None:
            async with w.transport.send(replace(w.request("f"), landing=place)):
                pass

        task = asyncio.create_task(wanting())
        await asked_for.wait()
        task.cancel()
        await asyncio.wait({task})
        gone.set()
        assert await asked(w, "g") == (DATA, True)
        assert not any(place.view)
        assert w.connections == 2

    play(script)


def test_an_error_page_in_place_of_the_file_is_refused_where_it_landed(play: Play) -> None:
    async def page_instead(exchange: Exchange, page: Page) -> None:
        body = b"<!doctype html><title>Please log in</title>"
        await exchange.answer(200, body, {"Content-Type": "application/octet-stream"})

    async def script(w: World) -> None:
        w.origin.add("f.tar", DATA, page_instead)
        w.origin.add("g", DATA)
        with pytest.raises(NotThePayloadError, match="Please log in"):
            await asked(w, "f.tar", sure=False)
        assert await asked(w, "g") == (DATA, True)
        assert w.connections == 1

    play(script)


def test_connections_that_are_not_used_are_closed(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("f", DATA)
        await asked(w, "f")
        while w.origin.server._connections:
            await asyncio.sleep(0.05)

    play(script)


def test_only_a_request_over_a_kept_connection_is_sent_again(play: Play) -> None:
    async def script(w: World) -> None:
        w.origin.add("new", DATA, always=o.reset)
        with pytest.raises(UnreachableError):
            await asked(w, "new")
        assert w.origin.requests["/new"] == 1
        w.origin.add("f", DATA)
        await asked(w, "f")
        w.origin.add("kept", DATA, o.reset)
        assert await asked(w, "kept") == (DATA, True)
        assert w.origin.requests["/kept"] == 2

    play(script)
