"""The hosts of a run, as the page lists them: connections, rates, limits and troubles, in bounded memory."""

from __future__ import annotations

from typing import Any, Final

from ...model import events
from ...model.dataclasses import dataclass

# Hosts that are remembered; of more, those that were idle for longest are forgotten.
_KEPT: Final = 2000
# Weight of the newest second in the moving average of a rate.
_MEMORY: Final = 0.3


@dataclass(slots=True)
class HostLine:
    """One host.

    Attributes:
        host: `host:port`.
        open: Open connections.
        bytes: Bytes that it gave in this run.
        rate: Bytes per second, a moving average.
        limit: Largest number of connections, None while nothing was measured.
        why: Why the limit was changed last.
        changed: When that was, in Unix seconds.
        trouble: What is wrong with it, empty if nothing is.
    """

    host: str
    open: int = 0
    bytes: int = 0
    rate: float = 0.0
    limit: int | None = None
    why: str = ""
    changed: float = 0.0
    trouble: str = ""
    until: float = 0.0  # when the trouble is over by itself
    before: int = 0  # bytes at the last tick

    def row(self) -> dict[str, Any]:
        """Return the host as JSON-serializable values."""
        return {
            "host": self.host,
            "open": self.open,
            "bytes": self.bytes,
            "rate": round(self.rate),
            "limit": self.limit,
            "why": self.why,
            "changed": round(self.changed, 1),
            "trouble": self.trouble,
        }


class HostTable:
    """The hosts of a run: an observer of its events.

    An event of written bytes states the file and not the host. The bytes count for the host whose connection
    for this file was opened last; with several mirrors at a time, the division among them is approximate.
    """

    def __init__(self) -> None:
        self._lines: dict[str, HostLine] = {}  # the one that was used last at the end
        self._of_file: dict[str, HostLine] = {}  # path → host of its last connection

    def __len__(self) -> int:
        return len(self._lines)

    def opened(self, event: events.Opened) -> None:
        """Count a connection that begins."""
        line = self._line(event.host)
        line.open += 1
        self._of_file[event.path] = line
        if len(self._lines) > 1:
            del self._lines[event.host]
            self._lines[event.host] = line

    def closed(self, event: events.Closed) -> None:
        """Count a connection that ends."""
        self._line(event.host).open -= 1

    def wrote(self, event: events.Wrote) -> None:
        """Count bytes of a file."""
        if (line := self._of_file.get(event.path)) is not None:
            line.bytes += event.count

    def finished(self, path: str) -> None:
        """Forget a file that has ended."""
        self._of_file.pop(path, None)

    def observe(self, event: events.Event, now: float) -> None:
        """Note what an event says of a host.

        Args:
            event: Any event.
            now: Current time in Unix seconds.
        """
        match event:
            case events.LimitChanged(host, connections, why):
                line = self._line(host)
                line.limit, line.why, line.changed = connections, why, now
            case events.Cooling(host, seconds, why):
                line = self._line(host)
                line.trouble, line.until = f"asked for a pause: {why}", now + seconds
            case events.HostDown(host, _, why):
                line = self._line(host)
                line.trouble, line.until = "does not answer" + (f": {why}" if why else ""), 0.0
            case events.HostBack(host):
                self._line(host).trouble = ""

    def tick(self, now: float, seconds: float) -> None:
        """Update the rates.

        Args:
            now: Current time in Unix seconds.
            seconds: Seconds since the last call.
        """
        for line in self._lines.values():
            if line.bytes != line.before or line.rate:
                latest = (line.bytes - line.before) / seconds if seconds > 0 else 0.0
                line.rate += _MEMORY * (latest - line.rate)
                line.before = line.bytes
                if line.rate < 1:
                    line.rate = 0.0
            if line.until and now > line.until:
                line.trouble, line.until = "", 0.0

    def rows(self, most: int) -> list[dict[str, Any]]:
        """Return the hosts: those in trouble first, then by rate; at most `most`."""
        ordered = sorted(self._lines.values(), key=lambda line: (not line.trouble, -line.rate, -line.bytes))
        return [line.row() for line in ordered[:most]]

    def _line(self, host: str) -> HostLine:
        line = self._lines.get(host)
        if line is None:
            line = self._lines[host] = HostLine(host)
            if len(self._lines) > _KEPT:
                self._forget_one()
        return line

    def _forget_one(self) -> None:
        idle = next((name for name, line in self._lines.items() if line.open <= 0), None)
        if idle is not None:
            del self._lines[idle]
