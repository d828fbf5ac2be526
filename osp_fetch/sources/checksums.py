"""Checksum lists as md5sum, sha256sum and their BSD cousins write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..model.digest import Digest
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..model.protocols import Row
from .rows import broken

_GNU: Final = re.compile(r"([0-9a-fA-F]{32,128}) [ *](.+)")
_BSD: Final = re.compile(r"([A-Za-z0-9]+) \((.+)\) = ([0-9a-fA-F]+)")


class Checksums:
    """Digests by path. A list that names no folders also joins to files that lie in some."""

    def __init__(self, digests: Mapping[str, Digest], where: str = "checksums") -> None:
        self.digests = digests
        self._where = where
        self._flat = not any("/" in name for name in digests)

    @classmethod
    def read(cls, path: Path) -> Checksums:
        """Read a list; raises ManifestError, naming the line, for what is none."""
        digests: dict[str, Digest] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise broken(f"{path}: the checksum list cannot be read ({error})") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            gnu, bsd = _GNU.fullmatch(line), _BSD.fullmatch(line)
            try:
                if gnu:
                    name, digest = gnu[2], Digest.parse(gnu[1])
                elif bsd:
                    name, digest = bsd[2], Digest.parse(bsd[3], bsd[1].lower())
                else:
                    raise ValueError("not of the form 'HEX  NAME'")
            except ValueError as error:
                raise broken(
                    f"{path.name}:{number}: {error}; md5sum and sha256sum write such lists"
                ) from None
            digests[name.removeprefix("./")] = digest
        return cls(digests, path.name)

    def of(self, path: str) -> Digest | None:
        """The digest listed for `path`."""
        found = self.digests.get(path)
        return self.digests.get(path.rsplit("/", 1)[-1]) if found is None and self._flat else found

    def join(self, row: Row) -> Row:
        """`row` with the digest listed for it; a contradiction fails the row."""
        if not isinstance(row, Entry) or (listed := self.of(row.path)) is None:
            return row
        if row.digest is None:
            return replace(row, digest=listed)
        if row.digest.algorithm == listed.algorithm and row.digest != listed:
            return ManifestError(
                f"{row.path}: the manifest and {self._where} state different {listed.algorithm} values; "
                "find out which is right and remove the other"
            )
        return row
