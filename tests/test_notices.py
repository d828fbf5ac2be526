"""Tests of what is told of a run: each matter once, few in number, and without secrets."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import LinkExpiredError, NetworkError, SettingsError
from osp_fetch.model.report import Outcome, Report, Status
from osp_fetch.model.settings import Notify
from osp_fetch.views.notice import Kind, Notice
from osp_fetch.views.notices import Gate, Look, Notices
from osp_fetch.views.pace import Pace
from tests.test_schemas import SCHEMAS, check

GB = 1_000_000_000
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def notices(**limits: object) -> Notices:
    return Notices(Notify(**limits), "/data/sam", "node7")  # type: ignore[arg-type]


def told(of: Notices, minutes: int, rate: float, look: Look, begun: float = 0.0) -> list[Notice]:
    """Return what is told while bytes come at `rate` for `minutes`, looked at every half minute."""
    found: list[Notice] = []
    for step in range(minutes * 2 + 1):
        now, received = begun + step * 30, int(rate * step * 30)
        left = None if look.left is None else max(0, look.left - received)
        found += of.look(Look(now, received, 0, left, look.known, look.expires, look.room))
    return found


def test_links_that_will_not_last_are_told_once_with_what_is_missing_and_when() -> None:
    of = notices()
    # 8 TB at 20 MB/s take 4.6 days, and the links last 3
    found = told(of, 180, 20e6, Look(0, left=8_000 * GB, expires=3 * DAY))
    assert [notice.kind for notice in found] == [Kind.LINKS_DYING]
    (notice,) = found
    assert notice.time == 30 * MINUTE  # as soon as the pace is known, on the first day
    assert notice.facts["short"] == pytest.approx(8_000 * GB - 20e6 * 3 * DAY, rel=0.01)
    assert "2.6 TiB" in notice.title
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(3 * DAY)) in notice.title
    assert "fresh link file" in notice.text


@pytest.mark.parametrize("expires", [None, 9 * DAY, 4.5 * DAY, -1.0])
def test_links_that_last_long_enough_and_those_that_are_dead_already_are_no_dying_ones(
    expires: float | None,
) -> None:
    look = Look(0, left=8_000 * GB, expires=expires)
    assert told(notices(), 180, 20e6, look) == []


def test_fresh_links_that_will_not_last_either_are_told_again() -> None:
    of = notices()
    first = told(of, 60, 20e6, Look(0, left=8_000 * GB, expires=1 * DAY, known="At least"))
    again = told(of, 60, 20e6, Look(0, left=8_000 * GB, expires=2 * DAY), begun=2 * HOUR)
    assert [each.kind for each in first + again] == [Kind.LINKS_DYING] * 2
    assert "At least" in first[0].text  # not every row is read


def test_files_that_wait_for_links_are_told_unless_fresh_ones_lie_ready() -> None:
    of = notices()
    assert of.event(events.Parked(3), 100) == []
    assert of.look(Look(120)) == []
    assert of.event(events.LinksRenewed(3), 121) == []
    assert of.event(events.Parked(1), 200) == []
    assert of.event(events.Parked(40), 220) == []
    assert [(n.kind, n.facts["files"]) for n in of.look(Look(231))] == [(Kind.LINKS_DEAD, 40)]
    assert of.look(Look(99_999)) == []
    assert [n.kind for n in of.event(events.LinksRenewed(40), 100_000)] == [Kind.LINKS_RENEWED]


def test_a_run_that_waits_for_links_or_for_the_disk_has_not_stalled() -> None:
    of = notices()
    of.event(events.Parked(3), 0)
    assert [n.kind for now in range(0, 7200, 60) for n in of.look(Look(now))] == [Kind.LINKS_DEAD]
    of = notices()
    assert [n.kind for n in of.event(events.DiskWaiting("disk full"), 0)] == [Kind.DISK_FULL]
    assert [n for now in range(0, 7200, 60) for n in of.look(Look(now))] == []


def test_a_stalled_run_is_told_once_and_when_it_goes_on() -> None:
    of = notices(stalled=600.0, every=0.0)
    looks = [Look(now, 5000) for now in range(0, 3600, 10)] + [Look(3600, 6000), Look(3610, 7000)]
    found = [notice for look in looks for notice in of.look(look)]
    assert [(n.kind, n.time) for n in found] == [(Kind.STALLED, 600), (Kind.MOVING, 3600)]


def test_a_disk_that_is_too_small_is_told_before_it_is_full() -> None:
    of = notices()
    assert of.look(Look(0, left=100 * GB, room=101 * GB)) == []
    (notice,) = of.look(Look(5, left=100 * GB, room=50 * GB))
    assert (notice.kind, notice.facts) == (Kind.DISK_LOW, {"left": 100 * GB, "room": 50 * GB})
    assert of.look(Look(10, left=100 * GB, room=49 * GB)) == []
    assert of.look(Look(10, left=100 * GB, room=None)) == []


def test_hosts_that_stay_down_are_told_together_and_one_that_comes_back_is_too() -> None:
    of = notices(host_down=900.0)
    for name in "abcde":
        of.event(events.HostDown(f"{name}.test:443", 1.0, "refused"), 0)
        of.event(events.HostDown(f"{name}.test:443", 1.0, "refused"), 500)
    of.event(events.HostDown("never.test:443", 1.0, "no such name", heard=False), 0)
    of.event(events.HostBack("e.test:443"), 100)
    assert of.look(Look(899, 1)) == []
    (notice,) = of.look(Look(900, 2))
    assert (notice.kind, notice.facts["hosts"]) == (Kind.HOST_DOWN, [f"{n}.test:443" for n in "abcd"])
    assert "a.test, b.test, c.test and 1 more" in notice.title
    assert of.look(Look(1000, 3)) == []
    (back,) = of.event(events.HostBack("a.test:443"), 1200)
    assert (back.kind, back.level) == (Kind.HOST_BACK, "success")
    assert "20 min" in back.text


def test_short_pauses_are_no_throttling_and_many_of_them_are() -> None:
    of = notices(pause=60.0)
    found = [n for step in range(30) for n in of.event(events.Cooling("h:443", 5.0, "status 429"), step * 10)]
    assert [(n.kind, n.facts["seconds"]) for n in found] == [(Kind.THROTTLED, 60)]
    assert notices(pause=60.0).event(events.Cooling("h:443", 5.0, "x"), 0) == []
    (notice,) = notices(pause=60.0).event(events.Cooling("h:443", 600.0, "status 503"), 0)
    assert "10 min" in notice.text


@pytest.mark.parametrize(
    ("report", "code", "kind", "said"),
    [
        (Report(), 0, Kind.DONE, "done"),
        (Report(stopped="SIGTERM"), 75, Kind.STOPPED, "SIGTERM"),
        (Report(counts={**dict.fromkeys(Status, 0), Status.FAILED: 2}), 1, Kind.FAILED, "2 files missing"),
        (Report(), 1, Kind.FAILED, "not all is well"),
        (None, 3, Kind.FAILED, "failed"),
    ],
)
def test_the_end_is_told_as_it_was(report: Report | None, code: int, kind: Kind, said: str) -> None:
    (notice,) = notices().ended(report, "the disk is full", code, 5.0)
    assert (notice.kind, notice.facts["exit_code"]) == (kind, code)
    assert said in notice.title


def test_the_end_names_what_failed_and_no_more_than_a_message_holds() -> None:
    report = Report()
    for number in range(500):
        error = LinkExpiredError(f"f{number}.tar: {'x' * 500}") if number % 2 else NetworkError("cut")
        report.add(
            Outcome(f"f{number}.tar", Status.FAILED, entry(f"f{number}.tar", "http://h/x"), error=error)
        )
    (notice,) = notices().ended(report, None, 1, 0.0)
    assert len(notice.text) <= 1800
    assert "500 failed" in notice.text
    assert "network: cut" in notice.text


def test_no_secret_and_no_control_character_is_in_a_notice() -> None:
    of = notices()
    why = "https://h/a?oh=00_secret&oe=1 \x1b[31m\u202e failed"
    found = [
        *of.event(events.LinksCommandFailed(why), 0),
        *of.event(events.DiskWaiting(why), 0),
        *of.event(events.Cooling("h:443", 900, why), 0),
        *of.ended(None, why, 1, 0),
        *Notices(Notify(), "s3://k:verysecret@h/x", "m").ended(None, why, 1, 0),
    ]
    assert len(found) == 5
    for notice in found:
        assert "secret" not in str(notice.row())
        assert "\x1b" not in str(notice.row().values())
        assert "\u202e" not in notice.text


def test_what_a_command_reads_follows_its_schema() -> None:
    of = notices()
    for notice in [*of.event(events.Cooling("h:443", 900, "x"), 0), *of.ended(Report(), None, 0, 0)]:
        check("notice", notice.row())
    kinds = json.loads((SCHEMAS / "notice.json").read_text())["properties"]["event"]["enum"]
    assert set(kinds) == {kind.value for kind in Kind}


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("all", [Kind.BEGUN, Kind.DISK_FULL, Kind.DONE, Kind.FAILED]),
        ("problems", [Kind.DISK_FULL, Kind.FAILED]),
        ("failed , begun", [Kind.BEGUN, Kind.FAILED]),
    ],
)
def test_only_the_kinds_asked_for_are_delivered(kinds: str, found: list[Kind]) -> None:
    of = notices(kinds=kinds)
    delivered = [*of.event(events.RunStarted("d"), 0), *of.event(events.DiskWaiting("full"), 1)]
    delivered += [*of.ended(Report(), None, 0, 2), *of.ended(None, "no", 1, 2)]
    assert [notice.kind for notice in delivered] == found


def test_a_kind_that_does_not_exist_is_said_with_those_that_do() -> None:
    with pytest.raises(SettingsError, match="links dying"):
        notices(kinds="link dying")


_EVENTS = st.one_of(
    st.builds(events.Parked, st.integers(0, 3)),
    st.builds(events.LinksRenewed, st.integers(0, 3)),
    st.builds(events.LinksCommandFailed, st.just("x")),
    st.builds(events.DiskWaiting, st.just("x")),
    st.builds(events.Cooling, st.sampled_from("ab"), st.floats(0, 900), st.just("x")),
    st.builds(events.HostDown, st.sampled_from("abc"), st.none(), st.just(""), st.booleans()),
    st.builds(events.HostBack, st.sampled_from("abc")),
)
_LOOKS = st.builds(
    Look, st.just(0.0), st.integers(0, 3), st.integers(0, 3), st.none() | st.integers(0, 9 * GB),
    st.sampled_from(["", "About", "At least"]), st.none() | st.floats(0, 9e5),
    st.none() | st.integers(0, 9 * GB),
)  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 4000), _EVENTS | _LOOKS), max_size=60))
def test_whatever_happens_a_kind_is_told_once_an_hour_and_a_run_tells_little(
    steps: list[tuple[float, events.Event | Look]],
) -> None:
    of, now, found = notices(most=6), 0.0, []
    for pause, step in steps:
        now += pause
        if isinstance(step, Look):
            seen = Look(now, step.received, step.ended, step.left, step.known, step.expires, step.room)
            found += of.look(seen)
        else:
            found += of.event(step, now)
    assert len(found) <= 6
    last: dict[Kind, float] = {}
    for notice in found:
        assert notice.time - last.get(notice.kind, -HOUR) >= HOUR
        last[notice.kind] = notice.time
    # what is over is told only after what it ends
    counts = Counter(notice.kind for notice in found)
    for end, begin in {
        Kind.MOVING: Kind.STALLED, Kind.HOST_BACK: Kind.HOST_DOWN, Kind.LINKS_RENEWED: Kind.LINKS_DEAD
    }.items():  # fmt: skip
        if counts[end]:
            assert counts[begin]


def test_a_gate_says_when_it_is_shut_for_good() -> None:
    gate = Gate(10.0, 2)
    assert [gate.admits(Kind.STALLED, now) for now in (0, 5, 10, 20)] == [True, False, True, False]
    of = notices(most=1)
    (notice,) = of.event(events.DiskWaiting("full"), 0)
    assert "tells nothing more" in notice.text
    assert [each.kind for each in of.ended(Report(), None, 0, 1)] == [Kind.DONE]


def test_a_pace_is_unknown_until_its_window_is_full_and_forgets_what_is_older() -> None:
    pace = Pace(600.0)
    for second in range(0, 600, 5):
        pace.add(second, second * 100)
        assert pace.rate() is None
    pace.add(600, 60_000)
    assert pace.rate() == 100
    for second in range(605, 2000, 5):
        pace.add(second, 60_000)
    assert pace.rate() == 0
    assert len(pace._samples) <= 62


def test_a_change_of_the_clock_is_no_change_of_the_pace() -> None:
    of = notices()
    found: list[Notice] = []
    for step in range(8 * 120):
        now = step * 30.0
        wall = now + (8 * HOUR if step > 4 * 120 else 0.0)  # a machine that slept, or a corrected clock
        left = 8_000 * GB - int(20e6 * now)
        found += of.look(Look(now, int(20e6 * now), 0, left, "", 30 * DAY, wall=wall))
    assert found == []
    late = of.look(Look(9 * HOUR, int(20e6 * 9 * HOUR), 0, 8_000 * GB, "", 2 * DAY, wall=17 * HOUR))
    assert [each.kind for each in late] == [Kind.LINKS_DYING]
    assert late[0].time == 17 * HOUR


def test_a_host_that_goes_on_asking_for_pauses_is_told_once_and_leaves_notices_for_others() -> None:
    of, found = notices(), []
    for minute in range(14 * 24 * 60):
        found += of.event(events.Cooling("h:443", 5.0, "429"), minute * MINUTE)
    assert [each.kind for each in found] == [Kind.THROTTLED]
    quiet = 14 * DAY + 3 * HOUR
    for minute in range(120):
        found += of.event(events.Cooling("h:443", 5.0, "429"), quiet + minute * MINUTE)
    assert [each.kind for each in found] == [Kind.THROTTLED] * 2
    flood = notices(most=10)
    for host in range(1000):
        now = host * 2 * HOUR
        for _ in range(200):
            flood.event(events.Cooling(f"h{host}:443", 5.0, "429"), now)
    (full,) = flood.event(events.DiskWaiting("the disk is full"), 3000 * HOUR)
    assert full.kind is Kind.DISK_FULL


def test_a_paused_run_has_not_stalled_and_its_links_are_judged_by_the_pace_after_the_pause() -> None:
    of = notices()
    steered = events.Steered("paused", True, (), 0, "auto")
    look = Look(0, left=8_000 * GB, expires=30 * DAY)
    assert told(of, 120, 20e6, look) == []
    of.event(steered, 2 * HOUR)
    for minute in range(180):
        still = Look(2 * HOUR + minute * MINUTE, int(20e6 * 2 * HOUR), 0, 8_000 * GB, "", 30 * DAY)
        assert of.look(still) == []
    of.event(events.Steered("resumed", False, (), 0, "auto"), 5 * HOUR)
    for minute in range(120):
        received = int(20e6 * (2 * HOUR + minute * MINUTE))
        now = Look(5 * HOUR + minute * MINUTE, received, 0, 8_000 * GB, "", 30 * DAY)
        assert of.look(now) == []


def test_files_that_fresh_links_leave_out_are_told_again() -> None:
    of = notices(every=60.0)
    of.event(events.Parked(2), 0)
    assert [each.kind for each in of.look(Look(40))] == [Kind.LINKS_DEAD]
    assert [each.kind for each in of.event(events.LinksRenewed(1), 100)] == [Kind.LINKS_RENEWED]
    (again,) = of.look(Look(140))
    assert (again.kind, again.facts["files"]) == (Kind.LINKS_DEAD, 1)


def test_only_bytes_whose_links_expire_can_be_too_late() -> None:
    of = notices()
    look = Look(0, left=20_000 * GB, expires=6 * HOUR, expiring=1 * GB)
    found: list[Notice] = []
    for step in range(240):
        now = step * 30.0
        found += of.look(replace(look, now=now, received=int(20e6 * now)))
    assert found == []
