"""`osp-fetch unpack`: unpack archives into files or into WebDataset tars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.report import JSON_VERSION
from . import exits
from .flags import bucket_flags

if TYPE_CHECKING:
    from ..archives.extract import Unpacked
    from ..archives.extractor import UnpackOptions
    from ..model.settings import Settings
    from ..storage.destination import Destination

F = TypeVar("F", bound=Callable[..., Any])

_SHARD_SIZE: Final = "1GiB"
_OPTIONS: Final = (
    click.option("--into", default="", metavar="DIR", help="Unpack into this folder, below the output."),
    click.option("--flat", is_flag=True, help="Ignore folders inside archives."),
    click.option(
        "--format", "form", type=click.Choice(["files", "webdataset"]), default="files",
        help="files: unpack. webdataset: regroup members by key into tars.",
    ),
    click.option(
        "--shard-size", metavar="SIZE", help=f"Size of a WebDataset tar.  [default: {_SHARD_SIZE}]"
    ),
    click.option("--delete-after", is_flag=True, help="Delete an archive once its files are safely on disk."),
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Number of unpacking processes."),
)  # fmt: skip


def how_flags(command: F) -> F:
    """Add the flags for unpacking to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def how_of(flags: Mapping[str, Any], min_free: int, *, durable: bool = True) -> UnpackOptions:
    """Convert the flags for unpacking to UnpackOptions.

    Args:
        flags: Flags by parameter name.
        min_free: Bytes to keep free on the disk.
        durable: Whether members are synced to disk before they count as unpacked.

    Raises:
        click.UsageError: A flag is malformed.
    """
    from ..archives.extractor import UnpackOptions
    from ..model.entry import relative_path
    from ..model.errors import ManifestError
    from ..model.quantities import size

    try:
        into = relative_path(flags["into"]) if flags["into"] else ""
        shard = size(flags["shard_size"] or _SHARD_SIZE) if flags["form"] == "webdataset" else 0
        if flags["form"] == "webdataset" and not shard:
            raise ValueError("--shard-size: a tar cannot have 0 bytes")
        if flags["form"] != "webdataset" and flags["shard_size"] is not None:
            raise ValueError("--shard-size is that of WebDataset tars: give --format webdataset, too")
    except (ManifestError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    return UnpackOptions(
        into, flags["flat"], shard, flags["delete_after"], flags["workers"] or 0, min_free, durable,
        is_current=bool(flags.get("update")),
    )  # fmt: skip


@click.command("unpack", short_help="Unpack the archives in a folder.")
@click.argument("folder", default=".", metavar="DIR|s3://…")
@click.option("--include", multiple=True, metavar="GLOB", help="Unpack only matching archives (repeatable).")
@how_flags
@bucket_flags
@click.option(
    "--min-free", default="1GiB", metavar="SIZE", help="Keep this much disk space free.  [default: 1GiB]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, include: tuple[str, ...], as_json: bool, min_free: str, **flags: Any) -> int:
    """Unpack every archive in DIR or in a bucket: tar, tar.gz and zip. Split archives are read unjoined.

    Open-Sora-Plan datasets are unpacked to the folders that training reads (datasets/sam and so on), other
    archives to a folder beside the archive. Files appear only after the archive was read to its end.
    """
    from ..archives.extractor import unpack_folder
    from ..model.quantities import size
    from ..sources.select import Selection
    from .options import place_of_flags, usage

    where, settings = place_of_flags(folder, flags)
    wanted = Selection(include)
    files = {path: digest for path, digest in _files(where, settings).items() if wanted.wants(path)}
    how = how_of(flags, usage(size, min_free))
    bucket = (where, settings) if where.bucket else None
    done = unpack_folder(where.root, files, how, lambda each: None if as_json else _tell(each), bucket)
    if not as_json and all(each.already for each in done):
        click.echo(f"nothing to do: all {len(done)} archives are already unpacked", err=True)
    if as_json:
        click.echo(json.dumps([{"version": JSON_VERSION, **each.row()} for each in done], indent=2))
    return exits.SOME_FAILED if any(each.broken for each in done) else exits.OK


def line_of(each: Unpacked) -> str | None:
    """Return the result for one archive as a line of text, None if nothing has changed.

    Args:
        each: The result.
    """
    from ..views import formatting

    if each.broken:
        kept = f"; the readable part is in {each.kept}" if each.kept else ""
        return f"broken: {each.name}: {each.broken.removeprefix(f'{each.name}: ')}{kept}"
    if each.already:
        return f"{each.name}: {each.note}" if each.note else None
    gone = ", and deleted" if each.deleted else f"; {each.note}" if each.note else ""
    what = f"{each.members} files, {formatting.size(each.bytes)}, into {each.target}{gone}"
    return f"unpacked: {each.name}: {what}"


def _tell(each: Unpacked) -> None:
    if (line := line_of(each)) is not None:
        click.echo(line, err=True)


def _files(where: Destination, settings: Settings) -> dict[str, str | None]:
    """Return path → digest of the finished files, or of every archive if a folder has no ledger."""
    from ..archives.extractor import loose_archives
    from ..inspection.place import PlacedPlace, opened_place
    from ..inspection.status import digest_of, has_ledger, published_files
    from ..model.errors import SettingsError, StorageError
    from .options import is_folder, no_folder

    root = where.root
    if where.bucket is None and not is_folder(root):
        raise no_folder(root)
    if has_ledger(root):
        with opened_place(where, settings) as place:
            if isinstance(place, PlacedPlace):
                raise SettingsError(f"{place.elsewhere()}; run unpack there, on the archives of each node")
            return {record.path: digest_of(record) for record in published_files(place)}
    if where.bucket is not None:
        raise StorageError(
            f"{where}: no run has fetched to it with this state; run get first, or pass --state"
        )
    return dict.fromkeys(loose_archives(root))


def end_workers() -> None:
    """Terminate the unpacking processes at once. The next run unpacks interrupted archives from the start."""
    multiprocessing = sys.modules.get("multiprocessing")  # if it was never imported, there are no processes
    for child in multiprocessing.active_children() if multiprocessing else ():
        child.terminate()
