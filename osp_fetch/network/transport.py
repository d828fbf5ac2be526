"""GET requests with ranges over aiohttp: the only module that sends file requests.

aiohttp's timers include the wait for a connection of its pool, restart with every byte and disappear after a
1xx reply. This package therefore has its own: a timeout for the head of a reply, a timeout for each read, and
a minimum speed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final, Self

import aiohttp
from yarl import URL

from ..model import urls
from ..model.errors import Remedy, StatusError, TransferError, UnreachableError, UntrustedServerError
from ..model.http import Representation, Request
from ..model.protocols import Leads
from ..model.settings import Limits, Retry, Timeouts
from ..version import __version__
from . import internals, refusals
from .body import Body, Landed, reason
from .connection import PlainReply
from .connector import Connector, ConnectTo, NoCookies, Proxies, Resolver
from .fallback import Response, Wire
from .head import extent, redirected, validator

_CROWDED: Final = frozenset({429, 503})  # statuses of a server that has too many connections or requests
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Seconds that an idle connection is kept. During a run the next request follows at once; and where the
# concurrency limit sinks, an idle connection still counts as one at the host.
_IDLE: Final = 2.0
_HEAD_BYTES: Final = 64 << 10  # most bytes of one line of a reply's head
# Bytes that aiohttp's stream of one connection holds unread before it pauses. It may hold twice as many, and
# the bytes of one receive. Large bodies bypass the stream (`receiver`).
_STREAM: Final = 64 << 10
_PAGE_BYTES: Final = 1 << 20  # bytes of a page that are searched for the link to the file


class HttpTransport:
    """The `model.protocols.Transport` over HTTP/1.1, an async context manager that owns its connections.

    Args:
        limits: `redirects` applies here.
        retry: `retry_after` applies here, the longest wait in seconds that a server may ask for.
        timeouts: Timeouts in seconds, and the minimum speed.
        connect_to: Rules as of curl's --connect-to.
        cafile: File of additional certificate authorities in PEM form, None for the system's alone.
        proxies: Scheme → URL of the proxy, and `no` → hosts that need none, as
            `urllib.request.getproxies` returns them.
        downgrade: Whether a redirect may lead from https to http.
        leads: Finds the link to the file in HTML pages that a server sends in its place.
        direct: Whether to use the fast ways past aiohttp's session; by default if `internals` finds what
            they need.
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
        downgrade: bool = False,
        leads: Leads | None = None,
        direct: bool | None = None,
    ) -> None:
        self._direct = not internals.missing() if direct is None else direct
        self._limits, self._retry, self._timeouts = limits, retry, timeouts
        self._connect_to = connect_to
        self._downgrade, self._leads = downgrade, leads
        self._cafile = cafile
        self._proxies = Proxies(proxies or {})
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        context: ssl.SSLContext | bool = True  # aiohttp's default, made when aiohttp is imported
        if self._cafile:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            context.load_verify_locations(self._cafile)
        # no limit: the connection pool has it, and a second one would only hide waiting inside aiohttp
        self._connector = Connector(
            self._timeouts.connect + self._timeouts.head,
            _IDLE,
            limit=0,
            ssl=context,
            resolver=Resolver(self._connect_to),
        )
        headers = {
            "User-Agent": f"osp-fetch/{__version__}",
            "Accept-Encoding": "identity",
            "Accept": "*/*",
        }
        self._wire = Wire(
            self._connector, headers, patience=self._timeouts.head, longest=_HEAD_BYTES, unread=_STREAM
        )
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=NoCookies(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            headers=headers,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
            requote_redirect_url=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connector.end()
        await self._session.close()

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
        return OpenReply(self, request)

    async def answer(self, request: Request, exchange: OpenReply) -> Body | Landed:
        """Return the reply to a request.

        Args:
            request: The request to send.
            exchange: Receives the response and the body as soon as they are open, and closes them.

        Returns:
            The reply.

        Raises:
            TransferError: As in `get`.
        """
        response, url, pauses, headers_sent = await self._follow(request)
        exchange.response = response
        borrowed = request.borrowed or url != request.url
        if not isinstance(response, PlainReply) and response.status not in (200, 206):
            raise await self._refusal(request, response, borrowed=borrowed)
        refusals.check_coding(request, response.headers)
        span, length = extent(request, response)
        found = Representation(url, length, validator(response))
        kind = response.headers.get("Content-Type", "")
        fits = request.size is not None and request.size == length
        first = span is None or span.start == 0
        if isinstance(response, PlainReply):
            head = bytes(response.body[: refusals.PEEK]) if first else b""
            refusals.check_page(request.name, kind, head, sure=request.sure, fits=fits)
            return Landed(
                response.body, found, span, borrowed=borrowed, headers_sent=headers_sent, pauses=pauses
            )
        body = exchange.body = Body(
            response,
            found,
            span,
            name=request.name,
            timeouts=self._timeouts,
            borrowed=borrowed,
            headers_sent=headers_sent,
            pauses=pauses,
            direct=self._direct,
        )
        head = await body.peek() if first else b""
        refusals.check_page(request.name, kind, head, sure=request.sure, fits=fits)
        return body

    async def _follow(
        self, request: Request
    ) -> tuple[Response | PlainReply, str, tuple[tuple[str, float], ...], bool]:
        """Return the final response, its URL, the pauses that hosts ask for, and `headers_sent`."""
        url, headers, headers_sent = request.url, dict(request.headers), True
        pauses: list[tuple[str, float]] = []
        for _ in range(self._limits.redirects + 1):
            response = await self._send(url, headers, request)
            if (pause := refusals.quota_pause(response.headers)) is not None:
                pauses.append((urls.host(url), min(pause, self._retry.retry_after)))
            if isinstance(response, PlainReply):
                return response, url, tuple(pauses), headers_sent
            if self._leads and self._is_page(response) and self._leads.knows(url):
                location = await self._lead_on(self._leads, url, response)
            elif response.status not in REDIRECTS:
                return response, url, tuple(pauses), headers_sent
            else:
                location = response.headers.get("Location", "")
            await self._read_some(response)
            response.close()
            target = redirected(url, location, downgrade=self._downgrade)
            if urls.origin(target) != urls.origin(url):
                headers, headers_sent = {}, False  # credentials never cross to another origin
            url = target
        raise StatusError(
            f"{request.name}: more than {self._limits.redirects} redirects; the server redirects in circles",
            status=302,
            remedy=Remedy.FAIL,
        )

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
        try:
            if self._direct and (known := self._connector.route(url)):
                return await self._wire.get(*known, sent, request.landing)
            async with asyncio.timeout(self._timeouts.connect + self._timeouts.head):
                return await self._session.get(
                    self._target(url, request),
                    headers=sent,
                    allow_redirects=False,
                    proxy=self._proxies.of(url),
                    read_bufsize=_STREAM,
                )
        except TimeoutError:
            raise UnreachableError(
                f"{request.name}: {_host(url)} did not answer within {self._timeouts.head:g} s",
                host=urls.host(url),
            ) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise UntrustedServerError(
                f"{request.name}: {_host(url)}: the server's certificate is not valid "
                f"({reason(error.certificate_error)}); to add a certificate authority, pass --cacert"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnreachableError(
                f"{request.name}: {_host(url)} does not answer ({reason(error)})", host=urls.host(url)
            ) from None

    @staticmethod
    def _target(url: str, request: Request) -> URL:
        """Return the URL for aiohttp; raise StatusError for one that is not valid."""
        # a signed query must be sent byte for byte, so that only a URL that is not ASCII is encoded
        try:
            target = URL(url, encoded=url.isascii())
            _ = target.host, target.port
        except ValueError as error:
            raise StatusError(
                f"{request.name}: its URL is not valid ({reason(error)}); correct it in the manifest",
                status=0,
                remedy=Remedy.FAIL,
            ) from None
        return target

    async def _refusal(self, request: Request, response: Response, *, borrowed: bool) -> TransferError:
        """Return the error for a response whose status is neither 200 nor 206."""
        body = await self._read_some(response)
        if response.status in _CROWDED and response.connection is not None:
            response.connection.close()  # kept idle, it would still count at the server
        return refusals.refusal(
            request,
            response.status,
            response.headers,
            body,
            borrowed=borrowed,
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


def _host(url: str) -> str | None:
    """Return the host of `url`, for error messages."""
    return URL(url, encoded=url.isascii()).host


class OpenReply:
    """One request and its reply, open as long as this context manager.

    Args:
        transport: The transport that sends the request.
        request: The request to send when the context is entered.
    """

    __slots__ = ("_request", "_transport", "body", "response")

    def __init__(self, transport: HttpTransport, request: Request) -> None:
        self._transport, self._request = transport, request
        self.response: Response | PlainReply | None = None
        self.body: Body | None = None

    async def __aenter__(self) -> Body | Landed:
        try:
            return await self._transport.answer(self._request, self)
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.body is not None:
            self.body.close()
        if self.response is not None:
            self.response.close()  # no effect after the end of a body: the connection is kept
