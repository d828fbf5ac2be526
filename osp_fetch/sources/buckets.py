"""Buckets as sources: lists the objects of `s3://BUCKET/PREFIX` and `gs://BUCKET/PREFIX`, with digests."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from ..concurrency import task_group
from ..model.dataclasses import dataclass
from ..model.digest import HEX_LENGTHS, STRENGTH, Digest
from ..model.entry import STATE_FOLDER, entry
from ..model.errors import CredentialsError, FetchError, ManifestError, NetworkError, Remedy, StorageError
from ..model.protocols import Row
from ..model.settings import S3
from ..model.urls import shown
from ..s3.address import BUCKET_NAME, BucketAddress
from ..s3.client import Bucket
from ..s3.credentials import Keys, KeySource, SignatureRequest
from ..s3.errors import BucketError
from ..s3.session import connected
from .row_parser import Blocks, Numbered, broken
from .select import matches

GOOGLE: Final = "https://storage.googleapis.com"
_SCHEMES: Final = {"s3://": "aws", "gs://": "gs"}
_WILDCARD: Final = re.compile(r"[*?\[]")
_BLOCK: Final = 100  # objects that are looked at before their rows are passed on
_AT_ONCE: Final = 32  # objects that are looked at at the same time
_PATIENCE: Final = 60.0  # seconds for which a request is repeated
# Objects that are looked at one by one. A look costs a request and 3 ms of processor time, and only it states
# checksums, and whether the ETag is the MD5 of the content (it is not with keys of KMS, or SSE-C).
_LOOKED_AT: Final = 10_000
# Bytes of an object that is looked at however many there are: its transfer takes longer than the look.
_LARGE: Final = 8 << 20
_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')
# Metadata of objects that osp-fetch made (`storage.bucket.objects`): their SHA-256 is beside it.
_OWN: Final = "osp-token"
_SUMS: Final = {
    "ChecksumSHA256": "sha256",
    "ChecksumSHA1": "sha1",
    "ChecksumCRC32C": "crc32c",
    "ChecksumCRC64NVME": "crc64nvme",
}
# Storage classes whose objects have to be restored before they can be read.
_ARCHIVED: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """An address `s3://BUCKET[/KEY | /FOLDER/ | /GLOB]`, or the same with `gs://`.

    Attributes:
        scheme: `s3://` or `gs://`.
        bucket: name of the bucket.
        name: a key, a folder, or a glob of keys; empty for the complete bucket.
    """

    scheme: str
    bucket: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ObjectAddress:
        """Parse an address.

        Raises:
            ManifestError: `text` is not such an address.
        """
        scheme, rest = text[:5].lower(), text[5:]
        bucket, _, name = rest.partition("/")
        if not BUCKET_NAME.fullmatch(bucket):
            raise broken(f"{shown(text)}: {bucket!r} is not the name of a bucket; write {scheme}BUCKET/KEY")
        return cls(scheme, bucket, name)

    @property
    def glob(self) -> str | None:
        """The glob, None if the address has none."""
        return self.name if _WILDCARD.search(self.name) else None

    @property
    def folder(self) -> str:
        """What keys begin with that the address may select: a folder with a slash, or the start of a glob."""
        if found := _WILDCARD.search(self.name):
            return self.name[: found.start()]
        return self.name if not self.name or self.name.endswith("/") else self.name + "/"

    def __str__(self) -> str:
        return f"{self.scheme}{self.bucket}/{self.name}"


def listing(text: str, settings: S3, note: Callable[[str], None]) -> Blocks:
    """List the objects that an address names. Blocks; not to be called in the thread of an event loop.

    Paths are relative to the folder of the address. Requests ask for exactly the version that was listed.

    Args:
        text: an `s3://` or `gs://` address.
        settings: how buckets are reached.
        note: receives sentences for the report.

    Raises:
        ManifestError: `text` is not such an address, the bucket does not exist, or nothing matches.
        CredentialsError: the store refuses to list the bucket.
        NetworkError: the store does not answer, or answers with another error.
        SettingsError: the library is not installed, or the endpoint cannot be used.
    """
    address = ObjectAddress.parse(text)
    loop = asyncio.new_event_loop()
    try:
        keys = _keys(address, settings)
        blocks = _Listing(address, settings, keys, note).blocks()
        try:
            while (block := loop.run_until_complete(_next(blocks))) is not None:
                yield block
        finally:
            loop.run_until_complete(blocks.aclose())
    except StorageError as error:
        raise _translated(error, address) from None
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _next(blocks: AsyncIterator[list[Numbered]]) -> list[Numbered] | None:
    return await anext(blocks, None)


def _keys(address: ObjectAddress, settings: S3) -> Keys | None:
    """Return the keys to sign with, None to sign nothing."""
    try:
        return None if settings.sign == "never" else KeySource(_SCHEMES[address.scheme]).keys()
    except ImportError:
        raise broken(f"{address}: buckets need a library; run: pip install 'osp-fetch[s3]'") from None


def _translated(error: StorageError, address: ObjectAddress) -> FetchError:
    """Return the error of a source for an error of the store."""
    if isinstance(error, BucketError):
        if error.code in ("NoSuchBucket", "NoSuchKey") or error.status == 404:
            return broken(str(error))
        if error.status in (401, 403):
            return CredentialsError(str(error))
    return NetworkError(f"{error}" if str(error).startswith(address.scheme) else f"{address}: {error}",
                        remedy=Remedy.ABORT)  # fmt: skip


class _Listing:
    """One listing; its attributes are what it learns of the bucket on the way."""

    def __init__(
        self, address: ObjectAddress, settings: S3, keys: Keys | None, note: Callable[[str], None]
    ) -> None:
        self._address, self._keys, self._note = address, keys, note
        default = GOOGLE if address.scheme == "gs://" else settings.endpoint
        self._settings = replace(settings, endpoint=settings.source_endpoint or default)
        self._payer = {"RequestPayer": "requester"} if settings.requester_pays == "accept" else {}
        self._sent = _LastRequest(address.name)
        self._number = self._looked_at = 0
        self._refusal: BucketError | None = None  # of the object whose key is the address
        self._plain = True  # whether every ETag with the form of an MD5 was one so far

    async def blocks(self) -> AsyncGenerator[list[Numbered], None]:
        """Yield blocks of rows."""
        address = self._address
        async with AsyncExitStack() as stack:
            place = BucketAddress(address.bucket, scheme=address.scheme)
            bucket = await stack.enter_async_context(
                connected(
                    place, self._settings, _AT_ONCE, _PATIENCE, reads_only=True,
                    # those of AWS are found again by botocore, which renews them during a long listing
                    keys=self._keys if address.scheme == "gs://" else None, unsigned=self._keys is None,
                )
            )  # fmt: skip
            bucket.watch(self._sent)
            may_be_one = address.name and address.glob is None and not address.name.endswith("/")
            if may_be_one and (found := await self._single(bucket)):
                yield [found]
                return
            async for block in self._listed(bucket):
                yield block
        if not self._number:
            raise self._refusal or broken(
                f"{address}: there is no such object, and none below it; for every key that begins so, write "
                f"{str(address).rstrip('/')}*"
            )

    async def _single(self, bucket: Bucket) -> Numbered | None:
        """Return the row of the object whose key is the address, None if there is none."""
        key = self._address.name
        try:
            head = await self._look(bucket, key)
        except BucketError as error:
            if error.status == 404:
                return None
            if error.status == 403:  # without a body; the reply to a listing says why
                self._refusal = error
                return None
            raise
        self._number = 1
        listed = {"Key": key, "Size": head["ContentLength"], "ETag": head["ETag"]}
        return 1, self._row(listed | {"StorageClass": head.get("StorageClass")}, head, key.rpartition("/")[0])

    async def _look(self, bucket: Bucket, key: str) -> dict[str, Any]:
        return await bucket.ask(
            "head_object", f"{bucket.address.url(key)}: it cannot be looked at", Key=key,
            ChecksumMode="ENABLED", **self._payer,
        )  # fmt: skip

    async def _listed(self, bucket: Bucket) -> AsyncIterator[list[Numbered]]:
        folder = self._address.folder
        base = folder.rpartition("/")[0]
        what = f"{self._address}: it cannot be listed"
        async for page in bucket.pages("list_objects_v2", what, Prefix=folder, **self._payer):
            rows = [each for each in page.get("Contents", []) if self._wants(each["Key"])]
            for start in range(0, len(rows), _BLOCK):
                some = rows[start : start + _BLOCK]
                heads = await self._heads(bucket, some)
                block: list[Numbered] = []
                for listed, head in zip(some, heads, strict=True):
                    self._number += 1
                    block.append((self._number, self._row(listed, head, base)))
                yield block

    def _wants(self, key: str) -> bool:
        """Return whether the address selects a key.

        One that ends in a slash only marks a folder, and one below `.osp-fetch/` is a record of osp-fetch.
        """
        glob = self._address.glob
        # brackets are literal where such a key exists
        is_wanted = glob is None or matches(key, glob) or f"{key}/".startswith(glob.rstrip("/") + "/")
        return is_wanted and not key.endswith("/") and STATE_FOLDER not in key.split("/")

    async def _heads(self, bucket: Bucket, rows: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Return what a look at each object shows, None for those that need none."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def look(row: dict[str, Any]) -> dict[str, Any] | None:
            if not self._needs_look(row):
                return None
            async with places:
                try:
                    return await self._look(bucket, row["Key"])
                except BucketError as error:
                    if error.status in (403, 404):  # readable or not, the request for the file decides that
                        return None
                    raise

        async with task_group() as looking:
            tasks = [looking.create_task(look(row)) for row in rows]
        return [task.result() for task in tasks]

    def _needs_look(self, row: dict[str, Any]) -> bool:
        if row["Size"] == 0 or row.get("StorageClass") in _ARCHIVED:
            return False
        self._looked_at += 1
        if self._looked_at == _LOOKED_AT + 1 and self._plain:
            self._note(
                f"{self._address}: after {_LOOKED_AT} objects, the ETags of small ones are taken for their "
                "MD5, as they were so far"
            )
        return self._looked_at <= _LOOKED_AT or row["Size"] >= _LARGE or not self._plain

    def _row(self, listed: dict[str, Any], head: dict[str, Any] | None, base: str) -> Row:
        """Return the row of one object."""
        key, size = listed["Key"], listed["Size"]
        if listed.get("StorageClass") in _ARCHIVED:
            return ManifestError(
                f"{self._address.scheme}{self._address.bucket}/{key}: it is archived "
                f"({listed['StorageClass']}) and cannot be read; restore it first"
            )
        etag = head["ETag"] if head else listed["ETag"]
        digest = self._digest(etag, head) if size else None
        path = key.removeprefix(f"{base}/") if base else key
        try:
            return entry(path, self._sent.base + quote(key, safe="/~"), size, digest, self._headers(etag))
        except ManifestError as error:
            return ManifestError(f"{self._address.scheme}{self._address.bucket}/{key}: {error}")

    def _headers(self, etag: str) -> dict[str, str]:
        found = {"If-Match": etag}
        if self._payer:
            found["x-amz-request-payer"] = "requester"
        if self._keys is not None:
            provider = _SCHEMES[self._address.scheme]
            found["Authorization"] = str(SignatureRequest(provider, self._sent.region))
        return found

    def _digest(self, etag: str, head: dict[str, Any] | None) -> Digest | None:
        """Return the strongest digest of an object that the store states."""
        found = _stated(head) if head else {}
        is_md5 = _MD5.fullmatch(etag)
        if head is not None and is_md5:
            self._plain = self._plain and _is_plain(head)
        if is_md5 and (self._plain if head is None else _is_plain(head)):
            found["md5"] = is_md5[1]
        for algorithm in STRENGTH:
            if algorithm in found:
                return Digest(algorithm, found[algorithm])
        return None


def _is_plain(head: dict[str, Any]) -> bool:
    """Return whether an ETag with the form of an MD5 is one: not with keys of KMS or of the client."""
    return "SSECustomerAlgorithm" not in head and head.get("ServerSideEncryption") in (None, "AES256")


def _stated(head: dict[str, Any]) -> dict[str, str]:
    """Return algorithm → hexadecimal digest of the complete object, as the reply to a look states them."""
    found: dict[str, str] = {}
    if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        sums = {algorithm: head.get(name) for name, algorithm in _SUMS.items()}
        found = {
            name: base64.b64decode(text).hex() for name, text in sums.items() if text and "-" not in text
        }
    headers = head.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    for item in headers.get("x-goog-hash", "").split(","):  # Google's storage, also of composed objects
        name, _, text = item.strip().partition("=")
        if name in ("md5", "crc32c"):
            found[name] = base64.b64decode(text).hex()
    metadata = head.get("Metadata") or {}
    own = metadata.get("sha256", "")
    if _OWN in metadata and re.fullmatch(r"[0-9a-f]{64}", own):
        found["sha256"] = own
    return {name: value for name, value in found.items() if len(value) == HEX_LENGTHS[name]}


class _LastRequest:
    """Notes of requests to a bucket where its objects are, after every redirect to another region.

    Args:
        key: the object that is looked at before anything is listed, if it exists.

    Attributes:
        base: what the URLs of objects begin with.
        region: the region for which requests are signed.
    """

    def __init__(self, key: str) -> None:
        self._key = "/" + quote(key, safe="/~")
        self.base = self.region = ""

    def __call__(self, url: str, authorization: str) -> None:
        place, _, query = url.partition("?")
        if "list-type=" in query:
            self.base = place.rstrip("/") + "/"
        elif place.endswith(self._key):
            self.base = place.removesuffix(self._key) + "/"
        if found := re.search(r"Credential=[^/]+/\d+/([^/]+)/", authorization):
            self.region = found[1]
