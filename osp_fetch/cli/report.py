"""`osp-fetch report`: write what the runs of a folder did, as an HTML page or as JSON."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..model.errors import StorageError
from . import exits
from .flags import bucket_flags
from .options import is_folder, no_folder, place_of_flags
from .streams import say

if TYPE_CHECKING:
    from ..model.settings import Settings
    from ..storage.destination import Destination

_DEFAULT: Final = "report.html"


@click.command("report", short_help="Write what the runs of a folder did, as a page.")
@click.argument("folder", default=".", metavar="DIR|s3://…")
@click.option(
    "-o", "--output", metavar="FILE", help="The HTML page to write; - for stdout.  [default: report.html]"
)
@bucket_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; a page only with -o.")
def command(folder: str, output: str | None, as_json: bool, **flags: Any) -> int:
    """Write what the runs of DIR or of a bucket did: an HTML page that loads nothing from elsewhere.

    The page shows what was fetched and how it was proved, what failed and what to do, what each host gave,
    and what it cost. It can be made while a run goes on.
    """
    where, settings = place_of_flags(folder, flags)
    if not is_folder(where.root / ".osp-fetch"):
        raise no_folder(folder, "nothing was fetched into it from here; give the folder of get -o")
    page = output or (None if as_json else _DEFAULT)
    if page not in (None, "-"):
        check_report(Path(str(page)))
    summary = summary_at(where, settings)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    if page == "-":
        from ..views.report_page import report_page

        click.echo(report_page(summary))
    elif page is not None:
        write_report(summary, Path(page))
        click.echo(f"{page}: the report of {where}", err=True)
    return exits.OK


def summary_at(where: Destination, settings: Settings) -> dict[str, Any]:
    """Return the summary of a destination. Blocks.

    If a ledger cannot be read, that is printed, and the summary leaves out what is here now.

    Raises:
        StorageError: A bucket does not answer.
    """
    from ..inspection.place import opened_place
    from ..inspection.summary import summary_of

    name = str(where.bucket) if where.bucket else str(where.root.absolute())
    with opened_place(where, settings) as place:
        try:
            return summary_of(place, name)
        except StorageError as error:
            say(f"{error}; the report leaves out which files are here", err=True)
            return summary_of(place, name, check=False)


def check_report(place: Path) -> None:
    """Check that a report may be written to `place`.

    Raises:
        StorageError: Its folder cannot be written, or it holds something else than a report.
    """
    from ..views.report_page import MARK

    if not place.absolute().parent.is_dir() or not os.access(place.absolute().parent, os.W_OK):
        raise StorageError(f"{place}: its folder does not exist or cannot be written; name another file")
    try:
        with place.open("rb") as file:
            begin = file.read(len(MARK))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{place} cannot be read ({error.strerror}); name another file") from None
    if begin not in (b"", MARK.encode()):
        raise StorageError(f"{place} exists and is no report of osp-fetch; name another file")


def write_report(summary: dict[str, Any], place: Path) -> None:
    """Write a report, and replace an older one when it is complete. Only its owner can read it.

    Raises:
        StorageError: It cannot be written.
    """
    from ..views.report_page import report_page

    try:
        fd, beside = tempfile.mkstemp(prefix=f".{place.name[:100]}.", dir=place.absolute().parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(report_page(summary))
            Path(beside).replace(place)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"{place} cannot be written ({error.strerror})") from None
