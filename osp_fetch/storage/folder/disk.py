"""The few file operations that durability is made of. All of them block: call them in a thread."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from ...model.errors import DiskFullError, Remedy, StorageError
from ...model.record import Published

if TYPE_CHECKING:
    import ctypes

_COMPARED: Final = 1 << 20  # bytes that are read of each of two files at a time
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# what concerns the disk as a whole: the next file would fare no better
_GONE: Final = frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN})


def storage_error(error: OSError, doing: str) -> StorageError:
    """`error` in the words of the house: what could not be done, why, and what to do next."""
    if isinstance(error, FolderGoneError):
        return StorageError(f"{doing}: {error}", remedy=Remedy.ABORT)
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskFullError(f"{doing}: {why}; free some space and run the same command again")
    if error.errno in _GONE:
        return StorageError(
            f"{doing}: {why}; mend the disk and run the same command again", remedy=Remedy.ABORT
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(f"{doing}: {why}; choose a folder that can be written")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(f"{doing}: {why}; raise `ulimit -n`, or lower --connections")
    return StorageError(f"{doing}: {why}")


Kind = Literal["file", "link", "folder", "other"]


class Existing(NamedTuple):
    """What lies under a name: what it is, bytes, modification time, and how many names the file has."""

    kind: Kind
    size: int
    mtime_ns: int
    names: int


class FolderGoneError(OSError):
    """The output folder is not where it was: unmounted, moved or removed."""


class FolderIdentity:
    """Tells whether the folder at `place` is still the one it was when this was made.

    Files that are written by name, again and again, would otherwise land in whatever folder has taken that
    name
    since: another disk under the same mount point, another output folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._then = self._now()

    def _now(self) -> tuple[int, int] | None:
        try:
            seen = os.stat(self.place)  # noqa: PTH116  asked for each file
        except OSError:
            return None
        return seen.st_dev, seen.st_ino

    def check(self) -> None:
        """Raise FolderGoneError if it is another folder, or none."""
        if self._then is None or self._now() != self._then:
            raise FolderGoneError(
                f"{self.place} is no longer the folder it was (unmounted, moved or removed?); bring it back "
                "and run "
                "the same command again"
            )


