"""A kept connection that receives small replies straight into the memory that they are published from.

Through aiohttp's parser and stream each byte is copied three times, and a dozen objects are made for one
reply. A plain reply needs none of that: one expression reads its head, and its body lies where it came.
Whatever is not plain, or not all here in a moment, goes on through aiohttp's parser from its first byte.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy

from ..model.http import Landing

_MOMENT: Final = 0.25  # seconds after which a reader wants to see what has come
# a whole head of the only kind that is read here; anything looser is aiohttp's to judge
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (200|206) [\t -~\x80-\xff]*\r\n"
    rb"((?:[!#-'*+.0-9A-Z^-z|~-]+:(?:[\t -~\x80-\xff]*[!-~\x80-\xff])?\r\n)+)\r\n"
)
_FIELD: Final = re.compile(r"([^:\r\n]+):[\t ]*([^\r\n]*)\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_UNASKED: Final = memoryview(bytearray(1 << 10))  # where such bytes come to
_MORE: Final = 64 << 10  # bytes that are taken beside a full memory


class PlainReply:
    """A reply that came whole: its head, and its body in the Landing. Closing it keeps the connection."""

    __slots__ = ("body", "content_length", "headers", "host", "status", "then")

    def __init__(self, status: int, headers: CIMultiDictProxy[str], body: memoryview) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.content_length: int | None = len(body)
        self.host: str | None = None
        self.then: Callable[[], None] | None = None  # what closing it does

    def close(self) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()


class HttpConnection(asyncio.BufferedProtocol):
    """Stands in for the protocol `owner` of `connection`, until that is given back.

    `key`: of the pool that it belongs to. `params`: what `owner` is told before a reply.
    """

    def __init__(
        self,
        key: object,
        connection: Connection,
        owner: ResponseHandler,
        transport: asyncio.Transport,
        params: dict[str, Any],
    ) -> None:
        self.key, self.connection = key, connection
        self.since = 0.0  # when it was kept
        self._owner, self._transport, self._params = owner, transport, params
        self._loop = asyncio.get_running_loop()
        self._spoilt = False  # it has ended, or something came that nobody had asked for
        self._landing: Landing | None = None  # while a reply is received
        self._waiter: asyncio.Future[PlainReply | None] | None = None  # while one is awaited
        self._count = 0  # bytes that have come of it
        self._head: tuple[int, int, CIMultiDictProxy[str]] | None = None  # status, bytes of the head, fields
        self._stop = 0  # bytes of all of it
        self._more = bytearray()  # came of it when its memory was full …
        self._spare = memoryview(b"")  # … and where that comes to
        self._become(self)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not (self._spoilt or self._transport.is_closing())

    async def ask(self, text: bytes, landing: Landing) -> PlainReply | None:
        """The reply to the request `text`. None where it is the owner's to tell, who has the connection."""
        self._landing, self._head, self._count = landing, None, 0
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(_MOMENT, self._end, None)
        try:
            self._transport.write(text)
            plain: PlainReply | None = await waiter
            if self._landing is not None:
                self._become(self._owner)
                self._replay()
            return plain
        finally:
            timer.cancel()
            self._waiter = self._landing = None

    def give_back(self) -> Connection:
        """The connection, as its owner's again."""
        self._become(self._owner)
        return self.connection

    def close(self) -> None:
        """End it."""
        self.connection.close()

    def _become(self, protocol: asyncio.BaseProtocol) -> None:
        if self._transport.is_closing():
            return  # the owner is told of that by us
        # a transport asks what its protocol can do only as it begins to read
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _replay(self) -> None:
        """Let the owner read the reply from its first byte."""
        landing, self._landing = self._landing, None
        self._owner.set_response_params(**self._params)
        if landing is not None and self._count:
            self._owner.data_received(bytes(landing.view[: self._count]) + self._more)
        self._more.clear()

    def _end(self, plain: PlainReply | None) -> None:
        """The reply is `plain`, or the owner's to tell."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if plain is not None:
            self._landing = None
        elif not self._transport.is_closing():
            self._transport.pause_reading()
        waiter.set_result(plain)

    def _read_head(self, landing: Landing) -> None:
        view, count = landing.view, self._count
        match = _HEAD.match(view, 0, count)
        if match is None:
            if count >= landing.HEAD or b"\r\n\r\n" in bytes(view[:count]):
                self._end(None)
            return
        fields = CIMultiDict(_FIELD.findall(match[2].decode("utf-8", "surrogateescape")))
        lengths = fields.getall("Content-Length", ())
        length = int(lengths[0]) if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else None
        start = match.end()
        plain = (
            length is not None
            and start + length <= len(view)
            and "Transfer-Encoding" not in fields
            and fields.get("Connection", "keep-alive").lower() == "keep-alive"
            and not fields.get("Content-Type", "").lower().startswith("text/html")  # it may lead on
        )
        if not plain:
            self._end(None)
            return
        assert length is not None
        self._head, self._stop = (int(match[1]), start, CIMultiDictProxy(fields)), start + length
        landing.begun()

    # what the transport calls

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._landing is None:
            return _UNASKED
        if self._count == len(self._landing.view):
            # TLS may bring more although it was paused
            self._spare = memoryview(bytearray(_MORE))
            return self._spare
        return self._landing.view[self._count :]

    def buffer_updated(self, nbytes: int) -> None:
        landing = self._landing
        if landing is None:
            self._spoilt = True
            return
        if self._count == len(landing.view):
            self._more += self._spare[:nbytes]
            return
        self._count += nbytes
        if self._waiter is None or self._waiter.done():
            return  # it is the owner's, who will be told of this, too
        if self._head is None:
            self._read_head(landing)
        if self._head is not None and self._count >= self._stop:
            status, start, fields = self._head
            if self._count > self._stop:
                self._end(None)
            else:
                landing.start, landing.body = start, landing.view[start : self._stop]
                self._end(PlainReply(status, fields, landing.body))
        elif self._count == len(landing.view):
            self._end(None)

    def eof_received(self) -> bool | None:
        self._owner.eof_received()
        return None  # close

    def connection_lost(self, exc: Exception | None) -> None:
        self._spoilt = True
        if self._landing is None:
            self._owner.connection_lost(exc)
            return
        self._replay()
        self._end(None)
        # after whoever waits has had what came before: of a stream that is broken nothing can be read
        self._loop.call_soon(self._owner.connection_lost, exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
