"""One node of a run: the way to it, where nodes come from, and its jobs and events as the run sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..engine.context import Context
from ..engine.lent_ranges import RangeJob
from ..model import events
from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..model.protocols import Ledger
from ..model.record import Published
from ..storage.destination import Destination
from ..storage.ledger.placement import Disk
from ..workers import messages
from ..workers.budget import Budget
from ..workers.channel import Channel
from ..workers.peer import Cooled, Peer, WorkerDiedError, say
from .coordinator import Member


@dataclass(frozen=True, slots=True)
class Link:
    """A way to a node that has started.

    Attributes:
        name: the machine, for people.
        wire: the channel to its worker process.
        ended: returns the exit status of the worker process once the channel is closed, None if it is not
            known to have ended.
        kill: ends the worker process at once, if it can be reached.
        source: the address from which the node makes its connections; empty for any.
        host: the name of the machine, if `name` says more.
        address: the address of the machine; empty if it is not known.
    """

    name: str
    wire: Channel
    ended: Callable[[], Awaitable[int | None]]
    kill: Callable[[], None] = lambda: None
    source: str = ""
    host: str = ""
    address: str = ""


class NodeSource(Protocol):
    """Where nodes come from: an adapter for one kind of cluster."""

    async def arrivals(self) -> list[Link]:
        """Return the nodes that have started since the last call; wait a moment for them.

        Raises:
            StorageError: no node can be started.
        """
        ...

    def destination(self, place: Destination) -> Destination:
        """Return the destination as a node names it."""
        ...

    def notes(self) -> list[str]:
        """Return sentences for the report on nodes that could take no part."""
        ...


class Node(Peer):
    """One node as the run sees it.

    Args:
        member: what the coordinator knows of it.
        link: the way to it.
        state: its state folder.
        context: the engine's context in the process of the run.
        budget: divides the connections of each host among the nodes.
        cool: called when a host asks this node to wait.

    Attributes:
        disk: the disk to which the node writes, once it is known; cancelled when the node has left before.
        partials: the files of which that disk has a partial.
    """

    def __init__(
        self, member: Member, link: Link, state: Path, context: Context, budget: Budget, cool: Cooled
    ) -> None:
        super().__init__(member.number, context, budget, cool)
        self.member, self.state, self.link = member, state, link
        self._wire = link.wire
        self.is_lost = False
        self.disk: asyncio.Future[Disk] = asyncio.get_running_loop().create_future()
        self.partials: list[RelativePath] = []
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._helps: set[str] = set()  # files of other nodes of which it fetches a range

    @property
    def machine(self) -> tuple[str, str]:
        """Name and address of the machine, on which there may be several workers."""
        return self.link.host or self.member.name, self.link.address

    def use(self, ledger: Ledger) -> None:
        """Let the node read and write `ledger` in place of the run's."""
        self._context = replace(self._context, ledger=ledger)

    async def look(self, paths: list[RelativePath]) -> list[Published | None]:
        """Return the states of files under their final names on the node's disk, None where there is none.

        Raises:
            WorkerDiedError: the node has left.
            StorageError: its disk cannot be read.
        """
        seen: list[Published | None] = await self._ask(lambda number: messages.LookAt(number, paths))
        return seen

    async def lend(self, helpers: int) -> RangeJob | None:
        """Return a range that the node lends to one of `helpers` others, None if there is none.

        Raises:
            WorkerDiedError: the node has left.
        """
        lent: RangeJob | None = await self._ask(lambda number: messages.LendRange(number, helpers))
        return lent

    async def fetch_range(self, job: RangeJob) -> Path:
        """Fetch a range of a file of another node, and return the range file that has it.

        Raises:
            WorkerDiedError: the node has left.
            FetchError: the range cannot be fetched.
        """
        path = job.entry.path
        self._helps.add(path)
        try:
            file: Path = await self._ask(lambda number: messages.FetchRange(number, job))
            return file
        finally:
            self._helps.discard(path)

    async def _ask(self, message: Callable[[int], object]) -> Any:
        """Send the message for a new number, and return the node's reply to it."""
        number, reply = next(self._numbers), asyncio.get_running_loop().create_future()
        if self.is_lost:
            raise WorkerDiedError(f"{self.member.name}: it has left")
        self._replies[number] = reply
        self.send(message(number))
        try:
            return await reply
        finally:
            self._replies.pop(number, None)

    def _observe(self, event: events.Event) -> None:
        if self._helps and getattr(event, "path", None) in self._helps:
            match event:
                case events.Opened() | events.Wrote() | events.Closed():
                    event = replace(event, node=self.member.name)
                case _:
                    pass
        super()._observe(event)

    def _take(self, message: object) -> None:
        """Handle one message of the node."""
        match message:
            case messages.OwnDisk(disk, partials):
                self.partials = partials
                host = self.link.host or self.member.name
                if not self.disk.done():
                    self.disk.set_result(Disk(disk, host, self.link.address))
            case (
                messages.LookedAt(number, result)
                | messages.RangeLent(number, result)
                | messages.RangeFetched(number, result)
            ):
                reply = self._replies.get(number)
                if reply is None or reply.done():
                    return
                if isinstance(result, Exception):
                    reply.set_exception(result)
                else:
                    reply.set_result(result)
            case _:
                super()._take(message)

    async def serve(self, heard: Callable[[], None], drains: Callable[[], None]) -> None:
        """Handle the messages of the node until its channel is closed.

        Args:
            heard: called whenever something has come.
            drains: called when the node is about to leave.
        """
        try:
            while received := await self._wire.receive():
                if self.is_lost:
                    break
                heard()
                for message in received:
                    if isinstance(message, messages.Draining):
                        drains()
                    else:
                        self._take(message)
        except Exception as error:
            say(error, f"{self.member.name} sent an invalid message and is given up")

    async def end(self, why: str) -> None:
        """Fail the jobs of the node, and take back its connections as far as the views are concerned."""
        self.is_lost = True
        self.disk.cancel()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(WorkerDiedError(f"{self.member.name}: {why}"))
        self._close_all()
        self._fail_all(f"{self.member.name}: {why}")
        await self._stop_answering()
        await self._wire.abort()  # a silent node reads nothing
