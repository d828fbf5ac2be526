"""The logs of publications of one output folder, read as one while runs append to them."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..model.errors import StorageError
from ..model.record import Published
from ..storage.folder.run_lock import state_folder, state_folders
from ..storage.ledger.sqlite import PUBLICATIONS
from ..storage.ordered_log import OrderedReader, Row


@dataclass(slots=True)
class PublicationLogs:
    """Several logs, each with a reader that continues where it was.

    Attributes:
        positions: name of a log → the position after which its reader begins.
        follow: whether lines count that are appended after the first look.
        readers: name of a log → its reader.
    """

    positions: Mapping[str, Any]
    follow: bool
    readers: dict[str, OrderedReader] = field(default_factory=dict)

    def look(self, places: Mapping[str, Path]) -> Iterator[tuple[str, Row]]:
        """Yield the name of the log and the new lines of all logs, merged by position.

        Args:
            places: name of a log → where it is.

        Raises:
            StorageError: a log cannot be read.
        """
        try:
            for name, place in places.items():
                if name not in self.readers:
                    self.readers[name] = OrderedReader(place, _last_of(self.positions.get(name, 0)))
                    if not self.follow:
                        self.readers[name].limit()
            yield from heapq.merge(*map(self._lines, places), key=_position_of)
        except OSError as error:
            raise StorageError(f"the log of finished files cannot be read: {error}") from None

    def _lines(self, name: str) -> Iterator[tuple[str, Row]]:
        return ((name, row) for row in self.readers[name].read_all())


def _position_of(line: tuple[str, Row]) -> int:
    return int(line[1][0])


def _last_of(position: Any) -> int:
    """Return the position of the last line that was processed completely."""
    return int(position[0] if isinstance(position, list) else position)


class Publications:
    """What was published in an output folder, from the logs of all its runs.

    Args:
        root: the output folder.
        begin: state folder of a run → position after which its log is read.
        follow: as in `PublicationLogs`.
    """

    def __init__(self, root: Path, begin: Mapping[str, Any], *, follow: bool) -> None:
        self._root, self._done = root, dict(begin)
        self._logs = PublicationLogs(dict(begin), follow)

    def look(self) -> Iterator[tuple[RelativePath, Published, Mapping[str, str], str]]:
        """Yield path, state, digests and position of what was published since the last call."""
        state = state_folder(self._root)
        places = {
            each.relative_to(state).as_posix(): each / PUBLICATIONS for each in state_folders(self._root)
        }
        for name, (position, path, size, when, digests) in self._logs.look(places):
            self._done[name] = position
            yield RelativePath(path), Published(size, when), digests, json.dumps({"files": self._done})
