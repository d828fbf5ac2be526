"""A SOCKS proxy (versions 4, 4a and 5) that records what it is asked for."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress


class SocksProxy:
    """A SOCKS server.

    Args:
        login: The user name and password that SOCKS5 clients must give, None for none.
        names: `host` → the host to connect to in its place, as a name server of the proxy's network would.
        refuse: Whether every request is refused.
    """

    def __init__(
        self,
        login: tuple[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        *,
        refuse: bool = False,
    ) -> None:
        self._login, self._names, self._refuse = login, names or {}, refuse
        self.asked: list[tuple[int, str, int]] = []  # version, host and port of each request
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends, or `serving` does."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        writers = [writer]
        # asyncio logs the cancellation of a handler as an error
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            version = (await reader.readexactly(1))[0]
            host, port = await (self._five if version == 5 else self._four)(reader, writer)
            self.asked.append((version, host, port))
            writer.write(self._reply(version))
            if not self._refuse:
                there, back = await asyncio.open_connection(self._names.get(host, host), port)
                writers.append(back)
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
        for each in writers:
            each.close()
            with suppress(OSError, asyncio.CancelledError):
                await each.wait_closed()
        self.tasks.discard(task)

    def _reply(self, version: int) -> bytes:
        if version == 4:
            return struct.pack(">BBH4s", 0, 91 if self._refuse else 90, 0, bytes(4))
        return bytes([5, 2 if self._refuse else 0, 0, 1]) + bytes(6)

    async def _four(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> tuple[str, int]:
        _command, port, address = struct.unpack(">BH4s", await reader.readexactly(7))
        await reader.readuntil(b"\0")
        if address[:3] == bytes(3):  # 4a: the name follows
            return (await reader.readuntil(b"\0"))[:-1].decode(), port
        return str(ipaddress.ip_address(address)), port

    async def _five(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int]:
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(bytes([5, 2 if self._login else 0]))
        if self._login:
            user, password = [await _text(reader, skip=n) for n in (1, 0)]
            right = (user.decode(), password.decode()) == self._login
            writer.write(bytes([1, 0 if right else 1]))
            if not right:
                raise PermissionError
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await _text(reader)).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        return host, int.from_bytes(await reader.readexactly(2), "big")


async def _text(reader: asyncio.StreamReader, skip: int = 0) -> bytes:
    """Read a text with its length before it, after `skip` bytes."""
    await reader.readexactly(skip)
    return await reader.readexactly((await reader.readexactly(1))[0])


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def serving(proxy: SocksProxy) -> AsyncIterator[SocksProxy]:
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.tasks:
            task.cancel()
        if proxy.tasks:
            await asyncio.wait(proxy.tasks)
        await server.wait_closed()
