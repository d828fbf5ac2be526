"""`osp-fetch bench`: find the best settings for a host, and what limits a run."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import SettingsError
from ..model.quantities import size
from ..s3.address import is_bucket
from . import exits
from .flags import shared
from .groups import Grouped
from .options import duration, options, profiles_place, usage, with_folder

if TYPE_CHECKING:
    from ..bench.levels import Point
    from ..bench.measure import Bench
    from ..options import PlainOptions

T = TypeVar("T")
# Rate of the best level, as a part of that of auto, below which it is not saved.
_NO_LOSS: Final = 0.95


@click.command("bench", cls=Grouped, short_help="Find the best settings for a host, and what limits a run.")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@shared
@click.option(
    "--bytes",
    "most_bytes",
    default="32GiB",
    metavar="SIZE",
    help="Fetch about this many bytes.  [default: 32GiB]",
)
@click.option(
    "--time", "most_time", default="2m", metavar="TIME", help="Measure for about this long.  [default: 2m]"
)
@click.option("--no-disk", is_flag=True, help="Discard the bytes: measure the network alone.")
@click.option(
    "--disk",
    is_flag=True,
    help="Also measure the disk, the digests and the network alone. Without SOURCE: disk and digests only.",
)
@click.option("--save", is_flag=True, help="Save the result; get starts with it.")
@click.option("--csv", metavar="FILE", help="Write the measurements as CSV.")
@click.option("--html", metavar="FILE", help="Write the curves as an HTML page.")
@click.option("--png", metavar="FILE", help="Write the curves as a PNG (needs osp-fetch[plot]).")
def command(sources: tuple[str, ...], **flags: Any) -> int:
    """Measure which connections, part size and processes serve a host best.

    The host is that of the first files of SOURCE (see get). They are fetched as get does it, into a scratch
    folder on the disk of --output, which is deleted afterwards. --per-host sets the largest number of
    connections to try, and --part-size the only part size.
    """  # fmt: skip
    if not sources and not flags["disk"]:
        raise click.UsageError("Missing argument 'SOURCE...'. Without one, --disk measures the disk alone.")
    drawn = [name for name in ("csv", "html", "png", "save") if flags[name]]
    if not sources and drawn:
        raise click.UsageError(f"--{drawn[0]}: there is no curve of the disk alone; give a SOURCE, too")
    if is_bucket(flags["output"]) and not (sources and flags["no_disk"]):
        raise click.UsageError("--output: bench measures folders; give --no-disk for the network alone")
    if flags["disk"] and flags["no_disk"]:
        raise click.UsageError("--disk and --no-disk exclude each other")
    if flags["save"] and flags["profiles"] == "none":
        raise click.UsageError("--save cannot be combined with --profiles none: there is no file to save to")
    if flags["png"]:
        from ..bench import curve

        curve.check_png()
    flags = with_folder(sources, flags) if sources else flags
    if sources:
        return _measured(sources, flags)
    return _disk_alone(flags)


def _measured(sources: tuple[str, ...], flags: dict[str, Any]) -> int:
    made = options(flags)
    made["profiles"] = {}
    limit = usage(size, flags["most_bytes"])
    seconds = duration(flags["most_time"])
    if not seconds or not limit:
        raise click.UsageError("--time and --bytes: 0 leaves nothing to measure with")
    import uvloop

    found = uvloop.run(until_signalled(_bench(list(sources), made, flags, limit, seconds)))
    if found is None:
        return exits.STOPPED_EARLY
    _tell(found, flags)
    saved = _save(found, profiles_place(flags["profiles"])) if flags["save"] else True
    _draw(found, flags)
    return exits.OK if saved else exits.SOME_FAILED


async def _bench(
    sources: list[str], made: PlainOptions, flags: dict[str, Any], limit: int, seconds: float
) -> Bench:
    from ..bench.curve import line
    from ..bench.host_files import host_files
    from ..bench.measure import measure
    from ..bench.survey import survey

    def tell(point: Point) -> None:
        click.echo(line(point, 0.0).rstrip(), err=True)

    output = Path(flags["output"])
    host = await asyncio.to_thread(host_files, sources, made)
    if flags["disk"]:
        return await survey(host, made, size=limit, seconds=seconds, output=output, tell=tell)
    place = None if flags["no_disk"] else output
    return await measure(host, made, size=limit, seconds=seconds, output=place, tell=tell)


async def until_signalled(work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`. On SIGTERM or SIGHUP cancel it, so that its scratch folder is deleted; return None."""
    working, signalled = asyncio.ensure_future(work), asyncio.Event()

    def stop() -> None:
        signalled.set()
        working.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await working
    except asyncio.CancelledError:
        if signalled.is_set():
            return None
        raise  # Ctrl-C


def _disk_alone(flags: dict[str, Any]) -> int:
    import uvloop

    from ..bench.survey import disk_of
    from ..bench.verdict import disk_lines

    rates = uvloop.run(until_signalled(disk_of(Path(flags["output"]))))
    if rates is None:
        return exits.STOPPED_EARLY
    if flags["as_json"]:
        from ..model.report import JSON_VERSION

        click.echo(json.dumps({"version": JSON_VERSION, "disk": rates.row()}, indent=2))
        return exits.OK
    for line in disk_lines(rates):
        click.echo(line)
    return exits.OK


def _tell(found: Bench, flags: dict[str, Any]) -> None:
    from ..bench import curve, verdict
    from ..views import formatting

    if flags["as_json"]:
        click.echo(json.dumps(found.row(), indent=2))
        return
    points = [*found.points, *([found.auto] if found.auto else [])]
    most = max(point.goodput for point in points)
    click.echo(f"{found.host}: rate by connections and part size")
    click.echo(curve.HEADER)
    for point in points:
        click.echo(curve.line(point, most).rstrip() + ("  ◀ recommended" if point == found.best else ""))
    for line in verdict.disk_lines(found.disk) if found.disk else ():
        click.echo(line)
    for sentence in verdict.sentences(found):
        click.echo(f"{sentence.rstrip()}.")
    click.echo(f"{formatting.size(found.received)} were fetched for this measurement.")
    if not flags["save"] and found.confirmed and found.helps:
        click.echo(
            f"To use it: get {found.best.level.flags}, or run bench with --save, and get starts with it."
        )


def _save(found: Bench, place: Path) -> bool:
    """Save the profile of a confirmed result. Return whether it was saved, or need not be."""
    from ..storage import profiles

    if not found.confirmed:
        click.echo("not saved: the result is not confirmed", err=True)
        return False
    if found.is_held_back:
        click.echo("not saved: --limit-rate was the limit, and not the host", err=True)
        return False
    if found.gain is not None and found.gain < _NO_LOSS:
        click.echo("not saved: what get does by itself is faster", err=True)
        return False
    profiles.save(place, {found.host: found.profile})
    click.echo(f"saved for {found.host} in {place}; get starts with it", err=True)
    return True


def _draw(found: Bench, flags: dict[str, Any]) -> None:
    from ..bench import curve

    try:
        if flags["csv"]:
            Path(flags["csv"]).write_text(curve.as_csv(found), encoding="utf-8")
        if flags["html"]:
            Path(flags["html"]).write_text(curve.as_html(found), encoding="utf-8")
        if flags["png"]:
            curve.draw_png(Path(flags["png"]), found)
    except OSError as error:
        raise SettingsError(f"the curve cannot be written ({error}); the results are printed above") from None
