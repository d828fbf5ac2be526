"""The history of a run: its sums at intervals, in `history.jsonl`, for reports over weeks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from ..model.report import JSON_VERSION
from ..storage.folder.permissions import Permissions
from .board import Board
from .event_log import words_of
from .fanout import Ticking
from .rotated import RotatedFile
from .totals import Totals

# Seconds between two lines: (age of the run in seconds, seconds). A run of a month has about 4,000 lines.
_PERIODS: Final = ((120.0, 2.0), (1800.0, 15.0), (6 * 3600.0, 60.0), (3 * 86400.0, 300.0))
_LONGEST: Final = 900.0
_MOST: Final = 32 << 20  # bytes of all history; a line has 300 bytes to 3 KiB
_FILES: Final = 4


class HistoryFile:
    """Appends the sums of a run to `history.jsonl`. Use it as an asynchronous context manager.

    Each line has all sums since the run began, so that a line that is lost costs nothing but detail.

    Args:
        place: Path of `history.jsonl`.
        board: The state of the run.
        totals: The sums of the run.
        permissions: Of the file.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self, place: Path, board: Board, totals: Totals, permissions: Permissions | None = None
    ) -> None:
        self._board, self._totals = board, totals
        self._file = RotatedFile(place, _MOST, permissions, _FILES)
        self._begun = board.wall()
        self._error: str | None = None
        self._is_over = False
        self._ticking = Ticking(self, at_end=False)

    @property
    def period(self) -> float:
        """Seconds until the next line."""
        return period_at(self._board.seconds)

    def tick(self) -> None:
        """Append a line."""
        self._file.write(json.dumps(self._line()), now=True)

    def _line(self) -> dict[str, Any]:
        board, totals = self._board, self._totals
        report = board.report
        return {
            "version": JSON_VERSION,
            "time": round(board.wall(), 1),
            "run": f"{self._begun:.3f}-{os.getpid()}",
            "seconds": round(board.seconds, 1),
            "rows": board.rows,
            "rows_final": board.rows_final,
            "counts": {status.value: count for status, count in board.counts.items()},
            "bytes_received": board.received,
            "bytes_done": board.done,
            "bytes_total": board.total,
            "bytes_fetched": totals.fetched,
            "bytes_lost": totals.lost,
            "bytes_adopted": totals.adopted,
            "connections": board.connections,
            "hosts": dict(totals.hosts),
            "nodes": dict(board.nodes.received()),
            "failures": dict(totals.failures),
            "proofs": dict(totals.proofs),
            "retries": dict(totals.retries),
            "delays": {cause: round(seconds, 1) for cause, seconds in totals.delays.items()},
            "pauses": {host: round(seconds, 1) for host, seconds in totals.pauses.items()},
            "limited": {cause: round(seconds, 1) for cause, seconds in board.limited.items()},
            "disk_waits": totals.waits,
            "links_renewed": totals.renewed,
            "worker_deaths": totals.deaths,
            "links_expire": board.expires,
            "ended": self._is_over,
            "stopped": report.stopped if report else None,
            "error": self._error,
        }

    async def __aenter__(self) -> HistoryFile:
        self.tick()
        await self._ticking.__aenter__()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._ticking.__aexit__()
        self._error = words_of(error)
        self._is_over = True
        self.tick()
        self._file.close()


def period_at(age: float) -> float:
    """Return the seconds until the next line of a run that began `age` seconds ago."""
    return next((period for limit, period in _PERIODS if age < limit), _LONGEST)
