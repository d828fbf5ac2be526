"""One run from its options to its report: the lock, the observers, the workers, and what may steer it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .assembly import (
    again_of,
    build_context,
    failed_file_of,
    forget_failed,
    open_connections,
    pages_of,
    reach_of,
    renewal_of,
    rows_of,
)
from .cluster.of_run import add_nodes, destination_of, is_node_local, workers_of
from .concurrency import outlast
from .connections.wait_reporter import WaitReporter
from .control.endpoint import ControlSocket
from .control.steering import Steering
from .engine.run import Run
from .joint import Joint, own_partials
from .model import events
from .model.dataclasses import dataclass
from .model.errors import FolderBusyError, SettingsError
from .model.report import Outcome, Report
from .model.settings import Settings
from .options import PlainOptions, StopToken
from .processor import processor_times
from .sources.hub_metadata import DownloadMetadata
from .storage.destination import Destination
from .storage.folder.disk import Disk
from .storage.folder.permissions import Permissions
from .storage.folder.run_lock import RunLock, state_folder, state_folders
from .storage.folder.spill import DiskSpill
from .views import formatting
from .views.board import Board
from .views.event_log import EventLog, StatusFile
from .views.fanout import Fanout, ProgressTicker, Ticking, board_and_views
from .views.file_notes import notes_of
from .views.history import HistoryFile
from .views.totals import Totals

if TYPE_CHECKING:
    from .assembly import AnyManifest
    from .engine.context import Context
    from .pages import WebPages
    from .sources.link_files import LinkFileRenewal
    from .sources.resolve import Resolved
    from .views.failed_file import FailedFile
    from .workers.limits import Workers
    from .workers.reach import Reach

T = TypeVar("T")
RUN_NAME: Final = "osp-fetch run"
_WINDING_UP: Final = 10.0  # seconds to wait until a cancelled run of this process releases its folder
# Seconds between two looks at a folder that a run of this process, or another one, still owns.
_OWN_LOOK: Final = 0.05
_LOCK_LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Given:
    """What a run is given, and what of it is read before the run has the lock of its folder.

    Attributes:
        manifest: The manifest.
        options: The options of the run.
        place: The destination.
        settings: The settings, with the memory that a run to this destination may use.
        state: The state folder of this run or shard.
        reach: How servers are reached.
        pages: Gets the pages of listings.
        resolved: The rows of the manifest.
        failed: Collects the rows that fail, None if the options do not ask for it.
        was_empty: Whether the output folder had no file. Creating the state folder changes that.
        joint: What the run has in common with others over shares of the manifest; None if it is no such run.
    """

    manifest: AnyManifest
    options: PlainOptions
    place: Destination
    settings: Settings
    state: Path
    reach: Reach
    pages: WebPages
    resolved: Resolved
    failed: FailedFile | None
    was_empty: bool
    joint: Joint | None

    @property
    def stop(self) -> StopToken:
        """The token by which the run is asked to stop; the options have one."""
        return self.options["stop"]

    @property
    def shares(self) -> bool:
        """Whether the run shares its connections with joint runs. Worker processes have their own."""
        return self.joint is not None and self.settings.limits.processes == 1


async def _read(
    manifest: AnyManifest, folder: str | Path, options: PlainOptions, joint: Joint | None
) -> _Given:
    """Read what a run needs to know before it begins. Raises as `rows_of` does."""
    place = destination_of(folder, options)
    settings = place.with_memory(options.get("settings") or Settings())
    reach = await asyncio.to_thread(reach_of, settings, options)
    pages = await asyncio.to_thread(pages_of, options)
    resolved = await asyncio.to_thread(rows_of, manifest, options, pages)
    state = state_folder(place.root, options.get("shard"))
    failed = await asyncio.to_thread(failed_file_of, manifest, options, state)
    was_empty = await asyncio.to_thread(_is_empty, place.root)
    given: PlainOptions = {**options, "stop": options.get("stop") or StopToken()}
    return _Given(manifest, given, place, settings, state, reach, pages, resolved, failed, was_empty, joint)


async def launch(
    manifest: AnyManifest,
    folder: str | Path,
    options: PlainOptions,
    deliver: Callable[[Outcome], None],
    *,
    joint: Joint | None = None,
) -> Report:
    """Fetch in one run. With `joint`, another machine may take the place of this run if it is silent."""
    given = await _read(manifest, folder, options, joint)
    given.stop.begun = True
    report, begun = Report(shard=options.get("shard")), time.monotonic()
    async with AsyncExitStack() as stack:
        stack.callback(given.resolved.close)
        stack.enter_context(stopping_after(given.stop, options.get("max_duration")))
        if joint is None:  # the umask is that of the process, which all joint runs share
            stack.enter_context(Permissions(given.settings.storage.mode).applied())
        lock = await _locked(stack, given.state, given.options, given.stop)
        if lock is None:
            report.stopped, report.seconds = given.stop.why, time.monotonic() - begun
            return report
        forget_failed(given.state)
        if joint is not None and await joint.is_done(report):
            return report
        await _fetch(stack, given, lock, report, begun, deliver)
        if joint is not None:
            await joint.ended(report)
    return report


async def _fetch(
    stack: AsyncExitStack,
    given: _Given,
    lock: RunLock,
    report: Report,
    begun: float,
    deliver: Callable[[Outcome], None],
) -> None:
    """Assemble the run, fetch, and complete the report. The lock of the folder is held."""
    is_new = given.was_empty and not state_folders(given.place.root)  # another run may have used it
    board, observe = await _observers(stack, given, report)
    opening = _context(stack, given, observe, lock, is_new=is_new)
    if (context := await _unless_stopped(opening, report, given.stop, observe)) is None:
        report.seconds = time.monotonic() - begun
        return
    workers, context = await workers_of(
        stack, context, given.place, given.state, given.reach, given.options, lock.descriptor
    )
    pool, pausing = workers.own_pool if workers else context.pool, _pausing(observe, workers)
    await stack.enter_async_context(given.pages.over(pool, context.transport, pausing))
    renewal = renewal_of(given.manifest, given.options, given.settings, observe, given.pages)
    await _ticking(stack, given, context, board, observe, workers, renewal)
    first, tell = stack.enter_context(given.joint.share(observe)) if given.joint else (1, None)
    again = given.joint.again if given.joint else again_of(given.options)
    spill = stack.enter_context(DiskSpill(given.state))
    run = Run(
        context, _finisher(stack, given.place, given.options, report, deliver), renewal,
        fetch_one=workers.fetch if workers else None, recheck=given.options.get("recheck", False),
        fresh=is_new and context.store.is_new, again=again, spill=spill,
        update=given.options.get("update", False), first=first, begun=tell,
    )  # fmt: skip
    observe.add(run.observe, events.HostBack)
    work = _Work(run, stack, given)
    steering = Steering(context, board.snapshot, given.stop.ask, work, renewal, workers)
    await _steered(stack, steering, given, report)
    await _paged(stack, given, board, observe, steering)
    observe(events.RunStarted(str(given.place), given.settings.timeouts.idle))
    try:
        await _unless_stopped(run.fetch(given.resolved.rows), report, given.stop, observe)
    finally:
        unmatched = [] if report.stopped or given.joint else again.notes()  # not every row was read
        of_rows = [*given.resolved.notes(), *work.notes(), *unmatched]
        report.notes += [*given.reach.notes, *of_rows, *notes_of(board), *observe.failures, *run.notes()]
        report.notes += given.failed.close() if given.failed else []
        await _end(report, board, begun, workers, observe)


async def _observers(stack: AsyncExitStack, given: _Given, report: Report) -> tuple[Board, Fanout]:
    """Open the log and the history; return the board, and what passes events to all observers."""
    state, storage = given.state, given.settings.storage
    permissions, totals = Permissions(storage.mode), Totals()
    board, views = board_and_views(given.options.get("observer"))
    log = EventLog(state / "events.jsonl", permissions, storage.log_size)
    stack.callback(log.close)
    await stack.enter_async_context(Ticking(log))
    await stack.enter_async_context(HistoryFile(state / "history.jsonl", board, totals, permissions))
    observe = Fanout([board, totals, log])
    for kind in (events.Repeating, events.LedgerReplaced):
        observe.add(partial(_note, report), kind)
    for each in filter(None, (given.failed, *views)):
        observe.add(each)
    return board, observe


async def _context(
    stack: AsyncExitStack, given: _Given, observe: Fanout, lock: RunLock, *, is_new: bool
) -> Context:
    """Open what the run fetches with. Of joint runs, each has partials of its own, and all have one rate."""
    joint = given.joint
    working = await asyncio.to_thread(own_partials, stack, given.state) if joint else None
    opening = partial(
        open_connections, settings=given.settings, options=given.options, reach=given.reach, place=given.place
    )
    context = await build_context(
        stack, given.place, given.state, given.settings, given.options, given.reach, observe, lock.descriptor,
        is_new=is_new, working=working, may_publish=lock.check if joint else lambda: None,
        connect=partial(joint.connections, opening) if joint and given.shares else None,
    )  # fmt: skip
    if joint is not None:
        joint.share_rate(context)
    return context


async def _ticking(
    stack: AsyncExitStack,
    given: _Given,
    context: Context,
    board: Board,
    observe: Fanout,
    workers: Workers | None,
    renewal: LinkFileRenewal | None,
) -> None:
    """Report what the run waits for, its status and its progress at intervals, until it ends."""
    if renewal is not None:
        stack.push_async_callback(renewal.close)
        await stack.enter_async_context(Ticking(renewal, at_end=False))
    if not given.shares:
        waits = WaitReporter(context.pool, observe, processor_times, allowed=workers)
        await stack.enter_async_context(Ticking(waits))
    await stack.enter_async_context(StatusFile(given.state / "status.json", board))
    if "observer" in given.options:
        await stack.enter_async_context(Ticking(ProgressTicker(board, observe)))


async def _end(report: Report, board: Board, begun: float, workers: Workers | None, observe: Fanout) -> None:
    """Complete the report of a run that began at `begun` by what the board and nodes know, and deliver it."""
    await add_nodes(report, workers)
    report.widths = board.widths
    report.bytes, report.seconds = board.received, time.monotonic() - begun
    observe(events.RunEnded(report))
    report.notes += [each for each in observe.failures if each not in report.notes]


def _finisher(
    stack: AsyncExitStack,
    place: Destination,
    options: PlainOptions,
    report: Report,
    deliver: Callable[[Outcome], None],
) -> Callable[[Outcome], None]:
    """Return what receives the outcome of each row: the report, the caller, and metadata of hub downloads."""
    metadata = stack.enter_context(ThreadPoolExecutor(1, "osp-metadata"))
    noted = None if place.bucket or is_node_local(options) else DownloadMetadata(place.root)

    def finish(outcome: Outcome) -> None:
        report.add(outcome)
        if noted is not None and noted.concerns(outcome):
            metadata.submit(noted.note, outcome)
        deliver(outcome)

    return finish


def _pausing(observe: Fanout, workers: Workers | None) -> events.Observer:
    """Return an observer that passes on the pauses that hosts ask for in reply to a page."""

    def pause(event: events.Event) -> None:
        observe(event)
        if workers is not None and isinstance(event, events.Cooling):
            workers.paused(event)

    return pause


def _note(report: Report, event: events.Event) -> None:
    """Take back the outcomes of files that are fetched again, or note that the ledger had to be replaced."""
    if isinstance(event, events.Repeating):
        report.forget(event.outcomes)
    elif isinstance(event, events.LedgerReplaced):
        report.notes.append(formatting.ledger_replaced(event.why, event.kept))


class _Work:
    """The run as commands see it.

    Args:
        run: The run.
        stack: Ends the reading of added sources.
        given: The options of the run, by which added sources are read, too, and what gets their pages.
    """

    def __init__(self, run: Run, stack: AsyncExitStack, given: _Given) -> None:
        self._is_joint = given.joint is not None
        self._run, self._stack, self._pages = run, stack, given.pages
        self._options = given.options.copy()
        self._options.pop("name", None)  # it is that of a single file
        self._added: list[Resolved] = []
        self.retry_failed = run.retry_failed

    async def add(self, source: str) -> bool:
        """Fetch the files of `source`, too. Return False if the run is ending. Raises FetchError."""
        if self._is_joint:
            raise SettingsError("runs that share a folder fetch one manifest; begin another get after them")
        resolved = await asyncio.to_thread(rows_of, source, self._options, self._pages)
        self._stack.callback(resolved.close)
        self._added.append(resolved)
        return self._run.add(resolved.rows)

    def notes(self) -> list[str]:
        """Return the notes on added sources for the user."""
        return [note for resolved in self._added for note in resolved.notes()]


async def _steered(stack: AsyncExitStack, steering: Steering, given: _Given, report: Report) -> None:
    """Let `osp-fetch ctl` reach the run until it ends."""
    if given.joint is not None:
        stack.enter_context(given.joint.steering(steering))
    await stack.enter_async_context(Ticking(steering, at_end=False))
    await stack.enter_async_context(ControlSocket(given.state, steering, report.notes.append))


async def _paged(
    stack: AsyncExitStack, given: _Given, board: Board, observe: Fanout, steering: Steering
) -> None:
    """Serve the page of the run until it ends, if the options ask for it."""
    if "page" not in given.options:
        return
    from .views.page.access import address
    from .views.page.server import Page
    from .views.page.state import PageState

    shows = PageState(board, str(given.place))
    shows.min_free = given.settings.storage.min_free
    observe.add(shows)
    carry = steering if given.options.get("page_control") else None
    disk = None if given.place.bucket else given.place.root
    where = address(given.options["page"])
    await stack.enter_async_context(Page(where, shows, given.state, disk, observe, carry))


@contextmanager
def stopping_after(stop: StopToken, limit: float | None) -> Iterator[None]:
    """Ask `stop` to stop after `limit` seconds, unless the context ends before; None for no limit."""
    if not limit:
        yield
        return
    timer = asyncio.get_running_loop().call_later(limit, stop.ask, "--max-duration")
    try:
        yield
    finally:
        timer.cancel()


async def _locked(
    stack: AsyncExitStack, state: Path, options: PlainOptions, stop: StopToken
) -> RunLock | None:
    """Take the lock of the output folder; return None if the run is asked to stop before.

    If another run holds it, wait for `wait_lock` seconds. A run of this process that is being cancelled is
    always waited for: a caller that left a `fetch_iter` loop may start the next run at once.

    Raises:
        FolderBusyError: another run still holds the lock.
    """
    begun, waits = time.monotonic(), False
    permissions = Permissions((options.get("settings") or Settings()).storage.mode)
    while True:
        lock = RunLock(state, permissions=permissions, is_run=True, is_strict=True)
        try:
            await _entered(lock)
        except FolderBusyError as error:
            waited = time.monotonic() - begun
            own = error.pid in (os.getpid(), None) and waited <= _WINDING_UP and _is_winding_up()
            if not own and waited >= options.get("wait_lock", 0.0):
                raise
            if not (own or waits) and "observer" in options:
                Fanout([options["observer"]])(events.FolderWaiting(str(error)))
                waits = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _OWN_LOOK if own else _LOCK_LOOK)
                return None
        else:
            stack.push(lock)
            return lock


async def _entered(lock: RunLock) -> None:
    """Enter `lock` in a thread. If this is cancelled, the lock is not held."""
    try:
        await outlast(asyncio.get_running_loop().run_in_executor(None, lock.__enter__))
    except asyncio.CancelledError:
        lock.__exit__()
        raise
    except FolderBusyError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise


def _is_winding_up() -> bool:
    """Return whether a run of this event loop is being cancelled."""
    return any(task.get_name() == RUN_NAME and task.cancelling() for task in asyncio.all_tasks())


def _is_empty(root: Path) -> bool:
    try:
        return Disk().is_empty(root)
    except OSError:
        return False  # the first write there reports the error


async def _unless_stopped(
    work: Coroutine[Any, Any, T], report: Report, stop: StopToken, observe: events.Observer
) -> T | None:
    """Return the result of `work`; None if the run is asked to stop, which is then reported."""

    def stopping() -> None:
        report.stopped = stop.why
        observe(events.Stopping(stop.why or ""))

    return await stop.unless_asked(work, stopping)
