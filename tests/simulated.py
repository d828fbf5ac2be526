"""A disk that forgets: whatever was not synced may be gone, in part or whole, after a power loss.

`SimulatedDisk` does in memory what storage asks of the kernel. `crash` gives the disk as it is found
after the power came back: of the writes not synced any may be missing, the last one may be torn, a
file may have its new length without its bytes, and of the renames and new names not synced only the
first few have happened.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import Remedy, StorageError
from osp_fetch.model.record import Published, Record
from osp_fetch.storage.folder.disk import Disk, Existing


class Power:
    """Goes off at the operation number `until`; from then on nothing reaches the disk."""

    def __init__(self, until: int) -> None:
        self.left = until
        self.off = False

    def use(self) -> None:
        if self.left <= 0:
            self.off = True
            raise OSError(errno.EIO, "the power is off")
        self.left -= 1


@dataclass
class Inode:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes] | int] = field(default_factory=list)  # a write, or a new length
    mtime: int = 0


def _apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del data[change:]
        data.extend(bytes(change - len(data)))
        return
    offset, written = change
    data.extend(bytes(max(0, offset - len(data))))
    data[offset : offset + len(written)] = written


class SimulatedDisk(Disk):
    def __init__(self, power: Power, *, folding: bool = False) -> None:
        self.power = power
        self.folding = folding
        self.names: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.renames: list[tuple[Path | None, Path | None, Inode]] = []  # not yet synced, oldest first
        self._open: dict[int, Inode] = {}
        self._next = 1000
        self._clock = 0
        self._lock = threading.RLock()

    def open(self, place: Path | str, flags: int) -> int:
        with self._lock:
            self.power.use()
            place = Path(place)
            inode = self.names.get(place)
            if inode is not None and flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, "it exists")
            if inode is None:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, "no such file")
                inode = self.names[place] = Inode()
                self.renames.append((None, place, inode))
            if flags & os.O_TRUNC:
                self._change(inode, 0)
            self._next += 1
            self._open[self._next] = inode
            return self._next

    def close(self, fd: int) -> None:
        with self._lock:
            del self._open[fd]

    def _change(self, inode: Inode, change: tuple[int, bytes] | int) -> None:
        _apply(inode.data, change)
        inode.unsynced.append(change)
        self._clock += 1
        inode.mtime = self._clock

    def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        with self._lock:
            self.power.use()
            self._change(self._open[fd], (offset, bytes(data)))

    def read(self, fd: int, block: memoryview, offset: int) -> int:
        with self._lock:
            self.power.use()
            found = self._open[fd].data[offset : offset + len(block)]
            block[: len(found)] = found
            return len(found)

    def truncate(self, fd: int, length: int) -> None:
        with self._lock:
            self.power.use()
            self._change(self._open[fd], length)

    def sync(self, fd: int) -> None:
        with self._lock:
            self.power.use()
            inode = self._open[fd]
            inode.durable, inode.unsynced = bytes(inode.data), []

    sync_data = sync

    def set_modified(self, fd: int, mtime_ns: int) -> None:
        self._open[fd].mtime = mtime_ns

    def stat(self, fd: int) -> Published:
        inode = self._open[fd]
        return Published(len(inode.data), inode.mtime)

    def look(self, place: Path | str) -> Published | None:
        with self._lock:
            inode = self.names.get(Path(place))
            return Published(len(inode.data), inode.mtime) if inode else None

    def existing(self, place: Path | str) -> Existing | None:
        seen = self.look(place)
        return Existing("file", *seen, 1) if seen else None

    def unlink(self, place: Path | str) -> None:
        with self._lock:
            self.power.use()
            inode = self.names.pop(Path(place))
            self.renames.append((Path(place), None, inode))

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        if self.look(final) is not None:
            raise FileExistsError(errno.EEXIST, "it exists")
        self.replace(place, final)

    def replace(self, place: Path | str, final: Path | str) -> None:
        with self._lock:
            self.power.use()
            place, final = Path(place), Path(final)
            if place not in self.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(place))
            inode = self.names.pop(place)
            self.names[final] = inode
            self.renames.append((place, final, inode))

    def sync_folder(self, folder: Path) -> None:
        with self._lock:
            self.power.use()
            # as on journaling file systems: names reach the disk in order, so all before go along
            inside = [n for n, (old, new, _) in enumerate(self.renames) if folder in _folders(old, new)]
            last = max(inside, default=-1)
            for old, new, inode in self.renames[: last + 1]:
                self._name(self.durable_names, old, new, inode)
            del self.renames[: last + 1]

    @staticmethod
    def _name(names: dict[Path, Inode], old: Path | None, new: Path | None, inode: Inode) -> None:
        if old is not None:
            names.pop(old, None)
        if new is not None:
            names[new] = inode

    def is_folder(self, folder: Path) -> bool:
        return True

    def make_folder(self, folder: Path, *, durable: bool, below: Path | None = None) -> None:
        self.power.use()

    def identity(self, folder: Path) -> object:
        return folder

    def real(self, folder: Path) -> Path:
        return folder

    def folds(self, state: Path) -> bool:
        return self.folding

    def is_empty(self, folder: Path) -> bool:
        return not any(place.is_relative_to(folder) for place in self.names)

    def free(self, folder: Path) -> int:
        return 1 << 40

    def capacity(self, folder: Path) -> int:
        return 1 << 40

    def crash(self, chance: random.Random, power: Power) -> SimulatedDisk:
        """What is found on the disk when the power is back."""
        after = SimulatedDisk(power)
        after._clock = self._clock
        names = dict(self.durable_names)
        for old, new, inode in self.renames[: chance.randint(0, len(self.renames))]:
            self._name(names, old, new, inode)
        for place, inode in names.items():
            data = _survived(inode, chance)
            after.names[place] = after.durable_names[place] = Inode(bytearray(data), data, [], inode.mtime)
        return after


def _folders(*places: Path | None) -> set[Path]:
    return {place.parent for place in places if place is not None}


def _survived(inode: Inode, chance: random.Random) -> bytes:
    data = bytearray(inode.durable)
    for change in inode.unsynced:
        match chance.choice(["whole", "lost", "torn", "length only"]):
            case "whole":
                _apply(data, change)
            case "torn" if not isinstance(change, int):
                _apply(data, (change[0], change[1][: chance.randint(0, len(change[1]))]))
            case "length only" if not isinstance(change, int):
                data.extend(bytes(max(0, change[0] + len(change[1]) - len(data))))
            case _:
                pass
    return bytes(data)


class SimulatedLedger:
    """A ledger that keeps its promise, and no more: a record is there when `put` has returned, and one
    that was being put when the power went off is there or is not."""

    def __init__(
        self, power: Power, chance: random.Random | None = None, records: dict[str, Record] | None = None
    ) -> None:
        self.power, self._chance = power, chance or random.Random(0)
        self.records = dict(records or {})

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        return [self.records.get(path) for path in paths]

    async def put(self, record: Record) -> None:
        was_off = self.power.off
        try:
            self.power.use()
        except OSError:
            if not was_off and self._chance.random() < 0.5:
                self.records[record.path] = record
            raise StorageError("the power is off", remedy=Remedy.ABORT) from None
        self.records[record.path] = record
