"""The rest of a body, from its connection straight into the reader's memory.

Through aiohttp's parser and stream every byte is copied three times before it can be written. A body of
known length needs neither: its connection is given another protocol while it lasts, and aiohttp's own
again for the next request. On 4 x 512 MiB that takes a third less time.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler

from .fallback import Response

# bytes still to come, for which it is worth while
_WORTH: Final = 128 << 10
_EARLY: Final = 64 << 10  # bytes that are taken at once while nobody receives
_TURNS: Final = 3  # of the loop, in which what the kernel or TLS has waiting is read


class Receiver(asyncio.BufferedProtocol):
    """Stands in for the protocol `owner` of `transport`, until `left` bytes have come."""

    def __init__(
        self, transport: asyncio.Transport, owner: ResponseHandler, content: aiohttp.StreamReader, left: int
    ) -> None:
        self.left = left
        self._transport, self._owner, self._content = transport, owner, content
        self._view = memoryview(b"")
        self._early = bytearray()  # came while nobody received
        self._spare = memoryview(b"")  # where such bytes come to
        self._waiter: asyncio.Future[None] | None = None
        self._lost: BaseException | None = None
        self._settled = False  # the last byte came, and nothing after it

    @classmethod
    def instead_of(cls, response: Response, left: int | None) -> Self | None:
        """Take over from `response`, of whose body nothing is waiting to be read and `left` bytes are to
        come. None where that is not worth while, or cannot be done: then the stream goes on."""
        connection, content = response.connection, response.content
        transport = connection.transport if connection else None
        owner = connection.protocol if connection else None
        if left is None or left < _WORTH or transport is None or owner is None or transport.is_closing():
            return None
        # what was fed and what is to come are all of it, or somebody else holds some of it
        chunked = "Transfer-Encoding" in response.headers
        if chunked or response.content_length != content.total_bytes + left:
            return None
        made = cls(transport, owner, content, left)
        transport.pause_reading()
        transport.set_protocol(made)
        return made

    def give_back(self) -> None:
        """Let the owner have its connection again: for its next request, or to be closed."""
        self._transport.set_protocol(self._owner)
        if self._settled:
            # its parser still waits for this body: what comes unasked would be taken for that, unseen
            self._owner.set_response_params()
            self._transport.resume_reading()
            self._content.feed_eof()

    async def settle(self) -> None:
        """After the last byte: see whether the server has sent something after it that nobody asked for, and
        that would be taken for the next answer."""
        if self._lost is None:
            self._view = memoryview(bytearray(1))
            self._transport.resume_reading()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if not self._transport.is_closing():
                self._transport.pause_reading()
        whole = self.left == 0 and not self._early
        self._settled = whole and self._lost is None and not self._transport.is_closing()

    async def receive(self, view: memoryview, seconds: float) -> int:
        """Receive into `view` until it is full, the body is over, or so many seconds have passed; how
        many bytes came. Raises OSError on a cut, after what came before it."""
        if self._early:
            count = min(len(view), len(self._early), self.left)
            view[:count] = self._early[:count]
            del self._early[:count]
            self.left -= count
            return count
        if self._lost is not None:
            raise self._lost
        view = self._view = view[: self.left]
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        self._transport.resume_reading()
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._transport.pause_reading()
            count = len(view) - len(self._view)
            self._view, self._waiter = memoryview(b""), None  # the memory is the reader's again
        if count == 0 and self._lost is not None:
            raise self._lost
        return count

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # what the transport calls

    def get_buffer(self, sizehint: int) -> memoryview:
        if not self._view:
            # Nobody receives. But aiohttp gives a connection away when it has read a body to its end; who is
            # late in taking that body from its stream lets the connection read on, whoever has it now. Past
            # the end one byte is enough to tell that more came than was announced
            # no bytearray: TLS fills a buffer slice by slice, and those of a bytearray are copies
            self._spare = memoryview(bytearray(max(1, min(_EARLY, self.left - len(self._early)))))
            return self._spare
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if not self._view:
            self._transport.pause_reading()
            self._early += self._spare[:nbytes]
            return
        self.left -= nbytes
        self._view = self._view[nbytes:]
        if not self._view:
            self._transport.pause_reading()  # before somebody asks for a buffer again
            self._wake()

    def eof_received(self) -> bool | None:
        self._owner.eof_received()
        return None  # close

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc if isinstance(exc, OSError) else ConnectionError(f"it ended {self.left} bytes early")
        self._owner.connection_lost(exc)
        self._wake()

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
