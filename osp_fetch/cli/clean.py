"""`osp-fetch clean`: abort the unfinished uploads that osp-fetch left in a bucket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from . import exits
from .flags import bucket_flags
from .options import place_of_flags

if TYPE_CHECKING:
    from ..model.settings import Settings
    from ..s3.address import BucketAddress
    from ..storage.destination import Destination


@click.command("clean", short_help="Abort unfinished uploads in a bucket.")
@click.argument("address", metavar="s3://BUCKET/PREFIX")
@bucket_flags
@click.option("-n", "--dry-run", is_flag=True, help="Only list them.")
def command(address: str, dry_run: bool, **flags: Any) -> int:
    """Abort the unfinished uploads of osp-fetch to a prefix; they cost money until then.

    Uploads of other programs are left alone. What is aborted cannot be resumed. A run that is at work is not
    disturbed: the command ends with exit code 6.
    """
    where, settings = place_of_flags(address, flags)
    if where.bucket is None:
        raise click.UsageError(f"{address} is not a bucket; write s3://BUCKET/PREFIX")
    found, below = asyncio.run(_clean(where, settings, dry_run=dry_run))
    for path, upload in found:
        click.echo(f"{'would abort' if dry_run else 'aborted'}: {where.bucket.url(path)} ({upload[:16]})")
    if not found:
        click.echo("no unfinished uploads", err=True)
    for prefix in below:
        click.echo(f"{prefix}: has unfinished uploads of its own; run: osp-fetch clean {prefix}", err=True)
    return exits.OK


async def _clean(
    where: Destination, settings: Settings, *, dry_run: bool
) -> tuple[list[tuple[str, str]], list[BucketAddress]]:
    """Abort every noted upload of a prefix; see `unfinished.clean`."""
    from ..storage.bucket.unfinished import clean
    from ..storage.folder.run_lock import RunLock, state_folder

    assert where.bucket is not None
    state = state_folder(where.root)
    if dry_run:
        return await clean(where.bucket, state, settings, dry_run=True)
    with RunLock(state):
        return await clean(where.bucket, state, settings, dry_run=False)
