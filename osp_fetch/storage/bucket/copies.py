"""Copies objects on the server where source and destination are at one store, so that no byte passes here.

A copy is made only where the store can show that it is right, by a checksum or the MD5 of the complete
object, or where the source states neither. Every other object is fetched and uploaded.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

from ...concurrency import task_group
from ...model.dataclasses import dataclass
from ...model.digest import Digest
from ...model.entry import Entry
from ...model.errors import StorageError
from ...model.record import Placed, Published
from ...s3.credentials import SignatureRequest
from ...s3.errors import BucketError
from ..ledger.uploads import Upload, UploadedPart
from .multipart import Multipart, check
from .objects import Creation, Object, metadata_of, new_token, own_metadata
from .resources import BucketResources
from .sums import scheme_of

_WHOLE: Final = 5 << 30  # bytes of the largest object that one request copies (Amazon S3 API, CopyObject)
_PART: Final = 256 << 20  # bytes of a part that is copied by one request; more above 2.5 TB
_AWS: Final = re.compile(r"https://(?:(?P<bucket>[^/]+)\.)?s3[.-][a-z0-9.-]*amazonaws\.com/")


class _NoChecksumError(Exception):
    """The store copies parts without stating their checksums, so that nothing would prove the copy."""


@dataclass(frozen=True, slots=True)
class _Source:
    """An object that is copied: where it is, its ETag, and how the store describes it."""

    bucket: str
    key: str
    etag: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by which a request names it."""
        return {"CopySource": {"Bucket": self.bucket, "Key": self.key}, "CopySourceIfMatch": self.etag}


