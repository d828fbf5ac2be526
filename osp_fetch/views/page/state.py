"""PageState: what the page of a run shows, added up from events in bounded memory."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from ...model import events
from ...model.report import Outcome, Report, Status
from ...model.text import printable
from .. import formatting
from ..board import Board
from ..outlook import Outlook, Pace, outlook
from ..screen import Details
from .history import History, Sample
from .hosts import HostTable

# What one document lists at most.
_HOSTS, _FILES, _CAUSES, _EXAMPLES, _LINES = 100, 20, 30, 3, 200
# Characters of a message or a path; longer ones are cut.
_LONGEST: Final = 300


class PageState:
    """What the page shows: an observer of a run's events.

    It is made from a `Board`, which has to receive each event before this.

    Args:
        board: The state of the run.
        folder: The destination as it is shown.
        wall: Wall clock in Unix seconds.
        monotonic: Clock in seconds for rates.

    Attributes:
        period: Seconds between two calls of `tick`.
        number: Number of ticks so far: the version of the document.
        free: Bytes that are free on the disk, None if that is not known; the page's server sets it.
        min_free: Bytes that the run leaves free.
    """

    period = 1.0
    passes_over: Final = frozenset({events.Progress})
    handlers: ClassVar[Mapping[type[events.Event], Callable[[Any, Any], None]]]  # see `Fanout`

    def __init__(
        self,
        board: Board,
        folder: str,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board, self._folder, self._wall, self._clock = board, folder, wall, monotonic
        self._run = secrets.token_hex(8)
        self._history, self._hosts = History(), HostTable()
        self._causes: dict[str, tuple[int, list[str]]] = {}  # cause → failed files, and the first messages
        self._log: deque[tuple[float, str]] = deque(maxlen=_LINES)
        self._details = Details(verbose=False)
        self._looked, self._received, self._ended = monotonic(), 0, 0
        self._pace: dict[str, tuple[float, int]] = {}  # path → rate and held bytes at the last tick
        self.number = 0
        self.free: int | None = None
        self.min_free = 0

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        often = self.handlers.get(type(event))
        if often is not None:
            often(self, event)
            return
        if isinstance(event, events.Repeating):
            for outcome in event.outcomes:
                self._repeated(outcome)
        else:
            self._hosts.observe(event, self._wall())
        if not isinstance(event, events.PageOpened):
            self._logged(event)

    def _logged(self, event: events.Event) -> None:
        if (line := self._details.line(event)) is not None:
            self._log.append((self._wall(), _cut(line)))

    def _wrote(self, event: events.Wrote) -> None:
        self._hosts.wrote(event)

    def _opened(self, event: events.Opened) -> None:
        self._hosts.opened(event)

    def _closed(self, event: events.Closed) -> None:
        self._hosts.closed(event)

    def _finished(self, event: events.Finished) -> None:
        outcome = event.outcome
        self._hosts.finished(outcome.path)
        if outcome.status is Status.FAILED and outcome.error is not None:
            self._failed(outcome.error.cause, str(outcome.error))
        self._logged(event)

    def _failed(self, cause: str, message: str) -> None:
        if cause not in self._causes and len(self._causes) >= _CAUSES:
            cause = "other"
        count, examples = self._causes.get(cause, (0, []))
        if len(examples) < _EXAMPLES:
            examples.append(_cut(message))
        self._causes[cause] = count + 1, examples

    def _repeated(self, outcome: Outcome) -> None:
        """Take back a failure: the file is fetched again."""
        cause = outcome.error.cause if outcome.error is not None else ""
        cause = cause if cause in self._causes else "other"
        count, examples = self._causes.get(cause, (0, []))
        if count > 1:
            self._causes[cause] = count - 1, examples
        else:
            self._causes.pop(cause, None)

    def tick(self) -> None:
        """Take a sample. This has to be called every `period` seconds."""
        now, board = self._clock(), self._board
        seconds, self._looked = now - self._looked, now
        if seconds <= 0:
            return
        rate, ended = (board.received - self._received) / seconds, board.finished - self._ended
        self._received, self._ended = board.received, board.finished
        self._history.add(Sample(self._wall(), rate, board.connections, ended / seconds))
        self._hosts.tick(self._wall(), seconds)
        shown = board.slowest(_FILES)
        before, self._pace = self._pace, {}
        for line in shown:
            rate_before, held = before.get(line.path, (0.0, line.held))
            latest = max(0, line.held - held) / seconds
            self._pace[line.path] = rate_before + 0.3 * (latest - rate_before), line.held
        self.number += 1

    # ---- the document

    def document(self, since: int = -1) -> dict[str, Any]:
        """Return what the page shows.

        Args:
            since: The `number` of the document that the client has, whose samples are left out; -1 for none.
        """
        board = self._board
        rate = board.rate()
        view = self._outlook(rate)
        return {
            "run": self._run,
            "number": self.number,
            "folder": _cut(self._folder),
            "state": self._standing(),
            "status": board.snapshot(),
            "outlook": {"level": view.level, "text": view.text + self._limited(), "ends": view.ends},
            "wrong": self._wrong(),
            "disk": {"free": self.free, "min_free": self.min_free},
            "hosts": self._hosts.rows(_HOSTS),
            "hosts_total": len(self._hosts),
            "files": self._files(),
            "files_open": len(board.files),
            "failures": [
                {"cause": cause, "count": count, "examples": examples}
                for cause, (count, examples) in sorted(self._causes.items(), key=lambda each: -each[1][0])
            ],
            "log": [[round(when, 1), line] for when, line in self._log],
            "recent": self._history.recent(self.number - since if since >= 0 else 1 << 30),
            **({"whole": self._history.whole()} if since < 0 or self.number % 60 == 0 else {}),
            "summary": _summary(board.report),
        }

    def _standing(self) -> str:
        """Return the state of the run in one word."""
        board = self._board
        if board.report is not None:
            return "stopped" if board.report.stopped else "ended"
        if board.stopping:
            return "stopping"
        return "paused" if board.steered is not None and board.steered.paused else "running"

    def _outlook(self, rate: float) -> Outlook:
        board = self._board
        if board.report is not None:
            good = board.report.ok
            return Outlook("good" if good else "bad", "Every file is here." if good else "It has ended.")
        if self._standing() == "paused":
            return Outlook("unknown", "Paused. What is held is kept.")
        if not board.rows_final:
            return Outlook("unknown", "The list is still being read.")
        left = None if board.total is None else max(0, board.total - board.done)
        free = None if self.free is None else self.free - self.min_free
        files = board.rows - board.finished
        return outlook(Pace(self._wall(), left, board.exact, rate, files, board.expires, free))

    def _limited(self) -> str:
        """Return what limits the run as a further sentence, empty if that is not known."""
        found = self._board.bottleneck()
        return f" {found.text[:1].upper()}{found.text[1:]}." if found is not None else ""

    def _wrong(self) -> list[str]:
        """Return what is wrong now, in sentences."""
        board, said = self._board, []
        if board.stopping and board.report is None:
            said.append(f"stopping ({board.stopping}); what is held is being saved")
        if board.steered is not None and board.steered.hosts:
            said.append(f"paused by command: {', '.join(board.steered.hosts)}")
        if failed := board.counts[Status.FAILED]:
            said.append(f"{formatting.count(failed, 'file')} failed")
        if parked := board.counts[Status.PARKED]:
            said.append(f"{formatting.count(parked, 'file')} parked: the links are dead")
        if board.last_trouble and board.report is None:
            said.append(f"last: {_cut(board.last_trouble)}")
        return said

    def _files(self) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {
                "path": _cut(line.path),
                "length": line.length,
                "held": line.held,
                "connections": line.connections,
                "seconds": round(now - line.since, 1),
                "rate": round(self._pace.get(line.path, (0.0, 0))[0]),
            }
            for line in self._board.slowest(_FILES)
        ]


PageState.handlers = {
    events.Wrote: PageState._wrote,
    events.Opened: PageState._opened,
    events.Closed: PageState._closed,
    events.Finished: PageState._finished,
}


def _summary(report: Report | None) -> list[str]:
    """Return the result of a run that has ended, in lines."""
    if report is None:
        return []
    notes = [_cut(note) for note in report.notes[:20]]
    return [formatting.summary(report), *(_cut(line) for line in formatting.advice(report)[:50]), *notes]


def _cut(text: str) -> str:
    """Return text of others without control characters, and not too long."""
    safe = printable(text)
    return safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST // 2]}…{safe[-_LONGEST // 2 :]}"
