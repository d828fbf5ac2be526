"""Archives that were unpacked and then deleted: they are not lacking, and not to be fetched again."""

from __future__ import annotations

import json
from pathlib import Path

from ..model.entry import STATE_FOLDER
from ..model.record import Published


def mark_of(root: Path, path: str) -> Path:
    """Where it stands how the deleted file `path` of the output folder `root` looked."""
    return root / STATE_FOLDER / "consumed" / f"{path}.json"


def look(root: Path, path: str) -> Published | None:
    """How a file looked before it was deleted; None where it was not."""
    try:
        read = json.loads(mark_of(root, path).read_text(encoding="utf-8"))
        return Published(read["size"], read["mtime_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
