"""The adapters and settings that all files of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from ..connections.buffers import Buffers
from ..connections.exchange import Exchange
from ..connections.pool import ConnectionPool
from ..model import events
from ..model.http import Validator
from ..model.protocols import Ledger, Store, Transport
from ..model.settings import Settings


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
        claim_size: Unrecorded bytes per connection after which a checkpoint is taken. It bounds what a kill
            costs.
    """

    transport: Transport
    store: Store
    ledger: Ledger
    pool: ConnectionPool
    buffers: Buffers
    settings: Settings
    observe: events.Observer
    claim_size: int = 4 << 20

    def mtime_of(self, validator: Validator) -> str | None:
        """Return the Last-Modified that becomes a file's modification time, None to keep the local time."""
        return validator.last_modified if self.settings.storage.mtime == "server" else None

    def exchange(self, host: str, order: int, path: str) -> Exchange:
        """Return an exchange for one file. Entering it waits for a slot.

        Args:
            host: `host:port` that the request goes to.
            order: Position of the file in the manifest. Smaller numbers get slots first.
            path: Path of the file, for events and messages.
        """
        return Exchange(self.pool, self.transport, self.observe, host, order, path)
