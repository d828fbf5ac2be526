"""osp_fetch: download large training datasets over HTTP, with resuming and verification.

    report = await fetch_all("sa1b_links.tsv", "data/sam")

A file gets its final name only after it is complete and verified. The same call resumes an interrupted run.

This module holds all public names: the three fetch functions and their options, entries and reports, all
errors and events, and the archive extractor. A name is imported when it is first used, so that
`import osp_fetch` and `osp-fetch --help` import neither pandas nor aiohttp.

Start reading in `api` (the fetch functions), then `assembly` (how a run is put together) and `engine` (how a
file is fetched). Each package's docstring states what the package does and what it may import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .version import __version__

if TYPE_CHECKING:
    from .api import fetch, fetch_all, fetch_iter
    from .archives.extract import Unpacked
    from .archives.extractor import Unpacker, UnpackOptions, unpack_folder
    from .archives.read import BrokenArchiveError
    from .inspection.finished import (
        FinishedFile,
        FinishedObject,
        FinishedSample,
        finished,
        finished_objects,
    )
    from .model.digest import Digest
    from .model.engines import Folder, Ray
    from .model.entry import Entry, RelativePath, entry
    from .model.errors import (
        BorrowedLinkSpentError,
        ChangedError,
        CredentialsError,
        DiskFullError,
        FetchError,
        FolderBusyError,
        HostDownError,
        IntegrityError,
        LinkExpiredError,
        ManifestError,
        NameConflictError,
        NetworkError,
        NotThePayloadError,
        NotUpdatedError,
        QuotaExceededError,
        RangeNotSatisfiableError,
        Remedy,
        SettingsError,
        SizeLimitError,
        SourceGivenUpError,
        StatusError,
        StorageError,
        TimeLimitError,
        TooLongError,
        TransferError,
        UnreachableError,
        UntrustedServerError,
        YieldedError,
    )
    from .model.events import (
        Adopted,
        Closed,
        Cooling,
        Decoded,
        DestinationFound,
        DiskWaiting,
        Event,
        FileAssigned,
        FileBegun,
        Finished,
        FolderWaiting,
        HostBack,
        HostDown,
        LedgerReplaced,
        LimitChanged,
        LinksCommandFailed,
        LinksRenewed,
        Lost,
        ManifestEnded,
        MirrorDropped,
        NodeJoined,
        NodeLeft,
        Observer,
        Opened,
        PageOpened,
        Parked,
        Progress,
        RangeAssigned,
        Repeating,
        Retrying,
        RowsRead,
        RunEnded,
        RunStarted,
        SetAside,
        Steered,
        Stopping,
        Waited,
        WidthLearned,
        WorkerDied,
        WorkerStarted,
        Wrote,
    )
    from .model.report import Outcome, Report, Status
    from .model.settings import Settings
    from .options import FetchOptions, StopToken


_HOMES: Final = {
    "api": "fetch fetch_all fetch_iter",
    "archives.extract": "Unpacked",
    "archives.extractor": "UnpackOptions Unpacker unpack_folder",
    "archives.read": "BrokenArchiveError",
    "inspection.finished": "FinishedFile FinishedObject FinishedSample finished finished_objects",
    "model.digest": "Digest",
    "model.engines": "Folder Ray",
    "model.entry": "Entry RelativePath entry",
    "model.errors": (
        "BorrowedLinkSpentError ChangedError CredentialsError DiskFullError FetchError FolderBusyError "
        "HostDownError IntegrityError LinkExpiredError ManifestError NameConflictError NetworkError "
        "NotThePayloadError NotUpdatedError QuotaExceededError RangeNotSatisfiableError Remedy SettingsError "
        "SizeLimitError SourceGivenUpError StatusError StorageError TimeLimitError TooLongError "
        "TransferError UnreachableError UntrustedServerError YieldedError "
    ),
    "model.events": (
        "Adopted Closed Cooling Decoded DestinationFound DiskWaiting Event FileAssigned FileBegun Finished "
        "FolderWaiting HostBack HostDown LedgerReplaced LimitChanged LinksCommandFailed LinksRenewed Lost "
        "ManifestEnded MirrorDropped NodeJoined NodeLeft Observer Opened PageOpened Parked Progress "
        "RangeAssigned Repeating Retrying RowsRead RunEnded RunStarted SetAside Steered Stopping Waited "
        "WidthLearned WorkerDied WorkerStarted Wrote "
    ),
    "model.report": "Outcome Report Status",
    "model.settings": "Settings",
    "options": "FetchOptions StopToken",
}  # module → its public names
_MODULE_OF: Final = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = [
    "Adopted",
    "BorrowedLinkSpentError",
    "BrokenArchiveError",
    "ChangedError",
    "Closed",
    "Cooling",
    "CredentialsError",
    "Decoded",
    "DestinationFound",
    "Digest",
    "DiskFullError",
    "DiskWaiting",
    "Entry",
    "Event",
    "FetchError",
    "FetchOptions",
    "FileAssigned",
    "FileBegun",
    "Finished",
    "FinishedFile",
    "FinishedObject",
    "FinishedSample",
    "Folder",
    "FolderBusyError",
    "FolderWaiting",
    "HostBack",
    "HostDown",
    "HostDownError",
    "IntegrityError",
    "LedgerReplaced",
    "LimitChanged",
    "LinkExpiredError",
    "LinksCommandFailed",
    "LinksRenewed",
    "Lost",
    "ManifestEnded",
    "ManifestError",
    "MirrorDropped",
    "NameConflictError",
    "NetworkError",
    "NodeJoined",
    "NodeLeft",
    "NotThePayloadError",
    "NotUpdatedError",
    "Observer",
    "Opened",
    "Outcome",
    "PageOpened",
    "Parked",
    "Progress",
    "QuotaExceededError",
    "RangeAssigned",
    "RangeNotSatisfiableError",
    "Ray",
    "RelativePath",
    "Remedy",
    "Repeating",
    "Report",
    "Retrying",
    "RowsRead",
    "RunEnded",
    "RunStarted",
    "SetAside",
    "Settings",
    "SettingsError",
    "SizeLimitError",
    "SourceGivenUpError",
    "Status",
    "StatusError",
    "Steered",
    "StopToken",
    "Stopping",
    "StorageError",
    "TimeLimitError",
    "TooLongError",
    "TransferError",
    "UnpackOptions",
    "Unpacked",
    "Unpacker",
    "UnreachableError",
    "UntrustedServerError",
    "Waited",
    "WidthLearned",
    "WorkerDied",
    "WorkerStarted",
    "Wrote",
    "YieldedError",
    "__version__",
    "entry",
    "fetch",
    "fetch_all",
    "fetch_iter",
    "finished",
    "finished_objects",
    "unpack_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
