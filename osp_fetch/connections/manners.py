"""What a host has shown of which requests it refuses: too many of them, or ranges that are too wide."""

from __future__ import annotations

import math
from typing import Final

_SERVES: Final = 60.0  # seconds after its last byte in which a host is taken to serve files
_NARROWEST: Final = 64 << 10  # bytes of a range that every server takes
_TRIES: Final = 6  # narrower ranges that are tried for one file
_FILES: Final = 10_000  # files that are remembered, so that memory stays bounded
# Attempts at a file that is forbidden without a reason, while no file was ever served after that; and how
# often that has to be so until one more attempt is enough.
_ATTEMPTS, _LASTING = 4, 10
_UNSERVED: Final = 64  # replies of status 403 before the first file, while other requests are open


class Manners:
    """The refusals of one host. Files are identified by their order in the manifest.

    Attributes:
        widest: largest range in bytes that is requested, None for any. It is learnt when a file that refused
            a wider range answers a narrower one.
    """

    def __init__(self) -> None:
        self.widest: int | None = None
        self._served_at = -math.inf
        self._in_a_row = 0  # replies of status 403 without a reason since a file was served
        self._served = 0  # reads that brought bytes
        # file → how often it was forbidden without a reason although others were served, and `_served` then
        self._forbidden: dict[int, tuple[int, int]] = {}
        self._passes = False  # a file that was forbidden has been served later
        self._lasting = 0  # files that stayed forbidden
        self._trying: dict[int, tuple[int, int]] = {}  # file → the range to try, and the tries so far

    @property
    def limits(self) -> bool:
        """Whether ranges of some file are limited."""
        return self.widest is not None or bool(self._trying)

    def served(self, file: int, now: float) -> None:
        """Record that the host sent bytes of a file at `now`, in seconds of `time.monotonic`."""
        self._served_at, self._in_a_row = now, 0
        self._served += 1
        if self._forbidden and self._forbidden.pop(file, (0, 0))[0]:
            self._passes = True

    def forbade(self, file: int, now: float, *, others: bool = False) -> tuple[bool, bool]:
        """Record that the host answered 403 without a reason.

        It may limit requests in this way, or forbid this file. A host whose files are served after a 403
        limits requests, and is asked with full patience. Where that never happens, a few attempts are enough.

        Args:
            file: the file that was requested.
            now: the time in seconds of `time.monotonic`.
            others: whether other requests to the host are open, which it may be about to serve.

        Returns:
            Whether another attempt may succeed, and whether the host should get fewer connections.
        """
        tries, before = self._forbidden.get(file, (0, -1))
        tries += before < self._served
        serves = now - self._served_at <= _SERVES or (others and self._in_a_row < _UNSERVED)
        if not serves or len(self._forbidden) >= _FILES:
            return False, False
        lasting = self._lasting >= _LASTING
        if not self._passes and tries >= (2 if lasting else _ATTEMPTS):
            self._forbidden.pop(file, None)
            self._lasting += 1
            return False, False
        self._forbidden[file] = tries, self._served
        self._in_a_row += 1
        return True, self._in_a_row > 1 and (self._passes or not lasting)

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
