"""What every file of a run shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model import events
from ..model.protocols import Ledger, Sink, Transport
from ..model.settings import Settings
from .gate import Gate

_SHARE: Final = 10  # of the memory allowed; the rest is for what comes in meanwhile, and for overshoot
_MOST_SHARE: Final = 4  # which many connections take instead, each up to:
_WORTH: Final = 256 << 10  # bytes; of less, to hand it to a thread costs more than to write it
_LEAST: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Tools:
    """The adapters, the gate, the settings, and who is told. `write_size`: bytes gathered for a
    write, at most. `claim_size`: bytes of one connection that a kill may cost."""

    transport: Transport
    sink: Sink
    ledger: Ledger
    gate: Gate
    settings: Settings
    observe: events.Observer
    write_size: int = 2 << 20
    claim_size: int = 4 << 20

    def gather_size(self) -> int:
        """Bytes that one connection should gather for a write, so that all of them stay in their share of
        memory: what is gathered, and as much in buffers below."""
        each = self.settings.limits.memory // max(1, self.gate.open)
        return min(self.write_size, max(each // _SHARE, min(each // _MOST_SHARE, _WORTH), _LEAST))
