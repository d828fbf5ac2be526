"""Progress display: a live panel on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TextIO

from ..model import events
from ..model.report import Status
from . import formatting
from .board import Board, FileLine

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

# Files that the panel shows. `rich.Progress` with hundreds of bars starves the event loop.
_FILES: Final = 8
# Failures with one cause that get a line each.
_FAILURES: Final = 5


class Plain:
    """Progress as lines of text, for logs and pipes.

    Args:
        board: The state to show.
        out: Where to print; stderr by default.
        verbose: Whether to print a line for every file.

    Attributes:
        period: Seconds between two calls of `tick`.
        closed: Whether the view has ended.
    """

    period = 30.0
    closed = False

    def __init__(self, board: Board, out: TextIO | None = None, *, verbose: bool = False) -> None:
        self._board, self._out = board, out or sys.stderr
        self._details = Details(verbose=verbose)

    def __call__(self, event: events.Event) -> None:
        """Print the event if it is worth a line."""
        if (line := self._details.line(event)) is not None:
            self.say(line)

    def say(self, text: str) -> None:
        """Print a line. May be called from any thread."""
        print(text, file=self._out, flush=True)

    def tick(self) -> None:
        """Print the state of the run."""
        self.say(headline(self._board))

    def close(self) -> None:
        """End the view."""
        self.closed = True


def headline(board: Board) -> str:
    """Return the state of a run in one line."""
    rate = board.rate()
    rows = f"/{board.rows}" if board.rows_final else f" of {board.rows} so far"
    parts = [board.standing] * bool(board.standing)
    parts += [
        f"{board.finished}{rows} files",
        amount(board),
        f"{formatting.size(rate)}/s",
        f"{board.connections} connection{'s' * (board.connections != 1)}",
    ]
    if (eta := board.eta(rate)) is not None:
        parts.append(f"{'' if board.exact else 'about '}{formatting.duration(eta)} left")
    if board.counts[Status.FAILED] or board.counts[Status.PARKED]:
        parts.append(f"{board.counts[Status.FAILED]} failed, {board.counts[Status.PARKED]} parked")
    if board.retries:
        parts.append("retries: " + ", ".join(f"{cause} {n}" for cause, n in board.retries.most_common(4)))
    if board.expires is not None:
        parts.append(formatting.expiry(board.expires, board.wall()))
    return "; ".join(parts)


def amount(board: Board) -> str:
    """Return the progress in bytes, such as `1.0 GiB of 3.0 GiB`.

    An estimated total is marked with `about`; an unknown total is omitted.
    """
    if board.total is None:
        return formatting.size(board.done)
    return f"{formatting.size(board.done)} of {'' if board.exact else 'about '}{formatting.size(board.total)}"


class Details:
    """Chooses the events of a run that are worth a line.

    Of failures with one cause the first five are. A list of links over many hosts has thousands of them.

    Args:
        verbose: Whether to include events of single files and hosts.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._failures: Counter[str] = Counter()
        self._down: set[str] = set()  # hosts of which a line said that they do not answer

    def line(self, event: events.Event) -> str | None:
        """Return an event as a line of text, None if it is not worth a line."""
        line = detail(event, verbose=self._verbose)
        match event:
            case events.HostDown(host) if line is not None:
                self._down.add(host)
            case events.HostBack(host):
                if host not in self._down:
                    return None
                self._down.discard(host)
            case events.Finished(outcome) if outcome.error is not None and not self._verbose:
                return self._failed(outcome.error.cause, line)
        return line

    def _failed(self, cause: str, line: str | None) -> str | None:
        self._failures[cause] += line is not None
        if line is None or self._failures[cause] <= _FAILURES:
            return line
        if self._failures[cause] > _FAILURES + 1:
            return None
        return f"further files failed with this cause ({cause}); the summary counts them, --failed lists them"


def detail(event: events.Event, *, verbose: bool) -> str | None:
    """Return an event as a line of text, None if it is not worth a line.

    Args:
        event: The event.
        verbose: Whether to include events of single files and hosts.
    """
    match event:
        case events.Stopping(why):
            return f"stopping: {why}"
        case events.Repeating(outcomes):
            return f"fetched again: {formatting.count(len(outcomes), 'failed file')}"
        case events.PageOpened(url):
            return f"page: {url}"
        case events.Steered(what):
            return f"by command: {what}"
        case events.LinksRenewed(files):
            return f"fresh links found: {files} files continue"
        case events.LinksCommandFailed(why):
            return why
        case events.FolderWaiting(why):
            return f"waiting: {why}"
        case events.DiskWaiting(why):
            return f"waiting for disk space: {why}"
        case events.HostDown() if event.heard or verbose:
            return formatting.host_down(event)
        case events.HostBack(host):
            return f"{host} answers again"
        case events.LimitChanged(host, connections, why) if verbose:
            return f"{host}: limit is now {connections} connections: {why}"
        case events.MirrorDropped(path, host):
            return f"{path}: the data from {host} does not match the digest; other mirrors are used"
        case events.Finished(outcome) if outcome.status is Status.FAILED:
            return f"failed: {outcome.error}"
        case events.FileBegun(path, length, _, held) if verbose:
            size = formatting.size(length) if length is not None else "unknown size"
            return f"started: {path} ({size}{f', {formatting.size(held)} held' if held else ''})"
        case events.Retrying(_, _, delay, message) if verbose:
            return f"retrying in {delay:.1f} s: {message}"
        case events.Finished(outcome) if verbose:
            return f"{outcome.status.value}: {outcome.error or outcome.path}"
        case _:
            return None


