"""The byte rate of a process: `limits.rate`, shared by all its connections."""

from __future__ import annotations

import asyncio
import math
from typing import Final

# Seconds of unused rate that may be made up for. Longer bursts disturb other users of a shared link.
_BURST: Final = 0.25
# Seconds for which a delay explains why connections are slow. It is longer than the time over which a
# connection is compared with others.
_RECENT: Final = 5.0


class ByteRate:
    """Delays readers so that all connections together stay below a byte rate.

    Args:
        rate: Bytes per second; 0 for no limit.

    Attributes:
        is_limited: Whether there is a limit. Callers on the fast path of small files ask before they wait.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._due = rate, 0.0
        self.is_limited = rate > 0
        self._delayed = -math.inf

    def slows(self) -> bool:
        """Return whether the limit, and not the servers, has determined the rate of the last seconds.

        Nothing can be concluded about a server then: a slow connection is not hedged and not given up, and
        no limit of connections is changed.
        """
        return self.is_limited and asyncio.get_running_loop().time() - self._delayed < _RECENT

    async def wait(self) -> None:
        """Wait until the rate allows more bytes."""
        now = asyncio.get_running_loop().time()
        if self._due > now:
            self._delayed = self._due
            await asyncio.sleep(self._due - now)

    def charge(self, count: int) -> None:
        """Charge `count` received bytes."""
        if self.is_limited:
            now = asyncio.get_running_loop().time()
            self._due = max(self._due, now - _BURST) + count / self._rate
