"""`osp-fetch get`: fetch into a folder."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from . import exits
from .options import PREFIX, duration, options, shared
from .plan import show_before

if TYPE_CHECKING:
    from ..api import FetchOptions, Stop
    from ..model.report import Report


@click.command("get", short_help="Fetch into a folder; the same command resumes.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared
@click.option("--max-duration", envvar=PREFIX + "MAX_DURATION", metavar="TIME", help="Stop early, exit 75.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be done; the same as plan.")
@click.option("-q", "--quiet", is_flag=True, envvar=PREFIX + "QUIET", help="Say nothing but errors.")
@click.option(
    "-v", "--verbose", is_flag=True, envvar=PREFIX + "VERBOSE", help="Say what happens to each file."
)
def command(sources: tuple[str, ...], **flags: Any) -> int:
    """Fetch every file that SOURCE names into a folder. The same command resumes.

    SOURCE is a dataset (sam-11m, human-160k, mixkit, pixabay, pexels, captions), a manifest file
    (.tsv .csv .jsonl .parquet .meta4 .txt), a URL, or hf://datasets/OWNER/NAME[@REV][/GLOB].
    """
    if flags["dry_run"]:
        from .plan import show

        return show(sources, flags)
    limit = duration(flags["max_duration"])
    if flags["on_expired"] is None and sys.stderr.isatty():
        flags["on_expired"] = "wait"  # somebody is there who can bring a fresh file
    made = options(flags)
    if limit is not None:
        made["max_duration"] = limit
    _raise_descriptor_limit()
    import uvloop

    return uvloop.run(_get(list(sources), flags, made))


async def _get(sources: list[str], flags: dict[str, Any], made: FetchOptions) -> int:
    from ..api import Stop, fetch_all, ticking
    from ..views.board import Board

    if not flags["quiet"]:
        await asyncio.to_thread(show_before, sources, flags["output"], made)
    stop, board = Stop(), Board()
    screen = _screen(board, flags)
    signals = _Signals(stop)
    made["stop"] = stop

    def observe(event: Any) -> None:
        board(event)
        if screen:
            screen(event)

    made["observer"] = observe
    try:
        if screen is None:
            report = await fetch_all(sources, flags["output"], **made)
        else:
            async with ticking(screen, at_end=False):
                report = await fetch_all(sources, flags["output"], **made)
    finally:
        if screen:
            screen.close()
    _tell(report, flags)
    return exits.code_of_report(report, interrupted=signals.interrupted)


def _screen(board: Any, flags: dict[str, Any]) -> Any:
    """What shows the run: nothing, a live panel on a terminal, or a line now and then."""
    if flags["quiet"]:
        return None
    from ..views.screen import Live, Plain

    terminal = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
    return (Live if terminal else Plain)(board, verbose=flags["verbose"])


def _tell(report: Report, flags: dict[str, Any]) -> None:
    from ..views import words

    if flags["as_json"]:
        click.echo(json.dumps(report.row(), indent=2))
    if not flags["quiet"]:
        click.echo(words.summary(report), err=True)
    if not flags["quiet"] or report.failures:
        for line in words.advice(report):
            click.echo(line, err=True)
    if sum(report.counts.values()) == 0 and report.stopped is None:
        click.echo(
            "No row was wanted: the manifest is empty, or --include and --exclude leave nothing.", err=True
        )
    if report.unlisted:
        click.echo(
            f"{report.unlisted} files are not in the list of --checksums; only their sizes were checked.",
            err=True,
        )


class _Signals:
    """Ctrl-C saves and stops, twice it ends at once; SIGTERM and SIGUSR1 save and stop."""

    def __init__(self, stop: Stop) -> None:
        self.interrupted = False
        self._stop = stop
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        # what batch systems send before the end of a job's time
        for number in (signal.SIGTERM, signal.SIGUSR1):
            loop.add_signal_handler(number, stop.ask, signal.Signals(number).name)

    def _interrupt(self) -> None:
        if self.interrupted:
            os._exit(exits.INTERRUPTED)
        self.interrupted = True
        self._stop.ask("Ctrl-C")


def _raise_descriptor_limit() -> None:
    """Sockets and open files share one limit, whose soft default of 1024 dates from select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
