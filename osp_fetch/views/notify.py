"""The notifier of a run: it looks at the run's state at intervals, and hands notices to the channels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ..model import events
from ..model.report import Report
from .board import Board
from .delivery import PATIENCE, Channel, close_all
from .notice import Notice
from .notices import Look, Notices

# Files whose sizes must be known before the others are estimated by their mean, as for the time that is left.
_SIZED: Final = 3


class Notifier:
    """An observer that tells people what happens to a run.

    Args:
        board: The state of the run. It must receive the same events, before this observer.
        notices: Decides which notices are sent.
        channels: Where notices go.
        room: Returns the bytes that may still be written to the disk, None if unknown. It must not block.
        wall: Clock in Unix seconds.
        clock: Clock that no change of the time moves, in seconds; by default the system's, or `wall` if that
            is another one.

    Attributes:
        period: Seconds between two calls of `tick`.
    """

    period = 5.0
    passes_over: Final = frozenset(
        {events.Wrote, events.Opened, events.Closed, events.FileBegun, events.Finished, events.Progress}
    )

    def __init__(
        self,
        board: Board,
        notices: Notices,
        channels: Sequence[Channel],
        room: Callable[[], int | None] = lambda: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._board, self._notices, self._channels = board, notices, channels
        self._room, self._wall = room, wall
        self._clock = clock or (time.monotonic if wall is time.time else wall)
        self._is_begun = False

    def __call__(self, event: events.Event) -> None:
        """Tell what an event causes."""
        self._is_begun = self._is_begun or isinstance(event, events.RunStarted)
        self._notices.set_wall(self._wall(), self._clock())
        self._tell(self._notices.event(event, self._clock()))

    def tick(self) -> None:
        """Look at the state of the run. Before it begins, as while it waits for a lock, nothing is sent."""
        if self._is_begun and self._board.report is None:
            look = look_at(self._board, self._clock(), self._room(), self._wall())
            self._tell(self._notices.look(look))

    def ended(self, report: Report | None, error: str | None, code: int) -> None:
        """Tell how the run ended; see `Notices.ended`."""
        self._notices.set_wall(self._wall(), self._clock())
        self._tell(self._notices.ended(report, error, code, self._clock()))

    def close(self, patience: float = PATIENCE) -> list[str]:
        """Wait for notices on their way, and return notes for the user. Blocks.

        Args:
            patience: Seconds to wait at most.
        """
        return close_all(self._channels, patience)

    def _tell(self, notices: list[Notice]) -> None:
        for notice in notices:
            for channel in self._channels:
                channel.put(notice)


def look_at(board: Board, now: float, room: int | None, wall: float | None = None) -> Look:
    """Return the state of a run.

    Args:
        board: The run.
        now: Seconds of a clock that no change of the time moves.
        room: Bytes that may still be written to the disk, None if unknown.
        wall: Unix seconds; None if `now` is.
    """
    total = board.total if board.exact or board.sized >= _SIZED else None
    left = None if total is None else max(0, total - board.done)
    known = "" if board.exact else "About" if board.rows_final else "At least"
    return Look(now, board.received, board.finished, left, known, board.expires, room, wall, board.expiring)
