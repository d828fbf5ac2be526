"""Tests of timetables: which rate holds at which time, what a transfer takes, and how a run obeys."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Settings, fetch_all
from osp_fetch.connections.byte_rate import ByteRate
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import SettingsError
from osp_fetch.model.quantities import size
from osp_fetch.model.timetable import Timetable, rate_of
from tests.conftest import quick
from tests.origin import Origin, noise

MON, TUE, FRI, SAT, SUN = 0, 1, 4, 5, 6
MIB = 1 << 20


def table(text: str) -> Timetable:
    return Timetable.parse(text, size)


@pytest.mark.parametrize(
    ("text", "at", "rate"),
    [
        ("08:00,10MiB 19:00,0", (MON, 7, 59), 0),
        ("08:00,10MiB 19:00,0", (MON, 8, 0), 10 * MIB),
        ("08:00,10MiB 19:00,0", (SUN, 18, 59), 10 * MIB),
        ("08:00,10MiB 19:00,off", (SUN, 19, 0), 0),
        ("19:00,1M 8:00,512k", (TUE, 3, 0), MIB),  # in any order; the night follows the evening before
        ("Mon-08:00,10MiB Fri-19:00,off", (SAT, 12, 0), 0),
        ("Mon-08:00,10MiB Fri-19:00,off", (MON, 7, 59), 0),
        ("Mon-08:00,10MiB Fri-19:00,off", (FRI, 18, 59), 10 * MIB),
        ("08:00,10MiB 19:00,off saturday-08:00,1MB", (SAT, 8, 0), 1_000_000),
        ("08:00,10MiB 19:00,off saturday-08:00,1MB", (SUN, 8, 0), 10 * MIB),
        ("12:30,7", (MON, 0, 0), 7),
    ],
)
def test_the_rate_of_a_time_is_that_of_the_last_entry(text: str, at: tuple[int, int, int], rate: int) -> None:
    assert table(text).rate(*at) == rate


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("24:00,1M", "not a time of the day"),
        ("08:60,1M", "not a time of the day"),
        ("Xyz-08:00,1M", "not a day"),
        ("08:00,fast", "'fast' is not a size"),
        ("08:00", "not an entry"),
        ("08:00,1M 8:00,2M", "second rate"),
        ("08:00,1M, 19:00,2M", "not a size"),
        (",", "not an entry"),
    ],
)
def test_a_timetable_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Settings.load(("test", {"limits": {"rate": text}}))


def test_a_rate_is_a_number_and_a_timetable_is_kept_in_normal_form() -> None:
    assert rate_of("20MiB/s", size) == 20 * MIB
    assert rate_of("off", size) == rate_of("08:00,off", size) == 0
    assert rate_of("9:05,1k", size) == 1024
    assert rate_of("8:00,1k 19:00,off", size) == "08:00,1024 19:00,0"
    assert str(rate_of("Mon-8:00,1k 19:00,off", size)).startswith("Mon-08:00,1024 Mon-19:00,0 Tue-19:00,0")


entries = st.lists(
    st.tuples(
        st.sampled_from(["", "Mon-", "wednesday-", "SUN-"]), st.integers(0, 23), st.integers(0, 59),
        st.integers(0, 1 << 40),
    ),
    min_size=1, max_size=8, unique_by=lambda each: each[:3],
)  # fmt: skip


@given(entries, st.integers(1, 7), st.integers(0, 6), st.integers(0, 23), st.integers(0, 59))
def test_the_normal_form_means_the_same_and_its_parts_suffice(
    given: list[tuple[str, int, int, int]], count: int, day: int, hour: int, minute: int
) -> None:
    made = table(" ".join(f"{d}{h}:{m:02},{rate}" for d, h, m, rate in given))
    assert Timetable.of(str(made)) == made
    part = Timetable.of(made.divided(count)).rate(day, hour, minute)
    whole = made.rate(day, hour, minute)
    assert whole <= part * count < whole + count
    assert (part == 0) == (whole == 0)


def test_the_time_of_a_transfer_adds_up_over_the_steps() -> None:
    made = table("08:00,10 19:00,0")
    assert made.seconds(600, MON, 9, 0, 0) == 60
    assert made.seconds(600, MON, 9, 0, 5) == 120  # the servers are slower than the limit
    hour = 36_000  # bytes that an hour at 10 B/s brings
    assert made.seconds(hour + 100, MON, 18, 0, 20) == 3605
    assert made.seconds(hour + 100, MON, 18, 0, 100) == 3601
    assert made.seconds(hour + 100, MON, 18, 0, 0) is None  # how fast the servers are is not known
    assert table("Sun-23:00,10 Mon-00:00,20").seconds(hour + 40, SUN, 23, 0, 0) == 3602  # over the week's end
    assert table("08:00,1 19:00,2").seconds(1 << 60, MON, 0, 0, 0) is None  # longer than ten years


async def test_the_limit_changes_with_the_time_of_day() -> None:
    now = [time.struct_time((2026, 11, 30, 7, 59, 0, MON, 334, 0))]
    rate = ByteRate("08:00,10 19:00,0", lambda: now[0])
    assert rate.is_limited
    assert rate.now == 0
    rate.charge(1 << 30)
    await asyncio.wait_for(rate.wait(), 5)
    now[0] = time.struct_time((2026, 11, 30, 8, 0, 0, MON, 334, 0))
    while rate.now == 0:  # it is read once a second
        await asyncio.sleep(0.05)
    rate.charge(1000)
    assert rate.slows() is False
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rate.wait(), 0.05)  # 100 s are owed
    assert rate.slows()


async def test_a_delayed_reader_obeys_another_rate() -> None:
    rate = ByteRate(1)
    rate.charge(10_000)
    waiting = asyncio.create_task(rate.wait())
    await asyncio.sleep(0)
    rate.change(1 << 30)
    await asyncio.wait_for(waiting, 10)
    rate.charge(1 << 34)
    rate.change(0)
    await asyncio.wait_for(rate.wait(), 10)
    assert not rate.slows()


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_run_with_a_timetable_ends_right(origin: Origin, tmp_path: Path, processes: int) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(100_000, n))) for n in range(10)]
    settings = quick(limits={"rate": "00:00,4MiB 12:00,8MiB", "processes": processes})
    report = await fetch_all(rows, tmp_path, settings=settings)
    assert report.ok
    assert all((tmp_path / f"f{n}").read_bytes() == noise(100_000, n) for n in range(10))
