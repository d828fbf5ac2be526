"""The errors of the house. Each knows its remedy; whoever catches one looks no further.

Every message says what happened, why, and what to do next, with nothing secret in it.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from .text import printable
from .urls import redact


class Remedy(Enum):
    """What helps against an error."""

    RETRY = "retry"  # the same part again, a little later
    RESTART = "restart"  # this file from its first byte
    PARK = "park"  # set the file aside until something outside changes
    FAIL = "fail"  # give this file up; the run goes on
    ABORT = "abort"  # end the run


class FetchError(Exception):
    """Anything that kept a file, or a run, from its end.

    `retry_after`: seconds that the server asked to wait, or None. `cause`: one word for counting.
    """

    remedy: Remedy = Remedy.FAIL
    cause: str = "error"

    def __init__(self, message: str, *, remedy: Remedy | None = None, retry_after: float | None = None):
        super().__init__(printable(redact(message)))
        if remedy is not None:
            self.remedy = remedy
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # errors go from one process of a run to another, whatever their classes want to be made of
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[FetchError], args: tuple[Any, ...], state: dict[str, Any]) -> FetchError:
    made = kind.__new__(kind)
    made.args = args
    made.__dict__.update(state)
    return made


class SettingsError(FetchError):
    """A setting is unknown, or has a value that it cannot have."""

    remedy = Remedy.ABORT
    cause = "settings"


class ManifestError(FetchError):
    """A row, or a whole manifest, makes no sense."""

    cause = "manifest"


class CredentialsError(FetchError):
    """A source cannot be listed without other credentials than it was given."""

    remedy = Remedy.ABORT
    cause = "credentials"


class TransferError(FetchError):
    """Something between the request and the last byte of its answer."""


class NetworkError(TransferError):
    """No connection, a stall, a cut, or a reply shorter than it should be.

    `excused`: it does not count as a failed attempt.
    """

    remedy = Remedy.RETRY
    cause = "network"
    excused = False


class TooLongError(NetworkError):
    """More bytes came than the reply announced, so that nothing tells which bytes they were."""

    cause = "too long"


class YieldedError(NetworkError):
    """The connection was closed on purpose, because the host does better with fewer."""

    cause = "fewer connections"
    excused = True


class UnreachableError(NetworkError):
    """Not one byte of a reply. `host`: `host:port` that was silent, empty where it is the link's own."""

    cause = "no answer"

    def __init__(self, message: str, *, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class HostDownError(UnreachableError):
    """The host is known to be down. If it is the link's own, its pause is no failure of the file."""

    def __init__(self, message: str, *, host: str, is_own: bool) -> None:
        super().__init__(message, host=host)
        self.excused = is_own


class UntrustedServerError(TransferError):
    """The server's certificate does not hold; asking again will not mend it."""

    cause = "certificate"


class StatusError(TransferError):
    """The server answered with a status that is not the file. `status` as in RFC 9110 section 15."""

    def __init__(self, message: str, *, status: int, remedy: Remedy, retry_after: float | None = None):
        super().__init__(message, remedy=remedy, retry_after=retry_after)
        self.status = status
        self.cause = f"status {status}"


class RangeNotSatisfiableError(StatusError):
    """416. `length` is what the server says the whole representation has, where it says so."""

    def __init__(self, message: str, *, length: int | None):
        super().__init__(message, status=416, remedy=Remedy.RETRY)
        self.length = length


class BorrowedLinkSpentError(TransferError):
    """A redirect's signed link is refused. The link that minted it is asked again."""

    remedy = Remedy.RETRY
    cause = "link renewed"


class LinkExpiredError(TransferError):
    """The link itself is dead. No retry helps, only a fresh one."""

    remedy = Remedy.PARK
    cause = "link expired"


class QuotaExceededError(TransferError):
    """The server gives the file to nobody for some hours; the message says until when."""

    remedy = Remedy.PARK
    cause = "quota"


class NotThePayloadError(TransferError):
    """A page stands where the file should be: a login, a quota, a captive portal, a coding."""

    remedy = Remedy.RETRY
    cause = "not the payload"


class ChangedError(TransferError):
    """The server now holds another file than the one we began."""

    remedy = Remedy.RESTART
    cause = "changed"


class SourceGivenUpError(TransferError):
    """The only source of a file without a digest does not give it; another one begins at byte 0."""

    remedy = Remedy.RESTART
    cause = "another mirror"


class IntegrityError(FetchError):
    """Every byte is there, and they are not the right ones."""

    remedy = Remedy.RESTART
    cause = "integrity"


class StorageError(FetchError):
    """The disk said no."""

    cause = "storage"


class DiskFullError(StorageError):
    """No room is left in the output folder. `needed`: bytes of room that would let the work go on."""

    remedy = Remedy.ABORT
    cause = "disk full"

    def __init__(self, message: str, *, remedy: Remedy | None = None, needed: int = 1 << 20) -> None:
        super().__init__(message, remedy=remedy)
        self.needed = needed


class FolderBusyError(StorageError):
    """Another run owns the output folder. `pid`: its process on this machine, None if that is not known."""

    pid: int | None = None

    remedy = Remedy.ABORT
    cause = "folder busy"
