"""Status: what an output folder holds, according to its ledgers and the disk."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from ..model.dataclasses import dataclass
from ..model.ranges import RangeSet
from ..model.record import Published, Record
from ..model.report import JSON_VERSION
from ..model.settings import Settings
from ..storage.destination import Destination
from ..storage.folder.disk import read_json
from ..storage.folder.run_lock import owners_of, state_folders
from ..storage.folder.tombstones import superseded
from ..storage.ledger.rows import LedgerReader
from .place import Place, PlacedPlace, opened_place, place_of

_PAGE = 1000


Standing = Literal["here", "unpacked", "gone", "changed"]


def standing(place: Place, record: Record) -> Standing:
    """Compare the record of a finished file with the destination.

    Args:
        place: The destination.
        record: The record of the file.

    Returns:
        "here": the file is unchanged. "changed": another file has its name. "unpacked": it is an archive
        that was unpacked and deleted. "gone": it no longer exists.
    """
    seen = place.look(record.path)
    if seen is not None:
        return "here" if seen == record.published else "changed"
    return "unpacked" if place.tombstone(record.path) == record.published else "gone"


def is_whole(where: Destination, settings: Settings, path: str) -> bool:
    """Return whether a run has finished the file, and its destination agrees with the record.

    Args:
        where: The destination.
        settings: `s3` says how a bucket is reached.
        path: Path of the file.

    Raises:
        StorageError: A ledger cannot be read.
    """
    with opened_place(where, settings) as place:
        for state in state_folders(where.root):
            reader = LedgerReader(state / "ledger.sqlite3")
            try:
                record = reader.look([path]).get(path)
            finally:
                reader.close()
            if record and record.published and standing(place, record) in ("here", "unpacked"):
                return True
    return False


def digest_of(record: Record) -> str | None:
    """Return the digest of a finished file as `sha256:…`, None if no sha256 was recorded."""
    value = record.digests.get("sha256")
    return f"sha256:{value}" if value else None


@dataclass(slots=True)
class FolderStatus:
    """What an output folder holds, and the run that is working in it.

    Attributes:
        published: Finished files that are unchanged.
        published_bytes: Bytes of them.
        unpacked: Archives that were unpacked and deleted.
        gone: Files that are recorded as finished but no longer exist.
        changed: Files that are recorded as finished but have changed since.
        begun: The partials: path, held bytes, and length in bytes (None if unknown).
        held_bytes: Bytes held in partials.
        owner: The process that runs in the folder, None if there is none.
        run: The content of `status.json` as that process last wrote it.
        placement: Where each node has its own disk: `node`, `address`, `files` and `bytes` of each; what it
            counts is as the last run has seen it.
        older: Files of an earlier version that stay under their names until the newer one is whole. The
            ledger states the newer one.
        runs: For the folder, or for each shard: `shard` (`i/n` or None), `owner` (the process that works, or
            None), and `state` (the last content of `status.json`, also of a run that has ended).
    """

    published: int = 0
    published_bytes: int = 0
    unpacked: int = 0
    gone: int = 0
    changed: int = 0
    begun: list[dict[str, Any]] = field(default_factory=list)
    held_bytes: int = 0
    owner: str | None = None
    run: dict[str, Any] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    placement: list[dict[str, Any]] = field(default_factory=list)
    older: int = 0

    def row(self) -> dict[str, Any]:
        """Return the status as a JSON-serializable dict, for `--json`."""
        return {"version": JSON_VERSION, **{name: getattr(self, name) for name in self.__slots__}}


def folder_status(where: Path | Place) -> FolderStatus:
    """Return what a destination holds, and the progress of the run in it.

    Args:
        where: The output folder, or the destination.

    Raises:
        StorageError: A ledger cannot be read, or a bucket does not answer.
    """
    found, place = FolderStatus(), place_of(where)
    root = place.root
    if isinstance(place, PlacedPlace):
        found.placement = place.by_node()
    found.runs = runs_of(root)
    for each in found.runs:
        if each["owner"] is not None:
            found.owner, found.run = each["owner"], each["state"]
    marks = superseded(root)
    begun: dict[str, dict[str, Any]] = {}
    for state in state_folders(root):
        for record in recorded_files(state):
            if record.published:
                continue
            if (then := marks.get(record.path)) is not None and place.look(record.path) == then:
                found.older += 1
            # the ledger is trusted only as far as the partial confirms it
            held = record.held & RangeSet.upto(place.partial_size(state, record.path) or 0)
            if held:
                begun[record.path] = {"path": record.path, "held": len(held), "length": record.length}
    for record, stands in _standings(place):
        if stands == "here":
            begun.pop(record.path, None)  # another shard, or a run before shards, has begun it as well
        match stands:
            case "here":
                found.published += 1
                found.published_bytes += record.published.size if record.published else 0
            case "unpacked":
                found.unpacked += 1
            case "gone":
                found.gone += 1
            case "changed":
                found.changed += 1
    found.begun = list(begun.values())
    found.held_bytes = sum(each["held"] for each in found.begun)
    return found


def runs_of(root: Path) -> list[dict[str, Any]]:
    """Return the runs of an output folder as `FolderStatus.runs` has them. Only small files are read."""
    found, states = [], state_folders(root)
    for state, owner in zip(states, owners_of(states), strict=True):
        shard = state.name.replace("-of-", "/") if state.parent.name == "shards" else None
        found.append({"shard": shard, "owner": owner, "state": read_json(state / "status.json")})
    return found


def recorded_files(state: Path) -> Iterator[Record]:
    """Yield every record of the ledger in one state folder, sorted by path.

    Raises:
        StorageError: A run owns the ledger, or it cannot be read.
    """
    reader = LedgerReader(state / "ledger.sqlite3")
    try:
        yield from reader.all()
    finally:
        reader.close()


def has_ledger(root: Path) -> bool:
    """Return whether `root` contains the ledger of any run."""
    return bool(state_folders(root))


def _standings(place: Place) -> Iterator[tuple[Record, Standing]]:
    """Yield the record of each finished file with the result of `standing`."""
    records = published_files(place)
    while page := list(itertools.islice(records, _PAGE)):
        place.prepare([record.path for record in page])
        yield from ((record, standing(place, record)) for record in page)


def published_files(where: Path | Place) -> Iterator[Record]:
    """Yield the records of the published files, sorted by path.

    A path that several ledgers contain is yielded once, with the record that fits the disk best.

    Args:
        where: The output folder, or the destination.

    Raises:
        StorageError: A run owns a ledger, or it cannot be read.
    """
    place = place_of(where)
    ledgers = [recorded_files(state) for state in state_folders(place.root)]
    merged = heapq.merge(*ledgers, key=lambda record: record.path.encode())
    for path, same in itertools.groupby(merged, key=lambda record: record.path):
        known = [record for record in same if record.published]
        if len(known) > 1:
            now = place.look(path)
            known.sort(key=lambda record: _unlike(record.published, now))
        yield from known[:1]


def _unlike(then: Published | None, now: Published | None) -> tuple[bool, bool, int]:
    """Return a sort key by which the record that is most like the file on disk comes first."""
    if then is None:
        return True, True, 0
    return then != now, now is None or then.size != now.size, -then.mtime_ns


def finished_files(where: Path | Place) -> Iterator[tuple[Record, Standing]]:
    """Yield the record of every finished file, with the result of `standing`.

    Args:
        where: The output folder, or the destination.

    Raises:
        StorageError: A run owns a ledger, or it cannot be read.
    """
    return _standings(place_of(where))


def with_checksums(where: Path | Place) -> Iterator[tuple[Record, Standing]]:
    """Yield the record of every finished file that has a sha256, with the result of `standing`.

    Args:
        where: The output folder, or the destination.

    Raises:
        StorageError: A run owns a ledger, or it cannot be read.
    """
    return ((record, stands) for record, stands in finished_files(where) if "sha256" in record.digests)
