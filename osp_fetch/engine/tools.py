"""What every file of a run shares."""

from __future__ import annotations

from dataclasses import dataclass

from ..model import events
from ..model.protocols import Ledger, Sink, Transport
from ..model.settings import Settings
from .buffers import Buffers
from .gate import Gate


@dataclass(frozen=True, slots=True)
class Tools:
    """The adapters, the gate, the memory to receive into, the settings, and who is told. `claim_size`:
    bytes of one connection that a kill may cost."""

    transport: Transport
    sink: Sink
    ledger: Ledger
    gate: Gate
    buffers: Buffers
    settings: Settings
    observe: events.Observer
    claim_size: int = 4 << 20
