"""Views that write files: the event log `events.jsonl`, and `status.json`, which `osp-fetch status` reads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..model import events
from ..model.errors import FetchError
from ..model.report import JSON_VERSION, Status
from ..storage.folder.disk import FolderIdentity, replace_text
from ..storage.folder.permissions import Permissions
from .board import Board
from .fanout import Ticking
from .rotated import RotatedFile

_encode: Final = json.JSONEncoder().encode


class EventLog:
    """Appends the notable events of a run to `events.jsonl`, one JSON object per line.

    Args:
        place: The file. It is created if absent.
        permissions: Of the file.
        most: Largest number of bytes, together with `events.jsonl.1` and so on, which have the lines before;
            0 for no bound.

    Attributes:
        period: Seconds between two calls of `tick`.

    Raises:
        OSError: The file cannot be opened.
    """

    period: Final = 1.0
    passes_over: Final = frozenset(
        {events.Wrote, events.Opened, events.Closed, events.RowsRead, events.Progress, events.Waited}
    )

    def __init__(self, place: Path, permissions: Permissions | None = None, most: int = 0) -> None:
        self._file = RotatedFile(place, most, permissions)
        self._nodes: dict[str, str] = {}  # path of a file in progress → the node that fetches it

    def __call__(self, event: events.Event) -> None:
        """Append one event. Files that were already present are not logged."""
        if isinstance(event, events.Finished) and event.outcome.status is Status.PRESENT:
            self._nodes.pop(event.outcome.path, None)
            return
        if isinstance(event, events.FileAssigned):
            self._nodes[event.path] = event.node
        elif (line := _line(event)) is not None:
            node = self._node(event) if self._nodes else ""
            self._file.write(f'{{"time": {time.time():.3f}, {line}{node}}}')

    def tick(self) -> None:
        """Let other processes see what was logged. A run that is killed loses what came after that."""
        self._file.flush()

    def _node(self, event: events.Event) -> str:
        """Return the node of an event about a file, as a further member of its line."""
        if isinstance(event, events.Finished):
            node = self._nodes.pop(event.outcome.path, None)
        else:
            node = self._nodes.get(getattr(event, "path", ""))
        return "" if node is None else f', "node": {_encode(node)}'

    def close(self) -> None:
        """Flush and close the file. Errors are ignored."""
        self._file.close()


def _line(event: events.Event) -> str | None:
    """Return the result of `described` as JSON without the outer braces."""
    if isinstance(event, events.Finished) and event.outcome.error is None:
        # There is one such event per file. Encoding a dict takes three times as long, which is 2 % of the
        # time of a small file.
        o = event.outcome
        size = "null" if o.size is None else o.size
        digest = "null" if o.digest is None else _encode(o.digest)
        return (
            f'"event": "finished", "path": {_encode(o.path)}, "status": "{o.status.value}", "size": {size}, '
            f'"digest": {digest}, "seconds": {o.seconds:.3f}, "cause": null, "error": null'
        )
    line = described(event)
    return None if line is None else _encode(line)[1:-1]


def described(event: events.Event) -> dict[str, Any] | None:
    """Return an event as a JSON-serializable dict, None if events of its type are too frequent to log."""
    return _of_file(event) or _of_host(event) or _of_run(event)


def _of_file(event: events.Event) -> dict[str, Any] | None:
    """Return an event about one file, None for any other."""
    match event:
        case events.Finished(outcome):
            return {"event": "finished", **outcome.row()}
        case events.FileBegun(path, length, _, held):
            return {"event": "file begun", "path": path, "length": length, "held": held} if held else None
        case events.Adopted(path, count, proof):
            return {"event": "adopted", "path": path, "bytes": count, "proof": proof}
        case events.SetAside(path, kept):
            return {"event": "set aside", "path": path, "kept": kept}
        case events.Decoded(path, host):
            return {"event": "decoded", "path": path, "host": host}
        case events.MirrorDropped(path, host):
            return {"event": "mirror dropped", "path": path, "host": host}
        case events.Lost(path, count):
            return {"event": "lost", "path": path, "bytes": count}
        case events.Retrying(path, cause, delay, message):
            return {
                "event": "retrying",
                "path": path,
                "cause": cause,
                "delay": round(delay, 2),
                "why": message,
            }
        case _:
            return None


def _of_host(event: events.Event) -> dict[str, Any] | None:
    """Return an event about one host or node, None for any other."""
    match event:
        case events.WidthLearned(host, width):
            return {"event": "width learned", "host": host, "bytes": width}
        case events.Cooling(host, seconds, why):
            return {"event": "cooling", "host": host, "seconds": seconds, "why": why}
        case events.LimitChanged(host, connections, why):
            return {"event": "limit changed", "host": host, "connections": connections, "why": why}
        case events.HostDown(host, seconds, why, heard):
            probed_in = None if seconds is None else round(seconds, 3)
            return {"event": "host down", "host": host, "probed_in": probed_in, "why": why, "heard": heard}
        case events.HostBack(host):
            return {"event": "host back", "host": host}
        case events.NodeJoined(node, nodes):
            return {"event": "node joined", "node": node, "nodes": nodes}
        case events.DestinationFound(kind, place):
            return {"event": "destination found", "kind": kind, "place": place}
        case events.NodeLeft(node, why, nodes):
            return {"event": "node left", "node": node, "why": why, "nodes": nodes}
        case _:
            return None


def _of_run(event: events.Event) -> dict[str, Any] | None:
    """Return an event about the whole run, None for any other."""
    match event:
        case events.RunStarted(folder):
            return {"event": "run started", "version": JSON_VERSION, "folder": folder}
        case events.WorkerDied(number, why):
            return {"event": "worker died", "number": number, "why": why}
        case events.DiskWaiting(why):
            return {"event": "disk waiting", "why": why}
        case events.LedgerReplaced(why, kept):
            return {"event": "ledger replaced", "why": why, "kept": kept}
        case events.LinksRenewed(files, expires):
            return {"event": "links renewed", "files": files, "expires": expires}
        case events.LinksCommandFailed(why):
            return {"event": "links command failed", "why": why}
        case events.Repeating(outcomes):
            return {"event": "repeating", "files": len(outcomes)}
        case events.Steered(what, paused, hosts, rate, connections):
            state = {"paused": paused, "hosts": list(hosts), "rate": rate, "connections": connections}
            return {"event": "steered", "what": what, **state}
        case events.Stopping(why):
            return {"event": "stopping", "why": why}
        case events.RunEnded(report):
            return {"event": "run ended", **{k: v for k, v in report.row().items() if k != "failures"}}
        case _:
            return None


class StatusFile:
    """Rewrites `status.json` in the state folder every `period` seconds. Use it as an async context manager.

    Args:
        place: Path of `status.json`. Its folder must exist.
        board: The state to write.
    """

    period = 1.0

    def __init__(self, place: Path, board: Board) -> None:
        self._place, self._board = place, board
        self._folder = FolderIdentity(place.parent)
        self._ticking = Ticking(self)
        self._error: str | None = None

    async def __aenter__(self) -> StatusFile:
        await self._ticking.__aenter__()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._error = words_of(error)
        await self._ticking.__aexit__()

    def tick(self) -> None:
        """Write the current state. Errors are ignored."""
        # the next tick tries again, and the run itself reports what is wrong with the disk
        with suppress(OSError):
            self._folder.check()
            replace_text(self._place, json.dumps({**self._board.snapshot(), "error": self._error}))


def words_of(error: BaseException | None) -> str | None:
    """Return what ended a run in words, None if no error did."""
    if error is None:
        return None
    return str(error) if isinstance(error, FetchError) else type(error).__name__
