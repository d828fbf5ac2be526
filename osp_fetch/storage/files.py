"""The few file operations that durability is made of. All of them block: call them in a thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..model.errors import DiskFull, StorageError

_IOV_MAX: Final = 512
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def storage_error(error: OSError, doing: str) -> StorageError:
    """`error` in the words of the house: what could not be done, why, and what to do next."""
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return DiskFull(f"{doing}: {why}; free some space and run the same command again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(f"{doing}: {why}; choose a folder that can be written")
    return StorageError(f"{doing}: {why}")


def write_all(fd: int, offset: int, chunks: Sequence[bytes]) -> int:
    """Write `chunks` one after another at `offset`; gives the number of bytes."""
    left = [memoryview(c) for c in chunks if c]
    total = 0
    while left:
        count = os.pwritev(fd, left[:_IOV_MAX], offset + total)
        total += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
    return total


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power loss, where the file system lets folders be synced."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def make_folder(folder: Path, *, durable: bool) -> None:
    """Create `folder` and what lacks above it; durable names where asked."""
    if folder.is_dir():
        return
    make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        sync_folder(folder.parent)


def remove_empty_folders(folder: Path) -> None:
    """Remove `folder` and all below it, as long as they hold nothing but folders."""
    for place, _, _ in os.walk(folder, topdown=False):
        Path(place).rmdir()


def replace_text(path: Path, text: str) -> None:
    """Put `text` under `path` in one step, so that a reader sees the old or the new, never a part."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
