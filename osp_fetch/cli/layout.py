"""`osp-fetch layout`: write the file lists that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import exits

if TYPE_CHECKING:
    from ..datasets.layout import Laid


@click.command("layout", short_help="Write the file lists that training reads.")
@click.argument("folder", default=".", metavar="DIR")
@click.option("--relative", is_flag=True, help="Write paths relative to DIR instead of absolute ones.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, relative: bool, as_json: bool) -> int:
    """Write image_data.txt, video_data.txt, video_data_513.txt and data.txt for the datasets in DIR.

    Each line is FOLDER,JSON: a folder of unpacked media and its caption file. No file is copied.
    """
    from ..datasets.layout import lay_out
    from .options import is_folder, no_folder

    root = Path(folder)
    if not is_folder(root):
        raise no_folder(folder)
    made = lay_out(root, relative=relative)
    if as_json:
        click.echo(json.dumps(made.row(), indent=2))
    else:
        tell(made)
    return exits.OK


def tell(made: Laid) -> None:
    """Print on stderr which lists were written, what was kept, and what was left out."""
    for name, lines in made.lists.items():
        if lines:
            click.echo(f"{name}: {len(lines)} lines", err=True)
    for kept in made.kept:
        click.echo(f"kept: {kept}", err=True)
    for lack in made.missing:
        click.echo(f"left out: {lack}", err=True)
