"""Tests of the views: their lines are correct from the first one on."""

from __future__ import annotations

import io
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from osp_fetch import fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import (
    FetchError,
    ManifestError,
    NetworkError,
    Remedy,
    StatusError,
    UnreachableError,
)
from osp_fetch.model.report import Outcome, Report, Status
from osp_fetch.model.settings import Settings
from osp_fetch.views.board import Board
from osp_fetch.views.event_log import EventLog
from osp_fetch.views.fanout import Fanout
from osp_fetch.views.formatting import advice, folded, summary
from osp_fetch.views.hash_progress import HashProgress
from osp_fetch.views.screen import Plain, connections, headline, panel, stall, total
from tests.conftest import quick
from tests.origin import Origin, Page, noise


def test_the_first_line_of_a_log_states_the_rate() -> None:
    now = 100.0
    board, out = Board(clock=lambda: now), io.StringIO()
    view = Plain(board, out)
    board(events.RowsRead(1, 1, 600 << 20, None))
    board(events.ManifestEnded())
    board(events.Opened("f", "h:443"))
    now += view.period
    board(events.Wrote("f", 60 << 20))
    view.tick()
    line = "0 of 1 file; 60.0 MiB of 600.0 MiB; 2.0 MiB/s; 1 connection to h; 4 min 30 s left\n"
    assert out.getvalue() == line


async def test_bytes_that_two_connections_bring_count_once(origin: Origin, tmp_path: Path) -> None:
    """A slow connection at the end of a run is hedged: its bytes come twice."""
    slow_once = iter([True])

    async def fault(exchange: Exchange, page: Page) -> None:
        rate = 100_000 if exchange.headers.get("range") and next(slow_once, False) else 4_000_000
        await exchange.serve(Blob(page.data), {"ETag": '"1"'}, rate=rate)

    url = origin.add("f", noise(8_000_000), always=fault)
    board, most = Board(), [0]

    def observe(event: events.Event) -> None:
        board(event)
        most[0] = max(most[0], board.done)

    settings = quick(limits={"per_host": 4, "part_size": "1MiB"})
    report = await fetch_all([entry("f", url)], tmp_path, settings=settings, observer=observe)
    assert report.ok
    assert most[0] == board.done == 8_000_000


async def test_how_many_files_there_are_is_known_before_the_first_one_ends(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(1000, n))) for n in range(40)]
    board = Board()
    counted: list[tuple[int, bool]] = []

    def observe(event: events.Event) -> None:
        board(event)
        if isinstance(event, events.Finished):
            counted.append((board.rows, board.rows_final))

    settings = Settings.load(("test", {"limits": {"connections": 1}}))
    await fetch_all(rows, tmp_path, settings=settings, observer=observe)
    assert counted == [(40, True)] * 40


def test_the_expiry_of_fresh_links_takes_the_place_of_the_old_one() -> None:
    board = Board()
    board(events.RowsRead(5, 0, 0, 1000.0))
    board(events.RowsRead(5, 0, 0, 900.0))
    assert board.expires == 900.0
    board(events.LinksRenewed(3, 5000.0))
    assert board.expires == 5000.0
    board(events.LinksRenewed(3))
    assert board.expires == 5000.0


def test_a_small_file_about_to_get_its_name_is_no_line_and_one_that_waits_is() -> None:
    now = 100.0
    board = Board(clock=lambda: now)
    for path, length in (("small", 1000), ("large", 9 << 20)):
        board(events.Opened(path, "h"))
        board(events.FileBegun(path, length, length, 0))
    assert [line.path for line in board.slowest(9)] == ["large"]
    now += 6
    assert [line.path for line in board.slowest(9)] == ["small", "large"]
    board(events.Closed("small", "h"))
    board(events.Opened("new", "h"))
    board(events.FileBegun("new", 9 << 20, None, 0))
    board(events.Closed("new", "h"))
    assert [line.path for line in board.slowest(9)] == ["small", "large"]
    now += 2
    assert [line.path for line in board.slowest(9)] == ["small", "large", "new"]


