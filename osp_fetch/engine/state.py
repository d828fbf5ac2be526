"""The state of one file and every decision about it. Awaits nothing and opens nothing.

Resuming is subtraction: missing = wanted − held. A first run, a retry after a cut and a run next
week are one code path; what differs is only how much is held, and what proves that it may be built
upon, which `trust` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
from ..model.http import Landing, Representation, Request
from ..model.protocols import Reply
from ..model.ranges import ByteRange, RangeSet
from ..model.record import Published, Record
from .mirrors import Mirrors
from .parts import OPEN_END, Part, Parts
from .validators import Validators

SAMPLE: Final = 4 << 10  # bytes asked for again where nothing else proves that the file is the same
RESTARTS: Final = 3


@dataclass(frozen=True, slots=True)
class PartRequest:
    """A claim, to be asked of `url`, with `sample` held bytes before it to compare."""

    claim: Part
    url: str
    sample: int = 0

    @property
    def range(self) -> ByteRange:
        return self.claim.range


@dataclass(frozen=True, slots=True)
class Supply:
    """What a reply supplies: `span` of the file, None if nothing. `restarts`: all that was held before is
    void."""

    span: ByteRange | None
    restarts: bool


def first_request(entry: Entry, size: int, landing: Landing | None = None) -> Request:
    """What a FileState of `entry` that holds nothing asks for first, about `size` bytes of it."""
    whole = entry.size is not None and entry.size <= size + size // 4
    span = None if whole else ByteRange(0, size)
    sure = entry.digest is not None
    return Request(entry.urls[0], span, None, entry.headers, False, entry.path, sure, entry.size, landing)


class FileState:
    """What is held of `entry`, what is being fetched, and what the server has shown so far."""

    def __init__(self, entry: Entry, record: Record | None = None, partial_size: int | None = None) -> None:
        self.entry = entry
        self.parts = Parts(entry.size)
        self.emptied = False  # all that was held is to be written anew; whoever writes clears this
        self._emptied = False  # all that was held is fetched anew, and no reply has said so yet
        self._plain = False  # ask without Range
        self.dropped: str | None = None  # the last mirror that was given up for wrong bytes
        source = next((url for url in entry.urls if record and entry.leads_to(url, record.source_key)), None)
        self.mirrors = Mirrors(entry.urls, spread=entry.digest is not None, first=source)
        self._sources: set[str] = set()  # links that bytes held came from
        self.trust = Validators(entry.path, digest=entry.digest is not None)
        self._ranged = False  # a range has been answered with one
        self._wholes = 0  # times that the whole file came in answer to a range
        self._restarts = {True: 0, False: 0}
        self.must_restart = False  # its only source was given up: nothing held may be built upon
        self._ends: list[int] = []
        if record is not None and partial_size is not None:
            self._resume(record, partial_size)

    def _resume(self, record: Record, partial_size: int) -> None:
        known = self.entry.leads_to(self.mirrors.first, record.source_key)
        contradicts = None not in (self.length, record.length) and self.length != record.length
        if record.published or contradicts or not (known or self.entry.digest):
            return
        # the ledger is trusted as far as the disk
        self.parts.held = record.held & RangeSet.upto(partial_size)
        self.parts.length = self.length if self.length is not None else record.length
        self._sources.add(self.mirrors.first if known else record.source_key)
        if known:
            self.trust.resume(self.mirrors.first, record.validator)
        self.trust.unproven = bool(self.held) and not self.trust.proven(self.mirrors.first)

    # what to ask next

    @property
    def complete(self) -> bool:
        """Whether every byte is held."""
        return self.parts.complete

    @property
    def length(self) -> int | None:
        return self.parts.length

    @property
    def held(self) -> RangeSet:
        return self.parts.held

    def part(self, link: str, size: int, now: float = 0.0) -> PartRequest | None:
        """Part the first missing bytes, about `size` of them, to be asked of `link`; None where all is
        claimed or held."""
        if self.trust.unproven and self.parts.busy:
            return None  # one at a time, until a sample has proved what is held
        # parts that were under way when the doubt arose have ended by now: is there anything to prove?
        self.trust.unproven = self.trust.unproven and bool(self.held)
        # bytes from another time prove themselves by a sample, which has to lie before a gap
        beside = bool(self.held) and not self.trust.proven(link)
        return self._part(link, self.parts.next(size, now, beside=beside))

    def hedge(self, link: str, now: float, after: float, pace: float | None = None) -> PartRequest | None:
        """Part the bytes of the slowest part once more; None where none is slow, see `Parts.hedge`."""
        if self.trust.unproven or len(self.mirrors) > 1:
            return None  # two mirrors may differ: only one may bring what a part lacks
        return self._part(link, self.parts.hedge(now, after, pace))

    def _part(self, link: str, claim: Part | None) -> PartRequest | None:
        if claim is None:
            return None
        sample = 0 if self.trust.proven(link) else min(SAMPLE, self.held.before(claim.range.start))
        return PartRequest(claim, link, sample)

    def release(self, part: PartRequest) -> None:
        """Give back a claim; what was not written of it is missing again."""
        self.parts.release(part.claim)

    def request(self, part: PartRequest) -> Request:
        """The request for `part`: a file that fits in it is asked for whole, without a range."""
        minted = self.mirrors.borrowed(part.url)
        url = minted or part.url
        whole = self._asks_whole(part)
        return Request(
            url=url,
            range=None if whole else ByteRange(part.range.start - part.sample, part.range.stop),
            if_range=self.trust.if_range(part.url),
            headers=self.entry.headers if self.mirrors.at_home(part.url) else (),
            borrowed=minted is not None,
            name=self.entry.path,
            sure=self.entry.digest is not None,
            size=self.entry.size,
        )

    def _asks_whole(self, part: PartRequest) -> bool:
        all_of_it = self._plain or self.parts.single or part.range.stop == self.length
        return part.range.start == 0 and all_of_it

    # what the answers say

    def agree(self, part: PartRequest, reply: Reply) -> Supply:
        """Return what `reply` supplies of the file. Raises TransferError if it is not of the file begun."""
        span = self._agreed(part, reply)
        restarts, self._emptied = self._emptied, False
        return Supply(span, restarts)

    def _agreed(self, part: PartRequest, reply: Reply) -> ByteRange | None:
        found = reply.representation
        if reply.borrowed:
            home = self.mirrors.at_home(part.url) and reply.headers_sent
            self.mirrors.minted(part.url, found.url, at_home=home)
        if reply.range is None:
            return self._whole(part, reply)
        self._ranged = True
        self._check_length(found)
        self.trust.check(part.url, reply, sampled=part.sample > 0)
        self._begin(part, found)
        if reply.range.stop <= part.range.start:
            raise NetworkError(f"{self.entry.path}: the answer ended before the bytes asked for")
        return ByteRange(part.range.start, min(reply.range.stop, part.range.stop))

    def _begin(self, part: PartRequest, found: Representation) -> None:
        self.parts.probed = True
        if found.length is not None:
            self.parts.length = found.length
        self.trust.begin(part.url, found)
        self._sources.add(part.url)

    def _check_length(self, found: Representation) -> None:
        if found.length is None or self.length is None or found.length == self.length:
            return
        if self.entry.size is not None:
            raise NotThePayloadError(
                f"{self.entry.path}: the server offers {found.length} bytes, the manifest states "
                f"{self.entry.size}; check the manifest, or the page behind the link"
            )
        raise self.trust.contradicted(f"the server now holds {found.length} bytes, before {self.length}")

    def _whole(self, part: PartRequest, reply: Reply) -> ByteRange | None:
        """Status 200: the body is the file from its first byte, whatever was asked."""
        found = reply.representation
        self._check_length(found)
        if not self.parts.alone:
            self.parts.single = True  # alone next time: other parts are being written
            raise NetworkError(f"{self.entry.path}: the whole file came in answer to a range")
        if part.range.start > 0:
            self.trust.check(part.url, reply, sampled=part.sample > 0)
            self._wholes += 1
            if self._wholes == 1:
                # not at once all that is held is given up for what may be one edge server's whim
                self.trust.asks_if_range = False
                raise NetworkError(f"{self.entry.path}: the whole file came in answer to a range")
        self._empty()
        self.parts.single = True
        self._begin(part, found)
        if found.length == 0:
            return None
        # the manifest's size is a cap: a body without a length may be longer, or never end
        length = found.length if found.length is not None else self.entry.size
        if length == 0:
            return None
        return ByteRange(0, OPEN_END if length is None else length)

    def _empty(self) -> None:
        self._emptied = True
        self.parts.empty()
        self._sources.clear()
        self.trust.forget()
        self.emptied = True

    def alike(self, equal: bool) -> None:
        """The overlap sample of a part was compared with the bytes held."""
        self.trust.alike(equal)

    def wrote(self, span: ByteRange) -> None:
        """`span` is in the partial."""
        self.parts.held |= span

    def unwrote(self, span: ByteRange) -> None:
        """What a reply brought to `span` is not to be believed after all."""
        self.parts.held -= span

    def expect(self, span: ByteRange | None, *, framed: bool) -> None:
        """The body of `span` is over: was it all of it? Raises NetworkError where not."""
        if span is None:
            return
        if span.stop != OPEN_END:
            lacking = self.parts.lacks(span)
            if lacking:
                raise NetworkError(f"{self.entry.path}: the answer ended {lacking} bytes early")
            return
        end = self.held.frontier
        self._ends.append(end)
        # where a body just stops, only a second one that stops there too tells an end from a cut
        if framed or self.entry.digest or self._ends.count(end) > 1:
            self.parts.length = end
        else:
            self._empty()
            raise NetworkError(f"{self.entry.path}: a body without a stated end is fetched twice to be sure")

    def unsatisfiable(self, part: PartRequest, error: RangeNotSatisfiableError) -> None:
        """416: the server has nothing there. The end of the file, or another file."""
        start = part.range.start
        at_end = self.length is None and start == self.held.frontier
        if at_end and error.length == start:
            self.parts.length, self.parts.probed = start, True
            return
        if at_end and error.length is None and start > 0 and self._ranged:
            # nothing tells a length: only a second such answer tells the end from a whim
            self._ends.append(start)
            if self._ends.count(start) > 1:
                self.parts.length, self.parts.probed = start, True
                return
            raise error
        if not self._plain and (start == 0 or self.length is None):
            self._plain = self.parts.single = True
            self._empty()
            raise error
        if error.length is not None and error.length != self.length:
            raise self.trust.contradicted(f"the server now holds only {error.length} bytes")
        raise error

    def forsake(self, link: str) -> bool:
        """Give up one mirror; return whether there is another.

        Without a digest nothing proves that two mirrors hold the same bytes. The file then begins again at
        byte 0, see `must_restart`.
        """
        another = self.mirrors.forsake(link)
        self.must_restart = another and self.entry.digest is None
        return another

    def restart(self, error: FetchError) -> bool:
        """Begin at the first byte; False where that has been tried enough."""
        if self.must_restart:
            # another mirror, which is no failure of the file's; what that server can do is not known yet
            self.must_restart = self.parts.single = self._plain = self._ranged = False
            self._wholes = 0
            self._ends.clear()
            self._drop()
            return True
        wrong_bytes = isinstance(error, IntegrityError)
        self._restarts[wrong_bytes] += 1
        # wrong bytes: once more, or once from each mirror alone, for it may be a mix of theirs
        most = max(1, len(self.entry.urls)) if wrong_bytes else RESTARTS
        if error.remedy is not Remedy.RESTART or self._restarts[wrong_bytes] > most:
            return False
        self._drop()
        if wrong_bytes:
            self.dropped = self.mirrors.distrust() or self.dropped
        else:
            # parts of one stream agree by nature, also where every edge server has its own ETag
            self.parts.single = True
        return True

    def _drop(self) -> None:
        """Hold nothing, and know nothing of the server."""
        self.parts.empty()
        self.parts.length, self.parts.probed = self.entry.size, False
        self._sources.clear()
        self.trust.forget()

    # the end

    def check(self, digests: dict[str, str]) -> None:
        """Raise unless every byte is held and the digest is the manifest's."""
        if not self.complete:
            raise TransferError(f"{self.entry.path}: bytes are missing at the end", remedy=Remedy.RESTART)
        if self.entry.size is not None and self.entry.size != self.length:
            raise IntegrityError(
                f"{self.entry.path}: {self.length} bytes came, the manifest states {self.entry.size}"
            )
        wanted = self.entry.digest
        if wanted is not None and (found := digests.get(wanted.algorithm)) != wanted.hex:
            raise IntegrityError(
                f"{self.entry.path}: all {self.length} bytes are here, but their {wanted.algorithm} is "
                f"{found}, the manifest states {wanted.hex}"
            )

    def record(
        self,
        held: RangeSet,
        digests: dict[str, str] | None = None,
        checksums: tuple[int, ...] = (),
        published: Published | None = None,
    ) -> Record:
        """What the ledger should keep, with no more than `held` claimed."""
        key = self.entry.source_key(self.mirrors.first)
        validator = self.trust.validator(self.mirrors.first)
        if published is None and len(self._sources | {self.mirrors.first}) > 1 and held:
            key = ""  # of several sources: only a digest can tell that these bytes belong together
        return Record(self.entry.path, key, self.length, validator, held, digests or {}, checksums, published)
