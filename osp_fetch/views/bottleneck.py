"""Bottleneck: what limits a run, in one sentence, from measured facts. Without I/O and without a clock."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Final, Literal

from ..connections.limit import REFUSED
from ..model.dataclasses import dataclass
from ..model.events import Waited
from . import formatting

Cause = Literal[
    "rate limit", "processor", "disk", "finishing", "refused connections", "host", "host per connection",
    "connections", "few files", "refusals", "pause", "no answer",
]  # fmt: skip

LIMITS: Final[dict[Cause, str]] = {
    "rate limit": "the rate limit",
    "processor": "the processor",
    "disk": "the disk",
    "finishing": "hashing, writing and syncing of complete files",
    "refused connections": "the number of connections that a host allows",
    "host": "a host, or the network to it",
    "host per connection": "the rate of a host on each connection",
    "connections": "the number of connections",
    "few files": "too few files at the end",
    "refusals": "servers that refuse connections",
    "pause": "pauses that servers asked for",
    "no answer": "servers that do not answer",
}
"""What limits a run, by cause."""

# Seconds over which waits are averaged, and the least that have to be known.
WINDOW, _LEAST = 5.0, 1.5
# Seconds of the steps in which waits are added up.
_STEP: Final = 0.25
# Seconds after which the last report is too old.
_OLD: Final = 3.0
# Share of connections, and of time, from which something is what a run waits for.
_MOST: Final = 0.5
# Share of the allowed connections from which they are all in use. A connection is open for less than all of
# the time between two files.
_USED: Final = 0.8
# Refused requests within some seconds that are no accident.
_REFUSALS: Final = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a run at one time.

    Attributes:
        waited: What connections and files waited for over the last seconds; None if that is not known.
        goodput: Bytes per second over about the same time.
        host: The name of the host with most connections, empty if there is none.
        hosts: Number of hosts with connections.
        limit: Largest number of connections to `host`, as measurements found it; None if they found none.
        top: The number of connections above which `host` gives no more, and the reason; None if not known.
        is_settled: Whether the limit of `host` was not changed within the last seconds.
        files_left: Files that have not ended; None while the list is being read.
        refusals: Requests that servers refused within the last seconds because there were too many.
        pause: The host that asked for a pause, and the seconds that are left; None if there is none.
        down: A host that does not answer, empty if there is none.
        is_bucket: Whether the destination is a bucket.
    """

    waited: Waited | None
    goodput: float = 0.0
    host: str = ""
    hosts: int = 0
    limit: int | None = None
    top: tuple[int, str] | None = None
    is_settled: bool = True
    files_left: int | None = None
    refusals: int = 0
    pause: tuple[str, float] | None = None
    down: str = ""
    is_bucket: bool = False


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What limits a run.

    Attributes:
        cause: Its kind.
        text: A sentence about it, without a full stop.
    """

    cause: Cause
    text: str


def bottleneck(facts: Facts) -> Bottleneck | None:
    """Return what limits a run, None if the facts do not show it."""
    waited = facts.waited
    if waited is None:
        return None
    return _of_machine(facts, waited) or _of_waiting(facts, waited) or _of_hosts(facts, waited)


def _of_machine(facts: Facts, waited: Waited) -> Bottleneck | None:
    """Return a limit that is on this machine."""
    is_transferring = waited.open >= _MOST
    if is_transferring and waited.rate and waited.delayed >= _MOST * waited.open:
        return Bottleneck("rate limit", f"limited by --limit-rate: {formatting.size(waited.rate)}/s")
    if waited.busy == "loop":
        return Bottleneck("processor", "limited by the processor: one core, that of the event loop, is busy")
    if waited.busy:
        return Bottleneck("processor", "limited by the processor: all cores are busy")
    if is_transferring and waited.writing >= _MOST * waited.open:
        share = f"connections spend {100 * waited.writing / waited.open:.0f} % of their time waiting for"
        if facts.is_bucket:
            return Bottleneck("disk", f"limited by the upload to the bucket: {share} it")
        return Bottleneck("disk", f"limited by the disk: {share} writes")
    return _of_finishing(facts, waited)


def _of_finishing(facts: Facts, waited: Waited) -> Bottleneck | None:
    """Return that complete files are waited for, while few connections are open."""
    finishing = waited.hashing + waited.publishing
    if finishing < _MOST or finishing < waited.open or waited.open >= _MOST * (facts.limit or waited.most):
        return None
    files = formatting.count(max(1, round(finishing)), "complete file")
    if waited.hashing > waited.publishing:
        verb = "is" if round(finishing) <= 1 else "are"
        return Bottleneck("processor", f"limited by the processor: {files} {verb} being hashed")
    wait = "waits" if round(finishing) <= 1 else "wait"
    where = "uploaded" if facts.is_bucket else "hashed, written and synced"
    return Bottleneck("finishing", f"limited by this machine: {files} {wait} to be {where}")


def _of_waiting(facts: Facts, waited: Waited) -> Bottleneck | None:
    """Return a host that is waited for while nothing else goes on."""
    if waited.open >= _MOST:
        return None
    if facts.pause is not None:
        host, seconds = facts.pause
        left = formatting.duration(seconds)
        return Bottleneck("pause", f"waiting for {host}, which asked for a pause: {left} left")
    if facts.down:
        return Bottleneck("no answer", f"waiting for {facts.down}, which does not answer")
    return None


def _of_hosts(facts: Facts, waited: Waited) -> Bottleneck | None:
    """Return a limit of the hosts, of the network to them, or of the number of connections."""
    if not facts.host or waited.open < _MOST:
        return None
    each = f"{formatting.size(facts.goodput / waited.open)}/s"
    if facts.top is None and facts.refusals >= _REFUSALS:
        times = f"{facts.refusals:,} requests refused within {WINDOW:.0f} s"
        return Bottleneck("refusals", f"limited by servers that refuse connections: {times}")
    if facts.hosts > 1:
        return _of_many(facts, waited)
    limit = facts.limit or waited.most
    if waited.open < _USED * limit:
        return _of_last_files(facts, waited, limit)
    if facts.top is not None:
        number, why = facts.top
        connections = formatting.count(number, "connection")
        if why == REFUSED:
            said = f"it refuses more than {connections}, and gives {each} on each"
            return Bottleneck("refused connections", f"limited by {facts.host}: {said}")
        said = f"more than {connections} bring no more bytes"
        return Bottleneck("host", f"limited by {facts.host}, or the network to it: {said}")
    if not facts.is_settled or limit < waited.most:
        return None  # the limit is still being searched
    used = formatting.count(waited.most, "connection")
    said = f"{each} on each of {used}, and no more are allowed (-j, -x)"
    return Bottleneck("host per connection", f"limited by {facts.host}: {said}")


def _of_many(facts: Facts, waited: Waited) -> Bottleneck | None:
    if waited.open >= _USED * waited.total:
        said = f"all {waited.total} are in use, to {facts.hosts} hosts"
        return Bottleneck("connections", f"limited by the number of connections: {said}")
    return None


def _of_last_files(facts: Facts, waited: Waited, limit: int) -> Bottleneck | None:
    """Return that too few files are left for all connections."""
    if not facts.is_settled or not facts.files_left or facts.files_left > waited.open + 1:
        return None
    which = "the last file does" if facts.files_left == 1 else f"the last {facts.files_left} files do"
    return Bottleneck(
        "few files", f"{which} not use more than {math.ceil(waited.open)} of {limit} connections"
    )


def shares(seconds: Mapping[str, float], whole: float) -> list[str]:
    """Return what limited a run for how much of its time, most first, such as `the disk 62 %`.

    Args:
        seconds: Cause → seconds for which it limited the run.
        whole: Seconds that the run lasted. Causes of less than 5 % of them are left out.
    """
    if whole <= 0:
        return []
    found = sorted(seconds.items(), key=lambda item: -item[1])
    labels: Mapping[str, str] = {str(cause): text for cause, text in LIMITS.items()}
    return [f"{labels.get(c, c)} {100 * taken / whole:.0f} %" for c, taken in found if taken >= 0.05 * whole]


class WaitWindow:
    """The means of `Waited` events over the last seconds, added up over all processes of a run.

    Each process sends an event every second. They are added up in steps, so that a mean takes the same time
    for one process and for a thousand.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()

    def add(self, now: float, event: Waited, received: int) -> None:
        """Add an event.

        Args:
            now: Seconds of a monotonic clock.
            event: The event.
            received: Bytes received so far.
        """
        if not self._steps or now - self._steps[-1].first >= _STEP:
            self._steps.append(_Step(now, received, now - event.seconds))
        self._steps[-1].add(now, event, received)
        while now - self._steps[0].last > WINDOW:
            self._steps.popleft()

    def mean(self, now: float) -> tuple[Waited | None, float]:
        """Return the means, and bytes per second; (None, 0) if too little is known or it is too old."""
        steps = self._steps
        if not steps or now - steps[-1].last > _OLD:
            return None, 0.0
        first, last = steps[0].first, steps[-1].last
        span = last - min(each.begin for each in steps)
        if span < _LEAST or last <= first:
            return None, 0.0
        sums = [sum(each) / span for each in zip(*(step.sums for step in steps), strict=True)]
        found = Waited(
            span, sums[0], sums[1], sums[2], sums[3], sums[4],
            most=max(each.most for each in steps), total=max(each.total for each in steps),
            rate=max(each.rate for each in steps),
            busy=_usual(each.own for each in steps) or _usual(each.workers for each in steps),
        )  # fmt: skip
        return found, (steps[-1].received - steps[0].before) / (last - first)


