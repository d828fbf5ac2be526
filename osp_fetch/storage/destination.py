"""Destinations: a local folder, or a prefix of a bucket with a local folder for its state."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.dataclasses import dataclass
from ..model.errors import SettingsError
from ..model.settings import Limits, Settings
from ..s3.address import BucketAddress, bucket_address, is_bucket
from .bucket.state import state_root
from .folder.run_lock import state_folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ..model.protocols import Store
    from .bucket.uploads import Uploads

MEMORY = 512 << 20
"""Bytes that a run to a bucket may use by default, for parts and for the buffers of connections."""
_BUFFERS = 4  # a quarter of the memory is for the buffers of connections
_PART = 12 << 20  # bytes of memory for each connection to a source: its part, and half of one being uploaded


@dataclass(frozen=True, slots=True)
class Destination:
    """Where files go.

    Attributes:
        root: the output folder; for a bucket, the local folder whose `.osp-fetch` keeps the state.
        bucket: bucket and prefix; None for a local folder.
    """

    root: Path
    bucket: BucketAddress | None = None

    def __str__(self) -> str:
        return str(self.bucket or self.root)

    def with_memory(self, settings: Settings) -> Settings:
        """Return `settings` with the memory that a run to this destination may use."""
        if self.bucket is None or settings.limits.memory != "auto":
            return settings
        return replace(settings, limits=replace(settings.limits, memory=MEMORY))

    def buffer_limits(self, limits: Limits) -> Limits:
        """Return the limits for the buffers of connections; the rest of the memory is for parts."""
        if self.bucket is None:
            return limits
        return replace(limits, memory=limits.buffer_memory // _BUFFERS)

    def part_memory(self, limits: Limits) -> int:
        """Return the bytes that the parts of files on their way to a bucket may use together."""
        return limits.buffer_memory - limits.buffer_memory // _BUFFERS

    def most_connections(self, limits: Limits, most: int) -> int:
        """Return how many connections to sources are useful; `most` is what the process allows."""
        return most if self.bucket is None else max(2, min(most, self.part_memory(limits) // _PART))

    def store(
        self,
        state: Path,
        settings: Settings,
        *,
        lock: int | None = None,
        is_new: bool = False,
        is_worker: bool = False,
        wait_lock: float = 0.0,
        uploads: Uploads | None = None,
        stopped: Callable[[], Awaitable[None]] | None = None,
    ) -> AbstractAsyncContextManager[Store]:
        """Return the store, not yet open.

        Args:
            state: the local state folder of the run or shard.
            settings: all settings.
            lock: descriptor of the run's lock.
            is_new: whether a local folder is known to have no file.
            wait_lock: seconds to wait for a run of another machine that fetches to the same prefix.
            is_worker: whether a worker opens it, which shares the lock of its run.
            uploads: the ledger of unfinished uploads of the run that a node works for; None for the one in
                `state`.
            stopped: returns once the run is asked to stop.
        """
        if self.bucket is None:
            from .folder.store import FolderStore

            return FolderStore(self.root, state, settings.storage, lock=lock, is_new=is_new)
        from .bucket.store import BucketStore

        is_whole = uploads is not None or state == state_folder(self.root)
        return BucketStore(
            self.bucket, state, settings, memory=self.part_memory(settings.limits),
            scope="run" if is_whole else state.name, locks=not is_worker, wait_lock=wait_lock,
            root=self.root, uploads=uploads, stopped=stopped,
        )  # fmt: skip


def destination(folder: str | Path, state: str | Path | None = None) -> Destination:
    """Return the destination that a user names.

    Args:
        folder: path of a folder, or `s3://BUCKET/PREFIX`. `~` is the home folder, as in a shell.
        state: local folder for the state of a bucket; None for one below `$XDG_STATE_HOME`.

    Raises:
        SettingsError: the address of the bucket is not valid, or a folder was given with `state`.
    """
    if is_bucket(folder):
        address = bucket_address(str(folder))
        return Destination(state_root(address, state), address)
    if str(folder).startswith("s3:/") and isinstance(folder, Path):
        raise SettingsError(f"{folder}: pass the address of a bucket as a string; a Path changes its slashes")
    if state is not None:
        raise SettingsError("--state is for buckets: a folder keeps its state in .osp-fetch")
    with suppress(RuntimeError):  # no user has this name
        return Destination(Path(folder).expanduser())
    return Destination(Path(folder))
