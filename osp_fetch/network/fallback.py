"""GET requests over connections of aiohttp's pool, without aiohttp's ClientSession.

aiohttp resolves names, connects, speaks TLS, keeps the pool and parses replies. Its session also makes a URL,
a request, a response, cookies, hooks and timers for each request, and for a small file these take longer than
the transfer. Only a request that needs more than a few lines of text goes through the session: one through a
proxy, or one whose URL has to be rewritten (`Connector.route`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EofStream
from multidict import CIMultiDictProxy

from ..model.http import Landing
from .connection import HttpConnection, PlainReply
from .connector import Connector, Route

_USUAL_MOST: Final = 1000  # most texts of headers that are remembered, so that memory stays bounded


class Response(Protocol):
    """The head of a reply, and its body as a stream: aiohttp's response, or an `Answer`.

    `close` closes the connection, unless the body was received to its end: then the pool keeps it.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def content(self) -> aiohttp.StreamReader: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def connection(self) -> Connection | None: ...
    @property
    def host(self) -> str | None: ...
    def close(self) -> None: ...


class Answer:
    """A reply that aiohttp parsed and that no session owns; see `Response`.

    Args:
        host: The host's name, for error messages.
        message: The head of the reply.
        content: The stream of the body.
        connection: The connection that the reply arrives on.
    """

    __slots__ = ("connection", "content", "content_length", "headers", "host", "status")

    def __init__(
        self,
        host: str | None,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        connection: Connection,
    ) -> None:
        self.host, self.content = host, content
        self.status, self.headers = message.code, message.headers
        length = message.headers.get("Content-Length")
        self.content_length = None if length is None else int(length)
        self.connection: Connection | None = connection

    def close(self) -> None:
        """Return the connection to the pool after the end of the body, close it before."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.content.is_eof() and self.content.exception() is None:
            connection.release()
        else:
            connection.close()
            if self.content.exception() is None:
                self.content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))


class Wire:
    """A sender of GET requests over the connections of a `Connector`.

    Args:
        connector: The pool of connections.
        headers: Sent with each request that has no header of the same name.
        patience: Seconds until the complete head of a reply must have arrived.
        longest: Most bytes of one line of the head.
        unread: Bytes of a body that aiohttp receives before they are read.
    """

    def __init__(
        self,
        connector: Connector,
        headers: Mapping[str, str],
        *,
        patience: float,
        longest: int,
        unread: int,
    ) -> None:
        self._connector, self._headers = connector, headers
        self._usual: dict[tuple[str, ...], str] = {}  # host, names of own headers → the common lines
        self._patience = patience
        self._params: dict[str, Any] = {
            "read_until_eof": True,
            "auto_decompress": False,
            "read_bufsize": unread,
            "max_line_size": longest,
            "max_field_size": longest,
        }

    async def get(
        self, route: Route, target: str, headers: Mapping[str, str], landing: Landing | None = None
    ) -> Answer | PlainReply:
        """Send a GET and return its reply.

        Args:
            route: The origin to send it to.
            target: Path and query, sent as they are.
            headers: The request's own headers.
            landing: Memory that a small reply may be received into.

        Returns:
            A `PlainReply` whose body is in `landing`, or an `Answer` whose body is not read yet.

        Raises:
            TimeoutError: The connection, or the head of the reply, did not come in time.
            aiohttp.ClientError: The connection failed, or the reply is not valid HTTP.
            OSError: The connection failed.
            ValueError: A header contains a line break or a NUL.
        """
        text = self._text(route, target, headers)
        while True:
            line = self._connector.line(route.key) if landing is not None else None
            connection, used = (line.connection, True) if line else await self._connector.connection(route)
            try:
                if landing is None:
                    return await self._asked(route, connection, text)
                line = line or HttpConnection(route.key, connection, *_of(connection), self._params)
                return await self._received(route, line, text, landing)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # Most often an idle connection that the server closed just as it was used again (RFC 9112
                # section 9.3.1). A GET is idempotent and may be sent twice.
                if not used:
                    raise

    def _text(self, route: Route, target: str, headers: Mapping[str, str]) -> bytes:
        """Return the request as bytes; raise ValueError for a header that would break its line."""
        key = (route.authority, *headers)
        usual = self._usual.get(key)
        if usual is None:
            own = {name.lower() for name in headers}
            others = {"Host": route.authority, **self._headers}.items()
            usual = "".join(f"{name}: {value}\r\n" for name, value in others if name.lower() not in own)
            if len(self._usual) < _USUAL_MOST:
                self._usual[key] = usual
        own_lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not own_lines.count("\r") == own_lines.count("\n") == len(headers) or "\0" in own_lines:
            raise ValueError("a request header contains a line break or a NUL character")
        return f"GET {target} HTTP/1.1\r\n{usual}{own_lines}\r\n".encode()

    async def _received(
        self, route: Route, line: HttpConnection, text: bytes, landing: Landing
    ) -> Answer | PlainReply:
        """Send `text` over `line` and return the reply, received into `landing` where that is possible."""
        try:
            plain = await line.ask(text, landing)
        except BaseException:
            line.close()
            raise
        if plain is None:
            return await self._read(route, line.connection)
        plain.host, plain.then = route.host, partial(self._connector.keep, line)
        return plain

    async def _asked(self, route: Route, connection: Connection, text: bytes) -> Answer:
        """Send `text` over `connection` and return the reply, its body unread."""
        protocol, transport = _of(connection)
        protocol.set_response_params(**self._params)
        transport.write(text)
        return await self._read(route, connection)

    async def _read(self, route: Route, connection: Connection) -> Answer:
        """Return the next final reply that aiohttp parses from `connection`."""
        protocol = connection.protocol
        assert protocol is not None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._patience, protocol.set_exception, TimeoutError())
        try:
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            return Answer(route.host, message, content, connection)
        except HttpProcessingError as error:
            connection.close()
            raise aiohttp.ClientPayloadError(error.message) from error
        except EofStream:
            connection.close()
            raise aiohttp.ServerDisconnectedError from None
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()


def _of(connection: Connection) -> tuple[ResponseHandler, asyncio.Transport]:
    """Return the protocol and transport of `connection`; raise ServerDisconnectedError where it has ended."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or transport.is_closing():
        connection.close()
        raise aiohttp.ServerDisconnectedError
    return protocol, transport
