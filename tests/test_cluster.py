"""Tests of many nodes in one run: leases, fencing, one budget, and what becomes of a node's files.

The nodes are real worker processes of this machine; `LocalNodes` stands for the adapter of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from osp_fetch.cluster.coordinator import Coordinator, Lease, State
from osp_fetch.concurrency import stop
from osp_fetch.connections.controller import HostReport
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from osp_fetch.model.errors import StorageError
from osp_fetch.model.report import Status
from osp_fetch.s3.address import bucket_address
from osp_fetch.storage.folder.node_folders import hand_over
from osp_fetch.storage.folder.run_lock import state_folder
from osp_fetch.storage.ledger.uploads import Upload, UploadLedger
from osp_fetch.views.board import Board
from osp_fetch.views.event_log import EventLog
from osp_fetch.views.screen import detail
from osp_fetch.views.status_lines import run_lines
from osp_fetch.workers.budget import Budget
from osp_fetch.workers.peer import Losses, WorkerDiedError
from tests import origin as o
from tests.conftest import quick
from tests.fleet import Fleet, Make, fleets, served, tree
from tests.held import Held
from tests.origin import Origin, noise, refuse_above, slow

MIB = 1 << 20


MIXED = {f"s{n:02}": noise(40_000 + n, n) for n in range(40)} | {
    f"large{n}": noise(6 * MIB + n, 100 + n) for n in range(3)
}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Make]:
    async with fleets(tmp_path) as make:
        yield make


async def test_three_nodes_fetch_what_one_process_does(origin: Origin, fleet: Make) -> None:
    run = fleet("a", "b", "c")
    await run.fetch(served(origin, MIXED))
    assert run.counts() == {Status.FETCHED: len(MIXED)}
    assert tree(run.root) == MIXED
    assert all(count == 1 for name, count in origin.requests.items() if name.startswith("/s"))
    assert not (run.root / ".osp-fetch" / "nodes").exists()
    again = fleet("a")
    await again.fetch(served(origin, MIXED))
    assert again.counts() == {Status.PRESENT: len(MIXED)}


async def test_the_files_of_a_killed_node_go_on_at_another_from_the_held_bytes(
    origin: Origin, fleet: Make
) -> None:
    files = {f"large{n}": noise(12 * MIB + n, n) for n in range(4)}
    run = fleet("a", "b", settings=quick(limits={"part_size": "1MiB"}))
    work = run.start(served(origin, files, slow(4 * MIB)))
    await run.until(lambda: run.received() > 16 * MIB)
    run.nodes.signal("a", signal.SIGKILL)
    await work
    assert run.counts() == {Status.FETCHED: 4}
    assert tree(run.root) == files
    assert run.received() < 1.6 * sum(map(len, files.values()))
    left = [each for each in run.seen if isinstance(each, events.NodeLeft)]
    assert [(each.node, each.nodes) for each in left] == [("a", 1)]


async def test_a_node_that_is_lost_while_it_gets_a_partial_holds_nothing_up(
    origin: Origin, fleet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    handing, lost = threading.Event(), threading.Event()

    def until_it_is_lost(*places: Any, **more: Any) -> None:
        handing.set()
        lost.wait(30)
        hand_over(*places, **more)

    monkeypatch.setattr("osp_fetch.cluster.destinations.hand_over", until_it_is_lost)
    files = {"large": noise(8 * MIB, 1)}
    run = fleet("a", settings=quick(limits={"part_size": "1MiB"}))
    work = run.start(served(origin, files, slow(2 * MIB)))
    await run.until(lambda: run.received() > 3 * MIB)
    run.nodes.add("b")
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    run.nodes.signal("a", signal.SIGKILL)
    await run.until(handing.is_set)
    run.nodes.signal("b", signal.SIGKILL)
    await run.until(lambda: sum(isinstance(each, events.NodeLeft) for each in run.seen) == 2)
    said = [detail(each, verbose=False) or "" for each in run.seen if isinstance(each, events.NodeLeft)]
    assert ["the run waits until one joins" in each for each in said] == [False, True]
    lost.set()
    run.nodes.add("c")
    await work
    assert run.counts() == {Status.FETCHED: 1}
    assert tree(run.root) == files


async def test_a_file_that_kills_its_node_at_once_kills_few_of_them(origin: Origin, fleet: Make) -> None:
    run = fleet("n0")
    killed = list[str]()

    async def poison(exchange: Exchange, page: o.Page) -> None:
        for name, process in run.nodes.processes.items():
            if process.returncode is None and name not in killed:
                process.kill()
                killed.append(name)
        run.nodes.add(f"n{len(killed)}")
        await asyncio.sleep(30)

    await run.fetch(served(origin, {"bad": noise(50_000, 1)}, poison))
    assert run.counts() == {Status.FAILED: 1}
    assert len(killed) <= 7, "one whose begin was not known yet, and five in a row"


async def test_the_run_states_the_connections_of_all_nodes_together(origin: Origin, fleet: Make) -> None:
    files = {f"f{n}": noise(400_000 + n, n) for n in range(4)}
    run = fleet("a", "b")
    work = run.start(served(origin, files, slow(100_000)))
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    begun = len(run.seen)
    await run.until(lambda: any(isinstance(each, events.Waited) and each.total for each in run.seen[begun:]))
    await work
    *_, stated = (each.total for each in run.seen if isinstance(each, events.Waited) and each.total)
    assert stated == 2 * run.each


async def test_a_partial_that_no_node_can_continue_is_deleted_when_the_file_is_complete(
    origin: Origin, fleet: Make
) -> None:
    files = {f"f{n}": noise(100_000 + n, n) for n in range(4)}
    run = fleet("a", settings=quick(limits={"connections": 4}))
    left = run.root / ".osp-fetch" / "partial" / "f1"  # as a killed run leaves it before the first record
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 5000)
    work = run.start(served(origin, files, slow(30_000)))
    await run.until(lambda: run.received() > 0)
    run.nodes.add("b")
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    run.nodes.signal("a", signal.SIGKILL)
    await work
    assert tree(run.root) == files
    assert not [path for path in (run.root / ".osp-fetch").rglob("partial/*") if path.is_file()]


async def test_a_frozen_node_is_given_up_and_changes_nothing_when_it_wakes(
    origin: Origin, fleet: Make
) -> None:
    files = {f"f{n}": noise(4 * MIB + n, n) for n in range(6)}
    run = fleet("a", "b", patience=6.0, in_reach=False)
    work = run.start(served(origin, files, slow(2 * MIB)))
    await run.until(lambda: run.received() > 2 * MIB)
    run.nodes.signal("a", signal.SIGSTOP)
    await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
    run.nodes.signal("a", signal.SIGCONT)
    await work
    await run.nodes.processes["a"].wait()  # it ends when it finds that the run has given it up
    assert run.counts() == {Status.FETCHED: 6}
    assert tree(run.root) == files
    assert Counter(each.path for each in run.outcomes) == dict.fromkeys(files, 1)
    assert not list((run.root / ".osp-fetch").glob("replaced/*"))


async def test_a_node_that_is_cut_off_is_given_up_and_ends(origin: Origin, fleet: Make) -> None:
    files = {f"f{n}": noise(4 * MIB + n, n) for n in range(6)}
    run = fleet("a", "b", patience=4.0, in_reach=False)
    work = run.start(served(origin, files, slow(2 * MIB)))
    await run.until(lambda: run.received() > 2 * MIB)
    run.nodes.cut("a")
    await work
    await run.nodes.processes["a"].wait()  # it ends by itself: no one can tell it to
    assert run.counts() == {Status.FETCHED: 6}
    assert tree(run.root) == files
    assert Counter(each.path for each in run.outcomes) == dict.fromkeys(files, 1)
    left = [(each.node, each.why) for each in run.seen if isinstance(each, events.NodeLeft)]
    assert left == [("a", "it was silent for 4 s")]
    assert not list((run.root / ".osp-fetch").glob("replaced/*"))


async def test_a_node_needs_no_disk_of_its_own(
    origin: Origin, fleet: Make, held: Held, bucket: str, tmp_path: Path
) -> None:
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"), str(tmp_path / "absent"))
    run = fleet("a", environment={"a": nowhere})
    await run.fetch(served(origin, MIXED))
    assert run.counts() == {Status.FETCHED: len(MIXED)}
    assert tree(run.root) == MIXED
    into = fleet("a", environment={"a": nowhere}, bucket=bucket_address(f"s3://{bucket}/x"))
    await into.fetch(served(origin, MIXED))
    assert {key: held.data(key) for key in held.every("x/")} == {f"x/{n}": d for n, d in MIXED.items()}
    assert not (tmp_path / "absent").exists()


async def test_a_node_whose_clock_is_an_hour_off_is_like_any_other(origin: Origin, fleet: Make) -> None:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("faketime is not installed")
    files = {f"f{n}": noise(2 * MIB + n, n) for n in range(8)}
    off = {"LD_PRELOAD": str(found[0]), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    run = fleet("off", "right", environment={"off": off}, patience=6.0)
    work = run.start(served(origin, files, slow(2 * MIB)))
    await run.until(lambda: run.received() > 4 * MIB)
    run.nodes.signal("right", signal.SIGKILL)
    await work
    assert run.counts() == {Status.FETCHED: 8}
    assert tree(run.root) == files
    assert [each.node for each in run.seen if isinstance(each, events.NodeLeft)] == ["right"]
    again = fleet("right")
    await again.fetch(served(origin, files))
    assert again.counts() == {Status.PRESENT: 8}


async def test_a_node_that_is_told_to_go_gives_its_jobs_back(origin: Origin, fleet: Make) -> None:
    files = {f"large{n}": noise(8 * MIB + n, n) for n in range(4)}
    run = fleet("a", "b", settings=quick(limits={"part_size": "1MiB"}))
    work = run.start(served(origin, files, slow(3 * MIB)))
    await run.until(lambda: run.received() > 8 * MIB)
    run.nodes.signal("a", signal.SIGTERM)
    await work
    assert run.counts() == {Status.FETCHED: 4}
    assert tree(run.root) == files
    assert run.received() < 1.3 * sum(map(len, files.values()))
    assert [each.why for each in run.seen if isinstance(each, events.NodeLeft)] == ["it ended with status 0"]


async def test_the_views_show_what_each_node_does(origin: Origin, fleet: Make, tmp_path: Path) -> None:
    files = {f"f{n}": noise(2 * MIB + n, n) for n in range(8)}
    run, board = fleet("a", "b"), Board()
    log = EventLog(tmp_path / "events.jsonl")
    run.observers += [board, log]
    work = run.start(served(origin, files, slow(4 * MIB)))
    await run.until(lambda: all(line.received for line in board.nodes.lines()) and len(board.nodes) == 2)
    shown = run_lines(board.snapshot())
    assert [line.split(":")[0] for line in shown if " in progress; " in line] == sorted(
        ["a", "b"], key=[line.name for line in board.nodes.lines()].index
    )
    run.nodes.signal("a", signal.SIGKILL)
    await work
    log.close()
    a, b = sorted(board.snapshot()["nodes"], key=lambda row: str(row["node"]))
    assert (a["left"], b["left"]) == ("it ended with status -9", None)
    assert a["fetched"] + b["fetched"] == len(files)
    assert a["bytes_received"] + b["bytes_received"] == board.received
    assert [row[key] for row in (a, b) for key in ("files", "connections")] == [0, 0, 0, 0]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    by_node = Counter(line["node"] for line in lines if line["event"] == "finished")
    assert by_node == {row["node"]: row["fetched"] for row in (a, b) if row["fetched"]}


async def test_a_killed_node_leaves_no_upload_in_a_bucket(
    origin: Origin, fleet: Make, held: Held, bucket: str
) -> None:
    files = {f"large{n}": noise(20 * MIB + n, n) for n in range(4)}
    run = fleet("a", "b", bucket=bucket_address(f"s3://{bucket}/x"))
    work = run.start(served(origin, files, slow(3 * MIB)))
    await run.until(lambda: len(held.uploads()) > 2)
    run.nodes.signal("a", signal.SIGKILL)
    await work
    assert run.counts() == {Status.FETCHED: 4}
    assert {key: held.data(key) for key in held.every("x/")} == {f"x/{n}": d for n, d in files.items()}
    assert held.uploads() == []


PART = 8 * MIB  # of an upload


def recorded(run: Fleet, path: str) -> Upload | None:
    """Return the unfinished upload of a file, as the run knows it."""
    place = state_folder(run.root) / "uploads.sqlite3"
    if not place.exists():
        return None
    ledger = UploadLedger(place)
    try:
        return ledger.get(path)
    finally:
        ledger.close()


def parts(run: Fleet, path: str) -> int:
    """Return the number of parts of an unfinished upload, as the run knows it."""
    upload = recorded(run, path)
    return len(upload.parts) if upload else 0


async def test_the_parts_that_a_killed_node_has_uploaded_are_not_fetched_again(
    origin: Origin, fleet: Make, held: Held, bucket: str
) -> None:
    data = noise(12 * PART + 1, 1)
    run = fleet("a", bucket=bucket_address(f"s3://{bucket}/x"), settings=quick(limits={"connections": 2}))
    work = run.start(served(origin, {"large": data}, o.counted(origin, 12 * MIB)))
    await run.until(lambda: parts(run, "large") >= 6)
    begun = recorded(run, "large")
    run.nodes.add("b")
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    run.nodes.signal("a", signal.SIGKILL)
    await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
    gone_on = recorded(run, "large")
    assert begun is not None and gone_on is not None
    assert gone_on.upload == begun.upload
    await work
    assert run.counts() == {Status.FETCHED: 1}
    assert held.data("x/large") == data
    assert len(data) <= origin.sent["/large"] <= len(data) + 4 * PART
    assert held.every() == ["x/large"]
    assert held.uploads() == []


@pytest.mark.parametrize("how", ["frozen", "cut off"])
async def test_a_node_that_lives_on_does_not_disturb_the_upload_that_another_continues(
    origin: Origin, fleet: Make, held: Held, bucket: str, how: str
) -> None:
    data, few = noise(12 * PART + 1, 1), quick(limits={"connections": 2})
    into = bucket_address(f"s3://{bucket}/x")
    run = fleet("a", bucket=into, settings=few, patience=4.0, in_reach=False)
    work = run.start(served(origin, {"large": data}, o.counted(origin, 10 * MIB)))
    await run.until(lambda: parts(run, "large") >= 3)
    run.nodes.add("b")
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    if how == "frozen":
        run.nodes.signal("a", signal.SIGSTOP)
    else:
        run.nodes.cut("a")
    await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
    run.nodes.signal("a", signal.SIGCONT)
    await work
    await run.nodes.processes["a"].wait()
    assert run.counts() == {Status.FETCHED: 1}
    assert held.data("x/large") == data
    assert held.every() == ["x/large"]
    assert held.uploads() == []


async def test_the_parts_that_nodes_have_uploaded_are_not_fetched_again_by_the_next_run(
    origin: Origin, fleet: Make, held: Held, bucket: str
) -> None:
    data, into = noise(12 * PART + 1, 1), bucket_address(f"s3://{bucket}/x")
    rows, few = served(origin, {"large": data}, o.counted(origin, 12 * MIB)), quick(limits={"connections": 2})
    first = fleet("a", bucket=into, settings=few)
    first.start(rows)
    await first.until(lambda: parts(first, "large") >= 6)
    await stop({first.work})
    second = fleet("b", bucket=into, settings=few)
    await second.fetch(rows)
    assert second.counts() == {Status.FETCHED: 1}
    assert held.data("x/large") == data
    assert len(data) <= origin.sent["/large"] <= len(data) + 4 * PART
    assert held.uploads() == []


async def test_a_node_that_joins_has_work(origin: Origin, fleet: Make) -> None:
    files = {f"f{n}": noise(MIB, n) for n in range(40)}
    run = fleet("a")
    work = run.start(served(origin, files, slow(2 * MIB)))
    await run.until(lambda: run.published() > 2)
    run.nodes.add("b")
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 2)
    run.nodes.signal("a", signal.SIGKILL)
    await work
    assert run.counts() == {Status.FETCHED: 40}
    assert tree(run.root) == files


async def test_a_host_that_refuses_above_a_number_sees_no_more_from_three_nodes(
    origin: Origin, fleet: Make
) -> None:
    files = {f"f{n}": noise(300_000, n) for n in range(60)}
    rows = served(origin, files, refuse_above(origin, 12, 400_000))
    run = fleet("a", "b", "c")
    await run.fetch(rows)
    assert run.counts() == {Status.FETCHED: 60}
    assert tree(run.root) == files


async def test_fewer_connections_than_nodes_are_never_exceeded(origin: Origin, fleet: Make) -> None:
    files = {f"f{n:02}": noise(60_000, n) for n in range(30)}
    run = fleet("a", "b", "c", settings=quick(limits={"connections": 2}))
    await run.fetch(served(origin, files, slow(400_000)))
    assert run.counts() == {Status.FETCHED: 30}
    assert origin.most_open <= 2


async def test_the_request_rate_of_a_host_is_that_of_all_nodes_together(origin: Origin, fleet: Make) -> None:
    files = {f"f{n:02}": noise(1000, n) for n in range(40)}
    times: list[float] = []

    async def timed(exchange: Exchange, page: o.Page) -> None:
        times.append(asyncio.get_running_loop().time())
        await o.polite(exchange, page)

    run = fleet("a", "b", "c", settings=quick(limits={"requests_per_second": 20}))
    await run.fetch(served(origin, files, timed))
    assert run.counts() == {Status.FETCHED: 40}
    # each node may begin with one request at once, whenever the parts change
    assert times[-1] - times[0] >= (len(times) - 6) / 20


async def test_files_that_only_waited_on_nodes_that_died_do_not_fail(origin: Origin, fleet: Make) -> None:
    files = {f"f{n:02}": noise(100_000, n) for n in range(20)}
    run = fleet("n0", settings=quick(limits={"connections": 1}))
    work = run.start(served(origin, files, slow(400_000)))
    for number in range(7):  # more nodes than a file may lose while it is fetched
        await run.until(lambda more=2 * (number + 1): run.published() >= more)  # type: ignore[misc]
        run.nodes.signal(f"n{number}", signal.SIGKILL)
        run.nodes.add(f"n{number + 1}")
    await work
    assert run.counts() == {Status.FETCHED: 20}, run.outcomes
    assert tree(run.root) == files


def test_a_file_fails_when_workers_die_of_it_and_not_when_they_bring_it_further() -> None:
    def died(*, begun: bool) -> WorkerDiedError:
        error = WorkerDiedError("killed")
        error.begun = begun
        return error

    further = Losses("f", 3)
    for held in range(20):
        further.add(died(begun=True), held)
    of_it = Losses("f", 3)
    for held in (5, 5, 0):
        of_it.add(died(begun=True), held)
    with pytest.raises(StorageError, match="f: 3 workers died while they fetched it, and it got no further"):
        of_it.add(died(begun=True), 5)
    waits = Losses("f", 3)
    for _ in range(29):
        waits.add(died(begun=False), 0)
    with pytest.raises(StorageError, match="30 workers died"):
        waits.add(died(begun=False), 0)


async def test_the_run_is_stopped_and_another_one_goes_on(origin: Origin, fleet: Make) -> None:
    files = {f"large{n}": noise(8 * MIB + n, n) for n in range(3)}
    rows = served(origin, files, slow(3 * MIB))
    first = fleet("a", "b", settings=quick(limits={"part_size": "1MiB"}))
    work = first.start(rows)
    await first.until(lambda: first.received() > 16 * MIB)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    second = fleet("c", settings=quick(limits={"part_size": "1MiB"}))
    await second.fetch(rows)
    # a file may have been published while the first run ended
    outcomes = {each.path: each.status for each in second.outcomes}
    assert outcomes.keys() == files.keys()
    assert set(outcomes.values()) <= {Status.FETCHED, Status.PRESENT}
    assert tree(second.root) == files
    # the last parts may be fetched a second time over another connection
    assert second.received() < 0.8 * sum(map(len, files.values())), (first.received(), second.received())


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_published_twice_in_chaos() -> None:
    """The short form of `benchmarks/cluster_chaos.py`."""
    pytest.importorskip("ray", reason="Ray is not installed")
    root = Path(__file__).resolve().parents[1]
    words = [sys.executable, str(root / "benchmarks/cluster_chaos.py"), "--minutes", "1", "--seed", "3"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("wrong or missing", "published twice", "partials left"):
        assert found[name] == 0, found
    assert found["bytes sent, of those of the files"] <= 1.1
    assert found["node killed"] + found["worker frozen"] > 0, "there was no chaos"


# the coordinator alone


def test_a_job_goes_to_the_node_with_the_fewest() -> None:
    coordinator = Coordinator(30)
    first, second = coordinator.join("a", 0), coordinator.join("b", 0)
    nodes = [lease.node for lease in (coordinator.deal() for _ in range(4)) if lease]
    assert sorted(nodes) == [first.number, first.number, second.number, second.number]
    third = coordinator.join("c", 0)
    lease = coordinator.deal()
    assert lease is not None
    assert lease.node == third.number
    other = coordinator.deal(besides=[third.number])
    assert other is not None
    assert other.node != third.number


def test_a_silent_node_is_lost_and_its_results_are_void() -> None:
    coordinator = Coordinator(30)
    node = coordinator.join("a", 0)
    lease = coordinator.deal()
    assert lease is not None
    assert coordinator.heard(node.number, 20)
    assert coordinator.overdue(50) == []
    assert coordinator.overdue(51) == [node]
    assert not coordinator.is_valid(lease)
    assert not coordinator.end(lease)
    assert not coordinator.heard(node.number, 52)
    assert coordinator.deal() is None


def test_a_draining_node_keeps_its_jobs_and_gets_no_more() -> None:
    coordinator = Coordinator(30)
    node = coordinator.join("a", 0)
    lease = coordinator.deal()
    coordinator.drain(node.number)
    assert coordinator.deal() is None
    assert lease is not None
    assert coordinator.end(lease)


def test_a_node_that_receives_wrong_bytes_three_times_is_quarantined() -> None:
    coordinator = Coordinator(30)
    bad, _ = coordinator.join("a", 0), coordinator.join("b", 0)
    assert [coordinator.blame(bad.number) for _ in range(4)] == [False, False, True, False]
    assert all(lease.node != bad.number for lease in (coordinator.deal() for _ in range(5)) if lease)
    (gone,) = (each for each in coordinator.overdue(1e9) if each.number == bad.number)
    assert gone.before is State.QUARANTINED  # which was reported, so that its end is not


def test_the_only_node_is_not_quarantined() -> None:
    coordinator = Coordinator(30)
    node = coordinator.join("a", 0)
    assert not any(coordinator.blame(node.number) for _ in range(10))


def test_an_idle_node_makes_the_busiest_give_jobs_back() -> None:
    coordinator = Coordinator(30)
    coordinator.join("a", 0)
    for _ in range(3):
        coordinator.deal()
    assert coordinator.surplus() is None
    coordinator.join("b", 0)
    assert coordinator.surplus() == 0


def test_a_node_without_work_for_a_host_gives_its_share_back_and_gets_one_with_the_next_job() -> None:
    budget = Budget(0, 100, 8, lambda _: None, {}, steers=False)
    for number in (0, 1):
        budget.joined(number)
    share = {number: budget.grant(number, "h:80") for number in (0, 1)}

    def look(now: float, *, demand: dict[int, int]) -> None:
        for number, waiting in demand.items():
            if (mine := share[number]) is not None:
                used = min(waiting, mine.connections)
                report = HostReport(
                    "h:80", used, used, waiting - used, 0, 0, mine.connections, 0.0, mine.number
                )
                budget.reported(number, [report], now)
        share.update(budget.look(now))

    for second in range(10):
        look(second, demand={0: 20, 1: 20})
    assert [each.connections for each in share.values() if each] == [4, 4]
    for second in range(10, 20):
        look(second, demand={0: 20, 1: 0})
    assert [each.connections for each in share.values() if each] == [8, 0]
    for second in range(20, 30):
        look(second, demand={0: 0, 1: 0})
    again = budget.grant(1, "h:80")
    assert again is not None
    assert again.connections > 0


def test_what_a_lost_node_may_have_open_is_given_to_others_only_when_it_has_gone() -> None:
    budget = Budget(0, 100, 8, lambda _: None, {}, steers=False)
    for number in (0, 1):
        budget.joined(number)

    def reported(worker: int, is_open: int, waiting: int, share: int, number: int, now: float) -> None:
        budget.reported(
            worker, [HostReport("h:80", is_open, is_open, waiting, 0, 0, share, 0.0, number)], now
        )

    first = budget.grant(0, "h:80")
    assert first is not None
    reported(0, 4, 4, 4, first.number, 0.0)
    (_, raised), *_ = budget.look(0.1)
    reported(0, 8, 0, 8, raised.number, 0.2)
    reported(1, 0, 8, 0, 0, 0.3)
    lowered = dict(budget.look(0.4))[0]
    assert lowered.connections == 4
    reported(0, 4, 0, 4, lowered.number, 0.5)
    budget.lost(0)
    given = [dict(budget.look(now)).get(1) for now in (1.0, 3.1, 10.0)]
    assert sum(each.connections for each in given if each) <= 4
    assert budget.grant(0, "h:80") is None
    budget.gone(0)
    assert dict(budget.look(11.0))[1].connections == 8


@dataclass
class Simulated:
    """A node in virtual time: it may be slow, freeze, die or leave."""

    number: int
    jobs: dict[int, Lease] = field(default_factory=dict)
    frozen: bool = False
    open: dict[str, int] = field(default_factory=dict)
    share: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)


class Simulation:
    """A coordinator and a budget over nodes that come, freeze, wake up and go, in virtual time.

    Args:
        seed: of all random decisions.
        jobs: number of jobs.
        hosts: number of hosts, over which the jobs are spread.
        nodes: number of nodes at the begin.
        limit: connections that each host may get.
    """

    def __init__(self, seed: int, jobs: int, hosts: int, nodes: int, limit: int = 8) -> None:
        self.random, self.limit = random.Random(seed), limit
        self.coordinator = Coordinator(10.0)
        self.budget = Budget(0, 10**6, limit, lambda _: None, {}, steers=False)
        self.waiting = list(range(jobs))
        self.hosts = hosts
        self.leases: dict[int, Lease] = {}  # job → its only lease
        self.done: list[int] = []
        self.now = 0.0
        self.nodes: dict[int, Simulated] = {}
        self.lost: list[tuple[float, int]] = []
        for _ in range(nodes):
            self.join()

    def host(self, job: int) -> str:
        return f"h{job % self.hosts}:80"

    def join(self) -> None:
        member = self.coordinator.join("n", self.now)
        self.budget.joined(member.number)
        self.nodes[member.number] = Simulated(member.number)

    def step(self) -> None:
        """Let one second pass."""
        self.now += 1.0
        self._chance()
        self._work()
        self._membership()
        self._divide()
        self._deal()
        self.check()

    def _chance(self) -> None:
        if self.random.random() < 0.1:
            self.join()
        for node in self.random.sample(list(self.nodes.values()), min(2, len(self.nodes))):
            dice = self.random.random()
            if dice < 0.1:
                node.frozen = not node.frozen
            elif dice < 0.13 and len(self.nodes) > 1:  # killed: its connections are closed with it
                self._void(node.number)
                self.budget.gone(node.number)
                del self.nodes[node.number]

    def _void(self, number: int) -> None:
        self.coordinator.leave(number)
        for job, lease in list(self.leases.items()):
            if lease.node == number:
                del self.leases[job]
                self.waiting.append(job)

    def _work(self) -> None:
        for node in self.nodes.values():
            if node.frozen:
                continue
            self.coordinator.heard(node.number, self.now)
            for job, lease in list(node.jobs.items()):
                host = self.host(job)
                if node.open.get(host, 0) < node.share.get(host, 0):
                    node.open[host] = node.open.get(host, 0) + 1
                    continue
                if node.open.get(host, 0) and self.random.random() < 0.5:
                    del node.jobs[job]
                    node.open[host] -= 1
                    if self.coordinator.end(lease):  # else the node was lost, and another one has the job
                        assert self.leases.pop(job) == lease
                        self.done.append(job)

    def _membership(self) -> None:
        for member in self.coordinator.overdue(self.now):
            self._void(member.number)
            self.budget.lost(member.number)
            self.lost.append((self.now + 5.0, member.number))
        for when, number in list(self.lost):
            if when <= self.now:  # its sockets have timed out
                self.lost.remove((when, number))
                self.budget.gone(number)
                self.nodes.pop(number, None)

    def _divide(self) -> None:
        for node in self.nodes.values():
            if node.frozen:
                continue
            waiting: dict[str, int] = {}
            for job in node.jobs:
                waiting[self.host(job)] = waiting.get(self.host(job), 0) + 1
            reports = [
                HostReport(
                    host, node.open.get(host, 0), 0, max(0, waiting.get(host, 0) - node.open.get(host, 0)), 0,
                    0, node.share.get(host, 0), 0.0, node.sent.get(host, 0),
                )
                for host in {*waiting, *node.share}
            ]  # fmt: skip
            if node.number not in {number for _, number in self.lost}:
                self.budget.reported(node.number, reports, self.now)
        for number, assign in self.budget.look(self.now):
            if (there := self.nodes.get(number)) is not None and not there.frozen:
                there.share[assign.host], there.sent[assign.host] = assign.connections, assign.number

    def _deal(self) -> None:
        for _ in range(min(len(self.waiting), 4 * len(self.nodes))):
            lease = self.coordinator.deal()
            if lease is None:
                return
            job = self.waiting.pop(0)
            assert job not in self.leases
            self.leases[job] = lease
            taker = self.nodes[lease.node]
            taker.jobs[job] = lease
            if (granted := self.budget.grant(taker.number, self.host(job))) is not None:
                taker.share[granted.host], taker.sent[granted.host] = granted.connections, granted.number

    def check(self) -> None:
        """Check that no host has more connections than its limit, and that no job has two leases."""
        opened: dict[str, int] = {}
        for node in self.nodes.values():
            for host, count in node.open.items():
                opened[host] = opened.get(host, 0) + count
        assert all(count <= self.limit for count in opened.values()), opened
        valid = [lease.number for lease in self.leases.values() if self.coordinator.is_valid(lease)]
        assert len(valid) == len(set(valid)) == len(self.leases)


@given(seed=st.integers(0, 10**9), hosts=st.integers(1, 5), nodes=st.integers(1, 8))
@example(seed=7497, hosts=1, nodes=1)
@example(seed=1346, hosts=2, nodes=3)
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_job_ends_once_and_no_host_gets_more_than_its_limit(seed: int, hosts: int, nodes: int) -> None:
    simulation = Simulation(seed, 120, hosts, nodes)
    for _ in range(2_000):
        simulation.step()
        if len(simulation.done) == 120:
            break
    assert sorted(simulation.done) == list(range(120))


async def test_a_node_that_receives_wrong_bytes_is_named_and_gets_no_more(
    origin: Origin, fleet: Make
) -> None:
    files = {f"f{n:02}": noise(50_000 + n, n) for n in range(60)}

    async def by_node(exchange: Exchange, page: o.Page) -> None:
        address, _ = exchange.writer.get_extra_info("peername")
        data = bytes(len(page.data)) if address == "127.0.0.9" else page.data
        await exchange.serve(Blob(data), page.headers, rate=40_000)

    run = fleet("a", "bad", "b", sources={"bad": "127.0.0.9"})
    await run.fetch(served(origin, files, by_node))
    assert run.counts() == {Status.FETCHED: 60}
    assert tree(run.root) == files
    left = [(each.node, each.why) for each in run.seen if isinstance(each, events.NodeLeft)]
    assert left == [("bad", "wrong bytes")]


async def test_a_file_that_is_given_back_does_not_return_to_the_node_that_received_it_wrong(
    origin: Origin, fleet: Make
) -> None:
    files = {"f": noise(4 * MIB, 1)}
    all_there, at_a = asyncio.Event(), asyncio.Event()

    async def by_node(exchange: Exchange, page: o.Page) -> None:
        address, _ = exchange.writer.get_extra_info("peername")
        if address == "127.0.0.9":
            await all_there.wait()
            await exchange.serve(Blob(bytes(len(page.data))), page.headers)
        elif address == "127.0.0.10":
            at_a.set()
            await exchange.serve(Blob(page.data), page.headers, rate=200_000)
        else:
            await exchange.serve(Blob(page.data), page.headers)

    run = fleet("bad", "a", "b", sources={"bad": "127.0.0.9", "a": "127.0.0.10"})
    run.start(served(origin, files, by_node))
    await run.until(lambda: sum(isinstance(each, events.NodeJoined) for each in run.seen) == 3)
    all_there.set()
    await run.until(at_a.is_set)
    run.nodes.signal("a", signal.SIGTERM)
    await run.work
    assert run.counts() == {Status.FETCHED: 1}, run.outcomes
    assert tree(run.root) == files
