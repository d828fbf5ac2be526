"""Waiting hosts: the hosts that have waiting requests and may get a slot, the earliest request first."""

from __future__ import annotations

import heapq
import itertools

from .host import Host


class WaitingHosts:
    """The hosts for which requests wait. Hosts that have not answered yet, or are down, are kept apart.

    It is true while there may be any. Where requests wait for a single host only, nothing is sorted.
    """

    def __init__(self) -> None:
        self._hosts: set[Host] = set()  # with some, for which no request waits any more
        self._known, self._new = _HostLine(), _HostLine()

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def join(self, state: Host) -> None:
        """Add a host for which a request has begun to wait."""
        self._hosts.add(state)
        if len(self._hosts) == 2:
            for each in self._hosts:
                self._line(each).add(each)
        elif len(self._hosts) > 2:
            self._line(state).add(state)

    def update(self, state: Host) -> None:
        """Update the place of a host after its queue, its limit or its state has changed."""
        if state.queue.first is None:
            self._hosts.discard(state)
        elif len(self._hosts) > 1:
            self._line(state).add(state)

    def first(self, now: float, share: int, *, new: bool = False) -> Host | None:
        """Return the host with the earliest request of those that may get a slot.

        Args:
            now: Current time in seconds on the event loop's clock.
            share: Connections that a host may have while many hosts are in use.
            new: Whether to look among the hosts that have not answered yet, or are down.
        """
        if len(self._hosts) > 1:
            return (self._new if new else self._known).first(now, share)
        for state in self._hosts:
            may = state.breaker.is_new is new and state.queue.first is not None and state.may(now, share)
            return state if may else None
        return None

    def _line(self, state: Host) -> _HostLine:
        return self._new if state.breaker.is_new else self._known


class _HostLine:
    """Several hosts in the order of their earliest request.

    A host that may not open another connection leaves the line. `add` puts it back when something has
    changed for it, so that no decision walks over all hosts.
    """

    def __init__(self) -> None:
        # a heap; entries that are out of date stay
        self._line: list[tuple[tuple[int, int, int], int, Host]] = []
        self._numbers = itertools.count()

    def add(self, state: Host) -> None:
        """Put a host in the line if a request waits for it. A host that is in the line moves if it has to."""
        place = _place(state)
        if place is None or (state.line is self and state.listed is not None and state.listed <= place):
            return
        state.line, state.listed = self, place
        heapq.heappush(self._line, (place, next(self._numbers), state))

    def first(self, now: float, share: int) -> Host | None:
        """Return the first host that may get a slot; the arguments are those of `WaitingHosts.first`."""
        while self._line:
            place, _, state = self._line[0]
            is_current = state.line is self and state.listed == place
            if is_current and _place(state) == place and state.may(now, share):
                return state
            heapq.heappop(self._line)
            if is_current:
                state.listed = None
                if _place(state) != place:
                    self.add(state)
        return None


def _place(state: Host) -> tuple[int, int, int] | None:
    """Return the place of a host: hosts that are down come last. None if no request waits."""
    first = state.queue.first
    return None if first is None else (state.breaker.down, *first)
