"""Events that a run sends to its observers.

Views and logs are built from events alone. An observer is called synchronously and must not block. The engine
never depends on what an observer does.

In all events `path` is the path of a file below the output folder, `host` is `host:port`, and `why` is a
reason in words for the user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .dataclasses import dataclass
from .report import Outcome, Report


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run has begun.

    Attributes:
        folder: the output folder.
        idle: seconds without a byte after which a connection is given up: `timeouts.idle`.
    """

    folder: str
    idle: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is; sent about twice a second and once at the end, for progress bars.

    Attributes:
        files: rows that have ended, in whatever way.
        rows: rows read from the manifest so far; all of them once `ManifestEnded` was sent.
        bytes_done: bytes that are held or published.
        bytes_total: bytes of all files as far as known; None while no size is known.
        rate: bytes per second that are kept, over the last 15 seconds.
        eta: estimated seconds to the end; None while it cannot be estimated.
    """

    files: int
    rows: int
    bytes_done: int
    bytes_total: int | None
    rate: float
    eta: float | None


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Another page of the manifest was read.

    Attributes:
        rows: number of rows in the page.
        sized: number of those rows that state a size.
        bytes: sum of the stated sizes, in bytes.
        expires: earliest expiry of the links of its unfinished files, in Unix seconds; None if not known.
        expiring: bytes of its unfinished files whose links expire; None if not all sizes are known.
    """

    rows: int
    sized: int
    bytes: int
    expires: float | None = None
    expiring: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestEnded:
    """All rows have been read. The totals are final."""


@dataclass(frozen=True, slots=True)
class FileBegun:
    """The first reply for a file has arrived.

    Attributes:
        length: length of the file in bytes that the server states; None if it states none.
        stated: length in bytes that the manifest states; None if it states none.
        held: bytes that are held already.
    """

    path: str
    length: int | None
    stated: int | None
    held: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection has begun to transfer bytes of a file; `node` fetches a range for the file's own node."""

    path: str
    host: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection has ended its transfer for a file. `node` is as in `Opened`."""

    path: str
    host: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes were received and written, `again` of them although they were held. `node` is as in `Opened`."""

    path: str
    count: int
    host: str = ""
    node: str = ""
    again: int = 0


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file that was on disk without a record has been verified and is used.

    Attributes:
        count: its length in bytes.
        proof: what verified it: the name of a digest algorithm, or "samples" of the server's bytes.
    """

    path: str
    count: int
    proof: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """The user's own file had the name of a fetched file, and was moved to `kept` in the output folder."""

    path: str
    kept: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A server sent a file compressed although it was asked not to, and the file is saved decompressed."""

    path: str
    host: str


@dataclass(frozen=True, slots=True)
class MirrorDropped:
    """The bytes from the mirror `host` do not match the digest. The file is fetched from other mirrors."""

    path: str
    host: str


@dataclass(frozen=True, slots=True)
class Lost:
    """`count` bytes of a file that were held are discarded, and fetched again."""

    path: str
    count: int


@dataclass(frozen=True, slots=True)
class Retrying:
    """A request has failed and is repeated.

    Attributes:
        cause: one word for the kind of the error; see `FetchError.cause`.
        delay: pause before the next attempt, in seconds.
        message: the error in words.
    """

    path: str
    cause: str
    delay: float
    message: str


@dataclass(frozen=True, slots=True)
class Cooling:
    """No request is sent to `host` for `seconds` seconds, because the server asked for a pause."""

    host: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The controller has changed the concurrency limit of a host.

    Attributes:
        connections: the new limit, as a number of connections.
    """

    host: str
    connections: int
    why: str


@dataclass(frozen=True, slots=True)
class Waited:
    """What connections and files waited for, as means over an interval; sent every second by each process.

    Attributes:
        seconds: length of the interval.
        open: open connections.
        delayed: those that `limits.rate` delayed.
        writing: those whose bytes were being written.
        hashing: complete files whose digests were being computed.
        publishing: complete files that were being synced, renamed and recorded.
        most: largest number of connections to one host that is allowed; 0 from a worker.
        total: the same, to all hosts together; 0 from a worker.
        rate: `limits.rate` in bytes per second at this time; 0 for no limit.
        busy: "loop" if the event loop used a core, "cores" if this process and others used all, else empty.
    """

    seconds: float
    open: float
    delayed: float
    writing: float
    hashing: float
    publishing: float
    most: int
    total: int
    rate: int
    busy: str


