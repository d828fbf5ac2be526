"""Verify: hash the finished files of an output folder again, and turn damaged files back into partials."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..model.dataclasses import dataclass
from ..model.digest import Digest
from ..model.entry import STATE_FOLDER
from ..model.ranges import NOTHING
from ..model.record import Published, Record
from ..sources.join import NameJoin
from ..storage.folder.disk import Disk, files_below
from ..storage.folder.hashing import digests_of
from ..storage.folder.repair import reopened
from ..storage.folder.run_lock import RunLock, state_folders
from ..storage.folder.tombstones import tombstones
from ..storage.ledger.sqlite import SqliteLedger
from .status import has_ledger, published_files, recorded_files

# Files that are queued for hashing at a time, to bound memory.
_PAGE = 1000


async def repair_files(root: Path, paths: Iterable[str]) -> list[tuple[Record, str | None]]:
    """Turn damaged files into partials that hold their correct bytes, for `get` to complete.

    Args:
        root: The output folder.
        paths: The damaged files, below `root`.

    Returns:
        For each file, the record of its partial, and the path of the copy that is kept if the user had
        edited the file, else None.

    Raises:
        FolderBusyError: A run is working in `root`.
        StorageError: A ledger cannot be read, or the disk does not allow the change.
    """
    damaged = set(paths)
    repaired: list[tuple[Record, str | None]] = []
    true = {record.path: record for record in published_files(root) if record.path in damaged}
    for state in state_folders(root):
        with RunLock(state):
            own = [r for r in recorded_files(state) if r.published and r.path in damaged]
            async with SqliteLedger(state / "ledger.sqlite3") as ledger:
                for record in own:
                    if record == true.get(record.path):
                        # repair each file once, even if several ledgers contain the same record
                        record_of_partial, kept = reopened(root, state, true.pop(record.path))
                        repaired.append((record_of_partial, kept))
                    else:
                        record_of_partial = replace(record, held=NOTHING, published=None)
                    await ledger.put(record_of_partial)
    return repaired


Verdict = Literal["ok", "damaged", "missing", "unpacked", "unchecked", "unreadable"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one file.

    Attributes:
        path: Path below the output folder.
        verdict: "unchecked" means that no digest is known; "unpacked", that the file is an archive that was
            unpacked and deleted.
        size: Size in bytes.
        expected: Expected digest, as `sha256:…`.
        found: Digest of the file on disk.
    """

    path: str
    verdict: Verdict
    size: int = 0
    expected: str | None = None
    found: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the verdict as a JSON-serializable dict, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def verify_folder(
    root: Path,
    listed: Mapping[str, Digest] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Checked]:
    """Hash every published file again, on all cores, and compare it with its recorded or listed digest.

    Args:
        root: The output folder.
        listed: Name → digest, to check against instead of the ledger. Names are matched with files as in
            `get --checksums`.
        progress: Called with the number of bytes after each read, in the thread that has read them.

    Yields:
        One verdict per file, in the order of the ledger or of `listed`.

    Raises:
        StorageError: A run owns a ledger, or it cannot be read.
    """
    wanted = _paired(root, listed) if listed is not None else _recorded(root)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = []
        for path, digest, published in wanted:
            waiting.append(pool.submit(_check, root, path, digest, published, progress))
            if len(waiting) > _PAGE:
                yield waiting.pop(0).result()
        for checked in waiting:
            yield checked.result()


_Wanted = tuple[str, Digest | None, Published | None]  # path, its digest, and how the file was published


def as_recorded(root: Path, paths: Iterable[str]) -> set[str]:
    """Return those of some files whose content is that of the ledger. Blocks.

    Args:
        root: The output folder.
        paths: Files below `root`.

    Raises:
        StorageError: A ledger cannot be read.
    """
    if not (wanted := set(paths)) or not has_ledger(root):
        return set()
    known = (each for each in _recorded(root) if each[0] in wanted and each[1] is not None)
    checked = (_check(root, *each, lambda _: None) for each in known)
    return {each.path for each in checked if each.verdict == "ok"}


def _paired(root: Path, listed: Mapping[str, Digest]) -> Iterator[_Wanted]:
    """Yield the path that each listed name refers to, with its digest. An unmatched name yields itself."""
    join = NameJoin[str](listed)
    records = published_files(root) if has_ledger(root) else ()
    known: dict[str, Published | None] = {record.path: record.published for record in records}
    pairs = [pair for path in _here(root, listed) for pair in join.add(path, path)]
    found = {name: path for path, name in [*pairs, *join.end()] if name is not None}
    for name, digest in listed.items():
        path = found.get(name, name)
        yield path, digest, known.get(path)


def _here(root: Path, listed: Iterable[str]) -> Iterator[str]:
    """Yield the files that listed names may refer to: finished files, or all files if there is no ledger."""
    if has_ledger(root):
        known = {record.path for record in published_files(root)}
        yield from sorted(known | {name for name in listed if (root / name).is_file()})
        return
    for place in files_below(root, (STATE_FOLDER, ".cache")):
        yield place.relative_to(root).as_posix()


def _recorded(root: Path) -> Iterator[_Wanted]:
    for record in published_files(root):
        known = [Digest(name, value) for name, value in record.digests.items()]
        best = [d for d in known if d.algorithm == "sha256"] or known
        yield record.path, best[0] if best else None, record.published


def expected(root: Path) -> tuple[int, int]:
    """Return the number of the finished files that the ledgers record, and their bytes. It may take a while.

    Raises:
        StorageError: A ledger cannot be read.
    """
    files = size = 0
    for record in published_files(root):
        files, size = files + 1, size + (record.length or 0)
    return files, size


def _check(
    root: Path,
    path: str,
    digest: Digest | None,
    published: Published | None,
    progress: Callable[[int], None],
) -> Checked:
    place = root / path
    try:
        seen = Disk().look(place)
        if seen is None:
            raise FileNotFoundError(path)
        size = seen.size
        if digest is None:
            return Checked(path, "unchecked", size)
        found, _ = digests_of(place, frozenset({digest.algorithm}), progress)
    except FileNotFoundError:
        tombstone = tombstones(root).get(path)
        if tombstone is not None and published in (None, tombstone):
            return Checked(path, "unpacked")
        return Checked(path, "missing", expected=str(digest) if digest else None)
    except OSError:
        return Checked(path, "unreadable", expected=str(digest) if digest else None)
    value = found[digest.algorithm]
    verdict: Verdict = "ok" if value == digest.hex else "damaged"
    return Checked(path, verdict, size, str(digest), f"{digest.algorithm}:{value}")
