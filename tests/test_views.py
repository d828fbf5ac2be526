"""Tests of the views: their lines are correct from the first one on."""

from __future__ import annotations

import io
import json
import tempfile
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import fetch_all
from osp_fetch.model import events
from osp_fetch.model.entry import entry
from osp_fetch.model.errors import FetchError, UnreachableError
from osp_fetch.model.report import Outcome, Status
from osp_fetch.model.settings import Settings
from osp_fetch.views.board import Board
from osp_fetch.views.event_log import EventLog
from osp_fetch.views.screen import Plain
from tests.origin import Origin, noise


def test_the_first_line_of_a_log_states_the_rate() -> None:
    now = 100.0
    board, out = Board(clock=lambda: now), io.StringIO()
    view = Plain(board, out)
    board(events.RowsRead(1, 1, 600 << 20, None))
    board(events.ManifestEnded())
    board(events.Opened("f", "h"))
    board(events.Wrote("f", 60 << 20))
    now += view.period
    view.tick()
    assert out.getvalue() == "0/1 files; 60.0 MiB of 600.0 MiB; 2.0 MiB/s; 1 connection; 4 min 30 s left\n"


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
    board(events.Opened("small", "h"))
    board(events.Opened("large", "h"))
    assert [line.path for line in board.slowest(9)] == ["small", "large"]
    board(events.Closed("small", "h"))
    assert [line.path for line in board.slowest(9)] == ["large"]
    now += 2
    assert [line.path for line in board.slowest(9)] == ["small", "large"]


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
