"""Runs on several machines that share one output folder share one manifest, without any service.

The manifest is divided into shares, which are shards (`--shard I/N`) with records of their own. A run takes
a share by the lock of its state folder, whose heartbeat every machine sees; when its holder dies or falls
silent, another run takes the share and goes on. The session ends when all shares are done.

A run may fall silent for a while and wake up. It publishes only while the lock still names it, and the
partials of each holder of a share are in a folder of its own, so that no two runs ever write to one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from ..concurrency import stop
from ..model import events
from ..model.errors import FolderBusyError, SettingsError, StorageError
from ..model.report import Report, Status
from ..model.urls import shown
from ..storage.folder.disk import storage_error
from ..storage.folder.heartbeat import BEAT
from ..storage.folder.run_lock import state_folder
from .members import Members

SHARES: Final = 32
"""Shares of a manifest: enough that a slow machine has little left at the end. Each reads all of the list."""
_PAUSE: Final = 2.0  # seconds until shares that others hold are looked at again
_CLOSING: Final = 1.0  # seconds in which a host sees that connections were closed
FetchShare = Callable[[tuple[int, int]], Awaitable[Report]]
"""Fetches one share, (index, count). Raises FolderBusyError if another run has it."""


class SharedRun:
    """The shares of one manifest in one output folder, as every run sees them. All methods block.

    Args:
        root: the output folder.
        sources: what names the manifest and selects its rows; all runs must state the same.

    Attributes:
        id: the session, after `join`.
        shares: number of shares of the manifest.
        members: the runs that take part.
    """

    def __init__(self, root: Path, sources: Sequence[str]) -> None:
        self._folder = state_folder(root) / "join"
        self._shown = ", ".join(map(shown, sources))
        self._hash = hashlib.sha256("\0".join(sources).encode("utf-8", "surrogateescape")).hexdigest()
        self.id, self.shares = "", SHARES
        self.members = Members(self._folder)

    def join(self) -> None:
        """Begin the session, or join the one that another run has begun.

        Raises:
            SettingsError: the other run has another manifest.
            StorageError: the folder cannot be written.
        """
        place = self._folder / "session.json"
        mine = {"id": secrets.token_hex(8), "shares": SHARES, "sources": self._shown, "hash": self._hash}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = self._folder / f"session.{mine['id']}"
            beside.write_text(json.dumps(mine))
            with suppress(FileExistsError):
                os.link(beside, place)  # the first one counts; unlike a new file, it is there completely
            beside.unlink()
            found = json.loads(place.read_text())
            if not isinstance(found, dict) or not mine.keys() <= found.keys():
                raise ValueError("it states no session")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise storage_error(error, f"{self._folder} cannot be used to share a run") from None
            raise StorageError(f"{place} is damaged ({error}); remove it while no run is active") from None
        if found["hash"] != self._hash:
            raise SettingsError(
                f"{self._folder.parent.parent}: the run that is to be joined fetches {found['sources']}, "
                f"this one {self._shown}; give the same SOURCE and selection, or another folder"
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


async def fetch_shares(
    session: SharedRun, fetch: FetchShare, divide: Callable[[int, int], None] = lambda *_: None
) -> Report:
    """Fetch shares until all of them are done, here or by other runs.

    Args:
        session: the session, not yet joined.
        fetch: fetches one share.
        divide: called with the place of this run among those that take part, and their number, whenever that
            changes.

    Returns:
        The report on the files of this run's shares.

    Raises:
        FetchError: as `fetch`. FolderBusyError only if a run over all files works in the folder.
    """
    begun = time.monotonic()
    await asyncio.to_thread(session.join)
    async with _taking_part(session.members, divide):
        total = await _fetched(session, fetch)
    total.seconds = time.monotonic() - begun
    return total


@asynccontextmanager
async def _taking_part(members: Members, divide: Callable[[int, int], None]) -> AsyncIterator[None]:
    """Take part in the session, and watch who else does."""

    begins = asyncio.Event()

    async def watch() -> None:
        try:
            while True:
                place, count = await asyncio.to_thread(members.look)
                divide(place, count)
                await asyncio.to_thread(members.confirm)
                if not begins.is_set() and await asyncio.to_thread(members.is_confirmed):
                    await asyncio.sleep(_CLOSING if count > 1 else 0)
                    begins.set()
                await asyncio.sleep(BEAT if begins.is_set() else BEAT / 4)
        finally:
            begins.set()

    await asyncio.to_thread(members.enter)
    watching = asyncio.create_task(watch())
    try:
        await begins.wait()  # until then the others still use all of the limits
        yield
    finally:
        await stop({watching})
        await asyncio.to_thread(members.leave)


async def _fetched(session: SharedRun, fetch: FetchShare) -> Report:
    """Fetch shares until all of them are done, and close the session then."""
    total = Report()
    order, is_complete = list(range(session.shares)), True
    random.shuffle(order)  # runs that start together want different shares
    while order and total.stopped is None:
        busy: list[int] = []
        for share in order:
            if await asyncio.to_thread(session.is_done, share):
                continue
            try:
                report = await fetch((share, session.shares))
            except FolderBusyError as error:
                if error.is_whole:
                    raise
                busy.append(share)
                continue
            total.merge(report)
            if report.stopped is not None:
                break
            if report.counts[Status.PARKED]:
                is_complete = False  # it needs fresh links, and another run
            else:
                await asyncio.to_thread(session.end, share)
        if len(busy) == len(order):
            await asyncio.sleep(_PAUSE)
        order = busy
    if is_complete and total.stopped is None:
        await asyncio.to_thread(session.close)
    return total


class OneRun:
    """An observer that passes the events of the runs over several shares on as those of one run.

    What counts the rows of a single share (`Progress`, `ManifestEnded`) is not passed on.

    Args:
        observe: receives them.
    """

    def __init__(self, observe: events.Observer) -> None:
        self._observe = observe
        self._has_begun = False

    def __call__(self, event: events.Event) -> None:
        """Pass an event on."""
        if isinstance(event, events.RunEnded | events.ManifestEnded | events.Progress):
            return
        if isinstance(event, events.RunStarted):
            if self._has_begun:
                return
            self._has_begun = True
        self._observe(event)

    def end(self, report: Report) -> None:
        """Report the end of all shares."""
        if self._has_begun:
            self._observe(events.ManifestEnded())
            self._observe(events.RunEnded(report))
