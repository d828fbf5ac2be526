"""A file in progress, as views show it."""

from __future__ import annotations

from typing import Final

from ..model.dataclasses import dataclass

# Seconds. A file in progress for less than this, with no connection and no bytes, is not displayed.
_MOMENT: Final = 1.0
# Bytes of a small file, and seconds after which it is displayed all the same. Lines of files that come and go
# many times a second cannot be read.
_SMALL, _LONG = 1 << 20, 5.0


@dataclass(slots=True)
class FileLine:
    """A file in progress.

    Attributes:
        path: Path below the output folder.
        length: Size in bytes, None if unknown.
        held: Bytes held so far.
        connections: Connections that transfer it now.
        since: Time when it started, in seconds on the board's clock.
    """

    path: str
    length: int | None
    held: int
    connections: int
    since: float

    def is_shown(self, age: float) -> bool:
        """Return whether the file has a line of its own, `age` seconds after it began."""
        if max(self.length or 0, self.held) < _SMALL and age < _LONG:
            return False
        return bool(self.connections or self.held) or age > _MOMENT
