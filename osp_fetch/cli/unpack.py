"""`osp-fetch unpack`: archives into files, or into WebDataset's tars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from . import exits

if TYPE_CHECKING:
    from ..archives.extract import Unpacked
    from ..archives.extractor import UnpackOptions

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--into", default="", metavar="DIR", help="One folder for all members, below DIR."),
    click.option("--flat", is_flag=True, help="Drop the folders of members."),
    click.option(
        "--format", "form", type=click.Choice(["files", "webdataset"]), default="files",
        help="webdataset: regroup members by key into tars, and unpack nothing.",
    ),
    click.option(
        "--shard-size", default="1GiB", metavar="SIZE", help="Of a webdataset tar.  [default: 1GiB]"
    ),
    click.option("--delete-after", is_flag=True, help="Delete an archive when its members are durable."),
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes that unpack."),
)  # fmt: skip


def how_flags(command: F) -> F:
    """Add the flags that say how to unpack."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def how_of(flags: Mapping[str, Any], min_free: int, *, durable: bool = True) -> UnpackOptions:
    """What those flags mean. Raises click.UsageError."""
    from ..archives.extractor import UnpackOptions
    from ..model.entry import relative_path
    from ..model.errors import ManifestError
    from ..model.settings import size

    try:
        into = relative_path(flags["into"]) if flags["into"] else ""
        shard = size(flags["shard_size"]) if flags["form"] == "webdataset" else 0
    except (ManifestError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    return UnpackOptions(
        into, flags["flat"], shard, flags["delete_after"], flags["workers"] or 0, min_free, durable
    )


@click.command("unpack", short_help="Unpack the archives of a folder, all or nothing each.")
@click.argument("folder", default=".", metavar="DIR")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these archives (repeatable).")
@how_flags
@click.option("--min-free", default="1GiB", metavar="SIZE", help="Leave so much free.  [default: 1GiB]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, include: tuple[str, ...], as_json: bool, min_free: str, **flags: Any) -> int:
    """Unpack every archive of DIR: tar, tar.gz, zip, and their splits, which are read without joining them.

    Members of the Open-Sora-Plan datasets go where training wants them (datasets/sam …), those of other
    archives into a folder beside each. They appear when the whole archive was read to its end.
    """
    from ..archives.extractor import unpack_folder
    from ..model.settings import size
    from ..sources.select import Selection
    from .options import usage

    root = Path(folder)
    wanted = Selection(include)
    files = {path: digest for path, digest in _files(root).items() if wanted.wants(path)}
    how = how_of(flags, usage(size, min_free))
    done = unpack_folder(root, files, how, lambda each: None if as_json else _tell(each))
    if not as_json and all(each.already for each in done):
        click.echo(f"nothing to do: all {len(done)} archives were unpacked before", err=True)
    if as_json:
        click.echo(json.dumps([each.row() for each in done], indent=2))
    return exits.SOME_FAILED if any(each.broken for each in done) else exits.OK


def told(each: Unpacked) -> str | None:
    """What to say of an archive that is done; None where nothing is new."""
    from ..views import formatting

    if each.broken:
        kept = f"; what could be read is in {each.kept}" if each.kept else ""
        return f"broken: {each.name}: {each.broken}{kept}"
    if each.already:
        return f"{each.name}: {each.note}" if each.note else None
    gone = ", and deleted" if each.deleted else f"; {each.note}" if each.note else ""
    what = f"{each.members} files, {formatting.size(each.bytes)}, into {each.target}{gone}"
    return f"unpacked: {each.name}: {what}"


def _tell(each: Unpacked) -> None:
    if (line := told(each)) is not None:
        click.echo(line, err=True)


def _files(root: Path) -> dict[str, str | None]:
    """Return what is finished in `root`, with digests: by its ledger, or every archive where it has none."""
    from ..archives.extractor import loose_archives
    from ..inspection.status import digest_of, has_ledger, published_files
    from ..model.errors import StorageError

    if not root.is_dir():
        raise StorageError(f"{root}: there is no such folder")
    if has_ledger(root):
        return {record.path: digest_of(record) for record in published_files(root)}
    return dict.fromkeys(loose_archives(root))


def end_workers() -> None:
    """End the processes that unpack, at once; an archive that was under way starts again next time."""
    multiprocessing = sys.modules.get("multiprocessing")  # where nobody has read it, there are none
    for child in multiprocessing.active_children() if multiprocessing else ():
        child.terminate()
