"""Unfinished uploads: the notes that name them in the bucket, and aborting them.

S3 does not show the metadata of an unfinished upload. A small object beside the files therefore names each of
ours, so that no upload of another program is ever aborted.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Container
from contextlib import suppress

from ...model.errors import StorageError
from .client import Bucket, BucketError


async def note(bucket: Bucket, path: str, upload: str, token: str) -> None:
    """Leave an object that names an unfinished upload.

    Args:
        bucket: requests to the bucket.
        path: the file.
        upload: the upload id.
        token: the name of the note.

    Raises:
        StorageError: it cannot be written.
    """
    await bucket.ask(
        "put_object", f"{bucket.address.url(path)}: its upload cannot be noted",
        Key=bucket.address.own(f"uploads/{token}"),
        Body=json.dumps({"path": path, "upload": upload}).encode(),
    )  # fmt: skip


async def forget(bucket: Bucket, token: str) -> None:
    """Remove a note. If that fails, the next run or `clean` removes it."""
    with suppress(StorageError):
        await bucket.ask(
            "delete_object", f"{bucket.address}: a note cannot be deleted",
            Key=bucket.address.own(f"uploads/{token}"),
        )  # fmt: skip


async def abort(bucket: Bucket, path: str, upload: str, token: str) -> None:
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
    await forget(bucket, token)


async def unknown_uploads(bucket: Bucket, known: Container[str] = ()) -> AsyncIterator[tuple[str, str, str]]:
    """Yield (path, upload id, token) of each noted upload whose id is not in `known`.

    Raises:
        StorageError: the bucket cannot be listed or read.
    """
    what = f"{bucket.address}: its unfinished uploads cannot be listed"
    async for page in bucket.pages("list_objects_v2", what, Prefix=bucket.address.own("uploads/")):
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
                yield noted["path"], noted["upload"], row["Key"].rpartition("/")[2]
