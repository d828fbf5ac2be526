"""Reading a reply's body, with clocks of our own.

aiohttp's own timers restart with every byte and vanish after a 1xx: here every read has its time, and
all of them together a least speed.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from ..model.errors import NetworkError, TooLong
from ..model.exchange import Representation
from ..model.ranges import ByteRange
from ..model.settings import Timeouts
from . import payload


class Body:
    """The reply whose body is being read; see `model.protocols.Reply`."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
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
        self.framed = response.content_length is not None or "chunked" in coding
        self._response = response
        self._file = name
        self._timeouts = timeouts
        self._left = len(span) if span else representation.length
        self._peeked = b""
        self._waited = 0.0
        self._window = 0

    async def read(self) -> bytes:
        if self._peeked:
            chunk, self._peeked = self._peeked, b""
        else:
            chunk = await self._receive()
        if self._left is not None:
            if len(chunk) > self._left:
                raise TooLong(f"{self._name}: the server sent more bytes than it announced")
            self._left -= len(chunk)
        return chunk

    async def peek(self) -> bytes:
        """The first bytes, left in place for `read`."""
        while len(self._peeked) < payload.PEEK:
            chunk = await self._receive()
            if not chunk:
                break
            self._peeked += chunk
        return self._peeked[: payload.PEEK]

    async def _receive(self) -> bytes:
        content = self._response.content
        begun = 0.0
        try:
            # each chunk as it came: `read_nowait` makes one of several, by copying them
            several = len(getattr(content, "_buffer", ())) > 1
            chunk = (await content.readchunk())[0] if several else content.read_nowait()
            if chunk or content.at_eof():
                self._window += len(chunk)
                return chunk  # it was here already: nobody had to wait
            begun = time.monotonic()
            async with asyncio.timeout(self._timeouts.idle):
                chunk = await content.readany()
        except TimeoutError:
            raise NetworkError(f"{self._name}: no byte for {self._timeouts.idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"{self._name}: the connection was cut ({reason(error)})") from None
        self._check_speed(time.monotonic() - begun, len(chunk))
        return chunk

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
        return f"{self._file}: {self._response.url.host}"


def reason(error: BaseException) -> str:
    """What a foreign error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
