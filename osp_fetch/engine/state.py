"""The state of one file and every decision about it. No I/O.

Resuming is subtraction: missing = wanted − held. A first run, a retry after a cut and a run next week take
the same code path. They differ only in how much is held, and in the proof that the held bytes belong to the
file that the server has now, which `validators` decides.
"""

from __future__ import annotations

from typing import Final

from ..model.dataclasses import dataclass
from ..model.entry import Entry
from ..model.errors import (
    FetchError,
    IntegrityError,
    NetworkError,
    NotThePayloadError,
    RangeNotSatisfiableError,
    Remedy,
    TransferError,
)
from ..model.http import Representation, Request
from ..model.protocols import Reply
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Published, Record
from .coded_form import CodedForm
from .mirrors import Mirrors
from .parts import OPEN_END, Part, PartRequest, Parts
from .validators import Validators

# Bytes that are fetched again and compared if no digest or validator proves that the file is the same.
SAMPLE: Final = 4 << 10
_SAMPLED: Final = 64 * SAMPLE  # bytes of a part that is compared with the next one, so that it costs 2 %
RESTARTS: Final = 3  # restarts at byte 0 before a file that keeps changing on the server fails


@dataclass(frozen=True, slots=True)
class Supply:
    """The bytes that a reply supplies.

    Args:
        span: The byte range of the file that the body supplies, None if it supplies nothing.
        restarts: Whether the bytes that were held before are void.
    """

    span: ByteRange | None
    restarts: bool


