"""What becomes of the bytes of a file that passes from node to node, for each kind of destination.

A shared folder: partials are moved, or copied from a node that may wake up. A bucket: the run's ledger has
the parts. Folders of the nodes (`own_folders`): only the node that began a file can continue it.
"""

from __future__ import annotations

import asyncio
from dataclasses import field, replace
from pathlib import Path

from ..engine.context import Context
from ..engine.file import Job
from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..storage.bucket.store import BucketStore
from ..storage.folder.node_folders import collect, drop_partials, hand_over, partials_of
from ..workers.peer import Losses
from .node import Node


@dataclass(slots=True)
class Attempts:
    """The attempts of nodes at one file.

    Attributes:
        losses: the nodes that were lost meanwhile.
        state: the state folder that has its partial.
        moves: whether the partial may be moved from there; else it is copied.
        was_lost: whether a node was lost while it had the file.
        idle: the node that gave it back last, if any.
        wrong: the node that received other bytes than the digest says, if any.
        left: state folders that may have a partial of it.
        nodes: numbers of nodes that may have a partial of it.
        looks: whether the node looks for a file under the final name itself: the run does not see its disk.
    """

    losses: Losses
    state: Path
    moves: bool = True
    was_lost: bool = False
    idle: list[int] = field(default_factory=list)
    wrong: list[Node] = field(default_factory=list)
    left: set[Path] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)
    looks: bool = False

    def ended_on(self, node: Node, *, moves: bool) -> None:
        """Note that the attempt of a node has ended, and whether its partial may be moved."""
        self.state, self.moves = node.state, moves
        self.left.add(node.state)
        self.nodes.add(node.number)


class Files:
    """The files of a run at its destination. By itself it does nothing: every node has what any other has.

    Args:
        context: the context of the run.

    Attributes:
        kind: the kind of destination in words.
        is_local: whether each node writes to its own disk.
        lends: whether a node can fetch a range of a file for another one.
        context: the context of the run; its store says what is at the destination.
    """

    kind, is_local, lends = "", False, False

    def __init__(self, context: Context) -> None:
        self.context = context

    async def begin(self) -> None:
        """Prepare for a run that has no node yet. Raises StorageError."""

    async def end(self) -> None:
        """Collect what the nodes left, all of which have ended. Raises StorageError."""

    def joined(self, node: Node) -> None:
        """Take note of a node."""

    def settled(self) -> None:
        """Record that the nodes of the start have joined, or that none can be started."""

    async def prefers(self, job: Job) -> int | None:
        """Return the number of the node that should get a job, None for any."""
        return None

    async def give(self, job: Job, node: Node, tries: Attempts) -> Job:
        """Give what is held of a file to a node; return the job as that node can continue it."""
        return job

    async def completed(self, job: Job, node: Node, tries: Attempts) -> None:
        """Remove what other nodes hold of a file that `node` has completed."""

    async def refreshed(self, job: Job) -> Job:
        """Return the job with what is known of its file now."""
        (known,) = await self.context.ledger.get([job.entry.path])
        (seen,) = await self.context.store.stat([job.entry.path])
        return replace(job, record=known, seen=seen)

    def ended(self, path: str, node: Node) -> None:
        """Record that a node does not have the job of a file any more."""

    async def lost(self) -> dict[str, int]:
        """Return node → files on its own disk, for nodes that took part and have left."""
        return {}

    def notes(self) -> list[str]:
        """Return sentences for the report."""
        return []


class BucketParts(Files):
    """The parts of files in a bucket, which every node can continue with the ledger of the run."""

    kind, lends = "bucket", True

    async def end(self) -> None:
        """Abort uploads that nodes have begun and not recorded."""
        assert isinstance(self.context.store, BucketStore)
        await self.context.store.tidy_up()


class SharedPartials(Files):
    """The partials in a folder that all nodes see.

    Args:
        context: the context of the run.
        state: the state folder of the run.
    """

    kind, lends = "shared folder", True

    def __init__(self, context: Context, state: Path) -> None:
        super().__init__(context)
        self._state = state
        self._partials: set[RelativePath] = set()  # files of which an earlier run has left a partial

    async def begin(self) -> None:
        """Collect the partials that nodes of an earlier run have left."""
        await self.end()
        self._partials = await asyncio.to_thread(partials_of, self._state)

    async def end(self) -> None:
        """Collect the partials of nodes that have ended."""
        await asyncio.to_thread(collect, self._state)

    async def give(self, job: Job, node: Node, tries: Attempts) -> Job:
        """Move or copy the partial to the state folder of a node."""
        if job.entry.path in self._partials:
            tries.left.add(self._state)
        if job.record is not None:
            await asyncio.to_thread(hand_over, job.entry.path, tries.state, node.state, moves=tries.moves)
        return job

    async def completed(self, job: Job, node: Node, tries: Attempts) -> None:
        """Remove the partials that other nodes have."""
        if tries.left:
            await asyncio.to_thread(drop_partials, job.entry.path, tries.left - {node.state})
