"""A reply that is the file, and the context manager for which it is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from ..model.draining import Fill
from ..model.errors import NotThePayloadError
from ..model.http import Coding, Representation, Request
from ..model.ranges import ByteRange
from .chain import Chain
from .connection import PlainReply
from .fallback import Response


class HttpReply(ABC):
    """What is known of a reply whose body is not read yet; see `model.protocols.Reply`.

    Args:
        chain: The request, its redirects and the response.
        representation: URL, length and validators of the file on the server.
        span: The byte range that the body contains, None for the complete file.
        framed: Whether the end of the body is marked.
        coding: What became of the content coding.
    """

    def __init__(
        self,
        chain: Chain,
        representation: Representation,
        span: ByteRange | None,
        *,
        framed: bool = True,
        coding: Coding = Coding.NONE,
    ) -> None:
        self.chain, self.representation, self.range = chain, representation, span
        self.framed, self.coding = framed, coding
        self.borrowed, self.headers_sent, self.pauses = chain.borrowed, chain.headers_sent, chain.pauses
        self.doubt: NotThePayloadError | None = None

    @property
    def name(self) -> str:
        """The file name that the server states, unchecked; empty if it states none."""
        return self.chain.name

    @abstractmethod
    async def readinto(self, view: memoryview) -> int:
        """Receive the next bytes of the body into `view`.

        Args:
            view: A writable buffer of at least one byte.

        Returns:
            The number of bytes received; 0 only at the end of the body.

        Raises:
            NetworkError: The body is cut, stalls, or is not valid.
        """

    def is_ready(self) -> bool:
        """Return whether a thread can receive the next bytes; see `model.draining.Drainable.is_ready`."""
        return False

    async def drain(self, fill: Fill) -> int:
        """Let a thread receive the next bytes of the body; see `model.draining.Drainable.drain`.

        Returns:
            The number of bytes; 0 where `readinto` has to be used.
        """
        return 0

    @abstractmethod
    async def peek(self) -> bytes:
        """Return the first bytes of the body, at most `refusals.PEEK`, and leave them for `readinto`.

        Raises:
            NetworkError: As in `readinto`.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop reading the body. Its connection is closed, or kept, with the response."""


class OpenReply:
    """One request and its reply, open as long as this context manager.

    Args:
        answer: Sends the request and returns its reply.
        request: The request to send when the context is entered.
    """

    __slots__ = ("_answer", "_request", "body", "response")

    def __init__(
        self, answer: Callable[[Request, OpenReply], Awaitable[HttpReply]], request: Request
    ) -> None:
        self._answer, self._request = answer, request
        self.response: Response | PlainReply | None = None
        self.body: HttpReply | None = None

    async def __aenter__(self) -> HttpReply:
        try:
            return await self._answer(self._request, self)
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.body is not None:
            self.body.close()
        if self.response is not None:
            self.response.close()  # no effect after the end of a body: the connection is kept
