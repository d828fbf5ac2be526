"""The connection pool's state for one host, and the slot that the pool hands out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import field, replace

from ..model.dataclasses import dataclass
from ..model.errors import HostDownError, HostPausedError
from .breaker import CircuitBreaker
from .controller import Controller, HostReport
from .limit import ConcurrencyLimit
from .manners import Manners
from .streams import Streams
from .throughput import Throughput
from .wait_queue import WaitQueue


@dataclass(slots=True, eq=False)
class Host:
    """The connection pool's state for one host.

    Attributes:
        name: `host:port`.
        controller: Controller of the host's concurrency limit.
        has_own_limit: Whether its limit was measured or set, so that it need not share with other hosts.
        interval: Least seconds between two requests; 0 for no limit.
        breaker: Circuit breaker of the host.
        open: Slots that are held.
        connecting: Those of them that were granted before the host had answered, or while it is down.
        streams: Connections that are transferring a body.
        refused: Connections that the host refused since the last report.
        assigned: Sequence number of the last assignment (see HostReport).
        reported: The last report, with the counters at 0.
        quiet_until: Time in seconds, on the event loop's clock, before which no new slot is granted.
        paused_until: The same time, as far as the host asked for the pause.
        throughput: Measured throughput of a single connection.
        queue: Requests that wait for a slot.
        manners: What the host has shown of which requests it refuses.
        probe: Order of the file whose connection tests if the host answers again, None if there is none.
        line: The line of hosts that the host was put in last.
        listed: The place by which it stands in the line, None if it does not.
        back: Completed when the host answers again; None if no file waits for that.
    """

    name: str
    controller: Controller
    has_own_limit: bool = False
    interval: float = 0.0
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    open: int = 0
    connecting: int = 0
    streams: Streams = field(default_factory=Streams)
    refused: int = 0
    assigned: int = 0
    reported: HostReport | None = None
    quiet_until: float = 0.0
    paused_until: float = 0.0
    throughput: Throughput = field(default_factory=Throughput)
    queue: WaitQueue = field(default_factory=WaitQueue)
    manners: Manners = field(default_factory=Manners)
    probe: int | None = None
    line: object = None
    listed: tuple[int, int, int] | None = None
    back: asyncio.Future[None] | None = None

    @property
    def limit(self) -> ConcurrencyLimit:
        """The concurrency limit of the host."""
        return self.controller.limit

    def report(self) -> HostReport | None:
        """Return the state, and reset its counters. None if nothing has changed since the last report."""
        controller = self.controller
        found = HostReport(
            self.name, self.open, len(self.streams), len(self.queue), controller.received,
            self.refused, self.limit.value, controller.latency, self.assigned,
        )  # fmt: skip
        if found == self.reported:
            return None
        controller.received = self.refused = 0
        self.reported = replace(found, received=0, refused=0)
        return found

    def down_error(self, *, tried: bool = False) -> HostDownError:
        """Return the error of a request while the host is down.

        Args:
            tried: Whether this request was a connection that got no answer.
        """
        error, heard = self.breaker.error, self.breaker.heard
        assert error is not None
        return HostDownError(error, host=self.name, is_own=True, heard=heard, tried=tried)

    def paused_error(self) -> HostPausedError:
        """Return the error of a request during a long pause of the host."""
        return HostPausedError(f"{self.name} asked for a pause", host=self.name)

    async def until_back(self, seconds: float) -> None:
        """Wait until the host answers again, and until a pause that it asked for is over.

        Args:
            seconds: Most seconds to wait for an answer.
        """
        loop = asyncio.get_running_loop()
        if self.breaker.down:
            self.back = self.back or loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.shield(self.back)
        if (left := self.paused_until - loop.time()) > 0:
            await asyncio.sleep(left)

    def may(self, now: float, share: int) -> bool:
        """Return whether the host may get another slot.

        Args:
            now: Current time in seconds on the event loop's clock.
            share: Connections that a host may have while many hosts are in use.
        """
        if self.breaker.down:
            return self.probe is None
        most = self.controller.limit.value
        if share < most and not self.has_own_limit:
            most = share
        return self.open < most and self.quiet_until <= now


class Connection:
    """A slot that is held while the context is open.

    The context is reentrant: a callee that receives an open slot may enter it again, which takes no second
    slot. The first exit releases the slot; later exits do nothing.

    Attributes:
        host: The state of the host. Known from the first entry on, like `manners`.
        manners: What the host has shown of which requests it refuses.
    """

    __slots__ = ("_enter", "_held", "_leave", "_name", "_order", "host", "manners")

    def __init__(
        self,
        enter: Callable[[str, int], Awaitable[Host]],
        leave: Callable[[Host, int], None],
        name: str,
        order: int,
    ) -> None:
        self._enter, self._leave, self._name, self._order = enter, leave, name, order
        self._held = False
        self.host: Host
        self.manners: Manners

    @property
    def has_others(self) -> bool:
        """Whether other slots of the host are held."""
        return self.host.open > 1

    async def __aenter__(self) -> None:
        if not self._held:
            self.host = await self._enter(self._name, self._order)
            self.manners = self.host.manners
            self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            self._leave(self.host, self._order)
