"""One way to make a request: a slot, one request, its reply, and the accounts of both.

Every component that needs bytes from a server opens an exchange: parts, small files, adoption samples.
Nothing else takes slots, sends requests, counts bytes, spends the byte rate, or decides what a reply says of
its host.

    async with Exchange(pool, transport, observe, host, order, path) as exchange:   # waits for a slot
        reply = await exchange.send(request)
        while count := await exchange.readinto(view):
            ...

The request is made when the slot is there, not before: which part of a file is fetched next, and how large it
is, depends on what other slots have fetched meanwhile.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

from ..model import events
from ..model.errors import FetchError, HostDownError, StatusError, TransferError, UnreachableError
from ..model.http import Landing, Request
from ..model.protocols import Reply, Transport
from .pool import ConnectionPool
from .streams import Stream

_CROWDED: Final = frozenset({429, 503})  # statuses that say: too many connections, or too many requests


class Exchange:
    """A slot for one connection to `host`, and the request that is sent over it.

    An async context manager. A slot cannot leak: whatever raises, leaving the context closes the reply and
    gives the slot back. `aclose` does so earlier; then bytes given to `unread` can still be read. A callee
    that is handed an open exchange may enter it again, which takes no second slot.

    Args:
        host: `host:port` that the request goes to.
        order: place of the file in the manifest; smaller ones get slots first.
        path: of the file, for events and messages.
    """

    __slots__ = (
        "_asked", "_connection", "_failure", "_is_open", "_landed", "_observe", "_over", "_path", "_pool",
        "_reply", "_sent", "_transport", "_unread", "_was_entered", "host",
    )  # fmt: skip

    def __init__(
        self,
        pool: ConnectionPool,
        transport: Transport,
        observe: events.Observer,
        host: str,
        order: int,
        path: str,
    ) -> None:
        self.host = host
        self._pool, self._transport, self._observe, self._path = pool, transport, observe, path
        self._connection = pool.connection(host, order)
        self._sent: AbstractAsyncContextManager[Reply] | None = None
        self._reply: Reply | None = None
        self._failure: FetchError | None = None
        self._landed: _SmallReply | None = None
        self._unread = memoryview(b"")
        self._asked = 0.0
        self._is_open = self._over = self._was_entered = False

    async def __aenter__(self) -> Self:
        if self._was_entered:
            return self  # handed over by a caller that has entered it
        self._was_entered = True
        await self._connection.__aenter__()
        self._is_open = True
        try:
            self._observe(events.Opened(self._path, self.host))
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the reply and give the slot back. A second call does nothing."""
        if not self._is_open:
            return
        self._is_open, self._over = False, True
        self.detach()
        sent, self._sent = self._sent, None
        try:
            if sent is not None and self._reply is not None:
                await sent.__aexit__(None, None, None)
        finally:
            await self._connection.__aexit__()
            self._observe(events.Closed(self._path, self.host))

    # the request

    async def send(self, request: Request) -> Reply:
        """Send `request` and return the reply, its body not yet read. Called once.

        Raises:
            TransferError: the reply is not the payload, or the host is not asked any more.
            HostDownError: the host does not answer, and is known to be down.
        """
        if self._pool.dead(self.host):
            raise TransferError(f"{self._path}: {self.host} does not answer; try again later")
        await self._pool.paced()
        self._asked = time.monotonic()
        self._sent = self._transport.get(request)
        try:
            self._reply = await self._sent.__aenter__()
        except FetchError as error:
            self._failure = self._judged(error)
            raise self._failure from None
        if self._landed is None or not self._landed.is_coming:
            self._answered()
        for host, seconds in self._reply.pauses:
            self._cool(host, seconds, "its quota is used up")
        return self._reply

    def landing(self, view: memoryview) -> Landing:
        """Return a landing on `view` for the request, so that a small reply is received where it belongs.

        It is valid until `detach` or `aclose`: then late references to it see no memory.
        """
        self._landed = _SmallReply(view, self)
        return self._landed

    def detach(self) -> None:
        """Take the memory away from the landing: nothing is received into it any more."""
        landed, self._landed = self._landed, None
        if landed is not None:
            landed.detach()

    @property
    def reply(self) -> Reply:
        """The reply that `send` returned. Raises what `send` raised."""
        if self._reply is None:
            assert self._failure is not None
            raise self._failure
        return self._reply

    # the body

    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes of the body into `view`; see `model.protocols.Reply.readinto`.

        Counts them, and waits while the byte rate is used up. Bytes given to `unread` come first.
        """
        if self._unread:
            count = min(len(view), len(self._unread))
            view[:count] = self._unread[:count]
            self._unread = self._unread[count:]
            return count
        if self._failure is not None:
            raise self._failure
        if self._over or self._reply is None:
            return 0
        await self._pool.paced()
        try:
            count = await self._reply.readinto(view)
        except FetchError as error:
            raise self._judged(error) from None
        if count:
            self._pool.received(self.host, count)
        return count

    def unread(self, data: memoryview, *, last: bool = False) -> None:
        """Give back bytes that were read: `readinto` returns them again, and does not count them twice.

        `last`: the body ends with them.
        """
        self._unread, self._over = data, self._over or last

    def fail_later(self, error: FetchError) -> None:
        """Let `readinto` raise `error` when the bytes given to `unread` are used up."""
        self._failure = error

    def take_landed(self, length: int) -> None:
        """Count `length` bytes of the body that came into the landing."""
        self._pool.received(self.host, length)
        self._over = True

    def streaming(self) -> Stream:
        """Return a context in which the reply's body is transferred.

        It raises YieldedError where the host does better with fewer connections.
        """
        return self._pool.streaming(self.host, self._path)

    # what it says of the host

    def progressed(self) -> None:
        """Note that bytes of the body are written: the host answers."""
        self._pool.answered(self.host)

    def measured(self, count: int, seconds: float) -> None:
        """Note that the body's `count` bytes took `seconds`."""
        self._pool.measured(self.host, count, seconds)

    def lagging(self, pace: float) -> bool:
        """Return whether `pace`, in bytes per second, is a tenth of what is usual at this host, or less."""
        return self._pool.lagging(self.host, pace)

    def _answered(self) -> None:
        self._pool.answered(self.host, time.monotonic() - self._asked)

    def _judged(self, error: FetchError) -> FetchError:
        """Tell the pool what `error` says of the host; return the error to raise."""
        if error.retry_after:
            self._cool(self.host, error.retry_after, str(error))
        if isinstance(error, UnreachableError):
            silent = error.host or self.host
            if silent != self.host:
                self._pool.answered(self.host)  # it has redirected to one that is silent
            if self._pool.silent(silent):
                return HostDownError(str(error), host=silent, is_own=silent == self.host)
        elif isinstance(error, TransferError):
            self._pool.answered(self.host)
            if isinstance(error, StatusError) and error.status in _CROWDED:
                self._pool.refused(self.host)
        return error

    def _cool(self, host: str, seconds: float, why: str) -> None:
        self._pool.cool(host, seconds)
        self._observe(events.Cooling(host, seconds, why))


class _SmallReply(Landing):
    """A landing that notes when a small reply begins to come, which is over before anything else could."""

    __slots__ = ("_exchange", "is_coming")

    def __init__(self, view: memoryview, exchange: Exchange) -> None:
        super().__init__(view)
        self._exchange: Exchange | None = exchange
        self.is_coming = False

    def begun(self) -> None:
        exchange = self._exchange
        if exchange is not None and not self.is_coming:
            self.is_coming = True
            exchange._answered()
            exchange._pool.streams(exchange.host).brief += 1

    def detach(self) -> None:
        self.view, self.body = memoryview(b""), None
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self.is_coming:
            exchange._pool.streams(exchange.host).brief -= 1
