"""`osp-fetch verify`: hash every finished file again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import exits


@click.command("verify", short_help="Hash every finished file again.")
@click.argument("folder", default=".", metavar="DIR")
@click.option("--checksums", metavar="FILE", help="Hold against this md5sum or sha256sum list instead.")
@click.option(
    "--repair", is_flag=True, help="Set damaged files aside; get then fetches only what is wrong in them."
)
@click.option("--archives", is_flag=True, help="Read archives to their end, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, checksums: str | None, repair: bool, archives: bool, as_json: bool) -> int:
    """Hash every finished file of DIR again, on all cores, against what its ledger recorded."""
    from ..archives.extractor import any_marks, lost_members
    from ..inspection.status import has_ledger
    from ..inspection.verify import repair_files, verify_folder
    from ..model.errors import FetchError, StorageError
    from ..sources.checksums import Checksums
    from ..views import formatting

    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"{folder}: there is no such folder")
    listed = Checksums.read(Path(checksums)).digests if checksums else None
    if listed is None and not (root / ".osp-fetch").is_dir():
        raise StorageError(f"{folder}: nothing was fetched into this folder; pass --checksums FILE")
    lost = dict(lost_members(root)) if listed is None else {}
    if listed is None and not has_ledger(root) and not any_marks(root):
        raise FetchError(
            f"{folder}: the ledger is gone, and nothing else tells which files are finished; run get again, "
            "which "
            "takes over what is right, or pass --checksums FILE"
        )
    counts: Counter[str] = Counter()
    bad, here = [], []
    for checked in verify_folder(root, listed):
        counts[checked.verdict] += 1
        if checked.verdict in ("ok", "unchecked"):
            here.append(checked.path)
        if checked.verdict not in ("ok", "unpacked", "unchecked"):
            bad.append(checked)
            if not as_json:
                found = f", found {checked.found}" if checked.found else ""
                click.echo(f"{checked.verdict}: {checked.path} (expected {checked.expected}{found})")
    tried = _tried(root, here, quiet=as_json) if archives else {}
    if as_json:
        document: dict[str, Any] = {"counts": dict(counts), "bad": [checked.row() for checked in bad]}
        document["missing_members"] = lost
        if archives:
            broken = [{"path": name, "why": why} for name, why in tried.items() if why]
            document["archives"] = {"whole": len(tried) - len(broken), "broken": broken}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "no finished files")
        _tell_lost(lost)
    damaged = [checked.path for checked in bad if checked.verdict == "damaged"]
    if repair and damaged:
        for record, kept in asyncio.run(repair_files(root, damaged)):
            lacking = (record.length or 0) - len(record.held)
            where = f"; what was there is kept in {kept}" if kept else ""
            click.echo(
                f"{record.path}: {formatting.size(lacking)} are to be fetched again; run get{where}", err=True
            )
    elif bad and not as_json:
        click.echo(
            "Run get again: it fetches what is missing. Damaged files: verify --repair first, and get "
            "fetches only what is wrong in them.",
            err=True,
        )
    nothing = not counts and not (root / ".osp-fetch" / "unpacked").is_dir()
    failed = bad or lost or any(tried.values()) or nothing
    return exits.SOME_FAILED if failed else exits.OK


def _tell_lost(lost: Mapping[str, list[str]]) -> None:
    """Say which members of archives are gone that were deleted after unpacking."""
    for name, members in lost.items():
        more = f" and {len(members) - 10} more" if len(members) > 10 else ""
        click.echo(f"members missing: {name}, deleted after unpacking: {', '.join(members[:10])}{more}")
        click.echo(f"Bring them back by the same get with --unpack --again '{name}*'.", err=True)


def _tried(root: Path, paths: list[str], *, quiet: bool) -> dict[str, str | None]:
    """Archive → why it is broken, or None. A right checksum says only that it is what the source has."""
    from ..archives.extractor import try_folder

    tried: dict[str, str | None] = {}
    for name, why in try_folder(root, paths):
        tried[name] = why
        if why and not quiet:
            click.echo(f"broken archive: {name}: {why}")
    if not quiet:
        whole = sum(why is None for why in tried.values())
        click.echo(f"archives: {whole} whole, {len(tried) - whole} broken")
    return tried
