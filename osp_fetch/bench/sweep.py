"""Sweep: measure the goodput of a host with one number of connections after another. Bytes are discarded."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ..concurrency import stop
from ..connections.exchange import Exchange
from ..connections.pool import ConnectionPool
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
from ..model.settings import Limits

# Factor by which goodput must grow for more connections to count as better.
_PAYS: Final = 1.05
# Seconds to wait until all connections are transferring.
_MADE: Final = 2.0
# Seconds that one number of connections is measured for.
_WINDOW: Final = 1.0
# The window is extended until each connection has transferred _BYTES, but to at most this many seconds.
_LONGEST: Final = 3.0
_BYTES: Final = 256 << 10
# Seconds that a part should take.
_PART_SECONDS: Final = 2.0
# Smallest and largest part, in bytes.
_PARTS: Final = (1 << 20, 64 << 20)
# HTTP statuses by which a host refuses a connection.
_REFUSED: Final = frozenset({429, 503})
# Seconds to wait after a refusal.
_PAUSE: Final = 0.2
# One number of connections may use 1/8 of the bytes allowed.
_SHARE: Final = 8
# Bytes of the one buffer that every connection receives into. Its contents are never read.
_SCRATCH: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Point:
    """The measurement of one number of connections.

    Attributes:
        connections: Number of connections.
        goodput: Bytes per second of all connections together.
        latency: Median seconds from a request to the head of its reply.
        refused: Number of requests that the host refused.
        seconds: Duration of the measurement in seconds.
    """

    connections: int
    goodput: float
    latency: float
    refused: int
    seconds: float

    def row(self) -> dict[str, float]:
        """Return the point as a JSON-serializable dict, for `--json`."""
        return {
            "connections": self.connections,
            "bytes_per_second": round(self.goodput),
            "latency_seconds": round(self.latency, 4),
            "refused": self.refused,
            "seconds": round(self.seconds, 2),
        }


def best(points: Sequence[Point]) -> Point:
    """Return the point with the fewest connections whose goodput is within 5 % of the highest.

    Points with refused requests are only considered if there are no others.

    Args:
        points: The measurements; at least one.
    """
    served = [point for point in points if not point.refused] or list(points)
    most = max(point.goodput for point in served)
    return min(
        (point for point in served if point.goodput * _PAYS >= most), key=lambda point: point.connections
    )


def next_number(points: Sequence[Point], most: int) -> int | None:
    """Return the number of connections to measure next, None if the best number is found.

    The number doubles while goodput grows. Then the interval between the best number and the next larger
    measured one is bisected.

    Args:
        points: The measurements so far.
        most: Largest number of connections to try.
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
    """A file to fetch parts from: the current link, the length if known, and the next offset in bytes."""

    entry: Entry
    url: str
    length: int | None
    at: int = 0


@dataclass(slots=True)
class _Count:
    """Counters while one number of connections is measured."""

    streaming: set[int] = field(default_factory=set)
    all_streaming: asyncio.Event = field(default_factory=asyncio.Event)
    latencies: list[float] = field(default_factory=list)
    received: int = 0
    refused: int = 0


