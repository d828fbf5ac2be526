"""The bytes of a file: which are held, which are being fetched, and which to fetch next. No I/O."""

from __future__ import annotations

from typing import Final

from ..model.dataclasses import dataclass
from ..model.ranges import NOTHING, ByteRange, RangeSet

OPEN_END: Final = 1 << 62  # bytes: the assumed end of a body of unknown length
HEDGE_HALVES: Final = 1 << 20  # bytes: a hedge takes over part of a range only if halves are this large


@dataclass(frozen=True, slots=True)
class Part:
    """A byte range that one request fetches.

    Args:
        range: The byte range of the file.
        since: When the part was assigned, in seconds on the clock of the caller.
        number: Distinguishes parts with equal ranges.
    """

    range: ByteRange
    since: float
    number: int


@dataclass(frozen=True, slots=True)
class PartRequest:
    """A part and the link to request it from.

    Args:
        claim: The part.
        url: The link of the manifest.
        sample: Number of bytes before the part that are requested too, for comparison.
        tail: The same behind the part.
    """

    claim: Part
    url: str
    sample: int = 0
    tail: int = 0

    @property
    def range(self) -> ByteRange:
        """The byte range of the part, without the sample."""
        return self.claim.range

    def can_compare(self, held: RangeSet) -> bool:
        """Return whether the bytes before the part that it is compared with are `held`."""
        return 0 < self.sample <= held.before(self.range.start)


