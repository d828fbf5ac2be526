"""One file, from its row to its final name: a file fetches parts, a part fetches bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..model import events, links
from ..model.entry import Entry
from ..model.errors import (
    BorrowedLinkSpent,
    FetchError,
    RangeNotSatisfiable,
    Remedy,
    TransferError,
)
from ..model.protocols import Ledger, Partial, Reply, Sink, Transport
from ..model.ranges import ByteRange
from ..model.record import Record
from ..model.settings import Settings
from .download import Download, Part
from .gate import Gate
from .retry import persist
from .tasks import at_most, completed

_CLAIM_BYTES = 4 << 20  # bytes of one connection that a kill may cost
_CLAIM_SECONDS = 1.0  # so that a slow connection's bytes are claimed, too
_WRITE_SECONDS = 1.0
_RESERVE_FROM = 1 << 20  # smaller files are not worth a look at the disk each


@dataclass(frozen=True, slots=True)
class Tools:
    """What every file of a run shares."""

    transport: Transport
    sink: Sink
    ledger: Ledger
    gate: Gate
    settings: Settings
    observe: events.Observer
    write_size: int = 1 << 20


class Transfer:
    """Fetches one entry. `order`: its place in the manifest, by which connections are given."""

    def __init__(self, tools: Tools, entry: Entry, download: Download, order: int) -> None:
        self.tools = tools
        self.entry = entry
        self.download = download
        self.order = order
        wanted = {entry.digest.algorithm} if entry.digest else set[str]()
        self.partial: Partial = tools.sink.partial(entry.path, frozenset({"sha256", *wanted}))
        self.record: Record | None = None
        self._begun = asyncio.Event()
        self._minting = asyncio.Lock()
        self._connections = 0
        self._written = bool(download.held)
        self._unclaimed = 0
        self._claimed_at = asyncio.get_running_loop().time()
        self._claiming: asyncio.Task[None] | None = None

    async def fetch(self) -> Record:
        """Return when the file is published and recorded. Whatever ends it, held bytes are claimed."""
        try:
            while True:
                try:
                    return await self._once()
                except FetchError as error:
                    held = len(self.download.held)
                    if error.remedy is not Remedy.RESTART or not self.download.restart(error):
                        await self._drop_wrong_bytes(error)
                        raise
                    self.tools.observe(events.Lost(self.entry.path, held))
                    await self._forget()
        finally:
            await self._end()

    async def _once(self) -> Record:
        if not self.download.complete:
            await self._parts()
        length = self.download.length or 0
        if length == 0:
            await self.partial.write(0, ())  # an empty file has to exist, too
        self.partial.follow(length, length)
        digests, checksums = await self.partial.digests(length)
        self.download.check(digests)
        if length > _CLAIM_BYTES:
            # were we killed between the rename and the record, this tells that the name is right
            await self._settle_claims()
            await self.partial.sync()
            await self.tools.ledger.put(self.download.record(self.download.held, digests, checksums))
        published = await self.partial.publish()
        self.record = self.download.record(self.download.held, digests, checksums, published)
        await self.tools.ledger.put(self.record)
        return self.record

    # a file fetches parts

    async def _parts(self) -> None:
        self._begun.clear()
        host = links.host(self.download.url)
        size, length = self.tools.gate.part_size(host), self.download.length
        if length is not None and length <= size:
            await self._lane(0)
        else:
            await at_most(self.tools.gate.per_host, self._lanes(), self._lane)

    async def _lanes(self) -> AsyncIterator[int]:
        """One lane first, for the first part is the probe; the others when it has its answer."""
        yield 0
        await self._begun.wait()
        for number in range(1, self.tools.gate.per_host):
            if not self.download.more:
                return
            yield number

    async def _lane(self, _: int) -> None:
        """Fetch parts, one after another, until none is left to claim."""

        async def parts() -> None:
            while await self._part():
                pass

        while True:
            try:
                retry = self.tools.settings.retry
                await persist(parts, retry, lambda: len(self.download.held), self._retrying)
                self._begun.set()
                return
            except TransferError as error:
                mirrored = error.link is not None and error.remedy is not Remedy.RESTART
                if not (mirrored and self.download.forsake(error.link or "")):
                    raise
                self._retrying(error, 0.0)

    def _retrying(self, error: FetchError, delay: float) -> None:
        self.tools.observe(events.Retrying(self.entry.path, error.cause, delay, str(error)))

    # a part fetches bytes

    async def _part(self) -> bool:
        """Fetch the first missing part; False where nothing is left to claim."""
        host = links.host(self.download.url)
        async with self.tools.gate.connection(host, self.order):
            part = self.download.part(self.tools.gate.part_size(host))
            if part is None:
                return False
            self._connections += 1
            self.tools.observe(events.Opened(self.entry.path, host))
            try:
                await self._ask(part, host)
            except FetchError as error:
                error.link = part.url
                if error.retry_after:
                    self._cool(host, error.retry_after, str(error))
                raise
            finally:
                self.download.release(part)
                self._connections -= 1
                self.tools.observe(events.Closed(self.entry.path, host))
            return True

    async def _ask(self, part: Part, host: str) -> None:
        # a redirect is minted once for all connections: each costs a share of the hub's quota
        minting = self.download.unminted
        if minting:
            await self._minting.acquire()
        request = self.download.request(part)
        try:
            async with self.tools.transport.get(request) as reply:
                held = len(self.download.held)
                span = self.download.agree(part, reply)
                if minting:
                    self._minting.release()
                    minting = False
                if self.download.emptied and self._written:
                    # from the first byte again: what was hashed of the old bytes must go with them
                    self.tools.observe(events.Lost(self.entry.path, held))
                    await self.partial.clear()
                self.download.emptied = False
                await self._begin(reply)
                if span is not None:
                    await self._drain(part, span, reply, host)
                self.download.expect(span, framed=reply.framed)
        except RangeNotSatisfiable as error:
            self.download.unsatisfiable(part, error)
        except BorrowedLinkSpent:
            self.download.spent(part, request)
            raise
        finally:
            if minting:
                self._minting.release()

    async def _begin(self, reply: Reply) -> None:
        for host, seconds in reply.pauses:
            self._cool(host, seconds, "its quota is used up")
        if not self._begun.is_set():
            d = self.download
            if d.length is not None and d.length > _RESERVE_FROM:
                await self.partial.reserve(d.length - len(d.held))
            self.tools.observe(events.FileBegun(d.entry.path, d.length, d.entry.size, len(d.held)))
            self._begun.set()

    def _cool(self, host: str, seconds: float, why: str) -> None:
        self.tools.gate.cool(host, seconds)
        self.tools.observe(events.Cooling(host, seconds, why))

    async def _drain(self, part: Part, span: ByteRange, reply: Reply, host: str) -> None:
        """Write the body of `reply` to `span`; what arrived is kept, however it ends."""
        clock = asyncio.get_running_loop().time
        at, begun = span.start, clock()
        written = begun
        chunks: list[bytes] = []
        gathered = 0
        if reply.range is not None and part.sample:
            chunks = await self._compare(part, reply)
            gathered = sum(map(len, chunks))
        try:
            while chunk := await reply.read():
                chunks.append(chunk)
                gathered += len(chunk)
                await self.tools.gate.spend(len(chunk))
                if gathered >= self.tools.write_size or clock() - written > _WRITE_SECONDS:
                    full, chunks, gathered = chunks, [], 0
                    at, written = await self._write(at, full), clock()
        finally:
            if gathered:
                at = await self._write(at, chunks)
            self.tools.gate.measured(host, at - span.start, clock() - begun)

    async def _compare(self, part: Part, reply: Reply) -> list[bytes]:
        """Compare the overlap sample with the bytes held; gives what came after it."""
        came = b""
        while len(came) < part.sample and (chunk := await reply.read()):
            came += chunk
        if len(came) < part.sample:
            return []
        before = ByteRange(part.range.start - part.sample, part.range.start)
        self.download.alike(part, came[: part.sample] == await self.partial.read(before))
        return [came[part.sample :]] if len(came) > part.sample else []

    async def _write(self, at: int, chunks: list[bytes]) -> int:
        count = sum(map(len, chunks))
        self._written = True
        try:
            await completed(self.partial.write(at, chunks, self.download.length))
        except asyncio.CancelledError:
            self.download.wrote(ByteRange(at, at + count))
            self._unclaimed += count
            raise
        self.download.wrote(ByteRange(at, at + count))
        self.tools.observe(events.Wrote(self.entry.path, count))
        self.partial.follow(self.download.held.frontier, self.download.length)
        self._unclaimed += count
        self._claim_sometimes()
        return at + count

    # the ledger claims too little, never too much

    def _claim_sometimes(self) -> None:
        now = asyncio.get_running_loop().time()
        due = self._unclaimed >= _CLAIM_BYTES * max(1, self._connections)
        if not due and now - self._claimed_at < _CLAIM_SECONDS:
            return
        if self._claiming is None or self._claiming.done():
            self._claimed_at = now
            self._claiming = asyncio.create_task(self._claim())

    async def _claim(self) -> None:
        """Sync what is written, then record it: in this order, so that no claim lacks its bytes."""
        held, self._unclaimed = self.download.held, 0
        await self.partial.sync()
        await self.tools.ledger.put(self.download.record(held))

    async def _settle_claims(self) -> None:
        if self._claiming is not None:
            claiming, self._claiming = self._claiming, None
            await claiming

    async def _forget(self) -> None:
        await self._settle_claims()
        await self.tools.ledger.put(self.download.record(self.download.held))
        await self.partial.clear()

    async def _drop_wrong_bytes(self, error: FetchError) -> None:
        if error.remedy is Remedy.RESTART and self.download.length is not None:
            self.download.held = self.download.held - self.download.held
            await self._forget()

    async def _end(self) -> None:
        try:
            await self._settle_claims()
            if self.record is None and self._unclaimed:
                await self._claim()
        finally:
            await self.partial.close()
