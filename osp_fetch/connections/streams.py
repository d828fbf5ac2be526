"""Connections that bring bytes, and how some of them are let go at once."""

from __future__ import annotations

from collections.abc import Callable

from ..concurrency import Scope
from ..model.errors import YieldedError


class Streams:
    """The connections to one host whose bytes are coming in, the newest last. `brief`: how many more there
    are that bring a small file each, and are over before anybody could let them go."""

    def __init__(self) -> None:
        self._open: dict[Stream, None] = {}
        self.brief = 0

    def __len__(self) -> int:
        return len(self._open) + self.brief

    def stream(self, why: Callable[[], str]) -> Stream:
        """One more of them, while the context is open; `why` says in words that it was let go."""
        return Stream(self._open, why)

    def shed(self, count: int) -> None:
        """Let the newest ones go: each raises YieldedError, also one that waits for its next byte."""
        for stream in list(self._open)[-count:] if count > 0 else ():
            stream.let_go()


class Stream:
    """See `Streams.stream`."""

    __slots__ = ("_among", "_scope", "_why")

    def __init__(self, among: dict[Stream, None], why: Callable[[], str]) -> None:
        self._among, self._why = among, why
        self._scope = Scope()

    def let_go(self) -> None:
        """End it where it stands."""
        self._scope.end()

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._among[self] = None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        del self._among[self]
        if self._scope.__exit__(kind, error, trace):
            raise YieldedError(self._why()) from None
