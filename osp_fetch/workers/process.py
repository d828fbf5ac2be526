"""One process of a run, seen from the run: what it is given, what it records, and who comes after it."""

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

_ENDING: Final = 60.0  # seconds that a worker may take to claim what it holds


Cooled = Callable[[int, events.Cooling], None]
"""EventSent which worker was asked to leave a host alone."""


class WorkerDiedError(StorageError):
    """The process that had the file in hand has ended; another one goes on from what is held."""

    cause = "worker died"


class Process:
    """One process, and the next one where it dies."""

    def __init__(
        self, number: int, setup: messages.Setup, context: Context, budget: Budget, lock: int, cool: Cooled
    ) -> None:
        self.number = number
        self._setup, self._context, self._budget, self._lock, self._cool = setup, context, budget, lock, cool
        self._asked: dict[int, tuple[str, asyncio.Future[tuple[Status, Record]]]] = {}
        self._numbers = itertools.count()
        self._open: Counter[tuple[str, str]] = Counter()  # (path, host) of its connections
        self._answering: set[asyncio.Task[None]] = set()
        self._ending = False
        self._knows_last = False
        self._wire: Channel
        self._process: asyncio.subprocess.Process
        self._serving: asyncio.Task[None] | None = None
        self._gone: WorkerDiedError | None = None  # why there is no process now

    @property
    def in_hand(self) -> int:
        return len(self._asked)

    @property
    def there(self) -> bool:
        """Whether its process runs."""
        return self._gone is None

    async def start(self) -> None:
        """Begin the process. Raises StorageError where it cannot be."""
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
                f"no process can be begun ({error.strerror}); lower limits.processes"
            ) from None
        finally:
            theirs.close()
        self._wire, self._knows_last = await Channel.over(ours), False
        self._wire.send(self._setup)
        self._serving = asyncio.create_task(self._serve())
        if self._ending:
            self.send(messages.StopWork())

    def send(self, message: object) -> None:
        self._wire.send(message)

    def say_last(self) -> None:
        """All files have been begun; each process is told once."""
        if not self._knows_last:
            self._knows_last = True
            self.send(messages.LastFiles())

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        if self._gone is not None and self._serving is not None and self._serving.done():
            raise self._gone  # nor will there be one
        number = next(self._numbers)
        asked = asyncio.get_running_loop().create_future()
        try:
            self.send(messages.FetchJob(number, job))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise StorageError(
                f"{job.entry.path}: its row cannot be handed to another process ({error}); make it of "
                "plain values, or run in one process"
            ) from None
        self._asked[number] = job.entry.path, asked
        try:
            found: tuple[Status, Record] = await asked
            return found
        finally:
            self._asked.pop(number, None)

    async def _serve(self) -> None:
        """Answer the process until it ends; where it ends before it should, begin another."""
        try:
            while messages := await self._wire.receive():
                for message in messages:
                    self._take(message)
        except Exception as error:
            say(error, "a worker is not understood, and replaced")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._wire.close()
        code = await self._process.wait()
        self._forget()
        if self._ending:
            return
        self._gone = WorkerDiedError(
            f"a worker ended with {code} (-9 is what the system does for want of memory)"
        )
        died = self._gone
        try:
            await self.start()
            self._gone = None
            for assign in self._budget.begun(self.number):
                self.send(assign)  # what it may open is told when it asks, as the others have the rest
        except StorageError as error:
            died = self._gone = WorkerDiedError(str(error))
        # only now: what was dealt meanwhile went to nobody, too
        asked, self._asked = self._asked, {}
        for _, each in asked.values():
            _fail(each, died)

    def _forget(self) -> None:
        """Its connections are gone with it."""
        self._budget.gone(self.number)
        for (path, host), count in self._open.items():
            for _ in range(count):
                self._observe(events.Closed(path, host))
        self._open.clear()

    def _take(self, message: object) -> None:
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
                # over this wire: to the next process the same numbers mean other questions
                task = asyncio.create_task(self._answer(message, self._wire))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case messages.Reported(hosts):
                self._budget.reported(self.number, hosts, asyncio.get_running_loop().time())
            case _:
                pass

    def _told(self, event: events.Event) -> None:
        if isinstance(event, events.Opened):
            self._open[event.path, event.host] += 1
        elif isinstance(event, events.Closed):
            self._open[event.path, event.host] -= 1
        elif isinstance(event, events.Cooling):
            self._cool(self.number, event)
        self._observe(event)

    def _observe(self, event: events.Event) -> None:
        """Tell it; where that fails it costs the file that it is about, and no more."""
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
        failed: FetchError | None = None
        looked: list[Record | None] = []
        try:
            if isinstance(message, messages.LookUp):
                looked = await self._context.ledger.look(message.paths)
            else:
                await self._context.ledger.put(message.record)
        except FetchError as error:
            failed = error
        except Exception as error:  # whoever waits must be told, whatever went wrong
            failed = StorageError(f"the ledger failed: {type(error).__name__}: {error}")
        if isinstance(message, messages.LookUp):
            wire.send(messages.RecordsFound(message.number, failed or looked))
        else:
            wire.send(messages.RecordKept(message.number, failed))

    async def end(self) -> None:
        """Have it claim what it holds, and return when it has ended."""
        self._ending = True
        if self._serving is None:
            return  # it never began
        self.send(messages.StopWork())
        until = asyncio.get_running_loop().time() + _ENDING
        while not self._serving.done():  # another one may just be beginning in place of one that died
            left = max(0.0, until - asyncio.get_running_loop().time())
            _, late = await asyncio.wait({self._serving}, timeout=left)
            if late:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await asyncio.wait(late)
        await stop(self._answering)


def say(error: Exception, what: str) -> None:
    """Tell whoever looks after the loop what a run outlives."""
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def _fail(asked: asyncio.Future[tuple[Status, Record]], error: Exception) -> None:
    if not asked.done():
        asked.set_exception(error)
        asked.exception()  # seen: whoever waited may have been cancelled
