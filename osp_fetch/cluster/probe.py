"""Which kind of destination the nodes of a cluster have, without a run: they see a probe file, or do not."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from pathlib import Path

from ..model.engines import Ray
from ..model.errors import FetchError
from ..storage.destination import Destination
from ..views import formatting
from .ray_nodes import RayNodes


def destination_found(engine: Ray, place: Destination) -> str:
    """Return in words what the nodes would write to. Blocks, and leaves nothing behind.

    The file is written to the output folder, or to the nearest folder above it that exists.

    Args:
        engine: where the nodes are.
        place: the destination of the run.
    """
    if place.bucket:
        return f"bucket {place}, the same for all nodes"
    above = place.root.absolute()
    while not above.is_dir():
        above = above.parent
    probe = above / f".osp-fetch-probe-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return _said(asyncio.run(_seen(engine, place, probe)), engine)
    except (OSError, FetchError) as error:
        return f"not known: {error}"
    finally:
        with suppress(OSError):
            probe.unlink()


async def _seen(engine: Ray, place: Destination, probe: Path) -> list[tuple[str, bool]]:
    async with RayNodes(engine, place, 1) as nodes:
        return await nodes.seen(probe)


def _said(seen: list[tuple[str, bool]], engine: Ray) -> str:
    """Return what a run would do, as `RayNodes` decides it."""
    blind, count = [name for name, sees in seen if not sees], len(seen)
    if not count:
        return "not known: the cluster has no node with a processor"
    if engine.node_local and count - len(blind) <= 1:
        return f"node-local folders on {formatting.count(count, 'node')}; the records are on this machine"
    if engine.node_local:
        return f"refused: {formatting.count(count - len(blind), 'node')} see the same folder"
    if not blind:
        return f"shared folder, which {formatting.count(count, 'node')} see{'s' * (count == 1)}"
    return f"refused: {blind[0]} does not see the folder; share it, or give --node-local"
