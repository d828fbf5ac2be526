"""Redirects, checks and errors of one GET, which `fallback.Wire` or aiohttp's session sends.

aiohttp's timers include the wait for a connection of its pool, restart with every byte and disappear after a
1xx reply. This package therefore has its own: a timeout for the head of a reply, a timeout for each read, and
a minimum speed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Self
from urllib.parse import unquote

import aiohttp
from yarl import URL

from ..model import urls
from ..model.dataclasses import dataclass
from ..model.errors import (
    NotThePayloadError,
    Remedy,
    StatusError,
    TransferError,
)
from ..model.http import Coding, Representation, Request
from ..model.protocols import Leads
from ..model.settings import Limits, Retry, Timeouts
from ..s3.signing import Signer
from ..version import __version__
from . import internals, refusals
from .adapted import DecodedBody, TrimmedBody
from .body import Body, Landed, reason
from .certificates import Tls
from .chain import Chain
from .connection import PlainReply
from .connector import Connector, ConnectTo, NoCookies
from .cookies import Cookies
from .credentials import (
    Credentials,
    authorization,
    with_userinfo,
    without_secrets,
    without_userinfo,
)
from .failures import failure
from .fallback import Response, Wire
from .head import extent, redirected, validator
from .proxies import Proxies, is_socks
from .reply import HttpReply, OpenReply
from .resolver import Resolver

_CROWDED: Final = frozenset({429, 503})  # statuses of a server that has too many connections or requests
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Seconds that an idle connection is kept. During a run the next request follows at once; and where the
# concurrency limit sinks, an idle connection still counts as one at the host.
_IDLE: Final = 2.0
_HEAD_BYTES: Final = 64 << 10  # most bytes of one line of a reply's head
# Bytes that aiohttp's stream of one connection holds unread before it pauses. It may hold twice as many, and
# the bytes of one receive. Large bodies bypass the stream (`receiver`).
_STREAM: Final = 64 << 10
_NO_COOKIES: Final = Cookies()
_PAGE_BYTES: Final = 1 << 20  # bytes of a page that are searched for the link to the file


@dataclass(frozen=True, slots=True)
class Way:
    """The connections that are made directly and through HTTP proxies, or those through one SOCKS proxy."""

    connector: Connector
    wire: Wire
    session: aiohttp.ClientSession


class HttpTransport:
    """The `model.protocols.Transport` over HTTP/1.1, an async context manager that owns its connections.

    Args:
        limits: `redirects` applies here.
        retry: `retry_after` applies here, the longest wait in seconds that a server may ask for.
        timeouts: Timeouts in seconds, and the minimum speed.
        connect_to: Rules as of curl's --connect-to.
        cafile: File of additional certificate authorities in PEM form, None for the system's alone.
        proxies: Scheme → URL of the proxy, and `no` → hosts that need none; see `Proxies`.
        credentials: Sent to hosts for which neither the request nor the URL has credentials.
        downgrade: Whether a redirect may lead from https to http.
        leads: Finds the link to the file in HTML pages that a server sends in its place.
        pages: Whether pages are accepted as files.
        dns_servers: Name servers, `IP` or `IP:PORT`; none for those of the system.
        source: The address from which connections are made; empty for any.
        most_idle: Most unused connections that are kept when another one is made.
        direct: Whether to use the fast ways past aiohttp's session; by default if `internals` finds what
            they need.

    Raises:
        ValueError: A proxy cannot be used; see `Proxies`.
    """

    def __init__(
        self,
        limits: Limits,
        retry: Retry,
        timeouts: Timeouts,
        *,
        connect_to: Sequence[ConnectTo] = (),
        cafile: str | None = None,
        proxies: Mapping[str, str] | None = None,
        credentials: Credentials | None = None,
        downgrade: bool = False,
        leads: Leads | None = None,
        pages: bool = False,
        dns_servers: Sequence[str] = (),
        source: str = "",
        most_idle: int = 128,
        direct: bool | None = None,
    ) -> None:
        self._direct = not internals.missing() if direct is None else direct
        self._limits, self._retry, self._timeouts = limits, retry, timeouts
        self._connect_to = connect_to
        self._downgrade, self._leads, self._pages = downgrade, leads, pages
        self._tls, self._dns_servers = Tls(cafile), dns_servers
        self._proxies, self._source = Proxies(proxies or {}), source
        self._most_idle = most_idle
        self._credentials, self._signer = credentials or Credentials(), Signer()
        self._ways: dict[str, Way] = {}  # by the URL of a SOCKS proxy, "" for none

    async def __aenter__(self) -> Self:
        self._ways = {proxy: self._way(proxy) for proxy in ("", *self._proxies.socks())}
        return self

    async def __aexit__(self, *_: object) -> None:
        for way in self._ways.values():
            way.connector.end()
            await way.session.close()

    def _way(self, socks: str) -> Way:
        """Return a pool of connections, and the two ways to send requests over them."""
        options: dict[str, Any] = {
            "patience": self._timeouts.connect,
            "idle": _IDLE,
            "tls": partial(self._tls.of, proxy=None),
            "most_idle": self._most_idle,
            "rules": self._connect_to,
            # no limit: the connection pool has it, and a second one would only hide waiting inside aiohttp
            "limit": 0,
        }
        if self._source:
            options["local_addr"] = (self._source, 0)
        if socks:
            from .socks import SocksConnector

            connector: Connector = SocksConnector(socks, **options)
        else:
            connector = Connector(resolver=Resolver(self._dns_servers), **options)
        headers = {
            # Wikimedia and Zenodo ask for a page that says what a client is
            "User-Agent": f"osp-fetch/{__version__} (+https://github.com/osp-fetch/osp-fetch)",
            "Accept-Encoding": "identity",
            "Accept": "*/*",
        }
        wire = Wire(connector, headers, patience=self._timeouts.head, longest=_HEAD_BYTES, unread=_STREAM)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=NoCookies(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            headers=headers,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
            requote_redirect_url=False,
            trace_configs=[_on_connected()],
        )
        return Way(connector, wire, session)

    def send(self, request: Request) -> OpenReply:
        """Send a request, follow its redirects, and return the reply that is the file.

        A connection whose body was not read to its end is closed, not reused.

        Args:
            request: The request to send.

        Returns:
            A context manager that sends the request when it is entered. Its value is a
            `model.protocols.Reply`.

        Raises:
            UnreachableError: No reply: the connection failed or was not made in time.
            UntrustedServerError: The server's certificate is not valid.
            NetworkError: The reply is cut, or its range or length is wrong.
            StatusError: The server refused the request, or a redirect cannot be followed.
            RangeNotSatisfiableError: The server answered 416.
            BorrowedLinkSpentError: The server refused a link that came out of a redirect.
            LinkExpiredError: The link has expired.
            NotThePayloadError: The server sent a page, or an encoded file.
            TransferError: A page in place of the file leads to no file; see `model.protocols.Leads`.
        """
        return OpenReply(self.answer, request)

    async def answer(self, request: Request, exchange: OpenReply) -> HttpReply:
        """Return the reply to a request.

        Args:
            request: The request to send.
            exchange: Receives the response and the body as soon as they are open, and closes them.

        Returns:
            The reply.

        Raises:
            TransferError: As in `send`.
        """
        chain = await self._follow(request)
        response = exchange.response = chain.response
        if response.status not in (200, 206) and not isinstance(response, PlainReply):
            raise await self._refusal(request, response, chain.url)
        plain = isinstance(response, PlainReply)  # has neither a content coding nor a transfer coding
        coding = "" if plain else refusals.content_coding(request, response.headers)
        if coding and response.status == 206 and request.range is not None:
            response.close()  # a range of the coded bytes is no use: the whole file is decoded
            return await self.answer(replace(request, range=None, if_range=None), exchange)
        body = exchange.body = self._body(request, chain, coding)
        first = body.range is None or body.range.start == 0
        head = await body.peek() if first else None
        body.doubt = self._doubt(request, response.headers, head, body.representation.length)
        return body

    def _body(self, request: Request, chain: Chain, coding: str) -> HttpReply:
        """Return the reply with its body unread: as it comes, decoded, or trimmed to the requested range."""
        response = chain.response
        span, length = extent(request, response)
        found = Representation(chain.link, length, validator(response))
        if isinstance(response, PlainReply):
            return Landed(chain, response.body, found, span)
        body = Body(chain, response, found, span, timeouts=self._timeouts, direct=self._direct)
        if coding:
            by_size = request.size is not None and request.size == response.content_length
            if request.coding is Coding.KEPT or (request.coding is None and by_size):
                body.coding = Coding.KEPT
                return body
            return DecodedBody(body, f"{request.name}: {response.host}", coding)
        if span and request.range and span.start < request.range.start:
            return TrimmedBody(body, request.range)
        return body

    def _doubt(
        self, request: Request, headers: Mapping[str, str], head: bytes | None, length: int | None
    ) -> NotThePayloadError | None:
        """Return the error for a page that a digest will tell from the file; raise it without a digest."""
        if self._pages:
            return None
        kind = headers.get("Content-Type", "")
        inner, head = refusals.uncoded(request.name, headers, head)
        if head and (request.headers or "@" in request.url):
            head = without_secrets(head, request)  # before a quotation of it is cut
        try:
            refusals.check_envelope(request, head)
            refusals.check_page(request.name, kind, head, length, request.size, inner)
        except NotThePayloadError as error:
            begins = request.range is None or request.range.start == 0  # no byte is held that it could cost
            if request.sure and begins and (None in (request.size, length) or request.size == length):
                return error.with_traceback(None)
            raise
        return None

    async def _follow(self, request: Request) -> Chain:
        """Send a request and follow its redirects."""
        url, headers, chain = request.url, dict(request.headers), Chain(request, request.url)
        cookies, home = _NO_COOKIES, request.at_home
        for _ in range(self._limits.redirects + 1):
            sent = self._authorized(url, headers, home=home) if self._credentials else headers
            sent = await self._signer.signed(url, sent) if sent else sent
            response = await self._send(url, cookies.added(sent, url), request)
            chain.response, chain.url = response, url
            if (pause := refusals.quota_pause(response.headers)) is not None:
                chain.pauses += ((urls.host(url), min(pause, self._retry.retry_after)),)
            if isinstance(response, PlainReply):
                return chain
            if self._leads and self._is_page(response) and self._leads.knows(url):
                location = await self._lead_on(self._leads, url, response)
            elif response.status not in REDIRECTS:
                return chain
            else:
                location = response.headers.get("Location", "")
            if "Set-Cookie" in response.headers:
                cookies = cookies.with_lines(url, response.headers.getall("Set-Cookie"))
            await self._read_some(response)
            response.close()
            target = redirected(
                request.name, url, location, status=response.status, downgrade=self._downgrade
            )
            if urls.origin(target) == urls.origin(url):
                _, userinfo = without_userinfo(url)
                if userinfo and without_userinfo(target) == (target, ""):
                    target = with_userinfo(target, userinfo)
            else:
                # credentials never cross to another origin; the name of the client may
                headers = {name: value for name, value in headers.items() if name.lower() == "user-agent"}
                chain.headers_sent = home = False
            chain.by_cookie = cookies.apply_to(target)
            url = target
        raise StatusError(
            f"{request.name}: more than {self._limits.redirects} redirects; the server redirects in circles",
            status=302,
            remedy=Remedy.FAIL,
        )

    def _authorized(self, url: str, headers: dict[str, str], *, home: bool) -> dict[str, str]:
        """Return `headers` with the netrc credentials of the URL's host, unless they have others.

        With downgrades allowed, a redirect may have left https: then no credentials go to plain http.
        """
        exposed = self._downgrade and not home and url.startswith("http:")
        if not self._credentials or exposed or any(name.lower() == "authorization" for name in headers):
            return headers
        value = self._credentials.of(url, home=home)
        return headers if value is None else {**headers, "Authorization": value}

    @staticmethod
    def _is_page(response: Response) -> bool:
        """Whether the reply is an HTML page for a browser, not an HTML file to be saved."""
        kind = response.headers.get("Content-Type", "").lower()
        page = response.status == 200 and kind.startswith("text/html")
        return page and "Content-Disposition" not in response.headers

    async def _lead_on(self, leads: Leads, url: str, response: Response) -> str:
        """Return the URL of the file to which a page in its place leads."""
        page = await self._read_some(response, _PAGE_BYTES)
        try:
            return await asyncio.to_thread(leads.target, url, page)
        finally:
            response.close()

    async def _send(self, url: str, headers: dict[str, str], request: Request) -> Response | PlainReply:
        """Send one GET and return its response, whatever its status; translate aiohttp's exceptions."""
        sent = dict(headers)
        url, userinfo = without_userinfo(url) if "@" in url else (url, "")
        if userinfo and not any(name.lower() == "authorization" for name in sent):
            sent["Authorization"] = authorization(userinfo)
        if request.range is not None:
            sent["Range"] = f"bytes={request.range.start}-{request.range.stop - 1}"
            if request.if_range:
                sent["If-Range"] = request.if_range
        if request.unless is not None:
            # a server that knows both looks at If-None-Match alone (RFC 9110 section 13.2.2)
            if request.unless.etag:
                sent["If-None-Match"] = request.unless.etag
            if request.unless.last_modified:
                sent["If-Modified-Since"] = request.unless.last_modified
        proxy = self._proxies.of(url)
        socks = proxy if proxy is not None and is_socks(proxy) else ""
        by_http = None if socks else proxy
        way = self._ways[socks]
        try:
            if self._direct and by_http is None and (route := way.connector.route(url)):
                return await way.wire.get(*route, sent, request.landing)
            async with asyncio.timeout(way.connector.first_patience(url)) as clock:
                return await way.session.get(
                    self._target(url, request),
                    headers=sent,
                    allow_redirects=False,
                    ssl=self._tls.of(url, by_http),
                    **_through(by_http),
                    read_bufsize=_STREAM,
                    trace_request_ctx=(clock, self._timeouts.head),
                )
        except aiohttp.InvalidUrlClientError as error:  # such as 127.1, which is no address to aiohttp
            raise _invalid(request.name, f"{error.url} {error.description}") from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise failure(request.name, url, error, proxy=proxy) from None

    @staticmethod
    def _target(url: str, request: Request) -> URL:
        """Return the URL for aiohttp; raise StatusError for one that is not valid."""
        # a signed query must be sent byte for byte, so that only a URL that is not ASCII is encoded
        try:
            target = URL(url, encoded=url.isascii())
            _ = target.raw_host, target.port
        except ValueError as error:
            raise _invalid(request.name, reason(error)) from None
        return target

    async def _refusal(self, request: Request, response: Response, url: str) -> TransferError:
        """Return the error for a response from `url` whose status is neither 200 nor 206."""
        body = await self._read_some(response)
        if response.status in _CROWDED and response.connection is not None:
            response.connection.close()  # kept idle, it would still count at the server
        return refusals.refusal(
            request,
            response.status,
            response.headers,
            body,
            borrowed=request.borrowed or url != request.url,
            fresh="" if request.borrowed or url == request.url else urls.host(url),
            now=time.time(),
            longest_wait=self._retry.retry_after,
        )

    async def _read_some(self, response: Response, most: int = refusals.REFUSAL_READ) -> bytes:
        """Return the first `most` bytes of a body that is not the file; its end keeps the connection."""
        body = b""
        try:
            async with asyncio.timeout(self._timeouts.idle):
                while len(body) < most and (chunk := await response.content.readany()):
                    body += chunk
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the status alone determines the error
        return body[:most]


def _through(proxy: str | None) -> dict[str, Any]:
    """Return the arguments of aiohttp's session for an HTTP proxy, whose credentials are sent in UTF-8."""
    if proxy is None:
        return {}
    address, userinfo = without_userinfo(proxy)
    if not userinfo:
        return {"proxy": address}
    login, _, password = userinfo.partition(":")
    return {"proxy": address, "proxy_auth": aiohttp.BasicAuth(unquote(login), unquote(password), "utf-8")}


def _on_connected() -> aiohttp.TraceConfig:
    """Return hooks that restart the clock of a request when its connection is made and it is sent.

    Connecting has a time limit of its own, so that a host that answers slowly is not taken for one that does
    not exist.
    """

    async def sent(_: object, context: SimpleNamespace, __: object) -> None:
        clock, seconds = context.trace_request_ctx
        clock.reschedule(asyncio.get_running_loop().time() + seconds)

    hooks = aiohttp.TraceConfig()
    hooks.on_request_headers_sent.append(sent)
    return hooks


def _invalid(name: str, why: str) -> StatusError:
    return StatusError(
        f"{name}: its URL is not valid ({why}); correct it in the manifest", status=0, remedy=Remedy.FAIL
    )
