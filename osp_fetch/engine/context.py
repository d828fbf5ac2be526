"""The adapters and settings that all files of a run share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Final

from ..concurrency import Places
from ..connections.buffers import Buffers
from ..connections.exchange import Exchange
from ..connections.pool import ConnectionPool
from ..model import events
from ..model.dataclasses import dataclass
from ..model.errors import FetchError
from ..model.http import Validator
from ..model.protocols import Ledger, Store, Transport
from ..model.settings import Settings

if TYPE_CHECKING:
    from .lent_ranges import Lending

# Most files that are hashed, synced and recorded while others use the slots.
FINISHING: Final = 64
# Seconds of a pause during which other files may begin.
_LONG_SLEEP: Final = 1.0


def files_in_progress(connections: int) -> int:
    """Return the number of files that may be in progress with a number of connections."""
    return connections + min(FINISHING, 2 * connections)


@dataclass(frozen=True, slots=True)
class Connections:
    """How the requests of a process are sent, and what bounds them. Several runs may share it.

    Attributes:
        transport: Sends requests.
        pool: Grants slots.
        buffers: Memory that bodies are received into.
        files: The number of files of each run that may be in progress.
    """

    transport: Transport
    pool: ConnectionPool
    buffers: Buffers
    files: int


@dataclass(frozen=True, slots=True)
class Context:
    """The shared objects of one process that fetches jobs.

    Args:
        transport: Sends requests.
        store: The destination.
        ledger: The database of records.
        pool: Grants slots.
        buffers: Memory that bodies are received into.
        settings: The settings of the run.
        observe: Receives every event.
        places: The number of files that may be in progress.
        may_publish: Raises StorageError if another process may have the jobs of this one by now.
        claim_size: Unrecorded bytes per connection after which a checkpoint is taken. It bounds what a kill
            costs.
        lending: The files of which other nodes may fetch ranges. None if there are no such nodes.
    """

    transport: Transport
    store: Store
    ledger: Ledger
    pool: ConnectionPool
    buffers: Buffers
    settings: Settings
    observe: events.Observer
    places: Places = field(default_factory=lambda: Places(files_in_progress(128)))
    claim_size: int = 4 << 20
    may_publish: Callable[[], None] = lambda: None
    lending: Lending | None = None

    def mtime_of(self, validator: Validator) -> str | None:
        """Return the Last-Modified that becomes a file's modification time, None to keep the local time."""
        return validator.last_modified if self.settings.storage.mtime == "server" else None

    def part_size(self, host: str, free: int | None, order: int) -> int:
        """Return the size in bytes of the next part to request.

        Args:
            host: `host:port` that it is requested from.
            free: Bytes of the file that are neither held nor requested, None if unknown.
            order: Position of the file in the manifest.
        """
        return min(self.pool.part_size(host, free, order), self.store.widest)

    def retrying(self, path: str, error: FetchError, delay: float) -> None:
        """Report that a request for a file is repeated after `delay` seconds, because of `error`."""
        self.observe(events.Retrying(path, error.cause, delay, str(error)))

    async def sleep(self, seconds: float) -> None:
        """Sleep, and let other files begin meanwhile if it takes long."""
        if seconds < _LONG_SLEEP:
            await asyncio.sleep(seconds)
            return
        with self.places.aside():
            await asyncio.sleep(seconds)

    def exchange(self, host: str, order: int, path: str) -> Exchange:
        """Return an exchange for one file. Entering it waits for a slot.

        Args:
            host: `host:port` that the request goes to.
            order: Position of the file in the manifest. Smaller numbers get slots first.
            path: Path of the file, for events and messages.
        """
        return Exchange(self.pool, self.transport, self.observe, host, order, path)
