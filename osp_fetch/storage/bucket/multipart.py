"""The requests of one multipart upload (Amazon S3 User Guide, "Uploading and copying objects")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...concurrency import completed
from ...model.entry import RelativePath
from ...model.errors import IntegrityError, Remedy, StorageError
from ...s3.errors import BucketError
from ..folder.executors import in_thread
from ..ledger.uploads import Upload, UploadedPart
from . import unfinished
from .objects import Creation, Object, new_token, own_metadata
from .part_memory import Body
from .resources import BucketResources
from .sums import scheme_of

_TRIES: Final = 4  # attempts to send a part that arrives damaged
_DAMAGED: Final = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentChecksumMismatch"})
# Replies to the completion of an upload of which the store has not, or no longer, what was sent to it.
_LOST: Final = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder", *_DAMAGED})


class Multipart:
    """The multipart upload of one file.

    Args:
        shared: what the store shares.
        path: the file.
        states: what the metadata of the object state of the file.
    """

    def __init__(self, shared: BucketResources, path: RelativePath, states: dict[str, str]) -> None:
        self._shared, self._bucket, self._path = shared, shared.bucket, path
        self._states = states
        self._what = shared.bucket.address.url(path)
        self._key = shared.bucket.address.key(path)

    async def begin(self, length: int | None) -> Upload:
        """Begin an upload, and record it in a note in the bucket and in the ledger.

        An earlier upload of the file that the ledger states is aborted. If the caller is cancelled while the
        store is asked, the upload is recorded before that is raised.

        Args:
            length: bytes of the file, None if unknown.

        Raises:
            StorageError: the store refuses it or does not answer, or the ledger cannot be written.
        """
        await self.discard_earlier()
        token, begun, requests = new_token(self._states), list[Upload](), 0
        since = await unfinished.announce(self._bucket, self._path, self._note(token))

        async def attempt() -> None:
            nonlocal requests
            requests += 1
            await completed(self._create(token, length, begun))

        await self._bucket.repeated(attempt)
        if requests > 1:
            await unfinished.abort_empty(self._bucket, self._path, since, {begun[-1].upload})
        return begun[-1]

    async def _create(self, token: str, length: int | None, begun: list[Upload]) -> None:
        """Begin an upload, record it, and append it to `begun`. No request is repeated."""
        scheme = self._shared.scheme
        found = await self._bucket.once(
            "create_multipart_upload", f"{self._what}: it cannot be uploaded", Key=self._key,
            Metadata=own_metadata(token, self._states), **scheme.create(),
        )  # fmt: skip
        upload = Upload(found["UploadId"], token, scheme.name, length)
        await unfinished.note(self._bucket, self._noted(upload))
        await self._shared.uploads.begin(self._path, upload)
        begun.append(upload)

    async def send(self, upload: Upload, number: int, data: memoryview, checksum: int) -> str:
        """Send a part and return its ETag. It is sent again from memory if it arrives damaged.

        Args:
            upload: the upload.
            number: the number of the part, from 1.
            data: its bytes.
            checksum: their checksum by the scheme of the upload.

        Raises:
            StorageError: the store refuses it, or does not answer. RESTART is the remedy if it has discarded
                the upload.
        """
        scheme = scheme_of(upload.scheme)
        sums = await in_thread(self._shared.hashers, lambda: scheme.arguments(data, checksum))
        tries = 0
        while True:
            tries += 1
            try:
                async with self._shared.sending:
                    found = await self._bucket.ask(
                        "upload_part", f"{self._what}: part {number} cannot be uploaded", Key=self._key,
                        UploadId=upload.upload, PartNumber=number, Body=Body(data), ContentLength=len(data),
                        **sums,
                    )  # fmt: skip
                return str(found["ETag"])
            except BucketError as error:
                if error.code == "NoSuchUpload":
                    raise self._discarded() from None
                if error.code not in _DAMAGED or tries == _TRIES:
                    raise

    def _discarded(self) -> StorageError:
        return StorageError(
            f"{self._what}: the store has discarded the unfinished upload, or parts of it (a lifecycle "
            "rule, or another program); the file is fetched again",
            remedy=Remedy.RESTART,
        )

    async def complete(self, upload: Upload, parts: Sequence[UploadedPart], creation: Creation) -> Object:
        """Let the object appear, and return how it looks.

        Args:
            upload: the upload.
            parts: all its parts in order.
            creation: what the object may replace.

        Raises:
            StorageError: another object has the name, or the store refuses the object or does not answer.
                RESTART is the remedy if it has not what was sent to it.
        """
        scheme = scheme_of(upload.scheme)
        listed: list[dict[str, Any]] = []
        for part in parts:
            item = {"PartNumber": part.number, "ETag": part.etag}
            listed.append(item | ({scheme.field: scheme.text(part.checksum)} if scheme.name else {}))
        whole = {}
        if scheme.name:
            total = scheme.combined([(part.checksum, part.size) for part in parts])
            whole = {scheme.field: scheme.text(total), "ChecksumType": "FULL_OBJECT"}

        async def send(condition: dict[str, str]) -> None:
            await self._bucket.once(
                "complete_multipart_upload", f"{self._what}: it cannot be published", Key=self._key,
                UploadId=upload.upload, MultipartUpload={"Parts": listed},
                MpuObjectSize=sum(part.size for part in parts), **whole, **condition,
            )  # fmt: skip

        try:
            return await creation.run(send, upload.token)
        except BucketError as error:
            if error.code in _LOST:
                raise self._discarded() from None
            raise

    async def abort(self, upload: Upload) -> None:
        """Abort the upload, which may be gone already, and remove what is recorded of it.

        Raises:
            StorageError: the store refuses it or does not answer, or the ledger cannot be written.
        """
        await unfinished.abort(self._bucket, self._noted(upload))
        await self._shared.uploads.drop(self._path)

    async def discard_earlier(self) -> None:
        """Abort the upload that the ledger states, if any.

        Raises:
            StorageError: as `abort`.
        """
        if (earlier := await self._shared.uploads.get(self._path)) is not None:
            await self.abort(earlier)

    async def forget(self, upload: Upload) -> None:
        """Remove what is recorded of an upload that was completed.

        Raises:
            StorageError: the ledger cannot be written.
        """
        await unfinished.forget(self._bucket, self._note(upload.token))
        await self._shared.uploads.drop(self._path)

    def _noted(self, upload: Upload) -> unfinished.Noted:
        return unfinished.Noted(self._path, upload.upload, self._note(upload.token))

    def _note(self, token: str) -> str:
        return f"{self._shared.scope}/{token}"


async def check(
    shared: BucketResources, path: RelativePath, found: Object, length: int, sums: Mapping[str, str]
) -> None:
    """Compare a new object with what was sent, and delete it if it differs.

    Args:
        shared: what the store shares.
        path: the file.
        found: the object.
        length: bytes that were sent.
        sums: name of a checksum → its value of what was sent, as `Record.digests` has them.

    Raises:
        IntegrityError: it differs.
        StorageError: the store does not answer.
    """
    if found.size == length and all(found.sums.get(name, value) == value for name, value in sums.items()):
        return
    what = shared.bucket.address.url(path)
    await shared.bucket.ask(
        "delete_object", f"{what}: it cannot be deleted", Key=shared.bucket.address.key(path)
    )
    raise IntegrityError(
        f"{what}: the object that the store made differs from what was sent ({found.size} bytes of "
        f"{length}); it was deleted again"
    )
