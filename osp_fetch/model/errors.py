"""The exceptions of osp_fetch. Each carries its remedy, so a caller needs no other information to react.

Every message states what happened, why, and what to do next. Messages are redacted: they contain no secret.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from .text import printable
from .urls import redact


class Remedy(Enum):
    """The reaction to an error."""

    RETRY = "retry"  # request the same part again after a delay
    RESTART = "restart"  # discard the held bytes and fetch the file from byte 0
    PARK = "park"  # set the file aside until fresh links or free space are available
    WAIT = "wait"  # queue the file until its host answers, or until the host's pause has passed
    FAIL = "fail"  # report the file as failed; the run continues
    ABORT = "abort"  # end the run


class FetchError(Exception):
    """The base class of all errors that stop a file or a run.

    Args:
        message: what happened, why, and what to do next; it is redacted.
        remedy: replaces the remedy of the class.
        retry_after: seconds that the server asks the client to wait, or None.

    Attributes:
        remedy: the reaction to the error.
        cause: a short name by which the report counts failures.
        retry_after: as above.
    """

    remedy: Remedy = Remedy.FAIL
    cause: str = "error"

    def __init__(self, message: str, *, remedy: Remedy | None = None, retry_after: float | None = None):
        super().__init__(printable(redact(message)))
        if remedy is not None:
            self.remedy = remedy
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # workers pickle errors; by default pickle would call a constructor with arguments it does not know
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[FetchError], args: tuple[Any, ...], state: dict[str, Any]) -> FetchError:
    made = kind.__new__(kind)
    made.args = args
    made.__dict__.update(state)
    return made


class SettingsError(FetchError):
    """A setting is unknown or has an invalid value."""

    remedy = Remedy.ABORT
    cause = "settings"


class ManifestError(FetchError):
    """A row is invalid, or a manifest cannot be read."""

    cause = "manifest"


class CredentialsError(FetchError):
    """A source cannot be listed with the given credentials, or without credentials."""

    remedy = Remedy.ABORT
    cause = "credentials"


class TransferError(FetchError):
    """The base class of errors between a request and the last byte of its reply.

    Attributes:
        excused: whether the error does not count as a failed attempt.
    """

    excused = False


class NetworkError(TransferError):
    """The connection failed, stalled or was closed, or the reply was too short."""

    remedy = Remedy.RETRY
    cause = "network"


class TooLongError(NetworkError):
    """The server sent more bytes than the reply announced, so their offsets are not known."""

    cause = "too long"


class YieldedError(NetworkError):
    """The controller closed the connection, because the host's goodput is higher with fewer."""

    cause = "fewer connections"
    excused = True


class Unreachable(Enum):
    """Why a host gave no reply."""

    NO_NAME = "no such name"  # the name service states that the name does not exist
    REFUSED = "refused"  # the connection was refused
    CERTIFICATE = "certificate"  # the certificate is not valid
    DROPPED = "dropped"  # the connection was made, and closed without a reply
    SILENT = "no answer"  # anything else: a timeout, a reset, a name service that does not answer

    @property
    def is_definite(self) -> bool:
        """Whether the next attempt most likely has the same result, unless the host has answered before."""
        return self not in (Unreachable.SILENT, Unreachable.DROPPED)


class LaggingError(NetworkError):
    """The connection was closed, because it was far slower than others to the same host."""

    cause = "slow connection"
    excused = True


class UnreachableError(NetworkError):
    """No byte of a reply was received.

    Attributes:
        host: the `host:port` that did not answer; empty if it is the host of the link.
        why: the kind of the failure.
        reason: the failure in words, without the file and the host.
    """

    cause = "no answer"

    def __init__(
        self, message: str, *, host: str = "", why: Unreachable = Unreachable.SILENT, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.host, self.why, self.reason = host, why, printable(redact(reason))
        if why is Unreachable.NO_NAME:
            self.cause = why.value


class UntrustedServerError(UnreachableError):
    """The server's certificate is not valid."""

    cause = "certificate"


def unreachable(path: str, host: str, why: Unreachable, reason: str) -> UnreachableError:
    """Return the error of a file whose host gave no reply.

    Args:
        path: the file.
        host: `host:port`.
        why: the kind of the failure.
        reason: the failure in words.
    """
    name = host.rpartition(":")[0].strip("[]")
    if why is Unreachable.CERTIFICATE:
        return UntrustedServerError(
            f"{path}: {name}: the server's certificate is not valid ({reason}); to add a certificate "
            "authority, pass --cacert",
            host=host, why=why, reason=reason,
        )  # fmt: skip
    if why is Unreachable.NO_NAME:
        text = f"{name} does not exist ({reason}); correct the link, or remove the row"
    else:
        text = f"{name} does not answer ({reason}); try again later"
    return UnreachableError(f"{path}: {text}", host=host, why=why, reason=reason)


class HostDownError(UnreachableError):
    """The circuit breaker of a host is open.

    Args:
        error: the error of the connection that opened it, or of the last one.
        host: the `host:port` that does not answer.
        is_own: whether it is the host of the link. The file then waits until the host answers.
        heard: whether the host has answered before in this run.
        tried: whether it was a connection for this file that got no answer. Otherwise another one probes the
            host.
    """

    def __init__(
        self, error: UnreachableError, *, host: str, is_own: bool, heard: bool, tried: bool = False
    ) -> None:
        super().__init__(str(error), host=host, why=error.why, reason=error.reason)
        self.cause, self.heard, self.is_own, self.tried = error.cause, heard, is_own, tried
        if is_own:
            self.remedy = Remedy.WAIT


class HostPausedError(TransferError):
    """A host asked for a pause, and the file waits until it has passed.

    Attributes:
        host: the `host:port` that asked for it.
    """

    remedy = Remedy.WAIT
    cause = "pause"

    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message)
        self.host = host


