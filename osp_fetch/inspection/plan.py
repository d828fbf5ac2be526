"""Plan: what `get` would do with a manifest and an output folder, by the same decisions that `get` makes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any

from ..archives.splits import is_piece
from ..engine.rows import is_present
from ..engine.state import FileState
from ..model import urls
from ..model.dataclasses import dataclass
from ..model.entry import Entry, RelativePath
from ..model.protocols import Row
from ..model.record import Record
from ..model.report import JSON_VERSION
from ..storage.bucket.grid import part_size
from ..storage.folder.disk import read_json
from ..storage.folder.run_lock import state_folder, state_folders
from ..storage.folder.tombstones import superseded
from ..storage.ledger.rows import LedgerReader
from .place import BucketPlace, FolderPlace, Place, place_of

# Rows that are looked up in the ledgers at a time.
_PAGE = 1000

# Bad rows and foreign files that a plan names, to bound memory.
_BAD_SHOWN = 100

# Paths that a plan names.
_PATHS_SHOWN = 5
# Seconds between two looks for ledgers of runs that have begun meanwhile.
_LOOK = 1.0


@dataclass(slots=True)
class Plan:
    """What `get` would do. Sizes are in bytes, times in Unix seconds.

    Attributes:
        files: Files that the manifest names.
        bytes: Bytes of the files with a known size.
        unsized: Files with an unknown size.
        present: Files that are finished.
        present_bytes: Bytes of them.
        begun: Files with a partial.
        held_bytes: Bytes held in partials.
        digests: Files with a digest in the manifest.
        hosts: Host → number of files that it serves.
        expires_first: When the first link expires, None if no link states it.
        expires_last: When the last link expires.
        expiring_bytes: Bytes to fetch from links that expire, without the files of unknown size.
        free: Free bytes on the file system of the output folder, None for a bucket, or the disks of nodes.
        parts: Parts that are uploaded to a bucket; a file of one part, or of unknown size, counts as one.
        widest_part: Bytes of the largest part.
        bad_rows: Rows that cannot be fetched.
        problems: Messages of the first bad rows.
        archives: Files that are archives or pieces of a split archive.
        archives_bytes: Bytes of them.
        resolves: Hub links that a run must resolve. Each counts once against the hub's request quota.
        bytes_per_second: Rate of the last run in the folder.
        foreign: The first files that exist under final names but were not recorded by osp-fetch.
        foreign_count: Number of all such files.
        gone: Files that are recorded as finished but no longer exist.
        changed: Files that are recorded as finished but have changed since.
        notes: Sentences about rows that a checksum list or second source does not cover, about columns that
            are not used, and about repeated rows.
        paths: The first paths, as examples of how files are named.
        columns: Manifest → meaning → the column of the table that was taken for it.
        run: What flags of a run would do, by name.
    """

    files: int = 0
    bytes: int = 0
    unsized: int = 0
    present: int = 0
    present_bytes: int = 0
    begun: int = 0
    held_bytes: int = 0
    digests: int = 0
    hosts: Counter[str] = field(default_factory=Counter)
    expires_first: float | None = None
    expires_last: float | None = None
    expiring_bytes: int = 0
    free: int | None = 0
    parts: int = 0
    widest_part: int = 0
    bad_rows: int = 0
    problems: list[str] = field(default_factory=list)
    archives: int = 0
    archives_bytes: int = 0
    resolves: int = 0
    bytes_per_second: float = 0.0
    foreign: list[str] = field(default_factory=list)
    foreign_count: int = 0
    gone: int = 0
    changed: int = 0
    notes: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)

    @property
    def missing_bytes(self) -> int:
        """Bytes to fetch, without the files of unknown size."""
        return max(0, self.bytes - self.present_bytes - self.held_bytes)

    def row(self) -> dict[str, Any]:
        """Return the plan as a JSON-serializable dict, for `--json`."""
        names = [name for name in self.__slots__ if name != "hosts"]
        values = {name: getattr(self, name) for name in names}
        more = {"hosts": dict(self.hosts), "missing_bytes": self.missing_bytes}
        return {"version": JSON_VERSION, **values, **more}


def make_plan(
    rows: Iterable[Row],
    where: Path | Place,
    shard: tuple[int, int] | None = None,
    again: Callable[[str], bool] = lambda _: False,
) -> Plan:
    """Read all rows and compare them with what the output folder holds, as `get` does.

    It writes nothing, and sends no request but those that look at a bucket.

    Args:
        rows: Entries, and errors for bad rows.
        where: The output folder, which need not exist, or the destination.
        shard: (i, n) if the run is the i-th of n shards, counted from 0.
        again: Returns whether the file with this path is fetched again even if it is finished.

    Raises:
        StorageError: A ledger cannot be read.
        ManifestError: The manifest cannot be read.
    """
    place = place_of(where)
    made, state = Plan(free=place.free()), state_folder(place.root, shard)
    last = read_json(state / "status.json") or {}
    made.bytes_per_second = float(last.get("bytes_per_second") or 0.0)
    there = _Held(place, state) if place.root.is_dir() or not isinstance(place, FolderPlace) else None
    try:
        rows = iter(rows)
        while page := list(islice(rows, _PAGE)):
            _count_bad(made, [row for row in page if not isinstance(row, Entry)])
            _count_page(made, place, [row for row in page if isinstance(row, Entry)], there, again)
    finally:
        if there:
            there.close()
    return made


class _Held:
    """Looks up files in the ledgers and at the destination. Made for one plan."""

    def __init__(self, place: Place, state: Path) -> None:
        self._own, self._state, self.place = state / "ledger.sqlite3", state, place
        states = state_folders(place.root)
        ledgers = dict.fromkeys([self._own, *(each / "ledger.sqlite3" for each in states)])
        self._readers = {ledger: LedgerReader(ledger) for ledger in ledgers if ledger.is_file()}
        self.superseded = superseded(place.root)
        self._looked = time.monotonic()  # for ledgers of other runs

    def record_now(self, path: RelativePath) -> Record | None:
        """Return the record of a file that a run may have published since the records were read."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            for state in state_folders(self.place.root):
                ledger = state / "ledger.sqlite3"
                if ledger not in self._readers and ledger.is_file():
                    self._readers[ledger] = LedgerReader(ledger)
        return self.records([path]).get(path)

    def records(self, paths: list[RelativePath]) -> dict[str, Record]:
        """Return the records of `paths`. From the ledgers of other shards, only finished files count."""
        found: dict[str, Record] = {}
        for place, reader in self._readers.items():
            more = reader.look([path for path in paths if path not in found])
            found |= {p: r for p, r in more.items() if r.published or place == self._own}
        return found

    def partial_size(self, path: str) -> int | None:
        return self.place.partial_size(self._state, path)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def _count_bad(made: Plan, rows: Sequence[Row]) -> None:
    made.bad_rows += len(rows)
    made.problems += map(str, rows[: max(0, _BAD_SHOWN - len(made.problems))])


