"""The profile of a host: the connection settings that `bench` measured as best."""

from __future__ import annotations

from .dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """The best measured settings for one host.

    Attributes:
        connections: number of connections to begin with.
        part_size: size of a part in bytes.
        bytes_per_second: total goodput of all `connections` at the time of the measurement; 0 if nothing was
            measured, and the profile states only `widest`.
        measured: time of the measurement, in Unix seconds.
        widest: largest range in bytes that the host takes, None if it takes any.
        keeps_parts: whether every part has the size `part_size`, because automatic sizes were slower.
            Otherwise only the first parts of a run have it.

    Raises:
        ValueError: `connections` or `part_size` is less than 1.
    """

    connections: int
    part_size: int
    bytes_per_second: int
    measured: float
    widest: int | None = None
    keeps_parts: bool = False

    def __post_init__(self) -> None:
        if self.connections < 1 or self.part_size < 1:
            raise ValueError("a profile needs connections and part_size of at least 1")
