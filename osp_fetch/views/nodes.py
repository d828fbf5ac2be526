"""What each node of a cluster does in a run, added up from events."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import Any, Final

from ..model import events
from ..model.dataclasses import dataclass
from ..model.report import Status
from ..model.text import printable
from . import formatting
from .totals import OTHER, Named

_GONE_KEPT: Final = 100  # nodes that have left and are still listed


@dataclass(slots=True)
class NodeLine:
    """A node of a cluster.

    Attributes:
        name: the machine.
        workers: worker processes on it that get files.
        files: files in progress.
        connections: open connections.
        received: bytes that it has received in this run.
        fetched: files that it has fetched.
        rate: mean bytes per second over the window of `Nodes.sample`.
        left: why its last worker has left; empty while it takes part.
    """

    name: str
    workers: int = 0
    files: int = 0
    connections: int = 0
    received: int = 0
    fetched: int = 0
    rate: float = 0.0
    left: str = ""
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def row(self) -> dict[str, Any]:
        """Return the node as a JSON-serializable dict."""
        return {
            "node": printable(self.name),
            "workers": self.workers,
            "files": self.files,
            "connections": self.connections,
            "bytes_received": self.received,
            "bytes_per_second": round(self.rate),
            "fetched": self.fetched,
            "left": printable(self.left) or None,
        }


class Nodes:
    """The nodes of a run, by name.

    Attributes:
        any: Whether there has been one. Other runs skip what they do for each event.
    """

    any = False

    def __init__(self) -> None:
        self._lines: dict[str, NodeLine] = {}
        self._forgotten = 0  # bytes of nodes that are not listed any more
        self._of: dict[str, NodeLine] = {}  # path of a file in progress → the node that fetches it

    def __len__(self) -> int:
        return len(self._lines)

    def lines(self) -> list[NodeLine]:
        """Return the nodes: those that take part, the fastest first, then those that have left."""
        return sorted(self._lines.values(), key=lambda line: (bool(line.left), -line.rate, line.name))

    def received(self) -> dict[str, float]:
        """Return node → bytes that it has received; those beyond the first fifty are added up."""
        sums = Named()
        for line in sorted(self._lines.values(), key=lambda line: -line.received):
            sums.add(line.name, line.received)
        if self._forgotten:
            sums.add(OTHER, self._forgotten)
        return sums

    def observe(self, event: events.NodeJoined | events.NodeLeft | events.FileAssigned) -> None:
        """Add an event about nodes."""
        self.any = True
        match event:
            case events.NodeJoined(name):
                line = self._lines.setdefault(name, NodeLine(name))
                line.workers, line.left = line.workers + 1, ""
            case events.NodeLeft(name, why):
                self._left(name, why)
            case events.FileAssigned(path, name):
                self._release(path)
                line = self._of[path] = self._lines.setdefault(name, NodeLine(name))
                line.files += 1

    def _left(self, name: str, why: str) -> None:
        line = self._lines.setdefault(name, NodeLine(name))
        line.workers = max(0, line.workers - 1)
        if not line.workers:
            line.left = why
            gone = [each for each in self._lines.values() if each.left]
            if len(gone) > _GONE_KEPT:
                self._forgotten += gone[0].received
                del self._lines[gone[0].name]

    def _release(self, path: str) -> NodeLine | None:
        line = self._of.pop(path, None)
        if line is not None:
            line.files -= 1
        return line

    def wrote(self, event: events.Wrote) -> None:
        """Count received bytes."""
        if (line := self._line(event)) is not None:
            line.received += event.count

    def opened(self, event: events.Opened | events.Closed, change: int) -> None:
        """Count a connection that was opened (1) or closed (-1)."""
        if (line := self._line(event)) is not None:
            line.connections += change

    def _line(self, event: events.Opened | events.Closed | events.Wrote) -> NodeLine | None:
        """Return the node that did what an event about a file says."""
        return self._lines.get(event.node) if event.node else self._of.get(event.path)

    def finished(self, event: events.Finished) -> None:
        """Count a file that has ended."""
        line = self._release(event.outcome.path)
        if line is not None and event.outcome.status is Status.FETCHED:
            line.fetched += 1

    def sample(self, now: float, window: float) -> None:
        """Update the rates.

        Args:
            now: Seconds of a monotonic clock.
            window: Seconds over which the rates are averaged.
        """
        for line in self._lines.values():
            samples = line._samples
            samples.append((now, line.received))
            while len(samples) > 2 and now - samples[1][0] > window:
                samples.popleft()
            then, before = samples[0]
            line.rate = (line.received - before) / (now - then) if now > then else 0.0


def node_lines(rows: list[dict[str, Any]], most: int) -> list[str]:
    """Return the nodes of a run in lines of text.

    Args:
        rows: `NodeLine.row` of each, in the order in which they are shown.
        most: Largest number of lines; what does not fit is added up.
    """
    shown = rows if len(rows) <= most else rows[: most - 1]
    lines = [_text(row) for row in shown]
    if rest := rows[len(shown) :]:
        rate = sum(row["bytes_per_second"] for row in rest)
        lines.append(f"{formatting.count(len(rest), 'other node')}: {formatting.size(rate)}/s")
    return lines


def _text(row: dict[str, Any]) -> str:
    got = f"{formatting.count(row['fetched'], 'file')} fetched, {formatting.size(row['bytes_received'])}"
    if row["left"] is not None:
        return f"{row['node']}: has left ({row['left']}); {got}"
    return (
        f"{row['node']}: {formatting.size(row['bytes_per_second'])}/s, "
        f"{formatting.count(row['connections'], 'connection')}, {row['files']:,} in progress; {got}"
    )
