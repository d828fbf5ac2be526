"""Which bytes of a file are held, which are being fetched, which to ask for next. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model.ranges import NOTHING, ByteRange, RangeSet

OPEN_END: Final = 1 << 62  # where a body of unknown length is taken to stop
HEDGE_HALVES: Final = 1 << 20  # bytes from which on a half is worth a request


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that one connection is to bring. `since`: on the clock of whoever claims, in seconds."""

    range: ByteRange
    since: float
    number: int


class Parts:
    """The bytes of one file: wanted − held − claimed is what is missing and free to be claimed.

    `probed`: a reply has told what the server can do; until then one claim goes alone. `single`: so
    it stays, for the server has no ranges, or none that agree.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.held: RangeSet = NOTHING
        self.probed = False
        self.single = False
        self._claims: list[Part] = []
        self._claimed: RangeSet = NOTHING
        # bytes that two claims bring, and which; the second one hedges the first
        self._doubled: list[tuple[ByteRange, set[int]]] = []
        self._number = 0

    @property
    def complete(self) -> bool:
        return self.length is not None and self.held.frontier >= self.length

    @property
    def more(self) -> bool:
        """Whether another part could be claimed now."""
        return self._gap() is not None

    @property
    def missing(self) -> int:
        """How many bytes are not held; 0 while the length is unknown."""
        return self.lacks(ByteRange(0, self.length)) if self.length else 0

    @property
    def free(self) -> int | None:
        """How many bytes are neither held nor claimed; None while the length is unknown."""
        if self.length is None or not (self.held or self._claimed):
            return self.length
        return len(RangeSet.upto(self.length) - self.held - self._claimed)

    @property
    def settled(self) -> int:
        """How many bytes from the first on are held, and nobody writes there any more: of what was asked
        for twice only what lies on the disk in the end counts."""
        return min([self.held.frontier, *(span.start for span, _ in self._doubled)])

    @property
    def busy(self) -> bool:
        """Whether parts are under way that could be hedged."""
        return self.probed and not self.single and self.length is not None and bool(self._claims)

    @property
    def alone(self) -> bool:
        """Whether no more than one part is under way."""
        return len(self._claims) <= 1

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
        """Part the first missing bytes, about `size` of them; None where all is claimed or held.

        `beside`: where nothing is claimed yet, rather those that have held bytes before them.
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
        """The gap after the first held bytes; their last one is given up where there is none."""
        first = self.held.ranges[0]
        if first.stop == self.length:
            self.held -= ByteRange(first.stop - 1, first.stop)
        gaps = (RangeSet.upto(self.length or 0) - self.held).ranges
        return next((gap for gap in gaps if self.held.before(gap.start)), None) or self._gap()

    def hedge(self, now: float, after: float, pace: float | None = None) -> Part | None:
        """Part again what the slowest part still lacks: all of it, or where it is much so much of its end
        that both are ready at the same time, and no more than takes `after` seconds, for others may have
        the rest. A part that is younger than that, or needs less, is left alone. `pace`: bytes per second of
        a connection, as far as known.

        For the end of a run, when connections are idle: whichever brings the bytes first wins, and
        the other stops where they are held.
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

    def _wait(self, claim: Part, now: float, after: float) -> tuple[float, Part, ByteRange] | None:
        """How long `claim` will still take with what nobody else brings, and the last such bytes; None where
        it may go on."""
        age = now - claim.since
        if age < after:
            return None
        lacking = RangeSet((claim.range,)) - self.held
        came = len(claim.range) - len(lacking)
        live = {each.number for each in self._claims}
        for span, numbers in self._doubled:
            if min(numbers) == claim.number and numbers <= live:
                lacking -= span
        expected = len(lacking) * age / max(1, came)
        return (expected, claim, lacking.ranges[-1]) if lacking and expected >= after else None

    def _claim(self, span: ByteRange, now: float) -> Part:
        self._number += 1
        claim = Part(span, now, self._number)
        self._claims.append(claim)
        self._claimed |= span
        return claim

    def release(self, claim: Part) -> None:
        """Give back a claim; what was not written of it is missing again."""
        self._claims = [each for each in self._claims if each.number != claim.number]
        self._claimed = RangeSet.of(each.range for each in self._claims)
        if self._doubled:
            live = {each.number for each in self._claims}
            self._doubled = [double for double in self._doubled if double[1] & live]

    def lacks(self, span: ByteRange) -> int:
        """How many bytes of `span` are not held."""
        return len(span) if not self.held else len(RangeSet((span,)) - self.held)

    def empty(self) -> None:
        """Hold nothing any more."""
        self.held = NOTHING
