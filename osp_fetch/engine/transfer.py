"""The transfer of one file in parts, from the first request to its final name."""

from __future__ import annotations

from dataclasses import replace

from ..model import events, urls
from ..model.entry import Entry
from ..model.errors import FetchError, IntegrityError, Remedy, SizeLimitError, StorageError
from ..model.protocols import Partial
from ..model.ranges import NOTHING
from ..model.record import Published, Record
from .checkpoint import Checkpoint
from .context import Context
from .part_fetcher import First, PartFetcher
from .state import FileState


class PartedTransfer:
    """The transfer of one file in parts: fetching, restarts, verification and publishing.

    Args:
        context: The shared objects of this process.
        entry: The manifest entry.
        state: The state of the file, with the bytes held.
        order: Position of the file in the manifest. Smaller numbers get slots first.
        first: The first exchange, None if it was not sent yet.
        replaces: State of the finished file of an earlier run, which may be replaced. None if there is none.
    """

    def __init__(
        self,
        context: Context,
        entry: Entry,
        state: FileState,
        order: int,
        first: First | None = None,
        replaces: Published | None = None,
    ) -> None:
        self._context, self._entry, self._state, self._replaces = context, entry, state, replaces
        wanted = {entry.digest.algorithm} if entry.digest else set[str]()
        algorithms = frozenset({"sha256", *wanted})
        before = state.held
        self._partial: Partial = context.store.partial(
            entry.path,
            algorithms,
            fresh=not state.held,
            lost=state.unwrote,
            replaces=replaces,
            wanted=entry.digest,
            source=entry.source_key(entry.urls[0]),
        )
        if (gone := len(before) - len(state.held)) > 0:  # the store cannot continue what an earlier run held
            context.observe(events.Lost(entry.path, gone))
        self._record: Record | None = None
        # digests that were not the one of the manifest
        self._wrong: list[dict[str, str]] = [state.refused] if state.refused else []
        self._checkpoint = Checkpoint(context.ledger, self._partial, state, context.claim_size)
        self._parts = PartFetcher(
            context, state, self._partial, self._checkpoint, order, first, resumed=bool(before)
        )

    async def fetch(self) -> Record:
        """Fetch, verify, publish and record the file. Held bytes are recorded even if this raises.

        Returns:
            The record of the published file.

        Raises:
            FetchError: The file cannot be fetched. The remedy of the error states how to continue.
            DiskFullError: The destination is full. The transfer may be repeated with the bytes held.
        """
        try:
            while True:
                try:
                    return await self._once()
                except FetchError as error:
                    held = len(self._state.held)
                    if error.remedy is not Remedy.RESTART or not self._state.restart(error):
                        await self._drop_useless_bytes(error)
                        raise
                    self._context.observe(events.Lost(self._entry.path, held))
                    dropped, self._state.dropped = self._state.dropped, None
                    self._name_dropped(dropped)
                    await self._parts.forget()
        finally:
            await self._end()

    def _name_dropped(self, dropped: str | None) -> None:
        """Report the mirror whose bytes do not have the digest."""
        if dropped is not None:
            self._context.observe(events.MirrorDropped(self._entry.path, urls.host(dropped)))

    async def _once(self) -> Record:
        if not self._state.complete:
            await self._parts.fetch()
        length = self._state.length or 0
        if length == 0:
            await self._partial.write(0, b"")  # creates the file, which nothing else does for an empty one
        self._partial.hashing.advance(length, length)
        with self._context.pool.waits.hashing:
            digests, checksums = await self._partial.hashing.digests(length)
        try:
            self._state.check(digests)
        except IntegrityError:
            self._wrong.append(digests)
            if self._state.form.try_other(self._parts.coding):
                raise
            if digests in self._wrong[:-1] and self._parts.doubt is not None:
                self._state.parts.empty()
                await self._parts.forget()
                raise self._parts.doubt from None  # the digest has decided: it is a page
            if digests in self._wrong[:-1] and self._entry.digest and length:
                await self._set_aside(length, digests, checksums)
            raise
        self._name_dropped(self._state.mirrors.suspect)
        await self._checkpoint.done()
        with self._context.pool.waits.publishing:
            return await self._publish(length, digests, checksums)

    async def _publish(self, length: int, digests: dict[str, str], checksums: tuple[int, ...]) -> Record:
        """Sync, publish and record the complete file."""
        complete = self._state.record(self._state.held, digests, checksums)
        if length > self._context.claim_size or self._replaces is not None:
            # after a kill between the rename and the last record, this one proves that the file is right, and
            # the record of the file that is replaced does not stand for the new one
            kept = await self._partial.sync(complete.held)
            await self._context.ledger.put(replace(complete, held=kept))
        self._context.may_publish()
        placed = await self._partial.publish(length, self._context.mtime_of(complete.validator))
        if placed.kept is not None:
            self._context.observe(events.SetAside(self._entry.path, placed.kept))
        self._record = self._state.record(self._state.held, digests, checksums, placed.published)
        await self._context.ledger.put(self._record)
        return self._record

    @property
    def endless(self) -> bool:
        """Whether the length of the file is unknown after its first bytes."""
        return self._state.length is None and bool(self._state.held)

    async def give_up(self) -> None:
        """Discard the bytes of an endless file that has filled the disk.

        Raises:
            StorageError: Always; it states what to do.
        """
        count = len(self._state.held)
        self._state.parts.empty()
        await self._parts.forget()
        await self._partial.close()
        raise StorageError(
            f"{self._entry.path}: the disk is full after {count} bytes of a file whose length neither the "
            "server nor the manifest states; state its size in the manifest, or free disk space"
        )

    async def _set_aside(self, length: int, digests: dict[str, str], checksums: tuple[int, ...]) -> None:
        """Set the file aside and raise IntegrityError, because the same bytes were received twice.

        Equal bytes from two transfers are probably right, and the digest of the manifest wrong.
        """
        wanted = self._entry.digest
        assert wanted is not None
        await self._checkpoint.done()
        await self._partial.sync(self._state.held)
        await self._context.ledger.put(self._state.record(NOTHING, digests, checksums))
        where = await self._partial.set_aside()
        kept = f"The file is kept in {where}: correct" if where else "Correct"
        then = "it is taken from there" if where else "it is fetched again"
        raise IntegrityError(
            f"{self._entry.path}: the same {length} bytes were received twice, and their {wanted.algorithm} "
            f"is {digests[wanted.algorithm]}; the manifest states {wanted.hex}, which is probably wrong. "
            f"{kept} the manifest and run again, and {then}",
            remedy=Remedy.FAIL,
        )

    async def _drop_useless_bytes(self, error: FetchError) -> None:
        """Discard a complete file whose digest was wrong after the last restart, or one without an end."""
        if error.remedy is Remedy.RESTART or isinstance(error, SizeLimitError):
            self._state.parts.empty()
            await self._parts.forget()

    async def _end(self) -> None:
        try:
            await self._parts.close()
            if self._record is None:
                await self._checkpoint.last()
        finally:
            await self._partial.close()
