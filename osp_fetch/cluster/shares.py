"""Runs on several machines that share one output folder share one manifest, without any service.

The manifest is divided into shares, which are shards (`--shard I/N`) with records of their own. A run takes
a share by the lock of its state folder, whose heartbeat every machine sees; when its holder dies or falls
silent, another run takes the share and goes on. The session ends when all shares are done.

A share counts as done only while the run works that has done it, or for runs that were there at the time. A
run that comes later looks at its files again, which is cheap where they are present: they may have been
deleted since, and the new run may have other options.

A run may fall silent for a while and wake up. It publishes only while the lock still names it, and the
partials of each holder of a share are in a folder of its own, so that no two runs ever write to one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from ..concurrency import stop
from ..model import events
from ..model.errors import FolderBusyError, SettingsError, StorageError
from ..model.report import Report, Status
from ..model.urls import expiry, shown
from ..options import StopToken
from ..sources.resolve import SORTED
from ..storage.folder.disk import read_json, storage_error
from ..storage.folder.heartbeat import BEAT
from ..storage.folder.run_lock import state_folder
from .members import Members, has_ended

SHARES: Final = 32
"""Shares of a manifest: enough that a slow machine has little left at the end. Each reads all of the list."""
AT_ONCE: Final = 8
"""Shares that one run fetches at once, where each has too few files to fill the connections."""
_PAUSE: Final = 2.0  # seconds until shares that others hold are looked at again
_LOOK: Final = 0.1  # seconds between two looks at whether another share may begin
_IDLE: Final = 2  # looks in a row at which there must be room
_OPENING: Final = 1.0  # seconds after which a share that has not begun is taken to wait for another run
_SAID: Final = 5.0  # seconds in which every run has written the last status of its shares
_HEAD: Final = 64 << 10  # bytes of a list in which a link is looked for
_CLOSING: Final = 1.0  # seconds in which a host sees that connections were closed
FetchShare = Callable[[tuple[int, int]], Awaitable[Report]]
"""Fetches one share, (index, count), and records that it is done while others cannot take it.

Raises FolderBusyError if another run has it.
"""


class SharedRun:
    """The shares of one manifest in one output folder, as every run sees them. All methods block.

    Args:
        root: the output folder.
        sources: what names the manifest and selects its rows; all runs must state the same.
        content: what else must be the same, such as digests of the lists.

    Attributes:
        id: the session, after `join`.
        shares: number of shares of the manifest.
        members: the runs that take part.
    """

    def __init__(self, root: Path, sources: Sequence[str], content: Sequence[str] = ()) -> None:
        self._folder = state_folder(root) / "join"
        self._shown = ", ".join(map(shown, sources))
        text = "\0".join([*sources, *content])
        self._hash = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        self.id, self.shares = "", SHARES
        self._others = set[str]()  # names of the runs that worked when this one joined
        self._since = 0  # when it was joined, by the clock of the file system, in nanoseconds
        self.members = Members(self._folder)

    def join(self) -> None:
        """Begin the session, or join the one that another run has begun.

        The session of another manifest, whose runs have all ended, is replaced.

        Raises:
            SettingsError: a run that works has another manifest.
            StorageError: the folder cannot be written.
        """
        place = self._folder / "session.json"
        mine = {
            "id": secrets.token_hex(8), "shares": SHARES, "sources": self._shown, "hash": self._hash,
            "by": self.members.name,
        }  # fmt: skip
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = self._folder / f"session.{mine['id']}"
            beside.write_text(json.dumps(mine))
            self._since = beside.stat().st_mtime_ns
            with suppress(FileExistsError):
                os.link(beside, place)  # the first one counts; unlike a new file, it is there completely
            self._others = self.members.working(self._since)
            found = _session(place)
            if found["hash"] != self._hash and self._is_left(found):
                beside.replace(place)
                found = _session(place)
            beside.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise storage_error(error, f"{self._folder} cannot be used to share a run") from None
            raise StorageError(f"{place} is damaged ({error}); remove it while no run is active") from None
        if found["hash"] != self._hash:
            raise SettingsError(
                f"{self._folder.parent.parent}: the run that is to be joined fetches {found['sources']}, "
                f"this one {self._shown}{_differs(found['sources'], self._shown)}; give the same SOURCE and "
                "selection, or another folder"
            )
        self.id, self.shares = found["id"], found["shares"]

    def _is_left(self, session: dict[str, Any]) -> bool:
        """Return whether no run works at a session: none has a heartbeat, or is about to have one."""
        begun_by = str(session.get("by", ""))
        age = self._since - (self._folder / "session.json").stat().st_mtime_ns
        return not self._others and (has_ended(begun_by) or age > 3 * BEAT * 1e9)

    def was_stopped(self) -> bool:
        """Return whether `ask_to_stop` was called on this machine since the session was joined."""
        try:
            return _stop_mark(self._folder).stat().st_mtime_ns > self._since
        except OSError:
            return False

    def is_done(self, share: int) -> bool:
        """Return whether a share is done, or the session has ended."""
        mark = self._folder / f"{self.id}-{share}"
        try:
            done = mark.stat().st_mtime_ns >= self._since or mark.read_text() in self._others
        except OSError:
            done = False
        return done or not (self._folder / "session.json").exists()

    def end(self, share: int) -> None:
        """Record that a share is done."""
        with suppress(FileNotFoundError):  # another run has done the last share, and ended the session
            (self._folder / f"{self.id}-{share}").write_text(self.members.name)

    def failed(self) -> tuple[int, bool]:
        """Return how many files failed or are parked in all shares, and whether all of them have said so."""
        failed, are_known = 0, True
        for place in self._folder.parent.glob(f"shards/*-of-{self.shares}/status.json"):
            said = read_json(place) or {}
            counts = said.get("counts", {})
            failed += counts.get("failed", 0) + counts.get("parked", 0)
            are_known = are_known and bool(said.get("ended"))
        return failed, are_known

    def close(self) -> None:
        """End the session, all shares of which are done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def contents(places: Sequence[str]) -> list[str]:
    """Return the digests of those of `places` that are files. Blocks.

    Runs of one session divide the rows of a list by their order, and must therefore read the same list. Links
    that expire count without their signatures, and a small list of them is divided by path, in any order.
    """
    found = []
    for place in places:
        with suppress(OSError, ValueError):  # what reads the list says what is wrong
            if Path(place).is_file():
                found.append(_content(Path(place)))
    return found