class FileState:
    """The state of one file: held bytes, parts being fetched, and what the servers have stated.

    Args:
        entry: The manifest entry.
        record: The record of an earlier run, None if there is none.
        partial_size: Size of the partial in bytes, None if there is none.
    """

    def __init__(self, entry: Entry, record: Record | None = None, partial_size: int | None = None) -> None:
        self.entry = entry
        # a stated size of 0 is confirmed by the server: in many lists it stands for an unknown size
        self.parts = Parts(entry.size or None)
        self._emptied = False  # they became void, and no Supply has reported it yet
        self._plain = False  # send requests without Range
        self.dropped: str | None = None  # the last mirror given up for wrong bytes
        # digests of what an earlier run received twice, and set aside for the digest of the manifest
        self.refused = record.digests if record and not (record.published or record.held) else {}
        source = next((url for url in entry.urls if record and entry.leads_to(url, record.source_key)), None)
        self.mirrors = Mirrors(entry.urls, spread=entry.digest is not None, first=source)
        self._sources: set[str] = set()  # links that the held bytes came from
        self.trust = Validators(entry.path, digest=entry.digest is not None)
        self.form = CodedForm()
        # headers for a redirect's target at another origin: it learns who asks, and no credential
        self._abroad = tuple((n, v) for n, v in entry.headers if n.lower() == "user-agent")
        self._direct: set[Part] = set()  # parts that were requested from the target of a redirect
        self._ranged = False  # the server has answered a range request with a range
        self._wholes = 0  # times that a range request was answered with the complete file
        self._restarts = {True: 0, False: 0}
        self.must_restart = False  # the only source was given up, so no held byte may be used
        self._ends: list[int] = []
        # where a request that began earlier was refused with 416, though the bytes before are held
        self._refused: int | None = None
        if record is not None and partial_size is not None:
            self._resume(record, partial_size)

    def _resume(self, record: Record, partial_size: int) -> None:
        known = self.entry.leads_to(self.mirrors.first, record.source_key)
        contradicts = None not in (self.length, record.length) and self.length != record.length
        if record.published or contradicts or not (known or self.entry.digest):
            return
        # the ledger is trusted only as far as the size of the partial confirms it
        self.parts.held = record.held & RangeSet.upto(partial_size)
        self.parts.length = self.length if self.length is not None else record.length
        self._sources.add(self.mirrors.first if known else record.source_key)
        if known:
            self.trust.resume(self.mirrors.first, record.validator)
        self.trust.unproven = bool(self.held) and not self.trust.proven(self.mirrors.first)

    # ---- what to request next

    @property
    def complete(self) -> bool:
        """Whether every byte is held."""
        return self.parts.complete

    @property
    def length(self) -> int | None:
        """Size of the file in bytes, None while unknown."""
        return self.parts.length

    @property
    def held(self) -> RangeSet:
        """Bytes that are safe in the partial."""
        return self.parts.held

    def part(self, link: str, size: int, now: float = 0.0) -> PartRequest | None:
        """Assign the first missing bytes as a part to request from `link`.

        Args:
            link: The link to request it from.
            size: Wanted size of the part in bytes.
            now: Current time in seconds on the clock of the caller.

        Returns:
            The part; None if all bytes are held or assigned.
        """
        if self.trust.unproven and self.parts.busy:
            return None  # one part at a time, until a sample has proved the held bytes
        # parts that were being fetched when the doubt arose have ended; without held bytes none remains
        self.trust.unproven = self.trust.unproven and bool(self.held)
        # bytes of an earlier run are proved by a sample, which must directly precede missing bytes
        beside = bool(self.held) and not self.trust.proven(link)
        return self._part(link, self.parts.next(size, now, beside=beside))

    def hedge(self, link: str, now: float, after: float, pace: float | None = None) -> PartRequest | None:
        """Assign bytes of the slowest part again, for `link`; see `Parts.hedge`. None if no part is slow."""
        if self.trust.unproven or len(self.mirrors) > 1:
            return None  # mirrors may differ, so two of them must not write the same range
        return self._part(link, self.parts.hedge(now, after, pace))

    def _part(self, link: str, claim: Part | None) -> PartRequest | None:
        if claim is None:
            return None
        if self.trust.proven(link):
            return PartRequest(claim, link)
        start, stop = claim.range.start, claim.range.stop
        # halve the sample for each reply that has ended at `start`: a server that sends short ranges then
        # sends new bytes, and one whose file ends there sends none
        sample = min(SAMPLE, self.held.before(start)) >> self._ends.count(start)
        sample = 0 if start == self._refused else sample
        if not (self.parts.busy or self.trust.unproven) or len(claim.range) < _SAMPLED:
            return PartRequest(claim, link, sample)
        # parts that are fetched side by side may be of different versions: each goes on into the next one
        if not self.trust.covered(start):
            sample = sample or min(SAMPLE, start)
        self.trust.cover(stop)
        return PartRequest(claim, link, sample, min(SAMPLE, (self.length or stop) - stop))

    def request(self, part: PartRequest) -> Request:
        """Return the request for `part`. A part that covers the complete file is requested without Range."""
        minted = self.mirrors.borrowed(part.url)
        (self._direct.add if minted else self._direct.discard)(part.claim)
        url = minted or part.url
        whole, home = self._asks_whole(part), self.mirrors.at_home(part.url)
        return Request(
            url=url,
            range=None if whole else ByteRange(part.range.start - part.sample, part.range.stop + part.tail),
            if_range=self.trust.if_range(part.url),
            headers=self.entry.headers if home else self._abroad,
            borrowed=minted is not None,
            name=self.entry.path,
            sure=self.entry.digest is not None,
            size=self.length,
            coding=self.form.wanted,
            at_home=home,
        )

    def _asks_whole(self, part: PartRequest) -> bool:
        all_of_it = self._plain or self.parts.single or part.range.stop == self.length
        return part.range.start == 0 and all_of_it

    # ---- what the replies state

    def agree(self, part: PartRequest, reply: Reply) -> Supply:
        """Check that `reply` belongs to the file, and return the bytes that it supplies.

        Args:
            part: The part that was requested.
            reply: The reply, its body not yet read.

        Raises:
            NetworkError: The reply does not fit, and a retry may help.
            NotThePayloadError: The length differs from the size that the manifest states.
            ChangedError: The file has changed on the server.
        """
        span = self._agreed(part, reply)
        restarts, self._emptied = self._emptied, False
        return Supply(span, restarts)

    def _agreed(self, part: PartRequest, reply: Reply) -> ByteRange | None:
        found = reply.representation
        if reply.borrowed:
            home = self.mirrors.at_home(part.url) and reply.headers_sent
            self.mirrors.minted(part.url, found.url, at_home=home, direct=part.claim in self._direct)
        self._direct.discard(part.claim)
        if reply.range is None:
            return self._whole(part, reply)
        self._ranged, self._refused = True, None
        self._check_length(found)
        self.trust.check(part.url, reply, sampled=part.can_compare(self.held))
        self._begin(part, found)
        if reply.range.stop <= part.range.start:
            if reply.range.stop == part.range.start and self._ends_here(part.range.start):
                return None
            raise NetworkError(f"{self.entry.path}: the reply ended before the first byte that was requested")
        return ByteRange(part.range.start, min(reply.range.stop, part.range.stop))

    def _begin(self, part: PartRequest, found: Representation) -> None:
        self.parts.probed = True
        if found.length is not None:
            self.parts.length = found.length
        self.trust.begin(part.url, found)
        self._sources.add(part.url)

    def _check_length(self, found: Representation) -> None:
        known = self.entry.size if self.length is None else self.length
        if known is None or found.length in (None, known):
            return
        if self.entry.size is not None:
            raise NotThePayloadError(
                f"{self.entry.path}: the server offers {found.length} bytes, the manifest states "
                f"{self.entry.size}; check the size in the manifest, or open the link in a browser"
            )
        raise self.trust.contradicted(
            f"the file on the server now has {found.length} bytes, it had {known} before"
        )

    def _whole(self, part: PartRequest, reply: Reply) -> ByteRange | None:
        """Accept a reply of status 200, whose body is the file from its first byte whatever was requested."""
        found = reply.representation
        if reply.doubt is not None and self.held:
            raise reply.doubt  # it may be a page, which must not cost the held bytes
        self._check_length(found)
        if not self.parts.alone:
            self.parts.single = True  # other parts are being written; the next request goes alone
            raise NetworkError(
                f"{self.entry.path}: the server answered a range request with the complete file"
            )
        if part.range.start > 0:
            self.trust.check(part.url, reply, sampled=part.can_compare(self.held))
            self._wholes += 1
            if self._wholes == 1:
                # a single edge server may ignore ranges: the held bytes are given up only at the second reply
                self.trust.asks_if_range = False
                raise NetworkError(
                    f"{self.entry.path}: the server answered a range request with the complete file"
                )
        self._empty()
        self.parts.single = True
        self._begin(part, found)
        # the manifest's size is the limit: a body without a length may be longer, or never end
        length = found.length if found.length is not None else self.entry.size or None
        if length == 0:
            return None
        return ByteRange(0, OPEN_END if length is None else length)

    def _empty(self) -> None:
        self._emptied = True
        self.parts.empty()
        self._sources.clear()
        self.trust.forget()

    def wrote(self, span: ByteRange) -> None:
        """Record that `span` is written to the partial."""
        self.parts.held |= span

    def unwrote(self, span: ByteRange) -> None:
        """Record that the bytes written to `span` are invalid and must be fetched again."""
        self.parts.held -= span

    def expect(self, span: ByteRange | None, *, framed: bool) -> None:
        """Check at the end of a body that it was complete.

        Args:
            span: The range that the reply was to supply, None if it supplied nothing.
            framed: Whether the reply marked the end of its body (Content-Length or chunked).

        Raises:
            NetworkError: Bytes are missing, or it is not certain yet that the file ends here.
        """
        if span is None:
            return
        if span.stop != OPEN_END:
            missing = self.parts.missing_in(span)
            if missing:
                raise NetworkError(f"{self.entry.path}: the connection ended {missing} bytes early")
            return
        end = self.held.frontier
        self._ends.append(end)
        # an unframed body ends the same way as a cut connection: a second one of equal length is the proof
        if framed or self.entry.digest or self._ends.count(end) > 1:
            self.parts.length = end
        else:
            self._empty()
            raise NetworkError(
                f"{self.entry.path}: the server stated no length; fetching it again to confirm its end"
            )

    def unsatisfiable(self, part: PartRequest, error: RangeNotSatisfiableError) -> None:
        """Handle status 416: the part begins at the end of the file, or the file is another one now.

        Args:
            part: The part that was requested.
            error: The error of the reply; it is raised again unless the file ends here.

        Raises:
            RangeNotSatisfiableError: The request is repeated.
            NetworkError: The server states another length for the first time.
            ChangedError: It states another length for the second time in a row.
        """
        start = part.range.start
        at_end = self.length is None and start == self.held.frontier
        if at_end and error.length == start:
            self.parts.length, self.parts.probed = start, True
            return
        if at_end and error.length is None and start > 0 and self._ranged:
            if part.sample:
                self._refused = start  # it is no proof: the server has sent bytes after the first one before
            elif self._ends_here(start):
                return
            raise error
        if not self._plain and (start == 0 or self.length is None):
            self._plain = self.parts.single = True
            self._empty()
            raise error
        if error.length is None and self.length is not None and start < self.length:
            raise self.trust.contradicted(f"the file on the server now ends before byte {start}")
        if error.length is not None and error.length != self.length:
            raise self.trust.contradicted(f"the file on the server now has only {error.length} bytes")
        raise error

    def _ends_here(self, end: int) -> bool:
        """Return whether the file is known to end at `end`, where a server that states no length has no byte.

        It sent 416, or a range that ends there. The second time proves it.
        """
        if self.length is not None or end != self.held.frontier:
            return False
        self._ends.append(end)
        if self._ends.count(end) < 2:
            return False
        self.parts.length, self.parts.probed = end, True
        return True

    def forsake(self, link: str) -> bool:
        """Give up the mirror `link`; return whether another one remains.

        Without a digest nothing proves that mirrors hold the same bytes, so the file must restart at byte 0.
        """
        another = self.mirrors.forsake(link)
        self.must_restart = another and self.entry.digest is None
        return another

    def restart(self, error: FetchError) -> bool:
        """Discard the held bytes, so that the file starts again at byte 0.

        Args:
            error: Why the file must restart.

        Returns:
            False if the file has restarted too often; nothing is discarded then.
        """
        if self.must_restart:
            # a change of mirror does not count as a restart; the new server's abilities are not known yet
            self.must_restart = self.parts.single = self._plain = self._ranged = False
            self._wholes = 0
            self._ends.clear()
            self._drop()
            return True
        wrong_bytes = isinstance(error, IntegrityError)
        self._restarts[wrong_bytes] += 1
        # wrong digest: try once more, or once from each mirror alone, because mirrors may have been mixed
        most = max(1, len(self.entry.urls)) if wrong_bytes else RESTARTS
        if error.remedy is not Remedy.RESTART or self._restarts[wrong_bytes] > most:
            return False
        self._drop()
        if wrong_bytes:
            self.dropped = self.mirrors.distrust() or self.dropped
        else:
            # one stream is consistent even if each edge server sends its own ETag
            self.parts.single = True
        return True

    def _drop(self) -> None:
        """Forget the held bytes and everything that servers have stated."""
        self.parts.empty()
        self.parts.length, self.parts.probed = self.entry.size or None, False
        self._sources.clear()
        self.trust.forget()

    # ---- the end

    def check(self, digests: dict[str, str]) -> None:
        """Check that every byte is held and that size and digest are those of the manifest.

        Args:
            digests: Algorithm → hexadecimal digest of the complete partial.

        Raises:
            TransferError: Bytes are missing. The remedy is RESTART.
            IntegrityError: The size or the digest is wrong.
        """
        if not self.complete:
            raise TransferError(
                f"{self.entry.path}: bytes of the file are still missing after the transfer",
                remedy=Remedy.RESTART,
            )
        if self.entry.size is not None and self.entry.size != self.length:
            raise IntegrityError(
                f"{self.entry.path}: {self.length} bytes were received, the manifest states {self.entry.size}"
            )
        wanted = self.entry.digest
        if wanted is not None and (found := digests.get(wanted.algorithm)) != wanted.hex:
            raise IntegrityError(
                f"{self.entry.path}: all {self.length} bytes were received, but their {wanted.algorithm} is "
                f"{found}, the manifest states {wanted.hex}"
            )

    def record(
        self,
        held: RangeSet,
        digests: dict[str, str] | None = None,
        checksums: tuple[int, ...] = (),
        published: Published | None = None,
    ) -> Record:
        """Return the record of the file for the ledger.

        Args:
            held: Bytes that the record states as held.
            digests: Algorithm → hexadecimal digest of the complete file, None if not complete.
            checksums: CRC-32 of each block of it, as in `Record`.
            published: State of the file under its final name, None if not published.
        """
        key = self.entry.source_key(self.mirrors.first)
        validator = self.trust.validator(self.mirrors.first)
        if published is None and len(self._sources | {self.mirrors.first}) > 1 and held:
            key = ""  # bytes of several sources: only a digest can prove that they belong together
        return Record(self.entry.path, key, self.length, validator, held, digests or {}, checksums, published)
