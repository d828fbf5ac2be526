"""The nodes of a run: it deals jobs to them under leases, and connections of each host to all of them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..concurrency import stop
from ..connections.controller import LOOK
from ..connections.pool import ConnectionPool
from ..engine.context import Context, files_in_progress
from ..engine.file import Job
from ..model import events
from ..model.entry import RelativePath
from ..model.errors import FetchError, IntegrityError
from ..model.record import Record
from ..model.report import Status
from ..model.timetable import Timetable
from ..storage.bucket.store import BucketStore
from ..storage.folder.node_folders import (
    collect,
    drop_partials,
    hand_over,
    mark_ended,
    node_folder,
    partials_of,
)
from ..storage.folder.run_lock import state_folder
from ..workers import messages
from ..workers.budget import Budget
from ..workers.limits import RunLimits, part_of
from ..workers.own_share import OwnShare
from ..workers.peer import Losses, WorkerDiedError
from .coordinator import Coordinator, Lease, State
from .node import Link, Node, NodeSource

LEASE: Final = 30.0
"""Seconds of silence after which a node's jobs are given to others."""
_TRIES: Final = 5  # nodes in a row that may be lost while they fetch one file and bring it no further
_STEAL: Final = 2.0  # seconds between two looks whether an idle node could take jobs of another
_ENDING: Final = 60.0  # seconds that the nodes may take to record the held bytes


@dataclass(slots=True)
class _Attempts:
    """The attempts of nodes at one file.

    Attributes:
        losses: the nodes that were lost meanwhile.
        state: the state folder that has its partial.
        moves: whether the partial may be moved from there; else it is copied.
        was_lost: whether a node was lost while it had the file.
        idle: the node that gave it back last, if any.
        wrong: the node that received other bytes than the digest says, if any.
        left: state folders that may have a partial of it.
    """

    losses: Losses
    state: Path
    moves: bool = True
    was_lost: bool = False
    idle: list[int] = field(default_factory=list)
    wrong: list[Node] = field(default_factory=list)
    left: set[Path] = field(default_factory=set)

    def ended_on(self, node: Node, *, moves: bool) -> None:
        """Note that the attempt of a node has ended, and whether its partial may be moved."""
        self.state, self.moves = node.state, moves
        self.left.add(node.state)


