"""Fresh links during a run: watches the link files, and runs a command that obtains new ones."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..concurrency import stop
from ..model import events
from ..model.entry import Entry
from ..model.errors import FetchError, ManifestError
from ..model.protocols import Row
from ..model.urls import expiry, source_key

_LOOK: Final = 0.5  # seconds between two `stat` calls on the link files

Stamp = tuple[tuple[int, int, int] | None, ...]


class LinkFileRenewal:
    """The renewal of links for manifests that are files; see `model.protocols.Renewal`.

    Args:
        files: the manifest files to watch.
        read: returns the rows of the given files, selected as in the run.
        wait: if True, wait until the user replaces a file; if False, give up when nothing has changed.
        command: a shell command to run when links are dead. It replaces the files, or prints a link file.
        patience: seconds after which the command is killed.
        observe: receives `LinksCommandFailed`, and `LinksRenewed` for files that are replaced before a link
            has died.

    Attributes:
        period: seconds between two calls of `tick`.
    """

    period = 1.0

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[Sequence[Path]], Iterable[Row]],
        *,
        wait: bool = False,
        command: str = "",
        patience: float = 120.0,
        observe: events.Observer = lambda _: None,
    ) -> None:
        self._observe, self._patience = observe, patience
        self._files, self._read, self._wait, self._command = list(files), read, wait, command
        self._offered: Path | None = None
        self._stamp = self._reported = self._look()
        self._reporting: asyncio.Task[None] | None = None
        self._looked = time.monotonic()
        self._printed: str | None = None
        self._in_vain = False  # the last result of the command was of no use
        self._has_run = False  # the command has run since links were last renewed

    def offer(self, file: Path) -> None:
        """Take fresh links from `file` as well, from now on. It is watched like the others.

        Raises:
            ManifestError: the file cannot be read, or has no usable row.
        """
        if not any(isinstance(row, Entry) for row in self._read([file])):
            raise ManifestError(f"{file}: it has no usable row")
        self._offered = file
        self._looked = -math.inf

    def tick(self) -> None:
        """Report when the links of files that were replaced expire, although no link of the run has died.

        Without this, what watches the run would warn of the old links until they have.
        """
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report())

    async def close(self) -> None:
        """End what `tick` has begun."""
        await stop({self._reporting} if self._reporting is not None else ())

    async def _report(self) -> None:
        # in a thread: the files may be on a network disk that hangs, and the run does not need them now
        stamp = await asyncio.to_thread(self._look)
        if stamp in (self._stamp, self._reported):
            return
        self._reported = stamp
        expires = await asyncio.to_thread(self._first_expiry)
        is_unused = self._stamp != stamp  # otherwise the run has them, and has reported them
        if is_unused and expires is not None and expires > time.time():
            self._observe(events.LinksRenewed(0, expires))

    def _first_expiry(self) -> float | None:
        """Return when the first link of the files expires, None if none does or a file cannot be read."""
        try:
            rows = self._read(list(filter(None, [*self._files, self._offered])))
            return min(
                (when for row in rows if isinstance(row, Entry) for url in row.urls if (when := expiry(url))),
                default=None,
            )
        except FetchError:
            return None  # the file may still be being copied; its next change is read again

    def _look(self) -> Stamp:
        return tuple(_stamp(place) for place in [*self._files, *filter(None, [self._offered])])

    def changed(self) -> bool:
        """Return whether a file has changed since links were last read; looks every `_LOOK` seconds."""
        now = time.monotonic()
        if self._printed is not None:
            return True
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        return self._look() != self._stamp

    async def wait(self, *, progressed: bool) -> bool:
        """Wait until fresh links may be available.

        Args:
            progressed: whether the previous links fetched any bytes. If they did not, the command is not run.

        Returns:
            True if fresh links may be available, False if none are to be expected.
        """
        self._looked = -math.inf  # check the files now, not after the interval
        if self.changed():
            return True
        if self._command and progressed and not self._in_vain:
            return await self._run_command()
        while self._wait:
            await asyncio.sleep(_LOOK)
            if self.changed():
                return True
        return False

    async def renew(self, entries: Sequence[Entry]) -> list[Entry | None]:
        """Read the link files again and return `entries` with the fresh links.

        Args:
            entries: the entries whose links are dead.

        Returns:
            One item per entry, in order: the entry with fresh links, or None if the files list no other link.
        """
        found = await asyncio.to_thread(self._fresh, {entry.path for entry in entries})
        renewed = [_other(entry, found.get(entry.path)) for entry in entries]
        # what the files do not have says nothing about the command
        self._in_vain = not any(renewed) and (self._in_vain or self._has_run)
        self._has_run = False
        return renewed

    def _fresh(self, wanted: set[str]) -> dict[str, Entry]:
        stamp, printed = self._look(), self._printed
        changed = stamp != self._stamp or printed is None
        self._stamp, self._printed = stamp, None
        found: dict[str, Entry] = {}
        try:
            if changed:
                found = _entries(self._read(self._files), wanted)
                if self._offered is not None:
                    found |= _entries(self._read([self._offered]), wanted)
            if printed is None:
                return found
            # links are secrets: the command's output is on disk only while it is read
            with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
                file.write(printed)
                file.flush()
                return found | _entries(self._read([Path(file.name)]), wanted)
        except ManifestError:
            return found  # the file may still be being copied; its next change is read again

    async def _run_command(self) -> bool:
        """Run the command; return whether its result is worth reading."""
        process = await asyncio.create_subprocess_shell(
            self._command,
            stdout=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            env=dict(os.environ),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._patience):
                out, _ = await process.communicate()
        except (TimeoutError, asyncio.CancelledError) as error:
            # kill the process group: children of the shell hold the pipe and would keep running
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, asyncio.CancelledError):
                raise
            self._failed(f"it did not exit within {self._patience:.0f} s and was killed")
            return False
        printed, self._has_run = out.decode("utf-8", "replace"), True
        self._printed = printed if printed.strip() else None
        if process.returncode != 0:
            self._failed(f"it exited with status {process.returncode}")
        return not self._in_vain

    def _failed(self, why: str) -> None:
        self._in_vain = True
        said = f"the command for fresh links failed: {why}; run it by hand to see its error"
        self._observe(events.LinksCommandFailed(said))


def _other(entry: Entry, fresh: Entry | None) -> Entry | None:
    """Return `entry` with its links replaced by those of `fresh` that lead to the same files.

    Links are matched by path, because a new signature does not change the path. Size, digest and mirrors of
    `entry` stay: a link file lists none of them. Returns None if `fresh` has no other link of the file.
    """
    if fresh is None or fresh.urls == entry.urls:
        return None
    renewed = {_path(url) for url in fresh.urls}
    kept = tuple(url for url in entry.urls if _path(url) not in renewed)
    urls = (*fresh.urls, *(url for url in kept if url not in fresh.urls))
    if len(kept) == len(entry.urls) or urls == entry.urls or _is_older(fresh, entry):
        return None
    return replace(entry, urls=urls, headers=fresh.headers)


def _is_older(fresh: Entry, entry: Entry) -> bool:
    """Return whether all links of `fresh` have expired, and before those of `entry`: a file of long ago.

    Links that live shorter than those before are taken: a server may refuse a link before it expires.
    """
    found, known = ([expiry(url) for url in each.urls] for each in (fresh, entry))
    times, last = [when for when in found if when is not None], max(filter(None, known), default=None)
    return last is not None and len(times) == len(found) and max(times) < min(last, time.time())


def _path(url: str) -> str:
    return source_key(url).partition("/")[2]


def _stamp(place: Path) -> tuple[int, int, int] | None:
    try:
        seen = place.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _entries(rows: Iterable[Row], wanted: set[str]) -> dict[str, Entry]:
    return {row.path: row for row in rows if isinstance(row, Entry) and row.path in wanted}
