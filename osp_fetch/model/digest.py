"""Digests: an algorithm and a hex value, as manifests and checksum lists state them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HEX_LENGTHS: Final = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "sha512": 128,
    "blake2b": 128,
    "crc32c": 8,
    "git-blob-sha1": 40,
}
_BY_LENGTH: Final = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_HEX: Final = re.compile(r"[0-9a-f]+")


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
        """Read `sha256:…`, or bare hex of `algorithm` (by its length where None: md5, sha1, …)."""
        name, colon, value = text.strip().partition(":")
        if not colon:
            name, value = algorithm or _BY_LENGTH.get(len(name), "?"), name
        return cls(name.strip().lower(), value.strip().lower())

    def __reduce__(self) -> tuple[type[Digest], tuple[str, str]]:
        # by field names, as dataclasses do it, it would take ten times as long
        return Digest, (self.algorithm, self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