class NodePool:
    """The nodes of a run, an async context manager.

    Args:
        source: where nodes come from.
        setup: the first message to each node; place, state and share are filled in.
        context: the engine's context in the process of the run.
        budget: divides the connections of each host among the nodes.
        patience: seconds of silence after which a node is lost.
        sockets: seconds after which the connections of a lost node are closed for certain.
    """

    def __init__(
        self,
        source: NodeSource,
        setup: messages.Setup,
        context: Context,
        budget: Budget,
        patience: float = LEASE,
        sockets: float = 60.0,
    ) -> None:
        self._source, self._setup, self._context, self._budget = source, setup, context, budget
        self._patience, self._sockets = patience, sockets
        self._coordinator = Coordinator(patience)
        self._nodes: dict[int, Node] = {}
        self._own = OwnShare(context, budget)
        self._leaving: set[int] = set()  # lost nodes whose connections and requests may go on for a while
        self._ends: dict[int, bool] = {}  # node → whether its process is known to have ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # a node has joined, or there will be none
        self._error: FetchError | None = None
        self._run_id = secrets.token_hex(4)
        self._per_node = context.places.limit
        limits = context.settings.limits
        self._limits = RunLimits(
            limits.rate, context.pool.total, context.pool.per_host, limits.connections != "auto"
        )
        self._is_ending = False
        self._is_folder = setup.place.bucket is None
        self._partials: set[RelativePath] = set()  # files of which an earlier run has left a partial

    async def __aenter__(self) -> NodePool:
        await self._tidy_up()
        if self._is_folder:
            self._partials = await asyncio.to_thread(partials_of, self._setup.state)
        for work in (self._arrivals(), self._look(), self._steal()):
            self._tasks.add(asyncio.create_task(work))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_ending = True
        await stop(self._tasks)
        for node in self._nodes.values():
            node.send(messages.StopWork())
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=_ENDING)
        for node in list(self._nodes.values()):
            node.link.kill()
            await self._gone(node, "the run has ended")
        await stop(self._serving)
        await self._tidy_up()

    async def _tidy_up(self) -> None:
        """Collect the partials of nodes that have ended; abort uploads that were never recorded."""
        store = self._context.store
        if isinstance(store, BucketStore):
            await store.tidy_up()
        else:
            await asyncio.to_thread(collect, self._setup.state)

    # ---- membership

    async def _arrivals(self) -> None:
        """Let nodes join as they start."""
        while True:
            try:
                arrived = await self._source.arrivals()
            except FetchError as error:
                self._error = error
                self._changed.set()
                return
            for link in arrived:
                self._join(link)

    def _join(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        member = self._coordinator.join(link.name, loop.time())
        name = f"node-{self._run_id}-{member.number}"
        place = self._source.destination(self._setup.place)
        state = node_folder(state_folder(place.root), name)
        node = Node(member, link, state, self._context, self._budget, self._cool)
        self._nodes[member.number] = node
        self._budget.joined(member.number)
        setup = replace(self._setup, place=place, state=state, share=0, source=link.source)
        node.send(replace(setup, patience=self._patience))
        task = asyncio.create_task(self._serve(node))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._resize()
        self._context.observe(events.NodeJoined(link.name, self._coordinator.active))
        self._changed.set()

    async def _serve(self, node: Node) -> None:
        number = node.number

        def drains() -> None:
            self._coordinator.drain(number)
            self._resize()
            node.send(messages.StopWork())

        await node.serve(lambda: self._heard(number), drains)
        if node.is_lost:
            return
        status = await node.link.ended()
        why = "its machine has gone" if status is None else f"it ended with status {status}"
        await self._gone(node, why, has_ended=status is not None)

    def _heard(self, number: int) -> None:
        self._coordinator.heard(number, asyncio.get_running_loop().time())

    async def _gone(self, node: Node, why: str, *, has_ended: bool = False) -> None:
        """Take the jobs and the connections of a node that has ended or is lost."""
        if self._nodes.pop(node.number, None) is None:
            return
        has_left = node.member.state is State.QUARANTINED  # which was reported as such
        self._coordinator.leave(node.number)
        self._ends[node.number] = has_ended
        if has_ended:
            self._budget.gone(node.number)
            await asyncio.to_thread(mark_ended, node.state)
        else:
            # its connections may live on: no other node gets them before they are closed for certain
            self._budget.lost(node.number)
            self._leaving.add(node.number)
            asyncio.get_running_loop().call_later(self._sockets, self._closed_for_certain, node.number)
            node.link.kill()
        self._resize()
        if not (self._is_ending or has_left):
            self._context.observe(events.NodeLeft(node.member.name, why, self._coordinator.active))
        await node.end(why)

    def _closed_for_certain(self, number: int) -> None:
        """Give what a lost node had to the others."""
        self._leaving.discard(number)
        self._budget.gone(number)
        if not self._is_ending:
            self._resize()

    def _resize(self) -> None:
        """Let as many files be in progress as all nodes together can have."""
        count = self.processes
        if not self._limits.is_fixed:
            self._budget.total = self._context.pool.total * count
        self._send_limits()
        self._context.places.limit = max(self._per_node, files_in_progress(self._context.pool.total) * count)
        self._context.places.changed()

    # ---- commands

    @property
    def processes(self) -> int:
        """Number of nodes that share the connections."""
        limits, able = self._limits, self._coordinator.able
        return max(1, min(able, limits.connections) if limits.is_fixed and limits.connections else able)

    @property
    def total(self) -> int:
        """Largest number of connections of all nodes together."""
        return self._budget.total

    @property
    def own_pool(self) -> ConnectionPool:
        """The connection pool of this process, which has a share of each host beside the nodes."""
        return self._own.pool

    def steer(self, limits: RunLimits) -> None:
        """Change the limits of the run on all nodes."""
        self._own.pool.resize(limits.connections, is_fixed=limits.is_fixed, most_open=limits.most_open)
        if limits.connections:
            total = limits.connections * (1 if limits.is_fixed else self.processes)
            self._budget.resize(total, limits.per_host)
        self._limits = limits
        self._send_limits(limits.most_open)

    def _send_limits(self, most_open: int | None = None) -> None:
        """Give every node its part of the limits. One without any connection gets no jobs.

        A node that is lost may go on for a while: its part of the rates is given to the others later. A node
        that gets no more jobs completes those that it has.
        """
        count, limits = self.processes, self._limits
        able = [node for node in self._nodes.values() if node.member.state in (State.ACTIVE, State.RESTING)]
        others = [node for node in self._nodes.values() if node not in able]
        sharing = count + len(others)
        parts = sharing + len(self._leaving)
        rate = Timetable.of(limits.rate).divided(parts)
        for place, node in enumerate([*able[:count], *others]):
            most, left = limits.connections, most_open
            if limits.is_fixed and most:
                most = part_of(most, place, sharing)
                most = max(1, most) if place >= count else most
            if left is not None:
                left = min(most, part_of(left, place, sharing))
            self._coordinator.rest(node.number, rests=not most and limits.connections > 0)
            node.send(messages.Steer(rate, most, limits.is_fixed, left, parts))
        for node in able[count:]:
            self._coordinator.rest(node.number, rests=True)
            node.send(messages.Steer(rate, 0, limits.is_fixed, None if most_open is None else 0, parts))

    def cool(self, host: str, seconds: float) -> None:
        """Send `host` no request for `seconds`, and close the transfers from it."""
        self._own.pool.cool(host, seconds, sheds=True)
        for node in self._nodes.values():
            node.send(messages.CoolHost(host, seconds, sheds=True))

    # ---- jobs

    async def fetch(self, job: Job) -> tuple[Status, Record]:
        """Fetch one file on a node.

        Args:
            job: The job to fetch.

        Returns:
            The status of the file, and its record.

        Raises:
            FetchError: The error of the node's `engine.file.FileFetcher`.
            StorageError: No node can be started; or five nodes in a row were lost while they fetched the
                file, and it got no further.
            RuntimeError: A node failed with an exception that is no FetchError.
        """
        tries = _Attempts(Losses(job.entry.path, _TRIES), self._setup.state)
        if job.entry.path in self._partials:
            tries.left.add(self._setup.state)
        while True:
            lease = await self._lease([each.number for each in tries.wrong], tries.idle)
            node, died = self._nodes[lease.node], None
            try:
                self._context.observe(events.FileAssigned(job.entry.path, node.member.name))
                if self._is_folder and job.record is not None:
                    await asyncio.to_thread(
                        hand_over, job.entry.path, tries.state, node.state, moves=tries.moves
                    )
                status, record = await self._on(node, lease, job, is_suspect=tries.was_lost)
                await self._completed(job, node, tries)
                return (Status.FETCHED if tries.was_lost else status), record
            except messages.GivenBackError:
                tries.idle = [node.number]
            except IntegrityError as error:
                self._received_wrong(job, node, tries, error)
            except WorkerDiedError as error:
                died, tries.was_lost, tries.idle = error, True, []
            finally:
                self._coordinator.end(lease)
            tries.ended_on(node, moves=died is None or self._ends.get(node.number, False))
            job = await self._refreshed(job)
            if died is not None:
                tries.losses.add(died, len(job.record.held) if job.record else 0)

    async def _completed(self, job: Job, node: Node, tries: _Attempts) -> None:
        for each in tries.wrong:  # another node received it right: the fault was not the source's
            self._blame(each)
        if tries.left and self._is_folder:
            await asyncio.to_thread(drop_partials, job.entry.path, tries.left - {node.state})

    def _received_wrong(self, job: Job, node: Node, tries: _Attempts, error: IntegrityError) -> None:
        """Let another node try a file; raise IntegrityError if there is none, or it was the second one."""
        if tries.wrong or self._coordinator.active < 2:
            # what the node has set aside is collected from its folder when the run ends
            raise IntegrityError(str(error).replace(f"nodes/{node.state.name}/", "")) from None
        tries.wrong = [node]
        message = f"{node.member.name} received other bytes than the digest says; another node tries it"
        self._context.observe(events.Retrying(job.entry.path, error.cause, 0.0, message))

    async def _on(self, node: Node, lease: Lease, job: Job, *, is_suspect: bool) -> tuple[Status, Record]:
        if not self._coordinator.is_valid(lease):  # it left while the partial was handed to it
            raise WorkerDiedError(f"{node.member.name}: it has left")
        if (granted := self._budget.grant(node.number, job.host)) is not None:
            node.send(granted)
        found = await node.fetch(job, is_suspect=is_suspect)
        if not self._coordinator.is_valid(lease):
            raise WorkerDiedError(f"{node.member.name}: its result came too late")
        return found

    async def _lease(self, wrong: list[int], idle: list[int]) -> Lease:
        """Return a lease on an active node, and wait until there is one.

        Args:
            wrong: nodes that received the file with a wrong digest; they get it only if there is no other.
            idle: the node that gave the file back; it gets it only before those of `wrong`.
        """
        while True:
            deal = self._coordinator.deal
            lease = deal([*wrong, *idle]) or deal(wrong) or deal()
            if lease is not None:
                return lease
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()

    async def _refreshed(self, job: Job) -> Job:
        """Return the job with what is known of its file now."""
        (known,) = await self._context.ledger.get([job.entry.path])
        (seen,) = await self._context.store.stat([job.entry.path])
        return replace(job, record=known, seen=seen)

    def _blame(self, node: Node) -> None:
        if self._coordinator.blame(node.number):
            self._resize()
            self._context.observe(events.NodeLeft(node.member.name, "wrong bytes", self._coordinator.active))

    # ---- regular work

    async def _look(self) -> None:
        """Send new assignments and signs of life, and give up silent nodes, every `LOOK` seconds."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            for member in self._coordinator.overdue(loop.time()):
                if (node := self._nodes.get(member.number)) is not None:
                    await self._gone(node, f"it was silent for {self._patience:.0f} s")
            for number, assign in self._own.look(loop.time()):
                if (node := self._nodes.get(number)) is not None:
                    node.send(assign)
            for node in self._nodes.values():
                node.send(messages.StillHere())
                if self._context.pool.last_files:
                    node.say_last()

    async def _steal(self) -> None:
        """Let idle nodes take jobs that others have not begun, once no further job is dealt."""
        while True:
            await asyncio.sleep(_STEAL)
            number = self._coordinator.surplus() if self._context.pool.last_files else None
            if number is not None and (node := self._nodes.get(number)) is not None:
                node.send(messages.GiveBack())

    def _cool(self, by: int, event: events.Cooling) -> None:
        """Forward a host's request to wait from node `by` to all others, and to the queues of the run."""
        self._context.pool.cool(event.host, event.seconds)
        self._own.pool.cool(event.host, event.seconds)
        for node in self._nodes.values():
            if node.number != by:
                node.send(messages.CoolHost(event.host, event.seconds))