def _count_page(
    made: Plan, place: Place, entries: Sequence[Entry], there: _Held | None, again: Callable[[str], bool]
) -> None:
    """Count files, and what is there of them at `place`; `there` is None if nothing is."""
    records: dict[str, Record] = {}
    if there:
        records = there.records([entry.path for entry in entries])
        there.place.prepare([entry.path for entry in entries])
    for entry in entries:
        record = records.get(entry.path)
        _count(made, entry, record)
        held = _count_held(made, entry, record, there) if there and not again(entry.path) else 0
        if held is not None:
            if isinstance(place, BucketPlace):
                _count_parts(made, entry, record)
            _count_expiry(made, entry, record, held)


def _count(made: Plan, entry: Entry, record: Record | None) -> None:
    made.files += 1
    if len(made.paths) < _PATHS_SHOWN:
        made.paths.append(entry.path)
    made.digests += entry.digest is not None
    made.hosts[urls.host(entry.urls[0]).removesuffix(":443").removesuffix(":80")] += 1
    length = entry.size if entry.size is not None else record.length if record else None
    if length is None:
        made.unsized += 1
    made.bytes += length or 0
    if is_piece(entry.path):
        made.archives += 1
        made.archives_bytes += length or 0


def _count_expiry(made: Plan, entry: Entry, record: Record | None, held: int) -> None:
    """Count when the links of a missing file expire, and the bytes that come from such links."""
    expires = [when for url in entry.urls if "?" in url and (when := urls.expiry(url)) is not None]
    if not expires:
        return
    made.expires_first = min(expires if made.expires_first is None else [made.expires_first, *expires])
    made.expires_last = max(expires if made.expires_last is None else [made.expires_last, *expires])
    length = entry.size if entry.size is not None else record.length if record else None
    made.expiring_bytes += max(0, (length or 0) - held)


def _count_parts(made: Plan, entry: Entry, record: Record | None) -> None:
    """Count the parts that the file has in a bucket."""
    length = entry.size if entry.size is not None else record.length if record else None
    each = part_size(length or 0)
    made.parts += -(-length // each) if length else 1
    made.widest_part = max(made.widest_part, each)


def _count_held(made: Plan, entry: Entry, record: Record | None, there: _Held) -> int | None:
    """Count what the output folder holds of one file, by the decisions that `get` makes.

    Returns:
        The bytes held, None if the file is present.
    """
    held = 0
    place = there.place
    seen = place.look(entry.path)
    if seen is not None and (record is None or record.published != seen):
        record = there.record_now(entry.path) or record
    tombstone = place.tombstone(entry.path) if record and record.published and seen is None else None
    if record and is_present(record, entry, seen, tombstone):
        made.present += 1
        made.present_bytes += record.length or 0
        if tombstone is not None and is_piece(entry.path):  # unpacked and deleted
            made.archives -= 1
            made.archives_bytes -= (entry.size if entry.size is not None else record.length) or 0
        return None
    made.resolves += "/resolve/" in entry.urls[0]
    if record and record.published:
        made.gone += seen is None and tombstone is None
        made.changed += seen is not None and seen != record.published
    elif record:
        held = len(FileState(entry, record, there.partial_size(entry.path)).held)
        made.begun += held > 0
        made.held_bytes += held
    own = (
        record is not None
        and seen is not None
        and seen in (record.published, there.superseded.get(entry.path))
    )
    if isinstance(place, FolderPlace) and place.has_folder(entry.path):
        if len(made.problems) < _BAD_SHOWN:
            made.problems.append(
                f"{entry.path}: a folder has the name of this file; rename the row or the folder"
            )
    elif not own and place.is_taken(entry.path):
        made.foreign_count += 1
        if len(made.foreign) < _BAD_SHOWN:
            made.foreign.append(entry.path)
    return held
