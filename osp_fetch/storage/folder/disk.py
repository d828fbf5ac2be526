"""The file operations on which durability depends. All of them block: call them in a thread."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ...model.errors import DiskFullError, NameConflictError, Remedy, StorageError
from ...model.record import Published

if TYPE_CHECKING:
    import ctypes

_COMPARED: Final = 1 << 20  # bytes per read when two files are compared
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# errors of the disk as a whole: every other file would fail, too
_GONE: Final = frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN})
# `link` on file systems without hard links; FUSE answers ENOSYS to what it does not have
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


def storage_error(error: OSError, doing: str) -> StorageError:
    """Convert an OSError to a StorageError that states what failed, why, and what to do next.

    Args:
        error: the system's error.
        doing: what failed, as the start of the message.

    Returns:
        DiskFullError if the disk is full; NameConflictError if a folder has the name of the file; a
        StorageError with remedy ABORT if the disk as a whole has failed; else a StorageError for one file.
    """
    if isinstance(error, FolderGoneError):
        return StorageError(f"{doing}: {error}", remedy=Remedy.ABORT)
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        # what is in the way may not be the file that was to be written, but the final name
        other = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        where = f": {other}" if other and other not in doing else ""
        return NameConflictError(
            f"{doing}: {why}{where}; a file and a folder cannot have one name: rename one of the rows, or "
            "what is there"
        )
    if error.errno in _FULL:
        return DiskFullError(f"{doing}: {why}; free some space and run the same command again")
    if error.errno in _GONE:
        return StorageError(
            f"{doing}: {why}; check the disk and its mount, and run the same command again",
            remedy=Remedy.ABORT,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(f"{doing}: {why}; choose a folder that can be written, or change its permissions")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(f"{doing}: {why}; raise `ulimit -n`, or lower --connections")
    if error.errno == errno.EFBIG:
        return StorageError(
            f"{doing}: {why}; the file system, or `ulimit -f`, does not allow files of this size"
        )
    return StorageError(f"{doing}: {why}")


def files_below(root: Path, leave_out: Collection[str] = ()) -> Iterator[Path]:
    """Yield all files below a folder. Blocks.

    Args:
        root: The folder.
        leave_out: Names of folders that are not looked into.

    Raises:
        StorageError: A folder cannot be read, so that files would be missed.
    """

    def failed(error: OSError) -> None:
        raise storage_error(error, f"{os.fsdecode(error.filename)} cannot be read") from None

    for inside, folders, names in os.walk(root, onerror=failed):
        folders[:] = [name for name in folders if name not in leave_out]
        yield from (Path(inside, name) for name in names)


Kind = Literal["file", "link", "folder", "other"]


class Existing(NamedTuple):
    """The state of an existing name.

    Attributes:
        kind: the type of file; symbolic links are not followed.
        size: bytes.
        mtime_ns: modification time in Unix nanoseconds.
        names: the number of hard links.
    """

    kind: Kind
    size: int
    mtime_ns: int
    names: int


class FolderGoneError(OSError):
    """The output folder was unmounted, moved or removed during the run."""


class FolderIdentity:
    """Checks that the folder at `place` is still the same folder, by device and inode.

    Files are written by name during the whole run. Without this check they could land in another folder that
    took the name, such as another disk at the same mount point.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._then = self._now()

    def _now(self) -> tuple[int, int] | None:
        try:
            seen = os.stat(self.place)  # noqa: PTH116  called for each file
        except OSError:
            return None
        return seen.st_dev, seen.st_ino

    def check(self) -> None:
        """Check the folder.

        Raises:
            FolderGoneError: it is another folder, or does not exist.
        """
        if self._then is None or self._now() != self._then:
            raise FolderGoneError(
                f"{self.place} is no longer the folder it was (unmounted, moved or removed?); restore it and "
                "run the same command again"
            )


