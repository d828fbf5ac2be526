"""Who waits for a connection to one host, and which file has how many."""

from __future__ import annotations

import asyncio
import heapq
import random
from enum import Enum

_Place = tuple[int, int, asyncio.Future[None]]


class Turn(Enum):
    """Whose turn it is."""

    EARLIEST = "the earliest file's"
    FEWEST = "that of the file with the fewest connections"
    ANYONE = "anyone's"


class WaitQueue:
    """Layout are by `order`, the file's in the manifest, and then by `number`, the same for all hosts."""

    def __init__(self) -> None:
        self._waiting: list[_Place] = []  # a heap
        self._files: dict[int, int] = {}  # order → connections

    def __len__(self) -> int:
        return sum(not ticket.done() for _, _, ticket in self._waiting)

    def join(self, order: int, number: int) -> asyncio.Future[None]:
        """Wait: the ticket is done when a connection is there, and cancelled to leave."""
        ticket = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, number, ticket))
        return ticket

    @property
    def first(self) -> tuple[int, int] | None:
        """The earliest place, None where nobody waits."""
        while self._waiting and self._waiting[0][2].done():  # cancelled while it waited
            heapq.heappop(self._waiting)
        return self._waiting[0][:2] if self._waiting else None

    def has_others(self, order: int) -> bool:
        """Whether somebody waits for another file."""
        return any(other != order for other, _, _ in self._waiting)

    def admit(self, turn: Turn) -> None:
        """Give a connection to one of those who wait."""
        order, _, ticket = self._next(turn)
        self.pass_by(order)
        ticket.set_result(None)

    def pass_by(self, order: int) -> None:
        """A file gets a connection without having waited."""
        self._files[order] = self._files.get(order, 0) + 1

    def left(self, order: int) -> None:
        """A connection of that file has ended."""
        if self._files[order] == 1:
            del self._files[order]
        else:
            self._files[order] -= 1

    def _next(self, turn: Turn) -> _Place:
        if turn is Turn.EARLIEST:
            return heapq.heappop(self._waiting)
        live = [place for place in self._waiting if not place[2].done()]
        if turn is Turn.ANYONE:
            chosen = random.choice(live)
        else:
            chosen = min(live, key=lambda place: (self._files.get(place[0], 0), *place[:2]))
        live.remove(chosen)
        heapq.heapify(live)
        self._waiting = live
        return chosen
