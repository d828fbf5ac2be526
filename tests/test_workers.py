"""Tests of several processes in one run: one ledger, one view, one budget; a dead worker is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import fetch_all
from osp_fetch.concurrency import stop
from osp_fetch.connections.controller import LOOK, HostReport
from osp_fetch.engine.context import Context
from osp_fetch.engine.file import Job
from osp_fetch.model import events, urls
from osp_fetch.model.entry import Entry, entry
from osp_fetch.model.errors import (
    FetchError,
    LinkExpiredError,
    Remedy,
    StatusError,
    StorageError,
    UnreachableError,
)
from osp_fetch.model.record import Record
from osp_fetch.model.report import Status
from osp_fetch.model.settings import Settings
from osp_fetch.storage.destination import Destination
from osp_fetch.storage.folder.run_lock import RunLock
from osp_fetch.workers.budget import OWN, Budget, shared
from osp_fetch.workers.channel import Channel
from osp_fetch.workers.limits import part_of
from osp_fetch.workers.messages import EventSent, RecordKept, Setup, ShareRate
from osp_fetch.workers.peer import WorkerDiedError
from osp_fetch.workers.pool import WorkerPool
from osp_fetch.workers.process import Process
from osp_fetch.workers.reach import Reach
from tests import origin as o
from tests.origin import Origin, noise, refuse_above, sha256, slow
from tests.test_cli import get, start

TWO = Settings.load(
    (
        "test",
        {"storage": {"min_free": 0}, "limits": {"processes": 2}, "retry": {"initial": 0.01, "attempts": 3}},
    )
)


def rows(origin: Origin, count: int, size: int) -> list[Entry]:
    return [entry(f"d/f{n}", origin.add(f"f{n}", noise(size, n))) for n in range(count)]


def job(row: Entry, order: int) -> Job:
    return Job(row, None, None, order, urls.host(row.urls[0]))


def workers_of(parent: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "osp_fetch.workers.worker" in line]


async def test_two_processes_fetch_what_one_does(origin: Origin, tmp_path: Path) -> None:
    job = [*rows(origin, 60, 20_000), entry("big", origin.add("big", noise(12 << 20, 99)))]
    job.append(entry("gone", f"{origin.url}/nowhere"))
    seen: Counter[str] = Counter()
    open_now: Counter[str] = Counter()

    def observe(event: events.Event) -> None:
        seen[type(event).__name__] += 1
        if isinstance(event, events.Opened):
            open_now[event.path] += 1
        if isinstance(event, events.Closed):
            open_now[event.path] -= 1

    report = await fetch_all(job, tmp_path, settings=TWO, observer=observe)
    assert report.counts[Status.FETCHED] == 61
    (failed,) = report.failures
    assert failed.path == "gone"
    assert isinstance(failed.error, StatusError)
    assert failed.error.status == 404
    assert all((tmp_path / row.path).read_bytes() == noise(20_000, n) for n, row in enumerate(job[:60]))
    assert (tmp_path / "big").read_bytes() == noise(12 << 20, 99)
    assert seen["Finished"] == 62
    assert seen["Opened"] == seen["Closed"]
    assert not +open_now
    assert [p.name for p in (tmp_path / ".osp-fetch").glob("**/ledger.sqlite3")] == ["ledger.sqlite3"]

    origin.requests.clear()
    again = await fetch_all(job[:-1], tmp_path, settings=TWO)
    assert again.counts[Status.PRESENT] == 61
    assert origin.requests.total() == 0


async def test_parked_files_and_wrong_digests_come_back_as_what_they_are(
    origin: Origin, tmp_path: Path
) -> None:
    dead = entry("dead", origin.add("dead", b"x" * 100, always=o.status(403, "URL signature expired")))
    wrong = entry("wrong", origin.add("wrong", b"y" * 100), None, sha256(b"z" * 100))
    report = await fetch_all([dead, wrong], tmp_path, settings=TWO)
    assert report.counts[Status.PARKED] == report.counts[Status.FAILED] == 1
    assert not (tmp_path / "wrong").exists()
    causes = {outcome.path: outcome.error.cause for outcome in report.failures if outcome.error}
    assert causes == {"dead": "link expired", "wrong": "integrity"}


async def test_a_cap_holds_for_all_processes_together(origin: Origin, tmp_path: Path) -> None:
    job = rows(origin, 30, 30_000)
    for page in origin.pages.values():
        page.always = slow(300_000)
    limits = {"processes": 4, "per_host": 3, "connections": 3}
    report = await fetch_all(
        job, tmp_path, settings=Settings.load(("test", {"storage": {"min_free": 0}, "limits": limits}))
    )
    assert report.counts[Status.FETCHED] == 30
    assert 2 <= origin.most_open <= 3


async def test_processes_keep_what_a_host_leaves_them(origin: Origin, tmp_path: Path) -> None:
    job = rows(origin, 40, 1 << 20)
    for page in origin.pages.values():
        page.always = refuse_above(origin, 12, 1_000_000)
    levels: list[int] = []
    refusals = 0

    def observe(event: events.Event) -> None:
        nonlocal refusals
        refusals += isinstance(event, events.Retrying)
        if isinstance(event, events.LimitChanged):
            levels.append(event.connections)

    report = await fetch_all(job, tmp_path, settings=TWO, observer=observe)
    assert report.counts[Status.FETCHED] == 40
    # A refusal must not be followed by another connection, which would be refused as well.
    assert refusals < 40
    assert min(levels) > 4


async def test_the_last_files_of_each_process_share_its_connections(origin: Origin, tmp_path: Path) -> None:
    job = rows(origin, 4, 8 << 20)
    for page in origin.pages.values():
        page.always = slow(1_000_000)
    written: Counter[str] = Counter()
    at_first_end: Counter[str] = Counter()

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Wrote):
            written[event.path] += event.count
        if isinstance(event, events.Finished) and not at_first_end:
            at_first_end.update(written)

    limits = {"processes": 2, "per_host": 8, "connections": 8, "part_size": "1MiB"}
    settings = Settings.load(("test", {"storage": {"min_free": 0}, "limits": limits}))
    report = await fetch_all(job, tmp_path, settings=settings, observer=observe)
    assert report.counts[Status.FETCHED] == 4
    # If files came one after another, with all connections each, the second would only have begun here.
    assert min(at_first_end[row.path] for row in job) > 4 << 20


async def test_a_killed_worker_is_replaced_and_its_files_go_on(origin: Origin, tmp_path: Path) -> None:
    data = noise(3 << 20)
    lines = [origin.add(f"f{n}", data, always=slow(400_000)) for n in range(6)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    running = await start(
        "get", "m.txt", "-o", "out", "--processes", "2", "--min-free", "0", "--json", cwd=tmp_path
    )
    await until(lambda: origin.open >= 4)
    first = workers_of(running.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    origin_fast(origin)
    out, last = await running.communicate()
    assert running.returncode == 0, last.decode()
    assert json.loads(out)["counts"]["fetched"] == 6
    assert all(place.read_bytes() == data for place in (tmp_path / "out").glob("f*"))


async def test_what_is_dealt_while_a_worker_is_replaced_is_not_lost(origin: Origin, tmp_path: Path) -> None:
    job = rows(origin, 1500, 500)
    killed: set[int] = set()
    workers: Counter[type[events.Event]] = Counter()
    finished = 0

    def observe(event: events.Event) -> None:
        nonlocal finished
        workers[type(event)] += 1
        finished += isinstance(event, events.Finished)
        if isinstance(event, events.Finished) and finished % 300 == 0:
            worker = min(workers_of(os.getpid()))
            killed.add(worker)
            os.kill(worker, signal.SIGKILL)

    async with asyncio.timeout(60):
        report = await fetch_all(job, tmp_path, settings=TWO, observer=observe)
    assert report.counts[Status.FETCHED] == 1500
    assert len(killed) > 1
    died = workers[events.WorkerDied]
    assert len(killed) - 1 <= died <= len(killed)  # the last one may be killed when the run ends anyway
    assert 1 + died <= workers[events.WorkerStarted] <= 2 + died


class OneBudget(Budget):
    """The budget of a single worker that records whether the worker has reported a host."""

    def __init__(self) -> None:
        super().__init__(1, 8, 8, lambda _: None, {}, steers=True)
        self.heard = False

    def reported(self, worker: int, reports: Sequence[HostReport], now: float) -> None:
        super().reported(worker, reports, now)
        self.heard = self.heard or bool(reports)


class LateWorker(Process):
    """A worker whose second process starts 0.3 s late."""

    began = 0

    async def start(self) -> None:
        self.began += 1
        if self.began > 1:
            await asyncio.sleep(0.3)
        await super().start()


async def test_what_is_dealt_before_the_next_process_is_there_is_given_back(tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    with RunLock(state) as lock:
        context = cast("Context", SimpleNamespace(observe=lambda _: None))
        setup = Setup(Destination(tmp_path), state, TWO, Reach(), {}, 8, True)
        worker = LateWorker(0, setup, context, OneBudget(), lock.descriptor, lambda *_: None)
        await worker.start()
        os.kill(min(workers_of(os.getpid())), signal.SIGKILL)
        await until(lambda: worker.began == 2)
        assert (worker.there, worker.began) == (False, 2)
        async with asyncio.timeout(20):
            with pytest.raises(WorkerDiedError):
                await worker.fetch(job(entry("f", "http://127.0.0.1:9/f"), 1))
        assert (worker.there, worker.began) == (True, 2)
        await worker.end()


class HeldLedger:
    """A Ledger that confirms the first record once `let` is set, and no other record."""

    def __init__(self) -> None:
        self.puts: list[Record] = []
        self.let = asyncio.Event()

    async def get(self, paths: Sequence[str]) -> list[Record | None]:
        return [None] * len(paths)

    async def put(self, record: Record) -> None:
        self.puts.append(record)
        if len(self.puts) > 1:
            await asyncio.Event().wait()
        await self.let.wait()


@contextlib.asynccontextmanager
async def one_worker(root: Path, ledger: object, budget: OneBudget) -> AsyncIterator[Process]:
    """Start a single worker whose run has `ledger` and `budget`."""

    async def look() -> None:
        """Assign slots as a WorkerPool does.

        A worker that starts in mid-run opens no connection before its first assignment.
        """
        while True:
            await asyncio.sleep(LOOK)
            for _, assign in budget.look(asyncio.get_running_loop().time()):
                worker.send(assign)

    state = root / ".osp-fetch"
    with RunLock(state) as lock:
        context = cast("Context", SimpleNamespace(observe=lambda _: None, ledger=ledger))
        setup = Setup(Destination(root), state, TWO, Reach(), {}, 8, True)
        worker = Process(0, setup, context, budget, lock.descriptor, lambda *_: None)
        await worker.start()
        looking = asyncio.create_task(look())
        try:
            yield worker
        finally:
            await stop({looking})
            await worker.end()


async def test_an_answer_to_a_dead_worker_is_not_taken_by_the_next(origin: Origin, tmp_path: Path) -> None:
    ledger, budget = HeldLedger(), OneBudget()
    first, second = rows(origin, 2, 1000)
    async with one_worker(tmp_path, ledger, budget) as worker:
        lost = asyncio.ensure_future(worker.fetch(job(first, 1)))
        await until(lambda: ledger.puts and budget.heard)
        os.kill(min(workers_of(os.getpid())), signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            await lost
        bringing = asyncio.ensure_future(worker.fetch(job(second, 2)))
        await until(lambda: len(ledger.puts) == 2)
        ledger.let.set()  # confirms the record of the dead worker
        _, still = await asyncio.wait({bringing}, timeout=0.5)
        assert still, "the file counts as fetched although its record is not kept"
        os.kill(min(workers_of(os.getpid())), signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            await bringing


class DefectLedger(HeldLedger):
    async def put(self, record: Record) -> None:
        raise RuntimeError("a defect")


async def test_a_defect_of_the_ledger_costs_the_file(origin: Origin, tmp_path: Path) -> None:
    (row,) = rows(origin, 1, 1000)
    async with one_worker(tmp_path, DefectLedger(), OneBudget()) as worker, asyncio.timeout(20):
        with pytest.raises(StorageError, match="a defect"):
            await worker.fetch(job(row, 1))


async def test_a_worker_that_ends_by_a_defect_is_replaced(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", noise(100_000), always=slow(1000)))
    async with one_worker(tmp_path, HeldLedger(), OneBudget()) as worker, asyncio.timeout(20):
        before = workers_of(os.getpid())
        bringing = asyncio.ensure_future(worker.fetch(job(row, 1)))
        await until(lambda: origin.open)
        worker.send("no message of ours")
        with pytest.raises(WorkerDiedError):
            await bringing
        assert worker.there
        assert workers_of(os.getpid()) != before


async def test_an_observer_that_fails_costs_no_file_and_is_named(origin: Origin, tmp_path: Path) -> None:
    failed: list[str] = []

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Wrote) and not failed:
            failed.append(event.path)
            raise ValueError("a defect")

    async with asyncio.timeout(30):
        report = await fetch_all(rows(origin, 12, 20_000), tmp_path, settings=TWO, observer=observe)
    assert failed, "the observer was never called"
    assert report.counts[Status.FETCHED] == 12
    assert any("raised ValueError: a defect" in note for note in report.notes)


async def test_rows_of_a_callers_own_classes_are_brought(origin: Origin, tmp_path: Path) -> None:
    class Url(str):
        __slots__ = ()

    job = [replace(row, urls=(Url(row.urls[0]),)) for row in rows(origin, 4, 1000)]
    async with asyncio.timeout(30):
        report = await fetch_all(job, tmp_path, settings=TWO)
    assert report.counts[Status.FETCHED] == 4


async def test_cancelled_while_workers_begin_none_is_left(origin: Origin, tmp_path: Path) -> None:
    job = rows(origin, 4, 1000)
    task = asyncio.create_task(fetch_all(job, tmp_path, settings=TWO))
    while not workers_of(os.getpid()):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not workers_of(os.getpid())
    report = await fetch_all(job, tmp_path, settings=TWO)
    assert report.ok


async def test_a_killed_run_leaves_no_worker_and_goes_on_from_what_is_held(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(8 << 20)
    lines = [origin.add(f"f{n}", data, always=slow(500_000)) for n in range(4)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    words = ["get", "m.txt", "-o", "out", "--processes", "2", "--min-free", "0"]
    running = await start(*words, cwd=tmp_path)
    await until(lambda: origin.open >= 4)
    workers = workers_of(running.pid)
    assert len(workers) == 2
    await until(lambda: held(tmp_path / "out") > 2 << 20)
    running.kill()
    await running.communicate()
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not list((tmp_path / "out").glob("f*"))
    origin_fast(origin)
    code, _, err = await get(*words, cwd=tmp_path)
    assert code == 0, err
    assert all(place.read_bytes() == data for place in (tmp_path / "out").glob("f*"))


async def test_a_stopped_run_claims_what_its_workers_hold(origin: Origin, tmp_path: Path) -> None:
    data = noise(8 << 20)
    lines = [origin.add(f"f{n}", data, always=slow(500_000)) for n in range(4)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    words = ["get", "m.txt", "-o", "out", "--processes", "2", "--min-free", "0"]
    running = await start(*words, cwd=tmp_path)
    await until(lambda: held(tmp_path / "out") > 2 << 20)
    running.send_signal(signal.SIGTERM)
    _, last = await running.communicate()
    assert running.returncode == 75, last.decode()
    code, said, _ = await get("status", "out", "--json", cwd=tmp_path)
    assert code == 0
    assert json.loads(said)["held_bytes"] > 1 << 20
    origin_fast(origin)
    before = origin.sent.total()
    code, _, err = await get(*words, cwd=tmp_path)
    assert code == 0, err
    assert origin.sent.total() - before < 31 << 20
    assert all(place.read_bytes() == data for place in (tmp_path / "out").glob("f*"))


def held(folder: Path) -> int:
    """Return the number of bytes in the partials of a folder."""
    return sum(place.stat().st_size for place in folder.glob(".osp-fetch/partial/**/f*"))


def origin_fast(origin: Origin) -> None:
    for page in origin.pages.values():
        page.always = None


async def until(holds) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


# The budget of connections.


@given(
    level=st.integers(1, 128),
    workers=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 200), st.integers(0, 64)), min_size=1, max_size=6
    ),
)
def test_no_more_than_the_limit_is_ever_promised(level: int, workers: list[tuple[int, int, int]]) -> None:
    busy = [b for b, _, _ in workers]
    demand = [b + more for b, more, _ in workers]
    shares = [max(b, s) for b, _, s in workers]
    found = shared(level, demand, busy, shares)
    occupied = sum(max(f, b) for f, b in zip(found, busy, strict=True))
    assert occupied <= max(level, sum(busy))
    assert all(f >= 0 for f in found)


def test_who_needs_none_leaves_its_share_to_the_others() -> None:
    shares = [4, 4]
    for _ in range(3):
        shares = shared(8, [9, 0], [shares[0], 0], shares)
    assert shares == [8, 0]
    busy = [8, 0]
    for _ in range(12):  # the other worker has work now and gets the freed slots, up to a half
        shares = shared(8, [9, 5], busy, shares)
        busy = [max(shares[0], busy[0] - 1), min(shares[1], 5)]
    assert shares == [4, 4]


def test_the_process_of_the_run_is_served_first_where_connections_are_few() -> None:
    budget = Budget(2, 8, 2, lambda _: None, {}, steers=False)
    for worker in (0, 1):
        budget.reported(worker, [HostReport("h", 1, 1, 9, 0, 0, 1, 0.01)], 1.0)
    budget.joined(OWN)
    budget.reported(OWN, [HostReport("h", 0, 0, 4, 0, 0, 0, 0.01)], 1.0)
    ((worker, lowered),) = budget.look(1.1)
    assert (worker, lowered.connections) == (1, 0)
    budget.reported(1, [HostReport("h", 0, 0, 9, 0, 0, 0, 0.01, lowered.number)], 1.2)
    assert [(number, each.connections) for number, each in budget.look(1.3)] == [(OWN, 1)]


def test_a_lowered_share_counts_until_the_worker_knows_of_it() -> None:
    budget = Budget(2, 8, 8, lambda _: None, {}, steers=False)
    one, other = HostReport("h", 1, 1, 0, 0, 0, 4, 0.01), HostReport("h", 4, 4, 9, 0, 0, 4, 0.01)
    budget.reported(0, [one], 1.0)
    budget.reported(1, [other], 1.0)
    told = dict(budget.look(1.0))
    assert told[0].connections == 1
    assert 1 not in told  # the first worker may have opened all its four connections meanwhile
    budget.reported(0, [replace(one, share=1, assigned=1)], 1.2)
    assert dict(budget.look(1.2))[1].connections == 7


def test_what_was_promised_to_a_dead_worker_is_free_again() -> None:
    budget = Budget(2, 8, 8, lambda _: None, {}, steers=False)
    none, some = HostReport("h", 0, 0, 3, 0, 0, 0, 0.01), HostReport("h", 1, 1, 0, 0, 0, 4, 0.01)
    budget.reported(1, [some], 1.0)
    budget.gone(0)
    assert dict(budget.look(1.0))[0].connections > 0  # the message reaches no process
    assert [assign.connections for assign in budget.begun(0)] == [0]
    budget.reported(0, [none], 1.2)
    assert dict(budget.look(1.2))[0].connections > 0


def test_a_share_on_its_way_counts_although_an_older_report_comes() -> None:
    budget = Budget(2, 8, 8, lambda _: None, {}, steers=False)
    one, other = HostReport("h", 0, 0, 8, 0, 0, 4, 0.01), HostReport("h", 0, 0, 0, 0, 0, 4, 0.01)
    for now, second in ((1.0, other), (1.2, replace(other, share=0, assigned=1))):
        budget.reported(0, [one], now)
        budget.reported(1, [second], now)
        told = dict(budget.look(now))
    assert told[0].connections == 8
    # This report is older than the assignment: all eight connections may be open by now.
    budget.reported(0, [replace(one, waiting=1)], 1.4)
    budget.reported(1, [replace(other, waiting=8, share=0, assigned=1)], 1.4)
    assert 1 not in dict(budget.look(1.4))


def test_a_refusal_of_one_worker_lowers_all() -> None:
    seen: list[events.Event] = []
    budget = Budget(2, 128, 128, seen.append, {}, steers=True)
    budget.reported(0, [HostReport("h", 4, 4, 2, 1 << 20, 0, 4, 0.01)], 1.0)
    # The worker had four connections and keeps the two that remain.
    budget.reported(1, [HostReport("h", 2, 2, 4, 1 << 20, 2, 2, 0.01)], 1.0)
    assert seen == [events.LimitChanged("h", 6, "refused above")]
    assert dict(budget.look(1.0))[0].connections == 3


def test_errors_go_through_a_pickle_as_they_are() -> None:
    error = StatusError("f: https://h/x?token=1 said no", status=429, remedy=Remedy.RETRY, retry_after=3.0)
    silent = UnreachableError("no answer", host="h:443")
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), str(same), same.status, same.retry_after, same.remedy) == (
        StatusError, str(error), 429, 3.0, Remedy.RETRY,
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(silent)).host == "h:443"
    assert pickle.loads(pickle.dumps(LinkExpiredError("dead"))).remedy is Remedy.PARK
    assert isinstance(same, FetchError)


async def test_a_message_that_cannot_be_sent_costs_the_others_nothing() -> None:
    here, there = socket.socketpair()
    near, far = await Channel.over(here), await Channel.over(there)
    kept = RecordKept(1, StorageError("no room"))
    near.send(kept, patient=True)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        near.send([kept, lambda: None])
    opened = EventSent(events.Opened("a", "host"))
    near.send(opened, patient=True)
    near.send([opened, opened])
    came: list[object] = []
    async with asyncio.timeout(20):
        while len(came) < 3:
            came += await far.receive()
    await asyncio.gather(near.close(), far.close())
    assert isinstance(came[0], RecordKept)
    assert came[1:] == [opened, [opened, opened]]
    assert await far.receive() == []


@dataclass(frozen=True, slots=True)
class MadeOtherwise(Entry):
    """A row class of a caller that cannot be constructed from its fields in order."""

    @classmethod
    def of(cls, row: Entry) -> MadeOtherwise:
        return cls(row.path, row.urls, size=row.size, digest=row.digest)

    def __init__(self, *args: object, **more: object) -> None:
        if not more:
            raise TypeError("made otherwise")
        Entry.__init__(self, *args, **more)  # type: ignore[arg-type]


async def test_a_callers_own_row_travels_as_it_travels_anywhere(origin: Origin) -> None:
    here, there = socket.socketpair()
    near, far = await Channel.over(here), await Channel.over(there)
    (row,) = rows(origin, 1, 1000)
    near.send(MadeOtherwise.of(row))
    async with asyncio.timeout(20):
        (came,) = await far.receive()
    await asyncio.gather(near.close(), far.close())
    assert isinstance(came, MadeOtherwise)
    assert came.path == row.path
    assert came.urls == row.urls


@pytest.mark.parametrize(("most", "workers"), [(1, 2), (2, 2), (3, 2), (7, 4)])
def test_the_first_parts_of_a_hosts_own_limit_add_up(most: int, workers: int) -> None:
    assert sum(part_of(most, worker, workers) for worker in range(workers)) == most


class Waiting:
    """A worker that notes what it is sent, and whose files end when `done` is set."""

    there = True

    def __init__(self, number: int) -> None:
        self.number, self.in_hand, self.done = number, 0, asyncio.Event()
        self.rates: list[int | str] = []

    def send(self, message: object) -> None:
        if isinstance(message, ShareRate):
            self.rates.append(message.rate)

    async def fetch(self, job: Job, **_: object) -> tuple[Status, Record]:
        self.in_hand += 1
        await self.done.wait()
        self.in_hand -= 1
        return Status.FETCHED, Record(job.entry.path, "", None)


async def test_the_byte_rate_belongs_to_the_workers_that_have_files() -> None:
    """A large file at the end of a run gets all of it, and not the part of one of four workers."""
    settings = Settings.load(("test", {"limits": {"rate": "8MiB"}}))
    context = cast("Context", SimpleNamespace(settings=settings))
    pool = WorkerPool([cast("Setup", None)] * 4, context, cast("Budget", None), 0)
    workers = [Waiting(number) for number in range(4)]
    pool._workers = cast("list[Process]", workers)
    jobs = [
        asyncio.create_task(pool.fetch(Job(entry(f"f{n}", "http://h/f"), None, None, n, "h:80")))
        for n in range(2)
    ]
    await asyncio.sleep(0)
    assert [worker.rates[-1] for worker in workers] == [4 << 20] * 4
    workers[0].done.set()
    await jobs[0]
    assert [worker.rates[-1] for worker in workers] == [8 << 20] * 4
    workers[1].done.set()
    await jobs[1]
    assert [worker.rates[-1] for worker in workers] == [8 << 20] * 4
