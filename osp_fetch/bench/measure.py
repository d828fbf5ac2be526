"""Measuring a real host: which settings serve it best, within so many bytes and seconds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ..api import FetchOptions, reach_of, rows_of
from ..connections.pool import ConnectionPool, most_connections
from ..model import urls
from ..model.entry import Entry
from ..model.errors import ManifestError, TransferError
from ..model.profile import Profile
from ..model.settings import Settings
from ..workers.reach import transport_of
from .sweep import Point, Sweep, best

if TYPE_CHECKING:
    from ..api import AnyManifest

_ENTRIES: Final = 64  # files that are fetched from, in turn
_LOOKED_AT: Final = 10_000  # rows
_PART: Final = (4 << 20, 64 << 20)
_PART_SECONDS: Final = 4.0
_ROUND_TRIPS: Final = 50  # that a part should last, so that asking for it is lost in it


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured of `host`: the points by number of connections, and the best. `ended`: why it
    ended before the best was found, empty where it was."""

    host: str
    points: tuple[Point, ...]
    best: Point
    part_size: int
    received: int
    ended: str

    @property
    def profile(self) -> Profile:
        """What is worth keeping."""
        return Profile(self.best.connections, self.part_size, round(self.best.goodput), time.time())

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "host": self.host,
            "best": self.best.row(),
            "part_size": self.part_size,
            "points": [point.row() for point in self.points],
            "bytes_received": self.received,
            "ended": self.ended or None,
        }


async def measure(
    manifest: AnyManifest,
    options: FetchOptions,
    *,
    size: int,
    seconds: float,
    tell: Callable[[Point], None] = lambda _: None,
) -> Bench:
    """Find the best number of connections to the host of `manifest`'s first files.

    Fetches about `size` bytes for about `seconds` and keeps none. `tell` is called with each point.
    Raises ManifestError where there is nothing to fetch, TransferError where the host gives nothing.
    """
    settings = options.get("settings") or Settings()
    rows = rows_of(manifest, options).rows
    assert not isinstance(rows, AsyncIterable)
    entries = [row for row in islice(rows, _LOOKED_AT) if isinstance(row, Entry)]
    if not entries:
        raise ManifestError("nothing to bench: the manifest has no row that names a file")
    host = urls.host(entries[0].urls[0])
    same = [entry for entry in entries if urls.host(entry.urls[0]) == host]
    # large ones first: with small files it is requests that are measured
    chosen = sorted(same, key=lambda entry: -(entry.size or 0))[:_ENTRIES]
    limits = settings.limits
    most = most_connections(limits)
    most = most if limits.per_host == "auto" else min(most, limits.per_host)
    async with transport_of(settings, reach_of(options)) as transport:
        spend = ConnectionPool(limits).spend
        sweep = Sweep(transport, chosen, most=most, size=size, seconds=seconds, spend=spend, tell=tell)
        points = await sweep.run()
    if not sweep.received:
        raise TransferError(f"{sweep.host} has sent no byte: bench a larger file of it")
    top = best(points)
    return Bench(
        host=sweep.host,
        points=tuple(sorted(points, key=lambda point: point.connections)),
        best=top,
        part_size=_part_size(top),
        received=sweep.received,
        ended=sweep.ended,
    )


def _part_size(point: Point) -> int:
    """Bytes of a part that last for four seconds, and for so long that a round trip is lost in it."""
    pace = point.goodput / point.connections
    lasts = max(_PART_SECONDS, _ROUND_TRIPS * point.latency)
    return int(min(max(pace * lasts, _PART[0]), _PART[1])) >> 20 << 20
