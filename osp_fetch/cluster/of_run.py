"""The workers or nodes of a run: starting them, and what they add to its report."""

from __future__ import annotations

from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.engines import Folder, Ray
from ..model.errors import SettingsError, StorageError
from ..model.report import Report
from ..options import PlainOptions
from ..storage.destination import Destination, destination
from ..storage.folder.run_lock import state_folder, state_folders
from ..storage.ledger.placement import has_placement
from ..storage.ledger.rows import LedgerReader

if TYPE_CHECKING:
    from ..engine.context import Context
    from ..workers.limits import Workers
    from ..workers.reach import Reach


def is_node_local(options: PlainOptions) -> bool:
    """Return whether the nodes of a run write to their own disks."""
    engine = options.get("engine")
    return isinstance(engine, Ray) and engine.node_local


def destination_of(folder: str | Path, options: PlainOptions) -> Destination:
    """Return the destination of a run.

    Args:
        folder: the output folder, or the address of a bucket.
        options: the options of the run.

    Raises:
        SettingsError: as `destination`; or the files of the folder lie on the disks of nodes, and this run
            would look for them here, or the reverse.
    """
    place = destination(folder, options.get("state"))
    is_local, state = is_node_local(options), state_folder(place.root)
    if is_local and place.bucket:
        raise SettingsError(
            "--node-local: a bucket is the same for all nodes; leave it out, or give a folder"
        )
    if is_local and not has_placement(state) and any(map(_has_records, state_folders(place.root))):
        raise SettingsError(
            f"{place.root} has files of runs that did not write to the disks of nodes; give another folder "
            "for --node-local"
        )
    if not is_local and has_placement(state):
        raise SettingsError(
            f"{place.root}: the files of this folder lie on the disks of nodes; add --engine ray "
            "--node-local, or give another folder"
        )
    return place


def _has_records(state: Path) -> bool:
    """Return whether the ledger of a state folder has any record. A damaged one is replaced by the run."""
    with suppress(StorageError), closing(LedgerReader(state / "ledger.sqlite3")) as reader:
        return next(reader.all(), None) is not None
    return False


async def workers_of(
    stack: AsyncExitStack,
    context: Context,
    place: Destination,
    state: Path,
    reach: Reach,
    options: PlainOptions,
    lock: int,
) -> tuple[Workers | None, Context]:
    """Start the worker processes or nodes that the options ask for.

    Args:
        stack: ends them.
        context: the engine's context in the process of the run.
        place: the destination.
        state: the state folder of this run or shard.
        reach: how servers are reached.
        options: the options of the run.
        lock: the descriptor of the run's lock.

    Returns:
        Them, None for this process alone; and the context of the run, whose store says what they see.
    """
    profiles = dict(options.get("profiles") or {})
    engine = options.get("engine")
    if engine is not None and not isinstance(engine, Folder):
        from .make import node_pool  # few runs need it

        nodes = await stack.enter_async_context(node_pool(engine, context, place, reach, profiles))
        return nodes, nodes.context
    if context.settings.limits.processes == 1:
        return None, context
    from ..workers.make import worker_pool  # most runs use one process and do not need this import

    workers = worker_pool(context, place, state, reach, profiles, lock)
    return await stack.enter_async_context(workers) if workers else None, context


async def add_nodes(report: Report, workers: Workers | None) -> None:
    """Add what the nodes of a run know of files on their own disks to the report."""
    if workers is None:
        return
    report.notes += workers.notes()
    for node, files in (await workers.lost()).items():
        report.lost += files
        lie = "1 finished file lies" if files == 1 else f"{files:,} finished files lie"
        report.notes.append(
            f"{lie} on {node}, which has left; if it does not come back, the same command fetches them again "
            "on other nodes"
        )
