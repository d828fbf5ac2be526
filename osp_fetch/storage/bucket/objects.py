"""Objects: how they look, how one is created without touching another, and how a lost reply is cleared up."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from ...model.dataclasses import dataclass
from ...model.entry import RelativePath
from ...model.errors import FetchError, StorageError
from ...model.record import Published
from ...model.urls import shown
from ...s3.client import Bucket
from ...s3.errors import BucketError, is_passing
from ...version import __version__
from .part_memory import Body
from .resources import BucketResources
from .state import state_of
from .sums import MD5, SCHEMES

TOKEN: Final = "osp-token"
"""The key of an object's metadata whose value names the upload that made it."""
SOURCE_ID: Final = "source-id"
"""The key of an object's metadata whose value is a hash of the complete source key."""
_ID: Final = 32  # hexadecimal digits of that hash
# First and longest pause in seconds before a request that creates an object is repeated.
_PAUSES: Final = (0.2, 20.0)
# Largest body in bytes that is sent as a copy: before a file is sent, botocore waits for "100 Continue".
_COPIED: Final = 1 << 20
_SOURCE: Final = 1024  # bytes of a source key that are stated
_RANDOM: Final = 32  # random digits of a token
_STATED: Final = 16  # digits of a sha256 behind them
_DATE: Final = 64  # bytes of a date that is stated
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_TAKEN: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


@dataclass(frozen=True, slots=True)
class Object:
    """An object as `HeadObject` shows it.

    Attributes:
        size: bytes.
        etag: its ETag.
        metadata: its metadata.
        sums: name of a checksum of the complete object, as in `Record.digests` → hexadecimal value.
    """

    size: int
    etag: str
    metadata: dict[str, str]
    sums: dict[str, str]

    @classmethod
    def of_reply(cls, found: dict[str, Any]) -> Object:
        """Return the object that a reply of `HeadObject` describes."""
        complete = found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        sums = {
            each.digest: each.hex_of(found[each.field])
            for each in SCHEMES
            if each.name and complete and found.get(each.field) and "-" not in found[each.field]
        }
        return cls(found["ContentLength"], found["ETag"], found.get("Metadata") or {}, sums)

    @property
    def state(self) -> Published:
        """The state of the object, as ledgers have it."""
        return state_of(self.size, self.etag)


def new_token(states: Mapping[str, str] | None = None) -> str:
    """Return random text by which an upload is recognized.

    Args:
        states: what the metadata state of the file. The token ends with the start of its sha256, if any:
            metadata cannot be changed later, and `contradicts` has to find a sha256 that is corrected.
    """
    return secrets.token_hex(_RANDOM // 2) + (states or {}).get("sha256", "")[:_STATED]


def contradicts(token: str, states: Mapping[str, str]) -> bool:
    """Return whether the upload with this token states another sha256 than `states`."""
    stated = token[_RANDOM:]
    return bool(stated) and stated != states.get("sha256", "")[:_STATED]


def own_metadata(token: str, states: dict[str, str]) -> dict[str, str]:
    """Return the metadata of a new object: the token of its upload, and what `metadata_of` states."""
    return {TOKEN: token, "osp-version": __version__, **states}


def metadata_of(digests: dict[str, str], modified: str | None = None, source: str = "") -> dict[str, str]:
    """Return what the metadata of an object state of its file.

    Args:
        digests: algorithm → hexadecimal digest, as far as known; its sha256 is stated.
        modified: Last-Modified of the source.
        source: source key of the file: its host and path, without what may be secret. Metadata are ASCII, and
            a store takes 2 KB of them in all, so that a long one is cut. `SOURCE_ID` tells sources apart, of
            which the text does not show all.
    """
    found = {"sha256": digests["sha256"]} if "sha256" in digests else {}
    if modified and len(modified) <= _DATE and modified.isascii() and modified.isprintable():
        found["source-last-modified"] = modified
    if source:
        without_secrets = shown(f"https://{source}").removeprefix("https://")
        stated = quote(without_secrets, safe=_PRINTABLE, errors="replace")[:_SOURCE]
        found["source"] = re.sub(r"%[0-9A-F]?$", "", stated)  # half of an escape
        found[SOURCE_ID] = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:_ID]
    return found


def own_content(content: dict[str, Any] | bytes) -> dict[str, Any]:
    """Return the arguments that send a small object of osp-fetch itself: bytes, or JSON.

    It carries its MD5, because SeaweedFS 4.48 creates an empty object from a request that is cut off before
    its body, unless there is something to compare the body with.
    """
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {"Body": data, **MD5.arguments(memoryview(data), 0)}


async def look(bucket: Bucket, path: RelativePath) -> Object | None:
    """Return the object of the file `path`, None if there is none.

    Raises:
        StorageError: the store cannot be asked.
    """
    address = bucket.address
    try:
        found = await bucket.ask(
            "head_object", f"{address.url(path)}: it cannot be looked at", Key=address.key(path),
            ChecksumMode="ENABLED",
        )  # fmt: skip
    except BucketError as error:
        if error.status == 404:
            return None
        raise
    return Object.of_reply(found)