def _content(place: Path) -> str:
    """Return a digest of a list; of one whose links expire, without signatures and the order of its lines."""
    with place.open("rb") as file:
        link = re.search(rb"https?://[^\s\"']+", file.read(_HEAD))
        file.seek(0)
        if link is None or expiry(link[0].decode("utf-8", "replace")) is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        lines = [re.sub(rb"\?[^\s\"',]*", b"", line).strip() for line in file]
    if place.stat().st_size <= SORTED:
        lines.sort()
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def ask_to_stop(root: Path) -> None:
    """Ask the runs of this machine that share `root` to stop, also those that wait for shares of others.

    A run with shares has a control socket for each; one that waits has none, and looks for this mark.
    """
    folder = state_folder(root) / "join"
    if folder.is_dir():
        with suppress(OSError):  # it has ended just now
            _stop_mark(folder).write_text("")


def _session(place: Path) -> dict[str, Any]:
    """Return what the file of a session states."""
    found = json.loads(place.read_text())
    if not isinstance(found, dict) or not {"id", "shares", "sources", "hash"} <= found.keys():
        raise ValueError("it states no session")
    return found


def _differs(theirs: str, mine: str) -> str:
    return " with another content, or other checksum lists" if theirs == mine else ""


def _stop_mark(folder: Path) -> Path:
    return folder / f"stop.{socket.gethostname()}"


async def fetch_shares(
    session: SharedRun,
    fetch: FetchShare,
    divide: Callable[[int, int], None] = lambda *_: None,
    has_room: Callable[[int], bool] = lambda _: False,
    *,
    stopping: StopToken | None = None,
    most: int = AT_ONCE,
) -> Report:
    """Fetch shares until all of them are done, here or by other runs.

    Args:
        session: the session, not yet joined.
        fetch: fetches one share.
        divide: called with the place of this run among those that take part, and their number, whenever that
            changes.
        has_room: returns whether the shares that are being fetched here leave connections unused, so that
            another one may begin. The argument is how many of them must have begun.
        stopping: the token by which the run is asked to stop.
        most: shares that are fetched at once.

    Returns:
        The report on the files of this run's shares.

    Raises:
        FetchError: as `fetch`. FolderBusyError only if a run over all files works in the folder.
    """
    begun, stopping = time.monotonic(), stopping or StopToken()
    await asyncio.to_thread(session.join)
    async with _taking_part(session.members, divide, stopping):
        total = await _Shares(session, fetch, has_room, stopping, most).fetch()
        if total.stopped is None:
            await _count_elsewhere(session, total)
    total.seconds = time.monotonic() - begun
    return total


async def _count_elsewhere(session: SharedRun, total: Report) -> None:
    """Add to the report of a run what has failed in the shares of others: the manifest is not complete."""
    own = total.counts[Status.FAILED] + total.counts[Status.PARKED]
    until = time.monotonic() + _SAID
    while True:
        failed, are_known = await asyncio.to_thread(session.failed)
        if are_known or time.monotonic() > until:
            break
        await asyncio.sleep(_LOOK)  # a run writes its last status after its share is done
    total.elsewhere = max(0, failed - own)
    if total.elsewhere:
        files = "1 file" if total.elsewhere == 1 else f"{total.elsewhere} files"
        total.notes.append(f"{files} failed in other runs of this folder; osp-fetch status shows them")


