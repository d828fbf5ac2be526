"""Measure a real host: find the number of connections and the part size that suit it best."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ..assembly import reach_of, rows_of
from ..connections.pool import most_connections
from ..model import urls
from ..model.entry import Entry
from ..model.errors import ManifestError, TransferError
from ..model.profile import Profile
from ..model.report import JSON_VERSION
from ..model.settings import Settings
from ..options import PlainOptions
from ..workers.reach import transport_of
from .sweep import Point, Sweep, best

if TYPE_CHECKING:
    from ..assembly import AnyManifest

# Files that are fetched from, in turn.
_ENTRIES: Final = 64
# Rows of the manifest that are read to find them.
_LOOKED_AT: Final = 10_000
# Smallest and largest part size that is recommended, in bytes.
_PART: Final = (4 << 20, 64 << 20)
# Seconds that a part should take.
_PART_SECONDS: Final = 4.0
# Latencies that a part should last, so that the time of its request is negligible.
_ROUND_TRIPS: Final = 50


@dataclass(frozen=True, slots=True)
class Bench:
    """The result of a measurement.

    Attributes:
        host: `host:port`.
        points: The measurements, sorted by connections.
        best: The best of them.
        part_size: Recommended part size in bytes.
        received: Bytes that were fetched for the measurement.
        ended: Why it ended before the best number was found, empty if the number was found.
    """

    host: str
    points: tuple[Point, ...]
    best: Point
    part_size: int
    received: int
    ended: str

    @property
    def profile(self) -> Profile:
        """The profile to save for later runs."""
        return Profile(self.best.connections, self.part_size, round(self.best.goodput), time.time())

    def row(self) -> dict[str, Any]:
        """Return the result as a JSON-serializable dict, for `--json`."""
        return {
            "version": JSON_VERSION,
            "host": self.host,
            "best": self.best.row(),
            "part_size": self.part_size,
            "points": [point.row() for point in self.points],
            "bytes_received": self.received,
            "ended": self.ended or None,
        }


async def measure(
    manifest: AnyManifest,
    options: PlainOptions,
    *,
    size: int,
    seconds: float,
    tell: Callable[[Point], None] = lambda _: None,
) -> Bench:
    """Find the best number of connections to the host of the manifest's first files.

    The fetched bytes are discarded.

    Args:
        manifest: A SOURCE, a list of them, or entries.
        options: Options as for `fetch_all`.
        size: Bytes to fetch at most, approximately.
        seconds: Seconds to take at most, approximately.
        tell: Called with each point as soon as it is measured.

    Raises:
        ManifestError: The manifest has no row that names a file.
        SettingsError: An option is invalid.
        TransferError: The host sends no bytes.
    """
    settings = options.get("settings") or Settings()
    reach = reach_of(settings, options)
    entries = await asyncio.to_thread(_first_entries, manifest, options)
    if not entries:
        raise ManifestError("nothing to measure: the manifest has no row that names a file")
    host = urls.host(entries[0].urls[0])
    same = [entry for entry in entries if urls.host(entry.urls[0]) == host]
    # large files first: with small files, the cost of requests would be measured instead of the bandwidth
    chosen = sorted(same, key=lambda entry: -(entry.size or 0))[:_ENTRIES]
    limits = settings.limits
    most = most_connections(limits)
    most = most if limits.per_host == "auto" else min(most, limits.per_host)
    async with transport_of(settings, reach) as transport:
        sweep = Sweep(transport, chosen, most=most, size=size, seconds=seconds, limits=limits, tell=tell)
        points = await sweep.run()
    if not sweep.received:
        raise TransferError(f"{sweep.host} has sent no byte: run bench with a larger file from this host")
    top = best(points)
    return Bench(
        host=sweep.host,
        points=tuple(sorted(points, key=lambda point: point.connections)),
        best=top,
        part_size=_part_size(top),
        received=sweep.received,
        ended=sweep.ended,
    )


def _first_entries(manifest: AnyManifest, options: PlainOptions) -> list[Entry]:
    rows = rows_of(manifest, options).rows
    assert not isinstance(rows, AsyncIterable)
    return [row for row in islice(rows, _LOOKED_AT) if isinstance(row, Entry)]


def _part_size(point: Point) -> int:
    """Return the part size in bytes that lasts four seconds or 50 latencies, whichever is longer."""
    pace = point.goodput / point.connections
    lasts = max(_PART_SECONDS, _ROUND_TRIPS * point.latency)
    return int(min(max(pace * lasts, _PART[0]), _PART[1])) >> 20 << 20
