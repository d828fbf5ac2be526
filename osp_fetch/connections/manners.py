"""What a host has shown of which requests it refuses: too many of them, or ranges that are too wide."""

from __future__ import annotations

import math
from typing import Final

_SERVES: Final = 60.0  # seconds after its last byte in which a host is taken to serve files
_NARROWEST: Final = 64 << 10  # bytes of a range that every server takes


class Manners:
    """The refusals of one host.

    Attributes:
        widest: largest range in bytes that is requested, None for any.
        is_learnt: whether a range of that width was answered after wider ones were refused.
    """

    def __init__(self) -> None:
        self.widest: int | None = None
        self.is_learnt = False
        self._served = -math.inf
        self._forbidden = 0
        self._taken = 0  # the widest range that was answered

    def served(self, now: float) -> None:
        """Record that the host sent bytes of a file at `now`, in seconds on the event loop's clock."""
        self._served, self._forbidden = now, 0

    def forbade(self, now: float) -> int:
        """Record that the host answered 403 without a reason at `now`.

        Returns:
            How often it has done so since it last served a file; 0 if that is more than a minute ago, so that
            it probably does not mean that there are too many requests.
        """
        if now - self._served > _SERVES:
            return 0
        self._forbidden += 1
        return self._forbidden

    def narrow(self, width: int) -> bool:
        """Record that the host refused a range of `width` bytes, and request smaller ones.

        Returns:
            Whether a smaller range may be tried. If the host has taken a range as wide as this one, or
            refuses even the narrowest, the width is not the reason.
        """
        if width <= max(self._taken, _NARROWEST):
            if not self.is_learnt:
                self.widest = None
            return False
        if self.widest is None or width <= self.widest:
            self.widest, self.is_learnt = max(_NARROWEST, 1 << (width.bit_length() - 3)), False
        return True

    def took(self, width: int) -> bool:
        """Record that the host answered a range of `width` bytes; return whether that shows its limit."""
        self._taken = max(self._taken, width)
        fresh = self.widest is not None and not self.is_learnt and width > self.widest // 4
        self.is_learnt = self.is_learnt or fresh
        return fresh
