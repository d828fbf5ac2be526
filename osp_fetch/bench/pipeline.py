"""Pipeline: looks at one level through a real run, which fetches, writes, hashes and publishes.

The run has an endless manifest: the files of the host again and again, each time under another name. It
works in a scratch folder on the destination's disk, where finished files are deleted at once. It is stopped
when its rate was steady for some windows. Without a folder, the same engine runs over a store that discards
the bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from ..api import fetch_all
from ..assembly import context_over, reach_of
from ..engine.range_transfer import NoLedger
from ..engine.run import Run
from ..model import events
from ..model.dataclasses import dataclass
from ..model.entry import Entry, relative_path
from ..model.errors import TransferError
from ..model.settings import Settings
from ..options import FetchOptions, PlainOptions, StopToken
from ..storage.folder.disk import storage_error
from .discard import DiscardingStore
from .levels import Level, Look
from .meter import Meter, Windows, look_of

SCRATCH: Final = ".osp-fetch-bench-"
"""Prefix of the name of a scratch folder."""

# Options that say how servers are reached. The other ones select and name rows, which was done already.
_REACH: Final = frozenset({"connect_to", "cafile", "proxies"})
# Seconds between two comparisons of the received bytes with those allowed.
_TICK: Final = 0.05
# Seconds without a single byte after which a look fails.
_PATIENCE: Final = 20.0


@dataclass(slots=True)
class Budget:
    """What a measurement may use.

    Attributes:
        size: Bytes that may still be received.
        until: Time at which the measurement ends, in seconds on the monotonic clock.
        share: Bytes after which a single look ends, if it has windows enough for a result.
    """

    size: int
    until: float
    share: int


@asynccontextmanager
async def scratch_folder(output: Path) -> AsyncIterator[Path]:
    """Make a folder on the disk of `output`, and delete it afterwards.

    The output folder need not exist. The scratch folder lies in it, or in its nearest parent that exists.

    Args:
        output: The output folder.

    Raises:
        StorageError: No folder can be made there.
    """
    try:
        made = await asyncio.to_thread(_made, output)
    except OSError as error:
        raise storage_error(error, f"{output}: no scratch folder can be made there") from None
    try:
        yield made
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, made, ignore_errors=True))


def _made(output: Path) -> Path:
    place = output.absolute()
    return Path(mkdtemp(prefix=SCRATCH, dir=next(each for each in (place, *place.parents) if each.is_dir())))


class Pipeline:
    """Looks at levels, one after another.

    Args:
        entries: Files of the host to fetch; at least one.
        files: Number of files that the manifest has of this host.
        options: The options of the run that is measured for.
        folder: The scratch folder, None to discard the bytes.
        window: Seconds of one window.

    Attributes:
        window: Seconds of one window.
        received: Bytes of all looks so far.
        host: `host:port` that most connections were opened to.
        lengths: Path → length in bytes of the files that were begun.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        files: int,
        options: PlainOptions,
        folder: Path | None,
        window: float,
    ) -> None:
        self._entries, self._files = list(entries), files
        self._settings = options.get("settings") or Settings()
        self._options, self._folder = options, folder
        self.window = window
        self._numbers = itertools.count()
        self.received = 0
        self.host = ""
        self.lengths: dict[str, int] = {}

    async def look(self, level: Level, budget: Budget, most: int) -> Look:
        """Measure one level.

        Args:
            level: The level.
            budget: What may be used. A look ends with it, but never without a result.
            most: Windows after which the look ends, even if its rate is not steady.

        Raises:
            FetchError: The host serves none of the files, or the scratch folder cannot be written.
        """
        meter, token = Meter(), StopToken()
        running = asyncio.create_task(self._run(level, meter, token))
        try:
            look = await self._watch(running, meter, budget, most)
            if meter.error and {e.path for e in self._entries} <= {original(path) for path in meter.gone}:
                raise meter.error  # the last file was refused meanwhile
            return look
        finally:
            token.ask("bench")
            if self._folder is None:
                running.cancel()
            await asyncio.wait({running})
            with suppress(asyncio.CancelledError):
                running.exception()  # marks it as retrieved
            self._learn(meter)

    def _learn(self, meter: Meter) -> None:
        self.received += meter.received
        if meter.received:
            self.host = meter.hosts.most_common(1)[0][0]
        self.lengths.update({original(path): length for path, length in meter.lengths.items()})
        gone = {original(path) for path in meter.gone}
        self._entries = [entry for entry in self._entries if entry.path not in gone]

    async def _watch(self, running: asyncio.Task[None], meter: Meter, budget: Budget, most: int) -> Look:
        clock, windows = time.monotonic, Windows(most)
        opened = begun = start = clock()
        used, before, cpu = begun, 0, 0.0
        while True:
            await self._window_end(running, start + self.window, meter, budget)
            now, core = clock(), time.thread_time()
            self._check(running, meter, late=now > opened + _PATIENCE, over=now > budget.until)
            if meter.received == 0:
                begun = start = now  # the windows begin with the first byte
                continue
            windows.add((meter.received - before) / (now - start), meter.moves)
            busy = (core - cpu) / (now - used) if now > used else 0.0
            if not windows.steady and len(windows.rates) == 1:
                meter.settle()
                used, cpu = now, core
            before, start = meter.received, now
            if windows.over or running.done() or self._spent(budget, meter, now, windows):
                return look_of(windows, meter, busy=busy, seconds=now - begun)

    async def _window_end(
        self, running: asyncio.Task[None], end: float, meter: Meter, budget: Budget
    ) -> None:
        """Wait until the window ends, the bytes are used up, or the run ends."""
        while (left := end - time.monotonic()) > 0 and meter.received < budget.size and not running.done():
            await asyncio.wait({running}, timeout=min(left, _TICK))
            meter.sample(time.monotonic())

    def _spent(self, budget: Budget, meter: Meter, now: float, windows: Windows) -> bool:
        spent = meter.received >= budget.size or now >= budget.until
        return spent or (meter.received >= budget.share and len(windows.rates) > 2)

    def _check(self, running: asyncio.Task[None], meter: Meter, *, late: bool, over: bool) -> None:
        """Raise the error of a run that has ended, or that brings nothing."""
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            raise error
        if meter.received:
            return
        if running.done() and meter.error is not None:
            raise meter.error
        if not (running.done() or late or over):
            return
        if meter.error is not None:
            raise meter.error
        host = next(iter(meter.hosts), "the host")
        if meter.trouble:
            raise TransferError(f"{host} has sent no byte: {meter.trouble}")
        if over and not late:
            raise TransferError(f"{host} has sent no byte in the time that was left; give a longer --time")
        raise TransferError(f"{host} has sent no byte: run bench with a larger file")

    async def _run(self, level: Level, meter: Meter, token: StopToken) -> None:
        limits = level.limits(self._settings.limits)
        storage = replace(self._settings.storage, disk_patience=0.0)
        settings = replace(self._settings, limits=limits, storage=storage)
        if self._folder is None:
            await self._discarding(settings, meter)
        else:
            await self._writing(settings, meter, token, self._folder / str(next(self._numbers)))

    async def _writing(self, settings: Settings, meter: Meter, token: StopToken, folder: Path) -> None:
        loop, rows = asyncio.get_running_loop(), _Rows(self._entries, self._files)
        count = rows.counted(meter)

        def observe(event: events.Event) -> None:
            count(event)
            if isinstance(event, events.Finished):
                loop.run_in_executor(None, _delete, folder / event.outcome.path)

        options: FetchOptions = {"settings": settings, "observer": observe, "stop": token}
        for name in _REACH & self._options.keys():
            options[name] = self._options[name]  # type: ignore[literal-required]
        try:
            await fetch_all(rows, folder, **options)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    async def _discarding(self, settings: Settings, meter: Meter) -> None:
        reach = reach_of(settings, self._options)
        rows = _Rows([replace(entry, digest=None) for entry in self._entries], self._files)
        observe = rows.counted(meter)
        async with AsyncExitStack() as stack:
            context = await context_over(
                stack, DiscardingStore(), NoLedger(), settings, self._options, reach, observe
            )
            await Run(context, lambda _: None, fresh=True).fetch(rows)


