"""The main module of a worker: a process that fetches jobs for a run, and uses the run's ledger."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..concurrency import stop
from ..connections.buffers import Buffers
from ..connections.controller import LOOK
from ..connections.pool import ConnectionPool
from ..connections.wait_reporter import WaitReporter
from ..engine.context import Context
from ..engine.file import FileFetcher
from ..engine.lent_ranges import Lending
from ..engine.range_transfer import fetch_range
from ..model import events
from ..model.entry import RelativePath
from ..model.errors import FetchError, StorageError
from ..model.protocols import Store
from ..model.record import Published, Record
from ..model.report import Status
from ..processor import processor_times
from ..storage.destination import Destination
from ..storage.folder.node_folders import drop_partials
from . import messages
from .channel import Channel
from .messages import Draining
from .own_folder import OwnFolder, own_folder
from .reach import transport_of
from .remote_ledger import RemoteLedger, RemoteUploads

# Events that occur many times for each file. They may be sent late, unless a worker has died with the file.
_MANY: Final = frozenset({events.Opened, events.FileBegun, events.Wrote, events.Closed, events.Waited})

_GIVE_BACK: Final = "given back"  # the argument of the cancellation of a job that has not begun


class Lifeline:
    """Forbids to publish once the run was silent for so long that it may have given the jobs to others.

    Args:
        patience: Seconds of silence; 0 for any number.
    """

    def __init__(self, patience: float) -> None:
        self.patience, self._heard = patience, time.monotonic()

    def renew(self) -> None:
        """Count from now: a message of the run has come."""
        self._heard = time.monotonic()

    def check(self) -> None:
        """Raise LeaseLostError if the run was silent for too long."""
        if self.patience and time.monotonic() - self._heard > self.patience:
            raise messages.LeaseLostError(
                "this node had no message of the run for too long; another node may have its files by now"
            )


async def serve(end: socket.socket) -> None:
    """Fetch jobs until the run sends `StopWork` or ends.

    Args:
        end: The worker's end of the socket pair.
    """
    wire = await Channel.over(end)
    first, *rest = await wire.receive() or [None]
    if not isinstance(first, messages.Setup):
        return
    ledger, begun, lifeline = RemoteLedger(wire), set[str](), Lifeline(first.patience)
    suspects = set[str]()

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Opened):
            begun.add(event.path)
        is_patient = type(event) in _MANY and not (suspects and getattr(event, "path", None) in suspects)
        wire.send(messages.EventSent(event), patient=is_patient)

    async with AsyncExitStack() as stack:
        settings, place = first.settings, first.place
        own = await stack.enter_async_context(own_folder(place.root)) if first.is_local else None
        if own is not None:
            place = replace(place, root=own.root)
            wire.send(messages.OwnDisk(own.disk, own.partials))
        limits = place.buffer_limits(settings.limits)
        pool = ConnectionPool(
            limits, tell, first.profiles, first.share, yields=first.yields, hosts=settings.hosts
        )
        transport = transport_of(settings, first.reach, first.source)
        store = await stack.enter_async_context(_store(first, place, own, ledger))
        context = Context(
            transport=await stack.enter_async_context(transport),
            store=store,
            ledger=ledger,
            pool=pool,
            buffers=Buffers(limits, pool.rate),
            settings=settings,
            observe=tell,
            may_publish=lifeline.check,
            lending=_lending(first, store),
        )
        await _Worker(wire, context, ledger, begun, suspects, lifeline, own).work(rest)
    await wire.close()


def _store(
    first: messages.Setup, place: Destination, own: OwnFolder | None, ledger: RemoteLedger
) -> AbstractAsyncContextManager[Store]:
    """Return the store of a worker, not yet open."""
    if own is not None:
        return place.store(own.state, first.settings, lock=own.lock, is_worker=True)
    if not first.patience:
        return place.store(first.state, first.settings, is_worker=True)
    if place.bucket:
        return place.store(first.state, first.settings, is_worker=True, uploads=RemoteUploads(ledger))
    # on another machine, whose state folder the run cannot make
    first.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place.store(first.state, first.settings, is_worker=True)


def _lending(first: messages.Setup, store: Store) -> Lending | None:
    """Return the files of which other nodes may fetch ranges, None if there are no such nodes."""
    if first.is_local or not first.patience:
        return None
    if first.place.bucket:
        from ..storage.bucket.store import BucketStore

        assert isinstance(store, BucketStore)
        return Lending(store.range_files)
    from ..storage.folder.range_files import FolderRangeFiles

    return Lending(FolderRangeFiles(first.state))


class _Worker:
    """The work of the process: receives messages, and runs a task for each job."""

    def __init__(
        self,
        wire: Channel,
        context: Context,
        ledger: RemoteLedger,
        begun: set[str],
        suspects: set[str],
        lifeline: Lifeline,
        own: OwnFolder | None,
    ) -> None:
        self._own, self._looking, self._dropping = own, set[asyncio.Task[None]](), set[asyncio.Task[None]]()
        self._wire, self._context, self._ledger = wire, context, ledger
        self._begun, self._suspects, self._lifeline = begun, suspects, lifeline
        self._fetcher = FileFetcher(context)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}  # path → task that fetches it
        self._ending: asyncio.Task[None] | None = None

    async def work(self, messages: Sequence[object]) -> None:
        """Handle messages until the run sends `StopWork` or closes the channel.

        Args:
            messages: Messages that were received together with the `Setup`.
        """
        if self._lifeline.patience:  # a node: Slurm and spot machines announce its end by SIGTERM
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: self._wire.send(Draining()))
        reporting = asyncio.create_task(self._report())
        try:
            while True:
                self._lifeline.renew()
                for message in messages:
                    self._take(message)
                receiving = asyncio.ensure_future(self._wire.receive())
                waits: set[asyncio.Future[Any]] = {receiving}
                if self._ending is not None:
                    waits.add(self._ending)
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done() or not (messages := receiving.result()):
                    await stop({receiving})
                    break
        finally:
            if self._ending is None or not self._ending.done():
                self._ledger.lose()
                await stop(self._tasks)
            await stop({reporting, *self._looking, *self._dropping})

    def _take(self, message: object) -> None:
        """Handle one message of the run."""
        match message:
            case messages.FetchJob():
                if message.is_suspect:
                    self._suspects.add(message.job.entry.path)
                self._waiting[message.job.entry.path] = self._begin(self._fetch_job(message))
            case messages.GiveBack():
                # after the first step of the jobs that came with it: before, a task ends without a result
                asyncio.get_running_loop().call_soon(self._give_back)
            case messages.StillHere():
                pass
            case messages.LookAt():
                looking = asyncio.create_task(self._look(message))
                self._looking.add(looking)
                looking.add_done_callback(self._looking.discard)
            case messages.DropPartial(path):
                if path not in self._waiting:  # else the file was given to this node meanwhile
                    dropping = asyncio.create_task(self._drop(path))
                    self._dropping.add(dropping)
                    dropping.add_done_callback(self._dropping.discard)
            case (
                messages.LendRange() | messages.FetchRange() | messages.RangeReturned() | messages.DropRange()
            ):
                self._take_range(message)
            case messages.RecordsFound() | messages.RecordKept() | messages.UploadsReplied():
                self._ledger.answered(message)
            case messages.Assign(host, connections, shed, number):
                self._context.pool.assign(host, connections, shed=shed, number=number)
            case messages.CoolHost(host, seconds, sheds):
                for name in self._context.pool.named(host):
                    self._context.pool.cool(name, seconds, sheds=sheds)
            case messages.Steer(rate, connections, is_fixed, most_open, parts):
                self._context.pool.rate.change(rate)
                self._context.pool.resize(connections, is_fixed=is_fixed, most_open=most_open, parts=parts)
            case messages.ShareRate(rate):
                self._context.pool.rate.change(rate)
            case messages.LastFiles():
                self._context.pool.last_files = True
            case messages.StopWork():
                # the cancelled jobs record their held bytes; the run replies until this process has ended
                self._ending = asyncio.create_task(stop(self._tasks))
            case _:
                raise TypeError(f"unknown message: {message!r}")

    def _take_range(
        self,
        message: messages.LendRange | messages.FetchRange | messages.RangeReturned | messages.DropRange,
    ) -> None:
        """Handle a message about a range that one node fetches for another."""
        lending = self._context.lending
        match message:
            case messages.LendRange(number, helpers):
                self._wire.send(messages.RangeLent(number, lending.lend(helpers) if lending else None))
            case messages.FetchRange():
                self._begin(self._fetch_range(message))
            case messages.RangeReturned(path, number, file):
                if lending is not None and not lending.returned(path, number, file) and file is not None:
                    self._begin(lending.range_files.drop(file))  # it comes too late
            case messages.DropRange(file):
                if lending is not None:
                    self._begin(lending.range_files.drop(file))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task that ends before this process does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _give_back(self) -> None:
        """Give back the jobs that have not begun to transfer."""
        for path, task in list(self._waiting.items()):
            if path not in self._begun:
                task.cancel(_GIVE_BACK)

    async def _fetch_job(self, message: messages.FetchJob) -> None:
        """Fetch one job, and send its result."""
        result: tuple[Status, Record] | Exception
        job, path = message.job, message.job.entry.path
        try:
            if self._dropping:  # one of them may be the partial of this file
                await asyncio.wait(set(self._dropping))
            if message.looks:
                (seen,) = await self._context.store.stat([path])
                job = replace(job, seen=seen)
            result = await self._fetcher.fetch(job)
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (_GIVE_BACK,):
                raise
            result = messages.GivenBackError(f"{path}: given back")
        except FetchError as error:
            result = error
        except Exception as error:
            # The run waits for a result of every job. The exception itself may not be picklable.
            result = RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            self._waiting.pop(path, None)
            self._begun.discard(path)
            self._suspects.discard(path)
        if not self._ledger.lost:
            self._wire.send(messages.JobDone(message.number, result))
        # without the run this process ends; another worker, or the next run, resumes from the held bytes

    async def _fetch_range(self, message: messages.FetchRange) -> None:
        """Fetch a range for another node, and send its result."""
        assert self._context.lending is not None
        result: Path | FetchError
        try:
            result = await fetch_range(self._context, self._context.lending.range_files, message.job)
        except FetchError as error:
            result = error
        except Exception as error:  # as in `_fetch_job`
            result = StorageError(f"{type(error).__name__}: {error}")
        self._wire.send(messages.RangeFetched(message.number, result))

    async def _look(self, message: messages.LookAt) -> None:
        """Look at files on the node's own disk, and send their states."""
        result: list[Published | None] | FetchError
        try:
            result = await self._context.store.stat(message.paths)
        except FetchError as error:
            result = error
        self._wire.send(messages.LookedAt(message.number, result))

    async def _drop(self, path: RelativePath) -> None:
        assert self._own is not None
        await asyncio.to_thread(drop_partials, path, [self._own.state])

    async def _report(self) -> None:
        """Send the state of all hosts every `LOOK` seconds, and what connections waited for every second."""
        waits = WaitReporter(self._context.pool, self._context.observe, processor_times, is_worker=True)
        for turn in itertools.count(1):
            await asyncio.sleep(LOOK)
            if turn % round(waits.period / LOOK) == 0:
                waits.tick()
            if self._lifeline.patience:
                self._wire.send(messages.StillHere())
            if hosts := self._context.pool.report():
                self._wire.send(messages.Reported(hosts))


def main() -> None:
    """Run `python -m osp_fetch.workers.worker FD`; a run starts it, with one end of a socket pair as FD."""
    # only the run reacts to signals, and ends its workers by messages
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    import uvloop

    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # fewer collections, for the reason that `cli.main` states
    uvloop.run(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
