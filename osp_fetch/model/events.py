"""What a run tells its observers. Views draw from these; nothing in the engine waits for a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .report import Outcome, Report


@dataclass(frozen=True, slots=True)
class RunStarted:
    folder: str


@dataclass(frozen=True, slots=True)
class RowsRead:
    """So many more rows were read from the manifest, `sized` of which state a size, `bytes` in all."""

    rows: int
    sized: int
    bytes: int
    expires: float | None = None  # the earliest death of their links, Unix seconds


@dataclass(frozen=True, slots=True)
class ManifestEnded:
    """Every row has been read, so that totals are final."""


@dataclass(frozen=True, slots=True)
class FileBegun:
    """The first reply of a file is here: its length if told, and how much is held already."""

    path: str
    length: int | None
    stated: int | None  # the size that its row stated
    held: int


@dataclass(frozen=True, slots=True)
class Opened:
    path: str
    host: str


@dataclass(frozen=True, slots=True)
class Closed:
    path: str
    host: str


@dataclass(frozen=True, slots=True)
class Wrote:
    """So many more bytes of a file are written."""

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """So many bytes were here already, unrecorded, and are built upon. `proof`: what told that."""

    path: str
    count: int
    proof: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file of the user's had the name of a fetched one. It is kept at `kept`, below the output folder."""

    path: str
    kept: str


@dataclass(frozen=True, slots=True)
class MirrorDropped:
    """A mirror, `host:port`, whose bytes are not those of the digest; the file comes from others."""

    path: str
    host: str


@dataclass(frozen=True, slots=True)
class Lost:
    """So many bytes of a file, held before, are to be fetched again."""

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class Retrying:
    path: str
    cause: str
    delay: float
    message: str


@dataclass(frozen=True, slots=True)
class Cooling:
    """A host is left alone for some seconds."""

    host: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """From now on `host` gets so many connections."""

    host: str
    connections: int
    why: str


@dataclass(frozen=True, slots=True)
class HostDown:
    """A whole host is silent: it is probed, one connection at a time, and its files wait."""

    host: str
    probed_in: float


@dataclass(frozen=True, slots=True)
class HostBack:
    host: str


@dataclass(frozen=True, slots=True)
class Parked:
    """So many files wait for fresh links."""

    files: int


@dataclass(frozen=True, slots=True)
class LinksRenewed:
    """So many parked files go on with fresh links."""

    files: int


@dataclass(frozen=True, slots=True)
class LinksCommandFailed:
    """The command that should bring fresh links has failed, and is not run again."""

    why: str


@dataclass(frozen=True, slots=True)
class DiskWaiting:
    """The disk is full; the work goes on by itself when there is room."""

    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Stopping:
    why: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    report: Report


Event = (
    RunStarted
    | RowsRead
    | ManifestEnded
    | FileBegun
    | Opened
    | Closed
    | Wrote
    | Adopted
    | SetAside
    | MirrorDropped
    | Lost
    | Retrying
    | Cooling
    | LimitChanged
    | HostDown
    | HostBack
    | Parked
    | LinksRenewed
    | LinksCommandFailed
    | DiskWaiting
    | Finished
    | Stopping
    | RunEnded
)
Observer = Callable[[Event], None]
