"""Looking without fetching: what a run would do, what a folder holds, whether it is still right."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .datasets.splits import is_piece
from .engine.download import Download
from .engine.run import is_present
from .model import links
from .model.digest import Digest
from .model.entry import STATE_FOLDER, Entry, RelativePath
from .model.protocols import Row
from .model.ranges import NOTHING
from .model.record import Published, Record
from .sources.join import NameJoin
from .storage import repair as repairing
from .storage.files import Disk
from .storage.folder import RunLock, owner_of, state_folder, state_folders
from .storage.hashing import digests_of
from .storage.ledger import SqliteLedger
from .storage.rows import LedgerReader
from .storage.tombstones import tombstones

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


def plan(
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
    made.hosts[links.host(entry.urls[0]).removesuffix(":443").removesuffix(":80")] += 1
    length = entry.size if entry.size is not None else record.length if record else None
    if length is None:
        made.unsized += 1
    made.bytes += length or 0
    if is_piece(entry.path):
        made.archives += 1
        made.archives_bytes += length or 0
    for url in entry.urls:
        if "?" in url and (dies := links.expiry(url)) is not None:
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
        held = len(Download(entry, record, there.partial_size(entry.path)).held)
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


def status(root: Path) -> FolderStatus:
    """Return what `root` holds, and how the run in it goes, by what that wrote last."""
    found = FolderStatus()
    for state in state_folders(root):
        owner = owner_of(state)
        if owner is not None:
            found.owner = owner
            found.run = _json(state / "status.json")
        for record in records(state):
            if not record.published and record.held:
                found.begun.append({"path": record.path, "held": len(record.held), "length": record.length})
                found.held_bytes += len(record.held)
    for record in published(root):
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


def records(state: Path) -> Iterator[Record]:
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


def published(root: Path) -> Iterator[Record]:
    """The records of the published files, by path; each path once, however many ledgers name it."""
    ledgers = [records(state) for state in state_folders(root)]
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


def sums(root: Path) -> Iterator[tuple[Record, Standing]]:
    """Yield the finished files that have a sha256, and how the disk agrees with each."""
    for record in published(root):
        if "sha256" in record.digests:
            yield record, standing(root, record)


async def repair(root: Path, paths: Iterable[str]) -> list[tuple[Record, str | None]]:
    """Make partials of the damaged files `paths`, with what is right of them held, for `get` to complete.

    Returns the record of each partial, and where the file is kept if its owner had edited it. Raises
    FolderBusy while a run works in `root`.
    """
    damaged = set(paths)
    mended: list[tuple[Record, str | None]] = []
    true = {record.path: record for record in published(root) if record.path in damaged}
    for state in state_folders(root):
        with RunLock(state):
            own = [r for r in records(state) if r.published and r.path in damaged]
            async with SqliteLedger(state / "ledger.sqlite3") as ledger:
                for record in own:
                    if record == true.get(record.path):
                        # one ledger mends it: another that says the same must not try again
                        reopened, kept = repairing.reopened(root, state, true.pop(record.path))
                        mended.append((reopened, kept))
                    else:
                        reopened = replace(record, held=NOTHING, published=None)
                    await ledger.put(reopened)
    return mended


Verdict = Literal["ok", "damaged", "missing", "unpacked", "unchecked", "unreadable"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one file. `expected` and `found`: "sha256:…"."""

    path: str
    verdict: Verdict
    size: int = 0
    expected: str | None = None
    found: str | None = None

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def verify(root: Path, listed: Mapping[str, Digest] | None = None) -> Iterator[Checked]:
    """Hash every published file again, on all cores, against the ledger, or against `listed`.

    Listed names are joined with files as `get --checksums` joins them.
    """
    wanted = _paired(root, listed) if listed is not None else _recorded(root)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = []
        for path, digest in wanted:
            waiting.append(pool.submit(_check, root, path, digest))
            if len(waiting) > _PAGE:
                yield waiting.pop(0).result()
        for checked in waiting:
            yield checked.result()


def _paired(root: Path, listed: Mapping[str, Digest]) -> Iterator[tuple[str, Digest]]:
    """Yield the path of the file that each listed name stands for, with its digest; the name if there is
    none."""
    join = NameJoin[str](listed)
    pairs = [pair for path in _here(root, listed) for pair in join.add(path, path)]
    found = {name: path for path, name in [*pairs, *join.end()] if name is not None}
    for name, digest in listed.items():
        yield found.get(name, name), digest


def _here(root: Path, listed: Iterable[str]) -> Iterator[str]:
    """Yield the files that listed names may stand for: finished ones, or all where no run has fetched
    here."""
    if has_ledger(root):
        known = {record.path for record in published(root)}
        yield from sorted(known | {name for name in listed if (root / name).is_file()})
        return
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in (STATE_FOLDER, ".cache")]
        yield from (Path(place, name).relative_to(root).as_posix() for name in names)


def _recorded(root: Path) -> Iterator[tuple[str, Digest | None]]:
    for record in published(root):
        known = [Digest(name, value) for name, value in record.digests.items()]
        best = [d for d in known if d.algorithm == "sha256"] or known
        yield record.path, best[0] if best else None


def _check(root: Path, path: str, digest: Digest | None) -> Checked:
    place = root / path
    try:
        seen = Disk().look(place)
        if seen is None:
            raise FileNotFoundError(path)
        size = seen.size
        if digest is None:
            return Checked(path, "unchecked", size)
        found, _ = digests_of(place, frozenset({digest.algorithm}))
    except FileNotFoundError:
        if tombstones(root).get(path) is not None:
            return Checked(path, "unpacked")
        return Checked(path, "missing", expected=str(digest) if digest else None)
    except OSError:
        return Checked(path, "unreadable", expected=str(digest) if digest else None)
    value = found[digest.algorithm]
    verdict: Verdict = "ok" if value == digest.hex else "damaged"
    return Checked(path, verdict, size, str(digest), f"{digest.algorithm}:{value}")
