"""One node of a run: the way to it, where nodes come from, and its jobs and events as the run sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..engine.context import Context
from ..storage.destination import Destination
from ..workers import messages
from ..workers.budget import Budget
from ..workers.channel import Channel
from ..workers.peer import Cooled, Peer, say
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
    """

    name: str
    wire: Channel
    ended: Callable[[], Awaitable[int | None]]
    kill: Callable[[], None] = lambda: None
    source: str = ""


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


class Node(Peer):
    """One node as the run sees it.

    Args:
        member: what the coordinator knows of it.
        link: the way to it.
        state: its state folder.
        context: the engine's context in the process of the run.
        budget: divides the connections of each host among the nodes.
        cool: called when a host asks this node to wait.
    """

    def __init__(
        self, member: Member, link: Link, state: Path, context: Context, budget: Budget, cool: Cooled
    ) -> None:
        super().__init__(member.number, context, budget, cool)
        self.member, self.state, self.link = member, state, link
        self._wire = link.wire
        self.is_lost = False

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
        self._close_all()
        self._fail_all(f"{self.member.name}: {why}")
        await self._stop_answering()
        await self._wire.abort()  # a silent node reads nothing
