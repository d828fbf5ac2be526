"""What `hf download` notes beside its files, written for files that osp-fetch fetched from the Hub."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ..model.report import Outcome, Status

_METADATA: Final = ".cache/huggingface"  # below the output folder
_RESOLVED: Final = r"/(?:datasets/)?[^/]+/[^/]+/resolve/(?P<commit>[0-9a-f]{40})/"


def _is_metadata(place: Path) -> bool:
    """Return whether a file has the form of `DownloadMetadata`: commit, ETag and time, one per line."""
    try:
        lines = place.read_bytes()[:400].decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return False
    return len(lines) == 3 and re.fullmatch(r"[0-9a-f]{40}", lines[0]) is not None


class DownloadMetadata:
    """Writes the metadata that makes `hf download --local-dir` accept the files as downloaded.

    `.cache/huggingface/download/<path>.metadata` contains the commit, the ETag (SHA-256 or git SHA-1), and
    the time in Unix seconds, one per line.

    Args:
        root: the output folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / _METADATA / "download"

    def concerns(self, outcome: Outcome) -> bool:
        """Return whether `outcome` is a finished file whose link is that of a hub."""
        here = outcome.status in (Status.FETCHED, Status.PRESENT)
        # a file of a repository into which a cache was uploaded
        own = outcome.path.startswith(f"{_METADATA}/")
        return here and not own and outcome.entry is not None and "/resolve/" in outcome.entry.urls[0]

    def note(self, outcome: Outcome) -> None:
        """Write the metadata of `outcome`, for which `concerns` is True. Blocks: call it in a thread.

        Raises:
            OSError: the metadata cannot be written.
        """
        assert outcome.entry is not None
        commit = re.search(_RESOLVED, urlsplit(outcome.entry.urls[0]).path)
        digest = outcome.entry.digest
        if commit is None or digest is None:
            return
        place = self._folder / f"{outcome.path}.metadata"
        if place.is_file() and (outcome.status is Status.PRESENT or not _is_metadata(place)):
            return  # a repository may hold a file of this name, which is one of its files
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{commit['commit']}\n{digest.hex}\n{time.time()}\n", encoding="utf-8")
