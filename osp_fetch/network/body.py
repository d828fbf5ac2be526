"""Reading a reply's body, with clocks of our own.

aiohttp's own timers restart with every byte and vanish after a 1xx: here every read has its time, and
all of them together a least speed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import aiohttp

from ..model.errors import NetworkError, TooLongError
from ..model.http import Representation
from ..model.ranges import ByteRange
from ..model.settings import Timeouts
from . import refusals
from .fallback import Response
from .receiver import Receiver

_MOMENT: Final = 0.05  # seconds for which a reader waits for its memory to fill


class Body:
    """The reply whose body is being read; see `model.protocols.Reply`."""

    def __init__(
        self,
        response: Response,
        representation: Representation,
        span: ByteRange | None,
        *,
        name: str,
        timeouts: Timeouts,
        borrowed: bool,
        headers_sent: bool,
        pauses: tuple[tuple[str, float], ...],
    ) -> None:
        self.representation = representation
        self.range = span
        self.borrowed = borrowed
        self.headers_sent = headers_sent
        self.pauses = pauses
        coding = response.headers.get("Transfer-Encoding", "").lower()
        self._measured = response.content_length is not None  # the parser lets nothing come after it
        self.framed = self._measured or "chunked" in coding
        self._response = response
        self._file = name
        self._timeouts = timeouts
        self._left = len(span) if span else representation.length
        self._chunk = memoryview(b"")  # that has come, and was not yet read
        self._receiver: Receiver | None = None
        self._over = False  # it has brought the last byte
        self._waited = 0.0
        self._window = 0

    async def readinto(self, view: memoryview) -> int:
        if self._over or (self._measured and self._left == 0 and not self._chunk):
            return 0
        if not self._chunk and self._receiver is None:
            self._chunk = memoryview(self._here())
            if not self._chunk and not self._response.content.at_eof():
                self._receiver = Receiver.instead_of(self._response, self._left)
                if self._receiver is None:
                    self._chunk = memoryview(await self._wait())
        if self._receiver is not None:
            count = await self._receive(self._receiver, view)
            if not self._receiver.left:
                self._over = True
                await self._receiver.settle()
                self.close()
        else:
            count = min(len(view), len(self._chunk))
            view[:count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
        if self._left is not None:
            if count + len(self._chunk) > self._left:
                raise TooLongError(f"{self._name}: the server sent more bytes than it announced")
            self._left -= count
        return count

    async def peek(self) -> bytes:
        """The first bytes, left in place for `readinto`."""
        head = b""
        while len(head) < refusals.PEEK and (chunk := self._here() or await self._wait()):
            head += chunk
        self._chunk = memoryview(head)
        return head[: refusals.PEEK]

    def close(self) -> None:
        """Give the connection back to its session, which keeps or closes it."""
        if self._receiver is not None:
            self._receiver.give_back()
            self._receiver = None

    async def _receive(self, receiver: Receiver, view: memoryview) -> int:
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
        """What has come already: nobody had to wait for it."""
        try:
            chunk = self._response.content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            raise self._cut(error) from None
        self._window += len(chunk)
        return chunk

    async def _wait(self) -> bytes:
        """The next bytes to come, none at the end."""
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
        # only time spent waiting for the server counts: a slow disk of ours is not its fault
        self._waited += waited
        self._window += count
        if self._waited >= self._timeouts.slow_for > 0:
            if self._window < self._timeouts.slowest * self._waited:
                raise NetworkError(f"{self._name}: slower than {self._timeouts.slowest} bytes/s")
            self._waited, self._window = 0.0, 0

    @property
    def _name(self) -> str:
        return f"{self._file}: {self._response.host}"


class Landed:
    """A reply of which all has come; see `model.protocols.Reply`."""

    framed = True

    def __init__(
        self,
        body: memoryview,
        representation: Representation,
        span: ByteRange | None,
        *,
        borrowed: bool,
        headers_sent: bool,
        pauses: tuple[tuple[str, float], ...],
    ) -> None:
        self.representation, self.range = representation, span
        self.borrowed, self.headers_sent, self.pauses = borrowed, headers_sent, pauses
        self._left = body

    async def readinto(self, view: memoryview) -> int:
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def reason(error: BaseException) -> str:
    """What a foreign error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
