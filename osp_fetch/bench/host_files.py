"""The files that a manifest has of one host: those of its first row."""

from __future__ import annotations

from collections.abc import AsyncIterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from ..assembly import rows_of
from ..model import urls
from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import ManifestError
from ..options import PlainOptions

if TYPE_CHECKING:
    from ..assembly import AnyManifest

# Files that are fetched from, in turn.
_ENTRIES: Final = 64
# Rows of the manifest that are read to find them.
_LOOKED_AT: Final = 10_000


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The files that a manifest has of one host.

    Attributes:
        chosen: The files to fetch from.
        count: Number of all its files.
        whole: All its files, if the manifest was read to its end; else empty.
    """

    chosen: tuple[Entry, ...]
    count: int
    whole: tuple[Entry, ...]

    def total(self, lengths: dict[str, int]) -> int | None:
        """Return the bytes of all files, None if not known. Files of unknown length count as the mean.

        Args:
            lengths: Path → length in bytes of the files whose length the host has stated.
        """
        sizes = [entry.size or lengths.get(entry.path) for entry in self.whole]
        known = [size for size in sizes if size is not None]
        return sum(known) * len(sizes) // len(known) if known else None


def host_files(manifest: AnyManifest, options: PlainOptions) -> HostFiles:
    """Return the files of the host of the manifest's first row. Blocks.

    Args:
        manifest: A SOURCE, a list of them, or entries.
        options: Options as for `fetch_all`.

    Raises:
        ManifestError: The manifest has no row that names a file.
    """
    rows = rows_of(manifest, options).rows
    assert not isinstance(rows, AsyncIterable)
    read = list(islice(rows, _LOOKED_AT))
    entries = [row for row in read if isinstance(row, Entry)]
    if not entries:
        raise ManifestError("nothing to measure: the manifest has no row that names a file")
    host = urls.host(entries[0].urls[0])
    same = tuple(entry for entry in entries if urls.host(entry.urls[0]) == host)
    # large files first: with small files, the cost of requests would be measured instead of the bandwidth
    chosen = sorted(same, key=lambda entry: -(entry.size or 0))[:_ENTRIES]
    return HostFiles(tuple(chosen), len(same), same if len(read) < _LOOKED_AT else ())
