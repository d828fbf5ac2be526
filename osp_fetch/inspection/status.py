"""What an output folder holds, by its ledgers and by the disk."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..model.record import Published, Record
from ..storage.folder.disk import Disk
from ..storage.folder.run_lock import owner_of, state_folders
from ..storage.folder.tombstones import tombstones
from ..storage.ledger.rows import LedgerReader

_PAGE = 1000


Standing = Literal["here", "unpacked", "gone", "changed"]


def standing(root: Path, record: Record) -> Standing:
    """Return how the disk agrees with the record of a finished file."""
    seen = Disk().look(root / record.path)
    if seen is not None:
        return "here" if seen == record.published else "changed"
    return "unpacked" if tombstones(root).get(record.path) == record.published else "gone"


def is_whole(root: Path, path: str) -> bool:
    """Return whether some run has finished the file `path`, and the disk agrees."""
    for state in state_folders(root):
        reader = LedgerReader(state / "ledger.sqlite3")
        try:
            record = reader.look([path]).get(path)
        finally:
            reader.close()
        if record and record.published and standing(root, record) in ("here", "unpacked"):
            return True
    return False


def digest_of(record: Record) -> str | None:
    """Return the digest of a finished file as `sha256:…`, None if none was recorded."""
    value = record.digests.get("sha256")
    return f"sha256:{value}" if value else None


@dataclass(slots=True)
class FolderStatus:
    """What a folder holds, by its ledgers and the disk, and the run in it, where there is one.

    `published`: finished files that are here. `unpacked`: archives that were unpacked and deleted. `gone`,
    `changed`: recorded as finished, and not there any more, or another file by now.
    """

    published: int = 0
    published_bytes: int = 0
    unpacked: int = 0
    gone: int = 0
    changed: int = 0
    begun: list[dict[str, Any]] = field(default_factory=list)
    held_bytes: int = 0
    owner: str | None = None
    run: dict[str, Any] | None = None  # the last `status.json`

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def folder_status(root: Path) -> FolderStatus:
    """Return what `root` holds, and how the run in it goes, by what that wrote last."""
    found = FolderStatus()
    for state in state_folders(root):
        owner = owner_of(state)
        if owner is not None:
            found.owner = owner
            found.run = _json(state / "status.json")
        for record in recorded_files(state):
            if not record.published and record.held:
                found.begun.append({"path": record.path, "held": len(record.held), "length": record.length})
                found.held_bytes += len(record.held)
    for record in published_files(root):
        match standing(root, record):
            case "here":
                found.published += 1
                found.published_bytes += record.published.size if record.published else 0
            case "unpacked":
                found.unpacked += 1
            case "gone":
                found.gone += 1
            case "changed":
                found.changed += 1
    return found


def recorded_files(state: Path) -> Iterator[Record]:
    """Every record of one state folder's ledger. Raises StorageError while a run owns it."""
    reader = LedgerReader(state / "ledger.sqlite3")
    try:
        yield from reader.all()
    finally:
        reader.close()


def _json(place: Path) -> dict[str, Any] | None:
    try:
        read = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def has_ledger(root: Path) -> bool:
    """Whether a run has fetched into `root`."""
    return bool(state_folders(root))


def published_files(root: Path) -> Iterator[Record]:
    """The records of the published files, by path; each path once, however many ledgers name it."""
    ledgers = [recorded_files(state) for state in state_folders(root)]
    merged = heapq.merge(*ledgers, key=lambda record: record.path.encode())
    for path, same in itertools.groupby(merged, key=lambda record: record.path):
        known = [record for record in same if record.published]
        if len(known) > 1:
            now = Disk().look(root / path)
            known.sort(key=lambda record: _unlike(record.published, now))
        yield from known[:1]


def _unlike(then: Published | None, now: Published | None) -> tuple[bool, bool, int]:
    """How little `now` is like what was published: to choose among several records of one path."""
    if then is None:
        return True, True, 0
    return then != now, now is None or then.size != now.size, -then.mtime_ns


def with_checksums(root: Path) -> Iterator[tuple[Record, Standing]]:
    """Yield the finished files that have a sha256, and how the disk agrees with each."""
    for record in published_files(root):
        if "sha256" in record.digests:
            yield record, standing(root, record)
