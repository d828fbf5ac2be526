"""Tests of receive buffers: their share of the memory limit, reuse, and size under a byte rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osp_fetch.connections.buffers import Buffers
from osp_fetch.connections.byte_rate import ByteRate
from osp_fetch.model.settings import Limits

MIB = 1 << 20


@given(st.integers(1, 400), st.integers(16 * MIB, 1 << 30))
def test_all_connections_together_stay_in_a_sixth_of_the_memory(connections: int, memory: int) -> None:
    buffers = Buffers(Limits(memory=memory))
    size = len(buffers.take(64 * MIB, connections))
    assert size == 64 << 10 or size * connections <= memory // 6
    assert 64 << 10 <= size <= 2 * MIB


def test_what_is_given_back_is_taken_again_while_its_size_fits() -> None:
    buffers = Buffers(Limits())
    first = buffers.take(64 * MIB, 16)
    buffers.give(first, 16)
    assert buffers.take(64 * MIB, 16) is first
    assert buffers.take(64 * MIB, 16) is not first
    buffers.give(first, 16)
    assert len(buffers.take(64 * MIB, 80)) < len(first)


def test_with_more_connections_each_makes_do_with_less() -> None:
    buffers = Buffers(Limits())
    large = buffers.take(64 * MIB, 4)
    assert buffers.fitted(large, 4) is large
    small = buffers.fitted(large, 64)
    assert len(small) == len(buffers.take(64 * MIB, 64)) < len(large)
    assert buffers.fitted(small, 4) is small


def test_a_small_part_gets_memory_of_its_own_size() -> None:
    assert len(Buffers(Limits()).take(50_000, 16)) == 50_000


def test_under_a_byte_rate_little_comes_at_once() -> None:
    assert len(Buffers(Limits(rate=4 * MIB)).take(64 * MIB, 1)) == MIB // 2
    assert len(Buffers(Limits(rate=1000)).take(64 * MIB, 1)) == 64 << 10


def test_the_buffers_follow_a_rate_that_changes() -> None:
    rate = ByteRate(0)
    buffers = Buffers(Limits(), rate)
    assert len(buffers.take(64 * MIB, 1)) == 2 * MIB
    rate.change(4 * MIB)
    assert len(buffers.take(64 * MIB, 1)) == MIB // 2
    rate.change(0)
    assert len(buffers.take(64 * MIB, 1)) == 2 * MIB
