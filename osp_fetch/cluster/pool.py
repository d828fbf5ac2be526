"""The nodes of a run: it deals jobs to them under leases, and connections of each host to all of them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Final

from ..concurrency import stop
from ..connections.controller import LOOK
from ..connections.pool import ConnectionPool
from ..engine.context import Context, files_in_progress
from ..engine.file import Job
from ..model import events
from ..model.errors import DiskFullError, FetchError, IntegrityError
from ..model.record import Record
from ..model.report import Status
from ..model.settings import Settings
from ..model.timetable import Timetable
from ..storage.folder.node_folders import mark_ended, node_folder
from ..storage.folder.run_lock import state_folder
from ..workers import messages
from ..workers.budget import OWN, Budget
from ..workers.limits import RunLimits, part_of
from ..workers.own_share import OwnShare
from ..workers.peer import Losses, WorkerDiedError
from .coordinator import Coordinator, Lease, State
from .destinations import Attempts, Files
from .node import Link, Node, NodeSource
from .range_leases import RangeLeases

LEASE: Final = 30.0
"""Seconds of silence after which a node's jobs are given to others."""
_TRIES: Final = 5  # nodes in a row that may be lost while they fetch one file and bring it no further
_STEAL: Final = 2.0  # seconds between two looks whether an idle node could take jobs of another
_ENDING: Final = 60.0  # seconds that the nodes may take to record the held bytes


