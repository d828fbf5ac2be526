"""One worker as the run sees it, however it is reached: its jobs, its events, its access to the ledger."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..concurrency import stop
from ..engine.context import Context
from ..engine.file import Job
from ..model import events
from ..model.errors import FetchError, StorageError
from ..model.record import Record
from ..model.report import Status
from . import messages
from .budget import Budget
from .channel import Channel

Question = messages.LookUp | messages.PutRecord | messages.AskUploads
"""A question of a worker about a ledger of the run."""
Cooled = Callable[[int, events.Cooling], None]
"""Called with a worker's number and the event in which a host asks this worker to wait."""


class WorkerDiedError(StorageError):
    """The worker that fetched the file has ended. Another worker resumes from the held bytes.

    Attributes:
        begun: Whether it had opened a connection for the file. A file that only waited for its turn has no
            part in the death of its worker.
    """

    cause = "worker died"
    begun = False


class Losses:
    """The workers that died while they had one file. It fails if the file itself may be the reason.

    Args:
        path: The file.
        most: Deaths in a row after which it fails: of workers that had begun it and brought it no further.
            Ten times as many of any workers, so that workers which cannot start end the run, too.
    """

    def __init__(self, path: str, most: int) -> None:
        self._path, self._most = path, most
        self._held = self._begun = self._count = 0

    def add(self, error: WorkerDiedError, held: int) -> None:
        """Count a death.

        Args:
            error: The death.
            held: Bytes of the file that are held after it.

        Raises:
            StorageError: There were too many.
        """
        if held > self._held:
            self._held, self._begun, self._count = held, 0, 0
            return
        self._count += 1
        self._begun += error.begun
        if self._begun >= self._most or self._count >= 10 * self._most:
            number = self._count
            raise StorageError(
                f"{self._path}: {number} workers died while they fetched it, and it got no further; the last "
                f"one: {error}; run the same command again"
            ) from None


