"""Reading of a reply's body, with a timeout for each read and a minimum speed.

aiohttp's read timers restart with every byte and disappear after a 1xx reply. This module therefore limits
the wait of each read itself, and enforces a minimum speed over consecutive reads.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import aiohttp

from ..model.draining import Fill
from ..model.errors import NetworkError, TooLongError
from ..model.http import Representation
from ..model.ranges import ByteRange
from ..model.settings import Timeouts
from . import refusals
from .chain import Chain
from .fallback import Response
from .receiver import Receiver
from .reply import HttpReply

# seconds that a read waits for the caller's buffer to fill before it returns the bytes that have arrived
_MOMENT: Final = 0.05


class Body(HttpReply):
    """A reply whose body is read from its connection.

    Args:
        chain: As in `HttpReply`.
        response: The last response of `chain`, its body unread.
        representation: As in `HttpReply`.
        span: As in `HttpReply`.
        timeouts: `idle`, `slowest` and `slow_for` apply here.
        direct: Whether a large body may be received past aiohttp's stream.
    """

    def __init__(
        self,
        chain: Chain,
        response: Response,
        representation: Representation,
        span: ByteRange | None,
        *,
        timeouts: Timeouts,
        direct: bool = True,
    ) -> None:
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        self._measured = response.content_length is not None  # aiohttp delivers nothing past it
        super().__init__(chain, representation, span, framed=self._measured or chunked)
        self._direct = direct
        self._response = response
        self._timeouts = timeouts
        self._left = len(span) if span else representation.length
        self._chunk = memoryview(b"")  # received and not yet read
        self._receiver: Receiver | None = None
        self._over = False  # the receiver has delivered the last byte
        self._waited = 0.0  # seconds spent waiting for the server, in the current speed window
        self._window = 0  # bytes received in the same window

    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes of the body into `view`; see `HttpReply.readinto`.

        Raises:
            NetworkError: The connection was cut, no byte arrived for `timeouts.idle` seconds, or the speed
                stayed below `timeouts.slowest` bytes/s for `timeouts.slow_for` seconds.
            TooLongError: The server sent more bytes than it announced.
        """
        if self._over or (self._measured and self._left == 0 and not self._chunk):
            return 0
        if self._takes_over() and self._receiver is None:
            self._chunk = memoryview(await self._wait())
        if self._receiver is not None:
            count = await self._receive(self._receiver, view)
            await self._end_received(self._receiver)
        else:
            count = min(len(view), len(self._chunk))
            view[:count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
        if self._left is not None:
            if count + len(self._chunk) > self._left:
                raise TooLongError(f"{self._name}: the server sent more bytes than it announced")
            self._left -= count
        return count

    def _takes_over(self) -> bool:
        """Take what has arrived, or else the connection; return whether bytes have to be waited for."""
        if not self._chunk and self._receiver is None:
            self._chunk = memoryview(self._here())
            if self._chunk or self._response.content.at_eof():
                return False
            if self._direct:
                self._receiver = Receiver.instead_of(self._response, self._left)
        return not self._chunk

    def is_ready(self) -> bool:
        """Return whether a thread can receive the next bytes; see `model.draining.Drainable.is_ready`."""
        if self._over or self._left == 0 or not self._takes_over():
            return False
        return self._receiver is not None and self._receiver.lend() is not None

    async def drain(self, fill: Fill) -> int:
        """Let a thread receive the next bytes of the body; see `model.draining.Drainable.drain`.

        Raises:
            NetworkError: As in `readinto`.
            TooLongError: The event loop has read bytes that the thread was to receive.
        """
        receiver = self._receiver
        if self._over or receiver is None:
            return 0
        count, waited = await receiver.drain(fill)
        if receiver.is_spoilt:
            raise TooLongError(f"{self._name}: bytes of the body arrived outside of their order")
        if count and self._left is not None:
            self._left -= count
        self._check_speed(waited, count)
        await self._end_received(receiver)
        return count

    async def _end_received(self, receiver: Receiver) -> None:
        """Give the connection back after the last byte of the body."""
        if not receiver.left:
            self._over = True
            await receiver.settle()
            self.close()

    async def peek(self) -> bytes:
        """Return the first bytes of the body; see `HttpReply.peek`. Only a shorter body gives fewer."""
        head = b""
        while len(head) < refusals.PEEK and (chunk := self._here() or await self._wait()):
            head += chunk
        self._chunk = memoryview(head)
        return head[: refusals.PEEK]

    def close(self) -> None:
        """Return the connection to aiohttp, which reuses or closes it."""
        if self._receiver is not None:
            self._receiver.give_back()
            self._receiver = None

    async def _receive(self, receiver: Receiver, view: memoryview) -> int:
        """Receive at least one byte into `view` through `receiver`, or raise NetworkError."""
        begun, waited, count = time.monotonic(), 0.0, 0
        while receiver.left and not count:
            if waited >= self._timeouts.idle:
                raise NetworkError(f"{self._name}: no byte for {self._timeouts.idle:g} s")
            try:
                count = await receiver.receive(view, min(_MOMENT, self._timeouts.idle - waited))
            except OSError as error:
                raise self._cut(error) from None
            waited = time.monotonic() - begun
        self._check_speed(waited, count)
        return count

    def _here(self) -> bytes:
        """Return the bytes that aiohttp has already received, without waiting."""
        try:
            chunk = self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            raise self._cut(error) from None
        self._window += len(chunk)
        return chunk

    async def _wait(self) -> bytes:
        """Wait for the next bytes and return them; empty at the end of the body."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.idle):
                chunk = await self._response.content.readany()
        except TimeoutError:
            raise NetworkError(f"{self._name}: no byte for {self._timeouts.idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._cut(error) from None
        self._check_speed(time.monotonic() - begun, len(chunk))
        return chunk

    def _cut(self, error: Exception) -> NetworkError:
        return NetworkError(f"{self._name}: the connection was cut ({reason(error)})")

    def _check_speed(self, waited: float, count: int) -> None:
        """Raise NetworkError where the bytes of the last window came too slowly."""
        # only time spent waiting for the server counts: a slow local disk is not the server's fault
        self._waited += waited
        self._window += count
        if self._waited >= self._timeouts.slow_for > 0:
            if self._window < self._timeouts.slowest * self._waited:
                least = f"{self._timeouts.slowest} bytes/s (timeouts.slowest)"
                raise NetworkError(f"{self._name}: slower than {least}")
            self._waited, self._window = 0.0, 0

    @property
    def _name(self) -> str:
        return f"{self.chain.request.name}: {self._response.host}"


class Landed(HttpReply):
    """A reply whose complete body is already in memory. Its connection was given back with the last byte.

    Args:
        chain: As in `HttpReply`.
        body: All bytes of the body.
        representation: As in `HttpReply`.
        span: As in `HttpReply`.
    """

    def __init__(
        self, chain: Chain, body: memoryview, representation: Representation, span: ByteRange | None
    ) -> None:
        super().__init__(chain, representation, span)
        self._left = body

    async def peek(self) -> bytes:
        """Return the first bytes of the body; see `HttpReply.peek`."""
        return bytes(self._left[: refusals.PEEK])

    def close(self) -> None:
        """Do nothing: the connection was given back when the body was complete."""

    async def readinto(self, view: memoryview) -> int:
        """Copy the next bytes of the body into `view`; see `HttpReply.readinto`."""
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def reason(error: BaseException) -> str:
    """Return the message of an exception of another library on one line.

    Args:
        error: Any exception.

    Returns:
        At most 200 characters; the name of the exception's class where it has no message.
    """
    return " ".join(str(error).split())[:200] or type(error).__name__