class Live:
    """Progress as a panel of about a dozen lines on a terminal, redrawn four times a second.

    Args:
        board: The state to show.
        verbose: Whether to print a line for every file above the panel.

    Attributes:
        period: Seconds between two calls of `tick`. At 4 Hz, drawing takes 2 % of a core.
        closed: Whether the view has ended.
    """

    period = 0.25
    closed = False

    def __init__(self, board: Board, *, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._board, self._details = board, Details(verbose=verbose)
        console = Console(stderr=True)
        self._live = RichLive(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def __call__(self, event: events.Event) -> None:
        """Print the event above the panel if it is worth a line."""
        if (line := self._details.line(event)) is not None:
            style = "red" if line.startswith("failed") else "dim"
            self._live.console.print(line, markup=False, highlight=False, style=style)

    def say(self, text: str) -> None:
        """Print a line above the panel. May be called from any thread."""
        self._live.console.print(text, markup=False, highlight=False)

    def tick(self) -> None:
        """Redraw the panel."""
        self._live.update(panel(self._board), refresh=True)

    def close(self) -> None:
        """Remove the panel and end the view."""
        self.closed = True
        self._live.stop()


def panel(board: Board) -> Group:
    """Return the panel: the total, the counts, the slowest files in progress, and the last trouble."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    rate = board.rate()
    total = Table.grid(padding=(0, 1))
    whole = board.total if board.rows_final else None
    share = min(board.done / whole, 1.0) if whole else 0.0
    eta = board.eta(rate)
    total.add_row(
        ProgressBar(total=1.0, completed=share, width=30),
        Text(f"{'' if board.exact else '~'}{share:.0%}" if whole else "", style="bold"),
        amount(board),
        Text(f"{formatting.size(rate)}/s", style="bold green"),
        f"{'' if board.exact else 'about '}{formatting.duration(eta)} left" if eta is not None else "",
    )
    files = Table.grid(padding=(0, 1))
    for line in board.slowest(_FILES):
        files.add_row(*_cells(line))
    return Group(total, Text(_counts(board), style="dim"), files, *_trouble(board))


def _counts(board: Board) -> str:
    total = f"of {board.rows}" if board.rows_final else f"of {board.rows} read so far"
    parts = [f"files: {board.finished} {total}"]
    parts += [f"{n} {status.value}" for status, n in board.counts.items() if n]
    parts.append(f"{board.connections} connections")
    if board.levels:
        host, (most, why) = list(board.levels.items())[-1]
        parts.append(f"{most} to {host.rpartition(':')[0]} ({why})")
    if board.retries:
        parts.append("retries: " + ", ".join(f"{n} {cause}" for cause, n in board.retries.most_common(3)))
    return " · ".join(parts)


def _trouble(board: Board) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    if board.expires is not None:
        left = board.expires - time.time()
        style = "dim" if left > 86400 else "yellow"
        lines.append(
            Text(
                formatting.expiry(board.expires, board.wall()),
                style=style,
                no_wrap=True,
                overflow="ellipsis",
            )
        )
    if board.last_trouble:
        lines.append(Text(f"last: {board.last_trouble}", style="yellow", no_wrap=True, overflow="ellipsis"))
    if board.standing:
        lines.append(Text(board.standing, style="bold yellow", no_wrap=True, overflow="ellipsis"))
    if board.stopping:
        lines.append(Text(f"stopping: {board.stopping}; saving what is held", style="bold yellow"))
    return lines


def _cells(line: FileLine) -> tuple[RenderableType, ...]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    share = line.held / line.length if line.length else 0.0
    name = line.path if len(line.path) <= 40 else "…" + line.path[-39:]
    return (
        Text(name, no_wrap=True),
        ProgressBar(total=1.0, completed=min(share, 1.0), width=16),
        Text(
            f"{formatting.size(line.held)} of {formatting.size(line.length)}"
            if line.length
            else formatting.size(line.held)
        ),
        Text(f"×{line.connections}", style="dim"),
    )
