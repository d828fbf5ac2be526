"""The state of one file and every decision about it. Awaits nothing and opens nothing.

Resuming is subtraction: missing = wanted − held. A first run, a retry after a cut and a run next
week are one code path; what differs is only how much is held, and what proves that it may be
built upon. The ladder of proofs: a digest in the manifest > an equal strong ETag > an equal
Last-Modified > the same source key, an equal length and an overlap sample that compares equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model import links
from ..model.entry import Entry
from ..model.errors import (
    ChangedError,
    FetchError,
    IntegrityError,
    NetworkError,
    NotThePayload,
    RangeNotSatisfiable,
    Remedy,
    TransferError,
)
from ..model.exchange import Representation, Request, Validator
from ..model.protocols import Reply
from ..model.ranges import NOTHING, ByteRange, RangeSet
from ..model.record import Published, Record

SAMPLE: Final = 16 << 10  # bytes asked for again where nothing else proves that the file is the same
OPEN_END: Final = 1 << 62  # where a body of unknown length is taken to stop
RESTARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A claim on `range`, to be asked of `url`, with `sample` held bytes before it to compare."""

    range: ByteRange
    url: str
    sample: int = 0


class Download:
    """What is held of `entry`, what is being fetched, and what the server has shown so far."""

    def __init__(self, entry: Entry, record: Record | None = None, partial_size: int | None = None) -> None:
        self.entry = entry
        self.length: int | None = entry.size
        self.held: RangeSet = NOTHING
        self.begun = False
        self.emptied = False  # all that was held is to be written anew; whoever writes clears this
        self._single = False  # one stream from a single reply: no ranges, or none that agree
        self._plain = False  # ask without Range
        self._claimed: RangeSet = NOTHING
        self._urls = list(entry.urls)
        self._turn = 0
        self._minted: dict[str, str | None] = {}  # link → what it redirected to; None when spent
        self._validators: dict[str, Validator] = {}
        self._alike: set[str] = set()  # source keys whose bytes compared equal to the held ones
        self._if_range = True
        self._restarts = 0
        self._ends: list[int] = []
        if record is not None and partial_size is not None:
            self._resume(record, partial_size)

    def _resume(self, record: Record, partial_size: int) -> None:
        known = any(links.source_key(url) == record.source_key for url in self._urls)
        contradicts = None not in (self.length, record.length) and self.length != record.length
        if contradicts or not (known or self.entry.digest):
            return
        self.held = record.held & RangeSet.upto(partial_size)  # the ledger is trusted as far as the disk
        self.length = self.length if self.length is not None else record.length
        self._validators[record.source_key] = record.validator

    # what to ask next

    @property
    def complete(self) -> bool:
        return self.length is not None and not RangeSet.upto(self.length) - self.held

    @property
    def more(self) -> bool:
        """Whether another part could be claimed now."""
        return self._gap() is not None

    def _gap(self) -> ByteRange | None:
        if self._claimed and (self._single or not self.begun or self.length is None):
            return None
        if self.length is None:
            return ByteRange(self.held.frontier, OPEN_END)
        gaps = RangeSet.upto(self.length) - self.held - self._claimed
        return gaps.ranges[0] if gaps else None

    @property
    def url(self) -> str:
        """The link that the next part will be asked of; a redirect of it that still holds, first."""
        return self._minted.get(self._link()) or self._link()

    def _link(self) -> str:
        # only a digest proves that mirrors hold the same bytes: without one, one at a time
        spread = self.entry.digest is not None and self._restarts == 0
        return self._urls[self._turn % len(self._urls) if spread else 0]

    @property
    def unminted(self) -> bool:
        """Whether the next request asks anew for a redirect, which one connection should do for all."""
        return self._link() in self._minted and not self._minted[self._link()]

    def part(self, size: int) -> Part | None:
        """Claim the first missing bytes, about `size` of them; None where all is claimed or held."""
        gap = self._gap()
        if gap is None:
            return None
        # a remainder of less than a quarter part is not worth a request of its own
        whole = self._single or (len_or_open(gap) <= size + size // 4)
        span = gap if whole else ByteRange(gap.start, gap.start + size)
        link = self._link()
        self._turn += 1
        part = Part(span, link, 0 if self._proven(link) else min(SAMPLE, self.held.before(span.start)))
        self._claimed |= span
        return part

    def release(self, part: Part) -> None:
        """Give back a claim; what was not written of it is missing again."""
        self._claimed -= part.range

    def request(self, part: Part) -> Request:
        """The request for `part`: a file that fits in it is asked for whole, without a range."""
        minted = self._minted.get(part.url)
        url = minted or part.url
        own = links.origin(url) == links.origin(part.url)
        return Request(
            url=url,
            range=None
            if self._asks_whole(part)
            else ByteRange(part.range.start - part.sample, part.range.stop),
            if_range=self._if_range_for(part),
            headers=self.entry.headers if own else (),
            borrowed=minted is not None,
            name=self.entry.path,
            sure=self.entry.digest is not None,
        )

    def _asks_whole(self, part: Part) -> bool:
        if part.range.start > 0:
            return False
        return self._plain or self._single or part.range.stop == self.length

    def _if_range_for(self, part: Part) -> str | None:
        wanted = self._if_range and self.held and not self.entry.digest
        return self._validator(part.url).strong if wanted else None

    def _validator(self, link: str) -> Validator:
        return self._validators.get(links.source_key(link), Validator())

    def _proven(self, link: str) -> bool:
        """Whether something better than a sample tells that `link` still means the bytes held."""
        key = links.source_key(link)
        return self.entry.digest is not None or bool(self._validators.get(key)) or key in self._alike

    # what the answers say

    def agree(self, part: Part, reply: Reply) -> ByteRange | None:
        """The bytes that `reply` brings, None where it brings none; raises where it is not our file."""
        found = reply.representation
        if reply.borrowed:
            self._minted[part.url] = found.url
        if reply.range is None:
            return self._whole(part, reply)
        self._check_length(found)
        self._check_validator(part, found)
        self._begin(part, found)
        if reply.range.stop <= part.range.start:
            raise NetworkError(f"{self.entry.path}: the answer ended before the bytes asked for")
        return ByteRange(part.range.start, min(reply.range.stop, part.range.stop))

    def _begin(self, part: Part, found: Representation) -> None:
        self.begun = True
        if found.length is not None:
            self.length = found.length
        self._validators.setdefault(links.source_key(part.url), found.validator)

    def _check_length(self, found: Representation) -> None:
        if found.length is None or self.length is None or found.length == self.length:
            return
        if self.entry.size is not None:
            raise NotThePayload(
                f"{self.entry.path}: the server offers {found.length} bytes, the manifest states "
                f"{self.entry.size}; check the manifest, or the page behind the link"
            )
        raise ChangedError(
            f"{self.entry.path}: the server now holds {found.length} bytes, before it was {self.length}"
        )

    def _check_validator(self, part: Part, found: Representation) -> None:
        known, seen = self._validator(part.url), found.validator
        if self.entry.digest is not None or not known or not seen:
            return
        if known.strong and seen.strong:
            same = known.strong == seen.strong
        else:
            same = not (known.last_modified and seen.last_modified) or (
                known.last_modified == seen.last_modified
            )
        if not same:
            raise ChangedError(f"{self.entry.path}: the file changed on the server while it was fetched")

    def _whole(self, part: Part, reply: Reply) -> ByteRange | None:
        """Status 200: the body is the file from its first byte, whatever was asked."""
        found = reply.representation
        self._check_length(found)
        if self._claimed - part.range:
            self._single = True  # alone next time: other parts are being written
            raise NetworkError(f"{self.entry.path}: the whole file came in answer to a range")
        if part.range.start > 0:
            self._check_validator(part, found)
            if self._if_range_for(part):
                self._if_range = False
                raise NetworkError(f"{self.entry.path}: the whole file came though nothing had changed")
        self._empty()
        self._single = True
        self._begin(part, found)
        if found.length == 0:
            return None
        return ByteRange(0, OPEN_END if found.length is None else found.length)

    def _empty(self) -> None:
        self.held, self.emptied = NOTHING, True

    def alike(self, part: Part, equal: bool) -> None:
        """The overlap sample of `part` was compared with the bytes held."""
        if not equal:
            raise ChangedError(f"{self.entry.path}: the server's bytes differ from those held already")
        self._alike.add(links.source_key(part.url))

    def wrote(self, span: ByteRange) -> None:
        """`span` is in the partial."""
        self.held |= span

    def expect(self, span: ByteRange | None, *, framed: bool) -> None:
        """The body of `span` is over: was it all of it? Raises NetworkError where not."""
        if span is None:
            return
        if span.stop != OPEN_END:
            lacking = len(RangeSet((span,)) - self.held)
            if lacking:
                raise NetworkError(f"{self.entry.path}: the answer ended {lacking} bytes early")
            return
        end = self.held.frontier
        self._ends.append(end)
        # where a body just stops, only a second one that stops there too tells an end from a cut
        if framed or self.entry.digest or self._ends.count(end) > 1:
            self.length = end
        else:
            self._empty()
            raise NetworkError(f"{self.entry.path}: a body without a stated end is fetched twice to be sure")

    def unsatisfiable(self, part: Part, error: RangeNotSatisfiable) -> None:
        """416: the server has nothing there. The end of the file, or another file."""
        start = part.range.start
        at_end = self.length is None and start == self.held.frontier
        if at_end and (error.length == start or (error.length is None and start > 0)):
            self.length, self.begun = start, True
            return
        if start == 0 and not self._plain:
            self._plain = True
            raise error
        if error.length is not None and error.length != self.length:
            raise ChangedError(f"{self.entry.path}: the server now holds only {error.length} bytes")
        raise error

    def spent(self, part: Part, request: Request) -> None:
        """The redirect that `request` used is refused; the next request asks for a new one."""
        if self._minted.get(part.url) == request.url:
            self._minted[part.url] = None

    def forsake(self, link: str) -> bool:
        """Give up one mirror; whether there is another."""
        if len(self._urls) < 2 or link not in self._urls:
            return len(self._urls) > 1
        self._urls.remove(link)
        if self.entry.digest is None:
            self._single = False
            self._plain = False
        return True

    def restart(self, error: FetchError) -> bool:
        """Begin at the first byte; False where that has been tried enough."""
        wrong_bytes = isinstance(error, IntegrityError)
        self._restarts += 1
        if error.remedy is not Remedy.RESTART or self._restarts > (
            max(1, len(self._urls) - 1) if wrong_bytes else RESTARTS
        ):
            return False
        self.held, self.length, self.begun = NOTHING, self.entry.size, False
        self._validators.clear()
        self._alike.clear()
        if wrong_bytes:
            self._urls.append(self._urls.pop(0))
        else:
            # parts of one stream agree by nature, also where every edge server has its own ETag
            self._single = True
        return True

    # the end

    def check(self, digests: dict[str, str]) -> None:
        """Raise unless every byte is held and the digest is the manifest's."""
        if not self.complete:
            raise TransferError(f"{self.entry.path}: bytes are missing at the end", remedy=Remedy.RESTART)
        wanted = self.entry.digest
        if wanted is not None and digests.get(wanted.algorithm) != wanted.hex:
            raise IntegrityError(
                f"{self.entry.path}: all {self.length} bytes are here, but their {wanted.algorithm} is "
                f"{digests.get(wanted.algorithm)}, the manifest states {wanted.hex}; nothing was kept"
            )

    def record(
        self,
        held: RangeSet,
        digests: dict[str, str] | None = None,
        checksums: tuple[int, ...] = (),
        published: Published | None = None,
    ) -> Record:
        """What the ledger should keep, with no more than `held` claimed."""
        key = links.source_key(self._urls[0])
        validator = self._validators.get(key, Validator())
        return Record(self.entry.path, key, self.length, validator, held, digests or {}, checksums, published)


def len_or_open(span: ByteRange) -> int:
    """`len` refuses numbers past sys.maxsize; open ends stay below it, but say so here."""
    return span.stop - span.start
