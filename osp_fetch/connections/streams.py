"""Connections that are transferring a body, and a way to close some of them at once."""

from __future__ import annotations

from collections.abc import Callable

from ..concurrency import Scope
from ..model.errors import YieldedError


class Streams:
    """The connections to one host that are transferring a body, oldest first.

    Attributes:
        brief: Further connections, each of which transfers one small file. They end too soon to be closed
            by `shed`, so they are only counted.
    """

    def __init__(self) -> None:
        self._open: dict[Stream, None] = {}
        self.brief = 0

    def __len__(self) -> int:
        return len(self._open) + self.brief

    def stream(self, why: Callable[[], str]) -> Stream:
        """Return a context to keep open while one more connection transfers a body.

        Args:
            why: Returns the message of the error if the connection is closed by `shed`.

        Raises:
            YieldedError: On exit, if the connection was closed by `shed`.
        """
        return Stream(self._open, why)

    def shed(self, count: int) -> int:
        """Close the `count` newest connections.

        Each of them raises YieldedError in its own task, even while it waits for its next byte.

        Returns:
            The number of connections that are closed; fewer than `count` where there are not as many.
        """
        closed = list(self._open)[-count:] if count > 0 else []
        for stream in closed:
            stream.let_go()
        return len(closed)


class Stream:
    """The context that `Streams.stream` returns."""

    __slots__ = ("_among", "_scope", "_why")

    def __init__(self, among: dict[Stream, None], why: Callable[[], str]) -> None:
        self._among, self._why = among, why
        self._scope = Scope()

    def let_go(self) -> None:
        """Cancel the transfer at its current `await`."""
        self._scope.end()

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._among[self] = None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        del self._among[self]
        if self._scope.__exit__(kind, error, trace):
            raise YieldedError(self._why()) from None
