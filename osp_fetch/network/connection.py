"""A persistent connection that receives small replies directly into the memory they are published from.

aiohttp's parser and stream copy each byte three times and make a dozen objects for one reply. A plain reply
needs none of that: one regular expression parses its head, and its body stays where it was received. A reply
that is not plain, or not complete within `_MOMENT` seconds, goes through aiohttp's parser from byte 0.
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

# seconds until an incomplete reply goes to aiohttp, so that its reader sees the bytes that have arrived
_MOMENT: Final = 0.25
# a complete head of the only form that is parsed here; aiohttp judges any looser form
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (200|206) [\t -~\x80-\xff]*\r\n"
    rb"((?:[!#-'*+.0-9A-Z^-z|~-]+:(?:[\t -~\x80-\xff]*[!-~\x80-\xff])?\r\n)+)\r\n"
)
_FIELD: Final = re.compile(r"([^:\r\n]+):[\t ]*([^\r\n]*)\r\n")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_UNASKED: Final = memoryview(bytearray(1 << 10))  # receives bytes that arrive while no reply is expected
_MORE: Final = 64 << 10  # bytes of each buffer that receives what arrives after the landing is full


class PlainReply:
    """A reply that arrived completely: its head, and its body in the Landing.

    Args:
        status: The status code, 200 or 206.
        headers: The header fields.
        body: All bytes of the body, a part of the Landing's memory.
    """

    __slots__ = ("body", "content_length", "headers", "host", "status", "then")

    def __init__(self, status: int, headers: CIMultiDictProxy[str], body: memoryview) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.content_length: int | None = len(body)
        self.host: str | None = None
        self.then: Callable[[], None] | None = None  # called once by `close`

    def close(self) -> None:
        """Return the connection to the pool."""
        then, self.then = self.then, None
        if then is not None:
            then()


class HttpConnection(asyncio.BufferedProtocol):
    """The asyncio protocol of a connection in place of aiohttp's, until the connection is given back.

    Args:
        key: The key of the connection in aiohttp's pool.
        connection: The connection, as aiohttp's connector returned it.
        owner: aiohttp's protocol of this connection.
        transport: The asyncio transport of this connection.
        params: Arguments of `owner.set_response_params` before `owner` parses a reply.
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
        self.since = 0.0  # time.monotonic() when it became idle
        self._owner, self._transport, self._params = owner, transport, params
        self._loop = asyncio.get_running_loop()
        self._spoilt = False  # it has ended, or bytes arrived while no reply was expected
        self._landing: Landing | None = None  # set while a reply is received
        self._waiter: asyncio.Future[PlainReply | None] | None = None  # set while one is awaited
        self._count = 0  # bytes received of the reply
        self._head: tuple[int, int, CIMultiDictProxy[str]] | None = None  # status, bytes of the head, fields
        self._stop = 0  # bytes of the complete reply
        self._more = bytearray()  # bytes that arrived after the landing was full …
        self._spare = memoryview(b"")  # … and the buffer that receives them
        self._become(self)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on this connection."""
        return not (self._spoilt or self._transport.is_closing())

    async def ask(self, text: bytes, landing: Landing) -> PlainReply | None:
        """Send a request and receive its reply.

        Args:
            text: The complete request.
            landing: Memory that the reply is received into.

        Returns:
            The reply. None where aiohttp's protocol has to read the reply: it then has the connection, and
            every byte that was received.
        """
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
        """Return the connection with aiohttp's protocol in place again."""
        self._become(self._owner)
        return self.connection

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _become(self, protocol: asyncio.BaseProtocol) -> None:
        """Make `protocol` the protocol of the transport."""
        if self._transport.is_closing():
            return  # `connection_lost` notifies the owner
        # a transport checks whether its protocol is a buffered one only when it begins to read
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _replay(self) -> None:
        """Pass the reply to the owner from its first byte."""
        landing, self._landing = self._landing, None
        self._owner.set_response_params(**self._params)
        if landing is not None and self._count:
            self._owner.data_received(bytes(landing.view[: self._count]) + self._more)
        self._more.clear()

    def _end(self, plain: PlainReply | None) -> None:
        """Complete the request with `plain`; None leaves the reply to the owner."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if plain is not None:
            self._landing = None
        elif not self._transport.is_closing():
            self._transport.pause_reading()
        waiter.set_result(plain)

    def _read_head(self, landing: Landing) -> None:
        """Parse the head once it is complete; leave a reply that is not plain to the owner."""
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
            and "Content-Encoding" not in fields
            and fields.get("Connection", "keep-alive").lower() == "keep-alive"
            and not fields.get("Content-Type", "").lower().startswith("text/html")  # maybe a page with a link
        )
        if not plain:
            self._end(None)
            return
        assert length is not None
        self._head, self._stop = (int(match[1]), start, CIMultiDictProxy(fields)), start + length
        landing.begun()

    # callbacks of asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._landing is None:
            return _UNASKED
        if self._count == len(self._landing.view):
            # TLS may deliver more bytes after reading was paused
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
            return  # the reply goes to the owner, and `_replay` includes these bytes
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
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._spoilt = True
        if self._landing is None:
            self._owner.connection_lost(exc)
            return
        self._replay()
        self._end(None)
        # only after the waiting request has handled the bytes that arrived before: aiohttp's stream yields no
        # data once an error is set on it
        self._loop.call_soon(self._owner.connection_lost, exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
