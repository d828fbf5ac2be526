"""Progress display: a live panel on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TextIO

from ..model import events, urls
from ..model.report import Status
from ..model.text import printable
from . import formatting
from .board import Board
from .file_line import FileLine
from .nodes import node_lines

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

# Files that the panel shows at most, and at least. `rich.Progress` with hundreds of bars starves the loop.
_FILES, _FEWEST = 16, 3
# Events that are never worth a line, and those that are only with details of each file.
_NEVER: Final = frozenset(
    {events.Opened, events.Wrote, events.Closed, events.Waited, events.RowsRead, events.Progress}
)
_DETAILS: Final = frozenset({events.FileBegun, events.Retrying, events.LimitChanged})
# Lines that one statement about a trouble may take.
_LINES: Final = 2
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
        self.passes_over = self._details.passes_over

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
    parts = [board.standing] * bool(board.standing)
    parts += [files_of(board), amount(board), f"{formatting.size(rate)}/s"]
    parts += [stall(board) or connections(board)]
    parts += [found.text] if (found := board.bottleneck()) is not None else []
    if (eta := board.eta(rate)) is not None:
        parts.append(f"{'' if board.exact else 'about '}{formatting.duration(eta)} left")
    if board.counts[Status.FAILED] or board.counts[Status.PARKED]:
        parts.append(f"{board.counts[Status.FAILED]} failed, {board.counts[Status.PARKED]} parked")
    if board.retries:
        parts.append("retries: " + ", ".join(f"{cause} {n}" for cause, n in board.retries.most_common(4)))
    if board.expires is not None:
        parts.append(formatting.expiry(board.expires, board.wall()))
    return "; ".join(parts)


def files_of(board: Board) -> str:
    """Return how many files have ended, such as `5 of 40 files`."""
    files = f"{board.finished:,} of {formatting.count(board.all_rows, 'file')}"
    return files if board.is_counted else f"{files} read so far"


def connections(board: Board) -> str:
    """Return how many connections are open, and how many the busiest host may have."""
    if not board.at_hosts:
        return formatting.count(board.connections, "connection")
    ((host, used),) = board.at_hosts.most_common(1)
    name, others = urls.name_of(host), len(board.at_hosts) - 1
    if host not in board.levels:
        to = name if not others else formatting.count(others + 1, "host")
        return f"{formatting.count(board.connections, 'connection')} to {to}"
    most, why = board.levels[host]
    more = f", {board.connections - used} to {formatting.count(others, 'other host')}" if others else ""
    return f"{used} of {most} connections to {name} used ({why}){more}"


def stall(board: Board) -> str:
    """Return that no bytes come, and from where; empty while some do."""
    if not (seconds := board.stalled):
        return ""
    ((host, _),) = board.at_hosts.most_common(1)
    others = len(board.at_hosts) - 1
    more = f" and {formatting.count(others, 'other host')}" if others else ""
    ends = f" (gives up at {formatting.duration(board.patience)})" if seconds < board.patience else ""
    name = urls.name_of(host)
    return f"stalled: no bytes from {name}{more} for {formatting.duration(seconds)}{ends}"


def amount(board: Board) -> str:
    """Return the progress in bytes, such as `1.0 GiB of 3.0 GiB`.

    An estimated total is marked with `about`; an unknown total is omitted.
    """
    if board.total is None or not (board.total or board.is_counted):
        return formatting.size(board.done)
    return f"{formatting.size(board.done)} of {'' if board.exact else 'about '}{formatting.size(board.total)}"


class Details:
    """Chooses the events of a run that are worth a line.

    Of failures with one cause the first five are. A list of links over many hosts has thousands of them.

    Args:
        verbose: Whether to include events of single files and hosts.

    Attributes:
        passes_over: Types of events that are never worth a line.
    """

    def __init__(self, *, verbose: bool) -> None:
        self.passes_over = _NEVER if verbose else _NEVER | _DETAILS
        self._verbose = verbose
        self._failures: Counter[str] = Counter()
        self._down: set[str] = set()  # hosts of which a line said that they do not answer

    def line(self, event: events.Event) -> str | None:
        """Return an event as a line of text, None if it is not worth a line."""
        if isinstance(event, events.Finished) and event.outcome.error is None and not self._verbose:
            return None  # there is one for each file, and `detail` tries one pattern after another
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
        if cause == "manifest":
            return "further rows of the list are not valid; the summary counts them"
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
        case events.LinksRenewed(files, expires):
            return formatting.links_renewed(files, expires)
        case events.LinksCommandFailed(why):
            return why
        case events.FolderWaiting(why):
            return f"waiting: {why}"
        case events.DiskWaiting(why):
            return f"waiting for disk space: {why}"
        case events.LedgerReplaced(why, kept):
            return formatting.ledger_replaced(why, kept)
        case events.HostDown() if event.heard or verbose:
            return formatting.host_down(event)
        case events.HostBack(host):
            return f"{host} answers again"
        case events.NodeJoined(node, nodes):
            return f"{node} has joined: {nodes} node{'s' * (nodes != 1)}"
        case events.DestinationFound(kind, place):
            return formatting.destination(kind, place)
        case events.NodeLeft(node, why, nodes):
            left = f"{node} has left ({why})"
            if not nodes:
                return f"{left}: no node is left, and the run waits until one joins"
            return f"{left}: {nodes} node{'s' * (nodes != 1)}"
        case events.MirrorDropped(path, host):
            return f"{path}: the data from {host} does not match the digest; other mirrors are used"
        case events.Finished(outcome) if outcome.status is Status.FAILED:
            return f"failed: {outcome.error}"
        case _:
            return _further_detail(event) if verbose else None


def _further_detail(event: events.Event) -> str | None:
    """Return an event of a single file or host as a line of text, None if it is another event."""
    match event:
        case events.LimitChanged(host, connections, why):
            reason = formatting.limit_reason(why, connections)
            return f"{host}: limit is now {formatting.count(connections, 'connection')}: {reason}"
        case events.FileBegun(path, length, _, held):
            size = formatting.size(length) if length is not None else "unknown size"
            return f"started: {path} ({size}{f', {formatting.size(held)} held' if held else ''})"
        case events.Retrying(_, _, delay, message):
            return f"retrying in {delay:.1f} s: {message}"
        case events.Finished(outcome):
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
        self.passes_over = self._details.passes_over
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
        width, height = self._live.console.size
        self._live.update(panel(self._board, width, height), refresh=True)

    def close(self) -> None:
        """Remove the panel and end the view."""
        self.closed = True
        self._live.stop()


def screen_of(board: Board, *, verbose: bool = False) -> Live | Plain:
    """Return a live panel if stderr is a terminal that can show one, else lines of text."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
    return Live(board, verbose=verbose) if terminal else Plain(board, verbose=verbose)


