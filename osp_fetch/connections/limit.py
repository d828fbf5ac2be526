"""How many connections one host should have, found by what they bring. No I/O and no clock.

Climb while it pays, go back when it does not, take what a refusal leaves, let go at once on a collapse,
hold, and try again later. Nothing of a host is known beforehand: some shape by connection, some refuse
above a number, some collapse above one.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

START: Final = 8
_RECOVERED: Final = 0.9
_PAYS: Final = 1.05  # what a step must gain
_DOUBLING_PAYS: Final = 1.3  # and what a doubling must, so that another one follows
_BRISK: Final = 4  # times as many, in place of twice
_COLLAPSE: Final = 0.5  # of the best, below which a level does harm
_HOLD: Final = 15.0  # seconds until another level is tried; doubles each time
_LONGEST_HOLD: Final = 300.0
_REFUSED_HOLD: Final = 5.0  # a refusal costs a request, no more: tried again sooner
_BAD_SECONDS: Final = 5.0  # at the best level, that tell of another world
_COLLAPSED_HOLD: Final = 60.0  # a collapse costs seconds of everything


class _Phase(Enum):
    RAMP = "ramp"  # doubling
    CLIMB = "climb"  # by a quarter
    HOLD = "hold"


class ConcurrencyLimit:
    """The number of connections to one host. `most`: never more; `start`: where to begin; `known`: that
    is what served best last time, and is held before another is tried."""

    def __init__(self, most: int, start: int = START, *, known: bool = False) -> None:
        self.value = min(start, most)
        self.shed = False  # connections above the level do harm: they should be let go
        self._most = self._ceiling = most
        self._best, self._best_rate = self.value, 0.0
        self._phase = _Phase.HOLD if known else _Phase.RAMP
        self._step = 0
        self._hold, self._hold_until = _HOLD, 0.0
        self._bad_since = math.inf

    @property
    def ramping(self) -> bool:
        """Whether it is still doubling: then differences are large, and a short look shows them."""
        return self._phase is _Phase.RAMP

    def sample(self, now: float, rate: float, *, full: bool, brisk: bool = False) -> str | None:
        """A window is over, in which `rate` bytes per second came. `full`: as many connections as
        allowed were busy; `brisk`: each with several files. Why the level changed, None where it did not."""
        if not full:
            return None
        self.shed = False
        factor = _BRISK if brisk else 2
        if self._phase is _Phase.HOLD:
            return self._held(now, rate)
        if self.value == self._best and self._best_rate:
            # back from what was too much: go on from there by smaller steps, once it is as good as it was
            self._bad_since = min(self._bad_since, now)
            if rate < self._best_rate * _RECOVERED and now - self._bad_since < _BAD_SECONDS:
                return None
            self._bad_since = math.inf
            self._best_rate += 0.3 * (rate - self._best_rate)
            return self._up(now, "between", factor)
        if rate >= self._best_rate * _PAYS:
            if self._phase is _Phase.RAMP and rate < self._best_rate * _DOUBLING_PAYS:
                # something else is the limit by now, and that a little more came may be chance
                self._phase, self._step = _Phase.CLIMB, max(1, self.value // 4)
            self._best, self._best_rate = self.value, rate
            return self._up(now, "it pays", factor)
        collapsed = rate < self._best_rate * _COLLAPSE
        self.shed = collapsed
        overshot = self._phase is _Phase.RAMP
        if collapsed:
            self._ceiling = self.value - 1
            self._hold = self._hold if overshot else max(self._hold, _COLLAPSED_HOLD)
        if overshot and self._best < self.value - 1:
            # what doubling overshot may lie between
            self._phase, self._step = _Phase.CLIMB, max(1, self._best // 4)
        else:
            self._begin_hold(now)
        return self._move(self._best, "collapsed above" if collapsed else "more does not pay")

    def _up(self, now: float, why: str, factor: int) -> str | None:
        target = self.value * factor if self._phase is _Phase.RAMP else self.value + self._step
        if min(target, self._ceiling) > self.value:
            return self._move(min(target, self._ceiling), why)
        self._begin_hold(now)
        return None

    def _held(self, now: float, rate: float) -> str | None:
        self._best_rate = self._best_rate or rate
        if not self._hold_until:
            self._begin_hold(now)
        if rate < self._best_rate * _COLLAPSE:
            self._bad_since = min(self._bad_since, now)
            if now - self._bad_since >= _BAD_SECONDS:
                # not this level's doing alone: the host, or the way to it, has changed
                self._bad_since, self._best_rate, self._phase = math.inf, 0.0, _Phase.CLIMB
                self._best = max(1, self.value // 2)
                self._step = max(1, self._best // 4)
                return self._move(self._best, "the host has slowed down")
            return None
        self._bad_since = math.inf
        self._best_rate += 0.3 * (rate - self._best_rate)
        if now < self._hold_until or self.value >= self._most:
            return None
        self._hold = min(self._hold * 2, _LONGEST_HOLD)
        self._ceiling = self._most
        self._phase, self._step = _Phase.CLIMB, max(1, self.value // 8)
        return self._move(min(self.value + self._step, self._most), "tried again")

    def refused(self, now: float, others: int, *, streaming: bool) -> str | None:
        """The host turned a connection away, beside `others` that are open; `streaming`: and some of them
        bring bytes."""
        self.shed = False
        target = max(1, others if streaming else self.value // 2)
        self._phase, self._hold_until = _Phase.HOLD, now + _REFUSED_HOLD
        if target >= self.value:
            return None
        self._ceiling = self._best = target
        self._best_rate = 0.0
        return self._move(target, "refused above")

    def _begin_hold(self, now: float) -> None:
        self._phase, self._hold_until = _Phase.HOLD, now + self._hold
        self._bad_since = math.inf

    def _move(self, target: int, why: str) -> str | None:
        if target == self.value:
            return None
        self.value = target
        return why
