"""`osp-fetch doctor`: what limits the run of a folder, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..model.errors import StorageError
from ..model.settings import Settings
from ..storage.destination import destination
from . import exits
from .bench import until_signalled
from .flags import PREFIX, bucket_flags
from .options import is_folder, layers, no_folder

if TYPE_CHECKING:
    from ..bench.disk import DiskRates

# Seconds for which the disk is written.
_SECONDS: Final = 2.0
# Columns of the topics, and of the longest line.
_TOPIC, _WIDEST = 12, 120


@click.command("doctor", short_help="Say what limits a run, and what to do.")
@click.argument("folder", default=".", metavar="DIR|s3://…")
@bucket_flags
@click.option("-c", "--config", envvar=PREFIX + "CONFIG", metavar="FILE", help="TOML file with settings.")
@click.option(
    "--set",
    "settings",
    envvar=PREFIX + "SET",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting (repeatable).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, as_json: bool, **flags: Any) -> int:
    """Say what limits the run of DIR, or its last one, and what to do about it.

    The disk is measured for two seconds with scratch files, which are deleted, and so are the digests. A run
    that works shares the disk with this. No request is sent.
    """
    from ..bench.doctor import diagnosis
    from ..bench.survey import disk_of

    where, settings = destination(folder, flags["state"]), Settings.load(*layers(flags))
    if where.bucket is None and not is_folder(where.root):
        raise no_folder(folder, "there is no such folder; give the one that get -o used")
    disk: DiskRates | StorageError | None = None
    if not where.bucket:
        try:
            disk = asyncio.run(until_signalled(disk_of(Path(folder), _SECONDS)))
            if disk is None:
                return exits.STOPPED_EARLY
        except StorageError as error:  # it is full, or cannot be written: a finding, too
            disk = error
    found = diagnosis(where, settings, disk)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return exits.OK
    width, last = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST), ""
    for each in found["findings"]:
        topic, last = ("" if each["topic"] == last else each["topic"]), each["topic"]
        _say(f"{topic:<{_TOPIC}}{'! ' if each['wrong'] else '  '}", each["text"], width)
        if each["advice"]:
            _say(" " * (_TOPIC + 2) + "→ ", each["advice"], width)
    return exits.OK


def _say(begin: str, text: str, width: int) -> None:
    """Print a paragraph whose lines fit into `width` columns and begin below its text."""
    from ..views.formatting import folded

    click.echo("\n".join(folded(text, width, begin, " " * len(begin))))
