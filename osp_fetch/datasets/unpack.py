"""Unpacks archives, all or nothing: members appear when an archive was read to its end.

An archive goes through `.osp-fetch/unpack/NAME/`: first its members are written into `tree/`, then what
was written is synced and a `plan` laid down, then the members are renamed to where they belong. Killed
before the plan, it starts again; killed after it, it goes on. `.osp-fetch/unpacked/NAME.json` says that
it is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..model.entry import STATE_FOLDER
from ..model.errors import DiskFull, StorageError
from ..storage import consumed, files
from . import reading, webdataset
from .splits import Archive

_BLOCK: Final = 1 << 20
_ROOM_EVERY: Final = 64 << 20  # bytes between two looks at the free space


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with one archive below `root`; everything in it can be sent to another process.

    `target`: the folder for its members, relative to `root`. `flat`: their folders are dropped. `shard`:
    bytes of a webdataset tar, 0 for files.
    """

    root: str
    archive: Archive
    target: str
    flat: bool = False
    shard: int = 0
    delete_after: bool = False
    min_free: int = 0
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Unpacked:
    """How one archive ended. `broken`: why, where it could not be read; `kept`: where what could be is."""

    name: str
    target: str
    members: int = 0
    bytes: int = 0
    already: bool = False
    deleted: bool = False
    broken: str | None = None
    kept: str | None = None

    def row(self) -> dict[str, Any]:
        """In plain values, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def unpack(job: Job) -> Unpacked:
    """Unpack one archive; a broken one is an outcome, not an error. Raises StorageError. Blocks."""
    try:
        return _Unpacking(job).run()
    except OSError as error:
        raise files.storage_error(error, f"{job.archive.name} cannot be unpacked") from None


class _Unpacking:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.root = Path(job.root)
        state = self.root / STATE_FOLDER
        self.work = state / "unpack" / job.archive.name
        self.tree, self.plan = self.work / "tree", self.work / "plan"
        self.done = state / "unpacked" / f"{job.archive.name}.json"
        self.broken = state / "broken" / job.archive.name
        self.pieces = [self.root / piece for piece in job.archive.pieces]
        self.disk = files.Disk()
        self._unlooked = 0

    def run(self) -> Unpacked:
        with _alone(self.work.with_name(self.work.name + ".lock")):
            seen = self._seen()
            before = _read(self.done)
            if before and (before["pieces"] == seen or before.get("deleted")):
                return self._finish(before, already=True)
            if self.job.archive.lacks:
                return Unpacked(self.job.archive.name, self.job.target, broken=self.job.archive.lacks)
            plan = _read(self.plan)
            if plan is None or plan["pieces"] != seen:
                try:
                    plan = self._extract(seen)
                except reading.BrokenArchive as error:
                    return self._keep(error)
            self._publish()
            self._record(plan)
            return self._finish(plan, already=False)

    def _seen(self) -> list[list[int]] | None:
        """How the pieces look; None where some are gone."""
        looks = [self.disk.look(piece) for piece in self.pieces]
        return [[look.size, look.mtime_ns] for look in looks if look] if all(looks) else None

    # reading

    def _extract(self, seen: list[list[int]] | None) -> dict[str, Any]:
        shutil.rmtree(self.work, ignore_errors=True)
        self.tree.mkdir(parents=True)
        members = reading.members(self.pieces, disks=self.job.archive.disks)
        if self.job.shard:
            count, total = webdataset.regroup(
                lambda: reading.members(self.pieces, disks=self.job.archive.disks),
                self.tree, Path(self.job.archive.stem).name, self.job.shard, self._room,
            )  # fmt: skip
        else:
            count, total = self._write(members)
        if self.job.durable:
            os.sync()  # one for all: thousands of small files would each wait for the disk
        plan = {"members": count, "bytes": total, "pieces": seen, "target": self.job.target}
        files.replace_text(self.plan, json.dumps(plan))
        if self.job.durable:
            self._sync(self.plan, self.work)
        return plan

    def _write(self, members: Iterator[reading.Member]) -> tuple[int, int]:
        count = total = 0
        known: set[Path] = set()
        for member in members:
            name = member.path.rsplit("/", 1)[-1] if self.job.flat else member.path
            place = self.tree / name
            if place.parent not in known:
                place.parent.mkdir(parents=True, exist_ok=True)
                known = known | {place.parent} if len(known) < 10_000 else {place.parent}
            if self.job.flat and place.exists():
                raise reading.BrokenArchive(f"two of its members are called {name}, which --flat cannot keep")
            with place.open("wb") as file:
                while block := member.read(_BLOCK):
                    self._room(len(block))
                    file.write(block)
                    total += len(block)
            count += 1
        return count, total

    def _room(self, count: int) -> None:
        """Raise DiskFull where `count` more bytes would leave less than `min_free`."""
        self._unlooked += count
        if self._unlooked >= _ROOM_EVERY or self._unlooked == count:
            self._unlooked = 1
            if self.disk.free(self.root) - count < self.job.min_free:
                raise DiskFull(f"{self.root}: there is no room to unpack {self.job.archive.name}; free some")

    def _keep(self, error: reading.BrokenArchive) -> Unpacked:
        """What could be read of a broken archive is kept where it mixes with nothing."""
        kept = None
        shutil.rmtree(self.broken, ignore_errors=True)
        if any(place.is_file() for place in self.tree.rglob("*")):
            self.broken.parent.mkdir(parents=True, exist_ok=True)
            self.tree.rename(self.broken)
            kept = self.broken.relative_to(self.root).as_posix()
        shutil.rmtree(self.work, ignore_errors=True)
        return Unpacked(self.job.archive.name, self.job.target, broken=str(error), kept=kept)

    # publishing

    def _publish(self) -> None:
        target = self.root / self.job.target
        inside = self.root.resolve()
        folders: set[Path] = set()
        # all conflicts before the first rename: nothing of an archive that cannot be published whole
        for place, final in self._moves(target):
            if final.is_symlink() or (final.exists() and not _same(place, final)):
                raise StorageError(
                    f"{self.job.archive.name}: {final} is there already and differs; unpack into another "
                    "folder with --into, or take it away"
                )
        for place, final in self._moves(target):
            if final.parent not in folders:
                if not final.parent.resolve().is_relative_to(inside):
                    raise StorageError(
                        f"{final.parent} leads out of {self.root} by a link; it is not followed"
                    )
                final.parent.mkdir(parents=True, exist_ok=True)
                folders.add(final.parent)
            place.replace(final)
        if self.job.durable:
            for folder in folders:
                self.disk.sync_folder(folder)

    def _moves(self, target: Path) -> Iterator[tuple[Path, Path]]:
        for folder, _, names in os.walk(self.tree):
            for name in names:
                place = Path(folder, name)
                yield place, target / place.relative_to(self.tree)

    def _record(self, plan: dict[str, Any]) -> None:
        self.done.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(self.done, json.dumps(plan))
        if self.job.durable:
            self._sync(self.done, self.done.parent)
        shutil.rmtree(self.work, ignore_errors=True)

    def _finish(self, plan: dict[str, Any], *, already: bool) -> Unpacked:
        deleted = bool(plan.get("deleted"))
        if self.job.delete_after and not deleted:
            # its members are durable by now; the mark comes first, or `get` would fetch it again
            self.done.parent.mkdir(parents=True, exist_ok=True)
            for piece, place in zip(self.job.archive.pieces, self.pieces, strict=True):
                self._mark(piece, place)
            self._record({**plan, "deleted": True})
            deleted = True
        if deleted:
            for place in self.pieces:
                place.unlink(missing_ok=True)
        name, target = self.job.archive.name, str(plan.get("target", self.job.target))
        return Unpacked(name, target, plan["members"], plan["bytes"], already, deleted)

    def _mark(self, piece: str, place: Path) -> None:
        look = self.disk.look(place)
        if look is not None:
            mark = consumed.mark_of(self.root, piece)
            mark.parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(mark, json.dumps({"size": look.size, "mtime_ns": look.mtime_ns}))
            self._sync(mark, mark.parent)

    def _sync(self, place: Path, folder: Path) -> None:
        fd = os.open(place, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.disk.sync_folder(folder)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait for whoever still works on the same archive: a killed run's worker may outlive it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        lock.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(_BLOCK):
            if block != second.read(_BLOCK):
                return False
    return True


def _read(place: Path) -> dict[str, Any] | None:
    try:
        read = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def why_broken(root: str, archive: Archive) -> str | None:
    """Why an archive cannot be read to its end; None where it can. Writes nothing. Blocks."""
    if archive.lacks:
        return archive.lacks
    try:
        for member in reading.members([Path(root, p) for p in archive.pieces], disks=archive.disks):
            while member.read(_BLOCK):
                pass
    except reading.BrokenArchive as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None
