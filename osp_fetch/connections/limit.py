"""Concurrency limit: finds how many connections serve one host best, from its goodput. No I/O and no clock.

The limit grows while more connections increase goodput, and returns to the best value when they do not.
After a refusal it drops to the number of connections that the host still serves. When goodput collapses,
the connections above the best value are closed at once. The limit then holds, and later probes upwards
again. Nothing is assumed about a host: some hosts limit the rate of each connection, some refuse
connections above a number, and some collapse above a number.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

from .processor import Load

# Reasons for a change of the limit that say what a host does not serve.
REFUSED: Final = "refused above"
NO_GAIN: Final = "goodput has not increased"
COLLAPSED: Final = "goodput collapsed above"
# Connections of a host that nothing is known about.
START: Final = 8
# Fraction of the best goodput that must return after stepping down, before the next, smaller step up.
_RECOVERED: Final = 0.9
# Factor by which goodput must grow for a step to count as a gain.
_PAYS: Final = 1.05
# The same factor for a step from START or fewer while little processor time is left, because connections cost
# processor time.
_LOADED_PAYS: Final = 1.2
# Factor by which goodput must grow for one doubling to be followed by another.
_DOUBLING_PAYS: Final = 1.3
# Factor that replaces doubling while every connection completes several files per window.
_BRISK: Final = 4
# Fraction of the best goodput below which the current limit is harmful.
_COLLAPSE: Final = 0.5
# Seconds until the limit probes upwards again. Each probe doubles it.
_HOLD: Final = 15.0
# Upper bound of the hold, in seconds.
_LONGEST_HOLD: Final = 300.0
# Seconds to hold after a refusal. It is short because a refusal costs only one request.
_REFUSED_HOLD: Final = 5.0
# Seconds of collapsed goodput at the best limit after which the host or the network path has changed.
_BAD_SECONDS: Final = 5.0
# Seconds to hold after a collapse. It is long because a collapse stalls all transfers for seconds.
_COLLAPSED_HOLD: Final = 60.0


class _Phase(Enum):
    """What the limit does after the next window."""

    RAMP = "ramp"  # double
    CLIMB = "climb"  # grow by about a quarter
    HOLD = "hold"  # keep the value


class ConcurrencyLimit:
    """The concurrency limit of one host.

    Args:
        most: Upper bound of the limit.
        start: Initial value.
        known: Whether `start` is the best value of an earlier run. It is then held before others are tried.

    Attributes:
        value: Connections that the host may have now.
        shed: Whether connections above `value` reduce goodput and should be closed at once.
    """

    def __init__(self, most: int, start: int = START, *, known: bool = False) -> None:
        self.value = min(start, most)
        self.shed = False
        self._most = self._ceiling = most
        self._best, self._best_rate = self.value, 0.0
        self._phase = _Phase.HOLD if known else _Phase.RAMP
        self._step = 0
        self._hold, self._hold_until = _HOLD, 0.0
        self._bad_since = math.inf

    @property
    def ramping(self) -> bool:
        """Whether the limit still doubles. Differences are large then, and a short window shows them."""
        return self._phase is _Phase.RAMP

    def resize(self, most: int, *, follows: bool) -> None:
        """Change the upper bound.

        Args:
            most: The new one.
            follows: Whether the limit is the bound itself, because no controller moves it.
        """
        if most == self._most:
            return
        if follows:
            self.value = most
        elif most > self._most:
            # the smaller bound has hidden what the host can serve
            self.value = max(self.value, min(START, most))
            self._phase, self._best_rate = _Phase.RAMP, 0.0
        else:
            self.value = min(self.value, most)
        self._most = self._ceiling = most
        self._best = min(self._best, self.value)

    def is_clear(self, rate: float, load: Load) -> bool:
        """Return whether a short window is enough to judge a doubling.

        Args:
            rate: Goodput of the window in bytes per second.
            load: The processor load.
        """
        return not self._is_strict(load) or rate >= self._best_rate * _DOUBLING_PAYS

    def _is_strict(self, load: Load) -> bool:
        """Return whether a step has to bring much.

        Only the first steps have to. Later, connections have proved to be worth their processor time, and
        other programs may be what loads the processor.
        """
        return load is not Load.LOW and self._best <= START

    def sample(
        self,
        now: float,
        rate: float,
        *,
        full: bool,
        brisk: bool = False,
        load: Load = Load.LOW,
    ) -> str | None:
        """Adjust the limit after one measuring window.

        Args:
            now: Current time in seconds.
            rate: Goodput of the window in bytes per second.
            full: Whether all allowed connections were in use. If not, the window is ignored.
            brisk: Whether each connection completed several files in the window.
            load: The processor load. While it is full, only a step from START or fewer is judged.

        Returns:
            The reason if the limit changed, else None.
        """
        is_strict = self._is_strict(load)
        if not full or (load is Load.FULL and not (is_strict and self.value > self._best)):
            return None
        self.shed = False
        factor = _BRISK if brisk else 2
        if self._phase is _Phase.HOLD:
            return self._held(now, rate)
        if not self._best_rate and is_strict:
            # connections that have just begun are slower, so another window is the measure for the first step
            self._best_rate = rate
            return None
        if self.value == self._best and self._best_rate:
            return self._recovering(now, rate, factor)
        if rate >= self._best_rate * (_LOADED_PAYS if is_strict else _PAYS):
            self._gained(rate)
            return None if load is Load.FULL else self._up(now, "goodput has increased", factor)
        return self._down(now, rate)

    def _recovering(self, now: float, rate: float, factor: int) -> str | None:
        """Wait after a step down to the best value until goodput has recovered, then try smaller steps."""
        self._bad_since = min(self._bad_since, now)
        if rate < self._best_rate * _RECOVERED and now - self._bad_since < _BAD_SECONDS:
            return None
        self._bad_since = math.inf
        self._best_rate = max(rate, self._best_rate + 0.3 * (rate - self._best_rate))
        return self._up(now, "between", factor)

    def _gained(self, rate: float) -> None:
        """Keep the present value as the best one."""
        if self._phase is _Phase.RAMP and rate < self._best_rate * _DOUBLING_PAYS:
            # a gain below 30 % may be noise: something other than the connection count is the bottleneck
            self._phase, self._step = _Phase.CLIMB, max(1, self.value // 4)
        self._best, self._best_rate = self.value, rate

    def _down(self, now: float, rate: float) -> str | None:
        """Return to the best value after a step that has brought no gain."""
        collapsed = rate < self._best_rate * _COLLAPSE
        self.shed = collapsed
        overshot = self._phase is _Phase.RAMP
        if collapsed:
            self._ceiling = self.value - 1
            self._hold = self._hold if overshot else max(self._hold, _COLLAPSED_HOLD)
        if overshot and self._best < self.value - 1:
            # doubling overshot: the best value may lie in between
            self._phase, self._step = _Phase.CLIMB, max(1, self._best // 4)
        else:
            self._begin_hold(now)
        return self._move(self._best, COLLAPSED if collapsed else NO_GAIN)

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
                # the limit alone cannot explain this: the host or the network path has changed
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
        return self._move(min(self.value + self._step, self._most), "trying more connections again")

    def refused(self, now: float, others: int, *, streaming: bool) -> str | None:
        """Lower the limit after the host refused a connection, and hold it.

        Args:
            now: Current time in seconds.
            others: Other connections that are open to the host. They become the limit if `streaming`.
            streaming: Whether any of them is transferring a body. If not, the limit is halved.

        Returns:
            The reason if the limit changed, else None.
        """
        self.shed = False
        target = max(1, others if streaming else self.value // 2)
        self._phase, self._hold_until = _Phase.HOLD, now + _REFUSED_HOLD
        if target >= self.value:
            return None
        self._ceiling = self._best = target
        self._best_rate = 0.0
        return self._move(target, REFUSED)

    def _begin_hold(self, now: float) -> None:
        self._phase, self._hold_until = _Phase.HOLD, now + self._hold
        self._bad_since = math.inf

    def _move(self, target: int, why: str) -> str | None:
        if target == self.value:
            return None
        self.value = target
        return why