class _Rows:
    """An endless manifest: the same files again and again, each time in another folder.

    No more files are in progress at once than the real manifest has: with more, every file would have a
    single connection, and the disk would need space for all of them.

    Args:
        entries: The files; at least one.
        most: Number of files of the real manifest.
    """

    def __init__(self, entries: Sequence[Entry], most: int) -> None:
        self._entries, self._most = entries, most
        self._gone: set[str] = set()
        self._in_progress = 0
        self._ended = asyncio.Event()

    def counted(self, meter: Meter) -> events.Observer:
        """Return an observer that passes events to `meter` and counts the files that have ended."""

        def observe(event: events.Event) -> None:
            meter(event)
            if isinstance(event, events.Finished):
                self._in_progress -= 1
                self._ended.set()
                if event.outcome.path in meter.gone:
                    self._gone.add(original(event.outcome.path))

        return observe

    async def __aiter__(self) -> AsyncIterator[Entry]:
        for number in itertools.count():
            served = [entry for entry in self._entries if entry.path not in self._gone]
            if not served:
                return
            for entry in served:
                while self._in_progress >= self._most:
                    self._ended.clear()
                    await self._ended.wait()
                self._in_progress += 1
                yield replace(entry, path=relative_path(f"{number}/{entry.path}"))


def original(path: str) -> str:
    """Return the path of the real manifest for a path of the endless one."""
    return path.partition("/")[2]


def _delete(place: Path) -> None:
    with suppress(OSError):  # the folder is deleted as a whole later
        place.unlink()