class Sweep:
    """Searches for the number of connections that serves one host best.

    Args:
        transport: Sends the requests.
        entries: Files of the host to fetch parts from; at least one.
        most: Largest number of connections to try.
        size: Bytes to fetch at most, approximately.
        seconds: Seconds to take at most, approximately.
        limits: Of the run that is measured for; the number of connections is set for each measurement.
        tell: Called with each point as soon as it is measured.

    Attributes:
        received: Bytes received so far.
        host: `host:port` that sends the bytes, after redirects.
        points: The measurements so far, in the order in which they were made.
        ended: Why the search ended before the best number was found, empty if the number was found.
    """

    def __init__(
        self,
        transport: Transport,
        entries: Sequence[Entry],
        *,
        most: int,
        size: int,
        seconds: float,
        limits: Limits,
        tell: Callable[[Point], None],
    ) -> None:
        self._transport, self._most, self._limits, self._tell = transport, most, limits, tell
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._targets = itertools.cycle([_Target(entry, entry.urls[0], entry.size) for entry in entries])
        self._size, self._seconds = size, seconds
        self.received = 0
        self._spent = asyncio.Event()  # set when all allowed bytes have been fetched
        self._pace: float | None = None
        self.host = urls.host(entries[0].urls[0])
        self.points: list[Point] = []
        self.ended = ""

    async def run(self) -> list[Point]:
        """Measure until the best number is found, or the bytes or seconds allowed are used up.

        Returns:
            The measurements in the order in which they were made.

        Raises:
            FetchError: The first measurement failed. Later failures end the search (see `ended`).
        """
        clock = asyncio.get_running_loop().time
        until = clock() + self._seconds
        while (number := next_number(self.points, self._most)) is not None:
            if self.points and self.received >= self._size:
                self.ended = "the bytes allowed were used up"
                break
            if self.points and clock() + _WINDOW > until:
                self.ended = "the time allowed was used up"
                break
            try:
                point = await self._measure(number)
            except FetchError as error:
                if not self.points:
                    raise
                self.ended = f"the measurement with {number} connections failed: {error}"
                break
            self.points.append(point)
            self._tell(point)
        return self.points

    async def _measure(self, number: int) -> Point:
        clock = asyncio.get_running_loop().time
        opened, count = clock(), _Count()
        pool = ConnectionPool(replace(self._limits, connections=number, per_host=number))
        made = asyncio.ensure_future(count.all_streaming.wait())
        spent = asyncio.ensure_future(self._spent.wait())
        workers = [asyncio.create_task(self._work(lane, number, count, pool)) for lane in range(number)]
        try:
            await asyncio.wait({made, spent, *workers}, timeout=_MADE, return_when=asyncio.FIRST_COMPLETED)
            # refusals up to here may be caused by connections of the previous number that are still closing
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
        if past < _WINDOW / 10:  # the allowed bytes ran out early: use the whole time, opening included
            past, came = clock() - opened, count.received
        goodput = came / past
        self._pace = goodput / number or self._pace
        latency = statistics.median(count.latencies) if count.latencies else 0.0
        return Point(number, goodput, latency, count.refused, past)

    async def _work(self, lane: int, number: int, count: _Count, pool: ConnectionPool) -> None:
        """Fetch and discard parts until cancelled. Raise FetchError if the host does not serve the file."""
        while True:
            target = next(self._targets)
            try:
                await self._part(target, lane, number, count, pool)
                if target.length == 0:
                    await asyncio.sleep(_PAUSE)  # an empty file measures nothing
            except RangeNotSatisfiableError as error:
                # a request went past the end of the file before any reply had stated the length
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
                # while other connections are served, an error means that this one is too many
                count.refused += 1
                await asyncio.sleep(_PAUSE)

    async def _part(
        self, target: _Target, lane: int, number: int, count: _Count, pool: ConnectionPool
    ) -> None:
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
        exchange = Exchange(
            pool, self._transport, lambda _: None, urls.host(target.url), lane, target.entry.path
        )
        async with exchange:
            asked = clock()
            reply = await exchange.send(request)
            count.latencies.append(clock() - asked)
            target.length = reply.representation.length
            if not target.entry.headers:  # an entry's own headers must not go to a redirect's host
                target.url = reply.representation.url
            self.host = urls.host(reply.representation.url)
            while came := await exchange.readinto(self._scratch):
                count.received += came
                self.received += came
                if self.received >= self._size:
                    self._spent.set()
                count.streaming.add(lane)
                if len(count.streaming) == number:
                    count.all_streaming.set()


def _raise_failure(workers: Sequence[asyncio.Task[None]]) -> None:
    for worker in workers:
        if worker.done() and not worker.cancelled() and (error := worker.exception()) is not None:
            assert isinstance(error, FetchError)
            raise error
