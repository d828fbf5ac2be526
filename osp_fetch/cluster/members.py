"""Which runs share an output folder now: each has a file with a heartbeat, which all others see.

The file names the runs with which its owner divides the limits. A run that comes begins when all others name
it, so that together they never use more than one run may.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from ..storage.folder.disk import storage_error
from ..storage.folder.heartbeat import BEAT, Heartbeat, Pulse

_SILENT = int(3 * BEAT * 1e9)  # nanoseconds without a heartbeat after which a run does not work


def member_name(process: int) -> str:
    """Return a new `Members.name` of a process of this machine."""
    return f"{secrets.token_hex(8)}.{process}.{_machine()}"


def _machine() -> str:
    """Return what tells this machine apart, and its numbers of processes: containers have their own."""
    known = [socket.gethostname()]
    with suppress(OSError):  # Linux only
        known += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


def has_ended(name: str) -> bool:
    """Return whether the run of this `Members.name` was a process of this machine that has ended."""
    _, process, machine = [*name.split("."), "", ""][:3]
    if machine != _machine() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # a process of another user
    return False


class Members:
    """The runs that take part in a session. All methods block.

    A run that falls silent is counted for six more seconds, in which its connections may live on.

    Args:
        folder: the folder of the session.

    Attributes:
        name: the name of this run; see `member_name`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "members"
        self.name = member_name(os.getpid())
        self._heartbeat = Heartbeat(self._folder / self.name)
        self._pulses: dict[str, Pulse] = {}
        self._alive: list[str] = []
        self._confirmed: list[str] = []

    def enter(self) -> None:
        """Take part.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / self.name).touch()
        except OSError as error:
            raise storage_error(error, f"{self._folder} cannot be used to share a run") from None
        self._heartbeat.start()

    def look(self) -> tuple[int, int]:
        """Return the place of this run among those that take part, from 0, and their number."""
        try:
            there = {place.name for place in self._folder.iterdir()}
        except OSError:  # the session has ended
            there = set[str]()
        self._pulses = {name: self._pulses.get(name) or Pulse(self._folder / name) for name in there}
        self._alive = sorted({self.name, *(name for name, pulse in self._pulses.items() if pulse.beats())})
        return self._alive.index(self.name), len(self._alive)

    def working(self, now: int) -> set[str]:
        """Return the names of the runs that work: those with a heartbeat, but for processes that have ended.

        Args:
            now: the time by the clock of the file system, in nanoseconds.
        """
        found = set()
        with suppress(OSError):  # the session has ended, or no run has entered yet
            for place in self._folder.iterdir():
                beat = Pulse(place).touched()
                if beat is not None and now - beat <= _SILENT and not has_ended(place.name):
                    found.add(place.name)
        return found

    def confirm(self) -> None:
        """Let the others know that this run divides its limits with those of the last `look`."""
        if self._alive != self._confirmed:
            with suppress(OSError):
                (self._folder / self.name).write_text("\n".join(self._alive))
                self._confirmed = self._alive

    def is_confirmed(self) -> bool:
        """Return whether all others of the last `look` divide their limits with this run."""
        return all(self.name in self._named_by(name) for name in self._alive if name != self.name)

    def _named_by(self, name: str) -> list[str]:
        try:
            return (self._folder / name).read_text().split()
        except OSError:  # it has left
            return [self.name]

    def leave(self) -> None:
        """Leave the session: stop the heartbeat and remove the member file."""
        self._heartbeat.stop()
        with suppress(OSError):
            (self._folder / self.name).unlink()
