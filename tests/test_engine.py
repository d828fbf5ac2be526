"""Tests of concurrency helpers, retries and the connection pool."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from osp_fetch.concurrency import Places, Scope, at_most, completed
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.engine.lanes import Lanes
from osp_fetch.engine.retry import persist
from osp_fetch.model.errors import (
    FetchError,
    HostDownError,
    NetworkError,
    Remedy,
    StatusError,
    UnreachableError,
)
from osp_fetch.model.settings import HostLimits, Limits, Retry, Settings


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_at_most_does_all_and_never_more_at_once() -> None:
    running, most, done = 0, 0, []

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    await at_most(Places(3), numbers(20), work)
    assert (sorted(done), most) == (list(range(20)), 3)


async def test_a_cancel_while_other_lanes_end_is_not_lost() -> None:
    ending = asyncio.Event()

    async def lane() -> None:
        if not ending.is_set() and len(lanes) == 1:
            lanes.call()
            await asyncio.sleep(0)
            raise NetworkError("the first lane fails")
        try:
            await asyncio.Event().wait()
        finally:  # takes as long as a write to a slow disk
            ending.set()
            await completed(asyncio.sleep(0.1))

    lanes = Lanes(lambda: False)
    running = asyncio.create_task(lanes.run(lane))
    await ending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_items_are_asked_for_only_as_slots_come_free() -> None:
    asked = 0

    async def items() -> AsyncIterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    pool = asyncio.Event()

    async def work(_: int) -> None:
        await pool.wait()

    task = asyncio.create_task(at_most(Places(4), items(), work))
    for _ in range(20):
        await asyncio.sleep(0)
    assert asked == 4
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_first_failure_ends_the_rest_and_waits_for_them() -> None:
    ended = []

    async def work(number: int) -> None:
        if number == 2:
            raise ValueError("two")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    with pytest.raises(ValueError, match="two"):
        await at_most(Places(5), numbers(10), work)
    assert sorted(ended) == [0, 1, 3, 4]


async def test_a_failing_source_is_raised() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("source")

    async def work(_: int) -> None:
        await asyncio.sleep(60)

    with pytest.raises(ValueError, match="source"):
        await at_most(Places(5), broken(), work)


FAST = Settings.load(("t", {"retry": {"initial": 0.001, "longest": 0.002, "attempts": 3}})).retry


async def tries(errors: list[FetchError], steps: list[int], retry: Retry = FAST) -> tuple[int, list[float]]:
    """Return how often failing work was tried, and the pauses in seconds, while progress follows `steps`."""
    count = 0
    delays: list[float] = []

    def progress() -> int:
        return steps[min(count, len(steps) - 1)]

    async def work() -> None:
        nonlocal count
        error = errors[min(count, len(errors) - 1)]
        count += 1
        raise error

    with suppress(FetchError):
        await persist(work, retry, progress, lambda _, delay: delays.append(delay))
    return count, delays


async def test_patience_runs_out_on_standstill() -> None:
    count, _ = await tries([NetworkError("cut")], [0])
    assert count == 3


async def test_getting_further_makes_an_attempt_a_first_one() -> None:
    count, _ = await tries([NetworkError("cut")], [0, 1, 2, 3, 4, 5, 5, 5, 5, 5])
    assert count == 7


async def test_what_no_retry_helps_is_tried_once() -> None:
    count, _ = await tries([StatusError("no", status=404, remedy=Remedy.FAIL)], [0])
    assert count == 1


async def test_the_server_may_ask_for_a_pause() -> None:
    busy = StatusError("busy", status=429, remedy=Remedy.RETRY, retry_after=0.05)
    _, delays = await tries([busy], [0])
    assert all(0.05 <= delay < 0.06 for delay in delays)


def limits(**values: object) -> Limits:
    return Settings.load(("t", {"limits": values})).limits


async def test_the_connection_pool_keeps_both_limits() -> None:
    pool = ConnectionPool(limits(connections=5, per_host=3))
    for host in "ab":
        pool.answered(pool.host(host))
    open_now: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}

    async def use(host: str, order: int) -> None:
        async with pool.connection(host, order):
            open_now[host] += 1
            most[host] = max(most[host], open_now[host])
            most["all"] = max(most["all"], sum(open_now.values()))
            await asyncio.sleep(0.001)
            open_now[host] -= 1

    await asyncio.gather(*(use("ab"[n % 2], n) for n in range(40)))
    assert most["all"] == 5
    assert max(most["a"], most["b"]) == 3


async def test_connections_go_to_the_earliest_file_first() -> None:
    pool = ConnectionPool(limits(connections=1))
    came: list[int] = []

    async def use(order: int) -> None:
        async with pool.connection("h", order):
            came.append(order)

    async with pool.connection("h", 0):
        waiting = [asyncio.create_task(use(order)) for order in (5, 3, 9, 1)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert came == [1, 3, 5, 9]


async def test_the_last_files_share_the_connections_alike() -> None:
    pool = ConnectionPool(limits(connections=4))
    came: list[int] = []

    async def use(order: int) -> None:
        async with pool.connection("h", order):
            came.append(order)
            await asyncio.sleep(3600)

    async with pool.connection("h", 0), AsyncExitStack() as others:
        for _ in range(3):
            await others.enter_async_context(pool.connection("h", 9))
        waiting = [asyncio.create_task(use(order)) for order in (0, 0, 0, 1, 2, 9)]
        await asyncio.sleep(0)
        pool.last_files = True
        await others.aclose()
        await asyncio.sleep(0)
        assert sorted(came) == [1, 2, 9]  # file 0 has a slot already and gets no second one before the others
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    pool = ConnectionPool(limits(connections=1))

    async def use() -> None:
        async with pool.connection("h", 1):
            pass

    async with pool.connection("h", 0):
        waiting = asyncio.create_task(use())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    async with asyncio.timeout(1), pool.connection("h", 2):
        pass


async def test_a_cooling_host_gets_nothing_and_others_do() -> None:
    pool = ConnectionPool(limits(connections=4))
    pool.cool("slow", 0.05)
    clock = asyncio.get_running_loop().time
    begun = clock()
    async with pool.connection("fast", 0):
        assert clock() - begun < 0.05
    async with asyncio.timeout(5), pool.connection("slow", 0):
        assert clock() - begun >= 0.05


async def test_part_size_follows_the_measured_pace() -> None:
    pool = ConnectionPool(limits())
    assert pool.part_size("h") == 8 << 20
    pool.host("h").throughput.measured(100 << 20, 1.0)
    assert pool.part_size("h") == 64 << 20
    for _ in range(20):
        pool.host("h").throughput.measured(1 << 20, 1.0)
    assert pool.part_size("h") == 4 << 20
    assert ConnectionPool(limits(part_size="1MiB")).part_size("h") == 1 << 20


async def test_a_host_that_is_down_is_probed_by_one_and_others_are_sent_away() -> None:
    pool = ConnectionPool(limits(connections=8))
    pool.answered(pool.host("h"))
    silent = UnreachableError("no answer", host="h")
    found = [pool.silent("h", silent) for _ in range(3)]
    assert [error is not None for error in found] == [False, False, True]
    inside = 0

    async def probe(order: int) -> None:
        nonlocal inside
        async with pool.connection("h", order):
            inside += 1
            await asyncio.sleep(3600)

    probing = asyncio.create_task(probe(0))
    await asyncio.sleep(0)
    with pytest.raises(HostDownError) as raised:
        await probe(1)
    assert raised.value.remedy is Remedy.WAIT
    assert inside == 1
    pool.answered(pool.host("h"))
    others = [asyncio.create_task(probe(order)) for order in (2, 3)]
    await asyncio.sleep(0.01)
    assert inside == 3
    for task in (probing, *others):
        task.cancel()
    await asyncio.wait([probing, *others])


async def test_a_host_can_have_limits_of_its_own() -> None:
    own = {"few.example": HostLimits(connections=2)}
    pool = ConnectionPool(limits(connections=8), hosts=own)
    assert [pool.host(f"{name}:443").limit.value for name in ("few.example", "other.example")] == [2, 8]
    assert pool.host("upload.wikimedia.org:443").limit.value == 2, "what its operator states"
    chosen = ConnectionPool(limits(connections=8, per_host=6), hosts=own)
    assert [chosen.host(f"{name}:80").limit.value for name in ("few.example", "upload.wikimedia.org")] == [
        2,
        6,
    ]
    slow = ConnectionPool(Limits(requests_per_second=50.0), hosts={"slow": HostLimits(requests_per_second=5)})
    assert [slow.host(f"{name}:80").interval for name in ("slow", "fast", "www.sec.gov")] == [0.2, 0.02, 0.02]
    assert ConnectionPool(Limits()).host("www.sec.gov:443").interval == 0.1
    slow.resize(8, is_fixed=False, parts=3)
    assert [slow.host(f"{name}:80").interval for name in ("slow", "new")] == [3 / 5, 3 / 50]


async def test_a_host_that_was_forgotten_before_a_slot_is_taken_has_the_present_limits() -> None:
    pool = ConnectionPool(Limits(requests_per_second=50.0))
    early = pool.connection("h:80", 0)
    for n in range(1100):
        pool.host(f"other{n}:80")
    pool.resize(8, is_fixed=False, parts=2)
    async with early:
        assert pool.host("h:80").interval == 2 / 50
        assert pool.host("h:80").open == 1


async def test_many_hosts_share_the_connections() -> None:
    pool = ConnectionPool(Limits(memory=48 << 20))  # 32 connections
    async with AsyncExitStack() as held:
        for n in range(16):
            pool.answered(pool.host(f"h{n}"))
            await held.enter_async_context(pool.connection(f"h{n}", n))
        more = [asyncio.ensure_future(pool.connection("h0", 100 + n).__aenter__()) for n in range(8)]
        await asyncio.sleep(0)
        assert sum(each.done() for each in more) == 3, "four to one host, however many hosts there are"
        for each in more:
            each.cancel()
        await asyncio.wait(more)


async def test_requests_that_wait_for_a_slot_are_sent_away_when_the_host_goes_down() -> None:
    pool = ConnectionPool(limits(connections=1))
    pool.answered(pool.host("h"))
    async with pool.connection("h", 0):
        waiting = asyncio.ensure_future(pool.connection("h", 1).__aenter__())
        await asyncio.sleep(0)
        for _ in range(3):
            pool.silent("h", UnreachableError("no answer", host="h"))
        with pytest.raises(HostDownError):
            await waiting
    assert pool.open == 0


async def test_connections_to_new_hosts_do_not_take_the_slots_of_those_that_answer() -> None:
    pool = ConnectionPool(Limits(memory=6 << 20))  # four connections
    async with AsyncExitStack() as held:
        for n in range(4):
            await held.enter_async_context(pool.connection(f"dead{n}", n))
        pool.answered(pool.host("good"))
        async with asyncio.timeout(1):
            for n in range(4):
                await held.enter_async_context(pool.connection("good", 10 + n))
        assert pool.open == 8
    assert pool.open == 0


async def test_a_chosen_number_of_connections_holds_for_new_hosts_too() -> None:
    pool = ConnectionPool(limits(connections=4))
    async with AsyncExitStack() as held:
        for n in range(3):
            await held.enter_async_context(pool.connection(f"dead{n}", n))
        waiting = asyncio.ensure_future(pool.connection("dead3", 3).__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done(), "a quarter of them is kept for hosts that answer"
        pool.answered(pool.host("good"))
        async with asyncio.timeout(1):
            await held.enter_async_context(pool.connection("good", 10))
        assert pool.open == 4
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_the_state_of_hosts_is_small_and_forgotten_when_they_are_idle() -> None:
    pool = ConnectionPool(Limits())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(20_000):
        async with pool.connection(f"h{n}:80", n):
            pool.answered(pool.host(f"h{n}:80"), 0.01)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < 1000 * 2500 + 20_000 * 200, "state of 1,000 idle hosts, and names of the others"


async def test_a_node_forgets_hosts_of_which_it_has_no_share() -> None:
    pool = ConnectionPool(limits(), share=0)
    for n in range(3000):
        pool.assign(f"h{n}:80", int(n < 10), shed=False, number=n)
    kept = [report.host for report in pool.report()]
    assert len(kept) <= 1100
    assert {f"h{n}:80" for n in range(10)} <= set(kept)


async def test_requests_to_one_host_keep_their_distance_and_other_hosts_do_not_wait() -> None:
    pool = ConnectionPool(Limits(requests_per_second=50.0))
    clock = asyncio.get_running_loop().time
    granted: dict[str, list[float]] = {"a": [], "b": []}

    async def ask(host: str) -> None:
        async with pool.connection(host, 0):
            granted[host].append(clock())

    await asyncio.gather(*[ask(host) for host in "ab" for _ in range(5)])
    for times in granted.values():
        # from the first, which is granted at once: a loaded machine may let a task run late, but none early
        assert all(at - times[0] >= 0.02 * number - 0.001 for number, at in enumerate(times))
    assert granted["b"][0] < granted["a"][-1]


async def test_the_byte_rate_is_not_exceeded() -> None:
    pool = ConnectionPool(Limits(rate=1_000_000))
    clock = asyncio.get_running_loop().time
    begun = clock()
    for _ in range(20):
        await pool.rate.wait()
        pool.received(pool.host("h:80"), 30_000)
    await pool.rate.wait()
    # The rate limit may make up for at most a quarter of a second.
    assert clock() - begun >= 0.6 - 0.25 - 0.01


async def test_parts_shrink_towards_the_end_of_a_file() -> None:
    pool = ConnectionPool(limits(connections=4))
    pool.host("h").throughput.measured(16 << 20, 1.0)
    assert pool.part_size("h", 10_000 << 20) == 64 << 20
    assert pool.part_size("h", 80 << 20) == 10 << 20
    assert pool.part_size("h", 8 << 20) == 8 << 20  # half a second of transfer; less is not worth a request
    async with AsyncExitStack() as held:
        for order in range(4):
            await held.enter_async_context(pool.connection("h", order))
        waiting = asyncio.ensure_future(pool.connection("h", 9).__aenter__())
        await asyncio.sleep(0)
        assert pool.part_size("h", 8 << 20, order=0) == 32 << 20  # another file waits for slots
        pool.last_files = True  # all files have begun, and no connection should idle at the end
        assert pool.part_size("h", 8 << 20, order=0) == 8 << 20
        waiting.cancel()


async def test_a_scope_is_left_in_silence_where_others_end_it() -> None:
    scope = Scope()
    asyncio.get_running_loop().call_later(0.01, scope.end)
    with scope:
        await asyncio.sleep(3600)
    await asyncio.sleep(0)
    scope.end()  # the scope has been left: no effect
    await asyncio.sleep(0.01)


async def test_a_scope_that_its_own_task_ends_cancels_nothing_after_it() -> None:
    """A lane ends its own scope when it has fetched the last byte, and can still fail afterwards."""
    for error in (None, ValueError()):
        with suppress(ValueError), Scope() as scope:
            scope.end()
            if error is not None:
                raise error
        await asyncio.sleep(0.001)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_who_is_cancelled_while_its_scope_ends_is_cancelled() -> None:
    scope = Scope()

    async def work() -> None:
        with scope:
            await asyncio.sleep(3600)
        await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    scope.end()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