class StatusError(TransferError):
    """The server answered with a status other than the requested file.

    Attributes:
        status: the status code (RFC 9110 section 15).
        unexplained: whether it is a 403 that gives no reason; a host that serves other files may mean that
            there are too many requests.
    """

    unexplained = False

    def __init__(self, message: str, *, status: int, remedy: Remedy, retry_after: float | None = None):
        super().__init__(message, remedy=remedy, retry_after=retry_after)
        self.status = status
        self.cause = f"status {status}"


class RangeNotSatisfiableError(StatusError):
    """The server answered 416 Range Not Satisfiable (RFC 9110 section 15.5.17).

    Attributes:
        length: bytes of the complete file, None if the server does not state it.
    """

    def __init__(self, message: str, *, length: int | None):
        super().__init__(message, status=416, remedy=Remedy.RETRY)
        self.length = length


class BorrowedLinkSpentError(TransferError):
    """The signed target of a redirect is refused; the original link has to be requested again."""

    remedy = Remedy.RETRY
    cause = "link renewed"


class LinkExpiredError(TransferError):
    """The link of the manifest has expired; only a fresh link helps."""

    remedy = Remedy.PARK
    cause = "link expired"


class QuotaExceededError(TransferError):
    """The file's download quota is exhausted for some hours; the message states until when."""

    remedy = Remedy.PARK
    cause = "quota"


class NotThePayloadError(TransferError):
    """The reply is not the file: a login page, a quota page, a captive portal, or encoded content."""

    remedy = Remedy.RETRY
    cause = "not the payload"


class SizeLimitError(TransferError):
    """A file of unknown length is longer than `limits.file_size`."""

    cause = "size limit"


class TimeLimitError(TransferError):
    """A file has taken longer than `limits.file_time`. Its held bytes are kept."""

    cause = "time limit"


class ChangedError(TransferError):
    """The file on the server changed after its transfer began."""

    remedy = Remedy.RESTART
    cause = "changed"


class NotUpdatedError(TransferError):
    """A finished file could not be updated; it is kept as it is.

    Args:
        error: Why the source could not be asked, or the new file not be fetched.
        path: The file.
    """

    def __init__(self, error: FetchError, path: str) -> None:
        super().__init__(f"{error}; {path} is kept as an earlier run fetched it", remedy=error.remedy)
        self.cause = error.cause


class SourceGivenUpError(TransferError):
    """The source of a file without a digest failed for good; another source has to start at byte 0."""

    remedy = Remedy.RESTART
    cause = "another mirror"


class IntegrityError(FetchError):
    """The file is complete, but its digest differs from the expected one."""

    remedy = Remedy.RESTART
    cause = "integrity"


class StorageError(FetchError):
    """A file operation failed."""

    cause = "storage"


class NameConflictError(StorageError):
    """A file has the name of a folder of another file, or of a folder that is there."""

    cause = "name conflict"


class DiskFullError(StorageError):
    """The disk of the output folder is full.

    Attributes:
        needed: bytes of free space with which the work can continue.
    """

    remedy = Remedy.ABORT
    cause = "disk full"

    def __init__(self, message: str, *, remedy: Remedy | None = None, needed: int = 1 << 20) -> None:
        super().__init__(message, remedy=remedy)
        self.needed = needed


class FolderBusyError(StorageError):
    """Another run owns the output folder.

    Attributes:
        pid: the other run's process id on this machine, None if it is not known.
        is_whole: whether the other run divides the files in another way: this one fetches a shard of them,
            and that one all files, or a shard of another number.
    """

    pid: int | None = None
    is_whole = False

    remedy = Remedy.ABORT
    cause = "folder busy"
