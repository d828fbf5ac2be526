"""Heartbeats: a file's modification time shows every process and machine that its owner works."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

BEAT: Final = 2.0
"""Seconds between two heartbeats."""
_LOOKS: Final = 12  # in three intervals, while a heartbeat is waited for


class Heartbeat:
    """Touches a file at intervals from `start` to `stop`. Several processes may share it.

    Args:
        file: the path of the file, which is created and stays, or the descriptor of an open file. If it
            cannot be written, there is no heartbeat.
        beat: seconds between two heartbeats.
    """

    def __init__(self, file: Path | int, beat: float = BEAT) -> None:
        self._file, self._interval = file, beat
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="osp-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first beat is done when this returns."""
        self._touch()
        self._beating.start()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            self._touch()

    def _touch(self) -> None:
        with suppress(OSError):
            if isinstance(self._file, int):
                os.utime(self._file)
            else:
                self._file.touch()

    def stop(self) -> None:
        """End the heartbeat."""
        self._over.set()
        self._beating.join()


class Pulse:
    """Sees whether a file has a heartbeat.

    Only changes of its modification time are compared, so that the clocks of other machines do not matter.

    Args:
        place: the file.
        beat: seconds between two heartbeats.
    """

    def __init__(self, place: Path, beat: float = BEAT) -> None:
        self.place, self.patience = place, 3 * beat
        self._seen, self._since = -1, 0.0

    def beats(self) -> bool:
        """Return whether the file was touched since the last call, or within three intervals."""
        now = time.monotonic()
        if (seen := self.touched()) is None:
            return False
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since <= self.patience

    def awaited(self) -> bool:
        """Wait until the file is touched, for three intervals at most. Return whether it was. Blocks."""
        return bool(_touched([self], 1))

    def touched(self) -> int | None:
        """Return when the file was touched, None if it cannot be read."""
        try:
            with self.place.open("rb") as file:  # a network file system asks the server on opening only
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None


def awaited(places: Sequence[Path], beat: float = BEAT) -> Path | None:
    """Wait until one of several files is touched, for three intervals at most. Blocks.

    Args:
        places: the files.
        beat: seconds between two heartbeats.

    Returns:
        The file that was touched, None if none was.
    """
    return next(iter(_touched([Pulse(place, beat) for place in places], 1)), None)


def beating(places: Sequence[Path], beat: float = BEAT) -> set[Path]:
    """Return which of several files are touched within three intervals. Blocks until all are, or that long.

    Args:
        places: the files.
        beat: seconds between two heartbeats.
    """
    return _touched([Pulse(place, beat) for place in places], len(places))


def _touched(pulses: Sequence[Pulse], enough: int) -> set[Path]:
    """Wait until `enough` files were touched, and return those that were."""
    before = [pulse.touched() for pulse in pulses]
    found = set[Path]()
    patience = max((pulse.patience for pulse in pulses), default=0.0)
    until = time.monotonic() + patience
    while time.monotonic() < until and len(found) < enough:
        time.sleep(patience / _LOOKS)
        found |= {
            pulse.place
            for pulse, seen in zip(pulses, before, strict=True)
            if pulse.touched() not in (None, seen)
        }
    return found
