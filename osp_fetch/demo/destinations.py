"""Where the files of the demonstration go: folders, or prefixes of a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from ..model.dataclasses import dataclass
from .seaweed import KEYS, SeaweedServer

BUCKET: Final = "demo"
"""The name of the bucket."""


class Destination(Protocol):
    """A place for the files of several runs, each of which has a name."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of the environment that osp-fetch needs."""
        ...

    def address(self, run: str) -> list[str]:
        """Return what names the destination of a run on the command line, and the flags that it needs."""
        ...

    def digest(self, run: str, file: str) -> str:
        """Return the SHA-256 digest of a file under its final name; "missing" if there is none. Blocks."""
        ...

    def unfinished(self) -> int:
        """Return the number of uploads that were neither completed nor aborted. Blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Folders:
    """A folder for each run.

    Attributes:
        root: the folder that holds them.
    """

    root: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """None."""
        return {}

    def address(self, run: str) -> list[str]:
        """Return the folder."""
        return [str(self.root / run)]

    def digest(self, run: str, file: str) -> str:
        """Return the digest of a file, or "missing"."""
        try:
            with (self.root / run / file).open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return "missing"

    def unfinished(self) -> int:
        """Return 0: a folder has no uploads."""
        return 0


@dataclass(frozen=True, slots=True)
class Prefixes:
    """A prefix of a bucket for each run. Objects are read past osp-fetch and past the S3 interface.

    Attributes:
        root: the folder that holds the local states of the runs.
        server: the object store.
    """

    root: Path
    server: SeaweedServer

    @property
    def environment(self) -> Mapping[str, str]:
        """The endpoint and the credentials."""
        return {"AWS_ENDPOINT_URL_S3": self.server.url, **KEYS}

    def address(self, run: str) -> list[str]:
        """Return the prefix, and the flag of its local state."""
        return [f"s3://{BUCKET}/{run}", "--state", str(self.root / "state" / run)]

    def digest(self, run: str, file: str) -> str:
        """Return the digest of an object, or "missing"."""
        data = self.server.read(BUCKET, f"{run}/{file}")
        return "missing" if data is None else hashlib.sha256(data).hexdigest()

    def unfinished(self) -> int:
        """Return the number of multipart uploads that are open."""
        return self.server.unfinished(BUCKET)
