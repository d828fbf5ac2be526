"""How many connections a host serves best: measured, one number after another, and nothing is kept."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..concurrency import stop
from ..model import urls
from ..model.entry import Entry
from ..model.errors import (
    BorrowedLinkSpentError,
    FetchError,
    NetworkError,
    RangeNotSatisfiableError,
    StatusError,
)
from ..model.http import Request
from ..model.protocols import Transport
from ..model.ranges import ByteRange

_PAYS: Final = 1.05  # what more connections must gain
_MADE: Final = 2.0  # seconds that connections may take until all of them bring bytes
_WINDOW: Final = 1.0  # seconds of measuring …
_LONGEST: Final = 3.0  # … and, up to so many, until each connection has brought so much:
_BYTES: Final = 256 << 10
_PART_SECONDS: Final = 2.0
_PARTS: Final = (1 << 20, 64 << 20)
_REFUSED: Final = frozenset({429, 503})
_PAUSE: Final = 0.2  # seconds after a refusal
_SHARE: Final = 8  # of the bytes allowed, one level may use
_SCRATCH: Final = 256 << 10  # memory that all bytes are received into, which nobody reads


@dataclass(frozen=True, slots=True)
class Point:
    """What `connections` brought: `goodput` in bytes per second, over so many `seconds`. `latency`:
    median seconds from asking to an answer. `refused`: how often one was turned away."""

    connections: int
    goodput: float
    latency: float
    refused: int
    seconds: float

    def row(self) -> dict[str, float]:
        """Plain values."""
        return {
            "connections": self.connections,
            "bytes_per_second": round(self.goodput),
            "latency_seconds": round(self.latency, 4),
            "refused": self.refused,
            "seconds": round(self.seconds, 2),
        }


def best(points: Sequence[Point]) -> Point:
    """The fewest connections that bring within 5 % of the most, of those that are not refused."""
    served = [point for point in points if not point.refused] or list(points)
    most = max(point.goodput for point in served)
    return min(
        (point for point in served if point.goodput * _PAYS >= most), key=lambda point: point.connections
    )


def next_number(points: Sequence[Point], most: int) -> int | None:
    """Which number of connections to measure next; None where the best is found.

    Doubling as long as it pays, then halves of what lies between the best and what was too many.
    """
    if not points:
        return 1
    top = best(points)
    above = [point.connections for point in points if point.connections > top.connections]
    if not above:
        return min(top.connections * 2, most) if top.connections < most else None
    ceiling = min(above)
    if ceiling - top.connections <= max(1, top.connections // 8):
        return None
    return (top.connections + ceiling) // 2


@dataclass(slots=True)
class _Target:
    entry: Entry
    url: str
    length: int | None
    at: int = 0


@dataclass(slots=True)
class _Count:
    """What one number of connections brings."""

    streaming: set[int] = field(default_factory=set)
    all_streaming: asyncio.Event = field(default_factory=asyncio.Event)
    latencies: list[float] = field(default_factory=list)
    received: int = 0
    refused: int = 0


class Sweep:
    """Measures `entries`, all of one host, through `transport`.

    `most`: connections; `size` and `seconds`: what it may fetch and take, about; `spend` waits until so
    many bytes fit under the byte rate; `tell` is called with each point.
    """

    def __init__(
        self,
        transport: Transport,
        entries: Sequence[Entry],
        *,
        most: int,
        size: int,
        seconds: float,
        spend: Callable[[int], Awaitable[None]],
        tell: Callable[[Point], None],
    ) -> None:
        self._transport, self._most, self._spend, self._tell = transport, most, spend, tell
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._targets = itertools.cycle([_Target(entry, entry.urls[0], entry.size) for entry in entries])
        self._size, self._seconds = size, seconds
        self.received = 0
        self._spent = asyncio.Event()  # all the bytes allowed
        self._pace: float | None = None
        self.host = urls.host(entries[0].urls[0])  # where the bytes come from in the end
        self.points: list[Point] = []
        self.ended = ""  # why before the best was found

    async def run(self) -> list[Point]:
        """The points in the order of measuring. Raises TransferError where not a byte can be had."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._seconds
        while (number := next_number(self.points, self._most)) is not None:
            if self.points and self.received >= self._size:
                self.ended = "the bytes allowed were used up"
                break
            if self.points and clock() + _WINDOW > until:
                self.ended = "the time allowed was over"
                break
            try:
                point = await self._measure(number)
            except FetchError as error:
                if not self.points:
                    raise
                self.ended = f"with {number} connections it failed: {error}"
                break
            self.points.append(point)
            self._tell(point)
        return self.points

    async def _measure(self, number: int) -> Point:
        clock = asyncio.get_running_loop().time
        opened, count = clock(), _Count()
        made = asyncio.ensure_future(count.all_streaming.wait())
        spent = asyncio.ensure_future(self._spent.wait())
        workers = [asyncio.create_task(self._work(lane, number, count)) for lane in range(number)]
        try:
            await asyncio.wait({made, spent, *workers}, timeout=_MADE, return_when=asyncio.FIRST_COMPLETED)
            # what was refused until now may be the last number's connections, not yet gone
            begun, before, count.refused = clock(), count.received, 0
            share = max(self._size // _SHARE, number * _BYTES)
            while True:
                await asyncio.wait({spent, *workers}, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                _raise_failure(workers)
                past, came = clock() - begun, count.received - before
                enough = came >= number * _BYTES and past >= _WINDOW
                if spent.done() or enough or past >= _LONGEST or (came >= share and past >= _WINDOW / 2):
                    break
        finally:
            await stop([made, spent, *workers])
        if past < _WINDOW / 10:  # the bytes allowed did not suffice for a window: better than nothing
            past, came = clock() - opened, count.received
        goodput = came / past
        self._pace = goodput / number or self._pace
        latency = statistics.median(count.latencies) if count.latencies else 0.0
        return Point(number, goodput, latency, count.refused, past)

    async def _work(self, lane: int, number: int, count: _Count) -> None:
        """Fetch parts for nothing until cancelled. Raises where the host never gives a byte."""
        while True:
            target = next(self._targets)
            try:
                await self._part(target, lane, number, count)
                if target.length == 0:
                    await asyncio.sleep(_PAUSE)  # nothing is measured by it
            except RangeNotSatisfiableError as error:
                # another lane asked past the end before anybody knew where that is
                target.at, target.length = 0, error.length
                await asyncio.sleep(_PAUSE)
            except BorrowedLinkSpentError:
                target.url = target.entry.urls[0]
                await asyncio.sleep(_PAUSE)
            except StatusError as error:
                if error.status not in _REFUSED:
                    raise
                count.refused += 1
                await asyncio.sleep(_PAUSE)
            except NetworkError:
                if number == 1:
                    raise
                # beside others that bring bytes it is one too many
                count.refused += 1
                await asyncio.sleep(_PAUSE)

    async def _part(self, target: _Target, lane: int, number: int, count: _Count) -> None:
        clock = asyncio.get_running_loop().time
        if target.length is not None and target.at >= target.length:
            target.at = 0
        pace = self._pace or _PARTS[0]
        size = int(min(max(pace * _PART_SECONDS, _PARTS[0]), _PARTS[1]))
        start, target.at = target.at, target.at + size
        request = Request(
            target.url, ByteRange(start, start + size), headers=target.entry.headers,
            borrowed=target.url != target.entry.urls[0], name=target.entry.path, sure=True,
        )  # fmt: skip
        asked = clock()
        async with self._transport.get(request) as reply:
            count.latencies.append(clock() - asked)
            target.length = reply.representation.length
            if not target.entry.headers:  # those are the link's own, and no redirect's
                target.url = reply.representation.url
            self.host = urls.host(reply.representation.url)
            while came := await reply.readinto(self._scratch):
                count.received += came
                self.received += came
                if self.received >= self._size:
                    self._spent.set()
                count.streaming.add(lane)
                if len(count.streaming) == number:
                    count.all_streaming.set()
                await self._spend(came)


def _raise_failure(workers: Sequence[asyncio.Task[None]]) -> None:
    for worker in workers:
        if worker.done() and not worker.cancelled() and (error := worker.exception()) is not None:
            assert isinstance(error, FetchError)
            raise error
