"""One host at the pool: what is open to it, who waits for it, and what has been learnt of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .breaker import CircuitBreaker
from .controller import Controller
from .limit import ConcurrencyLimit
from .streams import Streams
from .throughput import Throughput
from .wait_queue import WaitQueue


@dataclass(slots=True)
class Host:
    """Connections to it that are `open`, `refused` since the last report, `assigned` as a HostReport says it;
    it is left alone until `quiet_until`, and `probing` by one connection whether it answers again."""

    steering: Controller
    outage: CircuitBreaker
    open: int = 0
    streams: Streams = field(default_factory=Streams)
    refused: int = 0
    assigned: int = 0
    quiet_until: float = 0.0
    pace: Throughput = field(default_factory=Throughput)
    queue: WaitQueue = field(default_factory=WaitQueue)
    probing: bool = False

    @property
    def level(self) -> ConcurrencyLimit:
        return self.steering.level

    def may(self, now: float) -> bool:
        """Whether it may have another connection, if somebody waits for one."""
        return self.open < self.steering.level.value and not self.probing and self.quiet_until <= now


class Connection:
    """A connection that is held while the context is open. Whoever is handed one that is open enters it once
    more, which takes no other."""

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

    async def __aenter__(self) -> None:
        if not self._held:
            await self._enter(self._host, self._order)
            self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            self._leave(self._host, self._order)