@dataclass(slots=True)
class _Step:
    """The events of a short time, added up.

    Attributes:
        first: When the first of them came.
        before: Bytes that had been received then.
        begin: When the earliest of their intervals began.
        last: When the last of them came.
        received: Bytes that had been received then.
        sums: Seconds for which connections were open, delayed and writing, and files hashing and publishing.
        most: Largest number of connections to one host that is allowed.
        total: The same, to all hosts.
        rate: The rate limit in bytes per second.
        own: How often the process of the run stated what was busy, by what it was.
        workers: The same, of the other processes.
    """

    first: float
    before: int
    begin: float
    last: float = 0.0
    received: int = 0
    sums: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    most: int = 0
    total: int = 0
    rate: int = 0
    own: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)

    def add(self, now: float, event: Waited, received: int) -> None:
        """Add an event."""
        self.last, self.received = now, received
        self.begin = min(self.begin, now - event.seconds)
        waits = event.open, event.delayed, event.writing, event.hashing, event.publishing
        self.sums = tuple(a + b * event.seconds for a, b in zip(self.sums, waits, strict=True))
        self.most, self.total = max(self.most, event.most), max(self.total, event.total)
        (self.own if event.total else self.workers)[event.busy] += 1
        if event.total:
            self.rate = max(self.rate, event.rate)


def _usual(busy: Iterable[Counter[str]]) -> str:
    """Return what was busy at most of the times, empty if nothing was."""
    said = sum(busy, Counter[str]())
    idle = said.pop("", 0)
    often = said.total()
    return max(said, key=lambda each: said[each]) if said and often >= _MOST * (often + idle) else ""
