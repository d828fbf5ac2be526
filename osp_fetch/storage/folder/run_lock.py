"""The state folder `.osp-fetch/` of an output folder, and the lock that admits one run at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from ...model.entry import STATE_FOLDER
from ...model.errors import FolderBusyError, Remedy, StorageError
from .disk import Disk, read_json, storage_error
from .heartbeat import BEAT, Heartbeat, Pulse, awaited, beating
from .permissions import Permissions

# Attempts to get the lock, 0.1 s apart. `status` holds it for a moment while it looks at the folder.
_TRIES: Final = 5
# Error numbers of flock that mean that another process holds the lock.
_BUSY: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES})


def state_folder(root: Path, shard: tuple[int, int] | None = None) -> Path:
    """Return the state folder of the output folder `root`.

    Args:
        root: the output folder.
        shard: (index, count) of a shard, which has a state folder of its own; None for an unsharded run.
    """
    state = root / STATE_FOLDER
    return state / "shards" / f"{shard[0]}-of-{shard[1]}" if shard else state


def state_folders(root: Path) -> list[Path]:
    """Return every state folder below `root` that holds a ledger: of an unsharded run, and of each shard.

    Raises:
        StorageError: the records of the output folder exist and cannot be read.
    """
    state = root / STATE_FOLDER
    _check_access(root)
    found = [
        place.parent for place in [*state.glob("ledger.sqlite3"), *state.glob("shards/*/ledger.sqlite3")]
    ]
    return sorted(found, key=_order)


def _order(state: Path) -> tuple[int, int, str]:
    """Return the place of a state folder among those of an output folder: shard 2 comes before shard 10."""
    index = state.name.partition("-")[0]
    return len(state.parts), int(index) if index.isdigit() else 0, state.name


def _check_access(root: Path) -> None:
    """Raise StorageError if the records of an output folder cannot be listed.

    `Path.glob` finds nothing then, without an error, as if no run had worked there.
    """
    for folder in (state_folder(root), state_folder(root) / "shards"):
        try:
            with os.scandir(folder):
                pass
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be read: {error.strerror}; run as the user who fetches, or let `get` set "
                "permissions for a group (`storage.mode`)"
            ) from None


class RunLock:
    """The lock of a state folder, held by one run. Use it as a context manager.

    The lock is taken with flock. In addition, the run updates the modification time of the lock file as a
    heartbeat, because on network file systems flock may be missing, or may work within one host only. A run
    that finds a lock file of another host waits for three intervals, and takes the lock if it sees no
    heartbeat.

    Args:
        state: the state folder; it is created if it does not exist.
        beat: seconds between two heartbeats.
        permissions: of the state folder and the lock file.
        is_run: whether a run over all files is refused beside runs over shards, and the other way round. They
            have locks of their own, and would fetch the same files twice.
        is_strict: whether a run over a shard is refused beside shards of another number, too.

    Raises:
        FolderBusyError: on entering, another run owns the folder. The message states its process, host and
            start.
        StorageError: on entering, the state folder cannot be created or written; DiskFullError if the disk is
            full.
    """

    def __init__(
        self,
        state: Path,
        beat: float = BEAT,
        permissions: Permissions | None = None,
        *,
        is_run: bool = False,
        is_strict: bool = False,
    ) -> None:
        self._state, self._place, self._beat = state, state / "lock", beat
        self._others = _Others(state, beat, is_strict=is_strict) if is_run else None
        self._permissions = permissions or Permissions()
        self._fd = -1
        self._mine: dict[str, object] = {}
        self._checked = 0.0  # when the lock was known to be held, on the monotonic clock
        self._heartbeat: Heartbeat

    def __enter__(self) -> RunLock:
        try:
            _make(self._state, self._permissions)
            self._fd = os.open(self._place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._permissions.grant(self._fd)
        except OSError as error:
            raise storage_error(error, f"{self._state} cannot be used as an output folder") from None
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise
        self._heartbeat = Heartbeat(self._fd, self._beat)
        self._heartbeat.start()
        return self

    @property
    def descriptor(self) -> int:
        """The descriptor of the open lock file. A process that inherits it also holds the lock."""
        return self._fd

    def check(self) -> None:
        """Raise StorageError if another run has taken the lock, because this one was silent for too long."""
        if time.monotonic() < self._checked + self._beat / 2:
            return
        found = _read(self._place) or self._read_here()
        if found.get("token") != self._mine.get("token"):
            raise StorageError(
                f"{self._state.parent}: this run was silent for so long that another one has taken its place",
                remedy=Remedy.ABORT,
            )
        self._checked = time.monotonic()

    def _read_here(self) -> dict[str, object]:
        """Return what the lock file holds if it is still the one that is open: no descriptor may be left."""
        with suppress(OSError, ValueError):
            if os.path.samestat(self._place.stat(), os.fstat(self._fd)):
                found = json.loads(os.pread(self._fd, 4096, 0))
                return found if isinstance(found, dict) else {}
        return {}

    def _take(self) -> None:
        locked = self._locked()
        left = _read(self._place)
        if left and self._lives(left, locked=locked):
            raise self._busy()
        if self._others is not None:
            self._others.check()
        mine: dict[str, object] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": int(time.time()),
        }
        mine["token"] = secrets.token_hex(8)
        self._mine = mine
        with suppress(OSError):  # on a full disk the lock still works, but does not state its owner
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(mine).encode(), 0)
        if not locked:
            time.sleep(self._beat)  # a run that started at the same time has written its entry by now
            if _read(self._place) != mine:
                raise self._busy()
        if self._others is not None:
            try:
                self._others.check(far=False)  # one that started at the same time
            except FolderBusyError:
                with suppress(OSError):
                    os.ftruncate(self._fd, 0)
                raise

    def _locked(self) -> bool:
        """Return True if flock got the lock, False if the file system does not support flock."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _BUSY:
                    return False
            else:
                return True
            time.sleep(0.1)  # `status` may hold it for a moment
        raise self._busy()

    def _lives(self, left: dict[str, object], *, locked: bool) -> bool:
        """Return whether the run that wrote `left` is still alive."""
        if left.get("host") == socket.gethostname() and (locked or not _runs(left.get("pid"))):
            return False
        return Pulse(self._place, self._beat).awaited()

    def _busy(self) -> FolderBusyError:
        error = FolderBusyError(
            f"{self._state.parent}: another run owns this folder ({_owner(self._place)}); wait until it "
            "ends (get --wait-lock TIME does), or stop it; one get takes any number of links"
        )
        owner = _read(self._place)
        if owner.get("host") == socket.gethostname() and isinstance(owner.get("pid"), int):
            error.pid = int(str(owner["pid"]))
        return error

    def __exit__(self, *_: object) -> None:
        self._heartbeat.stop()
        with suppress(OSError):
            # after a silence, another run may have taken the lock
            if _read(self._place).get("token") == self._mine["token"]:
                os.ftruncate(self._fd, 0)
            # a process that the program forked meanwhile has the descriptor, too, and would keep the lock
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


