"""Marks beside the ledger: how files looked that are gone, or are about to be replaced, with good reason.

- A *tombstone* stands for an archive that was unpacked and then deleted: it is not missing, and is not
fetched
  again, as long as the ledger still records the file that the tombstone describes.
- A *superseded* mark stands for a finished file of an earlier run that a newer one is being fetched for: the
  ledger describes the new partial by then, and the old file is still the tool's own.
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
    """The marks of one kind, below the output folder `root`. All methods block."""

    def __init__(self, root: Path, kind: str) -> None:
        self.folder = root / STATE_FOLDER / kind

    def put(self, path: str, seen: Published, *, durable: bool = False) -> None:
        """Note how the file `path` looks now. Raises OSError."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, json.dumps({"size": seen.size, "mtime_ns": seen.mtime_ns}), durable=durable)

    def get(self, path: str) -> Published | None:
        """Return how the file `path` looked; None where there is no mark that makes sense."""
        try:
            read = json.loads(self._place(path).read_text(encoding="utf-8"))
            return Published(read["size"], read["mtime_ns"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, path: str) -> None:
        """Take the mark of `path` away."""
        with suppress(OSError):
            self._place(path).unlink()

    def any(self) -> bool:
        """Return whether there may be a mark."""
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
    """Return the marks of finished files that a newer one is being fetched for."""
    return Marks(root, "superseded")
