"""Decide whether an existing file may be removed or replaced.

All code that unlinks a file, or renames over a name, asks this module. osp-fetch removes or replaces only
files that it wrote itself and can still recognise. Every other file belongs to the user, and is kept. The
rules, by what exists under the name:

=====================================  ==================================================================
what exists                            what happens
=====================================  ==================================================================
nothing                                WRITE
a file exactly as the ledger recorded  REPLACE: an earlier run wrote it (size and modification time agree)
any other file, or a link, under the   KEEP: it is moved to `.osp-fetch/replaced/`, and the summary reports
name of a fetched file                 it; REPLACE if the user asked to overwrite
a folder or a device                   REFUSE
a file under the name of a member of   LEAVE if it has the same bytes; KEEP if it is what an earlier version
an archive                             of the same archive had there; REFUSE otherwise, before the first
                                       member is published
a generated list or alias              LEAVE if it has the same content already; REPLACE if it is what an
                                       earlier run wrote; REFUSE otherwise
a damaged file to be repaired          REPLACE (in place) if it is as recorded and has no other name; KEEP
                                       otherwise, because the user edited it, or it has a second name
an archive that was unpacked           REMOVE if it is the one that was unpacked, and this run saw each
                                       member on disk, durable and as it was published; LEAVE otherwise
=====================================  ==================================================================

The functions that return a `Decision` only decide. `set_aside` alone carries out `KEEP`.
"""

from __future__ import annotations

from enum import Enum
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...model.entry import STATE_FOLDER
from ...model.record import Published

if TYPE_CHECKING:
    from .disk import Disk, Existing

KEPT_FOLDER: Final = f"{STATE_FOLDER}/replaced"
"""Folder below the output folder that keeps the user's files which had the name of a fetched file."""


class Decision(Enum):
    """What may be done with the file, if any, that exists under a name."""

    WRITE = "nothing exists there"
    REPLACE = "osp-fetch wrote it"
    KEEP = "it belongs to the user, and is moved away"
    LEAVE = "it stays unchanged"
    REFUSE = "it stays, and the new file cannot be published"
    REMOVE = "everything in it is safe elsewhere"


def over_fetched(
    existing: Existing | None, recorded: tuple[Published | None, ...], *, overwrite: bool
) -> Decision:
    """Decide for the final name of a fetched file.

    Args:
        existing: what exists there now.
        recorded: how files of this name looked that earlier runs published, by the ledger or a mark beside
            it.
        overwrite: whether the user asked for the replacement of existing files.
    """
    if existing is None:
        return Decision.WRITE
    if existing.kind not in ("file", "link"):
        return Decision.REFUSE
    if overwrite:
        return Decision.REPLACE
    return Decision.REPLACE if _is_recorded(existing, recorded) else Decision.KEEP


def over_member(existing: Existing | None, *, same_bytes: bool, own: bool = False) -> Decision:
    """Decide for the final name of a member of an archive.

    Args:
        existing: what exists there now.
        same_bytes: whether it has the same content as the member.
        own: whether it is exactly the member of an earlier version of the same archive.
    """
    if existing is None:
        return Decision.WRITE
    if existing.kind == "file" and same_bytes:
        return Decision.LEAVE
    return Decision.KEEP if own and existing.kind == "file" else Decision.REFUSE


def over_generated(existing: Existing | None, *, same: bool, own: bool) -> Decision:
    """Decide for a list or an alias that osp-fetch generates.

    Args:
        existing: what exists there now.
        same: whether its content is what would be written.
        own: whether it is exactly what an earlier run wrote.
    """
    if existing is None:
        return Decision.WRITE
    if same:
        return Decision.LEAVE
    return Decision.REPLACE if own and existing.kind == "file" else Decision.REFUSE


def to_repair(existing: Existing | None, recorded: Published | None) -> Decision:
    """Decide whether a damaged file may become a partial in place.

    Args:
        existing: what exists under its final name now.
        recorded: how the file looked when it was published.
    """
    if existing is None or existing.kind != "file":
        return Decision.REFUSE
    return Decision.REPLACE if _is_recorded(existing, (recorded,)) and existing.names == 1 else Decision.KEEP


def of_unpacked(
    *,
    same_archive: bool,
    members_there: bool,
    members_durable: bool,
    is_link: bool,
    is_doubtful: bool = False,
) -> Decision:
    """Decide whether an archive may be deleted after it was unpacked.

    Args:
        same_archive: whether the files of the archive on disk are those that were unpacked.
        members_there: whether this run saw every member under its final name, as it was published.
        members_durable: whether the members survive a power loss.
        is_link: whether a file of the archive is a symbolic link, which belongs to the user.
        is_doubtful: whether the archive may hold more than was unpacked.
    """
    safe = same_archive and members_there and members_durable and not is_link and not is_doubtful
    return Decision.REMOVE if safe else Decision.LEAVE


def _is_recorded(existing: Existing, recorded: tuple[Published | None, ...]) -> bool:
    return existing.kind == "file" and Published(existing.size, existing.mtime_ns) in recorded


def set_aside(disk: Disk, root: Path, path: str) -> str:
    """Move a file that belongs to the user to `.osp-fetch/replaced/`.

    A file that is already kept under the same name stays; the new one gets a number.

    Args:
        disk: system calls.
        root: the output folder.
        path: path of the file below `root`.

    Returns:
        The new path, relative to `root`.

    Raises:
        OSError: the file cannot be moved; it is still where it was.
    """
    for number in count():
        kept = f"{KEPT_FOLDER}/{path}" + (f".{number}" if number else "")
        place = root / kept
        try:
            disk.make_folder(place.parent, durable=True, below=root)
            disk.rename_new(root / path, place)
        except (FileExistsError, NotADirectoryError):
            continue
        disk.sync_folder(place.parent)
        return kept
    raise AssertionError("itertools.count() does not end")