class OpenFiles:
    """The system calls on open files. Each method raises OSError."""

    def open(self, place: Path | str, flags: int) -> int:
        """Open a file with mode 0666 before umask, and return its descriptor."""
        return os.open(place, flags | os.O_CLOEXEC, 0o666)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset` (bytes)."""
        left = memoryview(data)
        while left:
            count = os.pwrite(fd, left, offset)
            offset, left = offset + count, left[count:]

    def read(self, fd: int, block: memoryview, offset: int) -> int:
        """Read into `block` from `offset` (bytes), and return the number of bytes read, 0 at the end."""
        return os.preadv(fd, [block], offset)

    def truncate(self, fd: int, length: int) -> None:
        """Set the length of a file in bytes."""
        os.ftruncate(fd, length)

    def sync_data(self, fd: int) -> None:
        """Make the bytes and the length of a file survive a power loss (fdatasync)."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """Make the bytes, the length and the times of a file survive a power loss (fsync)."""
        os.fsync(fd)

    def set_modified(self, fd: int, mtime_ns: int) -> None:
        """Set the modification time of an open file, in Unix nanoseconds.

        The access time is set to now: clusters remove files from scratch disks by their access time.
        """
        os.utime(fd, ns=(time.time_ns(), mtime_ns))

    def stat(self, fd: int) -> Published:
        """Return the size in bytes and the mtime in Unix nanoseconds of an open file."""
        seen = os.fstat(fd)
        return Published(seen.st_size, seen.st_mtime_ns)


class Volume:
    """The system calls on folders as places, and on their disks. Each method raises OSError."""

    def identity(self, folder: Path) -> object:
        """Return a value that changes if another folder takes the name `folder`."""
        seen = os.stat(folder)  # noqa: PTH116  called for each small file
        return seen.st_dev, seen.st_ino

    def real(self, folder: Path) -> Path:
        """Return `folder` with its symbolic links resolved, as far as it exists."""
        return folder.resolve()

    def folds(self, state: Path) -> bool:
        """Return whether the disk of the state folder ignores the case of names."""
        return (state / "LOCK").exists()  # the file's name is `lock`

    def free(self, folder: Path) -> int:
        """Return the free bytes on the disk of `folder`."""
        return shutil.disk_usage(folder).free

    def capacity(self, folder: Path) -> int:
        """Return the total bytes of the disk of `folder`."""
        return shutil.disk_usage(folder).total


class Disk(OpenFiles, Volume):
    """The system calls of the store; here those on names. Each method raises OSError.

    It is the only interface between storage and the kernel. Tests replace it by a simulated disk that loses
    everything that was not synced.
    """

    def look(self, place: Path | str) -> Published | None:
        """Return the size and mtime of the regular file at `place`, or None if there is none."""
        try:
            seen = os.lstat(place)
        except OSError:
            return None  # whatever the error is, the next write there reports it
        return Published(seen.st_size, seen.st_mtime_ns) if stat.S_ISREG(seen.st_mode) else None

    def existing(self, place: Path | str) -> Existing | None:
        """Return the state of the name `place`, without following a link, or None if it is free."""
        try:
            seen = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kinds: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
        kind = kinds.get(stat.S_IFMT(seen.st_mode), "other")
        return Existing(kind, seen.st_size, seen.st_mtime_ns, seen.st_nlink)

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        """Rename `place` to `final` atomically, without replacing anything.

        If the folder of `final` is another file system, such as one that is mounted below the output folder,
        the file is copied there first, and `place` is removed afterwards.

        Raises:
            FileExistsError: `final` exists.
            OSError: the rename fails.
        """
        try:
            _renamed_new(place, final)
        except OSError as error:
            if error.errno != errno.EXDEV or not os.path.isfile(place):  # noqa: PTH113
                raise
            with self._copied_beside(place, final) as copied:
                _renamed_new(copied, final)

    @contextmanager
    def _copied_beside(self, place: Path | str, final: Path | str) -> Iterator[str]:
        """Yield a copy of `place` in the folder of `final`, and then remove `place`.

        The copy has the same name each time, so that a kill leaves one file at most.
        """
        folder, name = os.path.split(os.fspath(final))
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()
        copied = os.path.join(folder, f".osp-fetch-{digest[:16]}")
        try:
            self.copy(place, copied)
            shutil.copystat(place, copied)
            yield copied
        except BaseException:
            with suppress(OSError):
                os.unlink(copied)  # noqa: PTH108
            raise
        os.unlink(place)  # noqa: PTH108

    def copy(self, place: Path | str, other: Path | str) -> None:
        """Copy the bytes of the file at `place` to `other` durably."""
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
        """Write `text` to `place` atomically and durably."""
        replace_text(place, text, durable=True)

    def remove_tree(self, folder: Path) -> None:
        """Remove one of this tool's own folders with its content; ignore errors, such as a missing folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def unlink(self, place: Path | str) -> None:
        """Remove a name; do nothing if it does not exist."""
        with suppress(FileNotFoundError):
            os.unlink(place)  # noqa: PTH108

    def replace(self, place: Path | str, final: Path | str) -> None:
        """Rename `place` to `final` atomically, and replace a file of that name; see `rename_new`."""
        try:
            os.replace(place, final)  # noqa: PTH105  creating a Path takes longer than the rename
        except OSError as error:
            if error.errno != errno.EXDEV or not os.path.isfile(place):  # noqa: PTH113
                raise
            with self._copied_beside(place, final) as copied:
                os.replace(copied, final)  # noqa: PTH105

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` survive a power loss, if the file system supports fsync of folders."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(fd)

    def is_folder(self, folder: Path) -> bool:
        """Return whether `folder` is a folder or a link to one."""
        return folder.is_dir()

    def make_folder(self, folder: Path, *, durable: bool, below: Path | None = None) -> None:
        """Create `folder` and its missing parents.

        Args:
            folder: the folder to create.
            durable: whether the new names must survive a power loss.
            below: a parent that must exist, because it is the output folder; it is not created.

        Raises:
            FileNotFoundError: `below` does not exist.
            OSError: a folder cannot be created.
        """
        if folder.is_dir():
            return
        if folder == below:
            raise FileNotFoundError(errno.ENOENT, f"{folder} is gone")
        self.make_folder(folder.parent, durable=durable, below=below)
        folder.mkdir(exist_ok=True)
        if durable:
            self.sync_folder(folder.parent)

    def is_empty(self, folder: Path) -> bool:
        """Return whether `folder` is empty or is not a folder."""
        return not folder.is_dir() or next(folder.iterdir(), None) is None


