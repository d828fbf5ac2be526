"""A disk that takes OSP_BENCH_DISK bytes per second: put this folder on PYTHONPATH of the measured process.

Every write of a process waits until the disk would have taken the bytes before it. One process writes all
large files of a run.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

_pwrite = os.pwrite


class _Disk:
    """A disk with a queue.

    Args:
        rate: Bytes per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._lock, self._due = rate, threading.Lock(), 0.0

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        """Write as `os.pwrite` does, and return when the disk has taken the bytes."""
        count = _pwrite(fd, data, offset)
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - 0.02) + count / self._rate
            wait = self._due - now
        if wait > 0:
            time.sleep(wait)
        return count


if os.environ.get("OSP_BENCH_DISK"):
    os.pwrite = _Disk(float(os.environ["OSP_BENCH_DISK"])).pwrite