def many(count: int = 10_000, done: int = 1207) -> tuple[Board, list[float]]:
    """Return the board of a run of small files after 10 s, and its clock."""
    now = [100.0]
    board = Board(clock=lambda: now[0], wall=lambda: 0.0)
    board(events.RowsRead(count, count, count * 1000))
    board(events.ManifestEnded())
    board.rate()
    for n in range(done + 8):
        board(events.Opened(f"f{n}", "h:443"))
        board(events.Wrote(f"f{n}", 1000))
        if n < done:
            board(events.Closed(f"f{n}", "h:443"))
            board(events.Finished(Outcome(f"f{n}", Status.FETCHED, entry(f"f{n}", "http://h/a", size=1000))))
    now[0] += 2.5
    return board, now


def test_many_small_files_are_a_count_and_a_pace_and_no_lines() -> None:
    board, _ = many()
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(panel(board))
    text = console.export_text()
    assert "1,207 of 10,000 files · 483/s · 1,207 fetched · 8 connections to h" in text
    assert "×" not in text
    assert headline(board).startswith(
        "1,207 of 10,000 files; 1.2 MiB of 9.5 MiB; 474.6 KiB/s; 8 connections to h"
    )


@settings(deadline=None)  # the first example imports rich
@given(
    st.integers(60, 220), st.integers(5, 60), st.integers(0, 1 << 50), st.text(min_size=1, max_size=300),
    st.sampled_from(["goodput has increased", "refused above", "a reason that is far too long to fit " * 5]),
)  # fmt: skip
def test_the_panel_fits_every_terminal(width: int, height: int, length: int, name: str, why: str) -> None:
    board = Board(wall=lambda: 0.0)
    board(events.RowsRead(20, 19, length, 1e9))
    board(events.ManifestEnded())
    board(events.LimitChanged("a-host-with-a-name.example:443", 64, why))
    for n in range(20):
        board(events.Opened(f"{n}{name}", "a-host-with-a-name.example:443"))
        board(events.FileBegun(f"{n}{name}", 1 << 40, None, length // 20))
    board(events.Retrying("x", "network", 1.0, "the connection was cut " * 20))
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(panel(board, width, height))
    lines = console.export_text().rstrip("\n").splitlines()
    assert len(lines) <= max(height, 10)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert sum("×1" in line for line in lines) >= 3


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_line_is_not_broken_within_a_statement(width: int) -> None:
    board, _ = many()
    board(events.LimitChanged("h:443", 64, "goodput has increased"))
    board(events.Retrying("x", "network", 1.0, "cut"))
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(panel(board, width))
    text = console.export_text()
    for whole in ("1.2 MiB of 9.5 MiB", "1,207 of 10,000 files", "used (goodput has increased)"):
        assert whole in text


def test_connections_are_told_with_the_limit_of_the_busiest_host() -> None:
    board, _ = many()
    board(events.LimitChanged("h:443", 64, "goodput has increased"))
    board(events.LimitChanged("other:443", 2, "refused above"))
    assert connections(board) == "8 of 64 connections to h used (goodput has increased)"
    board(events.Opened("x", "other:443"))
    assert connections(board).endswith("(goodput has increased), 1 to 1 other host")


def test_a_stall_is_told_and_ends_with_the_next_byte() -> None:
    board, now = many()
    assert stall(board) == ""
    now[0] += 9.5
    assert stall(board) == "stalled: no bytes from h for 12 s"
    board(events.RunStarted("out", 20.0))
    assert stall(board) == "stalled: no bytes from h for 12 s (gives up at 20 s)"
    board(events.RunStarted("out", 10.0))
    assert stall(board) == "stalled: no bytes from h for 12 s", "it was given up, and is asked again"
    assert "stalled: no bytes from h for 12 s" in headline(board)
    board(events.Wrote("f1300", 1000))
    assert stall(board) == ""


def test_the_advice_depends_on_the_causes() -> None:
    def advised(*errors: FetchError) -> str:
        report = Report()
        for n, error in enumerate(errors):
            report.add(Outcome(f"f{n}", Status.FAILED, error=error))
        return advice(report)[-1]

    gone = StatusError("404", status=404, remedy=Remedy.FAIL)
    cut = NetworkError("cut")
    assert advised(cut).startswith("Run the same command again to retry these")
    assert advised(gone).startswith("The same command would fail for these again")
    both = advised(cut, gone)
    assert both.startswith("Run the same command again to retry these")
    assert "would fail again: status 404. Correct the list" in both
    rows = ManifestError("m.csv:2: no link")
    assert "--failed" not in advised(rows), "a row that is not valid cannot be written to a list"
    assert "--failed" not in advised(rows, cut)
    assert "write the files among them to a file with --failed FILE" in advised(rows, gone)


def test_a_run_with_nothing_to_do_says_so() -> None:
    report = Report(seconds=0.2)
    for n in range(50):
        report.add(Outcome(f"f{n}", Status.PRESENT, size=1))
    assert summary(report) == "Nothing to do: all 50 files are here (50 present, looked at in 0 s)"


@given(
    st.text(max_size=20), st.none() | st.integers(0, 1 << 50), st.none() | st.text(max_size=20),
    st.floats(0, 1e6), st.sampled_from([Status.FETCHED, Status.FAILED]),
)  # fmt: skip
def test_a_line_of_the_log_states_all_of_an_outcome(
    path: str, size: int | None, digest: str | None, seconds: float, status: Status
) -> None:
    error = FetchError("no, not today") if status is Status.FAILED else None
    outcome = Outcome(path, status, None, size, digest, seconds, error)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "events.jsonl"
        log = EventLog(place)
        log(events.Finished(outcome))
        log.close()
        line = json.loads(place.read_text())
    assert abs(line.pop("time") - time.time()) < 60
    assert line == {"event": "finished", **outcome.row()}


def test_failures_with_one_cause_get_five_lines_and_hosts_that_never_answered_none() -> None:
    out = io.StringIO()
    view = Plain(Board(), out)
    for n in range(300):
        error = UnreachableError(f"f{n}: nowhere.test does not exist")
        view(events.HostDown(f"h{n}.test:80", 1.0, "no such name", heard=False))
        view(events.HostBack(f"h{n}.test:80"))
        view(events.Finished(Outcome(f"f{n}", Status.FAILED, error=error)))
    lines = out.getvalue().splitlines()
    assert len(lines) == 6
    assert "--failed lists them" in lines[-1]
    view(events.HostDown("known.test:80", 1.0, "reset"))
    view(events.HostBack("known.test:80"))
    assert out.getvalue().splitlines()[6:] == [
        "known.test:80 does not answer (reset); next attempt in 1.0 s", "known.test:80 answers again"
    ]  # fmt: skip


def test_verify_shows_how_far_it_is() -> None:
    now = [0.0]
    progress = HashProgress(io.StringIO(), lambda: now[0])
    now[0] = 10.0
    progress.read(100 << 20)
    progress.checked()
    assert progress.line() == "checked: 1 file · 100.0 MiB · 10.0 MiB/s"
    progress.expect(20, 1 << 30)
    assert progress.line() == "checked: 1 of 20 files · 100.0 MiB of 1.0 GiB · 10.0 MiB/s · 1 min 32 s left"


def test_verify_draws_one_line_on_a_terminal_and_removes_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with HashProgress(out) as progress:
        progress.read(1)
        while "checked: " not in out.getvalue():
            time.sleep(0.01)
    assert out.getvalue().endswith("\r\x1b[K")
    assert "\n" not in out.getvalue()


def test_files_are_counted_in_words_and_nothing_is_estimated_from_nothing() -> None:
    board = Board()
    assert headline(board).startswith("0 of 0 files read so far; 0 B; ")
    board(events.RowsRead(1, 0, 0, None))
    assert headline(board).startswith("0 of 1 file read so far; ")
    board(events.RowsRead(1000, 0, 0, None))
    board(events.ManifestEnded())
    assert headline(board).startswith("0 of 1,001 files; ")


def test_lines_are_broken_between_words_and_not_before_a_unit() -> None:
    assert folded("5 of 15 files, 9 s left", 16) == ["5 of 15 files,", "  9 s left"]
    assert folded("it gives 1.0 MiB/s each", 13) == ["it gives", "  1.0 MiB/s", "  each"]
    assert folded("a/very/long/path and more", 8, "> ", ". ") == ["> a/very/long/path", ". and", ". more"]
    assert folded("one two three four", 9, most=2) == ["one two", "  three…"]
    assert folded("", 9) == [""]


@given(
    st.lists(st.sampled_from(["one", "12", "3.5", "s", "MiB/s", "a-b", "%", "words,"])), st.integers(14, 40)
)
def test_no_word_is_lost_and_no_line_too_long_where_lines_are_broken(words: list[str], width: int) -> None:
    lines = folded(" ".join(words), width)
    assert " ".join(lines).split() == words
    assert all(len(line) <= width for line in lines)
    for line, after in pairwise(lines):
        assert not (line[-1:].isdigit() and after.split()[0] in ("s", "MiB/s", "%"))


def test_the_total_of_a_plan_stands_while_the_list_is_being_read() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0])
    board.expected = 1000
    board(events.RowsRead(100, 100, 100 << 20, None))
    now[0] = 10.0
    board(events.Opened("f", "h:443"))
    board(events.Wrote("f", 50 << 20))
    assert headline(board).startswith("0 of 1,000 files; 50.0 MiB of about 1000.0 MiB; 5.0 MiB/s; ")
    assert headline(board).endswith("; about 3 min 10 s left")
    board(events.RowsRead(1000, 1000, 1000 << 20, None))  # another list was added meanwhile
    assert headline(board).startswith("0 of 1,100 files read so far; ")
    board(events.ManifestEnded())
    assert headline(board).startswith("0 of 1,100 files; ")


