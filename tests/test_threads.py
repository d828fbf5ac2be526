"""Tests of disk lookups: slow ones are shared among threads, fast ones are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from osp_fetch.storage.folder.executors import Sharers


@pytest.fixture
def sharers() -> Iterator[Sharers]:
    made = Sharers()
    yield made
    made.close()


def test_a_slow_disk_is_asked_by_several_threads_and_answers_in_order(sharers: Sharers) -> None:
    """On a network file system one lookup takes half a millisecond, for each of a million files."""
    asked: set[int] = set()
    several = threading.Event()

    def look(item: int) -> int:
        asked.add(threading.get_ident())
        if len(asked) >= 3:
            several.set()
        # The first lookups take as long as on a slow disk; the others wait for a third thread.
        time.sleep(0.001) if len(asked) == 1 else several.wait(20)
        return item * item

    assert sharers.each(look, range(500)) == [n * n for n in range(500)]
    assert several.is_set()


def test_few_are_not_worth_a_hand_over(sharers: Sharers) -> None:
    asked: set[int] = set()

    def look(_: int) -> None:
        asked.add(threading.get_ident())
        time.sleep(0.003)

    sharers.each(look, range(5))
    assert asked == {threading.get_ident()}


def test_what_one_raises_is_raised(sharers: Sharers) -> None:
    def look(item: int) -> None:
        time.sleep(0.001)
        if item == 90:
            raise PermissionError(item)

    with pytest.raises(PermissionError):
        sharers.each(look, range(100))
