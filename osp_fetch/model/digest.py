"""Digests: an algorithm and a hexadecimal value, as manifests and checksum lists state them."""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from typing import Final

from .dataclasses import dataclass

# Known algorithms and the number of hexadecimal digits of their values.
HEX_LENGTHS: Final = {
    "md5": 32,
    "sha1": 40,
    "sha224": 56,
    "sha256": 64,
    "sha384": 96,
    "sha512": 128,
    "blake2b": 128,
    "crc32c": 8,
    "crc64nvme": 16,
    "git-blob-sha1": 40,
}
# Number of digits → algorithm, for a value without a name. Two lengths are ambiguous: 40 digits are read as
# sha1, not git-blob-sha1, and 128 digits as sha512, not blake2b.
_BY_LENGTH: Final = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
# Begin of a multihash in hexadecimal digits → algorithm (multiformats.io), as STAC states them.
_MULTIHASHES: Final = {"1220": "sha256", "1340": "sha512", "1114": "sha1", "d50110": "md5"}
STRENGTH: Final = (
    "sha512", "sha384", "sha256", "blake2b", "sha224", "sha1", "git-blob-sha1", "md5", "crc64nvme",
    "crc32c",
)  # fmt: skip
"""Algorithms in order of strength, the strongest first."""
_HEX: Final = re.compile(r"[0-9a-f]+")
# Form of W3C Subresource Integrity: algorithm, hyphen, base64.
_INTEGRITY: Final = r"(md5|sha(?:1|224|256|384|512))-([A-Za-z0-9+/]+=*)"
_NAMED: Final = r"([A-Za-z][A-Za-z0-9_-]*)\s*[:=]\s*(\S.*)"
_CALLED: Final = r"([A-Za-z][A-Za-z0-9_-]*)\s*\(\s*([A-Za-z0-9+/=_-]+)\s*\)"
_FOR_URLS: Final = str.maketrans("-_", "+/")  # the base64 of RFC 4648, section 5


def _normal(algorithm: str) -> str:
    """Return `sha256` for `SHA-256`, `sha_256` and `SHA256`."""
    name = algorithm.strip().lower()
    return name if name in HEX_LENGTHS else name.replace("-", "").replace("_", "")


def _hex(algorithm: str, value: str) -> str:
    """Return `value` as lower-case hexadecimal digits; base64 of the right length is converted."""
    length = HEX_LENGTHS.get(algorithm)
    if length is not None and not (len(value) == length and _HEX.fullmatch(value.lower())):
        with suppress(binascii.Error, ValueError):
            padded = value + "=" * (-len(value) % 4)
            raw = base64.b64decode(padded.translate(_FOR_URLS), validate=True)
            if 2 * len(raw) == length:
                return raw.hex()
    return value.lower() if _HEX.fullmatch(value.lower()) else value


def _named_multihash(text: str) -> str:
    """Return a multihash as `sha256:…`; any other text as it is."""
    for begin, name in _MULTIHASHES.items():
        if len(text) == len(begin) + HEX_LENGTHS[name] and text.startswith(begin):
            return f"{name}:{text[len(begin) :]}"
    return text


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of a file's bytes.

    `git-blob-sha1` is the SHA-1 of `blob SIZE NUL` followed by the bytes, as git computes it.

    Attributes:
        algorithm: a key of `HEX_LENGTHS`.
        hex: the value in lower-case hexadecimal digits.

    Raises:
        ValueError: the algorithm is unknown, or `hex` is not a value of that algorithm.
    """

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
            text: a value with its algorithm, such as `sha256:…`, `sha-256=…` or `sha256-…` (W3C Subresource
                Integrity), a multihash, or a value alone. The value is hexadecimal in upper or lower case, or
                base64 if the algorithm is known.
            algorithm: the algorithm of a value alone; if None, its length decides (md5, …).

        Returns:
            The digest, with a lower-case hexadecimal value.

        Raises:
            ValueError: `text` is not a digest, or its algorithm is unknown.
        """
        text = text.strip()
        if algorithm and len(text) == HEX_LENGTHS.get(algorithm) and text.isalnum():
            return cls(algorithm, text.lower())  # the common case: a value alone
        text = _named_multihash(text) if algorithm is None else text
        match = re.fullmatch(_INTEGRITY, text) or re.fullmatch(_NAMED, text) or re.fullmatch(_CALLED, text)
        if match and _normal(match[1]) in HEX_LENGTHS:
            name, value = _normal(match[1]), match[2]
        elif match and not (algorithm and text.endswith("=")):
            name, value = match[1].lower(), match[2]
        elif algorithm or len(text) in _BY_LENGTH:
            name, value = algorithm or _BY_LENGTH[len(text)], text
        else:
            raise ValueError(
                f"{text[:80]!r} is no digest; write ALGORITHM:VALUE, or the hexadecimal digits of one of "
                f"{', '.join(_BY_LENGTH.values())}"
            )
        return cls(name, _hex(name, value.strip().strip(":")))  # RFC 9530 writes `sha-256=:…:`

    def __reduce__(self) -> tuple[type[Digest], tuple[str, str]]:
        # ten times faster to pickle than the default of a slotted dataclass, which stores field names
        return Digest, (self.algorithm, self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def stronger(one: Digest | None, other: Digest) -> Digest:
    """Return the digest with the stronger algorithm of two digests of the same file.

    Args:
        one: the first digest, or None if there is none.
        other: the second digest; returned if `one` is None.
    """
    if one is None:
        return other
    return min(one, other, key=lambda digest: STRENGTH.index(digest.algorithm))