def test_an_observer_with_the_id_of_a_removed_one_gets_every_event() -> None:
    def broken(event: events.Event) -> None:
        raise ValueError(event)

    fanout, seen = Fanout([]), list[events.Event]()
    fanout.add(broken, events.ManifestEnded)
    fanout(events.ManifestEnded())
    assert len(fanout.failures) == 1
    assert not fanout._only
    fanout.add(seen.append)
    fanout(events.Stopping("x"))
    assert seen == [events.Stopping("x")]


def test_an_observer_of_one_type_of_events_gets_no_other() -> None:
    fanout, seen = Fanout([]), list[events.Event]()
    fanout.add(seen.append, events.Stopping)
    for event in (events.ManifestEnded(), events.Stopping("x"), events.ManifestEnded()):
        fanout(event)
    assert seen == [events.Stopping("x")]


def test_bytes_that_came_twice_count_once() -> None:
    board, row = Board(), entry("f", "http://h/f", 100)
    board(events.Opened("f", "h:80"))
    board(events.FileBegun("f", 100, 100, 0))
    board(events.Wrote("f", 60, "h:80"))
    board(events.Wrote("f", 100, "h:80"))  # from the worker that went on after the first had died
    board(events.Finished(Outcome("f", Status.FETCHED, row, 100)))
    assert (board.done, board.received) == (100, 160)


def test_100_percent_is_shown_only_once_the_run_has_ended() -> None:
    board, row = Board(), entry("f", "http://h/f", 1000)

    def shown() -> tuple[str, float]:
        statements, share = total(board)
        return statements[0], share

    board(events.RowsRead(1, 1, 1000, None))
    board(events.ManifestEnded())
    board(events.Opened("f", "h:80"))
    board(events.Wrote("f", 996))
    assert shown()[0] == "99%"  # it would be rounded to 100 %
    board(events.Wrote("f", 4))
    assert shown() == ("99%", 0.99)
    board(events.Finished(Outcome("f", Status.FETCHED, row, 1000)))
    assert shown() == ("99%", 0.99)
    board(events.RunEnded(Report()))
    assert shown() == ("100%", 1.0)
