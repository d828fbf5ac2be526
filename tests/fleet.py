"""A run over nodes that are real worker processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from osp_fetch.assembly import build_context
from osp_fetch.cluster.make import pool_over
from osp_fetch.cluster.node import Link
from osp_fetch.concurrency import stop
from osp_fetch.connections.wait_reporter import WaitReporter
from osp_fetch.engine.run import Run
from osp_fetch.model import events
from osp_fetch.model.entry import Entry, entry
from osp_fetch.model.report import Outcome, Status
from osp_fetch.model.settings import Settings
from osp_fetch.processor import processor_times
from osp_fetch.s3.address import BucketAddress
from osp_fetch.storage.destination import Destination
from osp_fetch.storage.folder.run_lock import RunLock, state_folder
from osp_fetch.views.fanout import Ticking
from osp_fetch.workers.channel import Channel
from osp_fetch.workers.reach import Reach
from tests.conftest import quick
from tests.origin import Origin, sha256


class LocalNodes:
    """Nodes that are worker processes of this machine; implements `NodeSource`.

    Args:
        names: the nodes that are there at the start.
        in_reach: whether the run can kill them.
        sources: node → the address from which it makes its connections.
        environment: node → further variables of its environment.
        folder: the output folder as the nodes name it, if the run names it otherwise.
    """

    def __init__(
        self,
        *names: str,
        in_reach: bool = True,
        sources: dict[str, str] | None = None,
        environment: dict[str, dict[str, str]] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        self._in_reach, self._sources = in_reach, sources or {}
        self._environment = environment or {}
        self._cut: set[str] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        for name in names:
            self._wanted.put_nowait(name)

    def notes(self) -> list[str]:
        """Return nothing: all nodes fit."""
        return []

    def add(self, name: str) -> None:
        """Let a node come."""
        self._wanted.put_nowait(name)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a node."""
        self.processes[name].send_signal(number)

    def cut(self, name: str) -> None:
        """Lose all that the run and a node send to each other from now on, without closing anything."""
        self._cut.add(name)

    async def _relay(self, name: str, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, 1 << 20):
                if name not in self._cut:
                    await loop.sock_sendall(target, data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    async def arrivals(self) -> list[Link]:
        name = await self._wanted.get()
        (ours, near), (far, theirs) = socket.socketpair(), socket.socketpair()
        for each in (ours, near, far):
            each.setblocking(False)
        self._sockets += [near, far]
        package = {"PYTHONPATH": str(Path(__file__).parents[1])}
        process = self.processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "osp_fetch.workers.worker", str(theirs.fileno()),
            pass_fds=[theirs.fileno()], env={**os.environ, **package, **self._environment.get(name, {})},
        )  # fmt: skip
        theirs.close()
        wire = await Channel.over(ours)
        for source, target in ((near, far), (far, near)):
            self._relays.add(asyncio.create_task(self._relay(name, source, target)))

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                if self._in_reach:
                    process.kill()

        return [Link(name, wire, process.wait, kill, self._sources.get(name, ""), name, f"10.0.0.{name}")]

    def destination(self, place: Destination) -> Destination:
        return place if self._folder is None else replace(place, root=self._folder)

    async def end(self) -> None:
        """Kill what is left."""
        await stop(self._relays)
        for each in self._sockets:
            each.close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass
class Fleet:
    """A run over nodes.

    Attributes:
        root: the output folder, or that of the state.
        nodes: the nodes.
        bucket: the bucket that is fetched into, None for the folder.
        is_local: whether each node writes to its own disk.
        recheck: whether finished files are read again.
        notes: the sentences of the nodes for the report.
        lost: what they know of nodes that have left.
        seen: all events, in order.
        observers: receive the events as well.
        outcomes: the outcome of every row.
        each: the number of connections that each node may have.
    """

    root: Path
    nodes: LocalNodes
    bucket: BucketAddress | None = None
    is_local: bool = False
    recheck: bool = False
    patience: float = 30.0
    notes: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=quick)
    seen: list[events.Event] = field(default_factory=list)
    observers: list[events.Observer] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    each: int = 0
    work: asyncio.Task[None] = field(init=False)

    async def fetch(self, rows: Sequence[Entry] | AsyncIterable[Entry]) -> None:
        """Fetch all rows."""
        place, state = Destination(self.root, self.bucket), state_folder(self.root)
        async with contextlib.AsyncExitStack() as stack:
            lock = stack.enter_context(RunLock(state))
            context = await build_context(
                stack,
                place,
                state,
                self.settings,
                {},
                Reach(),
                self.observe,
                lock.descriptor,
                is_new=False,
            )
            pool, self.each = (
                pool_over(self.nodes, context, place, Reach(), {}, self.patience, is_local=self.is_local),
                context.pool.total,
            )
            waits = WaitReporter(context.pool, self.observe, processor_times, allowed=pool)
            async with pool, Ticking(waits):
                run = Run(pool.context, self.outcomes.append, fetch_one=pool.fetch, recheck=self.recheck)
                await run.fetch(rows)
                self.notes, self.lost = pool.notes(), await pool.lost()

    def observe(self, event: events.Event) -> None:
        """Receive an event."""
        for each in (self.seen.append, *self.observers):
            each(event)

    def counts(self) -> Counter[Status]:
        """Return the numbers of outcomes."""
        return Counter(each.status for each in self.outcomes)

    def start(self, rows: Sequence[Entry] | AsyncIterable[Entry]) -> asyncio.Task[None]:
        """Begin to fetch all rows."""
        self.work = asyncio.create_task(self.fetch(rows))
        return self.work

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds while the run goes on."""
        while not holds():
            assert not self.work.done(), (self.work, self.outcomes)
            await asyncio.sleep(0.02)

    def received(self) -> int:
        """Return the bytes that all nodes have received."""
        return sum(each.count for each in self.seen if isinstance(each, events.Wrote))

    def published(self) -> int:
        """Return the number of rows that have ended."""
        return len(self.outcomes)


Make = Callable[..., Fleet]


@contextlib.asynccontextmanager
async def fleets(folder: Path) -> AsyncIterator[Make]:
    """Give a function that makes a run over nodes into `folder`; the nodes are killed at the end."""
    made: list[Fleet] = []

    def make(
        *names: str,
        in_reach: bool = True,
        sources: dict[str, str] | None = None,
        environment: dict[str, dict[str, str]] | None = None,
        **more: Any,
    ) -> Fleet:
        nodes = LocalNodes(*names, in_reach=in_reach, sources=sources, environment=environment)
        made.append(Fleet(folder / "out", nodes, **more))
        return made[-1]

    yield make
    for each in made:
        await each.nodes.end()


def tree(root: Path) -> dict[str, bytes]:
    """Return path → content of every file, without those of osp-fetch itself."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".osp-fetch" not in path.parts
    }


def served(origin: Origin, files: dict[str, bytes], fault: Any = None) -> list[Entry]:
    """Serve files and return their rows, with digests."""
    more = {"always": fault} if fault else {}
    return [entry(name, origin.add(name, data, **more), None, sha256(data)) for name, data in files.items()]
