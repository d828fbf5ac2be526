"""Where connections go: name resolution, curl's --connect-to, and proxies."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.cookies import BaseCookie, SimpleCookie
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection

from ..model.urls import origin
from .connection import HttpConnection

# what a session writes otherwise than it stands there, or not at all
_ODD: Final = re.compile(r"[#\x00-\x1f\x7f-\U0010ffff]|\?$")
_ROUTES: Final = 1000  # origins that are remembered; each keeps the first request to it


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


class Resolver(AbstractResolver):
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


@dataclass(frozen=True, slots=True)
class Route:
    """How an origin is connected to: as for `request`, which was once sent there. `key`: of its connections
    in the pool. `authority`: its host and port, as the Host header says them."""

    request: aiohttp.ClientRequest
    timeout: aiohttp.ClientTimeout
    key: object
    authority: str
    host: str | None


class Connector(aiohttp.TCPConnector):
    """A pool that hands out no connection on which something came that nobody had asked for.

    aiohttp would take it for the answer to the next request, which may be for another file.
    """

    def __init__(self, patience: float, idle: float, **options: Any) -> None:
        """`patience`: seconds until a connection is there, name resolution and TLS included. `idle`: seconds
        that one is kept while nobody wants it."""
        super().__init__(keepalive_timeout=idle, **options)
        self._patience, self._idle = patience, idle
        self._routes: dict[str, Route] = {}
        self._lines: defaultdict[object, list[HttpConnection]] = defaultdict(
            list
        )  # kept ones, the newest last
        self._timer: asyncio.TimerHandle | None = None

    def route(self, url: str) -> tuple[Route, str] | None:
        """How the origin of `url` is connected to, and what it is asked for; None where it has not been
        connected to yet, or through a proxy, or where that takes more than a look."""
        names = url.split("/", 3)
        if len(names) < 4 or _ODD.search(url):
            return None
        # as yarl writes it: other cases, credentials or a default port are other keys, and found by none
        route = self._routes.get(f"{names[0]}//{names[2]}")
        return (route, "/" + names[3]) if route else None

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        where = req.url
        key = f"{where.scheme}://{where.raw_authority}"
        if req.proxy is None and key not in self._routes and len(self._routes) < _ROUTES:
            limited = aiohttp.ClientTimeout(
                total=None, connect=self._patience, sock_connect=timeout.sock_connect
            )
            authority = where.host_port_subcomponent or ""
            self._routes[key] = Route(req, limited, req.connection_key, authority, where.host)
        return await self._usable(req, traces, timeout)

    def keep(self, line: HttpConnection) -> None:
        """Take back a line that is free again."""
        if not line.usable:
            line.close()
            return
        line.since = time.monotonic()
        self._lines[line.key].append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._end_idle)

    def line(self, key: object) -> HttpConnection | None:
        """A line that was kept; None where there is none."""
        lines = self._lines[key]
        while lines:
            line = lines.pop()
            if line.usable and time.monotonic() - line.since <= self._idle:
                return line
            line.close()
        return None

    def _end_idle(self) -> None:
        """End the lines that nobody has wanted for so long."""
        now, self._timer = time.monotonic(), None
        for lines in self._lines.values():
            kept = []
            for line in lines:
                if line.usable and now - line.since < self._idle:
                    kept.append(line)
                else:
                    line.close()
            lines[:] = kept
        if any(self._lines.values()):
            self._timer = asyncio.get_running_loop().call_later(self._idle / 2, self._end_idle)

    def end(self) -> None:
        """End all lines that are kept."""
        if self._timer is not None:
            self._timer.cancel()
        for lines in self._lines.values():
            for line in lines:
                line.close()
            lines.clear()

    async def again(self, route: Route) -> Connection:
        """One more connection of a route."""
        return await self._usable(route.request, [], route.timeout)

    async def _usable(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        if line := self.line(req.connection_key):
            return line.give_back()
        # the one used last: aiohttp takes the oldest, so that of more connections than are needed each is
        # used now and then, none ever closes, and a host that counts them suffers
        idle = getattr(self, "_conns", {}).get(req.connection_key)
        if isinstance(idle, deque):
            idle.rotate(1)
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class NoCookies(aiohttp.DummyCookieJar):
    """A jar that is always empty, and does not make an empty box of cookies for each request anew."""

    def __init__(self) -> None:
        super().__init__()
        self._none: BaseCookie[str] = SimpleCookie()

    def filter_cookies(self, request_url: object) -> BaseCookie[str]:
        return self._none


class Proxies:
    """Which proxy a URL goes through: scheme → proxy as `urllib.request.getproxies` reads them.

    aiohttp can take them from the environment by itself, but then it reads that and netrc anew for
    each request, which costs more than a small file does.
    """

    def __init__(self, proxies: Mapping[str, str]) -> None:
        self._proxies = dict(proxies)
        self._known: dict[tuple[str, str, int | None], str | None] = {}

    def of(self, url: str) -> str | None:
        """The proxy for `url`, None where it is reached without one."""
        if not self._proxies:
            return None
        where = origin(url)
        if where not in self._known:
            scheme, name, port = where
            # typeshed knows only the forms of other systems
            bypass = urllib.request.proxy_bypass_environment(f"{name}:{port}", self._proxies)  # type: ignore[attr-defined]
            found = self._proxies.get(scheme) or self._proxies.get("all")
            self._known[where] = None if bypass else found
        return self._known[where]
