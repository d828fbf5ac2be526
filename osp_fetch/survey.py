"""Looking without fetching: what a run would do, what a folder holds, whether it is still right."""

from __future__ import annotations

import heapq
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .datasets.splits import is_piece
from .model import links
from .model.digest import Digest
from .model.entry import Entry
from .model.protocols import Row
from .model.ranges import NOTHING
from .model.record import Published, Record
from .storage import consumed
from .storage import repair as repairing
from .storage.files import Disk
from .storage.folder import RunLock, owner_of, state_folder, state_folders
from .storage.hashing import digests_of
from .storage.ledger import SqliteLedger
from .storage.rows import LedgerReader

_PAGE = 1000
_BAD_SHOWN = 100
_LOOKED_AT = 100_000


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
    foreign: list[str] = field(default_factory=list)  # here, but not by a run of ours

    @property
    def missing_bytes(self) -> int:
        return max(0, self.bytes - self.present_bytes - self.held_bytes)

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        names = [name for name in self.__slots__ if name != "hosts"]
        values = {name: getattr(self, name) for name in names}
        return {**values, "hosts": dict(self.hosts), "missing_bytes": self.missing_bytes}


def plan(rows: Iterable[Row], root: Path, shard: tuple[int, int] | None = None) -> Plan:
    """Read all of `rows` and hold them against what `root` has. Touches neither network nor folder."""
    made = Plan(free=_free(root))
    last = _json(state_folder(root, shard) / "status.json") or {}
    made.bytes_per_second = float(last.get("bytes_per_second") or 0.0)
    states = [state_folder(root, shard), *state_folders(root)]
    places = dict.fromkeys(state / "ledger.sqlite3" for state in states)
    readers = [LedgerReader(place) for place in places if place.is_file()]
    there = root.is_dir()
    try:
        rows = iter(rows)
        while page := list(islice(rows, _PAGE)):
            entries = [row for row in page if isinstance(row, Entry)]
            look = there and made.files < _LOOKED_AT  # a look at the disk for each of many takes hours
            for bad in (row for row in page if not isinstance(row, Entry)):
                made.bad_rows += 1
                if len(made.problems) < _BAD_SHOWN:
                    made.problems.append(str(bad))
            records: dict[str, Record] = {}
            for reader in reversed(readers):
                records |= reader.look([entry.path for entry in entries])
            for entry in entries:
                _count(made, entry, records.get(entry.path))
                if look and entry.path not in records and (root / entry.path).exists():
                    made.foreign.append(entry.path)
    finally:
        for reader in readers:
            reader.close()
    return made


def _count(made: Plan, entry: Entry, record: Record | None) -> None:
    made.files += 1
    made.digests += entry.digest is not None
    made.resolves += "/resolve/" in entry.urls[0] and not (record and record.published)
    made.hosts[links.host(entry.urls[0]).removesuffix(":443").removesuffix(":80")] += 1
    length = entry.size if entry.size is not None else record.length if record else None
    if length is None:
        made.unsized += 1
    made.bytes += length or 0
    if is_piece(entry.path):
        made.archives += 1
        made.archives_bytes += length or 0
    if record and record.published:
        made.present += 1
        made.present_bytes += record.published.size
    elif record:
        made.begun += 1
        made.held_bytes += len(record.held)
    for url in entry.urls:
        if "?" in url and (dies := links.expiry(url)) is not None:
            made.expires_first = min(made.expires_first or dies, dies)
            made.expires_last = max(made.expires_last or dies, dies)


def _free(root: Path) -> int:
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


@dataclass(slots=True)
class FolderStatus:
    """What a folder's ledgers say, and the run in it, where there is one."""

    published: int = 0
    published_bytes: int = 0
    begun: list[dict[str, Any]] = field(default_factory=list)
    held_bytes: int = 0
    owner: str | None = None
    run: dict[str, Any] | None = None  # the last `status.json`

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def status(root: Path) -> FolderStatus:
    """What `root` holds, by its ledgers, and how the run in it goes, by what that wrote last."""
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
        found.published += 1
        found.published_bytes += record.published.size if record.published else 0
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


def sums(root: Path) -> Iterator[str]:
    """Lines of a SHA256SUMS for the published files, as `sha256sum -c` reads them."""
    for record in published(root):
        if "sha256" in record.digests:
            yield f"{record.digests['sha256']}  {record.path}"


async def repair(root: Path, paths: Iterable[str]) -> list[Record]:
    """Make partials of the damaged files `paths`, with what is right of them held, for `get` to mend.

    Raises FolderBusy while a run works in `root`. Gives the records of the partials.
    """
    damaged, mended = set(paths), []
    true = {record.path: record for record in published(root) if record.path in damaged}
    for state in state_folders(root):
        with RunLock(state):
            own = [r for r in records(state) if r.published and r.path in damaged]
            async with SqliteLedger(state / "ledger.sqlite3") as ledger:
                for record in own:
                    if record == true.get(record.path):
                        # one ledger mends it: another that says the same must not try again
                        reopened = repairing.reopened(root, state, true.pop(record.path))
                        mended.append(reopened)
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
    """Hash every published file again, on all cores, against the ledger, or against `listed`."""
    wanted = listed.items() if listed is not None else _recorded(root)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = []
        for path, digest in wanted:
            waiting.append(pool.submit(_check, root, path, digest))
            if len(waiting) > _PAGE:
                yield waiting.pop(0).result()
        for checked in waiting:
            yield checked.result()


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
        if consumed.look(root, path):
            return Checked(path, "unpacked")
        return Checked(path, "missing", expected=str(digest) if digest else None)
    except OSError:
        return Checked(path, "unreadable", expected=str(digest) if digest else None)
    value = found[digest.algorithm]
    verdict: Verdict = "ok" if value == digest.hex else "damaged"
    return Checked(path, verdict, size, str(digest), f"{digest.algorithm}:{value}")
