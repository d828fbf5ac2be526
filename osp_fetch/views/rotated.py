"""Files of lines that are bounded: the oldest lines are dropped, a file at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from ..storage.folder.disk import FolderIdentity
from ..storage.folder.permissions import Permissions

_FILES: Final = 8  # files that share the bound: an eighth of the lines is dropped at a time
_PAUSE: Final = 60.0  # seconds after an error until the file is tried again


class RotatedFile:
    """A file to which lines are appended. `NAME` has the latest ones, `NAME.1` those before, and so on.

    It is created with mode 0600, so that only its owner can read it, unless `permissions` differ. A write
    that fails costs its lines and no more: a run that can continue must not fail because of its log. The file
    is opened again after `pause` seconds, for the disk may have space again.

    Args:
        place: The file. It is created if absent.
        most: Largest number of bytes of all files together; 0 for no bound.
        permissions: Of the files.
        files: Number of files.
        pause: Seconds after an error.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self,
        place: Path,
        most: int = 0,
        permissions: Permissions | None = None,
        files: int = _FILES,
        pause: float = _PAUSE,
    ) -> None:
        self._place, self._permissions, self._files, self._pause = place, permissions, files, pause
        self._most = max(1, most // files) if most else 0
        self._folder = FolderIdentity(place.parent)
        self._failed = 0.0
        self._file: TextIO | None = self._opened()

    def _opened(self) -> TextIO:
        self._folder.check()
        fd = os.open(self._place, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._permissions is not None:
            self._permissions.grant(fd)
        self._size = os.fstat(fd).st_size
        file = os.fdopen(fd, "a", encoding="utf-8")
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            file.write("\n")  # a killed run, or a full disk, has torn the last line
        return file

    def write(self, line: str, *, now: bool = False) -> None:
        """Append a line of ASCII without its line break.

        Args:
            line: The line.
            now: Whether other processes must see it at once.
        """
        try:
            if self._file is None:
                if time.monotonic() - self._failed < self._pause:
                    return
                self._file = self._opened()
            elif self._most and self._size and self._size + len(line) >= self._most:
                self._rotate()
            self._file.write(line + "\n")
            self._size += len(line) + 1
        except OSError:
            self._fail()
        if now:
            self.flush()

    def flush(self) -> None:
        """Let other processes see what was written."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError:
            self._fail()

    def _fail(self) -> None:
        self._failed = time.monotonic()
        self.close()
        self._file = None

    def _rotate(self) -> None:
        self.close()
        self._folder.check()
        for number in range(self._files - 2, 0, -1):
            with suppress(FileNotFoundError):
                _numbered(self._place, number).replace(_numbered(self._place, number + 1))
        self._place.replace(_numbered(self._place, 1))
        self._file = self._opened()

    def close(self) -> None:
        """Flush and close the file. Errors are ignored."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def _numbered(place: Path, number: int) -> Path:
    return place.with_name(f"{place.name}.{number}")


def lines_of(place: Path) -> Iterator[str]:
    """Yield the lines of a rotated file, oldest first. What cannot be read is left out.

    Args:
        place: The file with the latest lines.
    """
    numbers = sorted(
        (int(each.suffix[1:]) for each in place.parent.glob(f"{place.name}.*") if each.suffix[1:].isdigit()),
        reverse=True,
    )
    for each in (*(_numbered(place, number) for number in numbers), place):
        with suppress(OSError), each.open(encoding="utf-8", errors="replace") as file:
            yield from file
