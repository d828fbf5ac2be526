"""Unpacks one archive, all or nothing: its members appear only after it was read to its end.

1. The members are written into `.osp-fetch/unpack/NAME/tree/` and synced.
2. `plan` is written beside `tree/`: the archive, the target, and the list of members.
3. The members are renamed to their final names, never over another file.
4. The list of members is written, and the archive is appended to the log of unpacked archives.
5. The mark `.osp-fetch/unpacked/NAME.json` is written, which states that the archive is unpacked.

After a kill before step 2, unpacking starts again. After a later kill, the plan is finished first, even if
the next command asks for another target. `storage.folder.ownership` decides what may be replaced or deleted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER
from ..model.errors import DiskFullError, StorageError
from ..model.record import Published
from ..storage.folder import ownership
from ..storage.folder.disk import Disk, files_below, storage_error
from ..storage.folder.durability import FileSystemSync
from ..storage.folder.ownership import Decision
from ..storage.folder.tombstones import tombstones
from . import marks, webdataset
from .alone import alone
from .earlier import MIXED, EarlierMembers, is_mixed, note_of
from .marks import Mark, MarkFile, Piece, UnpackedFile, UnpackedOrder
from .read import BrokenArchiveError, Findings, Member, members
from .splits import Archive

_BLOCK: Final = 1 << 20  # bytes per read
_ROOM_EVERY: Final = 64 << 20  # bytes written between two checks of the free space
_NAMED: Final = 3  # members that a message lists
_FEWER: Final = "two names may be one on this file system; unpack on another one"


@dataclass(frozen=True, slots=True)
class UnpackJob:
    """The request to unpack one archive; it can be pickled for a worker process.

    The paths of the archive and the target are relative to `root`, the output folder. `flat` drops the
    members' folders. `shard` is the size of a WebDataset tar in bytes, 0 to write the members as files.
    `min_free` bytes stay free on the disk. `digests` has `sha256:…` of each piece, None if it is not known.
    `is_current`: the source has been asked for each piece whether it has changed.
    """

    root: str
    archive: Archive
    target: str
    flat: bool = False
    shard: int = 0
    delete_after: bool = False
    min_free: int = 0
    durable: bool = True
    digests: tuple[str | None, ...] = ()
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The result of unpacking one archive.

    `members` is their number and `bytes` their total size. `already`: an earlier run had unpacked the
    archive. `broken` states why it was not unpacked as requested, None on success. `kept` is the folder with
    the members that could be read of a broken archive. `note` is another remark for the user.
    """

    name: str
    target: str
    members: int = 0
    bytes: int = 0
    already: bool = False
    deleted: bool = False
    broken: str | None = None
    kept: str | None = None
    note: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the result as plain values, for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


def unpack(job: UnpackJob, disk: Disk | None = None) -> Unpacked:
    """Unpack one archive. Blocks. A broken archive is a result, not an error.

    Args:
        job: the archive and what to do with it.
        disk: the file operations; replaced in tests.

    Raises:
        StorageError: a write failed, a member conflicts with another file, or the archive changed.
        DiskFullError: the disk is full, or would have less than `min_free` bytes left.
    """
    try:
        return _Unpacking(job, disk or Disk()).run()
    except OSError as error:
        raise storage_error(error, f"{job.archive.name} cannot be unpacked") from None


