"""What the destination's disk and this machine's processor can do: write and sync rate, and hash rates."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.digest import HEX_LENGTHS
from ..model.errors import FetchError
from ..storage.folder.disk import storage_error
from ..storage.folder.hashing import hasher

# Bytes of one write, as the pipeline makes them with few connections.
_BLOCK: Final = 1 << 20
# Bytes between two syncs. A run syncs a large file when it takes a checkpoint and when it publishes.
_SYNC: Final = 32 << 20
# Bytes of the one file that is written, from its beginning to its end, again and again. It is larger than the
# cache of most disks.
_FILE: Final = 1 << 30
# Seconds for which one digest is computed.
_HASHING: Final = 0.15
# Bytes of a small file, and how many of them are synced, one after another.
_SMALL, _SMALL_FILES = 4 << 10, 10
# Bytes of the smallest free space that is left on the disk.
_LEFT: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class DiskRates:
    """Rates of a disk and of a processor, in bytes per second.

    Attributes:
        folder: The folder on the disk.
        write: Rate of writing with a sync each 32 MiB, which is what a run with full durability can reach.
        sync: Seconds until one small file is written and synced.
        hashing: Algorithm → rate of one core.
    """

    folder: str
    write: float
    sync: float
    hashing: dict[str, float]

    def row(self) -> dict[str, Any]:
        """Return the rates as a JSON-serializable dict."""
        return {
            "folder": self.folder,
            "write_bytes_per_second": round(self.write),
            "sync_seconds": round(self.sync, 6),
            "hash_bytes_per_second": {name: round(rate) for name, rate in self.hashing.items()},
        }


def disk_rates(scratch: Path, output: Path, seconds: float) -> DiskRates:
    """Measure the disk of `scratch` for `seconds` seconds, and the digests. Blocks.

    Args:
        scratch: A folder to write to.
        output: The output folder, which the result names.
        seconds: Seconds to write for; what was written then is synced.

    Raises:
        StorageError: The folder cannot be written.
    """
    try:
        write, sync = _write_rate(scratch, seconds), _sync_seconds(scratch)
    except OSError as error:
        raise storage_error(error, f"{output}: the disk cannot be measured") from None
    return DiskRates(str(output), write, sync, hash_rates())


def _write_rate(scratch: Path, seconds: float) -> float:
    """Return the rate of writing random bytes, which no file system can compress, with a sync each 32 MiB."""
    usage = os.statvfs(scratch)
    most = min(_FILE, usage.f_bavail * usage.f_frsize - _LEFT) // _SYNC * _SYNC
    block = memoryview(os.urandom(_BLOCK))
    fd = os.open(scratch / "disk", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        begun, count = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            at = count % max(most, _SYNC)
            for each in range(0, _SYNC, _BLOCK):
                os.pwrite(fd, block, at + each)
            os.fdatasync(fd)
            count += _SYNC
        return count / (time.monotonic() - begun)
    finally:
        os.close(fd)


def _sync_seconds(scratch: Path) -> float:
    """Return the mean time to write and sync a small file."""
    begun, data = time.monotonic(), os.urandom(_SMALL)
    for number in range(_SMALL_FILES):
        fd = os.open(scratch / f"small{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    return (time.monotonic() - begun) / _SMALL_FILES


def hash_rates() -> dict[str, float]:
    """Return algorithm → bytes per second of one core, for the digests that this installation can compute."""
    block, rates = os.urandom(_BLOCK), {}
    for name in HEX_LENGTHS:
        if name == "git-blob-sha1":
            continue  # SHA-1 with a prefix
        try:
            rates[name] = _hash_rate(name, block)
        except FetchError:
            continue  # it needs a library that is not installed
    return rates


def _hash_rate(algorithm: str, block: bytes) -> float:
    made, begun, count = hasher(algorithm, _BLOCK), time.perf_counter(), 0
    while time.perf_counter() - begun < _HASHING:
        made.update(block)
        count += len(block)
    return count / (time.perf_counter() - begun)