class BucketCopies:
    """Copies within one store; implements `model.protocols.Copies`.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._shared, self._bucket = shared, shared.bucket

    async def copy(self, entry: Entry, replaces: Published | None) -> tuple[Placed, dict[str, str]] | None:
        """Copy the object of a row, if it is large and at this store.

        Args:
            entry: the row.
            replaces: state of the object that may be replaced.

        Returns:
            The new object, and algorithm → hexadecimal digest of what the store has shown of it; None if the
            row has to be fetched.

        Raises:
            IntegrityError: the copy differs; it was deleted again.
            StorageError: the object has changed, another object has the name, or the store does not answer.
        """
        source = self._source(entry)
        if source is None or entry.size is None or entry.size <= self._shared.least:
            return None
        found = await self._look(source, entry)
        if found is None:
            return None
        creation = Creation(self._bucket, entry.path, replaces, overwrite=self._shared.overwrite)
        await creation.check()
        scheme = self._shared.scheme
        can_prove = entry.digest is None or (scheme.digest in found.sums and _is_stated(entry, found))
        if scheme.name and can_prove:
            try:
                return await self._in_parts(entry, source, found, creation)
            except _NoChecksumError:
                return None
        etag = found.etag.strip('"')
        is_md5 = entry.digest is not None and (entry.digest.algorithm, entry.digest.hex) == ("md5", etag)
        if is_md5 and found.size <= _WHOLE:
            return await self._at_once(entry, source, found, creation)
        return None

    def _source(self, entry: Entry) -> _Source | None:
        """Return the object that a row names, None if it is not at this store or not signed by the user."""
        headers = {name.lower(): value for name, value in entry.headers}
        asked = SignatureRequest.parse(headers.get("authorization", ""))
        if asked is None or asked.provider != "aws" or "if-match" not in headers:
            return None
        url, endpoint = entry.urls[0], self._bucket.endpoint.rstrip("/") + "/"
        if (aws := _AWS.match(url)) and _AWS.match(endpoint):
            rest = url[aws.end() :]
            name, key = (aws["bucket"], rest) if aws["bucket"] else rest.split("/", 1)
        elif url.startswith(endpoint):
            name, key = url[len(endpoint) :].split("/", 1)
        else:
            return None
        return _Source(unquote(name), unquote(key), headers["if-match"])

    async def _look(self, source: _Source, entry: Entry) -> Object | None:
        """Return how the object looks; None if it cannot be seen or has changed, so that fetching says so."""
        try:
            found = await self._bucket.ask(
                "head_object", f"s3://{source.bucket}/{source.key}: it cannot be looked at",
                Bucket=source.bucket, Key=source.key, ChecksumMode="ENABLED",
            )  # fmt: skip
        except BucketError:
            return None
        seen = Object.of_reply(found)
        return seen if (seen.etag, seen.size) == (source.etag, entry.size) else None

    async def _in_parts(
        self, entry: Entry, source: _Source, found: Object, creation: Creation
    ) -> tuple[Placed, dict[str, str]]:
        """Copy by a multipart upload, and compare the checksum of the complete object."""
        multipart = Multipart(self._shared, entry.path, _states(entry))
        upload = await multipart.begin(found.size)
        try:
            parts = await self._parts(entry, source, upload, found.size)
            made = await multipart.complete(upload, parts, creation)
        except BaseException:
            await multipart.abort(upload)
            raise
        await multipart.forget(upload)
        scheme = scheme_of(upload.scheme)
        sums = {scheme.digest: scheme.hex(scheme.combined([(p.checksum, p.size) for p in parts]))}
        await check(self._shared, entry.path, made, found.size, sums)
        await check(self._shared, entry.path, made, found.size, found.sums)
        return Placed(made.state), sums

    async def _parts(self, entry: Entry, source: _Source, upload: Upload, size: int) -> list[UploadedPart]:
        length = max(_PART, -(-size // 9_000))
        scheme, what = scheme_of(upload.scheme), self._bucket.address.url(entry.path)

        async def copy(number: int, start: int) -> UploadedPart:
            stop = min(size, start + length)
            async with self._shared.sending:
                reply = await self._bucket.ask(
                    "upload_part_copy", f"{what}: part {number} cannot be copied",
                    Key=self._bucket.address.key(entry.path), UploadId=upload.upload, PartNumber=number,
                    CopySourceRange=f"bytes={start}-{stop - 1}", **source.arguments,
                )  # fmt: skip
            result = reply["CopyPartResult"]
            if scheme.field not in result:
                raise _NoChecksumError
            checksum = int(scheme.hex_of(result[scheme.field]), 16)
            return UploadedPart(number, result["ETag"], checksum, stop - start, None, b"")

        async with task_group() as copying:
            starts = enumerate(range(0, size, length), 1)
            tasks = [copying.create_task(copy(number, start)) for number, start in starts]
        return [task.result() for task in tasks]

    async def _at_once(
        self, entry: Entry, source: _Source, found: Object, creation: Creation
    ) -> tuple[Placed, dict[str, str]]:
        """Copy by one request, and compare the ETag, which is the MD5."""
        token, what = new_token(), self._bucket.address.url(entry.path)

        async def send(condition: dict[str, str]) -> None:
            if await self._look(source, entry) is None:  # else its condition could fail for ever
                raise StorageError(f"{what}: its source has changed since it was listed; run again")
            await self._bucket.once(
                "copy_object", f"{what}: it cannot be copied", Key=self._bucket.address.key(entry.path),
                MetadataDirective="REPLACE", Metadata=own_metadata(token, _states(entry)),
                **source.arguments, **condition,
            )  # fmt: skip

        made = await creation.run(send, token)
        assert entry.digest is not None
        proof = {"md5": entry.digest.hex}
        shown = Object(made.size, made.etag, made.metadata, made.sums | {"md5": made.etag.strip('"')})
        await check(self._shared, entry.path, shown, found.size, proof)
        return Placed(made.state), proof | made.sums


def _is_stated(entry: Entry, found: Object) -> bool:
    """Return whether the store itself states the digest of a row. Another one needs all bytes."""
    digest = entry.digest
    return digest is None or digest.hex in (found.sums.get(digest.algorithm), _md5_of(found, digest))


def _md5_of(found: Object, digest: Digest) -> str | None:
    return found.etag.strip('"') if digest.algorithm == "md5" else None


def _states(entry: Entry) -> dict[str, str]:
    """Return what the metadata of the copy state of the file."""
    digests = {entry.digest.algorithm: entry.digest.hex} if entry.digest else {}
    return metadata_of(digests, source=entry.source_key(entry.urls[0]))
