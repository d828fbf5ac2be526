"""Tests of the sentence why a run is slow: pure ones, and runs that are slow for a known reason."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from osp_fetch import Entry, StopToken, entry, fetch_all
from osp_fetch.connections.buffers import Buffers
from osp_fetch.connections.limit import NO_GAIN, REFUSED
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.connections.wait_reporter import WaitReporter
from osp_fetch.connections.waits import Gauge
from osp_fetch.engine.context import Context
from osp_fetch.engine.run import Run
from osp_fetch.model import events
from osp_fetch.model.report import Outcome, Report
from osp_fetch.model.settings import Settings
from osp_fetch.network.transport import HttpTransport
from osp_fetch.processor import processor_times
from osp_fetch.storage.folder.disk import Disk
from osp_fetch.storage.folder.store import FolderStore
from osp_fetch.views.board import Board
from osp_fetch.views.bottleneck import Bottleneck, Facts, WaitWindow, bottleneck
from osp_fetch.views.fanout import Ticking
from osp_fetch.views.screen import headline, panel
from osp_fetch.views.status_lines import run_lines
from tests.conftest import quick
from tests.origin import Fault, Origin, noise, refuse_above, slow, status
from tests.simulated import Power, SimulatedLedger

FREE = events.Waited(5.0, 8.0, 0.0, 0.1, 0.0, 0.1, most=8, total=8, rate=0, busy="")
HOST = Facts(FREE, 8e6, "h.example", 1, files_left=100)
MIB = 1 << 20


def facts(waited: dict[str, Any] | None = None, **changes: Any) -> Facts:
    """Return `HOST` with changes of it, and of what was waited for."""
    return replace(HOST, waited=replace(FREE, **(waited or {})), **changes)


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        (replace(HOST, waited=None), None),
        (facts(), "host per connection"),
        (facts({"delayed": 7.0, "rate": MIB}), "rate limit"),
        (facts({"delayed": 1.0, "rate": MIB}), "host per connection"),  # the rate is not reached
        (facts({"busy": "loop"}), "processor"),
        (facts({"busy": "cores", "delayed": 7.0, "rate": MIB}), "rate limit"),
        (facts({"writing": 6.0}), "disk"),
        (facts({"writing": 3.0}), "host per connection"),
        (facts({"open": 1.0, "publishing": 40.0}), "finishing"),
        (facts({"open": 0.0, "hashing": 1.0}, files_left=1), "processor"),
        (facts({"most": 64, "total": 64}), None),  # nothing is known about the host yet
        (facts({"most": 64}, limit=8, is_settled=False), None),  # the search goes on
        (facts({"most": 64}, limit=8, top=(8, REFUSED)), "refused connections"),
        (facts({"most": 64}, limit=9, top=(8, REFUSED), is_settled=False), "refused connections"),
        (facts({"most": 64}, limit=8, top=(8, NO_GAIN)), "host"),
        (facts({"most": 64}, refusals=10), "refusals"),
        (facts({"most": 64}, refusals=1), None),
        (facts({"open": 2.0}, files_left=2), "few files"),
        (facts({"open": 2.0}, files_left=None), None),  # the list is still being read
        (facts({"open": 2.0}), None),
        (facts(hosts=5), "connections"),
        (facts({"total": 100}, hosts=5), None),
        (facts({"open": 0.0}, pause=("h.example", 12.0)), "pause"),
        (facts({"open": 8.0}, pause=("other.example", 12.0)), "host per connection"),
        (facts({"open": 0.0}, down="h.example"), "no answer"),
        (facts({"open": 0.0}), None),
    ],
)
def test_the_limit_is_concluded_from_facts_and_nothing_is_said_without_them(
    known: Facts, cause: str | None
) -> None:
    found = bottleneck(known)
    assert (found.cause if found else None) == cause


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (facts({"delayed": 8.0, "rate": 10 * MIB}), "limited by --limit-rate: 10.0 MiB/s"),
        (
            facts({"writing": 6.0}),
            "limited by the disk: connections spend 75 % of their time waiting for writes",
        ),
        (
            facts({"writing": 6.0}, is_bucket=True),
            "limited by the upload to the bucket: connections spend 75 % of their time waiting for it",
        ),
        (
            facts({"open": 0.1, "publishing": 1.0}),
            "limited by this machine: 1 complete file waits to be hashed, written and synced",
        ),
        (facts({"open": 0.0, "hashing": 3.0}), "limited by the processor: 3 complete files are being hashed"),
        (
            facts({"open": 4.0}, goodput=4 * MIB, limit=4, top=(4, REFUSED)),
            "limited by h.example: it refuses more than 4 connections, and gives 1.0 MiB/s on each",
        ),
        (
            facts(limit=8, top=(8, NO_GAIN)),
            "limited by h.example, or the network to it: more than 8 connections bring no more bytes",
        ),
        (
            facts(goodput=8 * MIB),
            "limited by h.example: 1.0 MiB/s on each of 8 connections, and no more are allowed (-j, -x)",
        ),
        (facts({"open": 1.0}, files_left=1), "the last file does not use more than 1 of 8 connections"),
        (
            facts({"open": 0.0}, pause=("h.example", 72.0)),
            "waiting for h.example, which asked for a pause: 1 min 12 s left",
        ),
    ],
)  # fmt: skip
def test_the_sentence_states_the_numbers(known: Facts, text: str) -> None:
    found = bottleneck(known)
    assert found is not None
    assert found.text == text


def test_a_gauge_has_the_exact_mean_of_what_came_and_went() -> None:
    now = [0.0]
    gauge = Gauge(lambda: now[0])
    with gauge:
        now[0] = 2.0
        with gauge:
            now[0] = 3.0
    now[0] = 10.0
    assert gauge.take() == 4.0
    assert gauge.take() == 0.0


def test_a_report_that_is_too_old_or_too_short_says_nothing() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board(events.Opened("f", "h:80"))
    slowed = replace(FREE, seconds=1.0, open=1.0, delayed=1.0, rate=MIB)
    now[0] = 1.0
    board(events.Wrote("f", MIB, "h:80"))
    board(slowed)
    assert board.bottleneck() is None, "one second is too short"
    for now[0] in (2.0, 3.0):
        board(events.Wrote("f", MIB, "h:80"))
        board(slowed)
    assert board.bottleneck() is not None
    assert "limited by --limit-rate: 1.0 MiB/s" in headline(board)
    assert "limited by --limit-rate: 1.0 MiB/s" in run_lines(board.snapshot())
    console = Console(width=30, file=io.StringIO())
    console.print(panel(board, 30, 24))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "limited by --limit-rate:\n  1.0 MiB/s\n" in shown.replace(" \n", "\n"), (
        "it is broken between words"
    )
    assert board.snapshot()["limited_seconds"] == {"rate limit": 2.0}
    now[0] = 6.5
    assert board.bottleneck() is None, "the last report is too old"


def test_workers_are_added_up_and_the_run_states_what_is_allowed() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board(events.Opened("f", "h:80"))
    idle = replace(FREE, seconds=1.0, open=0.0, writing=0.0, publishing=0.0, most=16)
    busy = replace(FREE, seconds=1.0, open=8.0, most=0, total=0)
    for now[0] in (1.0, 2.0, 3.0):
        board(events.Wrote("f", 16 * MIB, "h:80"))
        for event in (idle, busy, busy):
            board(event)
    found = board.bottleneck()
    assert found is not None
    assert found.text.startswith("limited by h: 1.0 MiB/s on each of 16 connections")


def test_of_several_pauses_the_one_that_ends_first_is_named() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    for host, seconds in (("long:80", 100.0), ("short:80", 13.0), ("longer:80", 200.0)):
        board(events.Cooling(host, seconds, "status 429"))
    for now[0] in (1.0, 2.0, 3.0):
        board(replace(FREE, seconds=1.0, open=0.0))
    found = board.bottleneck()
    assert found is not None
    assert found.text == "waiting for short, which asked for a pause: 10 s left"


def test_a_host_whose_files_are_given_up_is_not_waited_for() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    for host in ("gone:80", "later:80"):
        board(events.HostDown(host, 5.0))
    for now[0] in (1.0, 2.0, 3.0):
        board(replace(FREE, seconds=1.0, open=0.0))
    said = []
    for host in ("gone:80", "later:80", ""):
        found = board.bottleneck()
        said.append(found.text if found else None)
        board(events.HostDown(host, None))
    answer = "which does not answer"
    assert said == [f"waiting for gone, {answer}", f"waiting for later, {answer}", None]


def test_a_conclusion_is_drawn_once_a_second_with_any_number_of_workers() -> None:
    drawn = 0

    class Counting(Board):
        def bottleneck(self) -> Bottleneck | None:
            nonlocal drawn
            drawn += 1
            return super().bottleneck()

    now = [0.0]
    board = Counting(clock=lambda: now[0])
    for tick in range(10 * 100):  # 100 workers for 10 seconds
        now[0] = tick / 100
        board(replace(FREE, seconds=1.0, total=0, most=0))
    assert 9 <= drawn <= 12


def test_a_mean_over_many_workers_takes_no_look_at_each_event() -> None:
    reads = 0

    class Watched(events.Waited):
        def __getattribute__(self, name: str) -> Any:
            nonlocal reads
            reads += 1
            return object.__getattribute__(self, name)

    window = WaitWindow()
    idle, full = Watched(1.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0, 0, 0, ""), replace(FREE, seconds=1.0, busy="loop")
    for tick in range(5 * 100):
        window.add(tick / 100, idle, tick)
        if tick % 100 == 0:
            window.add(tick / 100, full, tick)
    reads = 0
    found, goodput = window.mean(5.0)
    assert reads == 0
    assert found is not None
    assert goodput == pytest.approx(100)
    assert (found.busy, found.total) == ("loop", FREE.total)
    assert found.seconds == pytest.approx(5.99)
    assert found.open == pytest.approx((500 * 0.5 + 5 * FREE.open) / 5.99)
    assert found.writing == pytest.approx((500 * 0.25 + 5 * FREE.writing) / 5.99)


def test_refusals_are_believed_until_the_host_has_served_more() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board(events.Opened("f", "h:80"))

    def after(connections: int, why: str) -> str | None:
        board(events.LimitChanged("h:80", connections, why))
        for _ in range(6):
            now[0] += 1.0
            board(events.Wrote("f", MIB, "h:80"))
            board(replace(FREE, seconds=1.0, open=float(connections), most=64, total=64))
        found = board.bottleneck()
        return found.cause if found else None

    assert after(4, REFUSED) == "refused connections"
    assert after(5, "trying more connections again") == "refused connections"
    assert after(20, "goodput has increased") is None
    assert after(64, "goodput has increased") == "host per connection"


# ---- runs that are slow for a known reason


async def found_in(
    rows: list[Entry], folder: Path, cause: str, observe: Callable[[events.Event], None] = lambda _: None,
    **limits: object,
) -> Board:  # fmt: skip
    """Fetch `rows` until `cause` is said to limit the run, or until it ends; return the state of then."""
    board, stop = Board(), StopToken()
    seen: list[str] = []

    def watch(event: events.Event) -> None:
        board(event)
        observe(event)
        if isinstance(event, events.Waited) and (found := board.bottleneck()) is not None:
            seen.append(found.cause)
            if found.cause == cause and cause in board.limited and stop.why is None:
                panel(board, 80, 24)
                stop.ask("it is known")

    settings = quick(limits={"part_size": "auto", **limits}, retry={"attempts": 50})
    await fetch_all(rows, folder, settings=settings, observer=watch, stop=stop)
    assert stop.why == "it is known", f"instead: {seen}"
    assert board.limited[cause] > 0
    return board


def files(origin: Origin, count: int, size: int, fault: Fault | None) -> list[Entry]:
    return [entry(f"f{n}", origin.add(f"f{n}", noise(size, n), always=fault)) for n in range(count)]


async def test_a_rate_limit_is_named(origin: Origin, tmp_path: Path) -> None:
    await found_in(files(origin, 4, 8 * MIB, None), tmp_path, "rate limit", rate=MIB)


async def test_a_host_that_refuses_connections_is_named(origin: Origin, tmp_path: Path) -> None:
    rows = files(origin, 10, 8 * MIB, refuse_above(origin, 4, 300_000))
    board = await found_in(rows, tmp_path, "refused connections")
    assert board.levels[next(iter(board.levels))][0] <= 5


async def test_a_host_that_is_slow_on_each_connection_is_named(origin: Origin, tmp_path: Path) -> None:
    rows = files(origin, 10, 8 * MIB, slow(200_000))
    await found_in(rows, tmp_path, "host per connection", per_host=4)


async def test_workers_report_what_they_wait_for(origin: Origin, tmp_path: Path) -> None:
    rows = files(origin, 12, 8 * MIB, slow(200_000))
    await found_in(rows, tmp_path, "host per connection", connections=4, processes=2)


async def test_refusals_are_named_where_the_number_of_connections_is_fixed(
    origin: Origin, tmp_path: Path
) -> None:
    rows = files(origin, 4, 8 * MIB, slow(100_000)) + [
        entry(f"g{n}", origin.add(f"g{n}", b"x", always=status(503))) for n in range(8)
    ]
    await found_in(rows, tmp_path, "refusals", connections=12)


async def test_the_last_file_of_a_server_without_ranges_is_named(origin: Origin, tmp_path: Path) -> None:
    async def slowly(exchange: Any, page: Any) -> None:
        await exchange.head(200, {"Content-Length": str(len(page.data))})
        for at in range(0, len(page.data), 1 << 16):
            await exchange.raw(page.data[at : at + (1 << 16)])
            await asyncio.sleep(0.2)

    await found_in(files(origin, 1, 4 * MIB, slowly), tmp_path, "few files")


async def test_a_pause_that_a_host_asked_for_is_named(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", noise(1000), status(429, retry_after="6")))
    board = await found_in([row], tmp_path, "pause")
    assert board.received == 0


async def test_an_event_loop_that_uses_its_core_is_named(origin: Origin, tmp_path: Path) -> None:
    def burn(event: events.Event) -> None:
        """Use the core of the event loop, as a view that is too slow does."""
        if isinstance(event, events.Wrote):
            begun = time.thread_time()
            while time.thread_time() - begun < 0.2:
                pass

    await found_in(files(origin, 40, 4 * MIB, None), tmp_path, "processor", burn, part_size="64KiB")


class SlowDisk(Disk):
    """A disk that writes 2 MB/s on each file."""

    def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        super().write(fd, offset, data)
        time.sleep(len(data) / 2e6)


async def test_a_slow_disk_is_named(origin: Origin, tmp_path: Path) -> None:
    settings, board = Settings.load(("test", {"storage": {"min_free": 0}})), Board()
    known, outcomes = asyncio.Event(), list[Outcome]()

    def observe(event: events.Event) -> None:
        board(event)
        found = board.bottleneck() if isinstance(event, events.Waited) else None
        if found is not None and found.cause == "disk":
            known.set()

    pool, state = ConnectionPool(settings.limits, observe), tmp_path / ".osp-fetch"
    state.mkdir()
    async with (
        FolderStore(tmp_path, state, settings.storage, SlowDisk()) as store,
        HttpTransport(settings.limits, settings.retry, settings.timeouts) as transport,
        Ticking(WaitReporter(pool, observe, processor_times)),
    ):
        ledger = SimulatedLedger(Power(1 << 30))
        context = Context(transport, store, ledger, pool, Buffers(settings.limits), settings, observe)
        rows = files(origin, 4, 16 * MIB, None)
        run = asyncio.create_task(Run(context, outcomes.append).fetch(rows))
        waiting = asyncio.create_task(known.wait())
        await asyncio.wait({run, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (run, waiting):
            task.cancel()
        await asyncio.gather(run, waiting, return_exceptions=True)
    assert known.is_set(), board.limited


def test_a_run_that_is_over_has_no_limit() -> None:
    board = Board()
    board(events.RunEnded(Report()))
    assert board.bottleneck() is None
