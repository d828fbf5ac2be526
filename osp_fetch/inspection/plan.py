"""What `get` would do with a manifest and a folder, by the decisions that `get` itself makes."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..archives.splits import is_piece
from ..engine.run import is_present
from ..engine.state import FileState
from ..model import urls
from ..model.entry import Entry, RelativePath
from ..model.protocols import Row
from ..model.record import Published, Record
from ..storage.folder.disk import Disk
from ..storage.folder.run_lock import state_folder, state_folders
from ..storage.folder.tombstones import tombstones
from ..storage.ledger.rows import LedgerReader
from .status import _json

_PAGE = 1000


_BAD_SHOWN = 100


@dataclass(slots=True)
class Plan:
    """What `get` would do. Bytes; times in Unix seconds."""

    files: int = 0
    bytes: int = 0  # of the files whose size is known
    unsized: int = 0
    present: int = 0
    present_bytes: int = 0
    begun: int = 0
    held_bytes: int = 0
    digests: int = 0
    hosts: Counter[str] = field(default_factory=Counter)
    expires_first: float | None = None
    expires_last: float | None = None
    free: int = 0
    bad_rows: int = 0
    problems: list[str] = field(default_factory=list)
    archives: int = 0  # files that are archives, or pieces of one
    archives_bytes: int = 0
    resolves: int = 0  # links of a hub, each of which costs a share of its quota once
    bytes_per_second: float = 0.0  # of the last run in the folder
    foreign: list[str] = field(default_factory=list)  # here, but not by a run of this tool; the first of them
    foreign_count: int = 0
    gone: int = 0  # recorded as finished, and not there any more
    changed: int = 0  # recorded as finished, and another file by now
    notes: list[str] = field(default_factory=list)  # what lists do not cover, a sentence each

    @property
    def missing_bytes(self) -> int:
        return max(0, self.bytes - self.present_bytes - self.held_bytes)

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        names = [name for name in self.__slots__ if name != "hosts"]
        values = {name: getattr(self, name) for name in names}
        return {**values, "hosts": dict(self.hosts), "missing_bytes": self.missing_bytes}


def make_plan(
    rows: Iterable[Row],
    root: Path,
    shard: tuple[int, int] | None = None,
    again: Callable[[str], bool] = lambda _: False,
) -> Plan:
    """Read all of `rows` and hold them against what `root` has, as `get` does.

    Touches neither network nor folder. `again`: whether a file is to be fetched anew although it is finished.
    """
    made = Plan(free=_free(root))
    state = state_folder(root, shard)
    last = _json(state / "status.json") or {}
    made.bytes_per_second = float(last.get("bytes_per_second") or 0.0)
    there = _Held(root, state) if root.is_dir() else None
    try:
        rows = iter(rows)
        while page := list(islice(rows, _PAGE)):
            entries = [row for row in page if isinstance(row, Entry)]
            for bad in (row for row in page if not isinstance(row, Entry)):
                made.bad_rows += 1
                if len(made.problems) < _BAD_SHOWN:
                    made.problems.append(str(bad))
            records = there.records([entry.path for entry in entries]) if there else {}
            for entry in entries:
                record = records.get(entry.path)
                _count(made, entry, record)
                if there and not again(entry.path):
                    _count_held(made, entry, record, there)
    finally:
        if there:
            there.close()
    return made


class _Held:
    """What the ledgers and the disk of an output folder say of files. For one plan."""

    def __init__(self, root: Path, state: Path) -> None:
        self._own = state / "ledger.sqlite3"
        places = dict.fromkeys([self._own, *(each / "ledger.sqlite3" for each in state_folders(root))])
        self._readers = {place: LedgerReader(place) for place in places if place.is_file()}
        self._finals, self._partials = os.path.join(root, ""), os.path.join(state, "partial", "")
        self._disk, self._tombstones = Disk(), tombstones(root)

    def records(self, paths: list[RelativePath]) -> dict[str, Record]:
        """Return what is recorded of `paths`. Of other shards only what they have finished counts."""
        found: dict[str, Record] = {}
        for place, reader in self._readers.items():
            more = reader.look([path for path in paths if path not in found])
            found |= {p: r for p, r in more.items() if r.published or place == self._own}
        return found

    def look(self, path: str) -> Published | None:
        return self._disk.look(self._finals + path)

    def tombstone(self, path: str) -> Published | None:
        return self._tombstones.get(path)

    def partial_size(self, path: str) -> int | None:
        seen = self._disk.look(self._partials + path)
        return seen.size if seen else None

    def is_taken(self, path: str) -> bool:
        """Return whether anything lies under the final name."""
        return os.path.lexists(self._finals + path)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def _count(made: Plan, entry: Entry, record: Record | None) -> None:
    made.files += 1
    made.digests += entry.digest is not None
    made.hosts[urls.host(entry.urls[0]).removesuffix(":443").removesuffix(":80")] += 1
    length = entry.size if entry.size is not None else record.length if record else None
    if length is None:
        made.unsized += 1
    made.bytes += length or 0
    if is_piece(entry.path):
        made.archives += 1
        made.archives_bytes += length or 0
    for url in entry.urls:
        if "?" in url and (dies := urls.expiry(url)) is not None:
            made.expires_first = min(made.expires_first or dies, dies)
            made.expires_last = max(made.expires_last or dies, dies)


def _count_held(made: Plan, entry: Entry, record: Record | None, there: _Held) -> None:
    """Count what is here of one file, by the decisions that `get` makes."""
    seen = there.look(entry.path)
    tombstone = there.tombstone(entry.path) if record and record.published and seen is None else None
    if record and is_present(record, entry, seen, tombstone):
        made.present += 1
        made.present_bytes += record.length or 0
        return
    made.resolves += "/resolve/" in entry.urls[0]
    if record and record.published:
        made.gone += seen is None and tombstone is None
        made.changed += seen is not None and seen != record.published
    elif record:
        held = len(FileState(entry, record, there.partial_size(entry.path)).held)
        made.begun += held > 0
        made.held_bytes += held
    own = record is not None and record.published is not None and record.published == seen
    if not own and there.is_taken(entry.path):
        made.foreign_count += 1
        if len(made.foreign) < _BAD_SHOWN:
            made.foreign.append(entry.path)


def _free(root: Path) -> int:
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free
