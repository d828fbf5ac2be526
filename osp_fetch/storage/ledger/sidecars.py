"""What is held of each large partial, once more beside it: for the day when the ledger is lost.

A claim is one JSON line in a file of its own, replaced whole. It is written after the ledger, and so
after the bytes; and it is taken away, for good, before the ledger says less. So it is true whenever it is
there, however old it is.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...model.entry import RelativePath
from ...model.http import Validator
from ...model.ranges import RangeSet
from ...model.record import Record
from ..folder.disk import Disk, FolderIdentity

_LEAST: Final = 1 << 20  # bytes held that are worth a claim


class Sidecars:
    """The claims of one state folder. All methods block; `before` may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = Disk()
        self._state = FolderIdentity(folder.parent)
        self._known: dict[str, RangeSet] = {}  # what stands in claims that may be there
        self._old = not self._disk.is_empty(folder)

    def before(self, record: Record) -> None:
        """To be called before `record` is put into the ledger: a claim of more goes away, for good."""
        claimed = self._claimed(record.path)
        self._state.check()
        if claimed is not None and (record.published or claimed - record.held):
            self._remove(self._folder / record.path)
            self._known.pop(record.path, None)

    def after(self, record: Record) -> None:
        """To be called when `record` is in the ledger: what it holds is claimed."""
        if record.published or len(record.held) < _LEAST:
            return
        place = self._folder / record.path
        with suppress(OSError):  # an older claim, or none, is as true; only less is saved by it
            self._state.check()
            self._disk.make_folder(place.parent, durable=False)
            # beside the folder of claims: in it any name may be a file's
            beside = self._folder.with_name("claim.new")
            beside.write_text(_line(record), encoding="utf-8")
            beside.replace(place)
            self._known[record.path] = record.held

    def _claimed(self, path: RelativePath) -> RangeSet | None:
        if path not in self._known and self._old:
            found = self.find(path)
            return found.held if found else None
        return self._known.get(path)

    def _remove(self, place: Path) -> None:
        with suppress(FileNotFoundError):
            place.unlink()
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
