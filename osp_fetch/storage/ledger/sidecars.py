"""Sidecars: a copy of the record of each large partial, in case the ledger is lost.

A sidecar is a file with one JSON line, under `claims/` in the state folder. It is written after the ledger,
and so after the bytes that it states. It is removed durably before the ledger states fewer bytes. A sidecar
that exists is therefore true, however old it is.
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

# Bytes that must be held for a sidecar to be written. Fetching less than this again is cheap.
_LEAST: Final = 1 << 20


class Sidecars:
    """The sidecars of one state folder. All methods block.

    Args:
        folder: the folder of the sidecars; its parent is the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = Disk()
        self._state = FolderIdentity(folder.parent)
        self._known: dict[str, RangeSet] = {}  # bytes held, as stated by existing sidecars
        self._old = not self._disk.is_empty(folder)

    def check(self) -> None:
        """Check the state folder. Call this once before a batch of `before`.

        A check for each record would be a system call for each, for which the ledger's thread gives up the
        interpreter lock and takes it back beside a busy event loop: three futex calls for each small file.

        Raises:
            FolderGoneError: the state folder is no longer the one that it was.
        """
        self._state.check()

    def before(self, record: Record) -> None:
        """Remove the sidecar if it states more than `record`. Call this before the ledger stores `record`.

        Raises:
            OSError: the sidecar cannot be removed durably.
        """
        claimed = self._claimed(record.path)
        if claimed is not None and (record.published or claimed - record.held):
            self._remove(self._folder / record.path)
            self._known.pop(record.path, None)

    def after(self, record: Record) -> None:
        """Write the sidecar of `record`. Call this after the ledger has stored `record`."""
        if record.published or len(record.held) < _LEAST:
            return
        place = self._folder / record.path
        with suppress(OSError):  # an older sidecar, or none, is still true, but saves fewer bytes
            self._state.check()
            self._disk.make_folder(place.parent, durable=False)
            # not inside the folder of the sidecars, where every name may be the path of a file
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
        """Return the record in the sidecar of an earlier run; None if there is no valid one."""
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
