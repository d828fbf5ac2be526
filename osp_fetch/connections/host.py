"""The connection pool's state for one host, and the slot that the pool hands out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .breaker import CircuitBreaker
from .controller import Controller
from .limit import ConcurrencyLimit
from .manners import Manners
from .streams import Streams
from .throughput import Throughput
from .wait_queue import WaitQueue


@dataclass(slots=True)
class Host:
    """The connection pool's state for one host.

    Attributes:
        controller: Controller of the host's concurrency limit.
        breaker: Circuit breaker of the host.
        open: Slots that are held.
        streams: Connections that are transferring a body.
        refused: Connections that the host refused since the last report.
        assigned: Sequence number of the last assignment (see HostReport).
        quiet_until: Time in seconds, on the event loop's clock, before which no new slot is granted.
        throughput: Measured throughput of a single connection.
        queue: Requests that wait for a slot.
        manners: What the host has shown of which requests it refuses.
        probing: Whether one connection is testing if the host answers again.
    """

    controller: Controller
    breaker: CircuitBreaker
    open: int = 0
    streams: Streams = field(default_factory=Streams)
    refused: int = 0
    assigned: int = 0
    quiet_until: float = 0.0
    throughput: Throughput = field(default_factory=Throughput)
    queue: WaitQueue = field(default_factory=WaitQueue)
    manners: Manners = field(default_factory=Manners)
    probing: bool = False

    @property
    def limit(self) -> ConcurrencyLimit:
        """The concurrency limit of the host."""
        return self.controller.limit

    def may(self, now: float) -> bool:
        """Return whether the host may get another slot.

        Args:
            now: Current time in seconds on the event loop's clock.
        """
        return self.open < self.controller.limit.value and not self.probing and self.quiet_until <= now


class Connection:
    """A slot that is held while the context is open.

    The context is reentrant: a callee that receives an open slot may enter it again, which takes no second
    slot. The first exit releases the slot; later exits do nothing.
    """

    __slots__ = ("_enter", "_held", "_host", "_leave", "_order")

    def __init__(
        self,
        enter: Callable[[Host, int], Awaitable[None]],
        leave: Callable[[Host, int], None],
        host: Host,
        order: int,
    ) -> None:
        self._enter, self._leave, self._host, self._order = enter, leave, host, order
        self._held = False

    @property
    def manners(self) -> Manners:
        """What the host has shown of which requests it refuses."""
        return self._host.manners

    @property
    def has_others(self) -> bool:
        """Whether other slots of the host are held."""
        return self._host.open > 1

    async def __aenter__(self) -> None:
        if not self._held:
            await self._enter(self._host, self._order)
            self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            self._leave(self._host, self._order)
