"""The lock object of a prefix: it keeps runs of other machines out."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from ...concurrency import stop
from ...model.errors import FolderBusyError, StorageError
from ...s3.client import Bucket
from ...s3.errors import BucketError
from .objects import new_token, own_content

_RENEWAL: Final = 20.0  # seconds between two renewals
_STALE: Final = 90.0  # seconds by the store's clock after which a lock that was not renewed is taken over
_LOOK: Final = 5.0  # seconds between two looks at a lock that another run holds
_OWNER: Final = "bucket-owner"  # file of the local state folder: who this state is
_REFUSED: Final = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


class BucketLock:
    """The lock of a prefix, or of one shard of it. An async context manager.

    The object is created with `If-None-Match: *` and renewed with `If-Match`. A run of the same local state
    folder takes it over at once, because the lock of that folder has kept other runs out already. A store
    that knows no conditions cannot lock.

    Args:
        bucket: requests to the bucket.
        state: the local state folder.
        name: name of the lock, below the folder of osp-fetch in the bucket.
        wait: seconds to wait for a lock that another run holds.

    Raises:
        FolderBusyError: on entering, another run holds the lock.
        StorageError: on entering, the bucket cannot be written.
    """

    def __init__(self, bucket: Bucket, state: Path, name: str, wait: float = 0.0) -> None:
        self._bucket, self._key, self._state, self._wait = bucket, bucket.address.own(name), state, wait
        self._etag: str | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> BucketLock:
        self._owner = await asyncio.to_thread(_owner, self._state)
        try:
            self._etag = await self._write({"IfNoneMatch": "*"})
        except BucketError as error:
            if error.code in ("NotImplemented", "501"):
                self._bucket.conditional = False
                return self
            if error.code not in _REFUSED:
                raise
            self._etag = await self._taken_in_time()
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop({self._renewing} if self._renewing else set())
        if self._etag is not None and self._bucket.lost is None:
            with suppress(StorageError):
                await self._bucket.ask("delete_object", self._what("be released"), Key=self._key)

    def _what(self, done: str) -> str:
        return f"{self._bucket.address}: its lock cannot {done}"

    async def _write(self, condition: dict[str, str]) -> str:
        now = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid()}
        found = await self._bucket.ask(
            "put_object", f"{self._bucket.address}: it cannot be written", Key=self._key,
            **own_content(now), **condition,
        )  # fmt: skip
        return str(found["ETag"])

    async def _taken_in_time(self) -> str:
        """Take the lock over as soon as that is possible, and return its new ETag."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._wait
        while True:
            try:
                return await self._taken_over()
            except FolderBusyError:
                if clock() >= until:
                    raise
            await asyncio.sleep(min(_LOOK, max(0.0, until - clock())))

    async def _taken_over(self) -> str:
        """Take over the lock of a run that has ended, and return its new ETag."""
        try:
            found = await self._bucket.ask("get_object", self._what("be read"), Key=self._key)
            async with found["Body"] as body:
                held: dict[str, Any] = json.loads(await body.read())
        except BucketError as error:
            if error.status != 404:
                raise
            return await self._write({"IfNoneMatch": "*"})
        except ValueError:
            held = {}
        if held.get("owner") != self._owner and _age(found) < _STALE:
            raise self._busy(held)
        try:
            return await self._write({"IfMatch": found["ETag"]})
        except BucketError as error:
            if error.code not in _REFUSED:
                raise
            raise self._busy(held) from None

    def _busy(self, held: dict[str, Any]) -> FolderBusyError:
        return FolderBusyError(
            f"{self._bucket.address}: another run fetches to it (process {held.get('pid')} on "
            f"{held.get('host')}); wait until it ends, or stop it. The lock of a killed run is taken over "
            f"after {_STALE:g} s"
        )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL)
            try:
                self._etag = await self._write({"IfMatch": self._etag or ""})
            except BucketError as error:
                if error.code in _REFUSED or error.status == 404:
                    self._bucket.lost = FolderBusyError(
                        f"{self._bucket.address}: another run has taken over, because this one did not renew "
                        "its lock in time; stop one of them"
                    )
                    return
            except StorageError:
                pass  # the store does not answer: the requests for files report that


def _owner(state: Path) -> str:
    """Return the name of a local state folder, which is made when it is first needed."""
    place = state / _OWNER
    with suppress(OSError):
        if text := place.read_text().strip():
            return text
    made = new_token()
    with suppress(OSError):
        place.write_text(made)
    return made


async def check_no_other_run(bucket: Bucket, own: str) -> None:
    """Raise FolderBusyError if a lock of another name than `own` is held: that of a shard.

    Args:
        bucket: requests to the bucket.
        own: the name of the lock that the caller holds.

    Raises:
        FolderBusyError: a run fetches to the prefix.
        StorageError: the store does not answer.
    """
    what = f"{bucket.address}: its locks cannot be listed"
    async for page in bucket.pages("list_objects_v2", what, Prefix=bucket.address.own("lock-")):
        for row in page.get("Contents", []):
            other = row["Key"] != bucket.address.own(own)
            if other and _age({**row, "ResponseMetadata": page["ResponseMetadata"]}) < _STALE:
                raise FolderBusyError(
                    f"{bucket.address}: a shard fetches to it ({row['Key']}); wait until it ends, or stop it"
                )


def _age(found: dict[str, Any]) -> float:
    """Return the seconds since an object was written, both times by the store's clock."""
    written: datetime = found["LastModified"]
    try:
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return 0.0
    return (now - written).total_seconds()
