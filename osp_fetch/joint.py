"""What the runs over the shares of one manifest have in common in this process, and their own partials."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .model.errors import FetchError
from .storage.folder.node_folders import collect, mark_ended, node_folder

if TYPE_CHECKING:
    from .connections.byte_rate import ByteRate
    from .control.steering import Steering
    from .engine.context import Context


class Joint:
    """What the runs over the shares of one manifest have in common in this process.

    That is the byte rate, what commands have changed, and the part of the limits that this machine has.
    """

    def __init__(self) -> None:
        self._rate: ByteRate | None = None
        self._before: Steering | None = None
        self._present: Steering | None = None
        self._part = 0, 1

    def share_rate(self, context: Context) -> None:
        """Let the run of `context` continue with the rate of the one before, which may have used it up."""
        if self._rate is None:
            self._rate = context.pool.rate
        context.pool.rate = self._rate

    @contextmanager
    def steering(self, steering: Steering) -> Iterator[None]:
        """Let a run continue with what commands have changed in the one before, until the context ends."""
        if self._before is not None:
            steering.take_over(self._before)
        steering.divide(*self._part)
        self._before = self._present = steering
        try:
            yield
        finally:
            self._present = None

    def divide(self, place: int, parts: int) -> None:
        """Keep to part number `place` of `parts` parts of the limits, in this share and the next ones."""
        if (place, parts) != self._part:
            self._part = place, parts
            if self._present is not None:
                self._present.divide(place, parts)


def own_partials(stack: AsyncExitStack, state: Path) -> Path:
    """Return a folder for partials that no other run ever writes to; take over those of earlier runs."""
    collect(state)
    own = node_folder(state, secrets.token_hex(8))
    own.mkdir(parents=True)

    def give_back() -> None:
        mark_ended(own)
        with suppress(FetchError):  # else the next run collects them
            collect(state)

    stack.callback(give_back)
    return own
