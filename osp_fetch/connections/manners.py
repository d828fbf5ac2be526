"""What a host has shown of which requests it refuses: too many of them, or ranges that are too wide."""

from __future__ import annotations

import math
from typing import Final

_SERVES: Final = 60.0  # seconds after its last byte in which a host is taken to serve files
_NARROWEST: Final = 64 << 10  # bytes of a range that every server takes
_TRIES: Final = 6  # narrower ranges that are tried for one file
_FILES: Final = 10_000  # files that are remembered, so that memory stays bounded


class Manners:
    """The refusals of one host. Files are told apart by their order in the manifest.

    Attributes:
        widest: largest range in bytes that is requested, None for any. It is learnt when a file that refused
            a wider range answers a narrower one.
    """

    def __init__(self) -> None:
        self.widest: int | None = None
        self._served_at = -math.inf
        self._served = 0  # reads that brought bytes
        self._forbidden: dict[int, int] = {}  # file → `_served` when it was last forbidden
        self._trying: dict[int, tuple[int, int]] = {}  # file → the range to try, and the tries so far

    @property
    def limits(self) -> bool:
        """Whether ranges of some file are limited."""
        return self.widest is not None or bool(self._trying)

    def served(self, now: float) -> None:
        """Record that the host sent bytes of a file at `now`, in seconds on the event loop's clock."""
        self._served_at = now
        self._served += 1

    def forbade(self, file: int, now: float) -> tuple[bool, bool]:
        """Record that the host answered 403 without a reason.

        Args:
            file: the file that was requested.
            now: the time in seconds on the event loop's clock.

        Returns:
            Whether the host probably limits requests, so that another attempt may succeed: it has served
            files in the last minute, and not only others since this file was last forbidden. And whether it
            has served nothing since then.
        """
        before = self._forbidden.pop(file, None)
        if now - self._served_at > _SERVES or (before is not None and before < self._served):
            return False, False
        if len(self._forbidden) < _FILES:
            self._forbidden[file] = self._served
        return True, before is not None

    def width(self, file: int) -> int | None:
        """Return the largest range in bytes to request for a file, None for any."""
        return self._trying[file][0] if file in self._trying else self.widest

    def narrow(self, file: int, width: int) -> bool:
        """Record that the host refused a range of `width` bytes of a file, and try smaller ones.

        Returns:
            Whether a smaller range may be tried. A range that is refused although it is narrow, or again and
            again, is refused for another reason.
        """
        now, tries = self._trying.pop(file, (width, 0))
        if width <= _NARROWEST or now <= _NARROWEST or tries == _TRIES or len(self._trying) == _FILES:
            return False
        self._trying[file] = max(_NARROWEST, 1 << (min(width, now).bit_length() - 3)), tries + 1
        return True

    def took(self, file: int, width: int) -> bool:
        """Record that the host answered a range of `width` bytes; return whether that shows its limit."""
        if file not in self._trying or width < _NARROWEST // 2:
            return False
        self.widest, _ = self._trying.pop(file)
        return True
