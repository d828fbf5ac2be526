"""Tests of the queues of jobs that wait for their hosts, in simulated time and on disk."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import StopToken, entry, fetch_all
from osp_fetch.engine.context import files_in_progress
from osp_fetch.engine.file import Job
from osp_fetch.engine.host_queues import HostQueues
from osp_fetch.engine.outage import Outage, Stage
from osp_fetch.model import events
from osp_fetch.model.entry import Entry, RelativePath
from osp_fetch.model.errors import HostDownError, HostPausedError, Unreachable, UnreachableError
from osp_fetch.model.record import Published
from osp_fetch.model.settings import Retry
from osp_fetch.storage.folder.spill import DiskSpill
from tests.conftest import quick
from tests.origin import Origin, noise, stall

RETRY = Retry()


def job(number: int, host: str) -> Job:
    entry = Entry(RelativePath(f"images/{number:09}.jpg"), (f"http://{host}/photos/{number:09}.jpg",))
    return Job(entry, None, None, number, host)


def down(host: str, why: Unreachable, *, heard: bool = False) -> HostDownError:
    error = UnreachableError("no", host=host, why=why)
    return HostDownError(error, host=host, is_own=True, heard=heard, tried=True)


class World:
    """Hosts in simulated time, and a run over them that never has more than `places` jobs in progress.

    Args:
        fates: Host → the kind of its failure and the time at which it begins to answer, None for never.
        spill: As in `HostQueues`.
        places: Most jobs in progress.
    """

    def __init__(
        self, fates: dict[str, tuple[Unreachable, float | None]], spill: DiskSpill | None, places: int = 64
    ) -> None:
        self.fates, self.places, self.now = fates, places, 0.0
        self.heard: set[str] = set()
        self.pauses: dict[str, float] = {}
        self.events: list[events.Event] = []
        self.attempts: Counter[str] = Counter()
        self.done: dict[int, float] = {}
        self.failed: dict[int, float] = {}
        self._numbers = itertools.count()
        self._running: list[tuple[float, int, Job, HostDownError | HostPausedError | None]] = []
        self.queues = HostQueues(
            RETRY, spill, self.events.append, lambda: self.now,
            lambda host: max(0.0, self.pauses.get(host, 0.0) - self.now), lambda _: 8,
        )  # fmt: skip

    def run(self, jobs: Iterator[Job]) -> None:
        """Run all jobs to their ends."""
        has_ended = False
        while True:
            while len(self._running) < self.places:
                ready = self.queues.ready()
                if ready is None and not has_ended and not self.queues.is_full:
                    found = next(jobs, None)
                    has_ended = found is None
                    if found is not None and self.queues.admit(found):
                        ready = found
                    elif found is not None:
                        continue
                ready = ready or self.queues.probe()
                if ready is None:
                    break
                self._begin(ready)
            for each, _ in self.queues.failed():
                self.failed[each.order] = self.now
            if not self._running and has_ended:
                if not self.queues:
                    return
                self.queues.give_last_chances()
            self._advance()

    def _begin(self, each: Job) -> None:
        self.attempts[each.host] += 1
        error: HostDownError | HostPausedError | None
        why, from_then = self.fates.get(each.host, (Unreachable.SILENT, 0.0))
        if (pause := self.pauses.get(each.host, 0.0)) > self.now:
            took, error = 0.0, HostPausedError(f"until {pause}", host=each.host)
        elif from_then is None or self.now < from_then:
            took = 20.0 if why is Unreachable.SILENT else 0.01
            error = down(each.host, why, heard=each.host in self.heard)
        else:
            took, error = 0.1, None
            self.heard.add(each.host)
        heapq.heappush(self._running, (self.now + took, next(self._numbers), each, error))

    def _advance(self) -> None:
        due = self.queues.due() if len(self._running) < self.places else None
        times = [self._running[0][0]] if self._running else []
        times += [self.now + due + 1e-6] if due is not None else []
        assert times, "nothing would ever happen again"
        self.now = max(self.now, min(times))
        while self._running and self._running[0][0] <= self.now:
            _, _, each, error = heapq.heappop(self._running)
            if error is not None:
                self.queues.put_back(each, error)
            else:
                self.queues.ended(each, answered=True)
                self.done[each.order] = self.now


FATES = st.tuples(st.sampled_from(Unreachable), st.one_of(st.none(), st.floats(0, 100)))


@given(st.dictionaries(st.sampled_from("abcdef"), FATES), st.integers(0, 1 << 32), st.integers(1, 80))
def test_every_job_ends_once_whatever_the_hosts_do(
    fates: dict[str, tuple[Unreachable, float | None]], seed: int, places: int
) -> None:
    chance = random.Random(seed)
    hosts = [chance.choice("abcdef") for _ in range(chance.randint(0, 300))]
    world = World(fates, None, places)
    world.run(job(n, host) for n, host in enumerate(hosts))
    assert world.done.keys() | world.failed.keys() == set(range(len(hosts)))
    assert not world.done.keys() & world.failed.keys()
    for number, host in enumerate(hosts):
        _, from_then = fates.get(host, (None, 0.0))
        assert number not in world.failed or from_then is None or from_then > 0


def test_good_files_do_not_wait_for_hosts_that_do_not_answer() -> None:
    kinds = [each for each in Unreachable if each is not Unreachable.DROPPED]
    fates: dict[str, tuple[Unreachable, float | None]] = {
        f"dead{n}": (kinds[n % 4], None) for n in range(300)
    }
    chance = random.Random(1)
    hosts = [f"dead{chance.randrange(300)}" if chance.random() < 0.2 else f"h{chance.randrange(2000)}"
             for _ in range(20_000)]  # fmt: skip
    world = World(fates, None, places=192)
    world.run(job(n, host) for n, host in enumerate(hosts))
    good = [world.done[n] for n, host in enumerate(hosts) if host.startswith("h")]
    ideal = len(good) * 0.1 / 192
    assert max(good) < 6 * ideal, "a silent host takes a place for 20 s, but only one"
    assert all(world.attempts[host] <= 6 for host in fates), "a few attempts at each dead host"
    assert len(world.failed) == 20_000 - len(good)
    assert world.now < 80, "two timeouts of 20 s, and the first attempts one after the other"
    notes = "\n".join(world.queues.notes())
    assert "75 hosts with" in notes
    assert "do not exist" in notes
    assert "refuse connections" in notes


def test_a_host_that_comes_late_gets_its_chance_at_the_end_of_the_run() -> None:
    world = World({"late": (Unreachable.REFUSED, 50.0)}, None)
    rows = ["late"] * 10 + ["good"] * 100_000
    world.run(job(n, host) for n, host in enumerate(rows))
    assert not world.failed
    assert len(world.done) == len(rows)


def test_a_host_that_has_answered_is_waited_for() -> None:
    outage = Outage(RETRY, down("h", Unreachable.REFUSED, heard=True), 0.0, 0.0)
    now = 0.0
    while outage.stage is Stage.PROBED:
        assert outage.due <= now + RETRY.longest
        now = outage.due
        outage.failed(down("h", Unreachable.REFUSED, heard=True), now)
    assert outage.stage is Stage.OVER
    assert RETRY.outage < now <= RETRY.outage + 2 * RETRY.longest


@pytest.mark.parametrize("why", [Unreachable.NO_NAME, Unreachable.REFUSED, Unreachable.CERTIFICATE])
def test_a_definite_failure_is_set_back_within_seconds(why: Unreachable) -> None:
    outage = Outage(RETRY, down("h", why), 0.0, 0.0)
    tries, now = 1, 0.0
    while outage.stage is Stage.PROBED:
        now = outage.due
        outage.failed(down("h", why), now)
        tries += 1
    assert (outage.stage, tries) == (Stage.SET_BACK, 3)
    assert 1 < now < 5
    outage.revive(now)
    assert now < outage.due < now + 10
    outage.failed(down("h", why), outage.due)
    assert outage.stage is Stage.OVER


def test_the_jobs_of_a_host_that_asked_for_a_pause_let_others_go_first() -> None:
    world = World({}, None, places=8)
    world.pauses["paused"] = 100.0
    rows = ["paused"] * 1000 + ["good"] * 1000
    world.run(job(n, host) for n, host in enumerate(rows))
    assert max(world.done[n] for n in range(1000, 2000)) < 50
    assert min(world.done[n] for n in range(1000)) >= 100
    assert world.attempts["paused"] < 1100


def test_waiting_rows_take_little_memory_and_the_manifest_is_read_on(tmp_path: Path) -> None:
    with DiskSpill(tmp_path) as spill:
        queues = HostQueues(RETRY, spill, lambda _: None, lambda: 0.0, lambda _: 0.0, lambda _: 8)
        first = job(0, "dead")
        assert queues.admit(first)
        queues.put_back(first, down("dead", Unreachable.SILENT))
        tracemalloc.start()
        for n in range(1, 100_000):
            assert not queues.admit(job(n, "dead"))
            assert not queues.is_full
        # 10,000 rows are in memory, the others on disk: a million take no more
        assert tracemalloc.get_traced_memory()[0] < 30e6
        tracemalloc.stop()


def test_spilled_rows_come_back_in_order_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with DiskSpill(tmp_path) as spill:
        for n in range(2600):
            spill.put("ab"[n % 2], str(n).encode())
        assert list(tmp_path.iterdir()) == [], "rows may contain signed links and headers"
        taken: list[bytes] = []
        while rows := spill.take("a", 100):
            taken += rows
        assert [int(row) for row in taken] == list(range(0, 2600, 2))
        assert len(spill.take("b", 5000)) == 1300
        assert spill.take("b", 1) == []
        spill.put("a", b"again")
        assert spill.take("a", 1) == [b"again"]


def test_rows_wait_in_memory_while_the_disk_cannot_be_written(tmp_path: Path) -> None:
    with DiskSpill(tmp_path / "missing") as spill:
        for n in range(1200):
            spill.put("a", str(n).encode())
        (tmp_path / "missing").mkdir()
        spill.put("a", b"1200")
        assert [int(row) for row in spill.take("a", 2000)] == list(range(1201))


async def test_a_stopped_run_reads_no_more_rows(origin: Origin, tmp_path: Path) -> None:
    """The next page is being read when the run is stopped."""
    stopped, read, stop = threading.Event(), threading.Event(), StopToken()
    url = origin.add("f", noise(1000), always=stall(500))

    def rows() -> Iterator[Entry]:
        for n in range(500):
            yield entry(f"f{n}", url)
        stop.ask("test")
        stopped.wait(20)
        read.set()
        yield entry("late", url)

    report = await fetch_all(rows(), tmp_path, stop=stop, settings=quick(limits={"connections": 2}))
    assert report.stopped == "test"
    assert not read.is_set(), "the run did not wait for the row"
    stopped.set()
    assert await asyncio.to_thread(read.wait, 20)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert not (tmp_path / "late").exists()


def test_a_pause_during_an_outage_is_waited_for() -> None:
    """A server restarts, and answers the first request with 503 and Retry-After."""
    world = World({"h": (Unreachable.REFUSED, 30.0)}, None)
    world.heard.add("h")
    world.pauses["h"] = 60.0
    world.run(job(n, "h") for n in range(50))
    assert len(world.done) == 50
    assert world.attempts["h"] < 300


def test_the_file_that_failed_is_not_the_next_probe() -> None:
    now = 0.0
    queues = HostQueues(RETRY, None, lambda _: None, lambda: now, lambda _: 0.0, lambda _: 8)
    jobs = [job(n, "h") for n in range(3)]
    assert [queues.admit(each) for each in jobs] == [True] * 3
    for each in jobs:
        queues.put_back(each, down("h", Unreachable.SILENT))
    probed = []
    for _ in range(3):
        now += 5.0
        assert queues.ready() is None
        probe = queues.probe()
        assert probe is not None
        assert queues.probe() is None, "one at a time"
        probed.append(probe.order)
        queues.put_back(probe, down("h", Unreachable.SILENT, heard=True))
    assert sorted(probed) == [0, 1, 2]


def test_a_returned_host_is_served_before_the_probe_has_ended() -> None:
    now = 0.0
    queues = HostQueues(RETRY, None, lambda _: None, lambda: now, lambda _: 0.0, lambda _: 8)
    assert queues.admit(job(0, "h"))
    queues.put_back(job(0, "h"), down("h", Unreachable.SILENT, heard=True))
    assert not any(queues.admit(job(n, "h")) for n in range(1, 20))
    now = 5.0
    assert queues.probe() is not None
    assert queues.ready() is None
    queues.back("h")
    assert queues.ready() is not None


def test_jobs_of_a_host_start_when_those_before_them_have_left_for_their_other_mirror() -> None:
    queues = HostQueues(RETRY, None, lambda _: None, lambda: 0.0, lambda _: 0.0, lambda _: 8)
    jobs = [job(n, "alive") for n in range(100)]
    begun = [each for each in jobs if queues.admit(each)]
    assert len(begun) < len(jobs)
    assert queues.ready() is None
    for each in begun:
        queues.put_back(each, down("dead", Unreachable.REFUSED))
    assert queues.ready() == jobs[len(begun)]


def given_up(files: int) -> tuple[HostQueues, list[Job]]:
    """Return queues with a host that is given up, and the jobs that wait for it."""
    now = 0.0
    queues = HostQueues(RETRY, None, lambda _: None, lambda: now, lambda _: 0.0, lambda _: 8)
    jobs = [job(n, "h:80") for n in range(files)]
    assert queues.admit(jobs[0])
    queues.put_back(jobs[0], down("h:80", Unreachable.CERTIFICATE))
    assert not any(queues.admit(each) for each in jobs[1:])
    while not queues._over:
        queues.give_last_chances()
        now += 60.0
        if (probe := queues.probe()) is not None:
            queues.put_back(probe, down("h:80", Unreachable.CERTIFICATE))
    return queues, jobs


def test_a_host_that_answers_while_its_files_fail_gets_the_rest_of_them() -> None:
    queues, jobs = given_up(20)
    failing = queues.failed()
    failed = [next(failing)[0] for _ in range(5)]
    queues.back("h:80")
    assert not list(failing)
    started = queues.ready()
    assert started is not None
    assert started not in failed
    queues.ended(started, answered=True)
    rest = [started]
    while (each := queues.ready()) is not None:
        queues.ended(each, answered=True)
        rest.append(each)
    assert sorted(each.order for each in failed + rest) == [each.order for each in jobs]


def test_files_that_are_asked_for_again_leave_the_note_on_their_host() -> None:
    queues, jobs = given_up(2)
    errors = {each.order: error for each, error in queues.failed()}
    assert queues.notes() == ["1 host with 2 files has no valid certificate: h"]
    queues.again("h:80", errors[0])
    assert queues.notes() == ["1 host with 1 file has no valid certificate: h"]
    queues.again("h:80", errors[1])
    assert not queues.notes()
    assert queues.admit(jobs[0])


def test_files_that_are_on_disk_do_not_wait_for_a_dead_host() -> None:
    queues = HostQueues(RETRY, None, lambda _: None, lambda: 0.0, lambda _: 0.0, lambda _: 8)
    first = job(0, "dead")
    assert queues.admit(first)
    queues.put_back(first, down("dead", Unreachable.REFUSED))
    assert not queues.admit(job(1, "dead"))
    assert queues.admit(replace(job(2, "dead"), seen=Published(1, 2)))


@pytest.mark.parametrize(("tried", "why", "least", "most"), [
    (True, Unreachable.DROPPED, 60, 200),
    (False, Unreachable.DROPPED, 3600, 3800),
    (True, Unreachable.SILENT, 3600, 3800),
])  # fmt: skip
def test_files_that_a_host_drops_do_not_wait_for_an_hour(
    tried: bool, why: Unreachable, least: float, most: float
) -> None:
    outage, now = Outage(RETRY, down("h", why, heard=True), 0.0, 0.0), 0.0
    while outage.stage is Stage.PROBED:
        now = outage.due
        outage.failed(down("h", why, heard=True), now, tried=tried)
    assert least < now < most


def test_a_host_alone_leaves_places_to_hosts_that_come_after_it() -> None:
    places = files_in_progress(128)
    queues = HostQueues(RETRY, None, lambda _: None, lambda: 0.0, lambda _: 0.0, lambda _: 8)
    first = job(0, "slow")
    assert queues.admit(first)
    assert queues.admit(job(1, "slow"))
    queues.ended(first, answered=True)
    admitted = sum(queues.admit(job(number, "slow")) for number in range(2, 400))
    assert 64 < admitted < places - 32
    assert queues.admit(job(400, "other"))
