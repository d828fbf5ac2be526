"""Tests of the concurrency limit: it finds the number of connections for hosts of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from osp_fetch.connections.controller import LOOK, Controller
from osp_fetch.connections.limit import ConcurrencyLimit
from osp_fetch.connections.processor import Load

MB = 1e6


def simulate(
    goodput: Callable[[int], float],
    *,
    brisk: bool = False,
    most: int = 128,
    seconds: float = 60,
    refuse_above: int | None = None,
) -> tuple[ConcurrencyLimit, float]:
    """Run a concurrency limit against a simulated host.

    Args:
        goodput: The bytes per second that the host serves over a number of connections.
        brisk: Whether each connection completes several files in a sample.
        most: The largest allowed number of connections.
        seconds: The simulated time.
        refuse_above: The number of connections above which the host refuses.

    Returns:
        The limit, and the bytes received.
    """
    level, now, total, brought = ConcurrencyLimit(most), 0.0, 0.0, 0
    while now < seconds:
        open_now = level.value
        while refuse_above is not None and open_now > refuse_above:
            open_now -= 1
            level.refused(now, open_now, streaming=True)
        rate = goodput(open_now)
        total += rate * 0.3
        now += 0.3
        level.sample(now, rate, full=True, brisk=brisk)
        brought = open_now
    assert brought
    return level, total


@pytest.mark.parametrize("brisk", [False, True])
def test_a_host_that_shapes_by_connection_gets_all_that_may_be(*, brisk: bool) -> None:
    level, _ = simulate(lambda n: n * 10 * MB, brisk=brisk)
    assert level.value == 128


@pytest.mark.parametrize("brisk", [False, True])
def test_a_link_is_filled_and_no_more_is_opened_than_that_takes(*, brisk: bool) -> None:
    level, total = simulate(lambda n: min(n * 0.75 * MB, 25 * MB), brisk=brisk)
    assert 32 <= level.value <= 48
    assert total >= 0.9 * 25 * MB * 60


def test_one_connection_that_fills_the_link_stays_with_few() -> None:
    level, _ = simulate(lambda n: 100 * MB)
    assert level.value <= 16


@pytest.mark.parametrize("brisk", [False, True])
def test_a_collapse_is_left_at_once_and_the_best_is_found_below_it(*, brisk: bool) -> None:
    level, total = simulate(lambda n: n * MB if n <= 24 else n * MB / 10, brisk=brisk)
    assert 20 <= level.value <= 24
    assert total >= 0.85 * 24 * MB * 60


@pytest.mark.parametrize("brisk", [False, True])
def test_what_a_refusal_leaves_is_taken(*, brisk: bool) -> None:
    level, total = simulate(lambda n: n * MB, refuse_above=12, brisk=brisk)
    assert 12 <= level.value <= 13
    assert total >= 0.9 * 12 * MB * 60


@pytest.mark.parametrize("most", [1, 2, 5])
def test_what_may_not_be_exceeded_is_not(most: int) -> None:
    level, _ = simulate(lambda n: n * MB, most=most)
    assert level.value == most


def test_a_host_that_slows_down_is_not_held_to_its_past() -> None:
    level = ConcurrencyLimit(64)
    now = 0.0
    for _ in range(40):
        now += 0.3
        level.sample(now, min(level.value, 32) * MB, full=True)
    assert level.value >= 32
    for _ in range(60):
        now += 0.3
        level.sample(now, 2 * MB, full=True)
    assert level.value < 32


def test_a_window_that_was_not_full_changes_nothing() -> None:
    level = ConcurrencyLimit(64)
    for n in range(20):
        assert level.sample(n, 1.0, full=False) is None
    assert level.value == 8


def test_a_doubling_that_gains_little_is_not_followed_by_another() -> None:
    """If a processor core is the bottleneck, noise makes one limit look a little better than the last."""
    level = ConcurrencyLimit(128)
    assert level.sample(0.2, 500 * MB, full=True)
    assert level.value == 16
    assert level.sample(0.4, 560 * MB, full=True)
    assert level.value == 20
    assert level.sample(0.6, 1200 * MB, full=True)
    assert level.value == 24  # steps are a quarter of the known good limit now, even after a large gain


@pytest.mark.parametrize("load", [Load.HIGH, Load.FULL])
def test_with_a_loaded_processor_a_step_has_to_bring_a_fifth_more(load: Load) -> None:
    level = ConcurrencyLimit(128)
    level.sample(0.3, 500 * MB, full=True)
    assert level.value == 16
    level.sample(0.6, 590 * MB, full=True, load=load)
    assert level.value == 8


def test_other_programs_that_load_the_processor_do_not_undo_later_steps() -> None:
    level = ConcurrencyLimit(128)
    level.sample(0.3, 80 * MB, full=True)
    level.sample(0.6, 160 * MB, full=True)
    assert level.value == 32
    assert level.sample(0.9, 150 * MB, full=True, load=Load.FULL) is None
    assert level.value == 32


def test_a_host_that_shapes_by_connection_gets_more_until_the_processor_is_the_limit() -> None:
    level, now = ConcurrencyLimit(128), 0.0
    for _ in range(20):
        now += 0.3
        load = Load.FULL if level.value >= 64 else Load.HIGH
        level.sample(now, min(level.value, 80) * 10 * MB, full=True, load=load)
    assert level.value == 64


def test_while_the_processor_is_the_limit_no_step_begins() -> None:
    level = ConcurrencyLimit(128)
    for n in range(100):
        assert level.sample(n * 0.3, 500 * MB, full=True, load=Load.FULL) is None
    assert level.value == 8


def test_with_small_files_one_look_measures_the_goodput_of_a_limit() -> None:
    controller, seconds = Controller(ConcurrencyLimit(128)), 0.0
    found = []
    for _ in range(4):
        for step in range(1, 101):
            controller.answered(seconds + step * LOOK / 100, 0.001)
            # Each connection transfers the same amount.
            controller.received += 50_000 * controller.limit.value // 8
        seconds += LOOK
        controller.look(seconds, controller.limit.value, 0)
        found.append(controller.limit.value)
    assert found[0] == 8
    assert found[1] == 32
    assert found[3] == 128
