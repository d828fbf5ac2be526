"""The events of a run about the nodes of its cluster; `events` has all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node of a cluster takes part in the run.

    Attributes:
        node: the machine.
        nodes: number of nodes that get jobs now.
    """

    node: str
    nodes: int


@dataclass(frozen=True, slots=True)
class DestinationFound:
    """The nodes of a cluster have shown which kind of destination they write to.

    Attributes:
        kind: `shared folder`, `node-local folders` or `bucket`.
        place: the destination as the nodes name it.
    """

    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node of a cluster gets no more jobs.

    It has ended, was silent for too long, or received wrong bytes, or its own disk is full.

    Attributes:
        node: the machine.
        why: the reason in words.
        nodes: number of nodes that get jobs now.
    """

    node: str
    why: str
    nodes: int


@dataclass(frozen=True, slots=True)
class FileAssigned:
    """A file is fetched by the machine `node` from now on. Later events of the file are about its work."""

    path: str
    node: str
