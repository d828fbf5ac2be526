"""The address of a bucket and of a prefix in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..model.dataclasses import dataclass
from ..model.entry import STATE_FOLDER
from ..model.errors import SettingsError

SCHEME: Final = "s3://"
BUCKET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""The names of buckets. Some stores allow more than S3 does (upper case, underscores)."""


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket and a prefix in it.

    Attributes:
        bucket: name of the bucket.
        prefix: what the keys of all objects begin with; empty, or it ends with a slash.
        scheme: how people write the address.
    """

    bucket: str
    prefix: str = ""
    scheme: str = SCHEME

    def key(self, path: str) -> str:
        """Return the key of the object for the file `path`."""
        return self.prefix + path

    def own(self, name: str) -> str:
        """Return the key of an object that osp-fetch keeps for itself."""
        return f"{self.prefix}{STATE_FOLDER}/{name}"

    def url(self, path: str) -> str:
        """Return the address of the object for the file `path`, as people write it."""
        return f"{self.scheme}{self.bucket}/{self.key(path)}"

    def __str__(self) -> str:
        return f"{self.scheme}{self.bucket}/{self.prefix}".rstrip("/")


def is_objects(source: str) -> bool:
    """Return whether `source` names objects of a bucket of any kind that can be read."""
    return source.lower().startswith((SCHEME, "gs://"))


def is_bucket(place: object) -> bool:
    """Return whether `place` is the address of a bucket, and not the path of a folder."""
    return str(place).lower().startswith(SCHEME) and not isinstance(place, Path)


def bucket_address(text: str) -> BucketAddress:
    """Parse `s3://BUCKET` or `s3://BUCKET/PREFIX`.

    Raises:
        SettingsError: `text` has no valid name of a bucket, or a prefix that no file can have.
    """
    name, _, prefix = text[len(SCHEME) :].partition("/")
    if not BUCKET_NAME.fullmatch(name):
        raise SettingsError(
            f"{text}: {name!r} is not the name of a bucket; write s3://BUCKET or s3://BUCKET/PREFIX"
        )
    parts = prefix.rstrip("/").split("/") if prefix.strip("/") else []
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise SettingsError(f"{text}: the prefix has an empty or invalid part; write s3://BUCKET/PREFIX")
    return BucketAddress(name, "".join(f"{part}/" for part in parts))
