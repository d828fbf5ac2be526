"""Engines: where the files of a run are fetched, if not in the process that was started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ray:
    """The nodes of a Ray cluster.

    Attributes:
        address: `HOST:PORT` of the cluster, or `auto` for the one of this machine. It does not count if the
            program has called `ray.init` itself.
        nodes: largest number of nodes, 0 for all.
    """

    address: str = "auto"
    nodes: int = 0
