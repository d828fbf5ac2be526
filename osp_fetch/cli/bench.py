"""`osp-fetch bench`: find the best settings for a host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..model.errors import SettingsError
from ..model.settings import size
from . import exits
from .flags import shared
from .options import duration, options, profiles_place, usage

if TYPE_CHECKING:
    from ..bench.measure import Bench
    from ..bench.sweep import Point


@click.command("bench", short_help="Find the best number of connections to a host.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@shared
@click.option(
    "--bytes",
    "most_bytes",
    default="2GiB",
    metavar="SIZE",
    help="Fetch about this many bytes.  [default: 2GiB]",
)
@click.option(
    "--time", "most_time", default="60s", metavar="TIME", help="Measure for about this long.  [default: 60s]"
)
@click.option("--save", is_flag=True, help="Save the result; get starts with it.")
@click.option("--html", metavar="FILE", help="Write the curve as an HTML page.")
@click.option("--png", metavar="FILE", help="Write the curve as a PNG (needs osp-fetch[plot]).")
def command(sources: tuple[str, ...], **flags: Any) -> int:
    """Measure the download rate of a host with increasing numbers of connections.

    The host is that of the first files of SOURCE (see get). Downloaded data is discarded. --per-host sets the
    largest number of connections to try.
    """
    from ..bench import curve

    made = options(flags)
    if flags["png"]:
        curve.check_png()
    made["profiles"] = {}
    limit = usage(size, flags["most_bytes"])
    seconds = duration(flags["most_time"]) or 60.0
    if flags["save"] and flags["profiles"] == "none":
        raise click.UsageError("--save cannot be combined with --profiles none: there is no file to save to")

    def tell(point: Point) -> None:
        click.echo(curve.line(point, 0.0).rstrip(), err=True)

    import uvloop

    from ..bench.measure import measure

    found = uvloop.run(measure(list(sources), made, size=limit, seconds=seconds, tell=tell))
    _tell(found, flags)
    if flags["save"]:
        _save(found, profiles_place(flags["profiles"]))
    try:
        if flags["html"]:
            page = curve.as_html(found.host, found.points, found.best, found.ended)
            Path(flags["html"]).write_text(page, encoding="utf-8")
        if flags["png"]:
            curve.draw_png(Path(flags["png"]), found.host, found.points, found.best)
    except OSError as error:
        raise SettingsError(f"the curve cannot be written ({error}); the results are printed above") from None
    return exits.OK


def _tell(found: Bench, flags: dict[str, Any]) -> None:
    from ..bench import curve
    from ..views import formatting

    if flags["as_json"]:
        click.echo(json.dumps(found.row(), indent=2))
        return
    most = max(point.goodput for point in found.points)
    click.echo(f"{found.host}: download rate by number of connections")
    for point in found.points:
        mark = " ◀ best" if point == found.best else ""
        click.echo(curve.line(point, most) + mark)
    click.echo(
        f"best: {found.best.connections} connections, {formatting.size(found.best.goodput)}/s, latency "
        f"{found.best.latency * 1000:.0f} ms; part size {formatting.size(found.part_size)}. "
        f"{formatting.size(found.received)} were downloaded for this measurement"
    )
    if found.ended:
        click.echo(
            f"The search ended early: {found.ended}. A better number may exist; try fresh links, or larger "
            "--bytes or --time."
        )
    if not flags["save"]:
        click.echo(
            f"To use it: get -x {found.best.connections} -k {found.part_size >> 20}MiB, or run bench with "
            "--save, and get starts with it."
        )


def _save(found: Bench, place: Path) -> None:
    from ..storage import profiles

    profiles.save(place, {found.host: found.profile})
    click.echo(f"saved for {found.host} in {place}; get starts with it", err=True)
