"""Fresh links in mid-run: the link file is watched, and a command may be run to get another."""

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

from ..model import events
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row
from ..model.urls import source_key

_LOOK: Final = 1.0  # seconds between two looks at the files

Stamp = tuple[tuple[int, int, int] | None, ...]


class LinkFileRenewal:
    """The Renewal of manifests that are files; see `model.protocols.Renewal`.

    `read(files)`: the rows of `files`, as the run takes them. `wait`: wait for somebody to put fresh
    files in place. `command`: run by the shell when links are dead; it puts fresh files in place, or
    prints a link file; it is killed after `patience` seconds.
    """

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
        self._stamp = self._look()
        self._looked = time.monotonic()
        self._printed: str | None = None
        self._in_vain = False

    def _look(self) -> Stamp:
        return tuple(_stamp(place) for place in self._files)

    def changed(self) -> bool:
        """Whether a fresh file was put in place since links were last read; looks once a second."""
        now = time.monotonic()
        if self._printed is not None:
            return True
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        return self._look() != self._stamp

    async def wait(self, *, progressed: bool) -> bool:
        """Return True when fresh links may be there, False where none are to be expected."""
        self._looked = -math.inf  # whoever waits wants to know it now
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
        """For each entry the same with other links, None where the files have no others."""
        found = await asyncio.to_thread(self._fresh, {entry.path for entry in entries})
        renewed = [_other(entry, found.get(entry.path)) for entry in entries]
        self._in_vain = not any(renewed)
        return renewed

    def _fresh(self, wanted: set[str]) -> dict[str, Entry]:
        stamp, printed = self._look(), self._printed
        changed = stamp != self._stamp or printed is None
        self._stamp, self._printed = stamp, None
        found: dict[str, Entry] = {}
        try:
            if changed:
                found = _entries(self._read(self._files), wanted)
            if printed is None:
                return found
            # links are secrets: what a command prints is on disk only while it is read
            with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
                file.write(printed)
                file.flush()
                return found | _entries(self._read([Path(file.name)]), wanted)
        except ManifestError:
            return found  # half a file, perhaps still being copied: the next change is looked at again

    async def _run_command(self) -> bool:
        """Run the command; True where it ended well."""
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
            # the whole group: what the shell has started holds the pipe, and would go on for ever
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, asyncio.CancelledError):
                raise
            self._failed(f"it had not ended after {self._patience:.0f} s and was killed")
            return False
        printed = out.decode("utf-8", "replace")
        self._printed = printed if printed.strip() else None
        if process.returncode != 0:
            self._failed(f"it ended with {process.returncode}")
        return not self._in_vain

    def _failed(self, why: str) -> None:
        self._in_vain = True
        said = f"the command for fresh links failed: {why}; run it by hand to see what it lacks"
        self._observe(events.LinksCommandFailed(said))


def _other(entry: Entry, fresh: Entry | None) -> Entry | None:
    """Return `entry` with the links of `fresh` in place of its own that lead to the same files.

    A new signature changes no path. Size, digest and mirrors of `entry` stay: a link file lists none of them.
    Returns None if `fresh` has no other link of the file.
    """
    if fresh is None or fresh.urls == entry.urls:
        return None
    renewed = {_path(url) for url in fresh.urls}
    kept = tuple(url for url in entry.urls if _path(url) not in renewed)
    urls = (*fresh.urls, *(url for url in kept if url not in fresh.urls))
    if len(kept) == len(entry.urls) or urls == entry.urls:
        return None
    return replace(entry, urls=urls, headers=fresh.headers)


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
