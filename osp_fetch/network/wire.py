"""One GET over a connection of aiohttp's pool, without a ClientSession around it.

aiohttp resolves names, connects, speaks TLS, keeps the pool and parses what comes. But for each request
its session makes a URL, a request, a response, cookies, hooks and timers, which cost a small file more time
than all that it brings. An origin's first request goes through the session, and so does each that needs more
than a few lines of text: a proxy, or credentials in its URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.streams import EofStream
from multidict import CIMultiDictProxy

from .connect import Connector, Route

_UNSENDABLE: Final = re.compile(r"[\r\n\0]")


class Response(Protocol):
    """The head of a reply, and its body as a stream: aiohttp's, or an Answer. `close` ends the connection,
    unless the body was received to its end: then it is kept."""

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
    """See `Response`."""

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
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.content.is_eof() and self.content.exception() is None:
            connection.release()
        else:
            connection.close()


class Wire:
    """Sends GETs over connections of `connector`. `headers`: sent with each, where it has no others of
    these names. `longest`: bytes of a line of a head. `unread`: bytes of a body that come before they are
    asked for."""

    def __init__(
        self, connector: Connector, headers: Mapping[str, str], *, longest: int, unread: int
    ) -> None:
        self._connector, self._headers = connector, headers
        self._longest, self._unread = longest, unread

    async def get(self, route: Route, target: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET of `target`, a path and query, its body not yet read. Raises
        aiohttp.ClientError, OSError and ValueError."""
        text = self._text(route, target, headers)
        try:
            return await self._asked(route, text)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # most often one that was kept, and that the server closed as it was used again (RFC 9112 section
            # 9.3.1); a GET may be sent twice
            return await self._asked(route, text)

    def _text(self, route: Route, target: str, headers: Mapping[str, str]) -> bytes:
        own = {name.lower() for name in headers}
        usual = {"Host": route.authority, **self._headers}
        lines = [f"{name}: {value}" for name, value in usual.items() if name.lower() not in own]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        text = "\0".join([f"GET {target} HTTP/1.1", *lines])
        if len(_UNSENDABLE.findall(text)) != len(lines):
            raise ValueError("a line of the request holds what no line may hold")
        return (text.replace("\0", "\r\n") + "\r\n\r\n").encode()

    async def _asked(self, route: Route, text: bytes) -> Answer:
        connection = await self._connector.connect(route.request, [], route.timeout)
        try:
            return await self._exchanged(connection, route, text)
        except HttpProcessingError as error:
            connection.close()
            raise aiohttp.ClientPayloadError(error.message) from error
        except EofStream:
            connection.close()
            raise aiohttp.ServerDisconnectedError from None
        except BaseException:
            connection.close()
            raise

    async def _exchanged(self, connection: Connection, route: Route, text: bytes) -> Answer:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=self._unread,
            max_line_size=self._longest,
            max_field_size=self._longest,
        )
        transport.write(text)
        while True:
            message, content = await protocol.read()
            if not 100 <= message.code < 200 or message.code == 101:
                return Answer(route.host, message, content, connection)
