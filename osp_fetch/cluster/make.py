"""Construction of the nodes of a run from its settings and its engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ..connections.hosts import limits_of
from ..engine.context import Context
from ..model.engines import Ray
from ..model.profile import Profile
from ..storage.destination import Destination
from ..storage.folder.run_lock import state_folder
from ..workers.budget import Budget
from ..workers.messages import Setup
from ..workers.reach import Reach
from .destinations import BucketParts, Files, SharedPartials
from .node import NodeSource
from .own_folders import OwnFolders
from .pool import LEASE, NodePool
from .ray_nodes import RayNodes

_CORES: Final = 4  # cores of this machine for each worker of a node; nodes are taken to be alike
_MOST: Final = 4  # most workers of a node


@asynccontextmanager
async def node_pool(
    engine: Ray, context: Context, place: Destination, reach: Reach, profiles: dict[str, Profile]
) -> AsyncIterator[NodePool]:
    """Start the nodes of a run, and yield their pool.

    Args:
        engine: Where the nodes are.
        context: The engine's context in the process of the run.
        place: The destination.
        reach: How the nodes reach servers.
        profiles: `host:port` → what an earlier run learned of the host.

    Raises:
        SettingsError: The library is not installed, or no cluster answers at the address.
        StorageError: The folder is not shared by the nodes.
    """
    limits = context.settings.limits
    processes = max(1, min(_MOST, (os.cpu_count() or 1) // _CORES))
    if limits.processes != "auto":
        processes = limits.processes
    if engine.node_local:
        processes = 1  # one holds the lock of the node's folder
    async with (
        RayNodes(engine, place, processes) as source,
        pool_over(source, context, place, reach, profiles, is_local=engine.node_local) as nodes,
    ):
        yield nodes


def pool_over(
    source: NodeSource,
    context: Context,
    place: Destination,
    reach: Reach,
    profiles: dict[str, Profile],
    patience: float = LEASE,
    *,
    is_local: bool = False,
) -> NodePool:
    """Return the pool of the nodes that `source` brings, not yet entered.

    Args:
        source: Where nodes come from.
        context: As in `node_pool`.
        place: As in `node_pool`.
        reach: As in `node_pool`.
        profiles: As in `node_pool`.
        patience: Seconds of silence after which a node is lost.
        is_local: Whether each node writes to its own disk.
    """
    settings, pool = context.settings, context.pool
    limits, own = settings.limits, settings.hosts
    steers = limits.connections == "auto"
    budget = Budget(
        0, pool.total, pool.per_host, context.observe, profiles, steers=steers,
        own=lambda host: limits_of(host, limits, own).connections,
    )  # fmt: skip
    setup = Setup(place, state_folder(place.root), settings, reach, profiles, 0, steers)
    files = _files(context, setup, is_local=is_local)
    return NodePool(source, setup, files, budget, patience, sockets=settings.timeouts.idle)


def _files(context: Context, setup: Setup, *, is_local: bool) -> Files:
    """Return what becomes of the bytes of files that pass from node to node."""
    if setup.place.bucket:
        return BucketParts(context)
    return OwnFolders(context, setup.state) if is_local else SharedPartials(context, setup.state)
