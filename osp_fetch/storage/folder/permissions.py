"""Permissions of an output folder that a group shares (`storage.mode`)."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_READ: Final = 0o444


class _Umask:
    """The umask of this process, which runs that overlap set one after another, and one sets back."""

    def __init__(self) -> None:
        self._wanted: list[int] = []
        self._before = 0
        self._changing = threading.Lock()

    @contextmanager
    def set(self, umask: int) -> Iterator[None]:
        """Set the umask until the context ends. The one that was there first comes back after the last."""
        with self._changing:
            before = os.umask(umask)
            self._before = self._before if self._wanted else before
            self._wanted.append(umask)
        try:
            yield
        finally:
            with self._changing:
                self._wanted.remove(umask)
                os.umask(self._wanted[-1] if self._wanted else self._before)


_UMASK: Final = _Umask()


class Permissions:
    """The permissions of files and folders, as git's `core.sharedRepository` has them.

    With "umask", new files follow the umask of the process, and the state folder, its lock and its event log
    are for their owner alone. With an octal number, such as "0664", all files have this mode. Folders can
    also be searched by those who may read, and the state folder passes its group on to what is created in it.

    Args:
        mode: the value of `storage.mode`.
    """

    def __init__(self, mode: str = "umask") -> None:
        self._files = None if mode == "umask" else int(mode, 8)

    @property
    def _folders(self) -> int:
        files = self._files or 0
        return files | (files & _READ) >> 2

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the umask of this process, which its child processes inherit, until the context ends.

        The umask alone reaches every file: those of SQLite, and those of members of archives.
        """
        if self._files is None:
            yield
            return
        with _UMASK.set(0o777 & ~self._folders):
            yield

    @property
    def are_given(self) -> bool:
        """Whether there is a mode, so that nothing depends on the umask."""
        return self._files is not None

    def grant(self, place: Path | str | int) -> None:
        """Give a file or folder its mode, also one of an earlier run; do nothing with "umask".

        Args:
            place: its path, or the descriptor of an open file.
        """
        if self._files is None:
            return
        with suppress(OSError):  # EPERM: it belongs to another user of the group, who has granted the rest
            mode = os.stat(place).st_mode  # noqa: PTH116  a Path has no descriptor
            wanted = self._files
            if stat.S_ISDIR(mode):
                wanted = self._folders | (stat.S_ISGID if self._files & stat.S_IWGRP else mode & stat.S_ISGID)
            if stat.S_IMODE(mode) != wanted:
                os.chmod(place, wanted)  # noqa: PTH101
