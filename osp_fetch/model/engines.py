"""Engines: where the files of a run are fetched, if not in the process that was started."""

from __future__ import annotations

from .dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Folder:
    """Every run with this engine that has the same manifest and output folder, on any machine.

    They take shares of the manifest, and go on with the share of a run that has died.
    """


@dataclass(frozen=True, slots=True)
class Ray:
    """The nodes of a Ray cluster.

    Attributes:
        address: `HOST:PORT` of the cluster, or `auto` for the one of this machine. It does not count if the
            program has called `ray.init` itself.
        nodes: largest number of nodes, 0 for all.
        node_local: whether each node writes to a folder of that path on its own disk, which no other machine
            sees. A folder below the home directory is below that of the node's user. `placement.jsonl` in the
            state folder says which node has which file.
    """

    address: str = "auto"
    nodes: int = 0
    node_local: bool = False


Engine = Folder | Ray
