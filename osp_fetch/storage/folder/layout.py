"""Where the files of one output folder lie, and whether that folder is still the one it was."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

from ...model.entry import RelativePath
from .disk import Disk, FolderGoneError

_KNOWN_MOST: Final = 10_000  # folders that are remembered as safe


class Layout:
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
        # strings: to make a Path takes longer than to ask the disk about it
        self._finals, self._partials, self._asides = (
            os.path.join(folder, "") for folder in (root, state / "partial", state / "aside")
        )

    def final(self, path: RelativePath) -> str:
        return self._finals + path

    def partial(self, path: RelativePath) -> str:
        return self._partials + path

    def aside(self, path: RelativePath) -> str:
        return self._asides + path

    def path_of(self, final: str) -> str:
        """Return the path below the output folder of a final name."""
        return final.removeprefix(self._finals)

    def check(self, place: str) -> None:
        """Raise OSError where the folder of `place` lies elsewhere than its name says."""
        known = os.path.dirname(place)
        if known in self._known:
            return
        folder = Path(known)
        # not even to elsewhere within: two names of one folder would be two files of one name
        base, real = (
            (self.state, self._own) if folder.is_relative_to(self.state) else (self.root, self._inside)
        )
        if self.disk.real(folder) != real / folder.relative_to(base):
            raise PermissionError(f"{folder} is, or lies behind, a symbolic link, which is not followed")
        if len(self._known) >= _KNOWN_MOST:
            self._known.clear()
        self._known.add(known)

    def prepare(self, place: str, *, durable: bool) -> None:
        """Make the folder of `place`, after a look that it is ours to write in. Raises OSError."""
        self.check(place)
        folder = Path(place).parent
        if not self.disk.is_folder(folder):
            self.check_there()
            self.disk.make_folder(folder, durable=durable, below=self.root)

    def open_partial(self, place: str, final: str, *, fresh: bool) -> int:
        """The descriptor of the partial at `place`, a new file where it is to be `fresh`. Raises OSError.

        Nothing is ever written through an inode that has another name: that would change a file of the
        user's.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        flags |= os.O_EXCL if fresh else 0
        # before a byte is written: it would only be refused a name when all of it is here
        self.check(final)
        self.check(place)
        try:
            if not fresh:
                self._unshare(place)
            return self.disk.open(place, flags)
        except FileExistsError:
            # the tail of an older, longer partial would be published with the new file; its inode is used
            # again,
            # because after a power loss the name could still be that of the old one
            flags = flags & ~os.O_EXCL | os.O_TRUNC
            self._release(place)
        except FileNotFoundError:
            self.prepare(place, durable=False)
        except (IsADirectoryError, NotADirectoryError):
            self.clear_way(place)
            self.prepare(place, durable=False)
        return self.disk.open(place, flags)

    def _unshare(self, partial: str) -> None:
        """Give a partial an inode of its own, where its file has another name as well."""
        if self._is_shared(partial):
            self.disk.copy(partial, f"{partial}.own")
            self.disk.replace(f"{partial}.own", partial)
            self.disk.sync_folder(Path(partial).parent)

    def _release(self, partial: str) -> None:
        """Take away what an earlier run left under the name of a new partial, where it cannot be emptied."""
        if Path(partial).is_dir():
            self.clear_way(partial)
        elif self._is_shared(partial):
            self.disk.unlink(partial)
            self.disk.sync_folder(Path(partial).parent)

    def _is_shared(self, partial: str) -> bool:
        existing = self.disk.existing(partial)
        return existing is not None and existing.kind == "file" and existing.names > 1

    def clear_way(self, partial: str) -> None:
        """Remove what another manifest left where the folder, or the file, `partial` has to be."""
        if Path(partial).is_dir():
            shutil.rmtree(partial)
        for above in Path(partial).parents:
            if above == self.state:
                return
            if above.is_file():
                above.unlink()

    def check_there(self) -> None:
        """Raise FolderGoneError where the output folder is not the one it was."""
        try:
            there = self.disk.identity(self.state)
        except OSError:
            there = None
        if there != self._identity:
            raise FolderGoneError(
                f"{self.root} is no longer the folder it was (unmounted, moved or removed?); bring it back "
                "and run the same command again"
            )

    def explained(self, error: OSError) -> OSError:
        """`error`, or what lies behind it: that the whole folder is gone."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            self._known.clear()
            try:
                self.check_there()
            except FolderGoneError as gone:
                return gone
        return error
