"""Connections that bring bytes, and how some of them are let go at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from ..model.errors import Yielded


class Streams:
    """The connections to one host whose bytes are coming in, the newest last."""

    def __init__(self) -> None:
        self._open: dict[Stream, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def stream(self, why: Callable[[], str]) -> Stream:
        """One more of them, while the context is open; `why` says in words that it was let go."""
        return Stream(self._open, why)

    def shed(self, count: int) -> None:
        """Let the newest ones go: each raises Yielded, also one that waits for its next byte."""
        for stream in list(self._open)[-count:] if count > 0 else ():
            stream.let_go()


class Stream:
    """See `Streams.stream`."""

    __slots__ = ("_among", "_scope", "_why")

    def __init__(self, among: dict[Stream, None], why: Callable[[], str]) -> None:
        self._among, self._why = among, why
        self._scope = asyncio.timeout(None)

    def let_go(self) -> None:
        """End it where it stands."""
        if not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._among[self] = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._among[self]
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise Yielded(self._why()) from None
