"""Digests whose state survives a kill, and the checksums that a store compares uploads with."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from ...model.dataclasses import dataclass
from ..folder.hashing import Hasher, hasher

# algorithm → class of `rehashes`, whose state can be written down
_RESUMABLE: Final = {
    "sha256": "PySha256",
    "sha1": "PySha1",
    "git-blob-sha1": "PySha1",
    "md5": "PyMd5",
    "sha512": "PySha512",
}
# Bytes that are hashed at a time. `rehashes` holds the interpreter's lock meanwhile, and copies them.
_SLICE: Final = 256 << 10


class _Resumable:
    """A running digest of `rehashes`, which takes nothing but `bytes`."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def update(self, data: bytes | memoryview, /) -> None:
        for at in range(0, len(data), _SLICE):
            self._digest.update(bytes(data[at : at + _SLICE]))

    def hexdigest(self) -> str:
        return str(type(self._digest).deserialize(self._digest.serialize()).finalize())

    def state(self) -> str:
        return base64.b64encode(self._digest.serialize()).decode()


class RunningDigests:
    """The digests of one file, computed in order.

    Args:
        algorithms: names of the digests.
        length: bytes of the file; git hashes it before the content. None if unknown.
        states: what `state` returned; None to begin at byte 0.

    Raises:
        ValueError: `states` cannot be continued.
    """

    def __init__(self, algorithms: frozenset[str], length: int | None, states: str | None = None) -> None:
        saved: dict[str, str] = json.loads(states) if states else {}
        if states and not algorithms <= set(saved):
            raise ValueError("the digests were not computed from the start")
        self._each: dict[str, Hasher] = {
            name: _begun(name, length, saved.get(name)) for name in sorted(algorithms)
        }

    def update(self, data: memoryview) -> None:
        """Add bytes. Blocks."""
        for each in self._each.values():
            each.update(data)

    def state(self) -> str | None:
        """Return the state, from which another process can continue; None if one digest has none."""
        if not all(isinstance(each, _Resumable) for each in self._each.values()):
            return None
        return json.dumps({n: each.state() for n, each in self._each.items() if isinstance(each, _Resumable)})

    def result(self) -> dict[str, str]:
        """Return algorithm → hexadecimal digest of the bytes added so far."""
        return {name: each.hexdigest() for name, each in self._each.items()}


def _begun(name: str, length: int | None, state: str | None) -> Hasher:
    try:
        from rehashes import rehashes
    except ImportError:
        if state:
            raise ValueError("rehashes is not installed") from None
        return hasher(name, length or 0)
    if name not in _RESUMABLE:
        if state:
            raise ValueError(f"{name} cannot be continued")
        return hasher(name, length or 0)
    kind = getattr(rehashes, _RESUMABLE[name])
    if state:
        return _Resumable(kind.deserialize(base64.b64decode(state)))
    made = _Resumable(kind())
    if name == "git-blob-sha1":
        made.update(b"blob %d\0" % (length or 0))
    return made


@dataclass(frozen=True, slots=True)
class Scheme:
    """How uploads are compared with what was sent.

    Attributes:
        name: as `ChecksumAlgorithm` of the S3 API states it; empty if the store knows none, so that each
            part carries its MD5 and the object has no checksum of its own.
        bits: bits of the checksum.
    """

    name: str
    bits: int

    @property
    def field(self) -> str:
        """The name of the argument that carries a checksum."""
        return f"Checksum{self.name}"

    @property
    def digest(self) -> str:
        """The name under which records have the checksum of a complete file."""
        return self.name.lower()

    def sum(self, data: memoryview) -> int:
        """Return the checksum of `data`. Blocks."""
        if not self.name:
            return 0
        from awscrt import checksums

        return int((checksums.crc64nvme if self.bits == 64 else checksums.crc32c)(data))

    def arguments(self, data: memoryview, value: int) -> dict[str, str]:
        """Return the arguments by which the store compares a body.

        Args:
            data: the body.
            value: its `sum`.
        """
        if not self.name:
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            return {"ContentMD5": base64.b64encode(digest).decode()}
        return {self.field: self.text(value)}

    def create(self) -> dict[str, str]:
        """Return the arguments that begin a multipart upload with a checksum of the complete object."""
        return {"ChecksumAlgorithm": self.name, "ChecksumType": "FULL_OBJECT"} if self.name else {}

    def text(self, value: int) -> str:
        """Return `value` as the S3 API states it."""
        return base64.b64encode(value.to_bytes(self.bits // 8, "big")).decode()

    def hex(self, value: int) -> str:
        """Return `value` as records state it."""
        return f"{value:0{self.bits // 4}x}"

    def hex_of(self, text: str) -> str:
        """Return the form of records of a checksum as the S3 API states it."""
        return base64.b64decode(text).hex()

    def combined(self, parts: Sequence[tuple[int, int]]) -> int:
        """Return the checksum of a file from (checksum, bytes) of its parts."""
        if not self.name:
            return 0
        from awscrt import checksums

        join = checksums.combine_crc64nvme if self.bits == 64 else checksums.combine_crc32c
        total = 0
        for value, count in parts:
            total = int(join(total, value, count))
        return total


CRC64NVME: Final = Scheme("CRC64NVME", 64)
CRC32C: Final = Scheme("CRC32C", 32)
MD5: Final = Scheme("", 0)
SCHEMES: Final = (CRC64NVME, CRC32C, MD5)
"""What is tried in this order."""


def scheme_of(name: str) -> Scheme:
    """Return the scheme with this name."""
    return next(each for each in SCHEMES if each.name == name)
