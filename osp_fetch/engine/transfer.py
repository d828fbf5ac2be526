"""One file, from its row to its final name: a file fetches parts, a part fetches bytes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from ..model import events, urls
from ..model.entry import Entry
from ..model.errors import (
    BorrowedLinkSpentError,
    FetchError,
    IntegrityError,
    RangeNotSatisfiableError,
    Remedy,
    SourceGivenUpError,
    StatusError,
    StorageError,
    TransferError,
    UnreachableError,
)
from ..model.protocols import Partial, Reply
from ..model.ranges import NOTHING
from ..model.record import Published, Record
from .body_writer import BodyWriter
from .checkpoint import Checkpoint
from .context import Context
from .lanes import Lanes
from .retry import persist
from .state import FileState, PartRequest
from .whole import Opened

_HEDGE_LOOK: Final = 0.1
_RESERVE_FROM = 1 << 20  # smaller files are not worth a look at the disk each


class PartedTransfer:
    """Fetches one entry. `order`: its place in the manifest, by which connections are given. `opened`: its
    first request, where that was sent already. `replaces`: the finished file of an earlier run."""

    def __init__(
        self,
        context: Context,
        entry: Entry,
        download: FileState,
        order: int,
        opened: Opened | None = None,
        replaces: Published | None = None,
    ) -> None:
        self.context = context
        self._opened = opened
        self.entry = entry
        self.download = download
        self.order = order
        wanted = {entry.digest.algorithm} if entry.digest else set[str]()
        algorithms = frozenset({"sha256", *wanted})
        self._resumed = bool(download.held)
        self.partial: Partial = context.store.partial(
            entry.path, algorithms, fresh=not download.held, replaces=replaces
        )
        self.record: Record | None = None
        self._wrong: list[dict[str, str]] = []  # digests of what came and was not what the manifest states
        self._begun = False  # the file has answered
        self._lanes = Lanes(lambda: download.complete)
        self._complete = asyncio.Event()
        self._minting = asyncio.Lock()
        self._connections = 0
        self._checkpoint = Checkpoint(context.ledger, self.partial, download, context.claim_size)

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
                    self.context.observe(events.Lost(self.entry.path, held))
                    dropped, self.download.dropped = self.download.dropped, None
                    self._name_dropped(dropped)
                    await self._checkpoint.forget()
        finally:
            await self._end()

    def _name_dropped(self, dropped: str | None) -> None:
        """Say which mirror's bytes disagree with the digest."""
        if dropped is not None:
            self.context.observe(events.MirrorDropped(self.entry.path, urls.host(dropped)))

    async def _once(self) -> Record:
        if not self.download.complete:
            await self._parts()
        length = self.download.length or 0
        if length == 0:
            await self.partial.write(0, b"")  # an empty file has to exist, too
        self.partial.follow(length, length)
        digests, checksums = await self.partial.digests(length)
        try:
            self.download.check(digests)
        except IntegrityError:
            self._wrong.append(digests)
            if self._wrong[:-1] == [digests] and self.entry.digest and length:
                await self._set_aside(length, digests, checksums)
            raise
        self._name_dropped(self.download.mirrors.suspect)
        await self._checkpoint.done()
        if length > self.context.claim_size:
            # were we killed between the rename and the record, this tells that the name is right
            await self.partial.sync()
            await self.context.ledger.put(self.download.record(self.download.held, digests, checksums))
        placed = await self.partial.publish(length)
        if placed.kept is not None:
            self.context.observe(events.SetAside(self.entry.path, placed.kept))
        self.record = self.download.record(self.download.held, digests, checksums, placed.published)
        await self.context.ledger.put(self.record)
        return self.record

    # a file fetches parts

    async def _parts(self) -> None:
        self._begun = False
        self._complete.clear()
        await self._lanes.run(self._lane)

    def _call_more(self) -> None:
        """Keep one lane waiting for a connection while there are parts that nobody fetches; not more, for
        hundreds of files would otherwise wait with hundreds of lanes each."""
        busy = len(self._lanes) <= self._connections
        if busy and self.download.parts.more and self._connections < self.context.pool.per_host:
            self._lanes.call()

    async def _lane(self) -> None:
        """Fetch parts, one after another, until none is left to claim."""

        async def parts() -> None:
            while not self.download.complete and (await self._part() or await self._may_hedge()):
                pass

        while True:
            try:
                retry = self.context.settings.retry
                await persist(parts, retry, lambda: len(self.download.held), self._retrying)
                return
            except TransferError as error:
                mirrored = error.link is not None and error.remedy is not Remedy.RESTART
                if not (mirrored and self.download.forsake(error.link or "")):
                    raise
                self._retrying(error, 0.0)
                self._check_source(error)

    def _check_source(self, error: FetchError) -> None:
        """Raise where `error` has cost the one source that the file may come from."""
        if self.download.must_restart:
            raise SourceGivenUpError(f"{error}; it begins again at another mirror") from None

    def _retrying(self, error: FetchError, delay: float) -> None:
        self.context.observe(events.Retrying(self.entry.path, error.cause, delay, str(error)))

    # a part fetches bytes

    async def _may_hedge(self) -> bool:
        """Wait a moment while others fetch the last parts; False when those are no more."""
        if not self.download.parts.busy:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEDGE_LOOK):
                await self._complete.wait()
        return not self.download.complete

    def _should_hedge(self, host: str) -> bool:
        return self.download.parts.busy and self.context.pool.idle(host)

    async def _part(self) -> bool:
        """Fetch the first missing part, or hedge a slow one where connections are idle; False for
        neither."""
        link = self.download.mirrors.choose()
        host = urls.host(self.download.mirrors.url(link))
        if not self.download.parts.more and not self._should_hedge(host):
            return False
        opened, self._opened = self._opened, None
        held = opened.connection if opened else None
        async with held or self.context.pool.connection(host, self.order):
            now = asyncio.get_running_loop().time()
            if link not in self.download.mirrors:
                return True  # given up while this one waited for a connection
            free = self.download.parts.free
            size = opened.size if opened else self.context.pool.part_size(host, free, self.order)
            part = self.download.part(link, size, now) or self.download.hedge(
                link, now, self.context.pool.worth(host), self.context.pool.pace(host)
            )
            if part is None:
                return False
            self._connections += 1
            self._call_more()
            if held is None:
                self.context.observe(events.Opened(self.entry.path, host))
            try:
                if self.context.pool.dead(host):
                    raise TransferError(f"{self.entry.path}: {host} does not answer; try again later")
                await self._ask(part, host, opened)
            except FetchError as error:
                error.link = part.url
                self._account(error, host)
                if error.retry_after:
                    self._cool(host, error.retry_after, str(error))
                self._check_source(error)
                raise
            finally:
                if opened is not None:
                    await opened.close()
                self.download.release(part)
                if self.download.complete:
                    self._complete.set()
                    self._lanes.enough()
                self._connections -= 1
                self.context.observe(events.Closed(self.entry.path, host))
            return True

    async def _ask(self, part: PartRequest, host: str, opened: Opened | None) -> None:
        # a redirect is minted once for all connections: each costs a share of the hub's quota
        minting = self.download.mirrors.unminted(part.url)
        if minting:
            await self._minting.acquire()
        request = self.download.request(part)
        clock = asyncio.get_running_loop().time
        asked = clock()
        try:
            async with opened or self.context.transport.get(request) as reply:
                self.context.pool.answered(host, None if opened else clock() - asked)
                held = len(self.download.held)
                span = self.download.agree(part, reply)
                if minting:
                    self._minting.release()
                    minting = False
                if self.download.emptied and (held or self._resumed or self._begun):
                    # from the first byte again: what was hashed of the old bytes must go with them
                    self.context.observe(events.Lost(self.entry.path, held))
                    await self._checkpoint.forget()
                self.download.emptied = False
                await self._begin(reply)
                if span is not None:
                    with self.context.pool.streaming(host, self.entry.path):
                        await self._drain(host).run(part, span, reply)
                self.download.expect(span, framed=reply.framed)
        except RangeNotSatisfiableError as error:
            self.download.unsatisfiable(part, error)
        except BorrowedLinkSpentError:
            self.download.mirrors.spent(part.url, request.url)
            raise
        finally:
            if minting:
                self._minting.release()

    def _account(self, error: FetchError, host: str) -> None:
        """Tell the pool whether `host` has answered; on its outage nothing counts as a failure."""
        pool, mirrors = self.context.pool, self.download.mirrors
        if pool.dead(host):
            return  # it was not asked
        if not isinstance(error, UnreachableError):
            if isinstance(error, TransferError):
                pool.answered(host)
            if isinstance(error, StatusError) and error.status in (429, 503):
                pool.refused(host)
            return
        silent = error.host or host
        if silent != host:
            pool.answered(host)  # it has redirected to one that is silent
        down = pool.silent(silent)
        if len(mirrors) > 1:
            if down and error.link:
                self.download.forsake(error.link)  # another one has the file: no need to wait for this host
        else:
            error.excused = down and silent == host

    def _drain(self, host: str) -> BodyWriter:
        return BodyWriter(
            self.context, self.download, self.partial, self._checkpoint, lambda: self._connections, host
        )

    async def _begin(self, reply: Reply) -> None:
        for host, seconds in reply.pauses:
            self._cool(host, seconds, "its quota is used up")
        if not self._begun:
            d = self.download
            if d.length is not None and d.length > _RESERVE_FROM:
                await self.partial.reserve(d.length - len(d.held))
            self.context.observe(events.FileBegun(d.entry.path, d.length, d.entry.size, len(d.held)))
            self._begun = True
            self._call_more()

    def _cool(self, host: str, seconds: float, why: str) -> None:
        self.context.pool.cool(host, seconds)
        self.context.observe(events.Cooling(host, seconds, why))

    @property
    def endless(self) -> bool:
        """Whether nothing tells how much more there is to come."""
        return self.download.length is None and bool(self.download.held)

    async def give_up(self) -> None:
        """Drop what is held of an endless file that has filled the disk, and raise StorageError."""
        count = len(self.download.held)
        self.download.parts.empty()
        await self._checkpoint.forget()
        await self.partial.close()
        raise StorageError(
            f"{self.entry.path}: {count} bytes came and the disk has no room for more, of a file whose "
            "length neither the server nor the manifest tells; state its size in the manifest, or make room"
        )

    async def _set_aside(self, length: int, digests: dict[str, str], checksums: tuple[int, ...]) -> None:
        """The same bytes came twice: it is rather the manifest that is wrong than they."""
        wanted = self.entry.digest
        assert wanted is not None
        await self._checkpoint.done()
        await self.partial.sync()
        await self.context.ledger.put(self.download.record(NOTHING, digests, checksums))
        where = await self.partial.set_aside()
        raise IntegrityError(
            f"{self.entry.path}: the same {length} bytes came twice, and their {wanted.algorithm} is "
            f"{digests[wanted.algorithm]}; the manifest states {wanted.hex}, which is probably wrong. They "
            f"are kept in {where}: mend the manifest, and they are taken from there",
            remedy=Remedy.FAIL,
        )

    async def _drop_wrong_bytes(self, error: FetchError) -> None:
        """Nothing is kept of a file that was whole and wrong to the last."""
        if error.remedy is Remedy.RESTART:
            self.download.parts.empty()
            await self._checkpoint.forget()

    async def _end(self) -> None:
        try:
            if self.record is None:
                await self._checkpoint.last()
        finally:
            if self._opened is not None:
                await self._opened.close()
            await self.partial.close()
