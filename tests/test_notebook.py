"""Tests of what a notebook shows: a real kernel executes a notebook, which fetches from the origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from osp_fetch import FileBegun, Outcome, Report, RowsRead, RunEnded, RunStarted, Status, fetch_all
from osp_fetch.model.errors import LinkExpiredError, Remedy, StatusError
from osp_fetch.model.report import OUTCOMES_KEPT
from osp_fetch.views.board import Board
from osp_fetch.views.formatting import advice
from osp_fetch.views.notebook import Notebook, is_notebook, markup, progress_view, text
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise

QUICK = "settings={'storage': {'min_free': 0}, 'retry': {'initial': 0.01, 'attempts': 2}}"


async def executed(folder: Path, *cells: str) -> tuple[list[list[Any]], list[Any]]:
    """Execute the cells of a notebook in `folder`.

    Returns:
        The outputs of each cell, and every message with something to display, in order of arrival.
    """
    nbclient, v4 = pytest.importorskip("nbclient"), pytest.importorskip("nbformat.v4")
    pytest.importorskip("ipykernel")
    shown: list[Any] = []

    base: Any = nbclient.NotebookClient

    class Client(base):  # type: ignore[misc]
        def process_message(self, message: Any, *rest: Any) -> Any:
            if message["msg_type"] in ("display_data", "update_display_data"):
                shown.append(message["content"]["data"])
            return super().process_message(message, *rest)

    book = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client = Client(book, timeout=60, allow_errors=True, resources={"metadata": {"path": str(folder)}})
    await client.async_execute()
    return [cell.outputs for cell in book.cells], shown


async def test_a_notebook_shows_a_bar_to_100_percent_and_the_report(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.add(f"f{n}", noise(200_000, n), always=o.slow(100_000)) for n in range(3)]
    (outputs, report, error), shown = await executed(
        tmp_path,
        f"from osp_fetch import fetch, fetch_all\nreport = await fetch_all({urls!r}, 'out', {QUICK})",
        "report",
        f"fetch({urls!r}, 'out')",
    )
    (bar,) = outputs  # one display, which was updated
    assert bar.output_type == "display_data"
    assert '<progress value="1.0000"' in bar.data["text/html"]
    assert "100%" in bar.data["text/html"]
    assert bar.data["text/plain"].startswith("3 fetched; 585.9 KiB in ")
    assert len(shown) > 2
    assert not any("100%" in data["text/html"] for data in shown[:-1])
    assert any("0 of 3 files" in data["text/plain"] for data in shown)
    (table,) = report
    assert "<td>fetched</td><td>3</td>" in table.data["text/html"]
    assert table.data["text/plain"].startswith("Report(counts=")
    assert error[0].ename == "SettingsError"
    assert "write `await fetch_all(...)` with the same arguments" in error[0].evalue


async def test_a_notebook_shows_what_failed_and_each_bar_only_where_it_is_wanted(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("f", b"x")
    rows = [{"path": "a<b>.bin", "url": f"{origin.url}/absent"}, {"path": "f", "url": url}]
    (mixed, observed, asked, refused, iterated, broken), _ = await executed(
        tmp_path,
        f"from osp_fetch import fetch_all, fetch_iter\nawait fetch_all({rows!r}, 'out', {QUICK})",
        f"await fetch_all({url!r}, 'b', observer=lambda event: None, {QUICK});",
        f"await fetch_all({url!r}, 'c', observer=lambda event: None, progress=True, {QUICK});",
        f"await fetch_all({url!r}, 'd', progress=False, {QUICK});",
        f"async for outcome in fetch_iter({url!r}, 'e', {QUICK}): pass",
        f"await fetch_all('absent.csv', 'f', {QUICK})",
    )
    bar, report = mixed
    assert bar.data["text/plain"].startswith("1 fetched, 1 failed")
    assert "a&lt;b&gt;.bin: " in report.data["text/html"]
    assert "<b>.bin" not in report.data["text/html"]
    assert (observed, refused) == ([], [])
    for outputs in (asked, iterated):
        assert "100%" in outputs[0].data["text/html"]
    assert [each.output_type for each in broken] == ["error"]


async def test_elsewhere_nothing_is_shown_unless_it_is_asked_for(
    origin: Origin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = [origin.add("f", b"x"), f"{origin.url}/absent"]
    await fetch_all(urls, tmp_path / "a", settings=quick())
    assert capfd.readouterr() == ("", "")
    await fetch_all(urls, tmp_path / "b", settings=quick(), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("failed: absent: ")
    with pytest.raises(TypeError, match="progress=1: pass True or False"):
        await fetch_all(urls, tmp_path / "c", progress=1)  # type: ignore[arg-type]


def test_a_process_with_ipython_is_no_notebook_without_a_kernel() -> None:
    pytest.importorskip("IPython")
    assert not is_notebook()
    assert progress_view(Board(), None, is_observed=False) is None


def test_the_result_is_shown_once_however_long_the_end_of_a_run_takes(tmp_path: Path) -> None:
    shells, capture = pytest.importorskip("IPython.core.interactiveshell"), "IPython.utils.capture"
    shell = shells.InteractiveShell.instance(ipython_dir=str(tmp_path))
    try:
        with pytest.importorskip(capture).capture_output() as captured:
            board = Board()
            view = Notebook(board)
            board(event := RunStarted("out"))
            view(event)
            view.tick()
            board(RunEnded(Report()))
            for _ in range(3):
                view.tick()
            view.close()
            view.tick()
    finally:
        shell.clear_instance()
    shown = [output.data["text/plain"] for output in captured.outputs]
    assert ["read so far" in text for text in shown] == [True, True, False]


def test_the_bar_escapes_names_and_says_what_is_wrong() -> None:
    board = Board()
    hostile = "<script>alert(1)</script>\u202e.bin"
    for event in (
        RunStarted("out"),
        RowsRead(2, 2, 1000, None),
        FileBegun(hostile, 50_000_000, 50_000_000, 25_000_000),
        FileBegun("x" * 100, 5_000_000, 5_000_000, 2_500_000),
    ):
        board(event)
    board.last_trouble = "<b>host & co</b> does not answer"
    made = markup(board)
    assert "<progress style=" in made  # not all rows are read: the share is not known
    assert "<script>" not in made
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert "23.8 MiB of 47.7 MiB" in made
    assert "…" + "x" * 59 + ": " in made
    assert "&lt;b&gt;host &amp; co&lt;/b&gt; does not answer" in made
    assert "\u202e" not in made + text(board)


def test_a_report_groups_failures_by_cause_and_escapes_everything() -> None:
    report = Report(stopped="<Ctrl-C>", notes=["a <note>"], bytes=12345, seconds=2.0)
    for n in range(5):
        error = StatusError(f"d/<{n}>: 404", status=404, remedy=Remedy.FAIL)
        report.add(Outcome(f"d/<{n}>", Status.FAILED, error=error))
    report.add(Outcome("parked", Status.PARKED, error=LinkExpiredError("parked: its link has expired")))
    made = report._repr_html_()
    assert "12,345 bytes received in 2.0 s; stopped: &lt;Ctrl-C&gt;" in made
    assert "<td>failed</td><td>5</td>" in made
    assert "<td>status 404</td><td>5</td><td>The file does not exist at this link." in made
    assert "d/&lt;2&gt;: 404" in made
    assert "d/&lt;3&gt;: 404" not in made
    assert "Put a fresh link file in place of the old one" in made
    assert "a &lt;note&gt;" in made
    assert "<td>fetched</td>" not in made


def test_a_report_counts_failures_beyond_those_that_it_keeps() -> None:
    error = StatusError("404", status=404, remedy=Remedy.FAIL)

    def failed(count: int) -> list[Outcome]:
        return [Outcome(f"f{n}", Status.FAILED, error=error) for n in range(count)]

    report, other = Report(), Report()
    for each in failed(OUTCOMES_KEPT + 10):
        report.add(each)
    other.add(failed(1)[0])
    report.merge(other)
    report.forget(failed(5))
    made = report._repr_html_()
    assert "<td>failed</td><td>20,006</td>" in made
    assert "<td>status 404</td><td>20,006</td>" in made
    assert "… and 20,005 more with this cause" in advice(report)[1]


def test_a_report_of_nothing_is_a_sentence() -> None:
    assert "<table" not in Report()._repr_html_()


async def test_a_run_in_a_task_can_be_cancelled_while_it_is_shown(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(100_000), always=o.slow(10_000))
    ((cancelled,), _) = await executed(
        tmp_path,
        "import asyncio\nfrom pathlib import Path\nfrom osp_fetch import fetch_all\n"
        f"task = asyncio.create_task(fetch_all({url!r}, 'out', {QUICK}))\n"
        "while not Path('out/.osp-fetch/status.json').exists(): await asyncio.sleep(0.05)\n"
        "task.cancel()\n"
        "print(*(await asyncio.gather(task, return_exceptions=True)))",
    )
    assert any(each.output_type == "display_data" for each in cancelled)
    assert not any(each.output_type == "error" for each in cancelled)
    assert "100%" not in cancelled[0].data["text/html"]
