"""The local folder with the state of a run to a bucket, and the states of objects as ledgers have them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ...model.record import Published
from ...s3.address import BucketAddress

# Characters of a name of a local folder that is made from a prefix; longer ones end in a hash.
_NAME: Final = 120


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
