"""Range leases: nodes that have nothing else to do fetch ranges of the last large files of other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ..concurrency import stop
from ..engine.lent_ranges import RangeJob
from ..model import events
from ..model.errors import FetchError
from ..workers import messages
from ..workers.budget import Budget
from ..workers.peer import say
from .coordinator import Coordinator, State
from .node import Node


class RangeLeases:
    """The ranges that nodes fetch for each other.

    A range is fetched under a lease of the node that fetches it. It may fail, or come too late: then the node
    that has the file fetches these bytes itself.

    Args:
        coordinator: gives the leases.
        nodes: number → node, of all that are there.
        budget: divides the connections of each host among the nodes.
        observe: receives the events.
    """

    def __init__(
        self, coordinator: Coordinator, nodes: Mapping[int, Node], budget: Budget, observe: events.Observer
    ) -> None:
        self._coordinator, self._nodes = coordinator, nodes
        self._budget, self._observe = budget, observe
        self._helping: dict[int, asyncio.Task[None]] = {}  # number of a node → its work for others

    def look(self) -> None:
        """Let each idle node fetch ranges until there is none."""
        for member in self._coordinator.members:
            number, is_idle = member.number, member.state is State.ACTIVE and not member.leases
            if is_idle and number not in self._helping:
                self._helping[number] = asyncio.create_task(self._help(number))

    async def stop(self) -> None:
        """End the work of all nodes for others."""
        await stop(list(self._helping.values()))

    async def _help(self, number: int) -> None:
        try:
            while (node := self._nodes.get(number)) is not None:
                found = await self._lent(node)
                if found is None or not await self._fetch(node, *found):
                    return
        except Exception as error:  # of an observer, for example; the run goes on without this help
            say(error, "an idle node cannot fetch ranges for others")
        finally:
            del self._helping[number]

    async def _lent(self, node: Node) -> tuple[Node, RangeJob] | None:
        """Return a range for `node`, and the node that lends it: one on another machine."""
        helpers = max(1, len(self._helping))
        for owner in list(self._nodes.values()):
            if owner.number in self._helping or not owner.in_hand or owner.machine == node.machine:
                continue
            try:
                if (job := await owner.lend(helpers)) is not None:
                    return owner, job
            except FetchError:  # it has left
                continue
        return None

    async def _fetch(self, node: Node, owner: Node, job: RangeJob) -> bool:
        """Let `node` fetch a range of a file of `owner`; return whether it can do more."""
        lease, file = self._coordinator.deal_to(node.number), None
        is_valid = False
        try:
            if lease is not None:
                file = await self._on(node, job)
        except FetchError:
            pass  # the owner fetches these bytes, and reports what is wrong with them
        finally:
            is_valid = lease is not None and self._coordinator.end(lease)
            is_there = owner.number in self._nodes
            if is_there:
                owner.send(messages.RangeReturned(job.entry.path, job.number, file if is_valid else None))
            if file is not None and not (is_valid and is_there):
                node.send(messages.DropRange(file))
        return file is not None and is_valid

    async def _on(self, node: Node, job: RangeJob) -> Path:
        span = job.range
        self._observe(events.RangeAssigned(job.entry.path, span.start, span.stop, node.member.name))
        if (granted := self._budget.grant(node.number, job.host)) is not None:
            node.send(granted)
        return await node.fetch_range(job)
