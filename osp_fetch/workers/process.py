"""One worker process of this machine, and its replacement when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Final

from ..engine.context import Context
from ..engine.file import Job
from ..model import events
from ..model.errors import StorageError
from ..model.record import Record
from ..model.report import Status
from . import messages
from .budget import Budget
from .channel import Channel
from .peer import Cooled, Peer, WorkerDiedError, say

_ENDING: Final = 60.0  # seconds that a worker may take to record the held bytes before it is killed


class Process(Peer):
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
        super().__init__(number, context, budget, cool)
        self._setup, self._lock, self._ending = setup, lock, False
        self._process: asyncio.subprocess.Process
        self._serving: asyncio.Task[None] | None = None
        self._gone: WorkerDiedError | None = None  # why no process runs now
        # the last ones, which a replacement gets as well
        self._steered: messages.Steer | None = None
        self._shared: messages.ShareRate | None = None

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
        if self._shared is not None:
            self._wire.send(self._shared)
        self._serving = asyncio.create_task(self._serve())
        self._observe(events.WorkerStarted(self.number))
        if self._ending:
            self.send(messages.StopWork())

    def send(self, message: object) -> None:
        """Send a message of `messages` to the process."""
        if isinstance(message, messages.Steer):
            self._steered, self._shared = message, None  # it states the rate, too
        elif isinstance(message, messages.ShareRate):
            self._shared = message
        self._wire.send(message)

    async def fetch(
        self, job: Job, *, is_suspect: bool = False, looks: bool = False
    ) -> tuple[Status, Record]:
        """Fetch one file in this worker; see `Peer.fetch`."""
        if self._gone is not None and self._serving is not None and self._serving.done():
            raise self._gone  # the replacement could not be started
        return await super().fetch(job, is_suspect=is_suspect, looks=looks)

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
        self._budget.gone(self.number)
        self._close_all()
        if self._ending:
            return
        self._gone = WorkerDiedError(
            f"a worker ended with status {code} (-9: killed, usually because memory ran out)"
        )
        died = self._gone
        self._observe(events.WorkerDied(self.number, str(died)))
        try:
            await self.start()
            self._gone = None
            for assign in self._budget.begun(self.number):
                # no connections yet: the other workers have them, and a later assignment moves some
                self.send(assign)
        except StorageError as error:
            died = self._gone = WorkerDiedError(str(error))
        # only now, so that jobs dealt since the death fail as well
        self._fail_all(str(died))

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
        await self._stop_answering()
