"""Tests of the detection of slow connections, in simulated time."""

from __future__ import annotations

import random

import pytest

from osp_fetch.connections.throughput import Throughput

MB = 1e6
MIB = 1 << 20


def known(*paces: float, connections: int = 8) -> Throughput:
    throughput = Throughput()
    for pace in paces:
        throughput.measured(int(4 * pace), 4.0, connections)
    return throughput


def test_a_connection_is_compared_with_the_better_ones() -> None:
    # reported of a hub: two thirds of the connections at 8.7 MB/s, the others at 68
    throughput = known(*[8.7 * MB] * 11, *[68 * MB] * 5)
    assert throughput.lagging(8.7 * MB, 8, 0.0)
    assert not throughput.lagging(68 * MB, 8, 0.0)
    assert not throughput.lagging(30 * MB, 8, 0.0)


@pytest.mark.parametrize(
    ("free", "connections", "size"),
    [(None, 8, 8 * MIB), (500 * MIB, 8, 8 * MIB), (32 * MIB, 8, 2 * MIB), (32 * MIB, 64, MIB), (9, 8, MIB)],
)
def test_parts_of_a_host_that_nothing_is_known_of_are_shares_of_the_rest(
    free: int | None, connections: int, size: int
) -> None:
    assert Throughput().part_size(free, connections, 0.5) == size


def test_a_link_that_is_shared_by_more_connections_is_not_a_slow_connection() -> None:
    throughput = known(*[100 * MB] * 16, connections=1)
    assert not throughput.lagging(8 * MB, 12, 0.0)
    assert throughput.lagging(8 * MB, 2, 0.0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_is_concluded_from_few_measurements(count: int) -> None:
    assert not known(*[68 * MB] * count).lagging(1.0, 1, 0.0)


def test_each_slot_gets_at_most_one_fresh_connection_in_thirty_seconds() -> None:
    throughput, made = known(*[68 * MB] * 16), 0
    for tenth in range(300):
        if throughput.lagging(MB, 4, tenth / 10):
            throughput.replaced(tenth / 10)
            throughput.measured(int(68 * MB), 1.0, 4)  # it helps
            made += 1
    assert made == 4


def test_none_is_made_any_more_where_it_does_not_help() -> None:
    throughput, made = known(*[68 * MB] * 16), 0
    for second in range(600):
        throughput.measured(int(68 * MB), 1.0, 4) if second < 1 else None
        if throughput.lagging(MB, 4, second):
            throughput.replaced(second)
            made += 1
    assert made <= 20, "about nine, and as many after five minutes"


@pytest.mark.parametrize("seed", range(5))
def test_slots_end_up_on_the_better_servers(seed: int) -> None:
    """Simulate a load balancer that gives 30 % of connections eight times the pace of the others."""
    chance = random.Random(seed)

    def connect() -> float:
        return 68 * MB if chance.random() < 0.3 else 8.7 * MB

    throughput, slots = Throughput(), [connect() for _ in range(16)]
    moved = 0.0
    for second in range(0, 300, 3):
        for slot, pace in enumerate(slots):
            throughput.measured(int(3 * pace), 3.0, 16)
            if throughput.lagging(pace, 16, second):
                throughput.replaced(second)
                slots[slot] = connect()
            moved += 3 * pace
    assert sum(pace > 60 * MB for pace in slots) >= 14
    assert moved > 2 * 300 * 16 * (0.3 * 68 + 0.7 * 8.7) * MB
