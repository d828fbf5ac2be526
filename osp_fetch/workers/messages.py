"""The messages between a run and its workers.

They are pickled, so that only the processes of one run may exchange them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..connections.controller import HostReport
from ..engine.file import Job
from ..engine.lent_ranges import RangeJob
from ..model import events
from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..model.errors import FetchError, StorageError
from ..model.profile import Profile
from ..model.record import Published, Record
from ..model.report import Status
from ..model.settings import Settings
from ..storage.destination import Destination
from .reach import Reach

# errors of jobs


class LeaseLostError(StorageError):
    """The run may have given the file to another node: this node was silent for too long."""

    cause = "lease lost"


class GivenBackError(StorageError):
    """The job was not begun, and another node can fetch it sooner."""

    cause = "given back"


# messages to a worker


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a worker.

    Args:
        place: The destination.
        state: The folder of the run's state.
        settings: The run's settings, with this worker's part of the limits.
        reach: How servers are reached.
        profiles: `host:port` → what an earlier run learned of the host.
        share: Connections to a host to start with.
        yields: Whether the worker lowers its share of a host that refuses a connection.
        patience: Seconds without a message of the run after which the worker publishes nothing: the run may
            have given its jobs to another node. 0 for a process of the run's own machine, which dies with it.
        source: The address from which connections are made; empty for any.
        is_local: Whether the output folder is on a disk of the node's own, which the run does not see. A `~`
            at its begin is the home directory of the node's user.
    """

    place: Destination
    state: Path
    settings: Settings
    reach: Reach
    profiles: dict[str, Profile]
    share: int
    yields: bool
    patience: float = 0.0
    source: str = ""
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class FetchJob:
    """Fetch `job`. The reply is the `JobDone` of the same number.

    With `is_suspect`, events about the file are sent at once: a worker has died while it had it. With
    `looks`, the worker looks for a file under the final name itself: the run does not see its disk.
    """

    number: int
    job: Job
    is_suspect: bool = False
    looks: bool = False


@dataclass(frozen=True, slots=True)
class LookAt:
    """Look at the files of `paths` on the node's own disk. The reply is the `LookedAt` of the same number."""

    number: int
    paths: list[RelativePath]


@dataclass(frozen=True, slots=True)
class DropPartial:
    """Delete what the node's own disk holds of a file that another node has completed."""

    path: RelativePath


@dataclass(frozen=True, slots=True)
class LendRange:
    """Lend a range of a file to one of `helpers` nodes that have nothing else to do.

    The reply is the `RangeLent` of the same number.
    """

    number: int
    helpers: int


@dataclass(frozen=True, slots=True)
class FetchRange:
    """Fetch a range for another node. The reply is the `RangeFetched` of the same number."""

    number: int
    job: RangeJob


@dataclass(frozen=True, slots=True)
class RangeReturned:
    """A range that this node has lent was fetched, and is in `file`; or it was not, and that is None.

    `number` is that of the `RangeJob`.
    """

    path: str
    number: int
    file: Path | None


@dataclass(frozen=True, slots=True)
class DropRange:
    """Delete a range file of this node: the node that lent the range has left, or gave this one up."""

    file: Path


@dataclass(frozen=True, slots=True)
class RecordsFound:
    """The reply to the `LookUp` of the same number: a record or None for each path, or an error."""

    number: int
    records: list[Record | None] | FetchError


@dataclass(frozen=True, slots=True)
class RecordKept:
    """The reply to the `PutRecord` of the same number: the record is durable, or `error` says why not."""

    number: int
    error: FetchError | None


@dataclass(frozen=True, slots=True)
class UploadsReplied:
    """The reply to the `AskUploads` of the same number: what the call returned, or an error."""

    number: int
    result: object


@dataclass(frozen=True, slots=True)
class Assign:
    """The worker's new share of a host.

    Args:
        host: `host:port`.
        connections: Connections that the worker may have to it from now on.
        shed: Whether connections above this number are closed at once; otherwise they end with their reply.
        number: Unique among all assignments of a run; 0 at the worker's start.
    """

    host: str
    connections: int
    shed: bool
    number: int


@dataclass(frozen=True, slots=True)
class CoolHost:
    """Send `host` no request for `seconds`: it has asked another worker to wait, or the user pauses it.

    Args:
        host: `host:port`; or `host` for every port.
        seconds: How long.
        sheds: Whether open transfers are closed.
    """

    host: str
    seconds: float
    sheds: bool = False


@dataclass(frozen=True, slots=True)
class Steer:
    """This worker's part of the limits that the user has changed.

    Args:
        rate: Byte rate, as `limits.rate` has it.
        connections: Largest number of open connections; 0 while the run is paused.
        is_fixed: Whether that number holds for all hosts, also for those that have not answered yet.
        most_open: Transfers are closed until at most this many connections are open; None for none.
        parts: Nodes, or runs, among which the request rates in the settings are divided; the settings of a
            process of the run's own machine state its part of those of the run.
    """

    rate: int | str
    connections: int
    is_fixed: bool
    most_open: int | None
    parts: int = 1


@dataclass(frozen=True, slots=True)
class ShareRate:
    """This worker's part of the byte rate, which the workers that have files share.

    Args:
        rate: Byte rate, as `limits.rate` has it.
    """

    rate: int | str


@dataclass(frozen=True, slots=True)
class LastFiles:
    """All files have been started: those in progress are the last."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """End the jobs for which no connection was opened yet; the result of each is a `GivenBackError`."""


@dataclass(frozen=True, slots=True)
class StillHere:
    """The run, or the node, is there. Sent every second between a run and its nodes."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The node is about to leave (SIGTERM, a spot notice): it wants no more jobs, and a `StopWork`."""


@dataclass(frozen=True, slots=True)
class StopWork:
    """Record the held bytes, and end."""


# messages from a worker


@dataclass(frozen=True, slots=True)
class JobDone:
    """The result of the `FetchJob` of the same number."""

    number: int
    result: tuple[Status, Record] | Exception


@dataclass(frozen=True, slots=True)
class OwnDisk:
    """The node writes to a disk of its own; the first message of such a node.

    Args:
        disk: What identifies the disk, also if the machine comes back under another name.
        partials: The files of which it has a partial.
    """

    disk: str
    partials: list[RelativePath]


@dataclass(frozen=True, slots=True)
class LookedAt:
    """The reply to the `LookAt` of the same number: the state of each file, None where there is none."""

    number: int
    result: list[Published | None] | FetchError


@dataclass(frozen=True, slots=True)
class RangeLent:
    """The reply to the `LendRange` of the same number: a range, None if there is none to lend."""

    number: int
    result: RangeJob | None


@dataclass(frozen=True, slots=True)
class RangeFetched:
    """The reply to the `FetchRange` of the same number: the file that has the bytes, or an error."""

    number: int
    result: Path | FetchError


@dataclass(frozen=True, slots=True)
class EventSent:
    """An event for the observers of the run."""

    event: events.Event


@dataclass(frozen=True, slots=True)
class LookUp:
    """Read the records of `paths` in the run's ledger. The reply is a `RecordsFound`."""

    number: int
    paths: Sequence[RelativePath]


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Write `record` to the run's ledger. The reply is a `RecordKept`."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class AskUploads:
    """Call a method of the run's ledger of unfinished uploads. The reply is an `UploadsReplied`.

    Args:
        number: Unique among the questions of the worker.
        call: The name of a method of `storage.bucket.uploads.Uploads`.
        arguments: Its arguments.
    """

    number: int
    call: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """The state of each host in this worker; sent every `LOOK` seconds."""

    hosts: list[HostReport]
