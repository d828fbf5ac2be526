"""The first of many events, and their number."""

from __future__ import annotations

from dataclasses import field
from typing import Final, Generic, TypeVar

from ..model.dataclasses import dataclass

_KEPT: Final = 20
T = TypeVar("T")


@dataclass(slots=True)
class Few(Generic[T]):
    """The first items that were added, and the number of all: memory stays bounded.

    Attributes:
        count: number of items that were added.
        first: the first 20 of them.
    """

    count: int = 0
    first: list[T] = field(default_factory=list)

    def add(self, item: T) -> None:
        """Add an item."""
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(item)
