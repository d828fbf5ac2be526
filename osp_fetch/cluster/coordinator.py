"""Membership and leases: who gets a job, when a node is lost, and whose results count. No I/O, no clock.

A job is given to a node under a lease. The lease is valid as long as the node is a member: until it leaves,
or is silent for longer than the lease lasts on the coordinator's clock. A result counts only under a valid
lease, so that a node that was frozen and wakes up changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from dataclasses import field
from enum import Enum
from typing import Final

from ..model.dataclasses import dataclass

_WRONG: Final = 3  # files with a wrong digest after which a node is given no more jobs


class State(Enum):
    """What a node may do."""

    ACTIVE = "active"
    RESTING = "resting"  # there are fewer connections than nodes, and it has none of them
    DRAINING = "draining"  # it is about to leave, and gets no more jobs
    QUARANTINED = "quarantined"  # what it received was wrong several times
    FULL = "full"  # its own disk is full
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that is given to a node.

    Attributes:
        number: unique among all leases of a coordinator.
        node: the number of the node.
    """

    number: int
    node: int


@dataclass(slots=True)
class Member:
    """A node as the coordinator sees it.

    Attributes:
        number: unique among all nodes of a run, also if a machine comes back.
        name: the machine, for people.
        heard: seconds of the coordinator's clock at which it was heard last.
        state: what it may do.
        before: its state when it left.
        leases: numbers of its valid leases.
        wrong: files that it received with a wrong digest.
    """

    number: int
    name: str
    heard: float
    state: State = State.ACTIVE
    leases: set[int] = field(default_factory=set)
    wrong: int = 0
    before: State = State.ACTIVE


class Coordinator:
    """Decides who fetches what.

    Args:
        patience: seconds of silence after which a node is lost, and its leases are void.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._members: dict[int, Member] = {}
        self._next_member = self._next_lease = 0
        # (leases, number) of active members; entries that are out of date are skipped
        self._line: list[tuple[int, int]] = []

    @property
    def members(self) -> list[Member]:
        """The nodes that have not gone."""
        return list(self._members.values())

    @property
    def able(self) -> int:
        """Number of nodes that may get jobs, or could if there were more connections."""
        return sum(each.state in (State.ACTIVE, State.RESTING) for each in self._members.values())

    @property
    def active(self) -> int:
        """Number of nodes that may get jobs."""
        return sum(each.state is State.ACTIVE for each in self._members.values())

    def join(self, name: str, now: float) -> Member:
        """Add a node.

        Args:
            name: the machine, for people.
            now: seconds of a monotonic clock.
        """
        member = Member(self._next_member, name, now)
        self._next_member += 1
        self._members[member.number] = member
        self._queue(member)
        return member

    def heard(self, node: int, now: float) -> bool:
        """Renew the leases of a node that was heard; return whether it is still a member."""
        member = self._members.get(node)
        if member is not None:
            member.heard = now
        return member is not None

    def deal(self, besides: Container[int] = ()) -> Lease | None:
        """Give a job to the active node with the fewest jobs.

        Args:
            besides: nodes that do not get it.

        Returns:
            The lease; None if there is no such node.
        """
        skipped: list[tuple[int, int]] = []
        found: Lease | None = None
        while self._line and found is None:
            count, number = heapq.heappop(self._line)
            member = self._members.get(number)
            if member is None or member.state is not State.ACTIVE or len(member.leases) != count:
                continue
            if number in besides:
                skipped.append((count, number))
                continue
            found = self.deal_to(number)
        for each in skipped:
            heapq.heappush(self._line, each)
        return found

    def deal_to(self, node: int) -> Lease | None:
        """Give a job to one node; return None if it is not active."""
        member = self._members.get(node)
        if member is None or member.state is not State.ACTIVE:
            return None
        lease = Lease(self._next_lease, node)
        self._next_lease += 1
        member.leases.add(lease.number)
        self._queue(member)
        return lease

    def is_valid(self, lease: Lease) -> bool:
        """Return whether a result under `lease` counts."""
        member = self._members.get(lease.node)
        return member is not None and lease.number in member.leases

    def end(self, lease: Lease) -> bool:
        """End a lease: the job has a result, or was given back. Return whether it was valid."""
        if not self.is_valid(lease):
            return False
        member = self._members[lease.node]
        member.leases.remove(lease.number)
        self._queue(member)
        return True

    def rest(self, node: int, *, rests: bool) -> None:
        """Give an active node no more jobs for a while, or let it go on."""
        member = self._members.get(node)
        if member is None or member.state not in (State.ACTIVE, State.RESTING):
            return
        member.state = State.RESTING if rests else State.ACTIVE
        self._queue(member)

    def drain(self, node: int, why: State = State.DRAINING) -> bool:
        """Give a node no more jobs; return whether it could get some until now.

        Args:
            node: its number.
            why: DRAINING if it is about to leave, FULL if its disk is full.
        """
        member = self._members.get(node)
        if member is None:
            return False
        before, member.state = member.state, why
        return before in (State.ACTIVE, State.RESTING)

    def leave(self, node: int) -> Member | None:
        """Remove a node; its leases are void. Return it, None if it had gone before."""
        member = self._members.pop(node, None)
        if member is not None:
            member.before, member.state = member.state, State.GONE
        return member

    def overdue(self, now: float) -> list[Member]:
        """Remove and return the nodes that were silent for too long; their leases are void."""
        late = [each for each in self._members.values() if now - each.heard > self._patience]
        for each in late:
            self.leave(each.number)
        return late

    def blame(self, node: int) -> bool:
        """Count a wrong digest against a node; return whether it is quarantined for that now."""
        member = self._members.get(node)
        if member is None or member.state is not State.ACTIVE:
            return False
        member.wrong += 1
        if member.wrong < _WRONG or self.active == 1:  # there is no other node
            return False
        member.state = State.QUARANTINED
        return True

    def surplus(self) -> int | None:
        """Return the node that should give back jobs that it has not begun, None if there is none.

        That is the active node with the most jobs, if another one has none.
        """
        active = [each for each in self._members.values() if each.state is State.ACTIVE]
        if len(active) < 2 or min(len(each.leases) for each in active) > 0:
            return None
        most = max(active, key=lambda each: len(each.leases))
        return most.number if len(most.leases) > 1 else None

    def _queue(self, member: Member) -> None:
        if member.state is State.ACTIVE:
            heapq.heappush(self._line, (len(member.leases), member.number))
            if len(self._line) > 4 * len(self._members) + 64:
                self._line = [(len(m.leases), m.number) for m in self._members.values()]
                heapq.heapify(self._line)
