"""The state folders of nodes, `.osp-fetch/nodes/NAME/`, and the partials that pass between them.

Every node of a run has a folder of its own, so that no two processes ever write to one partial. When a node
has ended, its partials are moved. When it is only silent, it may wake up and write on: then a copy is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...model.entry import RelativePath
from .disk import Disk, storage_error
from .layout import temporary_name

_ENDED = "ended"  # file of a node's folder: the node has ended, so that nothing is written there any more


def node_folder(state: Path, name: str) -> Path:
    """Return the state folder of the node `name` in the state folder of a run."""
    return state / "nodes" / name


def mark_ended(folder: Path) -> None:
    """Record that the node of a state folder has ended. Errors are ignored: a copy is made then."""
    with suppress(OSError):
        if folder.is_dir():
            (folder / _ENDED).touch()


def hand_over(path: RelativePath, old: Path, new: Path, *, moves: bool, kind: str = "partial") -> None:
    """Give the partial of `path` to another state folder. Blocks.

    Args:
        path: path of the file.
        old: the state folder that has the partial, if there is one.
        new: the state folder that gets it.
        moves: whether the partial is moved; else it is copied, because its node may still write to it.
        kind: the folder that has it: `partial`, or `aside` for a file with a wrong digest.

    Raises:
        StorageError: it cannot be moved or copied.
    """
    place, other, disk = old / kind / path, new / kind / path, Disk()
    if old == new or not place.is_file():
        return
    try:
        other.parent.mkdir(parents=True, exist_ok=True)
        if moves:
            disk.replace(place, other)
        else:
            beside = Path(temporary_name(new, f"{kind}/{path}"))
            disk.copy(place, beside)
            disk.replace(beside, other)
            place.unlink(missing_ok=True)  # the silent node can no longer publish it
        disk.sync_folder(other.parent)
    except OSError as error:
        raise storage_error(error, f"the partial of {path} cannot be given to another node") from None


def take_all(state: Path, own: Path) -> None:
    """Move what `collect` has gathered to the folder of the only holder of a state folder. Blocks.

    Raises:
        StorageError: it cannot be moved.
    """
    for kind in ("partial", "aside"):
        try:
            if (state / kind).is_dir():
                (state / kind).rename(own / kind)
        except OSError as error:
            raise storage_error(error, f"{state / kind} cannot be moved to {own}") from None


def partials_of(state: Path) -> set[RelativePath]:
    """Return the files that have a partial in a state folder. Blocks."""
    folder = state / "partial"
    return {
        RelativePath(place.relative_to(folder).as_posix()) for place in folder.rglob("*") if place.is_file()
    }


def drop_partials(path: RelativePath, states: Iterable[Path]) -> None:
    """Delete what nodes hold of a file that another node has completed. Blocks, and ignores errors.

    A node that was lost before the first record of a file has a partial that no other node can continue.
    """
    for state in states:
        with suppress(OSError):
            (state / "partial" / path).unlink()


def collect(state: Path) -> None:
    """Move the partials of all nodes that have ended or are lost to the state folder of the run. Blocks.

    Call it while the run has no nodes, and holds the lock of `state`.

    Raises:
        StorageError: a partial cannot be moved.
    """
    for folder in sorted((state / "nodes").glob("*")):
        for kind in ("partial", "aside"):
            for place in sorted((folder / kind).rglob("*")):
                if place.is_file():
                    path = RelativePath(place.relative_to(folder / kind).as_posix())
                    hand_over(path, folder, state, moves=(folder / _ENDED).exists(), kind=kind)
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        (state / "nodes").rmdir()
