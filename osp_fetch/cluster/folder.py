"""Runs on several machines that share one output folder share one manifest, without any service.

The manifest is divided into shares, which are shards (`--shard I/N`) with records of their own. A run takes
a share by the lock of its state folder, whose heartbeat every machine sees; when its holder dies or falls
silent, another run takes the share and goes on. The session ends when all shares are done.

A run may fall silent for a while and wake up. It publishes only while the lock still names it, and the
partials of each holder of a share are in a folder of its own, so that no two runs ever write to one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..model.errors import FolderBusyError, SettingsError, StorageError
from ..model.report import Report, Status
from ..storage.folder.disk import storage_error
from ..storage.folder.run_lock import state_folder

SHARES: Final = 32
"""Shares of a manifest: enough that a slow machine has little left at the end. Each reads all of the list."""
_PAUSE: Final = 2.0  # seconds until shares that others hold are looked at again
FetchShare = Callable[[tuple[int, int]], Awaitable[Report]]
"""Fetches one share, (index, count). Raises FolderBusyError if another run has it."""


class Session:
    """The shares of one manifest in one output folder, as every run sees them. All methods block.

    Args:
        root: the output folder.
        sources: what names the manifest; all runs must state the same.
    """

    def __init__(self, root: Path, sources: str) -> None:
        self._folder = state_folder(root) / "join"
        self._sources = sources
        self.id, self.shares = "", SHARES

    def join(self) -> None:
        """Begin the session, or join the one that another run has begun.

        Raises:
            SettingsError: the other run has another manifest.
            StorageError: the folder cannot be written.
        """
        place = self._folder / "session.json"
        mine = {"id": secrets.token_hex(8), "shares": SHARES, "sources": self._sources}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = self._folder / f"session.{mine['id']}"
            beside.write_text(json.dumps(mine))
            with suppress(FileExistsError):
                os.link(beside, place)  # the first one counts; unlike a new file, it is there completely
            beside.unlink()
            found = json.loads(place.read_text())
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise storage_error(error, f"{self._folder} cannot be used to share a run") from None
            raise StorageError(f"{place} is damaged ({error}); remove it while no run is active") from None
        if found["sources"] != self._sources:
            raise SettingsError(
                f"{self._folder.parent.parent}: the run that is to be joined fetches {found['sources']}, "
                f"this one {self._sources}; give the same SOURCE and selection, or another folder"
            )
        self.id, self.shares = found["id"], found["shares"]

    def is_done(self, share: int) -> bool:
        """Return whether a share is done, or the session has ended."""
        return (self._folder / f"{self.id}-{share}").exists() or not (self._folder / "session.json").exists()

    def end(self, share: int) -> None:
        """Record that a share is done."""
        with suppress(FileNotFoundError):  # another run has done the last share, and ended the session
            (self._folder / f"{self.id}-{share}").touch()

    def close(self) -> None:
        """End the session, all shares of which are done."""
        shutil.rmtree(self._folder, ignore_errors=True)


async def fetch_shares(session: Session, fetch: FetchShare) -> Report:
    """Fetch shares until all of them are done, here or by other runs.

    Args:
        session: the session, not yet joined.
        fetch: fetches one share.

    Returns:
        The report on the files of this run's shares.

    Raises:
        FetchError: as `fetch`, but for FolderBusyError.
    """
    total, begun = Report(), time.monotonic()
    await asyncio.to_thread(session.join)
    order = list(range(session.shares))
    random.shuffle(order)  # runs that start together want different shares
    while order and total.stopped is None:
        busy: list[int] = []
        for share in order:
            if await asyncio.to_thread(session.is_done, share):
                continue
            try:
                report = await fetch((share, session.shares))
            except FolderBusyError:
                busy.append(share)
                continue
            total.merge(report)
            if report.stopped is not None:
                break
            if not report.counts[Status.PARKED]:
                await asyncio.to_thread(session.end, share)
        else:
            if not busy:
                await asyncio.to_thread(session.close)
            elif len(busy) == len(order):
                await asyncio.sleep(_PAUSE)
        order = busy
    total.seconds = time.monotonic() - begun
    return total
