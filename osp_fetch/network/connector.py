"""Connections: pooling, name resolution, and curl's --connect-to."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from http.cookies import BaseCookie, SimpleCookie
from typing import Any, Final, cast

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from ..model.dataclasses import dataclass
from .connection import HttpConnection
from .handler import Handler

# Matches URLs that aiohttp's session would re-encode, or shorten by a fragment or an empty query. It lists
# the characters that may stay, because a class up to U+10FFFF takes 2 ms to compile.
_ODD: Final = re.compile(r"[^ -\"$-~]|\?$")
# Seconds of the first attempt to connect to an origin, and origins of which it is remembered.
_FIRST_SECONDS: Final = 8.0
_TRIED: Final = 20_000
_ROUTES: Final = 256  # most origins whose routes are kept; a route takes about 20 KB


@dataclass(frozen=True, slots=True)
class ConnectTo:
    """Connect to `to_host:to_port` where a URL says `host:port`, like curl's --connect-to.

    The Host header and the name that the certificate must have stay those of the URL.

    Args:
        host: The URL's host in lower case; empty matches every host.
        port: The URL's port; 0 matches every port.
        to_host: The host to connect to; empty keeps the URL's.
        to_port: The port to connect to; 0 keeps the URL's.
    """

    host: str
    port: int
    to_host: str
    to_port: int

    @classmethod
    def parse(cls, text: str) -> ConnectTo:
        """Parse a rule in curl's form.

        Args:
            text: `HOST:PORT:HOST:PORT`; an IPv6 address stands in brackets, and each field may be empty.

        Returns:
            The rule.

        Raises:
            ValueError: `text` is not of this form.
        """
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*):(\d*):(\[[^\]]+\]|[^:]*):(\d*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT:HOST:PORT")
        host, port, to_host, to_port = match.groups()
        return cls(_bare(host.lower()), int(port or 0), to_host.strip("[]"), int(to_port or 0))

    def matches(self, host: str, port: int) -> bool:
        """Return whether the rule applies to `host` and `port` of a URL; an IPv6 address has no brackets."""
        return self.host in ("", host.lower()) and self.port in (0, port)


def _bare(host: str) -> str:
    """Return `host` without brackets, an IPv6 address in the shortest form, which URLs of aiohttp have."""
    if not host.startswith("["):
        return host
    try:
        return ipaddress.ip_address(host.strip("[]")).compressed
    except ValueError:
        return host.strip("[]")


@dataclass(frozen=True, slots=True)
class Route:
    """How to connect to an origin.

    Args:
        origin: Scheme, host and port, as in a URL.
        request: A request that is never sent; aiohttp derives the address and the TLS options from it.
        key: The key of the origin's connections in the pool.
        authority: Host and port as in the Host header.
        host: The host's name, for error messages.
    """

    origin: str
    request: aiohttp.ClientRequest
    key: object
    authority: str
    host: str | None


class Connector(aiohttp.TCPConnector):
    """aiohttp's pool of connections, without those on which unsolicited bytes arrived.

    aiohttp would take such bytes for the reply to the next request, which may be for another file.

    Args:
        patience: Seconds until a connection is made, name resolution and TLS handshake included.
        idle: Seconds that an unused connection is kept.
        tls: Returns the TLS options of an origin, `Tls.of` without a proxy.
        most_idle: Most unused connections that are kept when another one is made, to all origins together.
        rules: Where to connect instead; the first that matches is used.
        options: Further arguments of `aiohttp.TCPConnector`.
    """

    def __init__(
        self,
        patience: float,
        idle: float,
        tls: Callable[[str], ssl.SSLContext | bool],
        most_idle: int,
        rules: Sequence[ConnectTo] = (),
        **options: Any,
    ) -> None:
        super().__init__(keepalive_timeout=idle, **options)
        self._factory = cast("partial[ResponseHandler]", partial(Handler, loop=self._loop))
        self._rules, self._tls = rules, tls
        self._patience, self._idle, self._most_idle = patience, idle, most_idle
        self._routes: dict[str, Route] = {}
        self._tried: set[str] = set()  # origins to which a connection was tried
        # idle connections by the key of their origin, the one used last at the end; origins by their last use
        self._lines: defaultdict[object, list[HttpConnection]] = defaultdict(list)
        self._idle_lines = 0  # number of these connections
        self._timer: asyncio.TimerHandle | None = None

    def first_patience(self, url: str) -> float:
        """Return the seconds to connect to the origin of `url`, fewer for its first attempt.

        A lost packet is sent again after 1, 3 and 7 seconds; a host that is there has answered by then.
        """
        origin = "/".join(url.split("/", 3)[:3])
        if origin in self._tried:
            return self._patience
        if len(self._tried) >= _TRIED:
            self._tried.clear()
        self._tried.add(origin)
        return min(self._patience, _FIRST_SECONDS)

    def route(self, url: str) -> tuple[Route, str] | None:
        """Return the route to the origin of `url`.

        Args:
            url: An absolute URL.

        Returns:
            The route, and the path and query of the request line. None where aiohttp's session has to send
            the request, because the URL has to be rewritten first or is not valid.
        """
        names = url.split("/", 3)
        if len(names) < 4 or _ODD.search(url):
            return None
        origin = f"{names[0]}//{names[2]}"
        route = self._routes.get(origin) or self._new_route(origin)
        return (route, "/" + names[3]) if route else None

    def _new_route(self, origin: str) -> Route | None:
        """Return the route to an origin; None for one with credentials, or that yarl spells otherwise."""
        try:
            where = URL(origin)
        except ValueError:
            return None
        host, same = where.raw_host, f"{where.scheme}://{where.raw_authority}" == origin
        if not host or not same or "@" in origin or where.scheme not in ("http", "https"):
            return None
        request = aiohttp.ClientRequest("GET", where, loop=self._loop, ssl=self._tls(origin))
        shown = where.host if "xn--" in host else host  # to decode a name takes long
        route = Route(origin, request, request.connection_key, where.host_port_subcomponent or "", shown)
        if len(self._routes) >= _ROUTES:
            del self._routes[next(iter(self._routes))]  # the oldest
        self._routes[origin] = route
        return route

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection for a request of aiohttp's session.

        Args:
            req: The request to send.
            traces: aiohttp's trace objects.
            timeout: `sock_connect` limits the connection attempt, in seconds.

        Raises:
            aiohttp.ClientError: The connection cannot be made.
            TimeoutError: The connection was not made in time.
        """
        connection, _ = await self._usable(req, traces, timeout)
        return connection

    def keep(self, line: HttpConnection) -> None:
        """Keep a connection for the next request to its origin, or close it where it is unusable."""
        if not line.usable:
            line.close()
            return
        line.since = time.monotonic()
        lines = self._lines.pop(line.key, [])
        lines.append(line)
        self._lines[line.key] = lines
        self._idle_lines += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._end_idle)

    def line(self, key: object) -> HttpConnection | None:
        """Take an idle connection out of the pool.

        Args:
            key: The key of the origin, `Route.key`.

        Returns:
            The usable connection that was used last; None where there is none.
        """
        lines = self._lines.get(key)
        while lines:
            line = lines.pop()
            self._idle_lines -= 1
            if not lines:
                del self._lines[key]
            if line.usable and time.monotonic() - line.since <= self._idle:
                return line
            line.close()
        return None

    def _end_idle(self) -> None:
        """Close the connections that were idle for `idle` seconds."""
        now, self._timer = time.monotonic(), None
        for key, lines in list(self._lines.items()):
            kept = []
            for line in lines:
                if line.usable and now - line.since < self._idle:
                    kept.append(line)
                else:
                    line.close()
                    self._idle_lines -= 1
            if kept:
                self._lines[key] = kept
            else:
                del self._lines[key]
        if self._lines:
            self._timer = asyncio.get_running_loop().call_later(self._idle / 2, self._end_idle)

    def end(self) -> None:
        """Close all idle connections."""
        if self._timer is not None:
            self._timer.cancel()
        for lines in self._lines.values():
            for line in lines:
                line.close()
        self._lines.clear()
        self._idle_lines = 0

    def _close_surplus(self) -> None:
        """Close the connections that were idle for longest, so that another one can be made.

        Over many hosts, each connection is used once. The ones of the last seconds need more descriptors than
        a process may have.
        """
        pool = getattr(self, "_conns", {})  # aiohttp's idle connections, those of large replies
        while (self._lines or pool) and self._idle_lines + len(pool) >= self._most_idle:
            if self._lines:
                lines = self._lines.pop(next(iter(self._lines)))
                self._idle_lines -= len(lines)
                for line in lines:
                    line.close()
            else:
                for protocol, _ in pool.pop(next(iter(pool))):
                    protocol.close()

    async def connection(self, route: Route) -> tuple[Connection, bool]:
        """Return a connection to the origin of `route`, and whether it may have been used before.

        Raises:
            aiohttp.ClientError: The connection cannot be made.
            TimeoutError: The connection was not made in time.
        """
        seconds = self.first_patience(route.origin)
        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)
        return await self._usable(route.request, [], timeout)

    async def _resolve_host(
        self, host: str, port: int, traces: Sequence[Any] | None = None
    ) -> list[ResolveResult]:
        """Resolve `host`, or the host that a rule puts in its place.

        A resolver of aiohttp is not asked for IP addresses, so the rules are applied before it.
        """
        for rule in self._rules:
            if rule.matches(host, port):
                host, port = rule.to_host or host, rule.to_port or port
                break
        return await super()._resolve_host(host, port, traces)

    async def _usable(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> tuple[Connection, bool]:
        """Return an idle or a new connection without unsolicited bytes, and whether it may have been used."""
        if line := self.line(req.connection_key):
            return line.give_back(), True
        # Take the connection that was used last. aiohttp takes the oldest: each surplus connection is then
        # used now and then and never closes, and a host that limits connections keeps counting it.
        idle = getattr(self, "_conns", {}).get(req.connection_key)
        if isinstance(idle, deque):
            idle.rotate(1)
        used = bool(idle)
        if not used:
            self._close_surplus()
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection, used
            connection.close()


class NoCookies(aiohttp.DummyCookieJar):
    """A cookie jar that is always empty, and returns one shared object instead of a new one per request."""

    def __init__(self) -> None:
        super().__init__()
        self._none: BaseCookie[str] = SimpleCookie()

    def filter_cookies(self, request_url: object) -> BaseCookie[str]:
        """Return no cookies."""
        return self._none
