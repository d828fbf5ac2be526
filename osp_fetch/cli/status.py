"""`osp-fetch status`: show what a folder holds."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..model.errors import StorageError
from . import exits
from .flags import bucket_flags
from .options import is_folder, no_folder, place_of_flags
from .streams import say

if TYPE_CHECKING:
    from ..inspection.place import Place

# Seconds between two views of `--watch`: on a terminal, and elsewhere.
_REDRAWN: Final = 1.0
_PRINTED: Final = 10.0


_SUMS: Final = "SHA256SUMS"


@click.command("status", short_help="Show what a folder holds.")
@click.argument("folder", default=".", metavar="DIR|s3://…")
@click.option("--sums", is_flag=True, help="Print the finished files as a SHA256SUMS list, for sha256sum -c.")
@click.option("--put", is_flag=True, help="With --sums: write the list to the bucket as SHA256SUMS.")
@click.option("--watch", is_flag=True, help="Show the run until it ends, then what the folder holds.")
@bucket_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, sums: bool, put: bool, watch: bool, as_json: bool, **flags: Any) -> int:
    """Show what DIR or a bucket holds: finished files, unfinished files, and the run in progress."""
    from ..inspection.place import opened_place
    from ..inspection.status import folder_status
    from ..views import formatting
    from ..views.status_lines import folder_lines

    if sums + as_json + watch > 1:
        raise click.UsageError("--sums, --watch and --json cannot be combined: use one of them")
    where, settings = place_of_flags(folder, flags)
    if put and not (sums and where.bucket):
        raise click.UsageError("--put goes with --sums and a bucket; for a folder write --sums > SHA256SUMS")
    if not is_folder(where.root / ".osp-fetch"):
        state = ", and its --state" if where.bucket else ""
        used = f"give the folder or bucket that get -o used{state}"
        raise no_folder(folder, f"nothing was fetched into it from here; {used}")
    if watch:
        _watch(where.root)
    with opened_place(where, settings) as place:
        if sums:
            return _print_sums(place, put=put)
        found = folder_status(place)
    if as_json:
        click.echo(json.dumps(found.row(), indent=2))
        return exits.OK
    for line in folder_lines(found.runs):
        say(line)
    say(f"finished: {formatting.count(found.published, 'file')}, {formatting.size(found.published_bytes)}")
    for each in found.placement:
        at = f" ({each['address']})" if each["address"] else ""
        say(
            f"  on {each['node']}{at}: {formatting.count(each['files'], 'file')}, "
            f"{formatting.size(each['bytes'])}, as its last run has seen"
        )
    if found.unpacked:
        say(f"unpacked and deleted: {formatting.count(found.unpacked, 'file')} of archives")
    if found.gone or found.changed:
        say(f"{_missed(found.gone, found.changed)}; run get again to fetch them")
    if found.older:
        say(f"of an earlier version, until the newer one is whole: {formatting.count(found.older, 'file')}")
    say(f"unfinished: {formatting.count(len(found.begun), 'file')}, {formatting.size(found.held_bytes)} held")
    for each in found.begun[:20]:
        length = formatting.size(each["length"]) if each["length"] is not None else "unknown size"
        say(f"  {each['path']}: {formatting.size(each['held'])} of {length}")
    return exits.OK


def _watch(root: Path) -> None:
    """Show the runs of a folder until none works: redrawn on a terminal, else a block now and then."""
    from ..inspection.status import runs_of
    from ..views.status_lines import folder_lines

    terminal = sys.stdout.isatty()
    while True:
        runs = runs_of(root)
        if all(each["owner"] is None for each in runs):
            break
        lines = folder_lines(runs)
        if terminal:
            click.clear()
        click.echo("\n".join(lines if terminal else [*lines, ""]))
        time.sleep(_REDRAWN if terminal else _PRINTED)
    if terminal:
        click.clear()


def _print_sums(place: Place, *, put: bool) -> int:
    """Print the checksums of the finished files, or write them to the bucket as an object."""
    from ..inspection.place import BucketPlace
    from ..inspection.status import finished_files

    missed: Counter[str] = Counter()
    lines: list[str] = []
    for record, standing in finished_files(place):
        if put and record.path == _SUMS:
            raise StorageError(
                f"{_SUMS} is one of the fetched files, and the list would replace it; print the list without "
                "--put, and store it under another name"
            )
        if "sha256" not in record.digests:
            missed["unknown"] += standing == "here"
        elif standing == "here":
            line = f"{record.digests['sha256']}  {record.path}"
            if put:
                lines.append(f"{line}\n")
            else:
                click.echo(line)
        elif standing != "unpacked":
            missed[standing] += 1
    if missed["gone"] or missed["changed"]:
        click.echo(_missed(missed["gone"], missed["changed"]) + "; these files are not listed", err=True)
    if count := missed["unknown"]:
        click.echo(
            f"{count} without a SHA-256 in the ledger, as copies that the store made; these are not listed",
            err=True,
        )
    if put and isinstance(place, BucketPlace):
        place.put(_SUMS, "".join(lines).encode())
        click.echo(f"{place.address.url(_SUMS)}: {len(lines)} files", err=True)
    return exits.OK


def _missed(gone: int, changed: int) -> str:
    """Return how many finished files are gone or changed, as text."""
    parts = [f"{gone} recorded but gone"] * bool(gone) + [f"{changed} changed since"] * bool(changed)
    return ", ".join(parts)