class Peer:
    """A worker at the other end of a channel.

    Args:
        number: The worker's number, from 0.
        context: The engine's context in the process of the run.
        budget: Divides the connections of each host among the workers.
        cool: Called when a host asks this worker to wait.
    """

    def __init__(self, number: int, context: Context, budget: Budget, cool: Cooled) -> None:
        self.number = number
        self._context, self._budget, self._cool = context, budget, cool
        self._asked: dict[int, tuple[str, asyncio.Future[tuple[Status, Record]]]] = {}
        self._numbers = itertools.count()
        self._open: Counter[tuple[str, str]] = Counter()  # (path, host) of its open connections
        self._begun: set[str] = set()  # paths for which it has opened a connection
        self._answering: set[asyncio.Task[None]] = set()
        self._knows_last = False
        self._wire: Channel

    @property
    def in_hand(self) -> int:
        """Number of jobs in progress."""
        return len(self._asked)

    def send(self, message: object) -> None:
        """Send a message of `messages` to the process."""
        self._wire.send(message)

    def say_last(self) -> None:
        """Notify the process, once, that all files have been started."""
        if not self._knows_last:
            self._knows_last = True
            self.send(messages.LastFiles())

    async def fetch(
        self, job: Job, *, is_suspect: bool = False, looks: bool = False
    ) -> tuple[Status, Record]:
        """Fetch one file in this worker.

        Args:
            job: The job to fetch.
            is_suspect: Whether a worker has died while it had the file, so that it must be known at once
                when this one begins it.
            looks: Whether the worker looks for a file under the final name itself.

        Returns:
            The status of the file, and its record.

        Raises:
            WorkerDiedError: The worker has ended before the file was fetched.
            StorageError: The job cannot be pickled.
            FetchError: The error of the worker's `engine.file.FileFetcher`.
            RuntimeError: The worker failed with an exception that is no FetchError.
        """
        number = next(self._numbers)
        asked = asyncio.get_running_loop().create_future()
        try:
            self.send(messages.FetchJob(number, job, is_suspect, looks))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise StorageError(
                f"{job.entry.path}: its row cannot be sent to a worker process ({error}); use only plain "
                "values in the row, or set limits.processes to 1"
            ) from None
        self._asked[number] = job.entry.path, asked
        try:
            found: tuple[Status, Record] = await asked
            return found
        finally:
            self._asked.pop(number, None)
            self._begun.discard(job.entry.path)

    def _close_all(self) -> None:
        """Report the connections of a worker that has ended as closed."""
        for (path, host), count in self._open.items():
            for _ in range(count):
                self._observe(events.Closed(path, host))
        self._open.clear()

    def _take(self, message: object) -> None:
        """Handle one message of the process."""
        match message:
            case messages.JobDone(number, result):
                _, asked = self._asked.get(number, ("", None))
                if asked is None or asked.done():
                    return
                if isinstance(result, Exception):
                    _fail(asked, result)
                else:
                    asked.set_result(result)
            case messages.EventSent(event):
                self._told(event)
            case messages.LookUp() | messages.PutRecord() | messages.AskUploads():
                # reply over this channel: its replacement uses the same numbers for other questions
                task = asyncio.create_task(self._answer(message, self._wire))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case messages.Reported(hosts):
                self._budget.reported(self.number, hosts, asyncio.get_running_loop().time())
            case _:
                pass

    def _told(self, event: events.Event) -> None:
        """Count the connections of the process, and pass its event to the observers."""
        if isinstance(event, events.Opened):
            self._open[event.path, event.host] += 1
            self._begun.add(event.path)
        elif isinstance(event, events.Closed):
            self._open[event.path, event.host] -= 1
            if self._open[event.path, event.host] <= 0:
                del self._open[event.path, event.host]
        elif isinstance(event, events.Cooling):
            self._cool(self.number, event)
        self._observe(event)

    def _observe(self, event: events.Event) -> None:
        """Pass an event to the observers; an exception fails only the file that the event is about."""
        try:
            self._context.observe(event)
        except Exception as error:
            about = getattr(event, "path", None)
            for path, asked in self._asked.values():
                if path == about:
                    _fail(asked, error)
            if about is None:
                say(error, "an observer failed")

    async def _answer(self, message: Question, wire: Channel) -> None:
        """Read or write a ledger, and send the result over `wire`."""
        result: Any
        try:
            result = await self._looked_up(message)
        except FetchError as error:
            result = error
        except Exception as error:  # a worker without a reply would wait forever
            result = StorageError(f"the ledger failed: {type(error).__name__}: {error}")
        match message:
            case messages.LookUp(number):
                wire.send(messages.RecordsFound(number, result))
            case messages.PutRecord(number):
                wire.send(messages.RecordKept(number, result))
            case messages.AskUploads(number):
                wire.send(messages.UploadsReplied(number, result))

    async def _looked_up(self, message: Question) -> Any:
        """Return what a question asks for."""
        match message:
            case messages.LookUp(_, paths):
                return await self._context.ledger.get(paths)
            case messages.PutRecord(_, record):
                await self._context.ledger.put(record)
                return None
            case messages.AskUploads(_, call, arguments):
                from ..storage.bucket.store import BucketStore  # only the nodes of a run to a bucket ask

                assert isinstance(self._context.store, BucketStore)
                return await getattr(self._context.store.uploads, call)(*arguments)

    def _fail_all(self, why: str) -> None:
        """Fail every job in progress with a `WorkerDiedError`."""
        asked, self._asked = self._asked, {}
        for path, each in asked.values():
            error = WorkerDiedError(why)
            error.begun = path in self._begun
            _fail(each, error)

    async def _stop_answering(self) -> None:
        """End the requests to the ledger that are in progress."""
        await stop(self._answering)


def say(error: Exception, what: str) -> None:
    """Report an error that does not end the run to the event loop's exception handler.

    Args:
        error: The exception.
        what: What happened, for the message.
    """
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def _fail(asked: asyncio.Future[tuple[Status, Record]], error: Exception) -> None:
    """Fail a job with `error`, unless it has ended already."""
    if not asked.done():
        asked.set_exception(error)
        asked.exception()  # mark it as retrieved: the waiting task may have been cancelled
