"""Durability of many files at once, with the errors of their writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path


class FileSystemSync:
    """A sync of the file system of a folder that reports writes that failed.

    sync(2) reports no error. syncfs(2) reports those since its descriptor was opened, from Linux 5.8 on, also
    of files that the kernel keeps no inode of. So an object is made before the first write.

    Args:
        folder: A folder on the file system.

    Raises:
        OSError: The folder cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def sync(self, places: Iterable[Path]) -> None:
        """Make everything on the file system survive a power loss.

        Args:
            places: The files that matter. Each is synced as well, which is quick now, for the error of its
                own writes: older kernels report it in no other way.

        Raises:
            OSError: A write to the file system has failed, or a file cannot be opened.
        """
        self._sync()
        for place in places:
            sync_file(place)

    def _sync(self) -> None:
        import ctypes  # 3 ms, which few runs need

        try:
            syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        except (OSError, AttributeError):  # not Linux
            os.sync()
            return
        if syncfs(self._fd) != 0:
            code = ctypes.get_errno()
            if code in (errno.ENOSYS, errno.EINVAL):
                os.sync()
                return
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def sync_file(place: Path) -> None:
    """Make the bytes of a file that is closed survive a power loss (fsync).

    Raises:
        OSError: The file cannot be opened, or a write to it has failed.
    """
    fd = os.open(place, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