class _Others:
    """The locks of runs that a run must not work beside, because they divide the files otherwise.

    Those are the shards for a run over all files; and for a shard the run over all files, and shards of
    another number.

    Args:
        state: the state folder of the run.
        beat: seconds between two heartbeats.
        is_strict: whether shards of another number count.
    """

    def __init__(self, state: Path, beat: float, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._is_whole, self._beat = state.parent.name != "shards", beat
        self._folder = state if self._is_whole else state.parent.parent
        self._number = state.name.partition("-of-")[2]

    def check(self, *, far: bool = True) -> None:
        """Raise FolderBusyError if one of the locks is held.

        Args:
            far: whether runs of other machines count. It takes six seconds to see whether one is alive.
        """
        places = [] if self._is_whole else [self._folder / "lock"]
        if self._is_whole or self._is_strict:
            shards = self._folder.glob("shards/*/lock")
            places += (each for each in shards if each.parent.name.partition("-of-")[2] != self._number)
        left = {place: owner for place in places if (owner := _read(place))}
        near = {place for place, owner in left.items() if owner.get("host") == socket.gethostname()}
        held = next((p for p in near if owner_of(p.parent) is not None and _runs(left[p].get("pid"))), None)
        if held is None and far:
            held = awaited(sorted(left.keys() - near), self._beat)
        if held is None:
            return
        what = "a run over all files"
        if held.parent != self._folder:
            what = "a run over a part of the files"
            if not self._is_whole:
                what = f"a run over one of {held.parent.name.partition('-of-')[2]} shards"
        error = FolderBusyError(
            f"{self._folder.parent}: {what} works in this folder ({_owner(held)}); wait until it ends, or "
            "stop it"
        )
        error.is_whole = not self._is_whole
        raise error


def _make(state: Path, permissions: Permissions) -> None:
    """Create a state folder. By default only its owner can read it: it may name private files and hosts."""
    if not state.is_dir():
        if state.name == STATE_FOLDER:
            Disk().make_folder(state.parent, durable=True)
        else:
            _make(state.parent, permissions)
        state.mkdir(mode=0o700, exist_ok=True)
    permissions.grant(state)


def _runs(pid: object) -> bool:
    """Return whether a process of this host has the number `pid`."""
    try:
        os.kill(int(str(pid)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        pass  # it exists, but belongs to another user
    return True


def owner_of(state: Path) -> str | None:
    """Return which run owns the state folder `state` now, in words; see `owners_of`."""
    return owners_of([state])[0]


def owners_of(states: Sequence[Path], beat: float = BEAT) -> list[str | None]:
    """Return which run owns each state folder now, in words; None if none does. Blocks.

    Where locks hold within one machine only, as on some network file systems, the heartbeats show which runs
    on other machines work: that takes three intervals in all.

    Args:
        states: the state folders.
        beat: seconds between two heartbeats.
    """
    places = [state / "lock" for state in states]
    held = {place: _is_locked(place) for place in places}
    here = (None, socket.gethostname())
    elsewhere = [place for place in places if not held[place] and _read(place).get("host") not in here]
    owned = beating(elsewhere, beat) | {place for place in places if held[place]}
    return [_owner(place) if place in owned else None for place in places]


def _is_locked(place: Path) -> bool:
    """Return whether a process holds the lock of a lock file, as far as this machine knows."""
    try:
        fd = os.open(place, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


class LockWatch:
    """Sees again and again whether a run owns a state folder, on any machine, without touching the lock.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._place = state / "lock"
        self._pulse = Pulse(self._place)

    def look(self) -> Literal["held", "left", "free"]:
        """Return "held" while a run works, "left" after it was killed, or "free".

        It takes six seconds to notice that a run was killed.
        """
        if not _read(self._place):
            return "free"
        return "held" if self._pulse.beats() else "left"


def _read(place: Path) -> dict[str, object]:
    """Return what the owner wrote to the lock file; empty if that is nothing or damaged."""
    return read_json(place) or {}


def _owner(place: Path) -> str:
    try:
        owner = _read(place)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(owner["since"]))))
        return f"process {owner['pid']} on {owner['host']}, since {since}"
    except (ValueError, KeyError):
        return "process unknown"
