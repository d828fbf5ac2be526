"""GET with ranges over aiohttp: the one place that speaks HTTP, and its one door.

A range is believed only with one Content-Range of the right start. aiohttp's own timers count
waiting for a pool slot, restart with every byte and vanish after a 1xx, so this room keeps clocks
of its own: around the head of a reply, around every read, and over a minimum speed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .. import __version__
from ..model import links
from ..model.errors import NetworkError, Remedy, StatusError, TransferError, UntrustedServer
from ..model.exchange import Representation, Request, Validator
from ..model.ranges import ByteRange
from ..model.settings import Limits, Retry, Timeouts
from . import payload

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEAD_BYTES: Final = 64 << 10
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


@dataclass(frozen=True, slots=True)
class ConnectTo:
    """Connect to `to_host:to_port` where a URL says `host:port`, like curl's --connect-to.

    The URL, the Host header and the certificate's name stay the URL's. Empty or 0 matches any, and
    keeps the URL's own where it stands on the right.
    """

    host: str
    port: int
    to_host: str
    to_port: int

    @classmethod
    def parse(cls, text: str) -> ConnectTo:
        """Read `HOST:PORT:HOST:PORT`; raises ValueError for anything else."""
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*):(\d*):(\[[^\]]+\]|[^:]*):(\d*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT:HOST:PORT")
        host, port, to_host, to_port = match.groups()
        return cls(host.strip("[]").lower(), int(port or 0), to_host.strip("[]"), int(to_port or 0))


class _Resolver(AbstractResolver):
    def __init__(self, rules: Sequence[ConnectTo]) -> None:
        self._rules = rules
        self._real = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        for rule in self._rules:
            if rule.host in ("", host.lower()) and rule.port in (0, port):
                return await self._real.resolve(rule.to_host or host, rule.to_port or port, family)
        return await self._real.resolve(host, port, family)

    async def close(self) -> None:
        await self._real.close()


class _Body:
    """The reply whose body is being read; see `model.protocols.Reply`."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        representation: Representation,
        span: ByteRange | None,
        *,
        timeouts: Timeouts,
        borrowed: bool,
        pauses: tuple[tuple[str, float], ...],
    ) -> None:
        self.representation = representation
        self.range = span
        self.borrowed = borrowed
        self.pauses = pauses
        self.framed = response.content_length is not None or "Transfer-Encoding" in response.headers
        self._response = response
        self._timeouts = timeouts
        self._left = len(span) if span else representation.length
        self._peeked = b""
        self._waited = 0.0
        self._window = 0

    async def read(self) -> bytes:
        if self._peeked:
            chunk, self._peeked = self._peeked, b""
        else:
            chunk = await self._receive()
        if self._left is not None:
            if len(chunk) > self._left:
                raise NetworkError(f"{self._name}: the server sent more bytes than it announced")
            self._left -= len(chunk)
        return chunk

    async def peek(self) -> bytes:
        """The first bytes, left in place for `read`."""
        while len(self._peeked) < payload.PEEK:
            chunk = await self._receive()
            if not chunk:
                break
            self._peeked += chunk
        return self._peeked[: payload.PEEK]

    async def _receive(self) -> bytes:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.idle):
                chunk = await self._response.content.readany()
        except TimeoutError:
            raise NetworkError(f"{self._name}: no byte for {self._timeouts.idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"{self._name}: the connection was cut ({_reason(error)})") from None
        self._check_speed(time.monotonic() - begun, len(chunk))
        return chunk

    def _check_speed(self, waited: float, count: int) -> None:
        # only time spent waiting for the server counts: a slow disk of ours is not its fault
        self._waited += waited
        self._window += count
        if self._waited >= self._timeouts.slow_for > 0:
            if self._window < self._timeouts.slowest * self._waited:
                raise NetworkError(f"{self._name}: slower than {self._timeouts.slowest} bytes/s")
            self._waited, self._window = 0.0, 0

    @property
    def _name(self) -> str:
        return urlsplit(self.representation.url).hostname or "?"


class HttpTransport:
    """The Transport over HTTP/1.1. An async context manager: connections live as long as it.

    `buffer`: bytes that one connection may hold unread. `connect_to` and `cafile` as curl has them;
    `environment`: whether proxies and netrc are taken from the environment.
    """

    def __init__(
        self,
        limits: Limits,
        retry: Retry,
        timeouts: Timeouts,
        *,
        buffer: int = 1 << 20,
        connect_to: Sequence[ConnectTo] = (),
        cafile: str | None = None,
        environment: bool = False,
    ) -> None:
        self._limits, self._retry, self._timeouts = limits, retry, timeouts
        self._buffer = buffer
        self._connect_to = connect_to
        self._cafile = cafile
        self._environment = environment
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        if self._cafile:
            context.load_verify_locations(self._cafile)
        # limit 0: the gate is the limit; a second one would only hide waiting inside aiohttp
        connector = aiohttp.TCPConnector(limit=0, ssl=context, resolver=_Resolver(self._connect_to))
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=self._buffer,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            headers={
                "User-Agent": f"osp-fetch/{__version__}",
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            },
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
            requote_redirect_url=False,
            trust_env=self._environment,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def get(self, request: Request) -> AsyncIterator[_Body]:
        """Send `request`, follow its redirects, and give the reply that is the payload.

        Raises TransferError of the fitting class for everything else. A connection whose body was
        not read to its end is closed, not reused.
        """
        response, url, pauses = await self._follow(request)
        try:
            borrowed = request.borrowed or url != request.url
            if response.status not in (200, 206):
                raise await self._refusal(request, response, borrowed=borrowed)
            payload.check_coding(request, response.headers)
            span, length = _extent(request, response)
            etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
            found = Representation(url, length, Validator(etag, modified))
            body = _Body(response, found, span, timeouts=self._timeouts, borrowed=borrowed, pauses=pauses)
            head = await body.peek() if span is None or span.start == 0 else b""
            kind = response.headers.get("Content-Type", "")
            payload.check_page(request.name, kind, head, sure=request.sure)
            yield body
        finally:
            response.close()  # after the end of a body this is a no-op and the connection is kept

    async def _follow(
        self, request: Request
    ) -> tuple[aiohttp.ClientResponse, str, tuple[tuple[str, float], ...]]:
        url, headers = request.url, dict(request.headers)
        pauses: list[tuple[str, float]] = []
        for _ in range(self._limits.redirects + 1):
            response = await self._send(url, headers, request)
            if (pause := payload.quota_pause(response.headers)) is not None:
                pauses.append((links.host(url), pause))
            if response.status not in REDIRECTS:
                return response, url, tuple(pauses)
            location = response.headers.get("Location", "")
            await self._read_some(response)
            response.close()
            target = _redirected(url, location)
            if links.origin(target) != links.origin(url):
                headers.clear()  # credentials never cross to another origin
            url = target
        raise StatusError(
            f"{request.name}: more than {self._limits.redirects} redirects; the server sends in circles",
            status=302,
            remedy=Remedy.FAIL,
        )

    async def _send(self, url: str, headers: dict[str, str], request: Request) -> aiohttp.ClientResponse:
        sent = dict(headers)
        if request.range is not None:
            sent["Range"] = f"bytes={request.range.start}-{request.range.stop - 1}"
            if request.if_range:
                sent["If-Range"] = request.if_range
        # a signed query must go out byte for byte; only what HTTP cannot carry is encoded
        target = URL(url, encoded=url.isascii())
        name = target.host or "?"
        try:
            async with asyncio.timeout(self._timeouts.connect + self._timeouts.head):
                return await self._session.get(target, headers=sent, allow_redirects=False)
        except TimeoutError:
            raise NetworkError(f"{name}: no answer within {self._timeouts.head:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise UntrustedServer(
                f"{name}: its certificate does not hold ({_reason(error.certificate_error)}); "
                "--cacert adds a certificate authority of your own"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NetworkError(f"{name}: no answer ({_reason(error)})") from None

    async def _refusal(
        self, request: Request, response: aiohttp.ClientResponse, *, borrowed: bool
    ) -> TransferError:
        return payload.refusal(
            request,
            response.status,
            response.headers,
            await self._read_some(response),
            borrowed=borrowed,
            now=time.time(),
            longest_wait=self._retry.retry_after,
        )

    async def _read_some(self, response: aiohttp.ClientResponse) -> bytes:
        """The first KiB of a body that is not the payload; read to its end, the connection is kept."""
        body = b""
        try:
            async with asyncio.timeout(self._timeouts.idle):
                while len(body) < payload.REFUSAL_READ and (chunk := await response.content.readany()):
                    body += chunk
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the status alone says enough
        return body[: payload.REFUSAL_READ]


def _redirected(url: str, location: str) -> str:
    """The absolute URL that a redirect from `url` leads to; its query stays byte for byte."""
    where = URL(url, encoded=True)
    try:
        target = where.join(URL(location, encoded=location.isascii()))
    except ValueError:
        location = ""
    if not location or target.scheme not in ("http", "https") or not target.host:
        raise StatusError(f"{where.host}: it redirects to no http(s) address", status=302, remedy=Remedy.FAIL)
    if where.scheme == "https" and target.scheme == "http":
        raise StatusError(
            f"{where.host}: it redirects from https to plain http at {target.host}, which anyone on "
            "the way could alter",
            status=302,
            remedy=Remedy.FAIL,
        )
    return str(target.with_fragment(None)) if "#" in location else str(target)


def _extent(request: Request, response: aiohttp.ClientResponse) -> tuple[ByteRange | None, int | None]:
    """Which bytes the body supplies (None: the whole file), and the length of the whole.

    A range with status 200 is believed where Content-Length agrees with Content-Range, as
    ModelScope sends it (FACTS section 4).
    """
    stated = response.headers.getall("Content-Range", [])
    carried = response.content_length
    if response.status == 200 and (not stated or request.range is None):
        return None, carried
    name = request.name
    match = _CONTENT_RANGE.fullmatch(stated[0].strip()) if len(stated) == 1 else None
    if request.range is None or match is None:
        raise NetworkError(f"{name}: a partial answer without the one Content-Range that explains it")
    start, stop = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if response.status == 200 and carried == total and (start, stop) != (0, total):
        return None, carried
    if start >= stop or (total is not None and stop > total):
        raise NetworkError(f"{name}: an impossible Content-Range {stated[0]!r}")
    if start != request.range.start or stop > request.range.stop:
        raise NetworkError(f"{name}: asked for bytes {request.range}, got {start}-{stop}")
    if carried is not None and carried != stop - start:
        raise NetworkError(f"{name}: Content-Length {carried} contradicts Content-Range {stated[0]!r}")
    return ByteRange(start, stop), total


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
