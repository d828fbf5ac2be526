"""The address of a destination in a bucket, and the local folder that keeps its state."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ...model.entry import STATE_FOLDER
from ...model.errors import SettingsError
from ...model.record import Published

SCHEME: Final = "s3://"
# Characters of a bucket's name. Some stores allow more than S3 does (upper case, underscores).
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# Characters of a name of a local folder that is made from a prefix; longer ones end in a hash.
_NAME: Final = 120


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket and a prefix in it.

    Attributes:
        bucket: name of the bucket.
        prefix: what the keys of all objects begin with; empty, or it ends with a slash.
    """

    bucket: str
    prefix: str = ""

    def key(self, path: str) -> str:
        """Return the key of the object for the file `path`."""
        return self.prefix + path

    def own(self, name: str) -> str:
        """Return the key of an object that osp-fetch keeps for itself."""
        return f"{self.prefix}{STATE_FOLDER}/{name}"

    def url(self, path: str) -> str:
        """Return the address of the object for the file `path`, as people write it."""
        return f"{SCHEME}{self.bucket}/{self.key(path)}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


def is_bucket(place: object) -> bool:
    """Return whether `place` is the address of a bucket, and not the path of a folder."""
    return str(place).lower().startswith(SCHEME) and not isinstance(place, Path)


def bucket_address(text: str) -> BucketAddress:
    """Parse `s3://BUCKET` or `s3://BUCKET/PREFIX`.

    Raises:
        SettingsError: `text` has no valid name of a bucket, or a prefix that no file can have.
    """
    name, _, prefix = text[len(SCHEME) :].partition("/")
    if not _BUCKET.fullmatch(name):
        raise SettingsError(
            f"{text}: {name!r} is not the name of a bucket; write s3://BUCKET or s3://BUCKET/PREFIX"
        )
    parts = prefix.rstrip("/").split("/") if prefix.strip("/") else []
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise SettingsError(f"{text}: the prefix has an empty or invalid part; write s3://BUCKET/PREFIX")
    return BucketAddress(name, "".join(f"{part}/" for part in parts))


def state_root(address: BucketAddress, given: str | Path | None = None) -> Path:
    """Return the local folder whose `.osp-fetch` keeps ledger, lock, log and status of a destination.

    Args:
        address: the destination.
        given: the folder that the user chose; None for one below `$XDG_STATE_HOME`.
    """
    if given is not None:
        return Path(given)
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = quote(address.prefix.rstrip("/"), safe="") or "_"
    if len(name) > _NAME:
        name = f"{name[:_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return base / "osp-fetch" / "s3" / address.bucket / name


def state_of(size: int, etag: str) -> Published:
    """Return the state of an object.

    An object's time has a resolution of one second, but its ETag changes with its content. A number made from
    the ETag therefore stands for the time.

    Args:
        size: bytes of the object.
        etag: its ETag.
    """
    digest = hashlib.blake2b(etag.strip('"').encode(), digest_size=7).digest()
    return Published(size, int.from_bytes(digest, "big"))
