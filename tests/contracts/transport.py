"""The contract of `model.protocols.Transport`, and of the replies that it returns."""

from __future__ import annotations

from osp_fetch.model.http import Request
from osp_fetch.model.protocols import Transport
from osp_fetch.model.ranges import ByteRange
from tests.origin import noise
from tests.world import read

DATA = noise(300_000)


class TransportContract:
    """Derive a class with fixtures `transport` and `url`, the URL of DATA on a server with ranges."""

    async def test_a_request_without_a_range_returns_the_complete_file(
        self, transport: Transport, url: str
    ) -> None:
        async with transport.send(Request(url, name="f", sure=True)) as reply:
            assert reply.range is None
            assert reply.representation.length == len(DATA)
            assert reply.framed
            assert not reply.borrowed
            assert reply.name == ""
            body, _ = await read(reply)
        assert body == DATA

    async def test_a_range_returns_its_bytes(self, transport: Transport, url: str) -> None:
        request = Request(url, range=ByteRange(1000, 5000), name="f", sure=True)
        async with transport.send(request) as reply:
            assert reply.range == ByteRange(1000, 5000)
            assert reply.representation.length == len(DATA)
            body, _ = await read(reply)
        assert body == DATA[1000:5000]

    async def test_no_byte_follows_the_end(self, transport: Transport, url: str) -> None:
        async with transport.send(Request(url, name="f", sure=True)) as reply:
            await read(reply)
            assert await reply.readinto(memoryview(bytearray(10))) == 0

    async def test_a_body_may_be_left_unread(self, transport: Transport, url: str) -> None:
        for _ in range(3):
            async with transport.send(Request(url, name="f", sure=True)) as reply:
                assert await reply.readinto(memoryview(bytearray(10))) > 0
