"""May this file be removed or replaced? Every place that unlinks, or renames over a name, asks here.

The tool may remove or replace only what it wrote itself and can still recognise. Everything else belongs to
the user, and is kept. The rules, by what lies under the name:

=====================================  ==================================================================
what lies there                        what happens
=====================================  ==================================================================
nothing                                WRITE
a file exactly as the ledger recorded  REPLACE: an earlier run wrote it (size and modification time agree)
any other file, or a link, in the way  KEEP: it is moved to `.osp-fetch/replaced/`, and the summary says
of a fetched file                      so; REPLACE if the user asked to overwrite
a folder, or a device                  REFUSE
a file in the way of a member of an    LEAVE if it has the same bytes; REFUSE otherwise, before the first
archive, a list or an alias            member is published
a generated list or alias              LEAVE if it says the same already; REPLACE if it is what an earlier
                                       run wrote; REFUSE otherwise
a damaged file to be repaired          REPLACE (in place) if it is as recorded and has no other name; KEEP
                                       otherwise, because its owner edited it, or another name shows it
an archive that was unpacked           REMOVE if it is the one that was unpacked, and each member was seen
                                       on the disk by this run, durable and as it was published; else LEAVE
=====================================  ==================================================================

The functions decide and touch nothing. `KEEP` is carried out by `set_aside` alone.
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
"""Where files are kept that had to give way, below the output folder."""


class Decision(Enum):
    """What may be done to what lies under a name."""

    WRITE = "nothing is there"
    REPLACE = "it is the tool's own"
    KEEP = "it is the user's, and is moved out of the way"
    LEAVE = "it stays as it is"
    REFUSE = "it stays, and the new one cannot be put there"
    REMOVE = "all that it held is safe elsewhere"


def over_fetched(
    existing: Existing | None, recorded: tuple[Published | None, ...], *, overwrite: bool
) -> Decision:
    """Decide for the final name of a fetched file.

    Args:
        existing: what lies there now.
        recorded: how files of earlier runs looked that the ledger, or a mark beside it, knows under this
        name.
        overwrite: the user asked for files of his own to be replaced.
    """
    if existing is None:
        return Decision.WRITE
    if existing.kind not in ("file", "link"):
        return Decision.REFUSE
    if overwrite:
        return Decision.REPLACE
    return Decision.REPLACE if _is_recorded(existing, recorded) else Decision.KEEP


def over_member(existing: Existing | None, *, same_bytes: bool) -> Decision:
    """Decide for the final name of a member of an archive."""
    if existing is None:
        return Decision.WRITE
    return Decision.LEAVE if existing.kind == "file" and same_bytes else Decision.REFUSE


def over_generated(existing: Existing | None, *, same: bool, own: bool) -> Decision:
    """Decide for a list or an alias that the tool generates.

    Args:
        existing: what lies there now.
        same: it says what would be written.
        own: it is exactly what an earlier run wrote.
    """
    if existing is None:
        return Decision.WRITE
    if same:
        return Decision.LEAVE
    return Decision.REPLACE if own and existing.kind == "file" else Decision.REFUSE


def to_repair(existing: Existing | None, recorded: Published | None) -> Decision:
    """Decide whether a damaged file may become a partial in place."""
    if existing is None or existing.kind != "file":
        return Decision.REFUSE
    return Decision.REPLACE if _is_recorded(existing, (recorded,)) and existing.names == 1 else Decision.KEEP


def of_unpacked(*, same_archive: bool, members_there: bool, members_durable: bool, is_link: bool) -> Decision:
    """Decide whether an archive may be deleted after it was unpacked.

    Args:
        same_archive: the pieces on the disk are those that were unpacked.
        members_there: this run saw every member under its final name, as it was published.
        members_durable: they survive a power loss.
        is_link: a piece is a symbolic link, which is the user's.
    """
    safe = same_archive and members_there and members_durable and not is_link
    return Decision.REMOVE if safe else Decision.LEAVE


def _is_recorded(existing: Existing, recorded: tuple[Published | None, ...]) -> bool:
    return existing.kind == "file" and Published(existing.size, existing.mtime_ns) in recorded


def set_aside(disk: Disk, root: Path, path: str) -> str:
    """Move what lies under the name `path` of the output folder `root` to where it is kept.

    An earlier file of that name that is kept already stays: the new one gets a number.

    Returns:
        Where it is, relative to `root`.

    Raises:
        OSError: it could not be moved; then it is still where it was.
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
    raise AssertionError("count() ends never")
