"""`osp-fetch coverage`: count the caption entries whose file is present."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import exits

if TYPE_CHECKING:
    from ..datasets.coverage import Coverage


@click.command("coverage", short_help="Count the caption entries whose file is present.")
@click.argument("folder", default=".", metavar="DIR")
@click.option("--missing", metavar="FILE", help="Write the paths of missing files to FILE, one per line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, missing: str | None, as_json: bool) -> int:
    """Read every caption file in DIR and check that the files it names are present.

    Exit code 1 if any file is missing.
    """
    from ..datasets.coverage import cover
    from ..model.errors import StorageError
    from ..storage.folder.disk import storage_error
    from .options import is_folder, no_folder

    root = Path(folder)
    if not is_folder(root):
        raise no_folder(folder)
    try:
        with ExitStack() as stack:
            out = stack.enter_context(open(missing, "w", encoding="utf-8")) if missing else None
            found = list(cover(root, out))
    except OSError as error:
        raise storage_error(error, f"the coverage of {folder} cannot be determined") from None
    if not found:
        raise StorageError(
            f"{folder}: no caption file in anno_jsons/; download captions into this folder with get"
        )
    if as_json:
        click.echo(json.dumps([each.row() for each in found], indent=2))
    else:
        _print(found)
    return (
        exits.SOME_FAILED
        if any(each.missing or each.without_path or not each.pairs for each in found)
        else exits.OK
    )


def _print(found: list[Coverage]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    text = ("dataset", "captions", "path used")
    for name in (*text[:2], "pairs", "documented", "found", "missing", "unnamed files", text[2]):
        table.add_column(name, justify="left" if name in text else "right")
    for each in found:
        table.add_row(
            each.dataset, each.captions, f"{each.pairs:,}", f"{each.documented:,}", f"{each.found:,}",
            f"{each.missing:,}", f"{each.unnamed:,}", Text(each.scheme),
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for each in found:
        if each.pairs != each.documented:
            console.print(
                f"{each.captions}: {each.pairs:,} pairs found, but {each.documented:,} are documented"
            )
        if each.examples:
            console.print(f"{each.captions}: missing, for example: {each.examples[0]}", markup=False)
        if each.found and each.scheme.startswith(("file name only", "without")):
            console.print(
                f"{each.captions}: training joins {each.folder} and the paths as they are: it finds these "
                "files only if they are moved, or the paths changed",
                markup=False,
            )
        if each.refused:
            console.print(f"{each.captions}: {each.refused:,} paths are invalid for files of the dataset")
