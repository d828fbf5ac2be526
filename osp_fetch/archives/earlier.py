"""What an earlier version of an archive has left on the disk: members, and pieces beside newer ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from ..model.entry import STATE_FOLDER
from ..model.errors import StorageError
from ..storage.folder import ownership
from ..storage.folder.disk import Disk
from . import marks
from .marks import Mark, MarkFile, Piece, UnpackedFile

MIXED: Final = (
    "some of its pieces are newer than those that were unpacked, and the others may be of the older version; "
    "run osp-fetch get … --update --unpack"
)
"""Why an archive for which `is_mixed` is True is not unpacked."""


def is_mixed(mark: Mark | None, places: Sequence[Path], pieces: Sequence[Piece | None]) -> bool:
    """Return whether some pieces of a split archive are those that were unpacked, and others are not.

    A piece that was fetched again with the same digest is no other one.

    Args:
        mark: the mark of the archive, None if it was not unpacked.
        places: its pieces, all of which exist.
        pieces: how they look now.
    """
    if mark is None or len(mark.pieces) != len(places):
        return False
    same = [
        (now is not None and now.digest is not None and (now.size, now.digest) == (then.size, then.digest))
        or marks.same(place, then)
        for place, now, then in zip(places, pieces, mark.pieces, strict=True)
    ]
    return any(same) and not all(same)


def note_of(changed: int, left_out: int) -> str | None:
    """Return the note on files of an earlier version that were moved aside, None if there are none.

    Args:
        changed: how many the new version changes.
        left_out: how many it does not contain.
    """
    parts = []
    if changed:
        files = f"{changed:,} changed file{'s' * (changed != 1)}"
        parts.append(f"{files} of its earlier version are kept in {ownership.KEPT_FOLDER}")
    if left_out:
        files = f"{left_out:,} file{'s' * (left_out != 1)} that it no longer contains"
        parts.append(f"{files} moved to {ownership.KEPT_FOLDER}")
    return "; ".join(parts) or None


class EarlierMembers:
    """The members of an earlier version of an archive in the same target. All methods block.

    Args:
        root: the output folder.
        name: the name of the archive.
        target: the folder of its members, relative to the output folder.
    """

    def __init__(self, root: Path, name: str, target: str) -> None:
        file = MarkFile(root, name)
        self._mark = mark = file.read()
        is_there = mark is not None and mark.target == target
        self._root, self._name, self._target = root, name, target
        self._members = {member.path: member for member in file.members()} if is_there else {}

    def has(self, looks: UnpackedFile) -> bool:
        """Return whether a file is still as the earlier version of the archive left it."""
        return self._members.get(looks.path) == looks

    def left_out(self, plan: Mark, listed: Collection[UnpackedFile], disk: Disk) -> list[Path]:
        """Return the unchanged files of members that the new version does not contain.

        Files in another form, such as those beside the tars for WebDataset, are no other version.

        Args:
            plan: how the new version is unpacked.
            listed: its members.
            disk: looks up the files.
        """
        mark = self._mark
        if mark is None or (mark.flat, bool(mark.shard)) != (plan.flat, bool(plan.shard)):
            return []
        new = {member.path for member in listed}
        base = self._root / self._target
        found = []
        for member in self._members.values():
            state = disk.look(base / member.path) if member.path not in new else None
            if state is not None and tuple(state) == (member.size, member.mtime_ns):
                found.append(base / member.path)
        shared = dict(self.also_in(found))
        return [place for place in found if place not in shared]

    def also_in(self, places: Collection[Path]) -> Iterator[tuple[Path, str]]:
        """Yield those of `places` that are members of another archive, too, and its name."""
        wanted = set(places)
        folder = self._root / STATE_FOLDER / "unpacked"
        for place in sorted(folder.rglob("*.json")) if wanted else ():
            name = place.relative_to(folder).as_posix().removesuffix(".json")
            mark = Mark.read(place) if name != self._name else None
            if mark is None or not self._overlaps(mark.target):
                continue
            base = self._root / mark.target
            for member in MarkFile(self._root, name).members():
                if base / member.path in wanted:
                    yield base / member.path, name

    def refuse_shared(self, places: Collection[Path]) -> None:
        """Check that no file of `places`, which the new version changes, belongs to another archive, too.

        Raises:
            StorageError: one does.
        """
        for place, other in self.also_in(places):
            raise StorageError(
                f"{self._name}: its new version changes {place}, which is a member of {other}, too; unpack "
                "one of them into another folder with --into"
            )

    def _overlaps(self, target: str) -> bool:
        mine, other = Path(self._target), Path(target)
        return mine == other or mine in other.parents or other in mine.parents
