"""Progress of `verify`: how many files and bytes were read, how fast, and how long it takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Self, TextIO

from . import formatting

# Seconds between two lines: redrawn in place on a terminal, and printed elsewhere.
_REDRAWN: Final = 0.25
_PRINTED: Final = 30.0


class HashProgress:
    """Counts what is hashed in other threads, and shows it while its context is open.

    Args:
        out: Where to show it; stderr by default.
        clock: Clock in seconds.
    """

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out or sys.stderr, clock
        self._terminal = self._out.isatty()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._begun = clock()
        self._files = self._bytes = 0
        self._total: tuple[int, int] | None = None
        self._drawing = threading.Thread(target=self._draw, name="osp-progress", daemon=True)

    def read(self, count: int) -> None:
        """Count bytes that were read. May be called from any thread."""
        with self._lock:
            self._bytes += count

    def checked(self) -> None:
        """Count a file that was checked."""
        self._files += 1

    def expect(self, files: int, size: int) -> None:
        """Set the totals, in files and bytes. May be called from any thread."""
        self._total = files, size

    def line(self) -> str:
        """Return the state in one line."""
        seconds = self._clock() - self._begun
        rate = self._bytes / seconds if seconds > 0 else 0.0
        parts = [formatting.count(self._files, "file"), formatting.size(self._bytes)]
        if self._total is not None:
            files, size = self._total
            parts = [f"{self._files:,} of {formatting.count(files, 'file')}"]
            parts.append(f"{formatting.size(self._bytes)} of {formatting.size(size)}")
        parts.append(f"{formatting.size(rate)}/s")
        if self._total is not None and rate:
            left = max(0, self._total[1] - self._bytes) / rate
            parts.append(f"{formatting.duration(left)} left")
        return "checked: " + " · ".join(parts)

    def clear(self) -> None:
        """Remove the line from the terminal, so that something else can be printed."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _draw(self) -> None:
        while not self._over.wait(_REDRAWN if self._terminal else _PRINTED):
            self._out.write(f"\r{self.line()}\x1b[K" if self._terminal else f"{self.line()}\n")
            self._out.flush()

    def __enter__(self) -> Self:
        self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._drawing.join()
        self.clear()
