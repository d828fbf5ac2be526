"""Exchange: one metered request and its reply. It is the only way to make a request.

Every component that needs bytes from a server opens an exchange: parts, small files, adoption samples, pages.
Nothing else takes slots, sends requests, counts bytes, applies the byte rate, or reports to the connection
pool whether a host answered, refused or was unreachable.

    async with Exchange(pool, transport, observe, host, order, path) as exchange:   # waits for a slot
        reply = await exchange.send(request)
        while count := await exchange.readinto(view):
            ...

The caller builds the request after the slot is granted, not before: which part of a file comes next, and how
large it is, depends on what other slots have fetched in the meantime.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

from ..model import events
from ..model.draining import Drainable, Fill
from ..model.errors import (
    FetchError,
    HostDownError,
    RangeNotSatisfiableError,
    Remedy,
    StatusError,
    TransferError,
    UnreachableError,
)
from ..model.http import Landing, Request
from ..model.protocols import Reply, Transport
from ..model.ranges import ByteRange
from .pool import ConnectionPool
from .streams import Stream

# HTTP statuses by which a host refuses a connection: too many connections or requests.
_CROWDED: Final = frozenset({429, 503})
# HTTP statuses by which a host may refuse a range because it is too wide.
_TOO_WIDE: Final = frozenset({400, 413, 501})
_NOTHING: Final = memoryview(b"")


class Exchange:
    """An async context manager that holds a slot of one host and sends one request over it.

    The slot cannot leak: leaving the context closes the reply and releases the slot, whatever was raised.
    `aclose` does the same earlier; bytes that were given to `unread` can be read after it. A callee that
    receives an open exchange may enter it again, which takes no second slot.

    Args:
        pool: Grants the slot and keeps the host's state.
        transport: Sends the request.
        observe: Receives Opened, Closed and Cooling events.
        host: `host:port` that the request goes to.
        order: Position of the file in the manifest. Smaller numbers get slots first.
        path: Path of the file, for events and messages.
    """

    __slots__ = (
        "_asked", "_connection", "_failure", "_is_open", "_landed", "_observe", "_order", "_over", "_path",
        "_pool", "_range", "_reply", "_sent", "_transport", "_unread", "_was_entered", "host",
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
        self._unread = _NOTHING
        self._asked = 0.0
        self._range: ByteRange | None = None
        self._order = order
        self._is_open = self._over = self._was_entered = False

    async def __aenter__(self) -> Self:
        """Wait for a slot.

        Raises:
            HostDownError: The host is down, and another connection probes it.
            HostPausedError: The host asked for a pause that is not over soon.
        """
        if self._was_entered:
            return self  # the caller has already entered it and passed it on
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
        """Close the reply and release the slot. A second call does nothing."""
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

    # ---- request

    async def send(self, request: Request) -> Reply:
        """Send the request and return the reply before its body is read. Call this once.

        Args:
            request: The request.

        Raises:
            TransferError: The reply is not the payload.
            HostDownError: The host does not answer.
        """
        if self._pool.rate.is_limited:
            await self._within_rate()
        self._asked, self._range = time.monotonic(), request.range
        self._sent = self._transport.send(request)
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
        """Return a landing for the request, so that a small reply is received directly into `view`.

        The landing is valid until `detach` or `aclose`. References that outlive it see no memory.

        Args:
            view: Memory for the body.
        """
        self._landed = _SmallReply(view, self)
        return self._landed

    def detach(self) -> None:
        """Detach the landing from its memory, so that nothing more is received into it."""
        landed, self._landed = self._landed, None
        if landed is not None:
            landed.detach()

    @property
    def reply(self) -> Reply:
        """The reply that `send` returned. If `send` raised an error, the same error is raised again."""
        if self._reply is None:
            assert self._failure is not None
            raise self._failure
        return self._reply

    # ---- body

    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes of the body into `view`, count them, and apply the byte rate.

        Bytes that were given to `unread` are returned first. See `model.protocols.Reply.readinto`.

        Args:
            view: Memory to write to.

        Returns:
            Number of bytes, 0 at the end of the body.

        Raises:
            TransferError: The body cannot be received.
            HostDownError: The host does not answer and is known to be down.
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
        if self._pool.rate.is_limited:
            await self._within_rate()
        try:
            count = await self._reply.readinto(view)
        except FetchError as error:
            raise self._judged(error) from None
        return self._counted(count)

    def is_ready(self) -> bool:
        """Return whether a thread can receive the next bytes of the body, as `drain` lets it.

        Raises:
            TransferError: The body cannot be received.
            HostDownError: The host does not answer and is known to be down.
        """
        reply: object = self._reply
        if self._unread or self._failure is not None or self._over or self._pool.rate.is_limited:
            return False
        try:
            return isinstance(reply, Drainable) and reply.is_ready()
        except FetchError as error:
            raise self._judged(error) from None

    async def drain(self, fill: Fill) -> int:
        """Let a thread receive the next bytes of the body, and count them. Call `is_ready` before.

        Args:
            fill: See `model.draining.Fill`.

        Returns:
            Number of bytes; 0 where `readinto` has to be used.

        Raises:
            TransferError: The body cannot be received.
            HostDownError: The host does not answer and is known to be down.
        """
        reply: object = self._reply
        assert isinstance(reply, Drainable)
        try:
            return self._counted(await reply.drain(fill))
        except FetchError as error:
            raise self._judged(error) from None

    def _counted(self, count: int) -> int:
        """Count bytes of the body that the host has sent, and return their number."""
        if count:
            self._pool.received(self._connection.host, count)
            self._connection.manners.served(self._order, time.monotonic())
        return count

    async def _within_rate(self) -> None:
        """Wait until the byte rate allows more bytes."""
        with self._pool.waits.delayed:
            await self._pool.rate.wait()

    def unread(self, data: memoryview, *, last: bool = False) -> None:
        """Push back bytes that were read. `readinto` returns them again without counting them twice.

        Args:
            data: The bytes. They replace bytes that were pushed back earlier.
            last: Whether the body ends with them.
        """
        self._unread, self._over = data, self._over or last

    def fail_later(self, error: FetchError) -> None:
        """Make `readinto` raise `error` after the bytes that were given to `unread` have been read."""
        self._failure = error

    def take_landed(self, length: int) -> None:
        """Count the `length` bytes of a body that was received into the landing, and end the body."""
        self._pool.received(self._connection.host, length)
        self._connection.manners.served(self._order, time.monotonic())
        self._over = True

    def streaming(self) -> Stream:
        """Return a context to keep open while the body is transferred.

        Raises:
            YieldedError: On exit, if the pool closed this connection because goodput had collapsed.
        """
        return self._connection.host.streams.stream(
            lambda: f"{self._path}: {self.host} is faster with fewer connections"
        )

    # ---- reports to the connection pool

    def progressed(self) -> None:
        """Report that bytes of the body were written, which proves that the host answers."""
        self._pool.answered(self._connection.host)
        if self._range and self._connection.manners.took(self._order, len(self._range)):
            self._observe(events.WidthLearned(self.host, self._connection.manners.widest or 0))

    def measured(self, count: int, seconds: float) -> None:
        """Report that `count` bytes of the body took `seconds` seconds."""
        state = self._connection.host
        state.throughput.measured(count, seconds, len(state.streams))

    def lagging(self, pace: float) -> bool:
        """Return whether a fresh connection takes the place of this one, which the caller closes then.

        While the byte rate delays the connections, none of them lags.

        Args:
            pace: Bytes per second of this connection over the last seconds.
        """
        if self._pool.rate.slows():
            return False
        state, now = self._connection.host, time.monotonic()
        lags = state.throughput.lagging(pace, len(state.streams), now)
        if lags:
            state.throughput.replaced(now)
        return lags

    def _answered(self) -> None:
        self._pool.answered(self._connection.host, time.monotonic() - self._asked)

    def _judged(self, error: FetchError) -> FetchError:
        """Report to the pool what `error` means for the host. Return the error to raise."""
        if error.retry_after:
            self._cool(self.host, error.retry_after, str(error))
        if isinstance(error, UnreachableError):
            silent = error.host or self.host
            if silent != self.host:
                # this host answered with a redirect to the silent one
                self._pool.answered(self._connection.host)
            down = self._pool.silent(silent, error)
            if down is None:
                return error
            if silent == self.host:
                return down
            return HostDownError(error, host=silent, is_own=False, heard=down.heard)
        if isinstance(error, TransferError):
            self._pool.answered(self._connection.host)
            if isinstance(error, StatusError):
                return self._judged_status(error)
        return error

    def _judged_status(self, error: StatusError) -> FetchError:
        """Report a refusal to the pool. Return the error to raise, which is retried where that may help."""
        manners = self._connection.manners
        if error.status in _CROWDED:
            self._pool.refused(self.host)
        elif error.unexplained:
            others = self._connection.has_others
            may_pass, is_limit = manners.forbade(self._order, time.monotonic(), others=others)
            if may_pass:
                error.remedy = Remedy.RETRY
            if is_limit:
                self._pool.refused(self.host)
        elif self._is_too_wide(error) and self._range and manners.narrow(self._order, len(self._range)):
            narrower = StatusError(str(error), status=error.status, remedy=Remedy.RETRY)
            narrower.excused = True
            return narrower
        return error

    def _is_too_wide(self, error: StatusError) -> bool:
        """Return whether `error` may mean that the requested range is too wide."""
        if isinstance(error, RangeNotSatisfiableError):
            # the file has the first byte of the range, as far as the server says
            start = self._range.start if self._range else 0
            return error.length > start if error.length is not None else start == 0
        return error.status in _TOO_WIDE

    def _cool(self, host: str, seconds: float, why: str) -> None:
        self._pool.cool(host, seconds)
        self._observe(events.Cooling(host, seconds, why))


class _SmallReply(Landing):
    """A landing that reports the start of a small reply, which ends too soon for other code to observe it."""

    __slots__ = ("_exchange", "is_coming")

    def __init__(self, view: memoryview, exchange: Exchange) -> None:
        super().__init__(view)
        self._exchange: Exchange | None = exchange
        self.is_coming = False

    def begun(self) -> None:
        """Report the reply's head and count the connection as streaming."""
        exchange = self._exchange
        if exchange is not None and not self.is_coming:
            self.is_coming = True
            exchange._answered()
            exchange._connection.host.streams.brief += 1

    def detach(self) -> None:
        """Drop the memory and stop counting the connection as streaming."""
        self.view, self.body = memoryview(b""), None
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self.is_coming:
            exchange._connection.host.streams.brief -= 1
