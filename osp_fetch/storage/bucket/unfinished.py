"""Unfinished uploads: the notes that name them in the bucket, and aborting them.

S3 does not show the metadata of an unfinished upload. A small object beside the files therefore names each of
ours, so that no upload of another program is aborted. The note is written before the upload begins, and again
with its id. A process that is killed between the two leaves a note without an id: then those uploads of that
file are aborted that were begun after the note and have no part.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Container
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from ...model.dataclasses import dataclass
from ...model.errors import StorageError
from ...model.settings import Settings
from ...s3.address import BucketAddress
from ...s3.client import Bucket
from ...s3.errors import BucketError
from ...s3.session import connected
from ..ledger.uploads import UploadLedger
from .lock import BucketLock, check_no_other_run
from .objects import own_content
from .range_objects import discard_ranges

_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Noted:
    """An unfinished upload that a note names.

    Attributes:
        path: the file.
        upload: the upload id; empty if only the note has to be removed.
        name: the name of the note: the run or shard, a slash, and the token of the upload.
    """

    path: str
    upload: str
    name: str


async def announce(bucket: Bucket, path: str, name: str) -> datetime:
    """Leave the note of an upload that is about to begin.

    Args:
        bucket: requests to the bucket.
        path: the file.
        name: the name of the note, as in `Noted`.

    Returns:
        The time by the store's clock.

    Raises:
        StorageError: it cannot be written.
    """
    what = f"{bucket.address.url(path)}: its upload cannot be noted"
    reply = await bucket.ask("put_object", what, **_note(bucket, Noted(path, "", name)))
    return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])


async def note(bucket: Bucket, noted: Noted) -> None:
    """Write the id of an upload that has begun into its note, with one request that is not repeated.

    Raises:
        FetchError: as `Bucket.once`.
    """
    what = f"{bucket.address.url(noted.path)}: its upload cannot be noted"
    await bucket.once("put_object", what, **_note(bucket, noted))


def _note(bucket: Bucket, noted: Noted) -> dict[str, Any]:
    content = {"path": noted.path, "upload": noted.upload}
    return {"Key": bucket.address.own(f"uploads/{noted.name}"), **own_content(content)}


async def forget(bucket: Bucket, name: str) -> None:
    """Remove a note. If that fails, the next run or `clean` removes it."""
    with suppress(StorageError):
        await bucket.ask(
            "delete_object", f"{bucket.address}: a note cannot be deleted",
            Key=bucket.address.own(f"uploads/{name}"),
        )  # fmt: skip


async def abort(bucket: Bucket, noted: Noted) -> None:
    """Abort an unfinished upload, which may be gone already, and remove its note.

    Raises:
        StorageError: the store does not answer, or refuses it.
    """
    if noted.upload:
        await _abort(bucket, noted.path, noted.upload)
    await forget(bucket, noted.name)


async def _abort(bucket: Bucket, path: str, upload: str) -> None:
    try:
        await bucket.ask(
            "abort_multipart_upload", f"{bucket.address.url(path)}: its upload cannot be aborted",
            Key=bucket.address.key(path), UploadId=upload,
        )  # fmt: skip
    except BucketError as error:
        if error.status != 404:
            raise


async def abort_empty(bucket: Bucket, path: str, since: datetime, known: Container[str]) -> None:
    """Abort the uploads of a file that requests without a reply may have begun.

    Args:
        bucket: requests to the bucket.
        path: the file.
        since: the time, by the store's clock, before the first of these requests.
        known: upload ids to leave out.

    Raises:
        StorageError: the store does not answer, or refuses it.
    """
    for upload in await _empty(bucket, path, since, known):
        await _abort(bucket, path, upload)


async def _empty(bucket: Bucket, path: str, since: datetime, known: Container[str]) -> list[str]:
    """Return the ids of the uploads of a file that were begun at `since` or later and have no part."""
    key, what = bucket.address.key(path), f"{bucket.address.url(path)}: its uploads cannot be listed"
    found = []
    try:
        async for page in bucket.pages("list_multipart_uploads", what, Prefix=key):
            for row in page.get("Uploads", []):
                is_candidate = (
                    row["Key"] == key and row["UploadId"] not in known and row["Initiated"] >= since
                )
                if is_candidate and await _has_no_part(bucket, key, row["UploadId"], what):
                    found.append(row["UploadId"])
    except BucketError as error:
        if error.status not in (403, 501):  # without the right to list them, they stay
            raise
    return found


async def _has_no_part(bucket: Bucket, key: str, upload: str, what: str) -> bool:
    try:
        return not (await bucket.ask("list_parts", what, Key=key, UploadId=upload)).get("Parts")
    except BucketError as error:
        if error.status == 404:
            return False
        raise


async def unknown_uploads(bucket: Bucket, scope: str, known: Container[str] = ()) -> AsyncIterator[Noted]:
    """Yield each noted upload whose id is not in `known`, and each note without an upload.

    Args:
        bucket: requests to the bucket.
        scope: the run or shard and a slash; empty for all.
        known: upload ids to leave out.

    Raises:
        StorageError: the bucket cannot be listed or read.
    """
    what = f"{bucket.address}: its unfinished uploads cannot be listed"
    async for page in bucket.pages("list_objects_v2", what, Prefix=bucket.address.own(f"uploads/{scope}")):
        for row in page.get("Contents", []):
            noted = await _read(bucket, row["Key"], what)
            if noted is None or noted.upload in known:
                continue
            if noted.path and not noted.upload:
                for upload in await _empty(bucket, noted.path, row["LastModified"], known):
                    yield replace(noted, upload=upload)
            yield noted


async def _read(bucket: Bucket, key: str, what: str) -> Noted | None:
    """Return what a note states: nothing if its writing was cut off. None if the note is gone."""
    name = key.removeprefix(bucket.address.own("uploads/"))
    try:
        content = json.loads(await bucket.body(what, Key=key))
        return Noted(content["path"], content["upload"], name)
    except (ValueError, KeyError):
        return Noted("", "", name)
    except BucketError as error:
        if error.status == 404:
            return None
        raise


async def _prefixes_below(bucket: Bucket) -> list[BucketAddress]:
    """Return the prefixes below that of `bucket` to which other runs have left unfinished uploads."""
    address, what = bucket.address, f"{bucket.address}: its unfinished uploads cannot be listed"
    folders: set[str] = set()
    try:
        async for page in bucket.pages("list_multipart_uploads", what, Prefix=address.prefix):
            for row in page.get("Uploads", []):
                names = row["Key"].removeprefix(address.prefix).split("/")
                folders |= {"/".join(names[:count]) for count in range(1, len(names))}
    except BucketError as error:
        if error.status not in (403, 501):  # without the right to list them, they are not known
            raise
    found = []
    for folder in sorted(folders):
        below = replace(address, prefix=f"{address.prefix}{folder}/")
        notes = await bucket.ask("list_objects_v2", what, Prefix=below.own("uploads/"), MaxKeys=1)
        if notes.get("Contents"):
            found.append(below)
    return found


def _forget_parts(state: Path, aborted: Collection[tuple[str, str]]) -> None:
    """Remove aborted uploads from the ledgers of this machine, so that nothing is said to be held of them."""
    for place in (state / "uploads.sqlite3", *state.glob("shards/*/uploads.sqlite3")):
        if not place.is_file():
            continue
        ledger = UploadLedger(place)
        try:
            for path, upload in aborted:
                if (known := ledger.get(path)) is not None and known.upload == upload:
                    ledger.drop(path)
        finally:
            ledger.close()


async def clean(
    address: BucketAddress, state: Path, settings: Settings, *, dry_run: bool
) -> tuple[list[tuple[str, str]], list[BucketAddress]]:
    """Abort every noted upload of a prefix, those of other machines and lost ledgers included.

    Ranges that nodes of a cluster fetched for each other, and did not delete, are deleted too.

    Args:
        address: bucket and prefix.
        state: the local state folder, whose lock the caller holds unless nothing is to be changed.
        settings: how the bucket is reached.
        dry_run: whether they are only listed.

    Returns:
        Path and upload id of each, and the prefixes below that have unfinished uploads of their own.

    Raises:
        FolderBusyError: a run fetches to the prefix.
        StorageError: the store does not answer, or refuses it.
    """
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(
            connected(address, settings.s3, _CONNECTIONS, settings.storage.disk_patience)
        )
        # some stores make a missing bucket for the lock, so that the first request must not be that one
        found = [each async for each in unknown_uploads(bucket, "")]
        if not dry_run:
            await stack.enter_async_context(BucketLock(bucket, state, "lock-run"))
            await check_no_other_run(bucket, "lock-run")
            found = [each async for each in unknown_uploads(bucket, "")]
        for noted in () if dry_run else found:
            await abort(bucket, noted)
        if not dry_run:
            await discard_ranges(bucket)
        below = await _prefixes_below(bucket)
    uploads = [(noted.path, noted.upload) for noted in found if noted.upload]
    if not dry_run:
        await asyncio.to_thread(_forget_parts, state, uploads)
    return uploads, below