@asynccontextmanager
async def _taking_part(
    members: Members, divide: Callable[[int, int], None], stopping: StopToken
) -> AsyncIterator[None]:
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
        await stopping.unless_asked(begins.wait())  # until then the others still use all of the limits
        yield
    finally:
        await stop({watching})
        await asyncio.to_thread(members.leave)


class _Shares:
    """Fetches shares of a session until all of them are done, several at once where one leaves room.

    Args:
        session: the session, which was joined.
        fetch: fetches one share.
        has_room: returns whether the shares that are being fetched leave connections unused. The argument is
            how many of them must have begun.
        stopping: the token by which the run is asked to stop. Shares that are being fetched obey it, too.
        most: shares that are fetched at once.
    """

    def __init__(
        self,
        session: SharedRun,
        fetch: FetchShare,
        has_room: Callable[[int], bool],
        stopping: StopToken,
        most: int,
    ) -> None:
        self._session, self._fetch, self._has_room = session, fetch, has_room
        self._stopping, self._most = stopping, most
        self._free = list(range(session.shares))
        random.shuffle(self._free)  # runs that start together want different shares
        self._busy: list[int] = []  # shares that other runs held
        self._running: dict[asyncio.Task[Report], int] = {}
        self._began, self._idle = 0.0, 0  # when the last one was begun; looks at which there was room
        self._total, self._is_complete = Report(), True

    async def fetch(self) -> Report:
        """Fetch until all shares are done, close the session then, and return the report."""
        try:
            while self._running or (self._stopping.why is None and (self._free or self._busy)):
                if self._may_begin():
                    await self._begin(self._free.pop())
                else:
                    await self._wait()
        finally:
            await stop(self._running)
            for task in self._running:
                if not task.cancelled():
                    task.exception()  # marks it as retrieved: the error of another share is raised
        if self._free or self._busy:
            self._total.stopped = self._stopping.why
        if self._is_complete and self._total.stopped is None:
            await asyncio.to_thread(self._session.close)
        return self._total

    def _may_begin(self) -> bool:
        if self._stopping.why is not None or not self._free:
            return False
        if not self._running:
            return True
        is_opening = time.monotonic() - self._began < _OPENING
        has_room = len(self._running) < self._most and self._has_room(len(self._running) if is_opening else 0)
        self._idle = self._idle + 1 if has_room else 0
        return self._idle > _IDLE

    async def _begin(self, share: int) -> None:
        if not await asyncio.to_thread(self._session.is_done, share):
            task = asyncio.ensure_future(self._fetch((share, self._session.shares)))
            self._running[task] = share
            self._began, self._idle = time.monotonic(), 0

    async def _wait(self) -> None:
        """Wait for the end of a share. If none ends, look again at those that other runs held."""
        may_begin = self._stopping.why is None and len(self._running) < self._most
        if self._running:
            pause = _LOOK if self._free else _PAUSE
            done, _ = await asyncio.wait(
                self._running, timeout=pause if may_begin else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                self._settle(task)
        else:
            done = set()
            await self._stopping.unless_asked(asyncio.sleep(_PAUSE))
            if await asyncio.to_thread(self._session.was_stopped):
                self._stopping.ask("osp-fetch ctl stop")
        if not self._free and not done:
            self._free, self._busy = self._busy, []

    def _settle(self, task: asyncio.Task[Report]) -> None:
        """Add the report on a share that has ended. Raises FetchError if it could not be fetched."""
        share = self._running.pop(task)
        try:
            report = task.result()
        except FolderBusyError as error:
            if error.is_whole:
                raise
            self._busy.append(share)
            return
        self._total.merge(report)
        if report.counts[Status.PARKED]:
            self._is_complete = False  # it needs fresh links, and another run


class OneRun:
    """An observer that passes the events of the runs over several shares on as those of one run.

    What counts the rows of a single share (`Progress`, `ManifestEnded`) is not passed on. An event of the
    connections, which every share gets, is passed on once.

    Args:
        observe: receives them.
    """

    def __init__(self, observe: events.Observer) -> None:
        self._observe = observe
        self._has_begun = False
        self._last: events.Event | None = None

    def __call__(self, event: events.Event) -> None:
        """Pass an event on."""
        if event is self._last or isinstance(event, events.RunEnded | events.ManifestEnded | events.Progress):
            return
        self._last = event
        if isinstance(event, events.Steered) and event.what == events.STILL_HOLDS:
            return  # every share that begins says so
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
