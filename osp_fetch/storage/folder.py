"""The state folder `.osp-fetch/` of an output folder, and the lock that keeps one run in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from ..model.entry import STATE_FOLDER
from ..model.errors import FolderBusy
from . import files


def state_folder(root: Path, shard: tuple[int, int] | None = None) -> Path:
    """Where the records of `root` lie; shard (i, n) of a run has records of its own."""
    state = root / STATE_FOLDER
    return state / "shards" / f"{shard[0]}-of-{shard[1]}" if shard else state


def state_folders(root: Path) -> list[Path]:
    """Every state folder below `root` that holds a ledger: the whole run's and its shards'."""
    state = root / STATE_FOLDER
    return [p.parent for p in sorted([*state.glob("ledger.sqlite3"), *state.glob("shards/*/ledger.sqlite3")])]


class RunLock:
    """Holds the state folder for one run. Raises FolderBusy, naming the run that has it."""

    def __init__(self, state: Path) -> None:
        self._state, self._place = state, state / "lock"
        self._fd = -1

    def __enter__(self) -> RunLock:
        try:
            files.make_folder(self._state, durable=True)
            self._fd = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise files.storage_error(error, f"{self._state} cannot be used as an output folder") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = _owner(self._place)
            os.close(self._fd)
            raise FolderBusy(
                f"{self._state.parent}: another run owns this folder ({owner}); wait for it, or stop it first"
            ) from None
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
        with suppress(OSError):  # a full disk: the lock holds, it only does not say whose it is
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(mine).encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


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


def _owner(place: Path) -> str:
    try:
        owner = json.loads(place.read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f"process {owner['pid']} on {owner['host']}, since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which"
