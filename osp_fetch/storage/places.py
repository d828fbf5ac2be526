"""Where the files of one output folder lie, and whether that folder is still the one it was."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from ..model.entry import RelativePath
from .files import Disk, FolderGone

_KNOWN_MOST: Final = 10_000  # folders that are remembered as safe


class Places:
    """The output folder `root`, and in `state` the partials and what was set aside. For any thread.

    A folder that vanished is not made anew: below an unmounted mount point that would fill another
    disk. A symbolic link below `root` is not followed.
    """

    def __init__(self, root: Path, state: Path, disk: Disk) -> None:
        self.root, self.state, self.disk = root, state, disk
        self._identity = disk.identity(state)
        self._inside = disk.real(root)
        self._own = disk.real(state)
        self._known: set[str] = set()
        self._partials, self._asides = state / "partial", state / "aside"

    def final(self, path: RelativePath) -> Path:
        return self.root / path

    def partial(self, path: RelativePath) -> Path:
        return self._partials / path

    def aside(self, path: RelativePath) -> Path:
        return self._asides / path

    def check(self, place: Path) -> None:
        """Raise OSError where the folder of `place` lies elsewhere than its name says."""
        known = os.path.dirname(place)
        if known in self._known:
            return
        folder = place.parent
        # not even to elsewhere within: two names of one folder would be two files of one name
        base, real = (
            (self.state, self._own) if folder.is_relative_to(self.state) else (self.root, self._inside)
        )
        if self.disk.real(folder) != real / folder.relative_to(base):
            raise PermissionError(f"{folder} is, or lies behind, a symbolic link, which is not followed")
        if len(self._known) >= _KNOWN_MOST:
            self._known.clear()
        self._known.add(known)

    def prepare(self, place: Path, *, durable: bool) -> None:
        """Make the folder of `place`, after a look that it is ours to write in. Raises OSError."""
        self.check(place)
        if not self.disk.is_folder(place.parent):
            self.check_there()
            self.disk.make_folder(place.parent, durable=durable, below=self.root)

    def clear_way(self, partial: Path) -> None:
        """Remove what another manifest left where the folder, or the file, `partial` has to be."""
        if partial.is_dir():
            shutil.rmtree(partial)
        for above in partial.parents:
            if above == self.state:
                return
            if above.is_file():
                above.unlink()

    def check_there(self) -> None:
        """Raise FolderGone where the output folder is not the one it was."""
        try:
            there = self.disk.identity(self.state)
        except OSError:
            there = None
        if there != self._identity:
            raise FolderGone(
                f"{self.root} is no longer the folder it was (unmounted, moved or removed?); bring it back "
                "and run the same command again"
            )

    def explained(self, error: OSError) -> OSError:
        """`error`, or what lies behind it: that the whole folder is gone."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            self._known.clear()
            try:
                self.check_there()
            except FolderGone as gone:
                return gone
        return error
