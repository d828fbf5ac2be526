"""The output folder of a node on its own disk: its state folder and lock, and the identity of the disk."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..model.errors import FolderBusyError
from ..storage.folder.disk import storage_error
from ..storage.folder.node_folders import node_folder, partials_of
from ..storage.folder.run_lock import RunLock, state_folder

_NAME: Final = "local"  # of the state folder; that of the run may be in the same output folder
_WAIT: Final = 20.0  # seconds to wait for an earlier worker that was lost and has not ended yet
_LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """A node's own output folder.

    Attributes:
        root: the output folder.
        state: its state folder.
        lock: descriptor of the lock of the state folder.
        disk: random text that identifies the disk.
        partials: the files of which it has a partial.
    """

    root: Path
    state: Path
    lock: int
    disk: str
    partials: list[RelativePath]


@asynccontextmanager
async def own_folder(root: Path) -> AsyncIterator[OwnFolder]:
    """Open the output folder of this node, and hold its lock.

    Args:
        root: the output folder; a `~` at its begin is the home directory.

    Raises:
        FolderBusyError: another worker or run uses the folder.
        StorageError: the folder cannot be written.
    """
    root = await asyncio.to_thread(root.expanduser)
    state = node_folder(state_folder(root), _NAME)
    lock = await _locked(state)
    try:
        disk = await asyncio.to_thread(_identity, state)
        partials = await asyncio.to_thread(partials_of, state)
        yield OwnFolder(root, state, lock.descriptor, disk, sorted(partials))
    finally:
        lock.__exit__()


async def _locked(state: Path) -> RunLock:
    begun = time.monotonic()
    while True:
        lock = RunLock(state)
        try:
            return await asyncio.to_thread(lock.__enter__)
        except FolderBusyError:
            if time.monotonic() - begun > _WAIT:
                raise
        await asyncio.sleep(_LOOK)


def _identity(state: Path) -> str:
    """Return what identifies the disk; it is chosen once, and kept in the state folder."""
    place = state / "disk"
    try:
        if not place.exists():
            with place.with_name("disk.new").open("w") as file:
                file.write(secrets.token_hex(8))
                file.flush()
                os.fsync(file.fileno())
            place.with_name("disk.new").replace(place)
        return place.read_text().strip()
    except OSError as error:
        raise storage_error(error, f"{place} cannot be used") from None