class _Unpacking:
    def __init__(self, job: UnpackJob, disk: Disk) -> None:
        self.job, self.disk = job, disk
        self.name = job.archive.name
        self.root = Path(job.root)
        self.state = self.root / STATE_FOLDER
        self.work = self.state / "unpack" / self.name
        self.tree, self.plan = self.work / "tree", self.work / "plan"
        self.plan_list = self.work / "members.gz"
        self.file = MarkFile(self.root, self.name)
        self.places = [self.root / piece for piece in job.archive.pieces]
        self._unlooked = 0
        self._older = self._left_out = 0  # files of an earlier version that were moved aside: changed, gone

    def run(self) -> Unpacked:
        with alone(self.work.with_name(self.work.name + ".lock")):
            if plan := self._left_plan():
                self._finish_plan(plan, repeated=True)
            mark = self.file.read()
            pieces = self._look()
            known = mark is not None and self._fits(mark) and self._is_archive_of(mark)
            if mark is not None and known and not self.file.missing(mark, self.disk, most=1):
                # the mark states `deleted` although the archive is there: a run was killed while deleting it,
                # or the archive has come back, which is no request to delete it again
                return self._finish(mark, already=True, delete=mark.deleted and self._is_untouched(mark))
            if not all(pieces):
                return self._without_archive(mark)
            if self.job.archive.problem:
                return self._failed(self.job.archive.problem)
            if not self.job.is_current and is_mixed(mark, self.places, pieces):
                return self._failed(MIXED)
            try:
                plan = self._extract([piece for piece in pieces if piece])
            except BrokenArchiveError as error:
                return self._keep(error, pieces)
            return self._finish(self._finish_plan(plan), already=False)

    # comparing marks with the disk

    def _look(self) -> list[Piece | None]:
        digests = self.job.digests or (None,) * len(self.places)
        return [marks.look(place, digest) for place, digest in zip(self.places, digests, strict=True)]

    def _fits(self, mark: Mark) -> bool:
        """Return whether `mark` was made with the job's target and format."""
        job = self.job
        return (mark.target, mark.flat, mark.shard) == (job.target, job.flat, job.shard)

    def _is_archive_of(self, mark: Mark) -> bool:
        """Return whether the pieces on the disk are those that were unpacked; ignore deleted ones."""
        if len(mark.pieces) != len(self.places):
            return False
        there = [(p, then) for p, then in zip(self.places, mark.pieces, strict=True) if os.path.lexists(p)]
        return bool(there) and all(marks.same(place, then) for place, then in there)

    def _is_untouched(self, mark: Mark) -> bool:
        """Return whether the pieces on the disk are the very files that were unpacked, not later copies."""
        pieces = zip(self.places, mark.pieces, strict=True)
        return all(marks.is_untouched(place, then) for place, then in pieces if os.path.lexists(place))

    def _failed(self, why: str) -> Unpacked:
        return Unpacked(self.name, self.job.target, broken=why)

    def _without_archive(self, mark: Mark | None) -> Unpacked:
        """Return the result for an archive of which some or all pieces are missing."""
        if mark is None or not mark.deleted:
            gone = ", ".join(str(p.relative_to(self.root)) for p in self.places if not p.is_file())
            return self._failed(self.job.archive.problem or f"it no longer exists ({gone}); run get again")
        if any(os.path.lexists(place) for place in self.places) and not self._is_archive_of(mark):
            problem = self.job.archive.problem or "only some pieces of a newer archive exist; run get again"
            return self._failed(problem)
        again = f"to restore them, run osp-fetch get … --again '{self.name}*' --unpack"
        if not self._fits(mark) and mark.pieces:
            return self._failed(
                f"it was unpacked into {mark.target or '.'} with other options and deleted, so it cannot be "
                f"unpacked again; {again}"
            )
        if lost := self.file.missing(mark, self.disk):
            named = ", ".join(lost[:_NAMED]) + (", …" if len(lost) > _NAMED else "")
            count = marks.count_of(lost)
            return self._failed(
                f"it was deleted, and {count} of its files are gone or changed ({named}); {again}"
            )
        return Unpacked(self.name, mark.target, mark.members, mark.bytes, already=True, deleted=True)

    # extracting

    def _extract(self, pieces: list[Piece]) -> Mark:
        self.disk.remove_tree(self.work)
        self.tree.mkdir(parents=True)
        with closing(FileSystemSync(self.tree)) as disk:  # opened before the first write, to see its error
            return self._extracted(pieces, disk)

    def _extracted(self, pieces: list[Piece], disk: FileSystemSync) -> Mark:
        disks, findings = self.job.archive.disks, Findings()
        if self.job.shard:
            count, _ = webdataset.regroup(
                lambda: members(self.places, disks=disks, findings=findings),
                self.tree, lambda name: webdataset.LocalTar(self.tree / name),
                Path(self.job.archive.stem).name, self.job.shard, self._room,
            )  # fmt: skip
        else:
            count = self._write(members(self.places, disks=disks, findings=findings))
        if not all(marks.same(place, then) for place, then in zip(self.places, pieces, strict=True)):
            raise StorageError(f"{self.name} changed while it was read; run the same command again")
        listed = [self._looks(place) for place in files_below(self.tree)]
        if len(listed) != count and not (self.job.shard and listed):
            raise StorageError(f"{self.name}: {len(listed)} of {count} files are on the disk; {_FEWER}")
        if self.job.durable or self.job.delete_after:
            # one call: fsync alone would wait for the disk once for each of thousands of files
            disk.sync(self.tree / member.path for member in listed)
        plan = Mark(
            tuple(pieces), self.job.target, self.job.flat, self.job.shard, count, sum(f.size for f in listed),
            len(listed), durable=self.job.durable or self.job.delete_after, doubt=findings.doubt,
        )  # fmt: skip
        marks.write_members(self.plan_list, listed)
        self.disk.put_text(self.plan, plan.to_text())
        return plan

    def _write(self, members: Iterator[Member]) -> int:
        """Write `members` into the tree, and return the number of distinct names."""
        written: set[int] = set()  # hashes of names: a member that occurs twice counts once
        known: set[Path] = set()
        for member in members:
            name = member.path.rsplit("/", 1)[-1] if self.job.flat else member.path
            place = self.tree / name
            if place.parent not in known:
                place.parent.mkdir(parents=True, exist_ok=True)
                known = known | {place.parent} if len(known) < 10_000 else {place.parent}
            if self.job.flat and place.exists():
                raise BrokenArchiveError(f"two of its members are named {name}; unpack without --flat")
            with place.open("wb") as file:
                while block := member.read(_BLOCK):
                    self._room(len(block))
                    file.write(block)
            written.add(hash(name))
        return len(written)

    def _looks(self, place: Path) -> UnpackedFile:
        look = self.disk.look(place)
        if look is None:
            raise StorageError(f"{place} has vanished; run the same command again")
        return UnpackedFile(place.relative_to(self.tree).as_posix(), *look)

    def _room(self, size: int) -> None:
        """Raise DiskFullError if `size` more bytes would leave less than `min_free` bytes free."""
        self._unlooked += size
        if self._unlooked >= _ROOM_EVERY or self._unlooked == size:
            self._unlooked = 1
            if self.disk.free(self.root) - size < self.job.min_free:
                raise DiskFullError(f"{self.root}: too little space to unpack {self.name}; free some space")

    def _keep(self, error: BrokenArchiveError, pieces: list[Piece | None]) -> Unpacked:
        """Move the members that could be read of a broken archive to `.osp-fetch/broken/NAME`.

        Members kept of another archive of that name are not replaced: they are renamed to `NAME.1` and so on.
        """
        kept, folder = None, self.state / "broken" / self.name
        if any(True for _ in files_below(self.tree)):
            which = folder.with_name(f"{folder.name}.archive")
            this = Mark(tuple(piece for piece in pieces if piece), "")
            if folder.exists() and not marks.are_alike(Mark.read(which), this):
                number = next(
                    n for n in itertools.count(1) if not folder.with_name(f"{folder.name}.{n}").exists()
                )
                self.disk.rename_new(folder, folder.with_name(f"{folder.name}.{number}"))
            self.disk.remove_tree(folder)
            self.disk.make_folder(folder.parent, durable=False)
            self.disk.put_text(which, this.to_text())
            self.disk.rename_new(self.tree, folder)
            kept = folder.relative_to(self.root).as_posix()
        self.disk.remove_tree(self.work)
        return Unpacked(self.name, self.job.target, broken=str(error), kept=kept)

    # publishing

    def _left_plan(self) -> Mark | None:
        """Return the plan of a killed run, or None."""
        plan = Mark.read(self.plan)
        return plan if plan is not None and marks.is_whole(self.plan_list, plan) else None

    def _finish_plan(self, plan: Mark, *, repeated: bool = False) -> Mark:
        """Publish all members of `plan` into the plan's target, and mark the archive as unpacked.

        Args:
            plan: what is to be published.
            repeated: whether a killed process may have published it.
        """
        with alone(self.state / "publish.lock"):
            try:
                found = self._publish(plan)
            except StorageError:
                if all((self.tree / m.path).exists() for m in marks.read_members(self.plan_list)):
                    # no member is published: drop the plan, so that the next command can choose a new target
                    self.disk.remove_tree(self.work)
                raise
            self.file.write_members(found)
            # before the mark: a process that is killed in between finishes its plan again
            UnpackedOrder(self.root).add(self.name, plan, repeated=repeated)
        self.file.write(plan)
        self.disk.remove_tree(self.work)
        return plan

    def _publish(self, plan: Mark) -> list[UnpackedFile]:
        """Rename the members to their final names, and return their state there.

        All conflicts are found, and raised, before the first rename: an archive is published completely or
        not.
        """
        target = self.root / plan.target
        folders = _Folders(self.root, self.disk, self.name)
        listed = list(marks.read_members(self.plan_list))
        if len(listed) != plan.files:
            raise StorageError(f"{self.plan_list} cannot be read; run the same command again")
        moves: list[tuple[Path, Path]] = []
        older: list[Path] = []  # files of an earlier version
        found: list[UnpackedFile] = []
        before = EarlierMembers(self.root, self.name, plan.target)
        for member in listed:
            place, final = self.tree / member.path, target / member.path
            folders.check(final.parent)
            decision, looks = self._decide(place, final, member, before)
            if decision is Decision.REFUSE:
                raise self._conflict(final)
            if decision in (Decision.WRITE, Decision.KEEP):
                moves.append((place, final))
            if decision is Decision.KEEP:
                older.append(final)
            found.append(looks)
        before.refuse_shared(older)
        left_out = before.left_out(plan, listed, self.disk)
        self._move(moves, older + left_out, durable=plan.durable)
        for folder in {(target / member.path).parent for member in listed} if plan.durable else ():
            if folder.exists():  # also where a killed run has moved its members
                self.disk.sync_folder(folder)
        self._older, self._left_out = len(older), len(left_out)
        return found

    def _decide(
        self, place: Path, final: Path, member: UnpackedFile, before: EarlierMembers
    ) -> tuple[Decision, UnpackedFile]:
        """Return what to do with one member, and the resulting state of its final name."""
        existing = self.disk.existing(final)
        if existing is None:
            # also gone from the tree: a killed run published it, and the user then removed it
            return (Decision.WRITE if place.exists() else Decision.LEAVE), member
        if not place.exists():
            return Decision.LEAVE, member
        looks = UnpackedFile(member.path, existing.size, existing.mtime_ns)
        same = existing.kind == "file" and existing.size == member.size and self.disk.same(place, final)
        decision = ownership.over_member(existing, same_bytes=same, own=before.has(looks))
        return decision, member if decision is Decision.KEEP else looks

    def _move(self, moves: list[tuple[Path, Path]], older: list[Path], *, durable: bool) -> None:
        """Set the files of an earlier version aside, and rename the members; undo both after an error."""
        done: list[tuple[Path, Path]] = []
        try:
            for final in older:
                kept = ownership.set_aside(self.disk, self.root, final.relative_to(self.root).as_posix())
                done.append((final, self.root / kept))
            for place, final in moves:
                self.disk.make_folder(final.parent, durable=durable, below=self.root)
                self.disk.rename_new(place, final)
                done.append((place, final))
        except OSError as error:  # another process has created a file under a final name, for example
            for before, now in reversed(done):
                with suppress(OSError):
                    self.disk.rename_new(now, before)
            if isinstance(error, FileExistsError):
                raise self._conflict(final) from None
            raise

    def _conflict(self, final: Path) -> StorageError:
        return StorageError(
            f"{self.name}: {final} already exists and differs; remove it, or unpack elsewhere with --into"
        )

    # deleting

    def _finish(self, mark: Mark, *, already: bool, delete: bool = False) -> Unpacked:
        deleted, note = False, note_of(self._older, self._left_out)
        if self.job.delete_after or delete:
            if not mark.durable:
                places = (self.root / mark.target / member.path for member in self.file.members())
                with closing(FileSystemSync(self.root)) as disk:
                    disk.sync(place for place in places if place.exists())
                mark = replace(mark, durable=True)
                self.file.write(mark)
            deleted = self._delete(mark)
            if not deleted:
                why = mark.doubt or "not all of its files were found, or it is a symbolic link"
                note = f"it is not deleted: {why}"
        elif mark.doubt and not already:
            note = f"{note}; {mark.doubt}" if note else mark.doubt
        return Unpacked(self.name, mark.target, mark.members, mark.bytes, already, deleted, note=note)

    def _delete(self, mark: Mark) -> bool:
        """Delete the archive if every member is safe, and return whether it was deleted."""
        decision = ownership.of_unpacked(
            same_archive=self._is_archive_of(mark),
            members_there=not self.file.missing(mark, self.disk, most=1),
            members_durable=mark.durable,
            is_link=any(place.is_symlink() for place in self.places),
            is_doubtful=bool(mark.doubt),
        )
        if decision is not Decision.REMOVE:
            return False
        # write the tombstones first: without them, `get` would fetch a deleted archive again
        for path, then in zip(self.job.archive.pieces, mark.pieces, strict=True):
            tombstones(self.root).put(path, Published(then.size, then.mtime_ns), durable=True)
        if not mark.deleted:
            self.file.write(replace(mark, deleted=True))
        for place, then in zip(self.places, mark.pieces, strict=True):
            if os.path.lexists(place) and marks.same(place, then):
                self.disk.unlink(place)
        return True


class _Folders:
    """Checks that the folders of members exist, or can be created, inside the output folder."""

    def __init__(self, root: Path, disk: Disk, archive: str) -> None:
        self._root, self._disk, self._archive = root, disk, archive
        self._known: set[Path] = {root}

    def check(self, folder: Path) -> None:
        """Raise StorageError if `folder` or a parent is a symbolic link, or exists and is not a folder."""
        if folder in self._known:
            return
        self.check(folder.parent)
        existing = self._disk.existing(folder)
        if existing is not None and existing.kind == "link":
            raise StorageError(
                f"{folder} is a symbolic link, which is not followed; unpack into another folder with --into"
            )
        if existing is not None and existing.kind != "folder":
            raise StorageError(
                f"{self._archive}: {folder} already exists and differs: its members need a folder of that "
                "name; unpack into another folder with --into, or remove it"
            )
        self._known.add(folder)
