"""The sentences in which `bench` says what it found: what to use, whether it helps, and what is the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from ..views import formatting
from .disk import DiskRates
from .levels import PAYS, Point, best
from .measure import Bench
from .search import BUSY

# Share of the network's rate from which another rate counts as the limit.
_LIMITS: Final = 0.9


def rate(value: float) -> str:
    """Return bytes per second as text."""
    return f"{formatting.size(value)}/s"


def spread(point: Point) -> str:
    """Return half the confidence interval of a point as text, empty if one window was measured."""
    low, high = point.interval
    return f"± {rate((high - low) / 2)}" if math.isfinite(high) else ""


def sentences(found: Bench) -> Iterator[str]:
    """Yield the result in sentences.

    Args:
        found: The result.
    """
    yield f"recommended: {found.best.level.flags}, which gave {rate(found.best.goodput)} {spread(found.best)}"
    yield against_auto(found)
    if found.confirmed and found.ended:
        yield f"The search ended early, because {found.ended}: allow more with --bytes or --time"
    if found.drifted:
        change = "faster" if found.drift > 1 else "slower"
        yield (
            f"The host became {change} during the measurement, by a factor of {found.drift:.2f}: repeat it "
            "at the time of day of the run"
        )
    if found.best.is_refused:
        yield "The host refused requests at every number of connections that was measured"
    if not found.best.steady:
        yield "The rate was not steady: it changed by more than a tenth within seconds"
    yield limit(found)


def against_auto(found: Bench) -> str:
    """Return how the recommended settings compare with automatic ones."""
    if not found.confirmed or found.auto is None or found.gain is None:
        why = found.ended or "it was not measured against auto"
        return f"not confirmed: {why}. Better settings may exist; allow more with --bytes or --time"
    after = sum(look.after for look in found.auto.looks) / len(found.auto.looks)
    if found.helps:
        others = " and its neighbours" if found.neighbours else ""
        return (
            f"confirmed in turns with auto{others}: {found.gain:.2f} times as fast as auto "
            f"({rate(found.auto.goodput)} {spread(found.auto)})"
        )
    share = 100 / found.gain
    if found.gain >= PAYS:
        return (
            f"{found.gain:.2f} times as fast as auto in the mean, but not in every round: the difference may "
            "be chance"
        )
    return f"auto needs no help: after {after:.0f} s it gives {share:.0f} % of this rate by itself"


def limit(found: Bench) -> str:
    """Return which of network, disk and processor is the limit, as far as it was measured."""
    if found.is_held_back:
        return (
            f"--limit-rate allows {rate(found.allowed or 0)}: it is the limit, and what this host gives is "
            "not known; measure without it"
        )
    if found.disk is None or not found.network:
        what = "written and verified" if found.writes else "over the network alone"
        core = "; one core is busy: the processor is the limit" if found.best.busy >= BUSY else ""
        return f"{what}, this host gives {from_up(found.points, found.best)}{core}"
    network = best(found.network)
    host = f"this host gives {from_up(found.network, network)}"
    return f"{host}; {_limited(found, network, found.disk)}"


def _limited(found: Bench, alone: Point, disk: DiskRates) -> str:
    digest, network = disk.hashing["sha256"], alone.goodput
    if disk.write < network * _LIMITS and disk.write <= digest:
        return f"your disk takes {rate(disk.write)}: it is the limit"
    if digest < network * _LIMITS:
        return f"one core hashes {rate(digest)}: it is the limit of a single file; several files share cores"
    if found.best.goodput < network * _LIMITS and found.best.interval[1] < alone.interval[0]:
        if found.best.busy >= BUSY:
            return "one core is busy: the processor is the limit"
        return (
            f"your disk takes {rate(disk.write)}, but receiving, writing and hashing together give "
            f"{rate(found.best.goodput)}: this machine is the limit"
        )
    return f"your disk takes {rate(disk.write)}: the host is the limit"


def from_up(points: Sequence[Point], top: Point) -> str:
    """Return the rate of `top` and the connections that it needs, such as `1.2 GiB/s from 24 connections up`.

    Args:
        points: All measurements.
        top: The one with the fewest connections among the best.
    """
    number = top.level.connections or 0
    same = [p for p in points if p.level.part_size == top.level.part_size]
    above = [p for p in same if (p.level.connections or 0) > number]
    connections = formatting.count(number, "connection")
    if any(p.goodput * PAYS >= top.goodput and not p.is_refused for p in above):
        return f"{rate(top.goodput)} from {connections} up"
    if any(p.is_refused for p in above):
        return f"{rate(top.goodput)} with {connections}, and refuses more"
    if above:
        return f"{rate(top.goodput)} with {connections}, and less with more"
    return f"{rate(top.goodput)} with {connections}, the most that were tried"


def disk_lines(disk: DiskRates) -> Iterator[str]:
    """Yield the rates of a disk and of the digests as lines.

    Args:
        disk: The rates.
    """
    sync = f"{disk.sync * 1e3:.1f} ms"
    yield f"{disk.folder}: writes and syncs {rate(disk.write)}; a small file is synced in {sync}"
    yield "one core hashes: " + ", ".join(f"{name} {rate(value)}" for name, value in disk.hashing.items())
