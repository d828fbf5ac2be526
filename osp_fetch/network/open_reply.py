"""One request and its reply, open as long as a context manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..model.http import Request
from .adapted import DecodedBody, TrimmedBody
from .body import Body, Landed
from .connection import PlainReply
from .fallback import Response

AnyBody = Body | Landed | DecodedBody | TrimmedBody


class OpenReply:
    """One request and its reply, open as long as this context manager.

    Args:
        answer: Sends the request and returns its reply.
        request: The request to send when the context is entered.
    """

    __slots__ = ("_answer", "_request", "body", "response")

    def __init__(self, answer: Callable[[Request, OpenReply], Awaitable[AnyBody]], request: Request) -> None:
        self._answer, self._request = answer, request
        self.response: Response | PlainReply | None = None
        self.body: AnyBody | None = None

    async def __aenter__(self) -> AnyBody:
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
