"""A small HTTP/1.1 server on raw streams, whose handlers may send any bytes and cut any connection."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import field
from http import HTTPStatus
from typing import Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from ..model.dataclasses import dataclass

Headers = Mapping[str, str]
_SLICE = 256 << 10  # most bytes of one write, so that only this part of a large content is in memory


class Content(Protocol):
    """Bytes to serve."""

    @property
    def length(self) -> int:
        """Number of bytes."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, without the one at `stop`."""
        ...


@dataclass(frozen=True, slots=True)
class Blob:
    """Content in memory."""

    data: bytes

    @property
    def length(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, without the one at `stop`."""
        return self.data[start:stop]


class Cut(Exception):
    """Raised by a handler to abort the connection at once, without a clean end."""


@dataclass(slots=True)
class Exchange:
    """One request, and the methods that answer it.

    Args:
        method: The request's method.
        target: The request target as received, byte for byte.
        headers: Lower-case name → value.
        writer: The connection's stream.
        keep_alive: Whether the connection stays open after the reply.
    """

    method: str
    target: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    keep_alive: bool = True
    path: str = field(init=False)
    query: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))

    async def head(self, status: int, headers: Headers) -> None:
        """Send a status line and headers as they are.

        Args:
            status: The status code; its phrase is added.
            headers: Name → value.
        """
        known = status in HTTPStatus._value2member_map_
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase if known else 'Unknown'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes | str = b"", headers: Headers | None = None) -> None:
        """Send a complete reply with a small body.

        Args:
            status: The status code.
            body: The body; a string is sent as UTF-8.
            headers: Name → value; they override Content-Length.
        """
        data = body.encode() if isinstance(body, str) else body
        await self.head(status, {"Content-Length": str(len(data)), **(headers or {})})
        if self.method != "HEAD":
            await self.raw(data)

    def span(self, length: int) -> tuple[int, int] | None:
        """Return the byte range that the request asks for (RFC 9110 section 14.1.2).

        Args:
            length: Length of the file in bytes.

        Returns:
            (start, stop) with stop exclusive; None where the request has no single byte range.

        Raises:
            ValueError: The range starts past the end of the file.
        """
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range", ""))
        if match is None or match.groups() == ("", ""):
            return None
        if not match[1]:
            return max(0, length - int(match[2])), length
        start, stop = int(match[1]), min(length, int(match[2]) + 1 if match[2] else length)
        if start >= length:
            raise ValueError("416")
        return start, stop

    async def serve(
        self,
        content: Content,
        headers: Headers | None = None,
        *,
        cut_after: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Send `content`, or the requested range of it, as a correct server does.

        Args:
            content: The bytes of the file.
            headers: Name → value; they override the default Accept-Ranges and Content-Type.
            cut_after: Bytes of the body after which the connection is cut, None for none.
            rate: Bytes per second, None for no limit.

        Raises:
            Cut: `cut_after` bytes were sent.
        """
        length = content.length
        own = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **(headers or {})}
        try:
            span = self.span(length)
        except ValueError:
            await self.answer(416, headers={**own, "Content-Range": f"bytes */{length}"})
            return
        if_range = self.headers.get("if-range")
        if if_range and if_range not in (own.get("ETag"), own.get("Last-Modified")):
            span = None
        start, stop = span or (0, length)
        own["Content-Length"] = str(stop - start)
        if span:
            own["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
        await self.head(206 if span else 200, own)
        if self.method != "HEAD":
            await self.body(content, start, stop, cut_after=cut_after, rate=rate)

    async def body(
        self,
        content: Content,
        start: int,
        stop: int,
        *,
        cut_after: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Send a part of `content` without a head.

        Args:
            content: The bytes of the file.
            start: The first byte.
            stop: The byte after the last.
            cut_after: Bytes after which the connection is cut, None for none.
            rate: Bytes per second, None for no limit.

        Raises:
            Cut: `cut_after` bytes were sent.
        """
        left = cut_after
        size = _SLICE if rate is None else max(1024, min(_SLICE, int(rate / 10)))
        while start < stop:
            count = min(size, stop - start, left if left is not None else stop)
            await self.raw(content.read(start, start + count))
            start += count
            if left is not None and (left := left - count) <= 0:
                raise Cut
            if rate is not None:
                await asyncio.sleep(count / rate)


Handler = Callable[[Exchange], Awaitable[None]]


class Server:
    """A server that passes each request to one handler, as long as its context manager is open.

    Args:
        handler: Answers one request; a `Cut` or OSError that it raises aborts the connection.
        tls: Makes the server speak HTTPS.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one, which `port` states afterwards.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._handler, self._tls, self._host, self.port = handler, tls, host, port
        self._server: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, self._host, self.port, ssl=self._tls, limit=64 << 10, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (exchange := await _read(reader, writer)) is not None:
                await self._handler(exchange)
                if not exchange.keep_alive:
                    break
        except (Cut, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    """Read the head of the next request; return None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    keep = headers.get("connection", "").lower() != "close"
    return Exchange(method, target, headers, writer, keep)
