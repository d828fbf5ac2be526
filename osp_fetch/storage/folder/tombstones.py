"""Marks beside the ledger, which state how a deleted or superseded file looked.

- A *tombstone* describes an archive that was unpacked and then deleted. The archive does not count as
  missing, and is not fetched again, as long as the ledger still records the file that the tombstone states.
- A *superseded* mark describes a published file of an earlier run while a newer version is fetched. At that
  time the ledger describes the new partial; the mark proves that osp-fetch wrote the old file, and may
  replace it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ...model.entry import STATE_FOLDER
from ...model.record import Published
from .disk import replace_text


class Marks:
    """The marks of one kind. All methods block.

    Args:
        root: the output folder.
        kind: name of their folder below the state folder.
    """

    def __init__(self, root: Path, kind: str) -> None:
        self.folder = root / STATE_FOLDER / kind

    def put(self, path: str, seen: Published, *, durable: bool = False) -> None:
        """Store the mark of `path`.

        Args:
            path: path below the output folder.
            seen: size and modification time of the file.
            durable: whether the mark must survive a power loss when this returns.

        Raises:
            OSError: the mark cannot be written.
        """
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, json.dumps({"size": seen.size, "mtime_ns": seen.mtime_ns}), durable=durable)

    def get(self, path: str) -> Published | None:
        """Return how the file `path` looked; None if there is no valid mark."""
        try:
            read = json.loads(self._place(path).read_text(encoding="utf-8"))
            return Published(read["size"], read["mtime_ns"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, path: str) -> None:
        """Remove the mark of `path`; errors are ignored."""
        with suppress(OSError):
            self._place(path).unlink()

    def any(self) -> bool:
        """Return whether the folder of the marks is not empty."""
        try:
            with os.scandir(self.folder) as inside:
                return any(True for _ in inside)
        except OSError:
            return False

    def _place(self, path: str) -> Path:
        return self.folder / f"{path}.json"


def tombstones(root: Path) -> Marks:
    """Return the marks of archives that were deleted after unpacking."""
    return Marks(root, "consumed")


def superseded(root: Path) -> Marks:
    """Return the marks of published files whose newer version is being fetched."""
    return Marks(root, "superseded")
