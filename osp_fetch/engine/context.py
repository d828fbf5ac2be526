"""What every file of a run shares."""

from __future__ import annotations

from dataclasses import dataclass

from ..connections.buffers import Buffers
from ..connections.exchange import Exchange
from ..connections.pool import ConnectionPool
from ..model import events
from ..model.protocols import Ledger, Store, Transport
from ..model.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The adapters, the pool, the memory to receive into, the settings, and who is told. `claim_size`:
    bytes of one connection that a kill may cost."""

    transport: Transport
    store: Store
    ledger: Ledger
    pool: ConnectionPool
    buffers: Buffers
    settings: Settings
    observe: events.Observer
    claim_size: int = 4 << 20

    def exchange(self, host: str, order: int, path: str) -> Exchange:
        """Return an exchange with `host` for the file `path`; entering it waits for a slot."""
        return Exchange(self.pool, self.transport, self.observe, host, order, path)
