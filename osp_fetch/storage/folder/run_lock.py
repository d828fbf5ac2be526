"""The state folder `.osp-fetch/` of an output folder, and the lock that keeps one run in it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...model.entry import STATE_FOLDER
from ...model.errors import FolderBusyError
from .disk import Disk, storage_error

_BEAT: Final = 2.0  # seconds between two signs of life of whoever holds a lock
_TRIES: Final = 5
_BUSY: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES})


def state_folder(root: Path, shard: tuple[int, int] | None = None) -> Path:
    """Where the records of `root` lie; shard (i, n) of a run has records of its own."""
    state = root / STATE_FOLDER
    return state / "shards" / f"{shard[0]}-of-{shard[1]}" if shard else state


def state_folders(root: Path) -> list[Path]:
    """Every state folder below `root` that holds a ledger: the whole run's and its shards'."""
    state = root / STATE_FOLDER
    return [p.parent for p in sorted([*state.glob("ledger.sqlite3"), *state.glob("shards/*/ledger.sqlite3")])]


class RunLock:
    """Holds the state folder for one run. Raises FolderBusyError, naming the run that has it.

    By flock, and by a sign of life in the lock file every `beat` seconds: on network file systems
    flock may be missing, or hold on one host only. Whoever finds a lock that another host left waits
    until it has stopped to beat.
    """

    def __init__(self, state: Path, beat: float = _BEAT) -> None:
        self._state, self._place, self._beat = state, state / "lock", beat
        self._fd = -1
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._live, name="osp-lock", daemon=True)

    def __enter__(self) -> RunLock:
        try:
            _make(self._state)
            self._fd = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(error, f"{self._state} cannot be used as an output folder") from None
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise
        self._beating.start()
        return self

    @property
    def descriptor(self) -> int:
        """The open lock file: whoever inherits it holds the lock, too."""
        return self._fd

    def _take(self) -> None:
        locked = self._locked()
        left = _read(self._place)
        if left and self._lives(left, locked=locked):
            raise self._busy()
        mine: dict[str, object] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": int(time.time()),
        }
        mine["token"] = secrets.token_hex(8)
        with suppress(OSError):  # a full disk: the lock holds, it only does not say whose it is
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(mine).encode(), 0)
        if not locked:
            time.sleep(self._beat)  # whoever began at the same moment has written by now
            if _read(self._place) != mine:
                raise self._busy()

    def _locked(self) -> bool:
        """Whether flock holds the folder for us; False where the file system has no such thing."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _BUSY:
                    return False
            else:
                return True
            time.sleep(0.1)  # `status` may be looking
        raise self._busy()

    def _lives(self, left: dict[str, object], *, locked: bool) -> bool:
        """Whether the run that wrote `left` is still there."""
        if left.get("host") == socket.gethostname() and (locked or not _runs(left.get("pid"))):
            return False
        before = os.fstat(self._fd).st_mtime_ns
        until = time.monotonic() + 3 * self._beat
        while time.monotonic() < until:
            time.sleep(self._beat / 4)
            # a fresh look by name: a network file system may answer for an open file from memory
            if self._place.stat().st_mtime_ns != before:
                return True
        return False

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            with suppress(OSError):
                os.utime(self._fd)

    def _busy(self) -> FolderBusyError:
        return FolderBusyError(
            f"{self._state.parent}: another run owns this folder ({_owner(self._place)}); wait for it, or "
            "stop it first"
        )

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beating.join()
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _make(state: Path) -> None:
    """Create a state folder, readable by its owner alone: it may name private files and hosts."""
    if state.is_dir():
        return
    if state.name == STATE_FOLDER:
        Disk().make_folder(state.parent, durable=True)
    else:
        _make(state.parent)
    state.mkdir(mode=0o700, exist_ok=True)


def _runs(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        pass  # it runs, and is not ours
    return True


def owner_of(state: Path) -> str | None:
    """Which run owns the state folder now, in words; None where none does."""
    try:
        fd = os.open(state / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _owner(state / "lock")
    finally:
        os.close(fd)
    return None


def _read(place: Path) -> dict[str, object]:
    try:
        read = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _owner(place: Path) -> str:
    try:
        owner = _read(place)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(owner["since"]))))
        return f"process {owner['pid']} on {owner['host']}, since {since}"
    except (ValueError, KeyError):
        return "it has not said which"
