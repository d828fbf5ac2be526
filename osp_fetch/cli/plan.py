"""`osp-fetch plan`: show what `get` would do."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import TYPE_CHECKING, Any, cast

import click

from ..model.errors import StorageError
from ..model.text import printable
from . import exits
from .flags import shared
from .groups import Grouped
from .options import with_folder
from .run_flags import announced, run_flags, run_names, run_options
from .streams import say

if TYPE_CHECKING:
    from ..inspection.place import Place
    from ..inspection.plan import Plan
    from ..model.protocols import Row
    from ..model.settings import Settings
    from ..options import PlainOptions


class PlanHelp(Grouped):
    """Help without the flags that `plan` only takes because `get` does."""

    def listed(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the flags that change the plan itself."""
        return [each for each in super().listed(ctx) if each.name not in run_names()]


@click.command("plan", cls=PlanHelp, short_help="Show what get would do.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--export",
    nargs=2,
    type=(click.Choice(["aria2", "metalink", "tsvhttp", "sha256sums"]), str),
    metavar="FORMAT FILE",
    help="Write the files as a list of FORMAT: aria2, metalink, tsvhttp or sha256sums. FILE may be -.",
)
@shared
@run_flags
def command(sources: tuple[str, ...], **flags: Any) -> int:
    """Show what get would do with the same arguments: files, bytes, finished files, expiry of links.

    It takes every flag of get. Those that are not listed here change how a run works; the plan
    says what they would do.
    """
    return show(sources, flags)


def show(sources: Sequence[str], flags: dict[str, Any]) -> int:
    """Print the plan.

    Args:
        sources: The SOURCE arguments.
        flags: Flags by parameter name.

    Returns:
        The exit code: 1 if the manifest has bad rows, else 0.

    Raises:
        ManifestError: The manifest cannot be read.
        SettingsError: A setting is invalid.
        StorageError: A ledger cannot be read, or the file of --export cannot be written.
        click.UsageError: A flag is malformed.
    """
    from ..assembly import again_of, rows_of
    from ..inspection.export import Export, opened
    from ..inspection.plan import make_plan

    flags = with_folder(sources, flags)
    made = run_options(flags)
    run = announced(list(sources), flags, made)
    resolved = rows_of(list(sources), made)
    rows = cast("Iterable[Row]", resolved.rows)
    stderr = False
    with ExitStack() as stack:
        export: Export | None = None
        if flags.get("export"):
            kind, file = flags["export"]
            stderr = file == "-"  # the list is the data, and the plan is for people
            export = Export(
                kind, stack.enter_context(opened(file, sys.stdout.buffer, overwrite=flags["overwrite"]))
            )
            rows = export.passing(rows)
        place = stack.enter_context(_opened(flags["output"], made))
        plan = make_plan(rows, place, made.get("shard"), again_of(made))
    plan.notes = [*resolved.notes(), *(export.notes() if export else ())]
    plan.columns, plan.run = resolved.reading.columns, run
    if flags["as_json"]:
        click.echo(json.dumps(plan.row(), indent=2), err=stderr)
    else:
        _print(plan, made["settings"], sources, unpacks=flags["unpack"], stderr=stderr)
    return exits.SOME_FAILED if plan.bad_rows else exits.OK


def show_before(sources: Sequence[str], folder: str, made: PlainOptions, *, unpacks: bool) -> int:
    """Print on stderr what `get` is about to do, if the manifest is already in memory.

    A streamed manifest is not read twice: only warnings are printed for it. If a ledger cannot be read, that
    is printed instead, because a run replaces a damaged one.

    Args:
        sources: The SOURCE arguments.
        folder: The output folder.
        made: Options of the library.
        unpacks: Whether archives are unpacked.

    Returns:
        The number of rows, 0 if it is not known.

    Raises:
        ManifestError: The manifest cannot be read.
        StorageError: The destination cannot be opened.
    """
    from ..assembly import again_of, rows_of
    from ..datasets.catalogue import warnings
    from ..inspection.plan import make_plan
    from ..sources.opening import is_pipe

    if any(map(is_pipe, sources)):
        return 0  # it can be read only once
    resolved = rows_of(list(sources), made)
    rows = resolved.rows
    if not isinstance(rows, list):
        for said in warnings(sources):
            click.echo(said, err=True)
    elif len(rows) > 1:
        with _opened(folder, made) as place:
            try:
                plan = make_plan(rows, place, made.get("shard"), again_of(made))
            except StorageError as error:
                say(f"{error}; there is no plan, and the run replaces the ledger if it is damaged", err=True)
                return 0
        plan.notes, plan.columns = resolved.notes(), resolved.reading.columns
        _print(plan, made["settings"], sources, unpacks=unpacks, stderr=True)
        return plan.files + plan.bad_rows
    return 0


