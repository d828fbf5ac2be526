"""The messages between a run and its workers. They are pickled, so only processes of one run may exchange
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..connections.controller import HostReport
from ..engine.file import Job
from ..model import events
from ..model.entry import RelativePath
from ..model.errors import FetchError
from ..model.profile import Profile
from ..model.record import Record
from ..model.report import Status
from ..model.settings import Settings
from .reach import Reach

# to a worker


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message. `settings` are this worker's share; `share`: connections to a host to begin with;
    `yields`: it takes less where a host refuses one."""

    root: Path
    state: Path
    settings: Settings
    reach: Reach
    profiles: dict[str, Profile]
    share: int
    yields: bool


@dataclass(frozen=True, slots=True)
class FetchJob:
    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class RecordsFound:
    number: int
    records: list[Record | None] | FetchError


@dataclass(frozen=True, slots=True)
class RecordKept:
    """A record survives a power loss, or does not."""

    number: int
    error: FetchError | None


@dataclass(frozen=True, slots=True)
class Assign:
    """From now on `host` gets so many connections; `shed`: those above are let go at once. `number`: which
    one for this host it is."""

    host: str
    connections: int
    shed: bool
    number: int


@dataclass(frozen=True, slots=True)
class CoolHost:
    host: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LastFiles:
    """All files have been begun: those in hand are the last."""


@dataclass(frozen=True, slots=True)
class StopWork:
    """Claim what is held, and end."""


# from a worker


@dataclass(frozen=True, slots=True)
class JobDone:
    number: int
    result: tuple[Status, Record] | Exception


@dataclass(frozen=True, slots=True)
class EventSent:
    event: events.Event


@dataclass(frozen=True, slots=True)
class LookUp:
    number: int
    paths: Sequence[RelativePath]


@dataclass(frozen=True, slots=True)
class PutRecord:
    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class Reported:
    hosts: list[HostReport]
