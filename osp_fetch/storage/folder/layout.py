"""Layout of an output folder: paths of its files, and checks that the folder is still the same."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Final

from ...model.entry import RelativePath
from .disk import Disk, FolderGoneError

# Number of folders that are remembered as checked. The bound limits memory for manifests with many folders.
_KNOWN_MOST: Final = 10_000
# Seconds for which the check of a folder holds: someone may move it to another disk then, and leave a link.
_CHECKED: Final = 0.2
# Seconds by which the time of a file may be behind: the clock for files ticks every few milliseconds.
_CLOCKS: Final = 0.1


def folder_of(place: str) -> str:
    """Return the folder of an absolute path; `os.path.dirname` takes four times as long."""
    return place.rpartition("/")[0] or "/"


def temporary_name(state: Path, name: str) -> str:
    """Return a path for a copy that is to become `name`, in no folder where files choose their names."""
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(state, f"copy-{digest[:32]}")


class Layout:
    """The paths of published files, partials and files that were set aside. Usable in any thread.

    An output folder that has vanished is not created again: under an unmounted mount point that would fill
    another disk. Symbolic links below `root` are not followed.

    Args:
        root: the output folder.
        state: the state folder, which holds partials and files that were set aside.
        disk: system calls.

    Raises:
        OSError: `state` cannot be read.
    """

    def __init__(self, root: Path, state: Path, disk: Disk) -> None:
        self.root, self.state, self.disk = root, state, disk
        self._identity = disk.identity(state)
        self._inside = disk.real(root)
        self._own = disk.real(state)
        self._known: dict[str, float] = {}  # folder → when it was checked, in seconds of `time.monotonic`
        self._begun = time.time() - _CLOCKS
        # strings, because creating a Path takes longer than a system call on it
        self._finals, self._partials, self._asides = (
            os.path.join(folder, "") for folder in (root, state / "partial", state / "aside")
        )

    def final(self, path: RelativePath) -> str:
        """Return the final path of `path`."""
        return self._finals + path

    def partial(self, path: RelativePath) -> str:
        """Return the path of the partial of `path`."""
        return self._partials + path

    def aside(self, path: RelativePath) -> str:
        """Return the path where the bytes of `path` are kept whose expected digest is probably wrong."""
        return self._asides + path

    def path_of(self, final: str) -> str:
        """Return the path below the output folder of the final path `final`."""
        return final.removeprefix(self._finals)

    def check(self, place: str) -> None:
        """Check that no symbolic link leads from the folder of `place` to another folder.

        Raises:
            PermissionError: the folder is a symbolic link, or is reached through one.
            OSError: the folder cannot be examined.
        """
        known, now = folder_of(place), time.monotonic()
        if now - self._known.get(known, -_CHECKED) < _CHECKED:
            return
        folder = Path(known)
        # links within the output folder are refused, too: two manifest paths could be one file
        base, real = (
            (self.state, self._own) if folder.is_relative_to(self.state) else (self.root, self._inside)
        )
        if self.disk.real(folder) != real / folder.relative_to(base):
            raise PermissionError(
                f"{folder} is, or is reached through, a symbolic link, which osp-fetch does not follow; use "
                "a real folder"
            )
        if len(self._known) >= _KNOWN_MOST:
            self._known.clear()
        self._known[known] = now

    def prepare(self, place: str, *, durable: bool) -> None:
        """Create the folder of `place`, after the checks of `check` and `check_there`.

        Args:
            place: path of a file below the output folder or the state folder.
            durable: whether the names of new folders must survive a power loss.

        Raises:
            FolderGoneError: the output folder is no longer the one that it was.
            OSError: the folder cannot be created, or is reached through a symbolic link.
        """
        self.check(place)
        folder = Path(place).parent
        if not self.disk.is_folder(folder):
            self.check_there()
            self.disk.make_folder(folder, durable=durable, below=self.root)

    def open_partial(self, place: str, final: str, *, fresh: bool) -> int:
        """Open a partial for reading and writing, and create it if necessary.

        osp-fetch never writes through an inode that has a second name: that could change a file of the user.

        Args:
            place: path of the partial.
            final: final path, whose folder is checked as well.
            fresh: whether bytes of an earlier run are discarded.

        Returns:
            The file descriptor.

        Raises:
            FolderGoneError: the output folder is no longer the one that it was.
            OSError: the partial cannot be opened, or a folder is reached through a symbolic link.
        """
        fd, is_new = self._open_partial(place, final, fresh=fresh)
        try:
            self.check_there()
            if fresh and not is_new:
                # otherwise the tail of an older, longer partial would be published with the new file. The
                # inode is reused, because after a power loss the name could still refer to the old inode
                self.disk.truncate(fd, 0)
        except BaseException as error:
            if is_new and isinstance(error, FolderGoneError):
                # another folder took the name between the last check and the call: nothing stays there, and
                # a file that it had is neither truncated nor removed
                self.disk.unlink(place)
            self.disk.close(fd)
            raise
        return fd

    def _open_partial(self, place: str, final: str, *, fresh: bool) -> tuple[int, bool]:
        """Return the descriptor, and whether the call is known to have created the file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        flags |= os.O_EXCL if fresh else 0
        # the final name is checked as well, because otherwise a forbidden name would be found only after the
        # complete transfer
        self.check(final)
        self.check(place)
        try:
            if not fresh:
                self._unshare(place)
            return self.disk.open(place, flags), fresh
        except FileExistsError:
            self._release(place)
            return self.disk.open(place, flags & ~os.O_EXCL), False
        except FileNotFoundError:
            self.prepare(place, durable=False)
        except (IsADirectoryError, NotADirectoryError):
            self.clear_way(place)
            self.prepare(place, durable=False)
        return self.disk.open(place, flags), fresh

    def _unshare(self, partial: str) -> None:
        """Give a partial an inode of its own if its file has a second name."""
        if self._is_shared(partial):
            beside = temporary_name(self.state, partial)
            self.disk.copy(partial, beside)
            self.disk.replace(beside, partial)
            self.disk.sync_folder(Path(partial).parent)

    def _release(self, partial: str) -> None:
        """Remove what an earlier run left under the name of a new partial, if it cannot be truncated."""
        if Path(partial).is_dir():
            self.clear_way(partial)
        elif self._is_shared(partial):
            self.disk.unlink(partial)
            self.disk.sync_folder(Path(partial).parent)

    def _is_shared(self, partial: str) -> bool:
        existing = self.disk.existing(partial)
        return existing is not None and existing.kind == "file" and existing.names > 1

    def clear_way(self, partial: str) -> None:
        """Remove partials of an earlier manifest that conflict with the path `partial`.

        These are a folder under that name, and a file under the name of one of its folders.

        Raises:
            IsADirectoryError: the folder has partials of this run.
            NotADirectoryError: the file is a partial of this run.
        """
        if Path(partial).is_dir():
            if any(self._is_of_this_run(each) for each in Path(partial).rglob("*") if each.is_file()):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), partial)
            shutil.rmtree(partial)
        for above in Path(partial).parents:
            if above == self.state:
                return
            if above.is_file():
                if self._is_of_this_run(above):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), partial)
                above.unlink()

    def _is_of_this_run(self, partial: Path) -> bool:
        """Return whether a partial was written to since this process began; a file that has gone was not."""
        try:
            return partial.stat().st_mtime >= self._begun
        except FileNotFoundError:
            return False

    def check_there(self) -> None:
        """Check that the output folder is the same as when this object was created.

        Raises:
            FolderGoneError: it was unmounted, moved, removed or replaced.
        """
        try:
            there = self.disk.identity(self.state)
        except OSError:
            there = None
        if there != self._identity:
            raise FolderGoneError(
                f"{self.root} is no longer the folder it was (unmounted, moved or removed?); restore it "
                "and run the same command again"
            )

    def explained(self, error: OSError) -> OSError:
        """Return FolderGoneError if the output folder has vanished, which explains `error`; else `error`."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            self._known.clear()
            try:
                self.check_there()
            except FolderGoneError as gone:
                return gone
        return error
