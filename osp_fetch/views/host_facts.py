"""The facts about waits and hosts from which `bottleneck` concludes: an observer, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from ..connections.limit import COLLAPSED, NO_GAIN, REFUSED
from ..model import events, urls
from .bottleneck import WINDOW, Bottleneck, Facts, WaitWindow, bottleneck

T = TypeVar("T")

# Seconds after a change of a host's limit until its connections show what it gives.
_SETTLED: Final = 3.0
# Seconds between two conclusions about what limits a run, somewhat less than between two reports.
_APART: Final = 0.9
# Seconds for which the number of connections above which a host gives no more is believed.
_BELIEVED: Final = 120.0
# Hosts that are remembered; of more, the oldest are forgotten.
_HOSTS: Final = 1000
# Causes of retries by which a server says that there are too many requests.
_CROWDED: Final = frozenset({"status 429", "status 503"})


class HostFacts:
    """What limits a run now, and what has limited it for how long. An observer of its events.

    Args:
        clock: Clock in seconds.

    Attributes:
        seconds: Cause of a bottleneck → seconds for which it limited the run.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = WaitWindow()
        self._tops: dict[str, tuple[int, str, float]] = {}  # host → connections, reason, time
        self._moved: dict[str, float] = {}  # host → time of the last change of its limit
        self._pauses: dict[str, float] = {}  # host → when its pause is over
        self._down: dict[str, None] = {}
        self._refused: deque[float] = deque(maxlen=_HOSTS)
        self.seconds: dict[str, float] = {}
        self._counted = clock()
        self._host = ""  # that was asked for last

    def __call__(self, event: events.Event) -> None:
        """Add one event."""
        match event:
            case events.LimitChanged(host, connections, why):
                self._limit(host, connections, why)
            case events.Cooling(host, seconds):
                _put(self._pauses, host, self._clock() + seconds)
            case events.HostDown(host, seconds) if event.heard and seconds is not None:
                _put(self._down, host, None)
            case events.HostDown(host) | events.HostBack(host):
                self._down.pop(host, None)  # it is not probed any more: its files fail, or wait for the end
            case events.Retrying(_, cause) if cause in _CROWDED:
                self._refused.append(self._clock())

    def waited(self, event: events.Waited, received: int) -> None:
        """Add what connections have waited for; `received` is the number of bytes so far."""
        self._window.add(self._clock(), event, received)

    @property
    def is_due(self) -> bool:
        """Whether `count` was last called so long ago that it should be called again."""
        return self._clock() - self._counted >= _APART

    def count(self, found: Bottleneck | None) -> None:
        """Count the time since the last call for a bottleneck."""
        before, self._counted = self._counted, self._clock()
        if found is not None:
            self.seconds[found.cause] = self.seconds.get(found.cause, 0.0) + self._counted - before

    def _limit(self, host: str, connections: int, why: str) -> None:
        now = self._clock()
        _put(self._moved, host, now)
        if why in (REFUSED, NO_GAIN, COLLAPSED):
            _put(self._tops, host, (connections, why, now))
        elif host in self._tops and connections > self._tops[host][0] * 5 // 4 + 1:
            del self._tops[host]  # it has served more since

    def find(self, facts: Facts, host: str) -> Bottleneck | None:
        """Return what limits the run now.

        Args:
            facts: What else is known; what this object knows is added to it.
            host: `host:port` of the host with most connections, empty if there is none.
        """
        now = self._clock()
        waited, goodput = self._window.mean(now)
        host = self._host = host or self._host  # between two files there may be none
        number, why, since = self._tops.get(host, (0, "", 0.0))
        pauses = [(until - now, name) for name, until in self._pauses.items() if until > now]
        left, paused = min(pauses, default=(0.0, ""))  # the wait is over when the first pause is
        return bottleneck(
            Facts(
                waited, goodput, urls.name_of(host), max(1, facts.hosts), facts.limit,
                top=(number, why) if why and now - since < _BELIEVED else None,
                is_settled=now - self._moved.get(host, -_SETTLED) >= _SETTLED,
                files_left=facts.files_left,
                refusals=sum(now - each < WINDOW for each in self._refused),
                pause=(urls.name_of(paused), left) if paused else None,
                down=urls.name_of(next(iter(self._down), "")),
                is_bucket=facts.is_bucket,
            )
        )  # fmt: skip


def _put(table: dict[str, T], host: str, value: T) -> None:
    """Set the value of a host, and forget the oldest host if there are too many."""
    table.pop(host, None)
    table[host] = value
    if len(table) > _HOSTS:
        del table[next(iter(table))]