class Parts:
    """The held ranges and the assigned parts of one file.

    Bytes that are neither held nor assigned are free for the next part.

    Attributes:
        length: Size of the file in bytes, None while unknown.
        held: Bytes that are safe in the partial.
        probed: Whether a reply has shown what the server supports. Until then only one part is assigned.
        single: Whether only one part at a time is assigned, because the server does not support ranges or
            its replies to ranges do not agree.

    Args:
        length: Size of the file in bytes, None if unknown.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.held: RangeSet = NOTHING
        self.probed = False
        self.single = False
        self._claims: list[Part] = []
        self._claimed: RangeSet = NOTHING
        # ranges that two parts fetch, with the numbers of both parts; the second one hedges the first
        self._doubled: list[tuple[ByteRange, set[int]]] = []
        self._writing: dict[int, int] = {}  # number of a part → end of its bytes that no hedge may take
        self._lent: set[int] = set()  # numbers of the parts that other nodes fetch
        self._number = 0

    @property
    def complete(self) -> bool:
        """Whether every byte is held."""
        return self.length is not None and self.held.frontier >= self.length

    @property
    def more(self) -> bool:
        """Whether another part can be assigned now."""
        return self._gap() is not None

    @property
    def missing(self) -> int:
        """Number of bytes that are not held; 0 while the length is unknown."""
        return self.missing_in(ByteRange(0, self.length)) if self.length else 0

    @property
    def free(self) -> int | None:
        """Number of bytes that are neither held nor assigned; None while the length is unknown."""
        if self.length is None or not (self.held or self._claimed):
            return self.length
        return len(RangeSet.upto(self.length) - self.held - self._claimed)

    @property
    def settled(self) -> int:
        """Number of bytes from the start of the file that are held and are not written again.

        A range that two parts fetch is not settled: the slower one may still overwrite it.
        """
        return min([self.held.frontier, *(span.start for span, _ in self._doubled)])

    @property
    def busy(self) -> bool:
        """Whether parts are being fetched here that can be hedged."""
        return self._is_divided and len(self._claims) > len(self._lent)

    @property
    def pending(self) -> bool:
        """Whether parts are being fetched, here or by other nodes, whose bytes may become free again."""
        return self._is_divided and bool(self._claims)

    @property
    def _is_divided(self) -> bool:
        return self.probed and not self.single and self.length is not None

    @property
    def alone(self) -> bool:
        """Whether at most one part is being fetched here."""
        return len(self._claims) - len(self._lent) <= 1

    def _gap(self) -> ByteRange | None:
        if self._claimed and (self.single or not self.probed or self.length is None):
            return None
        if self.length is None:
            return ByteRange(self.held.frontier, OPEN_END)
        if not self.held and not self._claimed and self.length:
            return ByteRange(0, self.length)
        if self.complete:
            return None
        gaps = RangeSet.upto(self.length) - self.held - self._claimed
        return gaps.ranges[0] if gaps else None

    def next(self, size: int, now: float, *, beside: bool = False) -> Part | None:
        """Assign the first missing bytes as a part.

        Args:
            size: Wanted size of the part in bytes. A remainder below a quarter of it is added.
            now: Current time in seconds on the clock of the caller.
            beside: If no part is assigned yet, prefer missing bytes that follow held bytes, so that an
                overlap sample can be compared.

        Returns:
            The part; None if all bytes are held or assigned.
        """
        gap = self._gap()
        if beside and gap is not None and not self._claims and not self.held.before(gap.start):
            gap = self._gap_beside()
        if gap is None:
            return None
        # a remainder of less than a quarter part is not worth a request of its own
        whole = self.single or gap.stop - gap.start <= size + size // 4
        return self._claim(gap if whole else ByteRange(gap.start, gap.start + size), now)

    def _gap_beside(self) -> ByteRange | None:
        """Return a gap that follows held bytes. If there is none, give up the last held byte to make one."""
        first = self.held.ranges[0]
        if first.stop == self.length:
            self.held -= ByteRange(first.stop - 1, first.stop)
        gaps = (RangeSet.upto(self.length or 0) - self.held).ranges
        return next((gap for gap in gaps if self.held.before(gap.start)), None) or self._gap()

    def hedge(self, now: float, after: float, pace: float | None = None) -> Part | None:
        """Assign the missing bytes of the slowest part a second time.

        Hedges are for the end of a run, when connections are idle. Both parts write the same bytes, and each
        stops when its bytes are held. A short remainder is fetched again completely. Of a long one the end is
        taken, sized so that both parts finish at the same time, and at most what a connection fetches in
        `after` seconds, so that further hedges can share the rest.

        Args:
            now: Current time in seconds on the clock of the caller.
            after: Seconds. A part that is younger, or that needs less time to finish, is not hedged.
            pace: Throughput of one connection in bytes per second, None if not yet measured.

        Returns:
            The second part; None if no part is slow.
        """
        waits = [wait for claim in self._claims if (wait := self._wait(claim, now, after)) is not None]
        if self.single or not waits:
            return None
        left, slowest, span = max(waits, key=lambda wait: wait[0])
        if len(span) >= 2 * HEDGE_HALVES:
            own = len(span) / left
            start = span.start + int(len(span) * own / (own + max(own, pace or 0.0)))
            most = max(int(pace * after), HEDGE_HALVES) if pace else span.stop
            span = ByteRange(max(start, span.stop - most), span.stop)
        twin = self._claim(span, now)
        self._doubled.append((span, {slowest.number, twin.number}))
        return twin

    def lend(self, size: int, now: float) -> Part | None:
        """Assign the last missing bytes as a part that another node fetches. It is not hedged.

        Args:
            size: Largest size of the part in bytes.
            now: Current time in seconds on the clock of the caller.

        Returns:
            The part; None if no bytes are free, or parts cannot be fetched at the same time.
        """
        gaps = RangeSet.upto(self.length or 0) - self.held - self._claimed
        if not self._is_divided or not gaps:
            return None
        last = gaps.ranges[-1]
        part = self._claim(ByteRange(max(last.start, last.stop - size), last.stop), now)
        self._lent.add(part.number)
        return part

    def begin_write(self, part: Part, stop: int) -> bool:
        """Exclude the bytes of `part` before `stop` from later hedges, because they are being written.

        Args:
            part: A part that `next` or `hedge` returned.
            stop: Offset in the file.

        Returns:
            Whether these bytes are not written again: no other part fetches any byte of `part`.
        """
        self._writing[part.number] = stop
        return not any(part.number in numbers for _, numbers in self._doubled)

    def _wait(self, claim: Part, now: float, after: float) -> tuple[float, Part, ByteRange] | None:
        """Return the seconds that `claim` still needs, the part, and its last range that no hedge fetches.

        None if the part is too young or nearly finished.
        """
        age = now - claim.since
        if age < after or claim.number in self._lent:
            return None
        start = max(claim.range.start, self._writing.get(claim.number, 0))
        if start >= claim.range.stop:
            return None
        missing = RangeSet((ByteRange(start, claim.range.stop),)) - self.held
        came = len(claim.range) - len(missing)
        live = {each.number for each in self._claims}
        for span, numbers in self._doubled:
            if min(numbers) == claim.number and numbers <= live:
                missing -= span
        expected = len(missing) * age / max(1, came)
        return (expected, claim, missing.ranges[-1]) if missing and expected >= after else None

    def _claim(self, span: ByteRange, now: float) -> Part:
        self._number += 1
        claim = Part(span, now, self._number)
        self._claims.append(claim)
        self._claimed |= span
        return claim

    def release(self, claim: Part) -> None:
        """End a part. Its bytes that are not held are missing again.

        Args:
            claim: A part that `next`, `hedge` or `lend` returned.
        """
        self._claims = [each for each in self._claims if each.number != claim.number]
        self._claimed = RangeSet.of(each.range for each in self._claims)
        self._writing.pop(claim.number, None)
        self._lent.discard(claim.number)
        if self._doubled:
            live = {each.number for each in self._claims}
            self._doubled = [double for double in self._doubled if double[1] & live]

    def missing_in(self, span: ByteRange) -> int:
        """Return the number of bytes of `span` that are not held."""
        return len(span) if not self.held else len(RangeSet((span,)) - self.held)

    def empty(self) -> None:
        """Mark every byte as not held."""
        self.held = NOTHING
