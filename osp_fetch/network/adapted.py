"""Replies whose body is not the requested bytes as they come: coded ones, and ranges wider than requested."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any, Final

from ..model.errors import NetworkError
from ..model.http import Coding, Validator
from ..model.ranges import ByteRange
from .body import Body
from .refusals import PEEK
from .reply import HttpReply

_READ: Final = 64 << 10  # bytes of the coded body that are read at a time


class DecodedBody(HttpReply):
    """A reply whose content coding is removed while its body is read.

    The decoded file has no length and no validator: those of the reply belong to the coded bytes. So it
    cannot be resumed.

    Args:
        body: The coded reply, complete and unread.
        name: The file's name, for error messages.
        coding: `gzip` or `deflate`.
    """

    def __init__(self, body: Body, name: str, coding: str) -> None:
        super().__init__(
            body.chain,
            replace(body.representation, length=None, validator=Validator()),
            None,
            framed=body.framed,  # the end of a gzip member may be the end of the file, or a cut
            coding=Coding.DECODED,
        )
        self._body, self._name, self._coding = body, name, coding
        self._coded_length = body.representation.length
        self._coded, self._buffer = memoryview(b""), memoryview(bytearray(_READ))
        self._decoder = self._new_decoder()
        self._first = True  # no byte was decoded yet
        self._chunk = memoryview(b"")

    async def readinto(self, view: memoryview) -> int:
        """Receive the next decoded bytes into `view`; see `HttpReply.readinto`.

        Raises:
            NetworkError: The body was cut, or is not valid in its coding.
        """
        if not self._chunk:
            self._chunk = memoryview(await self._decoded(len(view)))
        count = min(len(view), len(self._chunk))
        view[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    async def peek(self) -> bytes:
        """Return the first decoded bytes and leave them in place for `readinto`."""
        head = b""
        while len(head) < PEEK and (more := await self._decoded(PEEK)):
            head += more
        self._chunk = memoryview(head)
        return head[:PEEK]

    def _new_decoder(self) -> Any:
        return zlib.decompressobj(wbits=31 if self._coding == "gzip" else 15)  # with the header of its format

    def close(self) -> None:
        """Close the coded reply."""
        self._body.close()

    async def _decoded(self, most: int) -> bytes:
        """Return up to `most` decoded bytes, none at the end of the body."""
        while True:
            if not self._coded:
                count = await self._body.readinto(self._buffer)
                if not count:
                    break
                self._coded = self._buffer[:count]
            if self._decoder.eof:  # several gzip members are one stream (RFC 1952 section 2.2)
                self._decoder = self._new_decoder()
            if data := self._decompress(most):
                return data
        if self._decoder.eof or self._coded_length == 0:
            return b""
        raise NetworkError(f"{self._name}: the compressed body ended early")

    def _decompress(self, most: int) -> bytes:
        try:
            data: bytes = self._decoder.decompress(self._coded, most)
        except zlib.error as error:
            if not self._first or self._coding != "deflate":
                raise NetworkError(f"{self._name}: the compressed body is not valid ({error})") from None
            # `deflate` without the header of zlib, which some servers send (RFC 9110 section 8.4.1.2)
            self._first, self._decoder = False, zlib.decompressobj(wbits=-15)
            return self._decompress(most)
        self._first = False
        rest = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        self._coded = memoryview(rest)
        return data


class TrimmedBody(HttpReply):
    """A reply of status 206 that begins before, or ends after, what was requested.

    Args:
        body: The reply, unread.
        wanted: The byte range that was requested.
    """

    def __init__(self, body: Body, wanted: ByteRange) -> None:
        assert body.range is not None
        span = ByteRange(wanted.start, min(body.range.stop, wanted.stop))
        super().__init__(body.chain, body.representation, span, framed=body.framed)
        self._body = body
        self._skip, self._left = wanted.start - body.range.start, len(span)

    async def readinto(self, view: memoryview) -> int:
        """Receive the next requested bytes into `view`; see `HttpReply.readinto`."""
        while self._skip:
            scratch = memoryview(bytearray(min(self._skip, _READ)))
            count = await self._body.readinto(scratch)
            if not count:
                return 0
            self._skip -= count
        if not self._left:
            return 0
        count = await self._body.readinto(view[: self._left])
        self._left -= count
        return count

    async def peek(self) -> bytes:
        """Return no bytes: a range that begins after byte 0 shows nothing of the file's format."""
        return b""

    def close(self) -> None:
        """Close the reply."""
        self._body.close()
