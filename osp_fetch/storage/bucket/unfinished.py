"""Unfinished uploads: the notes that name them in the bucket, and aborting them.

S3 does not show the metadata of an unfinished upload. A small object beside the files therefore names each of
ours, so that no upload of another program is ever aborted.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Container
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from ...model.errors import StorageError
from ...model.settings import Settings
from ...s3.address import BucketAddress
from ...s3.client import Bucket
from ...s3.errors import BucketError
from ...s3.session import connected
from .lock import BucketLock, check_no_other_run

_CONNECTIONS: Final = 8


async def note(bucket: Bucket, path: str, upload: str, name: str) -> None:
    """Leave an object that names an unfinished upload.

    Args:
        bucket: requests to the bucket.
        path: the file.
        upload: the upload id.
        name: the name of the note: the run or shard, a slash, and the token of the upload.

    Raises:
        StorageError: it cannot be written.
    """
    await bucket.ask(
        "put_object", f"{bucket.address.url(path)}: its upload cannot be noted",
        Key=bucket.address.own(f"uploads/{name}"),
        Body=json.dumps({"path": path, "upload": upload}).encode(),
    )  # fmt: skip


async def forget(bucket: Bucket, name: str) -> None:
    """Remove a note. If that fails, the next run or `clean` removes it."""
    with suppress(StorageError):
        await bucket.ask(
            "delete_object", f"{bucket.address}: a note cannot be deleted",
            Key=bucket.address.own(f"uploads/{name}"),
        )  # fmt: skip


async def abort(bucket: Bucket, path: str, upload: str, name: str) -> None:
    """Abort an unfinished upload, which may be gone already, and remove its note.

    Raises:
        StorageError: the store does not answer, or refuses it.
    """
    try:
        await bucket.ask(
            "abort_multipart_upload", f"{bucket.address.url(path)}: its upload cannot be aborted",
            Key=bucket.address.key(path), UploadId=upload,
        )  # fmt: skip
    except BucketError as error:
        if error.status != 404:
            raise
    await forget(bucket, name)


async def unknown_uploads(
    bucket: Bucket, scope: str, known: Container[str] = ()
) -> AsyncIterator[tuple[str, str, str]]:
    """Yield (path, upload id, name of the note) of each noted upload whose id is not in `known`.

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
            try:
                found = await bucket.ask("get_object", what, Key=row["Key"])
                async with found["Body"] as body:
                    noted = json.loads(await body.read())
            except BucketError as error:
                if error.status != 404:
                    raise
                continue
            if noted["upload"] not in known:
                yield noted["path"], noted["upload"], row["Key"].removeprefix(bucket.address.own("uploads/"))


async def clean(
    address: BucketAddress, state: Path, settings: Settings, *, dry_run: bool
) -> list[tuple[str, str]]:
    """Abort every noted upload below a prefix, those of other machines and lost ledgers included.

    Args:
        address: bucket and prefix.
        state: the local state folder, whose lock the caller holds unless nothing is to be changed.
        settings: how the bucket is reached.
        dry_run: whether they are only listed.

    Returns:
        Path and upload id of each.

    Raises:
        FolderBusyError: a run fetches to the prefix.
        StorageError: the store does not answer, or refuses it.
    """
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(
            connected(address, settings.s3, _CONNECTIONS, settings.storage.disk_patience)
        )
        if not dry_run:
            await stack.enter_async_context(BucketLock(bucket, state, "lock-run"))
            await check_no_other_run(bucket, "lock-run")
        found = [each async for each in unknown_uploads(bucket, "")]
        for path, upload, name in () if dry_run else found:
            await abort(bucket, path, upload, name)
    return [(path, upload) for path, upload, _ in found]