def taken(bucket: Bucket, path: RelativePath) -> StorageError:
    """Return the error for a final name under which there is an object that osp-fetch did not write."""
    return StorageError(
        f"{bucket.address.url(path)}: an object that osp-fetch did not write has this name, and it is kept; "
        "choose another prefix, remove the object, or let `get --overwrite` replace it"
    )


class Creation:
    """The creation of one object, which replaces no object but the one that it may replace.

    Args:
        bucket: requests to the bucket.
        path: the file.
        replaces: state of the object that may be replaced, None for none.
        overwrite: whether any object may be replaced.
        source: the `SOURCE_ID` in the metadata of the new object. An object of osp-fetch from there may
            be replaced, too: the ledger that knew it was lost.
    """

    def __init__(
        self,
        bucket: Bucket,
        path: RelativePath,
        replaces: Published | None,
        *,
        overwrite: bool,
        source: str = "",
    ) -> None:
        self._bucket, self._path, self._source = bucket, path, source
        self._replaces, self._overwrite = replaces, overwrite
        self._etag: str | None = None  # of the object that is replaced

    async def check(self) -> None:
        """Look at the final name before anything is uploaded.

        Raises:
            StorageError: there is an object that must be kept, or the store cannot be asked.
        """
        self._replace(await look(self._bucket, self._path))

    def _replace(self, found: Object | None) -> None:
        """Take the object under the final name for the one to replace, or raise StorageError."""
        if found is not None and not (
            self._overwrite or found.state == self._replaces or self._is_own(found)
        ):
            raise taken(self._bucket, self._path)
        self._etag = found.etag if found else None

    def _is_own(self, found: Object) -> bool:
        return (
            bool(self._source) and TOKEN in found.metadata and found.metadata.get(SOURCE_ID) == self._source
        )

    def _condition(self) -> dict[str, str]:
        """Return the arguments by which the store refuses to replace any other object."""
        if not self._bucket.conditional:
            return {}
        return {"IfMatch": self._etag} if self._etag else {"IfNoneMatch": "*"}

    async def run(self, send: Callable[[dict[str, str]], Awaitable[Object | None]], token: str) -> Object:
        """Create the object and return how it looks.

        Where the reply to a request was lost, the object itself shows whether it was created.

        Args:
            send: sends the request once, with the arguments of its condition. It returns the object if the
                reply shows all of it, else None: the object is looked at then.
            token: the token in the metadata of the new object.

        Raises:
            BucketError: the store refuses it.
            StorageError: another object has the name, or the store does not answer.
        """
        clock = asyncio.get_running_loop().time
        until, pause = clock() + self._bucket.patience, _PAUSES[0]
        while True:
            try:
                if made := await send(self._condition()):
                    return made
            except FetchError as error:
                if await self._is_there(token):
                    break
                await self._prepare_again(error, is_last=clock() > until)
                await asyncio.sleep(random.uniform(0, pause))
                pause = min(2 * pause, _PAUSES[1])
            else:
                break
        found = await look(self._bucket, self._path)
        if found is None or found.metadata.get(TOKEN) != token:
            raise StorageError(
                f"{self._bucket.address.url(self._path)}: another object took its name; run again"
            )
        return found

    async def _is_there(self, token: str) -> bool:
        found = await look(self._bucket, self._path)
        return found is not None and found.metadata.get(TOKEN) == token

    async def _prepare_again(self, error: FetchError, *, is_last: bool) -> None:
        """Prepare another attempt after `error`; raise it if there is none."""
        if not isinstance(error, BucketError):
            if is_last or not is_passing(error):
                raise error
        elif error.code in _TAKEN:
            await self.check()  # raises if the object must be kept; else that one is replaced
            if is_last and self._etag is None:
                raise StorageError(
                    f"{self._bucket.address.url(self._path)}: the store says that the name is taken, and "
                    "shows no object of that name; if objects have names below it, fetch to another prefix"
                ) from None
        elif error.code in ("NotImplemented", "501") and self._bucket.conditional:
            # the store does not know conditions, so the name is looked at before each request
            self._bucket.conditional = False
            await self.check()
        elif is_last or not is_passing(error):
            raise error


async def put(
    shared: BucketResources,
    path: RelativePath,
    creation: Creation,
    data: memoryview,
    states: dict[str, str],
) -> Object:
    """Create an object with one request.

    Args:
        shared: what the store shares.
        path: the file.
        creation: what the object may replace.
        data: all bytes.
        states: what the metadata state of the file; see `metadata_of`.

    Returns:
        The object.

    Raises:
        BucketError: the store refuses it.
        StorageError: another object has the name, or the store does not answer.
    """
    token, scheme, bucket = new_token(), shared.scheme, shared.bucket
    sums = scheme.arguments(data, scheme.sum(data))
    body = bytes(data) if len(data) <= _COPIED else Body(data)

    async def send(condition: dict[str, str]) -> Object:
        async with shared.sending:
            reply = await bucket.put(
                f"{bucket.address.url(path)}: it cannot be uploaded", bucket.address.key(path), body,
                own_metadata(token, states), **sums, **condition,
            )  # fmt: skip
        stored = reply.get(scheme.field) if scheme.name else None
        return Object(len(data), reply["ETag"], {}, {scheme.digest: scheme.hex_of(stored)} if stored else {})

    return await creation.run(send, token)
