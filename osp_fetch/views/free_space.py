"""Free space on the disk of a folder, looked up in a thread, as a network file system may take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..storage.folder.disk import Disk

_PERIOD: Final = 20.0  # seconds between two looks


class FreeSpace:
    """The free and total bytes on the disk of a folder. Use it as a context manager.

    Args:
        folder: The folder, or the one in which it will be created.
        disk: System calls.

    Attributes:
        free: Free bytes, None while unknown.
        capacity: Total bytes, None while unknown.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder, self._disk = folder, disk or Disk()
        self.free: int | None = None
        self.capacity: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="osp-free-space", daemon=True)

    def __enter__(self) -> FreeSpace:
        self._thread.start()
        return self

    def _run(self) -> None:
        self._look()
        while not self._over.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        try:
            folder = next((each for each in (self._folder, *self._folder.parents) if each.is_dir()), None)
            if folder is not None:
                self.free, self.capacity = self._disk.free(folder), self._disk.capacity(folder)
        except OSError:
            self.free = None  # the run itself reports what is wrong with the disk

    def beside(self, min_free: int) -> Callable[[], int | None]:
        """Return a function that returns the bytes that may be written if `min_free` bytes must stay free."""
        return lambda: None if self.free is None else self.free - min_free

    def __exit__(self, *_: object) -> None:
        self._over.set()  # the thread may hang in a system call, and is not waited for
