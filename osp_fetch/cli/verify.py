"""`osp-fetch verify`: hash every finished file again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from . import exits


@click.command("verify", short_help="Hash every finished file again.")
@click.argument("folder", default=".", metavar="DIR")
@click.option("--checksums", metavar="FILE", help="Hold against this md5sum or sha256sum list instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folder: str, checksums: str | None, as_json: bool) -> int:
    """Hash every finished file of DIR again, on all cores, against what its ledger recorded."""
    from .. import survey
    from ..model.errors import StorageError
    from ..sources.checksums import Checksums

    root = Path(folder)
    if not root.is_dir():
        raise StorageError(f"{folder}: there is no such folder")
    listed = Checksums.read(Path(checksums)).digests if checksums else None
    if listed is None and not (root / ".osp-fetch").is_dir():
        raise StorageError(f"{folder}: nothing was fetched into this folder; pass --checksums FILE")
    counts: Counter[str] = Counter()
    bad = []
    for checked in survey.verify(root, listed):
        counts[checked.verdict] += 1
        if checked.verdict not in ("ok", "unchecked"):
            bad.append(checked)
            if not as_json:
                found = f", found {checked.found}" if checked.found else ""
                click.echo(f"{checked.verdict}: {checked.path} (expected {checked.expected}{found})")
    if as_json:
        document = {"counts": dict(counts), "bad": [checked.row() for checked in bad]}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(", ".join(f"{n} {verdict}" for verdict, n in counts.items()) or "no finished files")
    if bad and not as_json:
        click.echo(
            "Run get again: it fetches what is missing, and what was changed since. A file that is damaged "
            "though its time of change is the old one has to be deleted first.",
            err=True,
        )
    return exits.SOME_FAILED if bad else exits.OK
