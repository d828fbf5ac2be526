"""`osp-fetch verify`: check every finished file against its checksum."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from ..model.errors import FetchError, SettingsError, StorageError
from ..s3.address import is_bucket
from . import exits
from .flags import bucket_flags
from .options import is_folder, no_folder, place_of_flags

if TYPE_CHECKING:
    from ..inspection.verify import Checked
    from ..model.digest import Digest
    from ..views.hash_progress import HashProgress


@click.command("verify", short_help="Check finished files against their checksums.")
@click.argument("folder", default=".", metavar="DIR|s3://…")
@click.option("--checksums", metavar="FILE|URL", help="Check against this md5sum or sha256sum list instead.")
@click.option(
    "--repair", is_flag=True, help="Prepare damaged files so that get fetches only their damaged bytes."
)
@click.option("--archives", is_flag=True, help="Also read every archive to its end.")
@click.option("--read", is_flag=True, help="In a bucket, read and hash every object.")
@bucket_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    folder: str, checksums: str | None, repair: bool, archives: bool, read: bool, as_json: bool, **flags: Any
) -> int:
    """Hash every finished file in DIR on all cores and compare it with the checksum recorded by get.

    In a bucket, sizes and the checksums that the store computed are compared, unless --read is given.
    """
    if is_bucket(folder):
        if checksums or repair or archives:
            raise click.UsageError(
                "--checksums, --repair and --archives are for folders; --read is for buckets"
            )
        return _bucket(folder, flags, read=read, as_json=as_json)
    return _folder(folder, checksums, repair=repair, archives=archives, as_json=as_json)


def _bucket(address: str, flags: Mapping[str, Any], *, read: bool, as_json: bool) -> int:
    """Check the objects of a bucket, and print what differs."""
    from ..archives.bucket_lost import lost_in_bucket
    from ..inspection.place import BucketPlace
    from ..inspection.status import has_ledger
    from ..inspection.verify_bucket import verify_bucket
    from ..views.hash_progress import HashProgress

    where, settings = place_of_flags(address, flags)
    if not has_ledger(where.root):
        raise StorageError(
            f"{address}: there is no ledger in {where.root}, so the finished files are not known; give its "
            "--state, or run get again, which keeps objects with correct content"
        )
    unpacked: list[str] = []

    def noted(found: Iterable[Checked]) -> Iterator[Checked]:
        for checked in found:
            if checked.verdict == "unpacked":
                unpacked.append(checked.path)
            yield checked

    with BucketPlace(where, settings) as place, HashProgress() as progress:
        counts, bad = _told(noted(verify_bucket(place, read=read)), progress, as_json=as_json)
        lost = dict(lost_in_bucket(place, unpacked))
    how = "read and hashed" if read else "compared with the store's checksums, not read"
    if as_json:
        click.echo(json.dumps(_document(counts, bad, lost, None, read=read), indent=2))
    elif counts:
        click.echo(", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f" ({how})")
    else:
        click.echo("no finished files")
    if not as_json:
        _tell_lost(lost)
    if bad and not as_json:
        more = " with --overwrite, which replaces damaged objects," if counts["damaged"] else ""
        click.echo(f"Run the same get again{more} to fetch them.", err=True)
    return exits.SOME_FAILED if bad or lost or not counts else exits.OK


def _expect(root: Path, progress: HashProgress) -> None:
    """Let a thread sum up what is to be read, while it is being read."""
    from ..inspection.verify import expected

    def look() -> None:
        with suppress(FetchError):
            progress.expect(*expected(root))

    Thread(target=look, name="osp-expect", daemon=True).start()


def _told(
    found: Iterable[Checked], progress: HashProgress, *, as_json: bool
) -> tuple[Counter[str], list[Checked]]:
    """Print each file that differs. Return the number of files by verdict, and those that differ."""
    counts: Counter[str] = Counter()
    bad: list[Checked] = []
    for checked in found:
        counts[checked.verdict] += 1
        progress.checked()
        if checked.verdict not in ("ok", "unpacked", "unchecked"):
            bad.append(checked)
            if not as_json:
                progress.clear()
                said = [("expected", checked.expected), ("found", checked.found)]
                why = ", ".join(f"{word} {value}" for word, value in said if value)
                click.echo(f"{checked.verdict}: {checked.path} ({why or 'not as it was uploaded'})")
    return counts, bad


def _folder(folder: str, checksums: str | None, *, repair: bool, archives: bool, as_json: bool) -> int:
    """Check the files of a folder, and print what differs."""
    from ..archives.extractor import lost_members

    root = Path(folder)
    listed = _listed(root, folder, checksums)
    lost = dict(lost_members(root)) if listed is None else {}
    counts, bad, here = _checked(root, listed, as_json=as_json)
    tried = _tried(root, here, quiet=as_json) if archives else {}
    if as_json:
        click.echo(json.dumps(_document(counts, bad, lost, tried if archives else None), indent=2))
    else:
        click.echo(", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "no finished files")
        _tell_lost(lost)
    damaged = [checked.path for checked in bad if checked.verdict == "damaged"]
    if repair and damaged:
        _repair(root, damaged, is_listed=listed is not None)
    elif checksums and counts and set(counts) == {"missing"} and not as_json:
        click.echo(
            f"No path of {checksums} is that of a file in {folder}: check that the list has the same paths, "
            "counted from the same folder.",
            err=True,
        )
    elif bad and not as_json:
        first = " For damaged files, run verify --repair first: get then fetches only their damaged bytes."
        click.echo(f"Run get again to fetch what is missing.{first if damaged else ''}", err=True)
    nothing = not counts and not (root / ".osp-fetch" / "unpacked").is_dir()
    failed = bad or lost or any(tried.values()) or nothing
    return exits.SOME_FAILED if failed else exits.OK


def _listed(root: Path, folder: str, checksums: str | None) -> Mapping[str, Digest] | None:
    """Return the digests of --checksums, None without it.

    Raises:
        FetchError: the folder does not exist, its files lie on the disks of nodes, or nothing states which
            files are finished.
    """
    from urllib.request import getproxies

    from ..archives.extractor import any_marks
    from ..assembly import checksums_of
    from ..inspection.place import PlacedPlace, opened_place
    from ..inspection.status import has_ledger, published_files
    from ..model.settings import Settings
    from ..storage.destination import Destination

    if not is_folder(root):
        raise no_folder(folder)
    with opened_place(Destination(root), Settings()) as place:
        if isinstance(place, PlacedPlace):
            raise SettingsError(
                f"{place.elsewhere()}, which verify does not read from here; run the same get with "
                "--recheck, and each node reads its own files again"
            )
    if checksums:
        listed = checksums_of(checksums, {"proxies": getproxies()})
        known = list(islice(published_files(root), 2)) if listed.alone and has_ledger(root) else []
        return listed.named(known[0].path if len(known) == 1 else None)
    if not (root / ".osp-fetch").is_dir():
        raise StorageError(f"{folder}: nothing was fetched into this folder; pass --checksums FILE")
    if not has_ledger(root) and not any_marks(root):
        raise FetchError(
            f"{folder}: the ledger is gone, so the finished files are not known; run get again, which "
            "keeps files with correct content, or pass --checksums FILE"
        )
    return None


def _checked(
    root: Path, listed: Mapping[str, Digest] | None, *, as_json: bool
) -> tuple[Counter[str], list[Checked], list[str]]:
    """Hash the files. Return their number by verdict, those that differ, and the paths of correct ones."""
    from ..inspection.verify import verify_folder
    from ..views.hash_progress import HashProgress

    correct: list[str] = []

    def noted(progress: HashProgress) -> Iterator[Checked]:
        for checked in verify_folder(root, listed, progress.read):
            if checked.verdict in ("ok", "unchecked"):
                correct.append(checked.path)
            yield checked

    with HashProgress() as progress:
        if listed is None:
            _expect(root, progress)
        counts, bad = _told(noted(progress), progress, as_json=as_json)
    return counts, bad, correct


def _document(
    counts: Counter[str],
    bad: list[Checked],
    lost: Mapping[str, list[str]],
    tried: Mapping[str, str | None] | None,
    *,
    read: bool = True,
) -> dict[str, Any]:
    """Return the document that `--json` prints; `tried` is None without --archives."""
    from ..model.report import JSON_VERSION

    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "counts": dict(counts),
        "bad": [checked.row() for checked in bad],
        "missing_members": lost,
        "read": read,
    }
    if tried is not None:
        broken = [{"path": name, "why": why} for name, why in tried.items() if why]
        document["archives"] = {"whole": len(tried) - len(broken), "broken": broken}
    return document


def _repair(root: Path, damaged: list[str], *, is_listed: bool) -> None:
    """Turn damaged files into partials that hold their correct bytes.

    A file that a list calls damaged, and that is as the ledger recorded it, is left as it is.
    """
    from ..inspection.verify import as_recorded, repair_files
    from ..views import formatting

    right = as_recorded(root, damaged) if is_listed else set()
    for path in sorted(right):
        said = "it has the digest that the ledger recorded, and the list another one; find out which is right"
        click.echo(f"{path}: not repaired: {said}", err=True)
    damaged = [path for path in damaged if path not in right]
    for record, kept in asyncio.run(repair_files(root, damaged)):
        missing = (record.length or 0) - len(record.held)
        where = f"; the edited file is kept in {kept}" if kept else ""
        click.echo(
            f"{record.path}: {formatting.size(missing)} are to be fetched again; run get{where}", err=True
        )


def _tell_lost(lost: Mapping[str, list[str]]) -> None:
    """Print the missing members of archives that were deleted after unpacking."""
    from ..archives.marks import count_of

    for name, members in lost.items():
        named = ", ".join(members[:10]) + (", …" if len(members) > 10 else "")
        count = count_of(members)
        click.echo(
            f"members missing of {name}, which was deleted after unpacking: {count} gone or changed: {named}"
        )
        click.echo(f"To restore them, run the same get with --unpack --again '{name}*'.", err=True)


def _tried(root: Path, paths: list[str], *, quiet: bool) -> dict[str, str | None]:
    """Return archive → why it is broken, or None. A correct checksum does not prove a readable archive."""
    from ..archives.extractor import try_folder

    tried: dict[str, str | None] = {}
    for name, why in try_folder(root, paths):
        tried[name] = why
        if why and not quiet:
            click.echo(f"broken archive: {name}: {why}")
    if not quiet:
        whole = sum(why is None for why in tried.values())
        click.echo(f"archives: {whole} intact, {len(tried) - whole} broken")
    return tried