def read_json(place: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is no file or it holds something else."""
    try:
        read = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def replace_text(path: Path, text: str, *, durable: bool = False, beside: Path | None = None) -> None:
    """Replace the content of `path` atomically: a reader sees the old or the new text, never a part of it.

    Args:
        path: the file to write.
        text: its new content, written in UTF-8.
        durable: whether the text must survive a power loss when the function returns.
        beside: a temporary name on the same disk. The default, `path` with `.new` appended, is only for
            folders to which no other program writes.

    Raises:
        OSError: the file cannot be written.
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
    """Return the C library's renameat2 (Linux 3.15, glibc 2.28), or None if it has none."""
    import ctypes  # takes 3 ms at start-up, in a thread that waits for the disk anyway

    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _renamed_new(place: Path | str, final: Path | str) -> None:
    try:
        _rename_noreplace(place, final)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        # the file system or the kernel does not support RENAME_NOREPLACE
        _link_and_unlink(place, final)


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
        if error.errno not in (*_NO_LINKS, errno.EMLINK, errno.EISDIR):
            raise
        # no hard links either (FAT, some FUSE file systems): check and rename, which is not atomic
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(final)) from None
        os.rename(place, final)  # noqa: PTH104
    else:
        os.unlink(place)  # noqa: PTH108
