"""Files on the nodes' own disks: where each lies, and how the run looks at them.

A file lies on the disk of the node that has published it, and its partial on that of the node that began it.
A record says nothing about other disks: before another node gets the file, the held bytes are taken from it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..concurrency import stop
from ..engine.context import Context
from ..engine.file import Job
from ..model import protocols
from ..model.digest import Digest
from ..model.entry import RelativePath
from ..model.protocols import Copies, Ledger, Lost, Partial, SetAsideFiles, SmallFiles, Store
from ..model.ranges import NOTHING
from ..model.record import Published, Record
from ..storage.folder.executors import in_thread
from ..storage.ledger.placement import Disk, Placed, Placement, placed
from ..workers import messages
from ..workers.peer import WorkerDiedError
from .destinations import Attempts, Files
from .node import Node

T = TypeVar("T")


class Places:
    """The places of files, with appended lines synced together; to be opened and closed.

    Args:
        state: the state folder of the run.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._waiting: list[tuple[Placed, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the lines and their index. Raises StorageError."""
        self._thread = ThreadPoolExecutor(1, "osp-placement")
        self._placement = await self.ask(lambda: Placement(self._state))

    async def close(self) -> None:
        """Close them."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self.ask(self._placement.close)
        self._thread.shutdown()

    async def ask(self, call: Callable[[], T]) -> T:
        """Return the result of `call`, which runs in the only thread that uses the index."""
        return await in_thread(self._thread, call)

    async def get(self, paths: Sequence[str]) -> dict[str, Placed]:
        """Return path → place, for those of `paths` that have one."""
        return await self.ask(lambda: self._placement.get(paths))

    async def sums(self) -> list[tuple[Disk, int, int]]:
        """Return each disk with the number and the bytes of the files on it."""
        return await self.ask(lambda: list(self._placement.sums()))

    async def add(self, place: Placed) -> None:
        """Append a line. When this returns, it survives a power loss. Raises StorageError."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((place, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while batch := self._waiting:
            self._waiting, rows = [], [row for row, _ in batch]
            error: Exception | None = None
            try:
                await self.ask(partial(self._placement.add, rows))
            except Exception as raised:
                error = raised
            for _, done in batch:
                if done.done():
                    continue
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(None)


class PlacedLedger:
    """The run's ledger as one node uses it; implements `model.protocols.Ledger`.

    It records where a file lies before the ledger states it, and states no bytes that are on another disk.

    Args:
        ledger: the run's ledger.
        places: where files lie.
        disk: returns the disk of the node.
    """

    def __init__(self, ledger: Ledger, places: Places, disk: Callable[[], Disk]) -> None:
        self._ledger, self._places, self._disk = ledger, places, disk
        self._begun: set[str] = set()  # files whose last line states this disk, while the node has them

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        """Return the record of each path, None where there is none."""
        records, places = await self._ledger.get(paths), await self._places.get(paths)
        return [
            _of_disk(record, places.get(path), self._disk())
            for path, record in zip(paths, records, strict=True)
        ]

    async def put(self, record: Record) -> None:
        """Store a record, and where its file lies."""
        if record.published or (record.held and record.path not in self._begun):
            await self._places.add(placed(record, self._disk()))
            self._begun.add(record.path)
        await self._ledger.put(record)

    def ended(self, path: str) -> None:
        """Record that the node does not have the job of a file any more."""
        self._begun.discard(path)


def _of_disk(record: Record | None, place: Placed | None, disk: Disk) -> Record | None:
    """Return a record without the held bytes if they are on another disk than `disk`."""
    if record is None or (place is not None and place.where.disk == disk.disk):
        return record
    return replace(record, held=NOTHING)


class PlacedStore:
    """The store of a run whose files are on the nodes; implements `model.protocols.Store`.

    Args:
        store: the store of the run's own folder, which has the state of the run.
        look: returns the states of files on the disks of the nodes.
    """

    def __init__(
        self, store: Store, look: Callable[[Sequence[RelativePath]], Awaitable[list[Published | None]]]
    ) -> None:
        self._store, self._look = store, look
        self.is_new, self.widest, self.folds, self.in_progress = False, store.widest, store.folds, 0
        self.small_files: SmallFiles = store.small_files
        self.published: protocols.Files = store.published
        self.set_aside: SetAsideFiles = store.set_aside
        self.copies: Copies | None = None
        self.keeps_others = store.keeps_others

    def expect(self) -> AbstractContextManager[None]:
        """Return a context that counts one more file in progress."""
        return self._store.expect()

    async def stat(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of the files on the disks where they lie, None where there is no file."""
        return await self._look(paths)

    async def deleted(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return None for each path: nothing is unpacked on nodes."""
        return [None] * len(paths)

    async def held(self, path: RelativePath) -> int | None:
        """Return None: partials are on the nodes."""
        return None

    def partial(
        self,
        path: RelativePath,
        algorithms: frozenset[str],
        *,
        fresh: bool,
        lost: Lost | None = None,
        replaces: Published | None = None,
        wanted: Digest | None = None,
        source: str = "",
    ) -> Partial:
        """Return a partial of the run's own folder; see `Store.partial`."""
        return self._store.partial(
            path, algorithms, fresh=fresh, lost=lost, replaces=replaces, wanted=wanted, source=source
        )

    async def room(self) -> int:
        """Return the bytes that may still be written to the run's own folder."""
        return await self._store.room()


class OwnFolders(Files):
    """The files of a run on the disks of its nodes.

    Args:
        context: the context of the run.
        state: the state folder of the run.
    """

    kind, is_local = "node-local folders", True

    def __init__(self, context: Context, state: Path) -> None:
        super().__init__(replace(context, store=PlacedStore(context.store, self.look)))
        self._places = Places(state)
        self._nodes: dict[int, Node] = {}
        self._ledgers: dict[int, PlacedLedger] = {}
        self._settled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: dict[str, Disk] = {}  # the disks that were there in this run
        self._absent: Counter[str] = Counter()  # machine → files on it that were looked for
        self._vanished = 0

    async def begin(self) -> None:
        """Open the places of files."""
        await self._places.open()

    async def end(self) -> None:
        """Close the places of files."""
        await stop(self._tasks)
        await self._places.close()

    # ---- nodes

    def joined(self, node: Node) -> None:
        """Learn the disk of a node, and let it delete partials that others have completed or continued."""
        self._nodes[node.number] = node
        self._ledgers[node.number] = PlacedLedger(self.context.ledger, self._places, node.disk.result)
        node.use(self._ledgers[node.number])
        task = asyncio.create_task(self._learn_disk(node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _learn_disk(self, node: Node) -> None:
        if (disk := await self._disk_of(node)) is None:
            del self._nodes[node.number], self._ledgers[node.number]
            return
        twin = next((n for n in self._nodes.values() if n is not node and self._is_copy(n, disk)), None)
        if twin is not None:
            node.link.kill()  # the image of a machine was copied with the state folder of its node
            return
        self._known[disk.disk] = disk
        places = await self._places.get(node.partials)
        for path in node.partials:
            place = places.get(path)
            if place is None or place.published or place.where.disk != disk.disk:
                node.send(messages.DropPartial(path))

    @staticmethod
    def _is_copy(node: Node, disk: Disk) -> bool:
        """Return whether a node that is there states the same disk at another address."""
        if node.is_lost or not node.disk.done() or node.disk.cancelled():
            return False
        other = node.disk.result()
        return other.disk == disk.disk and other.address != disk.address

    async def _disk_of(self, node: Node) -> Disk | None:
        """Return the disk of a node once it is known, None if the node has left before."""
        await asyncio.wait({node.disk})
        return None if node.disk.cancelled() else node.disk.result()

    def settled(self) -> None:
        """Record that the nodes of the start have joined, or that none can be started."""
        self._settled.set()

    def _there(self) -> dict[str, Node]:
        """Return disk → node, for the nodes that are there."""
        return {
            node.disk.result().disk: node
            for node in self._nodes.values()
            if not node.is_lost and node.disk.done() and not node.disk.cancelled()
        }

    async def _present(self) -> dict[str, Node]:
        """Return disk → node, once the disks of the nodes of the start are known."""
        await self._settled.wait()
        if waiting := {node.disk for node in self._nodes.values() if not node.disk.done()}:
            await asyncio.wait(waiting)
        return self._there()

    # ---- looking

    async def look(self, paths: Sequence[RelativePath]) -> list[Published | None]:
        """Return the states of files on the disks where they lie, None where there is no file.

        Raises:
            StorageError: the places cannot be read.
        """
        there, places = await self._present(), await self._places.get(paths)
        asked: dict[str, list[RelativePath]] = {}
        for path in paths:
            if (place := places.get(path)) is None:
                continue
            if place.where.disk in there:
                asked.setdefault(place.where.disk, []).append(path)
            elif place.published:
                self._absent[str(place.where)] += 1
        seen = await asyncio.gather(*(self._seen(there[disk], some) for disk, some in asked.items()))
        found = {path: each for states in seen for path, each in states.items()}
        self._vanished += sum(
            places[path].published is not None and each is None for path, each in found.items()
        )
        return [found.get(path) for path in paths]

    async def _seen(self, node: Node, paths: list[RelativePath]) -> dict[str, Published | None]:
        with suppress(WorkerDiedError):
            return dict(zip(paths, await node.look(paths), strict=True))
        return {}

    # ---- jobs

    async def prefers(self, job: Job) -> int | None:
        """Return the number of the node whose disk has the file or its partial, None if it is not there."""
        place = (await self._places.get([job.entry.path])).get(job.entry.path)
        node = self._there().get(place.where.disk) if place else None
        return node.number if node else None

    async def give(self, job: Job, node: Node, tries: Attempts) -> Job:
        """Return the job as `node` can continue it: without bytes that are on another disk."""
        disk, path = await self._disk_of(node), job.entry.path
        if disk is None:
            return job  # it has left
        place = (await self._places.get([path])).get(path)
        other = self._there().get(place.where.disk) if place else None
        if other is not None and other is not node:
            tries.nodes.add(other.number)
        record = _of_disk(job.record, place, disk)
        if record is not None and record != job.record:
            # the ledger must not state these bytes when the other disk's partial is continued by this record
            await self.context.ledger.put(record)
        is_here = place is not None and place.where.disk == disk.disk
        tries.looks = not is_here or record is None or bool(tries.nodes)
        return job if is_here else replace(job, record=record, seen=None, update=False)

    async def completed(self, job: Job, node: Node, tries: Attempts) -> None:
        """Remove the partials that other nodes have."""
        for number in tries.nodes - {node.number}:
            if (other := self._nodes.get(number)) is not None and not other.is_lost:
                other.send(messages.DropPartial(job.entry.path))

    def ended(self, path: str, node: Node) -> None:
        """Record that a node does not have the job of a file any more."""
        if (ledger := self._ledgers.get(node.number)) is not None:
            ledger.ended(path)

    async def refreshed(self, job: Job) -> Job:
        """Return the job with what is known of its file now; the node looks at its disk itself."""
        (known,) = await self.context.ledger.get([job.entry.path])
        return replace(job, record=known, seen=None)

    # ---- the end

    async def lost(self) -> dict[str, int]:
        """Return node → files on its disk, for nodes that took part and have left."""
        there = self._there()
        return {
            str(disk): files
            for disk, files, _ in await self._places.sums()
            if files and disk.disk in self._known and disk.disk not in there
        }

    def notes(self) -> list[str]:
        """Return sentences on files that were finished, and had to be fetched again."""
        found, absent = list[str](), sum(self._absent.values())
        if absent:
            names = ", ".join(sorted(self._absent)[:3]) + (", …" if len(self._absent) > 3 else "")
            found.append(
                f"{_files(absent)} had to be fetched again, because the nodes that have them take no part in "
                f"this run: {names}"
            )
        if self._vanished:
            found.append(
                f"{_files(self._vanished)} had to be fetched again, because the disks of their nodes have "
                "them no more"
            )
        return found


def _files(count: int) -> str:
    return f"{count:,} finished file{'s' * (count != 1)}"
