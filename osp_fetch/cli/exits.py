"""Exit codes, as listed in the reference."""

from __future__ import annotations

from typing import Final

from ..model.errors import (
    CredentialsError,
    FetchError,
    FolderBusyError,
    ManifestError,
    SettingsError,
    StorageError,
)
from ..model.report import Report, Status

OK: Final = 0
SOME_FAILED: Final = 1
USAGE: Final = 2
DESTINATION: Final = 3
CREDENTIALS: Final = 4
BUSY: Final = 6
STOPPED_EARLY: Final = 75  # EX_TEMPFAIL of sysexits.h: batch systems requeue the job
INTERRUPTED: Final = 130  # 128 + SIGINT, as in shells


def code_of(error: FetchError) -> int:
    """Return the exit code for an error that ended the run."""
    match error:
        case SettingsError() | ManifestError():
            return USAGE
        case CredentialsError():
            return CREDENTIALS
        case FolderBusyError():
            return BUSY
        case StorageError():
            return DESTINATION
        case _:
            return SOME_FAILED


def code_of_report(report: Report, *, interrupted: bool) -> int:
    """Return the exit code for a run that ended or was stopped.

    Args:
        report: The report of the run.
        interrupted: Whether Ctrl-C stopped it.
    """
    if report.stopped is not None:
        return INTERRUPTED if interrupted else STOPPED_EARLY
    if report.counts[Status.PARKED] or report.credentials:
        return CREDENTIALS
    return SOME_FAILED if report.counts[Status.FAILED] or report.lost or report.elsewhere else OK
