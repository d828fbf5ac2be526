"""GET with ranges over aiohttp: the one place that speaks HTTP, and its one door.

aiohttp's own timers count waiting for a pool slot, restart with every byte and vanish after a 1xx, so
this room keeps clocks of its own: around the head of a reply, around every read, and over a minimum speed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final, Self

import aiohttp
from yarl import URL

from .. import __version__
from ..model import urls
from ..model.errors import Remedy, StatusError, TransferError, UnreachableError, UntrustedServerError
from ..model.http import Representation, Request
from ..model.protocols import Leads
from ..model.settings import Limits, Retry, Timeouts
from . import refusals
from .body import Body, Landed, reason
from .connection import PlainReply
from .connector import Connector, ConnectTo, NoCookies, Proxies, Resolver
from .fallback import Response, Wire
from .head import extent, redirected, validator

_CROWDED: Final = frozenset({429, 503})
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# seconds that a connection waits for its next request: in a run that is none, and where the gate wants
# fewer connections, idle ones still count for the host
_IDLE: Final = 2.0
_HEAD_BYTES: Final = 64 << 10
# bytes that one connection holds unread in aiohttp's stream before it pauses; up to twice as many, and
# what one receive brings. Large bodies are received past it
_STREAM: Final = 64 << 10
_PAGE_BYTES: Final = 1 << 20  # of a page that leads on


class HttpTransport:
    """The Transport over HTTP/1.1. An async context manager: connections live as long as it.

    `connect_to` and `cafile` as curl has them; `proxies`: scheme → proxy, and `no` → hosts without, as
    `urllib.request.getproxies` gives them. `downgrade`: whether a redirect may lead from https to http.
    `leads`: who knows pages that lead on.
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
    ) -> None:
        self._limits, self._retry, self._timeouts = limits, retry, timeouts
        self._connect_to = connect_to
        self._downgrade, self._leads = downgrade, leads
        self._cafile = cafile
        self._proxies = Proxies(proxies or {})
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        context: ssl.SSLContext | bool = True  # aiohttp's own, which is made when it is imported
        if self._cafile:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            context.load_verify_locations(self._cafile)
        # limit 0: the gate is the limit; a second one would only hide waiting inside aiohttp
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

    def get(self, request: Request) -> Exchange:
        """Send `request`, follow its redirects, and give the reply that is the payload.

        Raises TransferError of the fitting class for everything else. A connection whose body was
        not read to its end is closed, not reused.
        """
        return Exchange(self, request)

    async def answer(self, request: Request, exchange: Exchange) -> Body | Landed:
        """The reply to `request`; whatever is opened for it is put into `exchange`."""
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
        )
        head = await body.peek() if first else b""
        refusals.check_page(request.name, kind, head, sure=request.sure, fits=fits)
        return body

    async def _follow(
        self, request: Request
    ) -> tuple[Response | PlainReply, str, tuple[tuple[str, float], ...], bool]:
        url, headers, headers_sent = request.url, dict(request.headers), True
        pauses: list[tuple[str, float]] = []
        for _ in range(self._limits.redirects + 1):
            try:
                response = await self._send(url, headers, request)
            except UnreachableError as error:
                error.host = urls.host(url)
                raise
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
            f"{request.name}: more than {self._limits.redirects} redirects; the server sends in circles",
            status=302,
            remedy=Remedy.FAIL,
        )

    @staticmethod
    def _is_page(response: Response) -> bool:
        kind = response.headers.get("Content-Type", "").lower()
        page = response.status == 200 and kind.startswith("text/html")
        return page and "Content-Disposition" not in response.headers

    async def _lead_on(self, leads: Leads, url: str, response: Response) -> str:
        """Where the page that came instead of the file leads to."""
        page = await self._read_some(response, _PAGE_BYTES)
        try:
            return await asyncio.to_thread(leads.target, url, page)
        finally:
            response.close()

    async def _send(self, url: str, headers: dict[str, str], request: Request) -> Response | PlainReply:
        sent = dict(headers)
        if request.range is not None:
            sent["Range"] = f"bytes={request.range.start}-{request.range.stop - 1}"
            if request.if_range:
                sent["If-Range"] = request.if_range
        try:
            if known := self._connector.route(url):
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
                f"{request.name}: {_host(url)} did not answer within {self._timeouts.head:g} s"
            ) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise UntrustedServerError(
                f"{request.name}: {_host(url)}: its certificate does not hold "
                f"({reason(error.certificate_error)}); --cacert adds a certificate authority of your own"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnreachableError(
                f"{request.name}: {_host(url)} does not answer ({reason(error)})"
            ) from None

    @staticmethod
    def _target(url: str, request: Request) -> URL:
        # a signed query must go out byte for byte; only what HTTP cannot carry is encoded
        try:
            target = URL(url, encoded=url.isascii())
            _ = target.host, target.port
        except ValueError as error:
            raise StatusError(
                f"{request.name}: its URL makes no sense ({reason(error)}); mend the row",
                status=0,
                remedy=Remedy.FAIL,
            ) from None
        return target

    async def _refusal(self, request: Request, response: Response, *, borrowed: bool) -> TransferError:
        body = await self._read_some(response)
        if response.status in _CROWDED and response.connection is not None:
            response.connection.close()  # kept, it would still count where connections are counted
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
        """The first KiB of a body that is not the payload; read to its end, the connection is kept."""
        body = b""
        try:
            async with asyncio.timeout(self._timeouts.idle):
                while len(body) < most and (chunk := await response.content.readany()):
                    body += chunk
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the status alone says enough
        return body[:most]


def _host(url: str) -> str | None:
    return URL(url, encoded=url.isascii()).host


class Exchange:
    """One request and its reply, while the context is open."""

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
            self.response.close()  # after the end of a body this is a no-op and the connection is kept