def panel(board: Board, width: int = 100, height: int = 24) -> Group:
    """Return the panel: the total, the counts, the slowest files in progress, and what is wrong.

    Args:
        board: The state to show.
        width: Columns of the terminal. Lines fit into them, and are broken between two statements only.
        height: Rows of the terminal, which decide how many files are shown.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts, share = total(board)
    counts = [Text(line, style="dim", no_wrap=True) for line in _wrapped(counts_of(board), width)]
    trouble = [
        Text(line, style=style, no_wrap=True, overflow="ellipsis")
        for text, style in troubles(board)
        for line in formatting.folded(printable(text), width, most=_LINES)
    ]
    files = Table.grid(padding=(0, 1))
    nodes = [Text(line, no_wrap=True, overflow="ellipsis") for line in _nodes(board, height)]
    most = max(_FEWEST, min(_FILES, height - len(counts) - len(nodes) - len(trouble) - 3))
    bar = 16 if width >= 100 else 8
    lines = board.slowest(most)
    name = max(12, width - bar - 30)  # "1023.9 MiB of 1023.9 GiB", "×128", and blanks between the columns
    for line in lines:
        files.add_row(*_cells(line, name, bar))
    return Group(_first_line(parts, share, width), *counts, *nodes, files, *trouble)


def _nodes(board: Board, height: int) -> list[str]:
    """Return the nodes of a cluster that take part, in at most a third of the terminal's rows."""
    rows = [line.row() for line in board.nodes.lines() if not line.left]
    return node_lines(rows, max(_FEWEST, height // 3))


def total(board: Board) -> tuple[list[str], float]:
    """Return the statements of the first line, and the share that its bar shows.

    100 % is shown only once the run has ended: before that, a file may still be hashed or refused.
    """
    rate = board.rate()
    whole = board.total if board.is_counted else None
    most = 1.0 if board.report is not None else 0.99
    share = min(board.done / whole, most) if whole else 0.0
    eta = board.eta(rate)
    parts = [f"{'' if board.exact else '~'}{percent(share)}"] if whole else []
    parts += [amount(board), f"{formatting.size(rate)}/s"]
    if eta is not None:
        parts.append(f"{'' if board.exact else 'about '}{formatting.duration(eta)} left")
    return parts, share


def percent(share: float) -> str:
    """Return a share as whole percent, rounded down: `99%` of a run is not `100%` of it."""
    return f"{math.floor(share * 100 + 1e-9)}%"


def _first_line(parts: list[str], share: float, width: int) -> RenderableType:
    """Return the first line: a bar in the space that the statements leave, and the statements."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = width - sum(len(part) + 1 for part in parts)
    total = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [ProgressBar(total=1.0, completed=share, width=min(60, left - 1))]
    for part in parts:
        style = "bold green" if part.endswith("/s") else "bold" if part.endswith("%") else ""
        cells.append(Text(part, style=style, no_wrap=True))
    total.add_row(*(cells if left > 8 else cells[1:]))
    return total


def _wrapped(parts: list[str], width: int) -> list[str]:
    """Return statements joined to lines of at most `width` columns, as far as each of them is shorter."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def counts_of(board: Board) -> list[str]:
    """Return the statements of the second line."""
    parts = [files_of(board)]
    if (pace := board.files_rate()) >= 1:
        parts.append(f"{pace:,.0f}/s")
    parts += [f"{n:,} {status.value}" for status, n in board.counts.items() if n]
    parts.append(connections(board))
    if board.retries:
        parts.append("retries: " + ", ".join(f"{n} {cause}" for cause, n in board.retries.most_common(3)))
    return parts


def troubles(board: Board) -> list[tuple[str, str]]:
    """Return what is wrong with a run, or unusual: sentences and their styles."""
    lines: list[tuple[str, str]] = []
    if stalled := stall(board):
        lines.append((stalled, "bold yellow"))
    if board.expires is not None:
        left = board.expires - time.time()
        lines.append((formatting.expiry(board.expires, board.wall()), "dim" if left > 86400 else "yellow"))
    if board.last_trouble:
        lines.append((f"last: {board.last_trouble}", "yellow"))
    if board.standing:
        lines.append((board.standing, "bold yellow"))
    if (found := board.bottleneck()) is not None:
        lines.append((found.text, "cyan"))
    if board.stopping:
        lines.append((f"stopping: {board.stopping}; saving what is held", "bold yellow"))
    return lines


def _cells(line: FileLine, width: int, bar: int) -> tuple[RenderableType, ...]:
    """Return the cells of a file: its name in at most `width` columns, a bar, bytes, and connections."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    share = line.held / line.length if line.length else 0.0
    path = printable(line.path)
    name = path if len(path) <= width else "…" + path[1 - width :]
    held = formatting.size(line.held)
    return (
        Text(name, no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=1.0, completed=min(share, 1.0), width=bar),
        Text(f"{held} of {formatting.size(line.length)}" if line.length else held, no_wrap=True),
        Text(f"×{line.connections}", style="dim", no_wrap=True),
    )
