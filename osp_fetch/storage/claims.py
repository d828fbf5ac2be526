"""What is held of each large partial, once more beside it: for the day when the ledger is lost.

A claim is one JSON line in a file of its own, replaced whole. It is written after the ledger, and so
after the bytes; and it is taken away, for good, before bytes that it names are. So it is true whenever
it is there, however old it is.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..model.entry import RelativePath
from ..model.exchange import Validator
from ..model.ranges import RangeSet
from ..model.record import Record
from .files import Disk, replace_text

_LEAST: Final = 1 << 20  # bytes held that are worth a claim


class Claims:
    """The claims of one state folder. All methods block; `note` may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = Disk()
        self._known: dict[str, RangeSet] = {}  # what stands in claims that may be there
        self._old = not self._disk.is_empty(folder)

    def note(self, record: Record) -> None:
        """Bring the claim of `record` up to date, or take it away where it holds too little for one."""
        place = self._folder / record.path
        before = self._known.get(record.path)
        if before is None and self._old:
            found = self.find(record.path)
            before = found.held if found else None
        if record.published or len(record.held) < _LEAST:
            if before is not None:
                self._remove(place, durable=not record.published)
                self._known.pop(record.path, None)
            return
        if before is not None and before - record.held:
            self._remove(place, durable=True)  # less is held than it says
        with suppress(OSError):  # an older claim, or none, is as true; only less is saved by it
            self._disk.make_folder(place.parent, durable=False)
            replace_text(place, _line(record))
            self._known[record.path] = record.held

    def _remove(self, place: Path, *, durable: bool) -> None:
        with suppress(FileNotFoundError):
            place.unlink()
            if durable:
                self._disk.sync_folder(place.parent)

    def find(self, path: RelativePath) -> Record | None:
        """The claim of an earlier run; None where there is none that makes sense."""
        if not self._old:
            return None
        try:
            read = json.loads((self._folder / path).read_text(encoding="utf-8"))
            validator = Validator(read["etag"], read["last_modified"])
            held = RangeSet.parse(read["held"])
            return Record(path, read["source_key"], read["length"], validator, held)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _line(record: Record) -> str:
    claim = {
        "source_key": record.source_key,
        "length": record.length,
        "etag": record.validator.etag,
        "last_modified": record.validator.last_modified,
        "held": str(record.held),
    }
    return json.dumps(claim) + "\n"
