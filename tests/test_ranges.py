"""Tests of range sets against a model, a set of integers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch.model.ranges import ByteRange, RangeSet

spans = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda t: ByteRange(t[0], t[0] + t[1]))
sets = st.lists(spans, max_size=8).map(RangeSet.of)


def members(ranges: RangeSet) -> set[int]:
    return {i for r in ranges for i in range(r.start, r.stop)}


@given(sets, sets)
def test_union_difference_and_intersection_are_those_of_sets(a: RangeSet, b: RangeSet) -> None:
    assert members(a | b) == members(a) | members(b)
    assert members(a - b) == members(a) - members(b)
    assert members(a & b) == members(a) & members(b)


@given(sets, sets)
def test_equal_sets_compare_equal(a: RangeSet, b: RangeSet) -> None:
    assert (a == b) == (members(a) == members(b))


@given(sets)
def test_text_reads_back(a: RangeSet) -> None:
    assert RangeSet.parse(str(a)) == a
    assert len(a) == len(members(a))


@given(sets, st.integers(0, 90))
def test_frontier_and_before_count_gapless_bytes(a: RangeSet, offset: int) -> None:
    held = members(a)
    frontier = next(i for i in range(200) if i not in held)
    assert a.frontier == frontier
    run = 0
    while offset - run - 1 in held:
        run += 1
    assert a.before(offset) == run


@pytest.mark.parametrize("text", ["5-5", "9-3", "x-y", "1", "-4"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        RangeSet.parse(text)
