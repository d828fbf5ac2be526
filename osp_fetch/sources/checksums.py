"""Checksum lists in the format of md5sum and sha256sum, in the GNU and in the BSD form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..model.digest import Digest, stronger
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row
from .row_parser import broken

_GNU: Final = re.compile(r"([0-9a-fA-F]{32,128}) [ *](.+)")
_BSD: Final = re.compile(r"([A-Za-z0-9]+) \((.+)\) = ([0-9a-fA-F]+)")


class Checksums:
    """A checksum list: digests by path; see `join.FileList`."""

    def __init__(self, digests: Mapping[str, Digest], name: str = "checksums") -> None:
        self.digests = digests
        self.name = name

    @classmethod
    def read(cls, path: Path) -> Checksums:
        """Read a checksum list.

        A name that is listed with several algorithms keeps the strongest.

        Args:
            path: the file to read, in UTF-8.

        Raises:
            ManifestError: the file cannot be read, is empty or is not a checksum list, or it states two
                values for one name; the message then gives both lines.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise broken(f"{path}: the checksum list cannot be read ({error})") from None
        digests: dict[str, Digest] = {}
        seen: dict[tuple[str, str], tuple[int, Digest]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                name, digest = _parsed(line)
            except ValueError as error:
                raise broken(
                    f"{path.name}:{number}: {error}; pass a list in the format of md5sum or sha256sum"
                ) from None
            before, earlier = seen.setdefault((name, digest.algorithm), (number, digest))
            if earlier != digest:
                raise broken(
                    f"{path.name}:{before} and {path.name}:{number} state different {digest.algorithm} "
                    f"values for {name}; find out which is right and remove the other"
                )
            digests[name] = stronger(digests.get(name), digest)
        if not digests:
            raise broken(f"{path}: the checksum list is empty")
        return cls(digests, path.name)

    def paths(self) -> Iterable[str]:
        """Return the listed names."""
        return self.digests

    def combine(self, entry: Entry, path: str) -> Row:
        """Add the digest of the listed name `path` to `entry`; see `join.FileList`."""
        listed = self.digests[path]
        if entry.digest is None:
            return replace(entry, digest=listed)
        if entry.digest.algorithm == listed.algorithm and entry.digest != listed:
            return ManifestError(
                f"{entry.path}: the manifest and {self.name} state different {listed.algorithm} values; "
                "find out which is right and remove the other"
            )
        return entry


def _parsed(line: str) -> tuple[str, Digest]:
    """Return the name and the digest of one line, or raise ValueError."""
    if gnu := _GNU.fullmatch(line):
        name, digest = gnu[2], Digest.parse(gnu[1])
    elif bsd := _BSD.fullmatch(line):
        name, digest = bsd[2], Digest.parse(bsd[3], bsd[1].lower())
    else:
        raise ValueError("not of the form 'HEX  NAME'")
    return name.removeprefix("./"), digest
