"""The parts of one file: lanes that fetch ranges one after another, their retries, mirrors and hedges."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from ..connections.exchange import Exchange
from ..model import events, urls
from ..model.dataclasses import dataclass
from ..model.errors import (
    BorrowedLinkSpentError,
    FetchError,
    HostDownError,
    HostPausedError,
    LaggingError,
    NetworkError,
    NotThePayloadError,
    RangeNotSatisfiableError,
    Remedy,
    SourceGivenUpError,
    TimeLimitError,
    TransferError,
    YieldedError,
)
from ..model.http import Coding
from ..model.protocols import PartialContent
from .body_writer import BodyWriter
from .checkpoint import Checkpoint
from .context import Context
from .host_wait import HostWait
from .lanes import Lanes
from .lent_ranges import LentRanges
from .parts import PartRequest
from .retry import Pace, persist
from .state import FileState

_HEDGE_LOOK: Final = 0.1  # seconds between two checks whether a part has become slow enough for a hedge


@dataclass(frozen=True, slots=True)
class First:
    """The first exchange of a file, already sent.

    Args:
        exchange: The exchange, with its reply or its error.
        part_size: Size in bytes of the part that it requested.
    """

    exchange: Exchange
    part_size: int


class _Lane:
    """The state of one lane. `link` is the link of its last request, None before the first."""

    link: str | None = None


class PartFetcher:
    """Fetches the missing bytes of one file into its partial, over as many connections as are granted.

    Args:
        context: The shared objects of this process.
        state: The state of the file, with the bytes held.
        partial: The unfinished file.
        checkpoint: Records the written bytes.
        order: Position of the file in the manifest. Smaller numbers get slots first.
        first: The first exchange, None if it was not sent yet.
        resumed: Whether bytes were held at the start of the transfer.

    Attributes:
        doubt: Why the last reply from byte 0 looks like a page, None if it does not.
        coding: What became of the content coding of the last reply from byte 0.
    """

    def __init__(
        self,
        context: Context,
        state: FileState,
        partial: PartialContent,
        checkpoint: Checkpoint,
        order: int,
        first: First | None = None,
        *,
        resumed: bool,
    ) -> None:
        self._context, self._state, self._order = context, state, order
        self._partial, self._checkpoint, self._first = partial, checkpoint, first
        self._path, self._resumed = state.entry.path, resumed
        self.doubt: NotThePayloadError | None = None
        self.coding = Coding.NONE
        self._begun = False  # a reply of the file was accepted
        self._lanes = Lanes(lambda: state.complete)
        self._complete = asyncio.Event()
        self._minting = asyncio.Lock()
        self._until: float | None = None  # loop time at which `limits.file_time` ends
        self._clock: asyncio.Timeout | None = None
        self._connections = 0
        self._host_wait = HostWait(context)
        self._lent: LentRanges | None = None  # ranges that other nodes fetch, once a reply was accepted

    async def fetch(self) -> None:
        """Fetch all missing bytes.

        Raises:
            FetchError: They cannot be fetched. The remedy of the error states how to continue.
            DiskFullError: The destination is full.
        """
        self._begun = False
        self._complete.clear()
        if limit := self._context.settings.limits.file_time:
            await self._parts_within(limit)
        else:
            await self._lanes.run(self._lane)
        await self._compare_seams()

    async def _parts_within(self, limit: float) -> None:
        """Run the lanes for at most `limit` seconds after the first connection, over all restarts."""
        try:
            async with asyncio.timeout_at(self._until) as self._clock:
                await self._lanes.run(self._lane)
        except TimeoutError:
            raise TimeLimitError(
                f"{self._path}: it took longer than limits.file_time ({limit:g} s); what is held is "
                "kept, and the same command continues it"
            ) from None
        finally:
            self._clock = None

    def _start_clock(self) -> None:
        """Begin to count `limits.file_time`: the file has its first connection."""
        if self._clock is not None and self._until is None:
            self._until = asyncio.get_running_loop().time() + self._context.settings.limits.file_time
            self._clock.reschedule(self._until)

    def _call_more(self) -> None:
        """Keep one lane waiting for a slot while parts are unassigned.

        One is enough: otherwise hundreds of files would each wait with hundreds of lanes.
        """
        busy = len(self._lanes) <= self._connections
        if busy and self._state.parts.more and self._connections < self._context.pool.per_host:
            self._lanes.call()

    async def _lane(self) -> None:
        """Fetch parts one after another until none is left. Retry failures, and change the mirror."""
        lane = _Lane()

        async def parts() -> None:
            while not self._state.complete and (await self._part(lane) or await self._may_hedge()):
                pass

        while True:
            try:
                retry, timeouts = self._context.settings.retry, self._context.settings.timeouts
                pace, sleep = Pace(timeouts.slowest, timeouts.slow_for), self._context.sleep
                await persist(parts, retry, lambda: len(self._state.held), self._retrying, pace, sleep)
                return
            except TransferError as error:
                if isinstance(error, (HostDownError, HostPausedError)) and error.remedy is Remedy.WAIT:
                    await self._host_wait.outlast(error, len(self._state.held), streams=self._connections > 0)
                    continue
                if lane.link is None or error.remedy is Remedy.RESTART or not self._state.forsake(lane.link):
                    raise
                self._retrying(error, 0.0)
                self._check_source(error)

    def _check_source(self, error: FetchError) -> None:
        """Raise SourceGivenUpError if `error` was of the only mirror that the file may come from."""
        if self._state.must_restart:
            raise SourceGivenUpError(f"{error}; the file restarts from another mirror") from None

    def _retrying(self, error: FetchError, delay: float) -> None:
        if isinstance(error, (YieldedError, LaggingError)):
            return  # this process has closed the connection; nothing failed
        self._context.retrying(self._path, error, delay)

    # ---- a part fetches bytes

    async def _may_hedge(self) -> bool:
        """Wait a moment while other lanes fetch the last parts; return whether bytes are still missing."""
        if not self._state.parts.pending:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEDGE_LOOK):
                await self._complete.wait()
        return not self._state.complete

    def _check_complete(self) -> None:
        """End the lanes if every byte is held, and let ranges of other nodes be copied."""
        if self._lent is not None:
            self._lent.advanced()
        if self._state.complete:
            self._complete.set()
            self._lanes.enough()

    def _should_hedge(self, host: str) -> bool:
        return self._state.parts.busy and self._context.pool.idle(host)

    async def _part(self, lane: _Lane) -> bool:
        """Fetch the first missing part, or hedge a slow one if slots are idle.

        Returns whether there was a part to fetch.
        """
        if self._lent is not None and self._state.parts.single:
            await self._lent.recall()  # the next request goes alone, and waits for no other node
        link = self._state.mirrors.choose()
        host = urls.host(self._state.mirrors.url(link))
        if not self._state.parts.more and not self._should_hedge(host):
            return False
        first, self._first = self._first, None
        opening = first.exchange if first else self._context.exchange(host, self._order, self._path)
        try:
            async with opening as exchange:
                return await self._part_over(exchange, lane, link, host, first)
        except (HostDownError, HostPausedError) as error:
            raise self._without_host(error, link) from None

    async def _part_over(
        self, exchange: Exchange, lane: _Lane, link: str, host: str, first: First | None
    ) -> bool:
        """Fetch a part over an open exchange; return whether there was one."""
        self._start_clock()
        if link not in self._state.mirrors:
            return True  # the mirror was given up while this lane waited for a slot
        part = self._next_part(link, host, first)
        if part is None:
            return False
        lane.link = part.url
        try:
            self._connections += 1
            self._call_more()
            await self._ask(part, exchange, is_sent=first is not None)
        finally:
            self._state.parts.release(part.claim)
            self._connections -= 1
            self._check_complete()
        return True

    def _next_part(self, link: str, host: str, first: First | None) -> PartRequest | None:
        """Return the part to request from `link` now that the slot is granted, None if there is none."""
        pool, now = self._context.pool, asyncio.get_running_loop().time()
        free = self._state.parts.free
        size = first.part_size if first else self._context.part_size(host, free, self._order)
        part = self._state.part(link, size, now)
        return part or self._state.hedge(
            link, now, pool.host(host).controller.worth, pool.host(host).throughput.value
        )

    def _without_host(self, error: HostDownError | HostPausedError, link: str) -> FetchError:
        """Give up the mirror of a host that is down or paused, if others remain.

        Without a digest, a file that holds bytes waits for a pause, because other mirrors begin at byte 0.

        Returns:
            The error to raise: a retry if others remain.
        """
        waits = isinstance(error, HostPausedError) and self._state.entry.digest is None and self._state.held
        if len(self._state.mirrors) < 2 or waits:
            return error
        self._state.forsake(link)
        self._check_source(error)
        return NetworkError(str(error))

    async def _ask(self, part: PartRequest, exchange: Exchange, *, is_sent: bool) -> None:
        # a redirect is resolved once for all lanes: each resolution counts against the hub's quota
        minting = self._state.mirrors.unminted(part.url)
        if minting:
            await self._minting.acquire()
        try:
            request = self._state.request(part)
            reply = exchange.reply if is_sent else await exchange.send(request)
            held = len(self._state.held)
            supply = self._state.agree(part, reply)
            if part.range.start == 0:
                before, self.doubt, self.coding = self.coding, reply.doubt, reply.coding
                if reply.coding is Coding.DECODED and before is not Coding.DECODED:
                    self._context.observe(events.Decoded(self._path, exchange.host))
            if minting:
                self._minting.release()
                minting = False
            if supply.restarts and (held or self._resumed or self._begun):
                # the body starts at byte 0: the hashes of the old bytes must be discarded with them
                self._context.observe(events.Lost(self._path, held))
                await self.forget()
            await self._begin()
            if supply.span is not None:
                with exchange.streaming():
                    await self._writer().run(part, supply.span, exchange)
                await self._compare_seams()
            self._state.expect(supply.span, framed=reply.framed)
        except RangeNotSatisfiableError as error:
            self._state.unsatisfiable(part, error)
        except BorrowedLinkSpentError:
            self._state.mirrors.spent(part.url, request.url)
            raise
        finally:
            if minting:
                self._minting.release()

    async def _compare_seams(self) -> None:
        """Compare the overlap samples of parts that were fetched side by side."""
        for span in self._state.trust.due(self._state.held):
            self._state.trust.compare(span, await self._partial.read(span))

    def _writer(self) -> BodyWriter:
        # created for each body: stored in this object it would form a reference cycle, and files would stay
        # in memory until the garbage collector runs
        return BodyWriter(
            self._context, self._state, self._partial, self._checkpoint, lambda: self._connections
        )

    async def _begin(self) -> None:
        """Handle the first accepted reply: reserve disk space, and let other lanes begin."""
        if self._begun:
            return
        state = self._state
        await self._partial.begin(state.length, (state.length or 0) - len(state.held))
        self._context.observe(
            events.FileBegun(state.entry.path, state.length, state.entry.size, len(state.held))
        )
        self._begun = True
        self._offer()
        self._call_more()

    def _offer(self) -> None:
        """Let other nodes fetch ranges of the file."""
        lending = self._context.lending
        if lending is not None and self._lent is None:
            of_file = self._state, self._partial, self._checkpoint, self._order
            self._lent = LentRanges(lending.range_files, *of_file, self._check_complete)
            lending.offer(self._path, self._lent)

    async def forget(self) -> None:
        """Discard the partial but for the bytes held now; see `Checkpoint.forget`."""
        if self._lent is not None:
            await self._lent.recall()
        await self._checkpoint.forget()

    async def close(self) -> None:
        """Take back the ranges that other nodes fetch, and close the first exchange if it was not used."""
        if self._lent is not None and self._context.lending is not None:
            self._context.lending.withdraw(self._path)
            lent, self._lent = self._lent, None
            await lent.recall()
        if self._first is not None:
            await self._first.exchange.aclose()
