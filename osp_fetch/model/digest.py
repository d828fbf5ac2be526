"""Digests: an algorithm and a hex value, as manifests and checksum lists state them."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

HEX_LENGTHS: Final = {
    "md5": 32,
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
    "blake2b": 128,
    "crc32c": 8,
    "git-blob-sha1": 40,
}
_BY_LENGTH: Final = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
STRENGTH: Final = (
    "sha512", "sha384", "sha256", "blake2b", "sha224", "sha1", "git-blob-sha1", "md5", "crc32c",
)  # fmt: skip
"""Algorithms, the one that proves most first."""
_HEX: Final = re.compile(r"[0-9a-f]+")
_NAMED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)\s*[:=]\s*(\S.*)")


def _normal(algorithm: str) -> str:
    """Return `sha256` for `SHA-256`, `sha_256` and `SHA256`."""
    name = algorithm.strip().lower()
    return name if name in HEX_LENGTHS else name.replace("-", "").replace("_", "")


def _hex(algorithm: str, value: str) -> str:
    """Return `value` as hexadecimal digits in lower case, where it is base64 of the right length, too."""
    length = HEX_LENGTHS.get(algorithm)
    if length is not None and len(value) != length:
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return value.lower()
        if 2 * len(raw) == length:
            return raw.hex()
    return value.lower()


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's bytes hash to. `git-blob-sha1` is sha1 over `blob SIZE NUL` and the bytes."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if self.algorithm not in HEX_LENGTHS:
            known = ", ".join(HEX_LENGTHS)
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}; known are {known}")
        if len(self.hex) != HEX_LENGTHS[self.algorithm] or not _HEX.fullmatch(self.hex):
            raise ValueError(
                f"{self.hex!r} is not a {self.algorithm} value, which has "
                f"{HEX_LENGTHS[self.algorithm]} hexadecimal digits"
            )

    @classmethod
    def parse(cls, text: str, algorithm: str | None = None) -> Digest:
        """Return the digest that `text` states.

        Args:
            text: `sha256:…` or `sha-256=…`, or a bare value: hexadecimal in any case, or base64 where the
                algorithm is known.
            algorithm: of a bare value; found by its length (md5, sha1, …) if None.

        Raises:
            ValueError: it is no digest, or of an unknown algorithm.
        """
        text = text.strip()
        match = _NAMED.fullmatch(text)
        if match and _normal(match[1]) in HEX_LENGTHS:
            name, value = _normal(match[1]), match[2]
        elif match and not (algorithm and text.endswith("=")):
            name, value = match[1].lower(), match[2]
        else:
            name, value = algorithm or _BY_LENGTH.get(len(text), "?"), text
        return cls(name, _hex(name, value.strip()))

    def __reduce__(self) -> tuple[type[Digest], tuple[str, str]]:
        # by field names, as dataclasses do it, it would take ten times as long
        return Digest, (self.algorithm, self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def stronger(one: Digest | None, other: Digest) -> Digest:
    """Return the one of two digests of a file that proves more."""
    if one is None:
        return other
    return min(one, other, key=lambda digest: STRENGTH.index(digest.algorithm))
