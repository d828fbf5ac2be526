"""Tests of the decision whether the processor is the limit."""

from __future__ import annotations

import pytest

from osp_fetch.connections.processor import Load, Processor, Times
from osp_fetch.processor import processor_times


def load(loop: float, own: float, idle: float | None, cores: int = 2) -> Load:
    """Return the decision after a second with constant shares: of one core, of one core, of all cores."""
    processor, found = Processor(), Load.LOW
    for step in range(21):
        now = step * 0.05
        counted = None if idle is None else idle * cores * now
        found = processor.load(Times(now, loop * now, own * now, counted, cores))
    return found


@pytest.mark.parametrize(
    ("loop", "own", "idle", "cores", "expected"),
    [
        (0.3, 1.1, 0.01, 2, Load.FULL),
        (0.3, 1.1, 0.20, 2, Load.HIGH),
        (0.3, 1.1, 0.40, 2, Load.LOW),  # most of a core is free
        (0.98, 1.1, 0.90, 64, Load.FULL),  # the event loop has one core, and no more
        (0.3, 0.2, 0.00, 2, Load.LOW),  # others use the cores, and this process waits for something else
        (0.3, 1.9, None, 2, Load.LOW),  # the system does not tell
        (0.99, 1.0, None, 2, Load.FULL),
    ],
)
def test_the_processor_is_the_limit_if_it_is_busy_with_this_process(
    loop: float, own: float, idle: float | None, cores: int, expected: Load
) -> None:
    assert load(loop, own, idle, cores) is expected


def test_nothing_is_concluded_from_a_moment() -> None:
    processor = Processor()
    assert processor.load(Times(0.0, 0.0, 0.0, 0.0, 2)) is Load.LOW
    assert processor.load(Times(0.05, 0.05, 0.1, 0.0, 2)) is Load.LOW


def test_the_times_of_this_machine_grow_with_the_work() -> None:
    before = processor_times()
    sum(n * n for n in range(200_000))
    after = processor_times()
    assert after.now > before.now
    assert before.own < after.own
    assert before.loop < after.loop
    assert after.cores >= 1
