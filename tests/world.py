"""An origin and a transport to it, on asyncio and uvloop, with and without TLS, and through a SOCKS proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import uvloop

from osp_fetch.demo.server import Server
from osp_fetch.model.http import Request
from osp_fetch.model.protocols import Reply
from osp_fetch.network.transport import HttpTransport
from tests.conftest import quick
from tests.origin import Origin
from tests.socks import SocksProxy, serving

SETTINGS = quick(timeouts={"connect": 2, "head": 2, "idle": 0.5})
LOOPS = [
    "asyncio",
    "asyncio and TLS",
    "uvloop",
    "uvloop and TLS",
    "asyncio and SOCKS",
    "uvloop, TLS and SOCKS",
]


@dataclass
class World:
    """An origin, a transport to it, and the number of connections that the origin has accepted."""

    origin: Origin
    transport: HttpTransport
    url: str

    def request(self, path: str) -> Request:
        return Request(f"{self.url}/{path}", name=path, sure=True)

    @property
    def connections(self) -> int:
        return len({id(exchange.writer) for exchange in self.origin.seen})


Script = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[[Script], None]


def player(loop: str, folder: Path, *, direct: bool | None = None) -> Play:
    """Return a function that runs a script in a new world.

    Args:
        loop: One of LOOPS.
        folder: Where the certificate of the test authority is written.
        direct: The argument of `HttpTransport`.
    """
    tls, socks = "TLS" in loop, "SOCKS" in loop
    factory = uvloop.new_event_loop if "uvloop" in loop else asyncio.new_event_loop

    def played(script: Script) -> None:
        async def whole() -> None:
            async with asyncio.timeout(30), world(tls, folder, direct=direct, socks=socks) as made:
                await script(made)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())

    return played


@asynccontextmanager
async def world(
    tls: bool, folder: Path, *, direct: bool | None = None, socks: bool = False
) -> AsyncIterator[World]:
    authority, origin, context = trustme.CA(), Origin(), None
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    async with (
        Server(origin.handle, tls=context) as server,
        serving(SocksProxy()) as proxy,
        HttpTransport(
            SETTINGS.limits,
            SETTINGS.retry,
            SETTINGS.timeouts,
            cafile=str(folder / "ca.pem"),
            direct=direct,
            proxies={"all": f"socks5://127.0.0.1:{proxy.port}"} if socks else None,
        ) as transport,
    ):
        origin.server = server
        yield World(origin, transport, origin.url)


async def read(reply: Reply, size: int = 1 << 20, body: bytearray | None = None) -> tuple[bytearray, int]:
    """Read a body to its end.

    Args:
        reply: The reply to read.
        size: The size of the view that is passed to `readinto`, in bytes.
        body: Where the bytes are appended, by default a new bytearray.

    Returns:
        The body, and the largest number of bytes that one `readinto` returned.
    """
    view, body, most = memoryview(bytearray(size)), bytearray() if body is None else body, 0
    while count := await reply.readinto(view):
        body += view[:count]
        most = max(most, count)
    return body, most
