"""Tests of the order in which the requests of a host get slots."""

from __future__ import annotations

import asyncio

from osp_fetch.connections.wait_queue import Turn, WaitQueue


def admitted(requests: list[int], held: list[int], grants: int) -> list[int]:
    """Return the files that get the next slots.

    Args:
        requests: The files that wait, once for each request.
        held: The files that hold slots, once for each slot.
        grants: The number of slots to grant.
    """

    async def run() -> list[int]:
        queue = WaitQueue()
        for file in held:
            queue.pass_by(file)
        for number, file in enumerate(requests):
            queue.join(file, number)
        return [queue.admit(Turn.EARLIEST) for _ in range(grants)]

    return asyncio.run(run())


def test_each_of_the_first_files_gets_a_slot_before_one_of_them_gets_a_second() -> None:
    assert admitted([1, 1, 2, 3], held=[1], grants=4) == [2, 3, 1, 1]


def test_once_eight_files_have_slots_the_earliest_goes_first() -> None:
    assert admitted([1, 2, 9, 10], held=[1, 2, 3, 4, 5, 6, 7], grants=4) == [9, 1, 2, 10]
