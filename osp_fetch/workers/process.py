"""One worker as the run sees it: its jobs, its access to the ledger, and its replacement when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

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

_ENDING: Final = 60.0  # seconds that a worker may take to record the held bytes before it is killed


Cooled = Callable[[int, events.Cooling], None]
"""Called with a worker's number and the event in which a host asks this worker to wait."""


class WorkerDiedError(StorageError):
    """The worker that fetched the file has ended. Another worker resumes from the held bytes."""

    cause = "worker died"


class Process:
    """One worker process, and its replacement when it dies.

    Args:
        number: The worker's number, from 0.
        setup: The first message to each process.
        context: The engine's context in the process of the run.
        budget: Divides the connections of each host among the workers.
        lock: The descriptor of the run's lock, which the process inherits.
        cool: Called when a host asks this worker to wait.
    """

    def __init__(
        self, number: int, setup: messages.Setup, context: Context, budget: Budget, lock: int, cool: Cooled
    ) -> None:
        self.number = number
        self._setup, self._context, self._budget, self._lock, self._cool = setup, context, budget, lock, cool
        self._asked: dict[int, tuple[str, asyncio.Future[tuple[Status, Record]]]] = {}
        self._numbers = itertools.count()
        self._open: Counter[tuple[str, str]] = Counter()  # (path, host) of its open connections
        self._answering: set[asyncio.Task[None]] = set()
        self._ending = False
        self._knows_last = False
        self._wire: Channel
        self._process: asyncio.subprocess.Process
        self._serving: asyncio.Task[None] | None = None
        self._gone: WorkerDiedError | None = None  # why no process runs now
        self._steered: messages.Steer | None = None  # the last one, which a replacement gets as well

    @property
    def in_hand(self) -> int:
        """Number of jobs in progress."""
        return len(self._asked)

    @property
    def there(self) -> bool:
        """Whether the process runs."""
        return self._gone is None

    async def start(self) -> None:
        """Start the process.

        Raises:
            StorageError: The system cannot start another process.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "osp_fetch.workers.worker", str(theirs.fileno()),
                pass_fds=[theirs.fileno(), self._lock], stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise StorageError(
                f"cannot start a worker process ({error.strerror}); lower limits.processes"
            ) from None
        finally:
            theirs.close()
        self._wire, self._knows_last = await Channel.over(ours), False
        self._wire.send(self._setup)
        if self._steered is not None:
            self._wire.send(self._steered)
        self._serving = asyncio.create_task(self._serve())
        if self._ending:
            self.send(messages.StopWork())

    def send(self, message: object) -> None:
        """Send a message of `messages` to the process."""
        if isinstance(message, messages.Steer):
            self._steered = message
        self._wire.send(message)

    def say_last(self) -> None:
        """Notify the process, once, that all files have been started."""
        if not self._knows_last:
            self._knows_last = True
            self.send(messages.LastFiles())

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Fetch one file in this worker.

        Args:
            job: The job to fetch.

        Returns:
            The status of the file, and its record.

        Raises:
            WorkerDiedError: The worker has ended before the file was fetched.
            StorageError: The job cannot be pickled.
            FetchError: The error of the worker's `engine.file.FileFetcher`.
            RuntimeError: The worker failed with an exception that is no FetchError.
        """
        if self._gone is not None and self._serving is not None and self._serving.done():
            raise self._gone  # the replacement could not be started
        number = next(self._numbers)
        asked = asyncio.get_running_loop().create_future()
        try:
            self.send(messages.FetchJob(number, job))
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

    async def _serve(self) -> None:
        """Handle the messages of the process until it ends; replace it where it dies."""
        try:
            while messages := await self._wire.receive():
                for message in messages:
                    self._take(message)
        except Exception as error:
            say(error, "a worker sent an invalid message and is replaced")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._wire.close()
        code = await self._process.wait()
        self._forget()
        if self._ending:
            return
        self._gone = WorkerDiedError(
            f"a worker ended with status {code} (-9: killed, usually because memory ran out)"
        )
        died = self._gone
        try:
            await self.start()
            self._gone = None
            for assign in self._budget.begun(self.number):
                # no connections yet: the other workers have them, and a later assignment moves some
                self.send(assign)
        except StorageError as error:
            died = self._gone = WorkerDiedError(str(error))
        # only now, so that jobs dealt since the death fail as well
        asked, self._asked = self._asked, {}
        for _, each in asked.values():
            _fail(each, died)

    def _forget(self) -> None:
        """Take back the connections of a process that has ended."""
        self._budget.gone(self.number)
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
            case messages.LookUp() | messages.PutRecord():
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
        elif isinstance(event, events.Closed):
            self._open[event.path, event.host] -= 1
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

    async def _answer(self, message: messages.LookUp | messages.PutRecord, wire: Channel) -> None:
        """Read or write the ledger, and send the result over `wire`."""
        failed: FetchError | None = None
        looked: list[Record | None] = []
        try:
            if isinstance(message, messages.LookUp):
                looked = await self._context.ledger.get(message.paths)
            else:
                await self._context.ledger.put(message.record)
        except FetchError as error:
            failed = error
        except Exception as error:  # a worker without a reply would wait forever
            failed = StorageError(f"the ledger failed: {type(error).__name__}: {error}")
        if isinstance(message, messages.LookUp):
            wire.send(messages.RecordsFound(message.number, failed or looked))
        else:
            wire.send(messages.RecordKept(message.number, failed))

    async def end(self) -> None:
        """Let the worker record the held bytes, and return when its process has ended.

        A worker that does not end within 60 seconds is killed.
        """
        self._ending = True
        if self._serving is None:
            return  # it was never started
        self.send(messages.StopWork())
        until = asyncio.get_running_loop().time() + _ENDING
        while not self._serving.done():  # a replacement may be starting just now
            left = max(0.0, until - asyncio.get_running_loop().time())
            _, late = await asyncio.wait({self._serving}, timeout=left)
            if late:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await asyncio.wait(late)
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
