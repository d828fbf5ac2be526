"""Wait queue of one host: the requests that wait for a slot, and the number of slots of each file."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from enum import Enum
from typing import Final

_Place = tuple[int, int, asyncio.Future[None]]


# Files that get a first slot before any of them gets a second one. The bytes of a file with one connection
# come in order, and each file is hashed by one thread.
_WIDE: Final = 8


class Turn(Enum):
    """The rule by which the next slot is granted."""

    EARLIEST = "the earliest file"  # once a few files have a slot each
    FEWEST = "the file with the fewest connections"
    ANYONE = "anyone's"  # a random file


class WaitQueue:
    """The requests that wait for a slot of one host.

    Places are sorted by `order`, the position of the file in the manifest, and then by `number`, a counter
    that all hosts share.
    """

    __slots__ = ("_files", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[_Place] = []  # a heap
        self._files: dict[int, int] = {}  # order → slots that the file holds

    def __len__(self) -> int:
        return sum(not ticket.done() for _, _, ticket in self._waiting)

    def join(self, order: int, number: int) -> asyncio.Future[None]:
        """Add a waiting request.

        Args:
            order: Position of the file in the manifest.
            number: Sequence number of the request.

        Returns:
            A future that completes when a slot is granted. Cancel it to leave the queue.
        """
        ticket = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, number, ticket))
        return ticket

    @property
    def first(self) -> tuple[int, int] | None:
        """The earliest place as (order, number), None if no request waits."""
        while self._waiting and self._waiting[0][2].done():  # the request was cancelled
            heapq.heappop(self._waiting)
        return self._waiting[0][:2] if self._waiting else None

    def has_others(self, order: int) -> bool:
        """Return whether a request for a file other than `order` waits."""
        return any(other != order for other, _, _ in self._waiting)

    def admit(self, turn: Turn) -> int:
        """Grant a slot to one waiting request, chosen by the rule `turn`. The queue must not be empty.

        Returns:
            The position of its file in the manifest.
        """
        order, _, ticket = self._next(turn)
        self.pass_by(order)
        ticket.set_result(None)
        return order

    def send_away(self, error: Callable[[], Exception]) -> None:
        """Make every waiting request raise an exception of its own, made by `error`."""
        waiting, self._waiting = self._waiting, []
        for _, _, ticket in waiting:
            if not ticket.done():
                ticket.set_exception(error())
                ticket.exception()  # marks it as retrieved: the waiting task may have been cancelled

    def pass_by(self, order: int) -> None:
        """Count a slot that the file `order` gets without waiting."""
        self._files[order] = self._files.get(order, 0) + 1

    def left(self, order: int) -> None:
        """Count the release of a slot of the file `order`."""
        if self._files[order] == 1:
            del self._files[order]
        else:
            self._files[order] -= 1

    def _next(self, turn: Turn) -> _Place:
        spreads = len(self._files) < _WIDE and self._waiting[0][0] in self._files
        if turn is Turn.EARLIEST and not spreads:
            return heapq.heappop(self._waiting)
        live = [place for place in self._waiting if not place[2].done()]
        if turn is Turn.EARLIEST:
            chosen = min([place for place in live if place[0] not in self._files] or live)
        elif turn is Turn.ANYONE:
            chosen = random.choice(live)
        else:
            chosen = min(live, key=lambda place: (self._files.get(place[0], 0), *place[:2]))
        live.remove(chosen)
        heapq.heapify(live)
        self._waiting = live
        return chosen
