"""One run from its options to its report: the lock, the observers, the workers, and what may steer it."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .assembly import (
    again_of,
    build_context,
    failed_file_of,
    forget_failed,
    reach_of,
    renewal_of,
    rows_of,
)
from .concurrency import stop as stop_tasks
from .connections.wait_reporter import WaitReporter
from .control.endpoint import ControlSocket
from .control.steering import Steering
from .engine.run import Run
from .model import events
from .model.engines import Folder
from .model.errors import FetchError, FolderBusyError
from .model.report import Outcome, Report
from .model.settings import Settings
from .options import PlainOptions, StopToken
from .processor import processor_times
from .sources.huggingface import DownloadMetadata
from .storage.destination import Destination, destination
from .storage.folder.disk import Disk
from .storage.folder.node_folders import collect, mark_ended, node_folder
from .storage.folder.permissions import Permissions
from .storage.folder.run_lock import RunLock, state_folder, state_folders
from .storage.folder.spill import DiskSpill
from .views.board import Board
from .views.event_log import EventLog, StatusFile
from .views.fanout import Fanout, ProgressTicker, Ticking
from .views.history import HistoryFile
from .views.totals import Totals

if TYPE_CHECKING:
    from .assembly import AnyManifest
    from .connections.byte_rate import ByteRate
    from .engine.context import Context
    from .sources.resolve import Resolved
    from .workers.limits import Workers
    from .workers.reach import Reach

RUN_NAME: Final = "osp-fetch run"
_WINDING_UP: Final = 10.0  # seconds to wait until a cancelled run of this process releases its folder
# Seconds between two looks at a folder that a run of this process, or another one, still owns.
_OWN_LOOK: Final = 0.05
_LOCK_LOOK: Final = 0.5


async def launch(
    manifest: AnyManifest,
    folder: str | Path,
    options: PlainOptions,
    deliver: Callable[[Outcome], None],
    *,
    joint: Joint | None = None,
) -> Report:
    """Fetch in one run. With `joint`, another machine may take the place of this run if it is silent."""
    place = destination(folder, options.get("state"))
    settings = place.with_memory(options.get("settings") or Settings())
    reach = await asyncio.to_thread(reach_of, settings, options)
    resolved = await asyncio.to_thread(rows_of, manifest, options)
    state = state_folder(place.root, options.get("shard"))
    failed = await asyncio.to_thread(failed_file_of, manifest, options, state)
    fresh = await asyncio.to_thread(_is_empty, place.root)  # before the lock creates the state folder in it
    report, begun = Report(shard=options.get("shard")), time.monotonic()
    async with AsyncExitStack() as stack:
        stack.callback(resolved.close)
        stop, permissions = options.get("stop") or StopToken(), Permissions(settings.storage.mode)
        stack.enter_context(stopping_after(stop, options.get("max_duration")))
        stack.enter_context(permissions.applied())
        lock = await _locked(stack, state, options, stop)
        if lock is None:
            report.stopped, report.seconds = stop.why, time.monotonic() - begun
            return report
        fresh = fresh and not state_folders(place.root)  # another run may have used it meanwhile
        forget_failed(state)
        board, observe = await _observers(stack, state, settings, failed, options)
        working = await asyncio.to_thread(_own_partials, stack, state) if joint else None
        context = await build_context(
            stack, place, state, settings, options, reach, observe, lock.descriptor, is_new=fresh,
            working=working, may_publish=lock.check if joint else lambda: None,
        )  # fmt: skip
        if joint is not None:
            joint.share_rate(context)
        workers = await _workers(stack, context, place, state, reach, options, lock.descriptor)
        waits = WaitReporter(context.pool, observe, processor_times, allowed=workers)
        await stack.enter_async_context(Ticking(waits))
        renewal = renewal_of(manifest, options, settings, observe)
        await stack.enter_async_context(Ticking(StatusFile(state / "status.json", board)))
        if "observer" in options:
            await stack.enter_async_context(Ticking(ProgressTicker(board, observe)))
        again = again_of(options)
        run = Run(
            context, _finisher(stack, place, report, deliver), renewal,
            fetch_one=workers.fetch if workers else None, recheck=options.get("recheck", False),
            fresh=fresh and context.store.is_new, again=again,
            update=options.get("update", False), spill=stack.enter_context(DiskSpill(state)),
        )  # fmt: skip
        observe.add(run.observe, events.HostBack)
        work = _Work(run, stack, options)
        observe.add(_forgetter(report), events.Repeating)
        steering = Steering(context, board.snapshot, stop.ask, work, renewal, workers)
        await _steered(stack, steering, state, report, joint)
        await _paged(stack, options, place, state, board, observe, steering)
        observe(events.RunStarted(str(place), settings.timeouts.idle))
        try:
            await _until_stopped(run.fetch(resolved.rows), report, stop, observe)
        finally:
            unmatched = [] if report.stopped else again.notes()  # a stopped run has not read every row
            report.notes += [*reach.notes, *resolved.notes(), *work.notes(), *unmatched]
            report.notes += [*_notes_of(board), *observe.failures, *run.notes()]
            report.notes += failed.close() if failed else []
            _total(report, board, begun)
            observe(events.RunEnded(report))
    return report


async def _observers(
    stack: AsyncExitStack,
    state: Path,
    settings: Settings,
    failed: events.Observer | None,
    options: PlainOptions,
) -> tuple[Board, Fanout]:
    """Open the log and the history; return the board, and what passes events to all observers."""
    permissions, board, totals = Permissions(settings.storage.mode), Board(), Totals()
    log = EventLog(state / "events.jsonl", permissions, settings.storage.log_size)
    stack.callback(log.close)
    await stack.enter_async_context(HistoryFile(state / "history.jsonl", board, totals, permissions))
    further = [failed, options.get("observer")]
    return board, Fanout([board, totals, log, *(each for each in further if each is not None)])


def _notes_of(board: Board) -> list[str]:
    """Return the notes on files that were set aside or decompressed."""
    return [*_kept_notes(board), *_decoded_notes(board)]


def _total(report: Report, board: Board, begun: float) -> None:
    """Add what the board has counted to the report of a run that began at `begun`."""
    report.widths = board.widths
    report.bytes, report.seconds = board.received, time.monotonic() - begun


class Joint:
    """What the runs over the shares of one manifest have in common in this process.

    That is the byte rate, what commands have changed, and the part of the limits that this machine has.
    """

    def __init__(self) -> None:
        self._rate: ByteRate | None = None
        self._before: Steering | None = None
        self._present: Steering | None = None
        self._part = 0, 1

    def share_rate(self, context: Context) -> None:
        """Let the run of `context` continue with the rate of the one before, which may have used it up."""
        if self._rate is None:
            self._rate = context.pool.rate
        context.pool.rate = self._rate

    @contextmanager
    def steering(self, steering: Steering) -> Iterator[None]:
        """Let a run continue with what commands have changed in the one before, until the context ends."""
        if self._before is not None:
            steering.take_over(self._before)
        steering.divide(*self._part)
        self._before = self._present = steering
        try:
            yield
        finally:
            self._present = None

    def divide(self, place: int, parts: int) -> None:
        """Keep to part number `place` of `parts` parts of the limits, in this share and the next ones."""
        if (place, parts) != self._part:
            self._part = place, parts
            if self._present is not None:
                self._present.divide(place, parts)


def _own_partials(stack: AsyncExitStack, state: Path) -> Path:
    """Return a folder for partials that no other run ever writes to; take over those of earlier runs."""
    collect(state)
    own = node_folder(state, secrets.token_hex(8))
    own.mkdir(parents=True)

    def give_back() -> None:
        mark_ended(own)
        with suppress(FetchError):  # else the next run collects them
            collect(state)

    stack.callback(give_back)
    return own


def _finisher(
    stack: AsyncExitStack, place: Destination, report: Report, deliver: Callable[[Outcome], None]
) -> Callable[[Outcome], None]:
    """Return what receives the outcome of each row: the report, the caller, and metadata of hub downloads."""
    metadata = stack.enter_context(ThreadPoolExecutor(1, "osp-metadata"))
    noted = None if place.bucket else DownloadMetadata(place.root)

    def finish(outcome: Outcome) -> None:
        report.add(outcome)
        if noted is not None and noted.concerns(outcome):
            metadata.submit(noted.note, outcome)
        deliver(outcome)

    return finish


async def _workers(
    stack: AsyncExitStack,
    context: Context,
    place: Destination,
    state: Path,
    reach: Reach,
    options: PlainOptions,
    lock: int,
) -> Workers | None:
    """Start the worker processes or nodes that the options ask for."""
    profiles = dict(options.get("profiles") or {})
    engine = options.get("engine")
    if engine is not None and not isinstance(engine, Folder):
        from .cluster.make import node_pool  # few runs need it

        return await stack.enter_async_context(node_pool(engine, context, place, reach, profiles))
    if context.settings.limits.processes == 1:
        return None
    from .workers.make import worker_pool  # most runs use one process and do not need this import

    workers = worker_pool(context, place, state, reach, profiles, lock)
    return await stack.enter_async_context(workers) if workers else None


def _forgetter(report: Report) -> events.Observer:
    """Return an observer that takes back the outcomes of files that are fetched again."""

    def forget(event: events.Event) -> None:
        if isinstance(event, events.Repeating):
            report.forget(event.outcomes)

    return forget


class _Work:
    """The run as commands see it.

    Args:
        run: The run.
        stack: Ends the reading of added sources.
        options: The options of the run, by which added sources are read, too.
    """

    def __init__(self, run: Run, stack: AsyncExitStack, options: PlainOptions) -> None:
        self._run, self._stack, self._options = run, stack, options.copy()
        self._options.pop("name", None)  # it is that of a single file
        self._added: list[Resolved] = []
        self.retry_failed = run.retry_failed

    async def add(self, source: str) -> bool:
        """Fetch the files of `source`, too. Return False if the run is ending."""
        resolved = await asyncio.to_thread(rows_of, source, self._options)
        self._stack.callback(resolved.close)
        self._added.append(resolved)
        return self._run.add(resolved.rows)

    def notes(self) -> list[str]:
        """Return the notes on added sources for the user."""
        return [note for resolved in self._added for note in resolved.notes()]


async def _steered(
    stack: AsyncExitStack, steering: Steering, state: Path, report: Report, joint: Joint | None
) -> None:
    """Let `osp-fetch ctl` reach the run until it ends."""
    if joint is not None:
        stack.enter_context(joint.steering(steering))
    await stack.enter_async_context(Ticking(steering, at_end=False))
    await stack.enter_async_context(ControlSocket(state, steering, report.notes.append))


async def _paged(
    stack: AsyncExitStack,
    options: PlainOptions,
    place: Destination,
    state: Path,
    board: Board,
    observe: Fanout,
    steering: Steering,
) -> None:
    """Serve the page of the run until it ends, if the options ask for it."""
    if "page" not in options:
        return
    from .views.page.access import address
    from .views.page.server import Page
    from .views.page.state import PageState

    shows = PageState(board, str(place))
    shows.min_free = (options.get("settings") or Settings()).storage.min_free
    observe.add(shows)
    carry = steering if options.get("page_control") else None
    disk = None if place.bucket else place.root
    await stack.enter_async_context(Page(address(options["page"]), shows, state, disk, observe, carry))


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
        lock = RunLock(state, permissions=permissions)
        try:
            await _entered(lock)
        except FolderBusyError as error:
            waited = time.monotonic() - begun
            own = error.pid == os.getpid() and waited <= _WINDING_UP and _is_winding_up()
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
    entering = asyncio.ensure_future(asyncio.to_thread(lock.__enter__))
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.wait({entering})
        if not entering.cancelled() and entering.exception() is None:
            lock.__exit__()
        raise


def _is_winding_up() -> bool:
    """Return whether a run of this event loop is being cancelled."""
    return any(task.get_name() == RUN_NAME and task.cancelling() for task in asyncio.all_tasks())


def _kept_notes(board: Board) -> list[str]:
    """Return a note on files of the user that were renamed because a fetched file has their name."""
    if not board.set_aside_count:
        return []
    shown = ", ".join(f"{each.path} is now {each.kept}" for each in board.set_aside[:3])
    more = ", …" if board.set_aside_count > 3 else ""
    if board.set_aside_count == 1:
        return [
            "1 existing file, not written by osp-fetch, had the name of a fetched file and was renamed: "
            f"{shown} (--overwrite replaces it instead)"
        ]
    return [
        f"{board.set_aside_count} existing files, not written by osp-fetch, had the names of fetched files "
        f"and were renamed: {shown}{more} (--overwrite replaces them instead)"
    ]


def _decoded_notes(board: Board) -> list[str]:
    """Return a note on files that servers sent compressed although they were asked not to."""
    if not board.decoded_count:
        return []
    shown = ", ".join(each.path for each in board.decoded[:3]) + (", …" if board.decoded_count > 3 else "")
    files, are = (
        ("1 file was", "is") if board.decoded_count == 1 else (f"{board.decoded_count} files were", "are")
    )
    return [
        f"{files} sent compressed by {board.decoded[0].host} although the request forbade it, and {are} "
        f"saved decompressed: {shown}"
    ]


def _is_empty(root: Path) -> bool:
    try:
        return Disk().is_empty(root)
    except OSError:
        return False  # the first write there reports the error


async def _until_stopped(work: Any, report: Report, stop: StopToken, observe: events.Observer) -> None:
    """Await `work`, or cancel it when the run is asked to stop and wait until it has ended."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            report.stopped = stop.why
            observe(events.Stopping(stop.why or ""))
    finally:
        await stop_tasks({working, stopping})
    if report.stopped is None or not working.cancelled():
        working.result()