class NodePool:
    """The nodes of a run, an async context manager.

    Args:
        source: where nodes come from.
        setup: the first message to each node; place, state and share are filled in.
        files: what becomes of the bytes of files that pass from node to node.
        budget: divides the connections of each host among the nodes.
        patience: seconds of silence after which a node is lost.
        sockets: seconds after which the connections of a lost node are closed for certain.
    """

    def __init__(
        self,
        source: NodeSource,
        setup: messages.Setup,
        files: Files,
        budget: Budget,
        patience: float = LEASE,
        sockets: float = 60.0,
    ) -> None:
        self._source, self._setup, self._files, self._budget = source, setup, files, budget
        self._context = context = files.context
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
        self._full: DiskFullError | None = None  # a node's own disk is full
        self._run_id = secrets.token_hex(4)
        self._per_node = context.places.limit
        limits = context.settings.limits
        self._limits = RunLimits(
            limits.rate, context.pool.total, context.pool.per_host, limits.connections != "auto"
        )
        self._is_ending = False
        self._ranges = RangeLeases(self._coordinator, self._nodes, budget, context.observe)

    async def __aenter__(self) -> NodePool:
        await self._files.begin()
        for work in (self._arrivals(), self._look(), self._steal()):
            self._tasks.add(asyncio.create_task(work))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_ending = True
        await stop(self._tasks)
        await self._ranges.stop()
        for node in self._nodes.values():
            node.send(messages.StopWork())
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=_ENDING)
        for node in list(self._nodes.values()):
            node.link.kill()
            await self._gone(node, "the run has ended")
        await stop(self._serving)
        await self._files.end()

    @property
    def context(self) -> Context:
        """The context of the run, whose store says what is at the destination."""
        return self._context

    def notes(self) -> list[str]:
        """Return sentences for the report."""
        return [*self._files.notes(), *self._source.notes()]

    async def lost(self) -> dict[str, int]:
        """Return node → files on its own disk, for nodes that took part and have left."""
        return await self._files.lost()

    # ---- membership

    async def _arrivals(self) -> None:
        """Let nodes join as they start."""
        is_first = True
        while True:
            try:
                arrived = await self._source.arrivals()
            except FetchError as error:
                self._error = error
                self._files.settled()
                self._changed.set()
                return
            for link in arrived:
                self._join(link)
            if is_first:
                where = str(self._source.destination(self._setup.place))
                self._context.observe(events.DestinationFound(self._files.kind, where))
                self._files.settled()
            is_first = False

    def _join(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        member = self._coordinator.join(link.name, loop.time())
        name = f"node-{self._run_id}-{member.number}"
        place = self._source.destination(self._setup.place)
        state = node_folder(state_folder(place.root), name)
        node = Node(member, link, state, self._context, self._budget, self._cool)
        self._files.joined(node)
        self._nodes[member.number] = node
        self._budget.joined(member.number)
        setup = replace(self._setup, place=place, state=state, share=0, source=link.source)
        if self._files.is_local:
            setup = replace(setup, settings=_impatient(setup.settings), is_local=True)
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
        self._coordinator.leave(node.number)
        has_left = node.member.before in (State.QUARANTINED, State.FULL)  # which was reported as such
        self._ends[node.number] = has_ended
        if has_ended:
            self._budget.gone(node.number)
            if not self._files.is_local:
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
        self._changed.set()  # a node that rested may have become active

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
        self._own.steer(limits)
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
        tries = Attempts(Losses(job.entry.path, _TRIES), self._setup.state)
        while True:
            lease = await self._lease(tries, await self._files.prefers(job))
            node, died = self._nodes[lease.node], None
            try:
                self._context.observe(events.FileAssigned(job.entry.path, node.member.name))
                given = await self._files.give(job, node, tries)
                status, record = await self._on(node, lease, given, tries)
                for each in tries.wrong:  # another node received it right: the fault was not the source's
                    self._blame(each)
                await self._files.completed(job, node, tries)
                return (Status.FETCHED if tries.was_lost else status), record
            except messages.GivenBackError:
                tries.idle = [node.number]
            except IntegrityError as error:
                self._received_wrong(job, node, tries, error)
            except DiskFullError as error:
                self._is_full(node, error)
            except WorkerDiedError as error:
                died, tries.was_lost, tries.idle = error, True, []
            finally:
                self._coordinator.end(lease)
                if self._full is not None:
                    self._changed.set()
                self._files.ended(job.entry.path, node)
            tries.ended_on(node, moves=died is None or self._ends.get(node.number, False))
            job = await self._files.refreshed(job)
            if died is not None:
                tries.losses.add(died, len(job.record.held) if job.record else 0)

    def _received_wrong(self, job: Job, node: Node, tries: Attempts, error: IntegrityError) -> None:
        """Let another node try a file; raise IntegrityError if there is none, or it was the second one."""
        if tries.wrong or self._coordinator.active < 2:
            # what the node has set aside is collected from its folder when the run ends
            raise IntegrityError(str(error).replace(f"nodes/{node.state.name}/", "")) from None
        tries.wrong = [node]
        message = f"{node.member.name} received other bytes than the digest says; another node tries it"
        self._context.observe(events.Retrying(job.entry.path, error.cause, 0.0, message))

    async def _on(self, node: Node, lease: Lease, job: Job, tries: Attempts) -> tuple[Status, Record]:
        if not self._coordinator.is_valid(lease):  # it left while the partial was handed to it
            raise WorkerDiedError(f"{node.member.name}: it has left")
        if (granted := self._budget.grant(node.number, job.host)) is not None:
            node.send(granted)
        found = await node.fetch(job, is_suspect=tries.was_lost, looks=tries.looks)
        if not self._coordinator.is_valid(lease):
            raise WorkerDiedError(f"{node.member.name}: its result came too late")
        return found

    def _is_full(self, node: Node, error: DiskFullError) -> None:
        """Give a node whose own disk is full no more files; raise `error` if it is the disk of all nodes."""
        if not self._files.is_local:
            raise error
        self._full = error
        if self._coordinator.drain(node.number, State.FULL):
            self._resize()
            left = events.NodeLeft(node.member.name, "its disk is full", self._coordinator.active)
            self._context.observe(left)

    async def _until_changed(self) -> None:
        """Wait for a node. If the disks of all are full, raise that when they have had no job for a while."""
        members = self._coordinator.members
        is_over = members and all(each.state is State.FULL and not each.leases for each in members)
        self._changed.clear()
        try:
            async with asyncio.timeout(self._patience if is_over else None):
                await self._changed.wait()
        except TimeoutError:
            assert self._full is not None
            raise self._full from None

    async def _lease(self, tries: Attempts, preferred: int | None) -> Lease:
        """Return a lease on an active node, and wait until there is one.

        A node that gave the file back gets it again only if no other one can; after it come those that
        received it with a wrong digest.

        Args:
            tries: the earlier attempts at the file.
            preferred: the node that gets it if it is active, and has not received it wrong; None for any.
        """
        wrong, idle = [each.number for each in tries.wrong], tries.idle
        if preferred in wrong:
            preferred = None
        while True:
            deal = self._coordinator.deal
            lease = self._coordinator.deal_to(preferred) if preferred is not None else None
            lease = lease or deal([*wrong, *idle]) or deal(wrong) or deal()
            if lease is not None:
                return lease
            if self._error is not None:
                raise self._error
            await self._until_changed()

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
        """Let idle nodes take jobs and ranges that others have not begun, once no further job is dealt."""
        while True:
            await asyncio.sleep(_STEAL)
            if not self._context.pool.last_files:
                continue
            number = self._coordinator.surplus()
            if number is not None and (node := self._nodes.get(number)) is not None:
                node.send(messages.GiveBack())
            elif self._files.lends:
                self._ranges.look()

    def paused(self, event: events.Cooling) -> None:
        """Forward the pause that a host has asked the process of the run for, in reply to a page."""
        self._cool(OWN, event)

    def _cool(self, by: int, event: events.Cooling) -> None:
        """Forward a host's request to wait from node `by` to all others, and to the queues of the run."""
        self._context.pool.cool(event.host, event.seconds)
        self._own.pool.cool(event.host, event.seconds)
        for node in self._nodes.values():
            if node.number != by:
                node.send(messages.CoolHost(event.host, event.seconds))


def _impatient(settings: Settings) -> Settings:
    """Return the settings of a node with a disk of its own: if it is full, others can go on at once."""
    return replace(settings, storage=replace(settings.storage, disk_patience=0.0))