@dataclass(frozen=True, slots=True)
class WidthLearned:
    """A host refuses wide ranges, and takes ranges of up to `bytes` bytes."""

    host: str
    bytes: int


@dataclass(frozen=True, slots=True)
class HostDown:
    """A host does not answer. It is probed with one connection at a time; its files wait.

    Attributes:
        probed_in: seconds until the next probe; None if there is none before the end of the run, or no more.
        why: the failure of the last connection in words.
        heard: whether the host has answered before in this run.
    """

    host: str
    probed_in: float | None
    why: str = ""
    heard: bool = True


@dataclass(frozen=True, slots=True)
class HostBack:
    """A host that did not answer has answered again."""

    host: str


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """The machine `node` of a cluster takes part in the run; `nodes` nodes get jobs now."""

    node: str
    nodes: int


@dataclass(frozen=True, slots=True)
class DestinationFound:
    """The nodes of a cluster have shown what they write to.

    Attributes:
        kind: `shared folder`, `node-local folders` or `bucket`.
        place: the destination as the nodes name it.
    """

    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node of a cluster gets no more jobs.

    `why` says in words whether it ended, was silent, received wrong bytes, or has a full disk.
    """

    node: str
    why: str
    nodes: int


@dataclass(frozen=True, slots=True)
class FileAssigned:
    """A file is fetched by the machine `node` from now on. Later events of the file are about its work."""

    path: str
    node: str


@dataclass(frozen=True, slots=True)
class RangeAssigned:
    """`node` fetches the bytes from `start` to before `stop` for the node that has the file."""

    path: str
    start: int
    stop: int
    node: str


@dataclass(frozen=True, slots=True)
class Parked:
    """The number of parked files, which wait for fresh links, is now `files`."""

    files: int


@dataclass(frozen=True, slots=True)
class LinksRenewed:
    """`files` parked files have fresh links and continue; 0 if a link file was replaced before a link died.

    Attributes:
        expires: earliest expiry of these links, in Unix seconds; None if none is known.
    """

    files: int
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class LinksCommandFailed:
    """The command for fresh links has failed. It is not run again."""

    why: str


@dataclass(frozen=True, slots=True)
class DiskWaiting:
    """The disk is full. The file continues by itself when enough space is free."""

    why: str


@dataclass(frozen=True, slots=True)
class FolderWaiting:
    """Another run owns the folder, and this one waits for it. It is sent once, before `RunStarted`."""

    why: str


@dataclass(frozen=True, slots=True)
class LedgerReplaced:
    """The ledger could not be used, and an empty one took its place. `kept` is the path of the old one."""

    why: str
    kept: str


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The worker process with this number has been started, also in place of one that died."""

    number: int


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker process has ended before the run did. Another one takes its place."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A row has its final outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Repeating:
    """Files that have failed are fetched again, by a command. Each of them has another outcome later.

    Attributes:
        outcomes: their outcomes so far, which do not count any more.
    """

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class PageOpened:
    """The page of the run can be opened at `url`. The event is not logged, because the link has a token."""

    url: str


STILL_HOLDS: Final = "what was changed before still holds"
"""What `Steered` says when another run begins with the changes of the ones before."""


@dataclass(frozen=True, slots=True)
class Steered:
    """A command of `osp-fetch ctl`, or of the page, has changed the run.

    Attributes:
        what: the change in words.
        paused: whether the run is paused.
        hosts: names of the hosts that are paused, `host` or `host:port`.
        rate: limit of the byte rate, as the setting `limits.rate` has it.
        connections: largest number of connections; "auto" if the run finds it.
    """

    what: str
    paused: bool
    hosts: tuple[str, ...]
    rate: int | str
    connections: int | str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The run has been asked to stop early."""

    why: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended; `report` is its result."""

    report: Report


Event = (
    RunStarted | Progress | RowsRead | ManifestEnded | FileBegun | Opened | Closed | Wrote | Adopted
    | SetAside | Decoded | MirrorDropped | Lost | Retrying | Cooling | LimitChanged | Waited | WidthLearned
    | HostDown | HostBack | NodeJoined | NodeLeft | FileAssigned | RangeAssigned | Parked | LinksRenewed
    | LinksCommandFailed | DestinationFound | DiskWaiting | FolderWaiting | LedgerReplaced
    | WorkerStarted | WorkerDied | Finished | Repeating | PageOpened | Steered | Stopping | RunEnded
)  # fmt: skip
Observer = Callable[[Event], None]
"""A function that receives every event of a run."""
