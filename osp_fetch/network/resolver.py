"""Name resolution without a thread for each name: by c-ares, or by the system where only it knows a name."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakMethod

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    import aiodns

# Status codes of c-ares (ares.h): the name service has answered that there is no such name, or no address.
_NO_DATA, _NOT_FOUND = 1, 4
# Seconds until one server is asked again, and how often it is asked. c-ares starts with less where the server
# answers fast, and doubles the seconds each time. Servers that limit the rate of queries drop some.
_SECONDS, _TRIES = 1.0, 6
_TICK = 0.1  # seconds between two looks at queries without an answer
# Names that are looked up at once. One that has no answer after some seconds is not counted any more.
_AT_ONCE, _COUNTED = 32, 1.0
# Seconds for which it is remembered that a name was not found, and names of which it is remembered.
_FAILED_SECONDS, _FAILED_KEPT = 5.0, 10_000
# Services of nsswitch.conf that c-ares has itself, or that answer for no name that it would not find.
_ORDINARY: Final = frozenset({"files", "dns", "resolve", "myhostname", "mymachines", "systemd"})
_NSSWITCH, _RESOLV_CONF = Path("/etc/nsswitch.conf"), Path("/etc/resolv.conf")


class _NoAddressError(socket.gaierror):
    """The name exists, and has no IPv4 address."""


class Resolver(AbstractResolver):
    """The resolver of one transport.

    Names are looked up by c-ares, which keeps many queries under way at once, and keeps answers and failures
    for the time that the name service states. Names that the system may know from elsewhere (without a dot,
    in `.local`, or with further services in /etc/nsswitch.conf) are looked up by the system, in a thread.

    Args:
        servers: Addresses of name servers, `IP` or `IP:PORT`; none for those of the system.
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = list(servers)
        self._channels: list[aiodns.DNSResolver] = []  # the last one is used; earlier ones end their queries
        self._changed, self._is_stale = 0.0, False
        self._has_ipv6 = _has_ipv6()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        # name → until when it is not asked for again, and why
        self._failed: dict[str, tuple[float, int]] = {}
        self._system = aiohttp.ThreadedResolver()
        self._asks_system = not servers and _has_further_services(_NSSWITCH)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Args:
            host: The name.
            port: The port to put into the results.
            family: AF_INET, AF_INET6, or AF_UNSPEC for both.

        Raises:
            socket.gaierror: EAI_NONAME if the name does not exist; EAI_AGAIN if the name service does not
                answer.
        """
        if self._is_of_system(host):
            return await self._system.resolve(host, port, family)
        until, code = self._failed.get(host, (0.0, 0))
        if until > time.monotonic():
            raise _error(code)
        async with self._counted():
            if family == socket.AF_UNSPEC and not self._has_ipv6:
                # a second query for each of thousands of names, whose answer could not be used
                with suppress(_NoAddressError):
                    return await self._look_up(host, port, socket.AF_INET)
            return await self._look_up(host, port, family)

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        from aiodns.error import DNSError  # most runs that copy within a machine need no name

        try:
            # With a port, c-ares would read /etc/services, which takes longer than the query.
            found = await self._channel().getaddrinfo(
                host, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except DNSError as error:
            code = error.args[0]
            if code == _NO_DATA and family == socket.AF_INET:
                raise _NoAddressError(socket.EAI_NONAME, "no such name") from None
            if code in (_NO_DATA, _NOT_FOUND):
                raise self._remember(host, socket.EAI_NONAME) from None
            self._check_servers()
            raise self._remember(host, socket.EAI_AGAIN) from None
        return [
            ResolveResult(
                hostname=host, host=node.addr[0].decode("ascii"), port=port, family=node.family, proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for node in found.nodes
        ]  # fmt: skip

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Wait until fewer than 32 names are looked up that have not waited for a second."""
        await self._at_once.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._at_once.release()

        timer = asyncio.get_running_loop().call_later(_COUNTED, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()

    def _remember(self, host: str, code: int) -> socket.gaierror:
        if len(self._failed) >= _FAILED_KEPT:
            self._failed.clear()
        self._failed[host] = time.monotonic() + _FAILED_SECONDS, code
        return _error(code)

    def _is_of_system(self, host: str) -> bool:
        return not self._servers and (
            self._asks_system or "." not in host.rstrip(".") or host.rstrip(".").endswith(".local")
        )

    def _channel(self) -> aiodns.DNSResolver:
        if not self._channels or self._is_stale:
            self._is_stale, self._changed = False, _changed(_RESOLV_CONF)
            self._channels.append(_loop_channel()(self._servers or None, timeout=_SECONDS, tries=_TRIES))
        return self._channels[-1]

    def _check_servers(self) -> None:
        """After a failure, read the system's name servers again if the machine has changed its network."""
        self._is_stale = not self._servers and _changed(_RESOLV_CONF) != self._changed

    async def close(self) -> None:
        """Release the sockets."""
        for dns in self._channels:
            await dns.close()
        self._channels.clear()
        await self._system.close()


@cache
def _loop_channel() -> type[aiodns.DNSResolver]:
    """Return a class of resolvers whose sockets are read by the event loop.

    By default a thread of c-ares reads them. It calls Python while it holds the lock of its channel, so that
    the event loop waits for the channel while the thread waits for the interpreter: 0.2 ms for each name.
    """
    import aiodns
    import pycares

    class LoopChannel(aiodns.DNSResolver):
        def _make_channel(self, **options: Any) -> tuple[bool, pycares.Channel]:
            seconds, self._timeout = self._timeout, _TICK  # aiodns makes its timer from it
            notify = WeakMethod(self._sock_state_cb)  # the channel would keep its owner alive

            def changed(fd: int, readable: bool, writable: bool) -> None:
                if (method := notify()) is not None:
                    method(fd, readable, writable)

            return False, pycares.Channel(sock_state_cb=changed, timeout=seconds, **options)

    return LoopChannel


def _has_ipv6() -> bool:
    """Return whether this machine has a route to IPv6 addresses outside of it. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 53))
    except OSError:
        return False
    return True


def _error(code: int) -> socket.gaierror:
    is_absent = code == socket.EAI_NONAME
    return socket.gaierror(code, "no such name" if is_absent else "the name service does not answer")


def _changed(place: Path) -> float:
    """Return the time of the last change of a file, 0 if it does not exist."""
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0


def _has_further_services(place: Path) -> bool:
    """Return whether nsswitch.conf names services by which the system knows further names."""
    try:
        lines = place.read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        name, _, services = line.partition("#")[0].partition(":")
        if name.strip() == "hosts":
            return any(s not in _ORDINARY and not s.startswith(("[", "mdns")) for s in services.split())
    return False
