"""The search for the best level of a host: which level to measure next. No I/O and no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .levels import PAYS, Level, Point, best

MIB: Final = 1 << 20
# Part sizes that are compared with automatic ones, at the best number of connections.
_PARTS: Final = (1 * MIB, 4 * MIB, 16 * MIB, 64 * MIB)
# Factor between two numbers of connections while goodput grows.
_STEP: Final = 4
# Ratio of two neighbouring numbers of connections between which no other is measured: above the best number,
# where a host may refuse or collapse just below the next one, and below it, where only a few connections
# could be saved.
_CLOSE_ABOVE: Final = 1.1
_CLOSE_BELOW: Final = 1.5
# Factor by which a fixed part size must raise goodput to be worth a search of its own.
_PART_PAYS: Final = 1.1
# Ratio of the gains of two part sizes below which the smaller one is preferred: it ends a run sooner.
_ALIKE: Final = 1.02
# Parts for each connection that the files must have, so that a fixed part size is worth a look: with fewer, a
# run would end with idle connections.
_PARTS_EACH: Final = 4
# Share of a core from which the event loop is the limit.
BUSY: Final = 0.85
# Most levels that take part in the confirmation, beside auto.
_FINALISTS: Final = 5


def next_level(
    points: Sequence[Point],
    most: int,
    *,
    total: int | None = None,
    cores: int = 1,
    part_size: int | None = None,
) -> Level | None:
    """Return the level to measure next, None if the best level is found.

    Connections come first, with automatic parts. Then fixed part sizes are compared, at a number of
    connections that leaves the host capacity: at the best number, its limit would hide the difference. The
    two smallest are also compared where more connections brought nothing: the files may have had too few
    parts for them. If a part size is better, the number of connections is sought again with it: a host that
    begins each reply with a burst serves small parts over few connections best. More processes are tried
    where a core is the limit.

    Args:
        points: The measurements so far, of fixed numbers of connections.
        most: Largest number of connections to try.
        total: Bytes of all files, None if not known.
        cores: Processor cores that a run may use.
        part_size: Bytes of a part if no others are to be tried, else None.
    """
    single = [point for point in points if point.level.processes is None]
    if part_size is not None:
        number = next_number(single, most)
        return Level(number, part_size) if number else _more_processes(points, cores)
    auto = _with_part(single, None)
    if (number := next_number(auto, most)) is not None:
        return Level(number)
    base = _unsaturated(auto)
    level = _next_part(single, base.level, _PARTS, total)
    if level is not None:
        return level
    wide = _plateau(auto)
    if wide and (level := _next_small(single, wide.level)) is not None:
        return level
    better = _better_part(single, [base, *([wide] if wide else [])])
    if better is not None:
        with_part = _with_part(single, better)
        if (number := next_number(with_part, most)) is not None:
            return Level(number, better)
        level = _next_part(single, best(with_part).level, (better // 2, better * 2), total)
    return level or _more_processes(points, cores)


def _unsaturated(auto: Sequence[Point]) -> Point:
    """Return the measurement next below the best number of connections, the best one if there is none."""
    top = best(auto)
    below = [point for point in auto if (point.level.connections or 0) < (top.level.connections or 0)]
    return max(below, key=lambda point: point.level.connections or 0, default=top)


def _plateau(auto: Sequence[Point]) -> Point | None:
    """Return the measurement next above the best number of connections, None if it is refused or worse."""
    top = best(auto).level.connections or 0
    above = [point for point in auto if (point.level.connections or 0) > top]
    found = min(above, key=lambda point: point.level.connections or 0, default=None)
    return None if found is None or _is_worse(auto, found.level.connections or 0) else found


def _next_small(points: Sequence[Point], level: Level) -> Level | None:
    """Return `level` with the first of the two smallest part sizes that was not measured yet."""
    known = {point.level for point in points}
    small = (replace(level, part_size=part) for part in _PARTS[:2])
    return next((each for each in small if each not in known), None)


def _better_part(points: Sequence[Point], bases: Sequence[Point]) -> int | None:
    """Return the part size that gains most over automatic parts, with the connections of one of `bases`.

    Return None if none of them gains enough.
    """
    gains = [
        (point.goodput / base.goodput, point.level.part_size or 0)
        for base in bases
        for point in points
        if point.level.connections == base.level.connections and base.goodput and not point.is_refused
    ]
    most = max((gain for gain, _ in gains), default=0.0)
    if most < _PART_PAYS:
        return None
    return min(part for gain, part in gains if gain * _ALIKE >= most and part)


def _with_part(points: Sequence[Point], part: int | None) -> list[Point]:
    return [point for point in points if point.level.part_size == part]


def _next_part(
    points: Sequence[Point], level: Level, parts: Sequence[int], total: int | None
) -> Level | None:
    """Return `level` with the first of `parts` that was not measured yet at any number of connections."""
    assert level.connections is not None
    known = {point.level.part_size for point in points}
    widest = _PARTS[-1] if total is None else total // (_PARTS_EACH * level.connections)
    for part in parts:
        if part not in known and _PARTS[0] <= part <= max(widest, _PARTS[0]):
            return replace(level, part_size=part)
    return None


def _more_processes(points: Sequence[Point], cores: int) -> Level | None:
    top = best(points)
    count = 2 * (top.level.processes or 1)
    level = replace(top.level, processes=count)
    known = {point.level for point in points}
    return level if top.busy >= BUSY and count <= cores and level not in known else None


def next_number(points: Sequence[Point], most: int) -> int | None:
    """Return the number of connections to measure next, None if the best number is found.

    The number grows fourfold while that pays. Then the intervals above and below the best number are divided
    until they are small.

    Args:
        points: The measurements so far, all with the same part size.
        most: Largest number of connections to try.
    """
    if not points:
        return 1
    numbers = sorted({point.level.connections or 0 for point in points})
    top = best(points).level.connections or 1
    above = [number for number in numbers if number > top]
    if not above and top < most:
        return min(top * _STEP, most)
    if above and above[0] > top * _CLOSE_ABOVE and above[0] > top + 1 and _is_worse(points, above[0]):
        return _between(top, above[0])
    below = [number for number in numbers if number < top]
    if not below and top > 1:
        return max(1, top // _STEP)
    if below and top > below[-1] * _CLOSE_BELOW and top > below[-1] + 1:
        return _between(below[-1], top)
    return None


def _is_worse(points: Sequence[Point], number: int) -> bool:
    """Return whether `number` connections are worse than the best number, and not only no better."""
    point = next(point for point in points if point.level.connections == number)
    return point.is_refused or point.goodput * PAYS < best(points).goodput


def _between(low: int, high: int) -> int:
    return min(max(round(math.sqrt(low * high)), low + 1), high - 1)


def finalists(points: Sequence[Point], most: int) -> list[Level]:
    """Return the levels that take part in the confirmation: the best one first, then its rivals.

    Rivals are the best level with automatic parts, levels with fewer or more connections and the same parts,
    and other part sizes, those that came closest first.

    Args:
        points: The measurements so far, of fixed numbers of connections.
        most: Largest number of connections to try.
    """
    top = best(points)
    auto = _with_part([point for point in points if point.level.processes is None], None)
    found = [top.level, *([best(auto).level] if auto else []), *_fewer_and_more(points, top.level, most)]
    others = [p for p in points if p.level.part_size != top.level.part_size and not p.is_refused]
    found += [point.level for point in sorted(others, key=lambda point: -point.goodput)]
    return list(dict.fromkeys(found))[:_FINALISTS]


def _fewer_and_more(points: Sequence[Point], level: Level, most: int) -> list[Level]:
    """Return `level` with the nearest numbers of connections that may serve as well."""
    number = level.connections or 1
    refused = {p.level.connections or 0 for p in points if p.is_refused}
    near = {max(1, number * 7 // 8), min(most, max(number + 1, number * 9 // 8))} - {number}
    return [
        replace(level, connections=each)
        for each in sorted(near)
        if not any(each >= limit > number for limit in refused)
    ]
