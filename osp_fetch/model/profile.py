"""What was learnt of a host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """How a host serves best. `part_size` in bytes; `bytes_per_second` of all `connections` together when
    it was `measured` (Unix seconds)."""

    connections: int
    part_size: int
    bytes_per_second: int
    measured: float

    def __post_init__(self) -> None:
        if self.connections < 1 or self.part_size < 1:
            raise ValueError("a profile needs at least one connection, and a part of one byte")
