"""Progress in a notebook: one display of a cell, updated while the run goes on."""

from __future__ import annotations

import sys
from typing import Any, Final

from ..model import events
from ..model.html import Html, tag
from ..model.text import printable
from . import formatting
from .board import Board
from .file_line import FileLine
from .screen import Live, Plain, counts_of, headline, percent, screen_of, total, troubles

_FILES: Final = 5  # files in progress that are shown
_NAME: Final = 60  # characters of a file's name that are shown
_WIDTH: Final = "width: 30em; max-width: 80%"


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook. IPython is not imported for it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def progress_view(board: Board, wanted: bool | None, *, is_observed: bool) -> Notebook | Live | Plain | None:
    """Return the view of a run that a program has begun, None for none.

    Args:
        board: The state to show.
        wanted: The option `progress`; None if it was not given.
        is_observed: Whether the program has an observer of its own.
    """
    if wanted is None:
        wanted = is_notebook() and not is_observed
    if not wanted:
        return None
    return Notebook(board) if is_notebook() else screen_of(board)


class Notebook:
    """Progress as one display: a bar in HTML, and the same as plain text for front ends without HTML.

    A display that fails ends the view, and does not affect the run.

    Args:
        board: The state to show.

    Attributes:
        period: Seconds between two calls of `tick`. Each update is sent to the browser, and kept by it.
        closed: Whether the view has ended.
    """

    period = 0.5
    closed = False

    def __init__(self, board: Board) -> None:
        self._board = board
        self._handle: Any = None

    def __call__(self, event: events.Event) -> None:
        """Begin the display when the run has begun: a run that cannot begin shows its error alone."""
        if isinstance(event, events.RunStarted) and self._handle is None:
            from IPython.display import display

            self._handle = display(self._shown(), display_id=True)

    def tick(self) -> None:
        """Update the display, until the run has ended: its result is shown once, by `close`."""
        if self._board.report is None:
            self._update()

    def _update(self) -> None:
        if self._handle is None or self.closed:
            return
        try:
            self._handle.update(self._shown())
        except Exception:  # the front end is gone
            self.closed = True

    def _shown(self) -> Shown:
        return Shown(text(self._board), markup(self._board))

    def close(self) -> None:
        """Show the result, and end the view."""
        self._update()
        self.closed = True


class Shown:
    """What a front end shows: its HTML, or its text.

    Args:
        text: The text.
        markup: The HTML.
    """

    def __init__(self, text: str, markup: Html) -> None:
        self._text, self._markup = text, markup

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._markup


def text(board: Board) -> str:
    """Return the state of a run in one line."""
    return printable(headline(board) if board.report is None else formatting.summary(board.report))


def markup(board: Board) -> Html:
    """Return the state of a run: a bar, the counts, the files in progress, and what is wrong."""
    statements, share = total(board)
    if board.report is not None:
        # a cancelled run has no failures either, but rows that have not ended
        is_whole = board.report.ok and board.rows_final and board.finished == board.rows
        share = 1.0 if is_whole else share
        return tag("div", _bar(share, percent(share)), _line(formatting.summary(board.report)))
    is_known = board.rows_final and bool(board.total)
    if is_known:
        bar, statements = _bar(share, statements[0]), statements[1:]
    else:
        bar = tag("progress", style=_WIDTH)
    return tag(
        "div",
        bar,
        _line(" · ".join(statements)),
        _line(" · ".join(counts_of(board))),
        map(_file, board.slowest(_FILES)),
        (tag("div", tag("b", line)) for line, _ in troubles(board)),
    )


def _line(said: str) -> Html:
    return tag("div", said)


def _bar(share: float, said: str) -> Html:
    """Return a bar and its percentage in words."""
    return tag("div", tag("progress", said, value=f"{share:.4f}", max=1, style=_WIDTH), " ", tag("b", said))


def _file(line: FileLine) -> Html:
    """Return a file in progress in one line."""
    name = printable(line.path)
    name = name if len(name) <= _NAME else "…" + name[1 - _NAME :]
    held = formatting.size(line.held)
    of = f"{held} of {formatting.size(line.length)}" if line.length else held
    return _line(f"{name}: {of}")
