"""The wait of a large file for its host. Small files wait in the queue of the host instead."""

from __future__ import annotations

import asyncio
from typing import Final

from ..model import events
from ..model.errors import HostDownError, HostPausedError, Remedy
from .context import Context

# Bytes held with which a file waits as it is: to read them again for the digest would take 0.1 s.
_WORTH_WAITING: Final = 64 << 20


class HostWait:
    """How one file waits for its host, with its partial open and its digest begun.

    A file that waits in the queue of its host costs nothing, but its bytes are read again for the digest when
    it goes on. For a file that holds much, or of which other parts are being received, that costs more.

    Args:
        context: The shared objects of this process.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since, self._held = 0.0, -1  # when the host went down, and the bytes held then
        self._is_aside = False  # other files may begin meanwhile

    async def outlast(self, error: HostDownError | HostPausedError, held: int, *, streams: bool) -> None:
        """Wait for the host, or raise `error` if the file should wait in the queue.

        Args:
            error: Why the host cannot be asked.
            held: Bytes of the file that are held.
            streams: Whether other parts of the file are being received.

        Raises:
            HostDownError: The file should wait in the queue; or the host was down for too long, and the
                remedy is FAIL.
            HostPausedError: The file should wait in the queue.
        """
        if held < _WORTH_WAITING and not streams:
            raise error from None
        pause = self._pause(error, held) if isinstance(error, HostDownError) else 0.0
        if self._is_aside or streams:
            await self._context.pool.host(error.host).until_back(pause)
            return
        self._is_aside = True
        try:
            with self._context.places.aside():
                await self._context.pool.host(error.host).until_back(pause)
        finally:
            self._is_aside = False

    def _pause(self, error: HostDownError, held: int) -> float:
        """Return the seconds until the host is probed again, or raise `error` with remedy FAIL."""
        now, retry = asyncio.get_running_loop().time(), self._context.settings.retry
        if held > self._held:
            self._since, self._held = now, held
            self._context.observe(events.HostDown(error.host, retry.initial, error.reason, error.heard))
        waited = now - self._since
        if waited > (retry.outage if error.heard else retry.longest):
            error.remedy = Remedy.FAIL
            raise error from None
        return min(retry.longest, max(retry.initial, waited / 2))
