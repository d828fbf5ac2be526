"""Connections: pooling, name resolution, and curl's --connect-to."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import BaseCookie, SimpleCookie
from typing import Any, Final

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.connector import Connection

from .connection import HttpConnection

# Matches URLs that aiohttp's session would re-encode, or shorten by a fragment or an empty query. It lists
# the characters that may stay, because a class up to U+10FFFF takes 2 ms to compile.
_ODD: Final = re.compile(r"[^ -\"$-~]|\?$")
# Seconds of the first attempt to connect to an origin, and origins of which it is remembered.
_FIRST_SECONDS: Final = 8.0
_TRIED: Final = 20_000
_ROUTES: Final = 256  # most origins that are remembered; each keeps the first request sent to it, about 20 KB


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
    """How to connect to an origin, as learned from the first request that was sent to it.

    Args:
        request: That request; aiohttp derives the address and the TLS options from it.
        timeout: Limits of making a connection.
        key: The key of the origin's connections in the pool.
        authority: Host and port as in the Host header.
        host: The host's name, for error messages.
    """

    request: aiohttp.ClientRequest
    timeout: aiohttp.ClientTimeout
    key: object
    authority: str
    host: str | None


class Connector(aiohttp.TCPConnector):
    """aiohttp's pool of connections, without those on which unsolicited bytes arrived.

    aiohttp would take such bytes for the reply to the next request, which may be for another file.

    Args:
        patience: Seconds until a connection is made, name resolution and TLS handshake included.
        idle: Seconds that an unused connection is kept.
        rules: Where to connect instead; the first that matches is used.
        options: Further arguments of `aiohttp.TCPConnector`.
    """

    def __init__(self, patience: float, idle: float, rules: Sequence[ConnectTo] = (), **options: Any) -> None:
        super().__init__(keepalive_timeout=idle, **options)
        self._rules = rules
        self._patience, self._idle = patience, idle
        self._routes: dict[str, Route] = {}
        self._tried: set[str] = set()  # origins to which a connection was tried
        # idle connections by the key of their origin, the one used last at the end
        self._lines: defaultdict[object, list[HttpConnection]] = defaultdict(list)
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
        """Return the known route to the origin of `url`.

        Args:
            url: An absolute URL.

        Returns:
            The route, and the path and query of the request line. None where aiohttp's session has to send
            the request: no request was sent to the origin yet, a proxy leads to it, or the URL has to be
            rewritten first.
        """
        names = url.split("/", 3)
        if len(names) < 4 or _ODD.search(url):
            return None
        # Keys have yarl's spelling. A URL with capitals, credentials or an explicit default port matches no
        # key, and takes the path through the session.
        route = self._routes.get(f"{names[0]}//{names[2]}")
        return (route, "/" + names[3]) if route else None

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection for `req`, and remember the route to its origin.

        Args:
            req: The request to send.
            traces: aiohttp's trace objects.
            timeout: `sock_connect` limits the connection attempt, in seconds.

        Raises:
            aiohttp.ClientError: The connection cannot be made.
            TimeoutError: The connection was not made in time.
        """
        where = req.url
        key = f"{where.scheme}://{where.raw_authority}"
        if req.proxy is None and key not in self._routes:
            if len(self._routes) >= _ROUTES:
                del self._routes[next(iter(self._routes))]  # the oldest
            limited = aiohttp.ClientTimeout(
                total=None, connect=self._patience, sock_connect=timeout.sock_connect
            )
            authority = where.host_port_subcomponent or ""
            self._routes[key] = Route(req, limited, req.connection_key, authority, where.host)
        return await self._usable(req, traces, timeout)

    def keep(self, line: HttpConnection) -> None:
        """Keep a connection for the next request to its origin, or close it where it is unusable."""
        if not line.usable:
            line.close()
            return
        line.since = time.monotonic()
        self._lines[line.key].append(line)
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
            lines.clear()

    async def again(self, route: Route) -> Connection:
        """Return one more connection to the origin of `route`.

        Raises:
            aiohttp.ClientError: The connection cannot be made.
            TimeoutError: The connection was not made in time.
        """
        return await self._usable(route.request, [], route.timeout)

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
    ) -> Connection:
        """Return an idle connection, or a new one, on which no unsolicited bytes arrived."""
        if line := self.line(req.connection_key):
            return line.give_back()
        # Take the connection that was used last. aiohttp takes the oldest: each surplus connection is then
        # used now and then and never closes, and a host that limits connections keeps counting it.
        idle = getattr(self, "_conns", {}).get(req.connection_key)
        if isinstance(idle, deque):
            idle.rotate(1)
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class NoCookies(aiohttp.DummyCookieJar):
    """A cookie jar that is always empty, and returns one shared object instead of a new one per request."""

    def __init__(self) -> None:
        super().__init__()
        self._none: BaseCookie[str] = SimpleCookie()

    def filter_cookies(self, request_url: object) -> BaseCookie[str]:
        """Return no cookies."""
        return self._none
