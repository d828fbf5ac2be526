"""`osp-fetch get`: download files into a folder, and optionally unpack them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from ..model import events
from ..model.errors import FetchError
from ..s3.address import is_bucket
from . import exits
from .flags import shared
from .groups import Grouped
from .options import profiles_place, with_folder
from .plan import show_before
from .run_flags import check_run, run_flags, run_options, without_unpack
from .streams import say
from .unpack import end_workers, how_of, line_of
from .watching import Watching

if TYPE_CHECKING:
    from ..archives.extract import Unpacked
    from ..archives.extractor import Unpacker
    from ..model.protocols import Row
    from ..model.report import Report
    from ..options import PlainOptions, StopToken
    from ..views.board import Board
    from ..views.screen import Live, Plain

_LIST_PAUSE = 2.0  # seconds after which a pipe that the list comes from is named


@click.command("get", cls=Grouped, short_help="Download files into a folder; run it again to resume.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared
@run_flags
def command(sources: tuple[str, ...], **flags: Any) -> int:
    """Download every file that SOURCE names into a folder. Run the same command again to resume.

    SOURCE is a dataset name (see osp-fetch datasets; "all" for every one), a list (a table, JSON, Parquet,
    links, a list of another tool, also compressed; a folder or glob of these, or - for standard input), a
    URL of a file, a folder page or a checksum list, hf://datasets/OWNER/NAME[@REV][/GLOB],
    s3://BUCKET/FOLDER/, modelscope://datasets/OWNER/NAME[@REV][/GLOB], gdrive://folders/ID or gdrive://files/ID.
    """
    from ..network.certificates import import_aiohttp

    import_aiohttp()  # before anything else imports it
    if flags["dry_run"]:
        from .plan import show

        return show(sources, flags)
    flags = with_folder(sources, flags)
    made = run_options(flags)
    check_run(list(sources), flags, made)
    _raise_descriptor_limit()
    if "-" in sources and sys.stdin is not None and sys.stdin.isatty():
        click.echo("Reading the list from the terminal; end it with Ctrl-D on a line of its own.", err=True)
    import uvloop

    from ..storage.folder.permissions import Permissions

    gc.freeze()  # what was imported stays, and need not be scanned
    with Permissions(made["settings"].storage.mode).applied():  # also for the unpacking after the run
        return uvloop.run(_get(list(sources), flags, made))


async def _get(sources: list[str], flags: dict[str, Any], made: PlainOptions) -> int:
    from ..options import StopToken
    from ..views.board import Board

    stop, board = StopToken(), Board()
    async with Watching(flags, made, board) as watching:
        watching.code = await _fetched(sources, flags, made, stop, watching)
    return watching.code


async def _fetched(
    sources: list[str], flags: dict[str, Any], made: PlainOptions, stop: StopToken, watching: Watching
) -> int:
    """Run, print the result, unpack and lay out. Return the exit code."""
    from ..api import fetch_all
    from ..views.fanout import Fanout, Ticking

    signals = _Signals(stop, watching.board)
    if not flags["quiet"]:
        watching.board.expected = await asyncio.to_thread(
            show_before, sources, flags["output"], made, unpacks=flags["unpack"]
        )
    screen: Any = None

    def say_above(line: str) -> None:
        if screen and not screen.closed:
            screen.say(line)
        else:
            click.echo(line, err=True)

    unpacker = await asyncio.to_thread(_unpacker, sources, flags, made, say_above, watching)
    screen = _screen(watching.board, flags)
    if not flags["quiet"]:
        asyncio.get_running_loop().call_later(_LIST_PAUSE, _say_what_is_read)
    made["stop"] = stop
    shows = screen or (_PageLink() if flags["page"] else None)
    observe = Fanout([each for each in (*watching.observers, shows, unpacker) if each])
    if shows or unpacker or watching.is_wanted:
        made["observer"] = observe
    try:
        async with Ticking(screen, at_end=False) if screen else nullcontext():
            report = await fetch_all(sources, flags["output"], **made)
    finally:
        if screen:
            screen.close()
        if unpacker and (stop.why or sys.exc_info()[0]):
            end_workers()
    report.notes += observe.failures
    watching.report = report
    _tell(report, flags)
    _keep_widths(flags, report.widths)
    code = await _unpacked_code(report, flags, unpacker, signals, stop)
    if flags["layout"] and not stop.why:
        _lay_out(flags)
    return code


async def _unpacked_code(
    report: Report, flags: dict[str, Any], unpacker: Unpacker | None, signals: _Signals, stop: StopToken
) -> int:
    """Wait until archives are unpacked. Return the exit code of the run and of the unpacking."""
    lost = await asyncio.to_thread(_lost, flags, unpacker)
    code = exits.code_of_report(report, interrupted=signals.interrupted)
    if unpacker and not stop.why and await _unpacked(unpacker, stop):
        code = code or exits.SOME_FAILED
    if lost:
        code = code or exits.SOME_FAILED
    if stop.why and report.stopped is None:
        code = exits.INTERRUPTED if signals.interrupted else exits.STOPPED_EARLY
    return code


def _say_what_is_read() -> None:
    """Print which pipe the list comes from, if that takes a while: it may be a mistake."""
    from ..sources.opening import pipe_that_is_read

    if pipe := pipe_that_is_read():
        click.echo(f"reading the list from {pipe}", err=True)


class _PageLink:
    """Prints the link of the page, also with --quiet: nothing else says where the page is."""

    passes_over: Final = frozenset({events.Wrote, events.Opened, events.Closed, events.Finished})

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.PageOpened):
            click.echo(f"page: {event.url}", err=True)


def _keep_widths(flags: dict[str, Any], widths: dict[str, int]) -> None:
    """Save the widest ranges that hosts take, so that the next run does not ask for wider ones."""
    if not widths or flags["profiles"] == "none":
        return
    from ..storage.profiles import save_widths

    try:
        save_widths(profiles_place(flags["profiles"]), widths)
    except FetchError as error:
        click.echo(str(error), err=True)


def _lost(flags: dict[str, Any], unpacker: Unpacker | None) -> bool:
    """With --recheck, print archives that were unpacked and deleted and whose members are missing now.

    Returns whether there is one. With --unpack, the unpacker finds them.
    """
    if not flags["recheck"] or unpacker or is_bucket(flags["output"]):
        return False
    from ..archives.extractor import lost_members

    lost = list(lost_members(Path(flags["output"])))
    for name, members in lost:
        click.echo(
            f"members missing of {name}, which was deleted after unpacking: {', '.join(members[:10])}; run "
            f"the same get with --unpack --again '{name}*' to restore them",
            err=True,
        )
    return bool(lost)


async def _unpacked(unpacker: Unpacker, stop: StopToken) -> bool:
    """Wait until unpacking has finished or a stop is requested. Return whether an archive is broken."""
    from ..archives.extractor import SUPPORTED

    finishing = asyncio.ensure_future(asyncio.to_thread(unpacker.finish))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({finishing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.why:
        end_workers()
    done = await finishing
    if not unpacker.expected:
        click.echo(f"--unpack: no archive among the files; {SUPPORTED}", err=True)
    for name in unpacker.waiting:
        click.echo(
            f"waits for pieces that other shards fetch: {name}; the shard that finishes last unpacks it",
            err=True,
        )
    return any(each.broken for each in done)


def _unpacker(
    sources: list[str],
    flags: dict[str, Any],
    made: PlainOptions,
    say: Callable[[str], None],
    watching: Watching,
) -> Unpacker | None:
    """Return the observer that unpacks archives as files finish, None without --unpack."""
    if not flags["unpack"]:
        for said in without_unpack(flags):
            click.echo(said, err=True)
        return None
    from ..archives.extractor import Unpacker
    from ..inspection.status import is_whole
    from ..storage.destination import destination

    storage = made["settings"].storage
    how = how_of(flags, storage.min_free, durable=storage.durability == "full")

    def tell(each: Unpacked) -> None:
        watching.unpacked(broken=each.broken is not None)
        line = line_of(each)
        if line is not None and (each.broken or not flags["quiet"]):
            say(line)

    place = destination(flags["output"], flags["state"])
    bucket = (place, made["settings"]) if place.bucket else None
    unpacker = Unpacker(place.root, how, tell, lambda path: is_whole(place, made["settings"], path), bucket)
    own = _paths(sources, made)
    watching.unpacker = unpacker
    whole = made.copy()
    # the pieces of a split archive may be spread over several shards: only the complete manifest lists them
    if whole.pop("shard", None):
        unpacker.expect(_paths(sources, whole), own)
    else:
        unpacker.expect(own)
    return unpacker


def _paths(sources: list[str], made: PlainOptions) -> list[str]:
    from ..assembly import rows_of
    from ..model.entry import Entry

    rows = cast("Iterable[Row]", rows_of(list(sources), made).rows)
    return [row.path for row in rows if isinstance(row, Entry)]


def _lay_out(flags: dict[str, Any]) -> None:
    from ..datasets.layout import lay_out
    from .layout import tell as tell_layout

    laid = lay_out(Path(flags["output"]))
    if not flags["quiet"]:
        tell_layout(laid)


def _screen(board: Board, flags: dict[str, Any]) -> Live | Plain | None:
    """Return the progress view, None with --quiet."""
    if flags["quiet"]:
        return None
    from ..views.screen import screen_of

    return screen_of(board, verbose=flags["verbose"])


def _tell(report: Report, flags: dict[str, Any]) -> None:
    from ..views import formatting

    if flags["as_json"]:
        click.echo(json.dumps(report.row(), indent=2))
    if not flags["quiet"]:
        say(formatting.summary(report), err=True)
    if not flags["quiet"] or report.failures:
        for line in formatting.advice(report):
            say(line, err=True)
    if sum(report.counts.values()) == 0 and report.stopped is None:
        others = (
            "other runs have fetched all shares, " if flags["join"] or flags["engine"] == "folder" else ""
        )
        say(
            f"Nothing to fetch: {others}the manifest is empty, or --include and --exclude leave no file.",
            err=True,
        )
    for note in report.notes:
        say(note, err=True)


class _Signals:
    """Signal handlers: Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP save and stop; a second Ctrl-C exits at once.

    While lists and pages are read, there is nothing to save, and a thread that reads cannot be interrupted:
    the first one exits at once then.
    """

    def __init__(self, stop: StopToken, board: Board) -> None:
        self.interrupted = False
        self._stop, self._board = stop, board
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        # batch systems send the first two before a job's time limit, a closing terminal sends SIGHUP
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            # nohup and daemons ignore SIGHUP so that the command outlives the terminal
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._ask, signal.Signals(number).name, exits.STOPPED_EARLY)

    def _interrupt(self) -> None:
        if self.interrupted:
            os._exit(exits.INTERRUPTED)
        self.interrupted = True
        self._ask("Ctrl-C", exits.INTERRUPTED)

    def _ask(self, why: str, code: int) -> None:
        from ..sources.opening import pipe_that_is_read

        self._stop.ask(why)
        pipe = "" if self._board.destination else pipe_that_is_read()
        if pipe or not self._stop.begun:
            when = f"while the list was read from {pipe}" if pipe else "before the run began"
            click.echo(f"osp-fetch: stopped ({why}) {when}", err=True)
            sys.stderr.flush()
            os._exit(code)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit on descriptors: its default of 1024 dates from select(), and sockets count too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
