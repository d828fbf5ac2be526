"""Tests of patience with slow servers, and of the byte rate: nothing is fetched for ever, or twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from osp_fetch import Event, FetchError, NetworkError, Settings, Status, entry, fetch_all
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.demo.server import Exchange
from osp_fetch.engine.retry import Pace, persist
from osp_fetch.model.events import Retrying
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise

FAST = Settings.load(("t", {"retry": {"initial": 0, "longest": 0, "attempts": 8}})).retry
MINUTE = Pace(1 << 10, 60.0)


async def attempts(step: int, pace: Pace, *, ends: int = 100, retry_after: float | None = None) -> int:
    """Return how many attempts are made if each of them brings `step` bytes before it fails."""
    held = 0

    async def work() -> None:
        nonlocal held
        held += step
        if held >= ends * step:
            return
        raise NetworkError("cut", retry_after=retry_after)

    count = 0

    def observe(_: FetchError, __: float) -> None:
        nonlocal count
        count += 1

    try:
        await persist(work, FAST, lambda: held, observe, pace)
    except NetworkError:
        assert held < ends * step
    return count + 1


@pytest.mark.parametrize(
    ("step", "pace", "expected"),
    [
        (1000, MINUTE, 8),  # in all 8,000 bytes, of which 61,440 would be progress
        (7_000, MINUTE, 8),
        (10_000, MINUTE, 100),  # adds up before the attempts are used up
        (100_000, MINUTE, 100),
        (1, Pace(1 << 10, 0.0), 100),  # slow_for = 0 switches the check off
        (1, Pace(0, 60.0), 100),
        (1, Pace(), 100),
    ],
)
async def test_progress_below_the_slowest_rate_is_standstill(step: int, pace: Pace, expected: int) -> None:
    assert await attempts(step, pace) == expected


def test_pauses_raise_the_progress_that_is_needed() -> None:
    assert [MINUTE.least(seconds) for seconds in (0, 59, 60, 900)] == [61_440, 61_440, 61_440, 921_600]


@pytest.mark.parametrize("per_host", [1, 4])
async def test_a_thousand_bytes_an_attempt_end_as_a_failure(
    origin: Origin, tmp_path: Path, per_host: int
) -> None:
    url = origin.add("f", noise(4_000_000), always=o.cut(1000), headers={"ETag": '"1"'})
    settings = quick(limits={"per_host": per_host, "part_size": "64KiB"}, retry={"attempts": 8})
    report = await fetch_all([entry("f", url)], tmp_path, settings=settings)
    (outcome,) = report.outcomes
    assert outcome.status is Status.FAILED
    assert origin.requests["/f"] <= 8 * per_host + 2
    assert "the connection was cut" in str(outcome.error)
    # what has come is kept for the next run
    origin.pages["/f"].always = None
    again = await fetch_all([entry("f", url)], tmp_path, settings=settings)
    assert again.ok
    assert again.bytes < 4_000_000
    assert (tmp_path / "f").read_bytes() == noise(4_000_000)


async def test_a_server_that_cuts_every_reply_still_gets_a_file_through(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(2_000_000)
    url = origin.add("f", data, always=o.cut(70_000), headers={"ETag": '"1"'})
    settings = quick(limits={"per_host": 1, "part_size": "1MiB"})
    report = await fetch_all([entry("f", url)], tmp_path, settings=settings)
    assert report.ok, report.failures
    assert origin.requests["/f"] > 25
    assert (tmp_path / "f").read_bytes() == data


class Counted:
    """Content that counts the bytes that are sent of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.length = data, len(data)
        self.sent = 0

    def read(self, start: int, stop: int) -> bytes:
        self.sent += stop - start
        return self.data[start:stop]


@pytest.mark.parametrize(("files", "size", "rate"), [(1, 10_000_000, "2MB"), (3, 3_000_000, "2500kB")])
async def test_with_a_limited_rate_no_byte_is_fetched_twice(
    origin: Origin, tmp_path: Path, files: int, size: int, rate: str
) -> None:
    contents = [Counted(noise(size, n)) for n in range(files)]

    async def serve(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(contents[int(exchange.path[2:])], page.headers)

    rows = [
        entry(f"f{n}", origin.add(f"f{n}", b"", always=serve, headers={"ETag": '"1"'})) for n in range(files)
    ]
    seen: list[Event] = []
    settings = Settings.load(("t", {"limits": {"rate": rate}, "storage": {"min_free": 0}}))
    report = await fetch_all(rows, tmp_path, settings=settings, observer=seen.append)
    assert report.ok
    assert [event for event in seen if isinstance(event, Retrying)] == []
    assert [content.sent for content in contents] == [size] * files
    assert report.bytes == files * size


async def test_the_rate_explains_slow_connections_only_while_it_delays_them() -> None:
    limits = Settings.load(("t", {"limits": {"rate": 1000}})).limits
    pool = ConnectionPool(limits)
    pool.received(pool.host("h:1"), 100)
    await pool.rate.wait()
    assert not pool.rate.slows(), "less than the burst is no delay"
    assert pool.idle("h:1")
    pool.received(pool.host("h:1"), 300)
    await pool.rate.wait()
    assert pool.rate.slows()
    assert not pool.idle("h:1"), "a hedge would not add to the rate"
    assert not ConnectionPool(Settings().limits).rate.slows()