class Disk:
    """The system's file calls, as the store makes them. Each raises OSError.

    The one seam between storage and the kernel: the tests put a disk here that forgets what was not
    synced.
    """

    def open(self, place: Path | str, flags: int) -> int:
        return os.open(place, flags | os.O_CLOEXEC, 0o666)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        left = memoryview(data)
        while left:
            count = os.pwrite(fd, left, offset)
            offset, left = offset + count, left[count:]

    def read(self, fd: int, block: memoryview, offset: int) -> int:
        """Fill `block` from `offset`; the number of bytes, 0 at the end."""
        return os.preadv(fd, [block], offset)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def sync_data(self, fd: int) -> None:
        """Make the bytes of a file, and its length, survive a power loss."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """The same, and its times too."""
        os.fsync(fd)

    def stat(self, fd: int) -> Published:
        seen = os.fstat(fd)
        return Published(seen.st_size, seen.st_mtime_ns)

    def look(self, place: Path | str) -> Published | None:
        """How the file at `place` looks now; None where there is none to be seen."""
        try:
            seen = os.lstat(place)
        except OSError:
            return None  # whatever is wrong with it, whoever writes there will be told
        return Published(seen.st_size, seen.st_mtime_ns) if stat.S_ISREG(seen.st_mode) else None

    def existing(self, place: Path | str) -> Existing | None:
        """Return what lies under the name `place`, a link not followed; None if nothing does."""
        try:
            seen = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
        kind = kinds.get(stat.S_IFMT(seen.st_mode), "other")
        return Existing(kind, seen.st_size, seen.st_mtime_ns, seen.st_nlink)

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        """Give the file at `place` the name `final`, in one step. Raises FileExistsError if that is taken."""
        try:
            _rename_noreplace(place, final)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise
            # a file system, or a system, without RENAME_NOREPLACE
            _link_and_unlink(place, final)

    def copy(self, place: Path | str, other: Path | str) -> None:
        """Make `other` a copy of the bytes of a file, for good."""
        shutil.copyfile(place, other)
        fd = os.open(other, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def same(self, place: Path | str, other: Path | str) -> bool:
        """Return whether two files have the same bytes."""
        with open(place, "rb") as first, open(other, "rb") as second:
            while block := first.read(_COMPARED):
                if block != second.read(_COMPARED):
                    return False
            return not second.read(1)

    def put_text(self, place: Path, text: str) -> None:
        """Put `text` under `place` in one step, for good."""
        replace_text(place, text, durable=True)

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder of the tool's own with all that is in it; nothing happens if it is not there."""
        shutil.rmtree(folder, ignore_errors=True)

    def unlink(self, place: Path | str) -> None:
        """Take away a name; nothing happens if it is gone already."""
        with suppress(FileNotFoundError):
            os.unlink(place)  # noqa: PTH108

    def replace(self, place: Path | str, final: Path | str) -> None:
        """Give the file at `place` the name `final`, in one step."""
        os.replace(place, final)  # noqa: PTH105  to make a Path takes longer than the rename

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` survive a power loss, where the file system lets folders be synced."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(fd)

    def is_folder(self, folder: Path) -> bool:
        return folder.is_dir()

    def make_folder(self, folder: Path, *, durable: bool, below: Path | None = None) -> None:
        """Create `folder` and what lacks above it, but not `below` itself; durable names where asked."""
        if folder.is_dir():
            return
        if folder == below:
            raise FileNotFoundError(errno.ENOENT, f"{folder} is gone")
        self.make_folder(folder.parent, durable=durable, below=below)
        folder.mkdir(exist_ok=True)
        if durable:
            self.sync_folder(folder.parent)

    def identity(self, folder: Path) -> object:
        """Tells whether `folder` is still the one it was."""
        seen = folder.stat()
        return seen.st_dev, seen.st_ino

    def real(self, folder: Path) -> Path:
        """`folder` with its symbolic links followed, as far as it exists."""
        return folder.resolve()

    def folds(self, state: Path) -> bool:
        """Whether names that differ only in case are one name on the disk of the state folder."""
        return (state / "LOCK").exists()  # the lock is called `lock`

    def is_empty(self, folder: Path) -> bool:
        """Whether nothing lies in `folder`, or there is no such folder."""
        return not folder.is_dir() or next(folder.iterdir(), None) is None

    def free(self, folder: Path) -> int:
        """Bytes that may still be written below `folder`."""
        return shutil.disk_usage(folder).free

    def capacity(self, folder: Path) -> int:
        """Bytes that the empty disk below `folder` would take."""
        return shutil.disk_usage(folder).total


def replace_text(path: Path, text: str, *, durable: bool = False, beside: Path | None = None) -> None:
    """Put `text` under `path` in one step, so that a reader sees the old or the new, never a part.

    `durable`: return when it survives a power loss. `beside`: a temporary name on the same disk; by default
    `path` with `.new`, for folders that only this tool writes to. Raises OSError.
    """
    beside = beside or path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)
    if durable:
        Disk().sync_folder(path.parent)


_AT_FDCWD: Final = -100  # linux/fcntl.h
_RENAME_NOREPLACE: Final = 1  # linux/fs.h


@cache
def _renameat2() -> ctypes._NamedFuncPointer | None:
    """Return the C library's renameat2 (Linux 3.15, glibc 2.28), None where it has none."""
    import ctypes  # 3 ms of a start, in a thread that waits for the disk anyway

    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _rename_noreplace(place: Path | str, final: Path | str) -> None:
    import ctypes

    renameat2 = _renameat2()
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    source, target = os.fsencode(place), os.fsencode(final)
    if renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(place), None, os.fspath(final))


def _link_and_unlink(place: Path | str, final: Path | str) -> None:
    try:
        os.link(place, final, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.EMLINK, errno.EISDIR):
            raise
        # no hard links either (FAT, some FUSE file systems): a look and a rename, which is not one step
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(final)) from None
        os.rename(place, final)  # noqa: PTH104
    else:
        os.unlink(place)  # noqa: PTH108