def _opened(folder: str, made: PlainOptions) -> AbstractContextManager[Place]:
    """Return the destination, opened for looks at it."""
    from ..cluster.of_run import is_node_local
    from ..inspection.place import PlacedPlace, opened_place
    from ..storage.destination import destination

    if is_node_local(made):
        return closing(PlacedPlace(destination(folder, made.get("state")).root))
    return opened_place(destination(folder, made.get("state")), made["settings"])


def _print(
    plan: Plan, settings: Settings, sources: Sequence[str], *, unpacks: bool, stderr: bool = False
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..datasets.catalogue import warnings

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _rows(plan, settings, unpacks=unpacks):
        table.add_row(name, Text(value))  # a name may hold brackets, which rich takes for markup
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    console = Console(stderr=stderr, highlight=False, soft_wrap=not terminal)
    console.print(table)
    for said in warnings(sources):
        console.print(said, style="yellow", markup=False)
    for problem in plan.problems[:10]:
        console.print(problem, style="yellow", markup=False)
    for note in plan.notes:
        console.print(note, style="yellow", markup=False)
    if plan.foreign_count:
        console.print(_foreign(plan, settings), markup=False)
    if plan.bad_rows > 10:
        console.print(f"… {plan.bad_rows} bad rows in total; they fail, and the other rows are fetched")


def _foreign(plan: Plan, settings: Settings) -> str:
    """Return what becomes of files that osp-fetch did not write."""
    from ..views import formatting

    names = ", ".join(plan.foreign[:3]) + (", …" if plan.foreign_count > 3 else "")
    were = "was" if plan.foreign_count == 1 else "were"
    unknown = f"{were} written by another program, or changed since"
    if settings.storage.existing == "overwrite":
        others = "and replaces the others"
    elif plan.free is None:
        others = "and the others, too, unless --overwrite is given"
    else:
        others = "and moves the others to .osp-fetch/replaced/"
    count = formatting.count(plan.foreign_count, "existing file")
    return f"{count} {unknown} ({names}); get keeps those with correct content, {others}"


def _rows(plan: Plan, settings: Settings, *, unpacks: bool) -> list[tuple[str, str]]:
    """Return the lines of the plan: what each is about, and a text."""
    rate = settings.limits.rate
    rows = [row for row in _amounts(plan) if row[1]]
    rows += [("columns", text) for text in _columns(plan)]
    if (time_left := _time(plan, rate)) is not None:
        rows.append(("time", time_left))
    rows += _cautions(plan, settings.storage.min_free, unpacks=unpacks)
    if plan.expires_first is not None:
        rows.append(("links", _links(plan, rate)))
    return [*rows, *plan.run.items()]


def _amounts(plan: Plan) -> list[tuple[str, str]]:
    """Return the lines about numbers of files and bytes. The text of one that does not apply is empty."""
    from ..views import formatting

    unsized = formatting.count(plan.unsized, "file") + " of unknown size" if plan.unsized else ""
    left = plan.files - plan.present
    missing = formatting.size(plan.missing_bytes) if plan.missing_bytes or not unsized else ""
    return [
        ("files", _files(plan)),
        ("such as", _examples(plan)),
        (
            "bytes",
            " and ".join(filter(None, (formatting.size(plan.bytes) if plan.bytes else "", unsized))) or "0 B",
        ),
        ("already here", f"{formatting.count(plan.present, 'file')}, {formatting.size(plan.present_bytes)}"),
        ("begun", f"{formatting.count(plan.begun, 'file')}, {formatting.size(plan.held_bytes)} held"),
        (
            "to fetch",
            unsized
            if left == plan.unsized and left
            else ", ".join(filter(None, (formatting.count(left, "file"), missing, unsized if left else ""))),
        ),
        ("free on disk", formatting.size(plan.free) if plan.free is not None else ""),
        ("uploads", _uploads(plan) if plan.parts else ""),
        ("from", ", ".join(f"{host} ({n:,})" for host, n in plan.hosts.most_common(5)) or "nowhere"),
    ]


def _cautions(plan: Plan, min_free: int, *, unpacks: bool) -> list[tuple[str, str]]:
    """Return the lines about what the run needs further, and what is not as it was."""
    from ..views import formatting

    rows: list[tuple[str, str]] = []
    if plan.archives_bytes and unpacks:
        more = f"about {formatting.size(plan.archives_bytes)} of extra space, or little with --delete-after"
        rows.append(("to unpack", f"{formatting.count(plan.archives, 'file')} of archives: {more}"))
    if plan.resolves:
        rows.append(
            (
                "hub quota",
                f"{plan.resolves} requests plus the listing, of 3000 in 5 minutes (5000 with a token)",
            )
        )
    if plan.gone or plan.changed:
        parts = [f"{plan.gone} recorded but gone"] * bool(plan.gone)
        parts += [f"{plan.changed} changed since"] * bool(plan.changed)
        rows.append(("", ", ".join(parts)))
    if plan.free is not None and plan.missing_bytes > max(0, plan.free - min_free):
        kept = f" beside the {formatting.size(min_free)} of --min-free" if min_free else ""
        rows.append(("", f"not enough disk space for all files{kept}"))
    return rows


def _files(plan: Plan) -> str:
    """Return the number of files, and how many of them have a checksum."""
    if plan.digests in (0, plan.files):
        return f"{plan.files:,}, {'with' if plan.digests else 'without'} checksums"
    return f"{plan.files:,}, {plan.digests:,} of them with a checksum"


def _uploads(plan: Plan) -> str:
    """Return how files go to a bucket, and how much memory that may take."""
    from ..storage.destination import MEMORY
    from ..views import formatting

    return (
        f"{formatting.count(plan.parts, 'part')} of {formatting.size(plan.widest_part)} at most, kept in "
        f"memory until uploaded: {formatting.size(MEMORY)} in all unless limits.memory says otherwise"
    )


def _examples(plan: Plan) -> str:
    """Return the first paths, so that the effect of names and globs is seen before anything is fetched."""
    short = [path if len(path) <= 60 else f"{path[:28]}…{path[-28:]}" for path in plan.paths[:3]]
    return ", ".join(printable(path) for path in short) + (", …" if plan.files > 3 else "")


def _columns(plan: Plan) -> list[str]:
    """Return which columns were taken for what; manifests with the same columns share a line."""
    alike: dict[str, list[str]] = {}
    for manifest, taken in plan.columns.items():
        text = ", ".join(f"{meaning} from {column!r}" for meaning, column in taken.items())
        alike.setdefault(text, []).append(manifest)
    return [
        f"{text} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
        for text, names in list(alike.items())[:5]
    ]


def _time(plan: Plan, rate: int | str) -> str | None:
    """Return how long the transfer takes, None if nothing says how fast it may be."""
    from ..views import formatting
    from ..views.status_lines import rate_limit

    left = plan.files - plan.present
    least = "at least " if plan.unsized and left else ""
    if not plan.missing_bytes or not (rate or plan.bytes_per_second):
        return None
    if isinstance(rate, str):
        taken = _by_timetable(plan.missing_bytes, rate, plan.bytes_per_second)
        if taken is None:
            return f"depends on the timetable of --limit-rate: {rate_limit(rate)}"
        return f"{least}{formatting.duration(taken)} by the timetable of --limit-rate: {rate_limit(rate)}"
    pace = rate or plan.bytes_per_second
    at = "--limit-rate" if rate else "the last run's rate"
    return f"{least}{formatting.duration(plan.missing_bytes / pace)} at {at}, {formatting.size(pace)}/s"


def _by_timetable(count: int, rate: str, pace: float) -> float | None:
    """Return the seconds that `count` bytes take by a timetable, None if that cannot be estimated."""
    from ..model.timetable import Timetable

    now = time.localtime()
    return Timetable.of(rate).seconds(count, now.tm_wday, now.tm_hour, now.tm_min, pace)


def _links(plan: Plan, rate: int | str) -> str:
    from ..views import formatting

    now = time.time()
    first, last = plan.expires_first or 0.0, plan.expires_last or 0.0
    said = formatting.expiry(first, now)
    if first < now or plan.files == plan.present:
        return said
    if last - first > 60:
        said += f" (the last {formatting.moment(last)})"
    if plan.unsized:
        return f"{said}; some sizes are unknown, so the needed rate cannot be estimated"
    count = plan.expiring_bytes
    needed = count / (first - now)
    said += f"; finishing before that needs {formatting.size(needed)}/s"
    if rate:
        pace = plan.bytes_per_second
        taken = count / rate if isinstance(rate, int) else _by_timetable(count, rate, pace)
        if taken is not None:
            said += ", within --limit-rate" if taken <= first - now else ", more than --limit-rate allows"
    return said
