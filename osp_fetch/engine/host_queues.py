"""Host queues: the jobs that wait for a host. A job that waits holds no slot, no place and no task."""

from __future__ import annotations

import heapq
import pickle
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from typing import Final

from ..connections.pool import CONNECTING
from ..model import events, urls
from ..model.dataclasses import dataclass
from ..model.errors import (
    FetchError,
    HostDownError,
    HostPausedError,
    NotUpdatedError,
    Remedy,
    Unreachable,
    UnreachableError,
    unreachable,
)
from ..model.protocols import Spill
from ..model.settings import Retry
from .context import FINISHING
from .file import Job
from .outage import Outage, Stage

# Jobs that wait in memory, about 1 KB each. Further jobs of hosts that are down are spilled to disk.
_IN_MEMORY: Final = 10_000
# Jobs of a single host that are read ahead.
_READ_AHEAD: Final = 500
# Jobs that are read from the disk at once.
_PAGE: Final = 100
# Jobs in progress whose hosts have not answered yet, divided among these hosts. Each host gets one at least.
_CONTACTED: Final = 64
# Connections without an answer after which a file is taken for the reason of an outage.
_SUSPECT: Final = 2
# Hosts of which it is remembered that they have answered, at about 100 bytes each.
_HEARD_KEPT: Final = 100_000


@dataclass(slots=True, eq=False)
class _Queue:
    """The jobs of one host: those in progress, and those that wait."""

    host: str
    out: int = 0
    began: float = 0.0  # time at which the first of those in progress was started
    heard: bool = False  # a job of the host has ended with an answer
    jobs: deque[Job] = field(default_factory=deque)
    spilled: int = 0
    busy: int = 0  # those of `jobs` that were queued while the host was neither down nor paused
    outage: Outage | None = None
    outages: int = 0  # outages so far
    probe: int | None = None  # order of the job that probes the host
    probed_by: int | None = None  # order of the last one
    listed_in: deque[_Queue] | None = None  # the list of queues that may have a job to start, if it is in one

    @property
    def has_jobs(self) -> bool:
        """Whether a job waits."""
        return bool(self.jobs) or self.spilled > 0


class HostQueues:
    """Decides which job may start, and keeps the others in a queue for each host.

    Args:
        settings: Waiting times.
        spill: Keeps jobs on disk where too many wait; None to keep all in memory.
        observe: Receives HostDown events. The connection pool, which sees the first answer, sends HostBack.
        clock: Returns the time in seconds.
        pause: Returns the seconds of a pause for which a host asked, 0 for none or a short one.
        most: Returns how many connections a host may have.
    """

    def __init__(
        self,
        settings: Retry,
        spill: Spill | None,
        observe: events.Observer,
        clock: Callable[[], float],
        pause: Callable[[str], float],
        most: Callable[[str], int],
    ) -> None:
        self._settings, self._spill, self._observe = settings, spill, observe
        self._clock, self._pause, self._most = clock, pause, most
        self._queues: dict[str, _Queue] = {}
        self._heard: dict[str, None] = {}  # hosts that have answered
        self._listed: deque[_Queue] = deque()
        self._probed: deque[_Queue] = deque()  # the same of hosts that are down
        self._timers: list[tuple[float, str]] = []  # a heap of times at which a host has to be looked at
        self._set_back: dict[str, None] = {}
        self._over: dict[_Queue, None] = {}  # queues whose jobs fail
        self._count = self._in_memory = 0  # jobs that wait, and those of them that are not spilled
        self._busy = 0  # jobs in memory that were queued for hosts that were neither down nor paused
        self._new = 0  # hosts with jobs in progress that have not answered yet
        self._used = 0  # hosts with jobs in progress
        self._unheard = 0  # jobs in progress whose hosts have not answered yet
        self._given_up: dict[Unreachable, Counter[str]] = defaultdict(Counter)  # files that have failed

    @property
    def is_full(self) -> bool:
        """Whether no further row should be read, because enough jobs wait.

        Where all are of one host, further rows most likely are, too.
        """
        return self._busy >= (_IN_MEMORY if len(self._queues) > 1 else _READ_AHEAD)

    @property
    def is_busy(self) -> bool:
        """Whether a job waits for a host that is neither down nor paused."""
        return self._busy > 0

    def __bool__(self) -> bool:
        """Return whether any job waits."""
        return self._count > 0

    # ---- jobs come and go

    def connecting(self) -> int:
        """Return the number of jobs in progress that only connect, and do not count."""
        return min(self._unheard, CONNECTING)

    def admit(self, job: Job) -> bool:
        """Return whether `job` may start now. If not, it is queued, and `ready` or `probe` returns it later.

        A job for which something is on disk starts at once: its file may need no host. One with several
        mirrors starts although its first host does not answer.
        """
        queue = self._queue(job.host)
        is_local = job.record is not None or job.seen is not None
        has_others = len(job.entry.urls) > 1 and (queue.outage is not None or self._is_paused(queue))
        if is_local or has_others or (not queue.has_jobs and self._may_start(queue)):
            self._start(queue, job)
            return True
        self._push(queue, job)
        return False

    def ended(self, job: Job, *, answered: bool) -> None:
        """Record that a job has ended.

        Args:
            job: The job.
            answered: Whether its host has answered.
        """
        queue = self._queues[job.host]
        self._leave(queue, job)
        if answered:
            if not queue.heard:
                self._remember(job.host)
                self._new -= queue.out > 0
                self._unheard -= queue.out
                queue.heard = True
            if queue.outage is not None:
                self._end_outage(queue)
        self._look_again(queue)

    def put_back(self, job: Job, error: HostDownError | HostPausedError) -> None:
        """Queue a job that has ended because its host is down or asked for a pause.

        Args:
            job: The job.
            error: Why it has ended.
        """
        before = self._queues[job.host]
        self._leave(before, job)
        if error.host != job.host:  # it has several mirrors
            self._look_again(before)
            job = replace(job, host=error.host)
        queue = self._queue(job.host)
        if isinstance(error, HostDownError):
            error.heard = error.heard or job.host in self._heard  # by another worker
            self._failed(queue, job, error)
            tries = job.tries if job.outage == queue.outages else 0
            job = replace(job, tries=tries + error.tried, outage=queue.outages)
            # one that was tried goes to the end: it may itself be the reason that the host does not answer
            self._push(queue, job, first=not error.tried)
        else:
            self._end_outage(queue)  # the host has asked for the pause
            self._push(queue, job, first=True)
        self._list(queue)

    def again(self, host: str, error: FetchError | None) -> None:
        """Ask a host again for a file that has failed with `error`, also if the host was given up."""
        if isinstance(error, UnreachableError) and self._given_up[error.why][host]:
            self._given_up[error.why][host] -= 1
        self.back(host)

    def back(self, host: str) -> None:
        """Record that a host which did not answer has answered."""
        if (queue := self._queues.get(host)) is not None:
            queue.probe = None
            self._end_outage(queue)
            self._list(queue)

    def _failed(self, queue: _Queue, job: Job, error: HostDownError) -> None:
        if queue.outage is None:
            queue.outages += 1
            queue.outage = Outage(self._settings, error, queue.began or self._clock(), self._clock())
            self._busy -= queue.busy
            queue.busy = 0
        elif queue.probed_by == job.order:
            queue.outage.failed(error, self._clock(), tried=self._are_tried(queue))
        else:
            return  # it was started before the outage was known
        queue.probed_by = None
        self._report(queue)

    def ready(self) -> Job | None:
        """Return a job that may start now and whose host is not down, None if there is none."""
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            _, host = heapq.heappop(self._timers)
            if host in self._queues:
                self._list(self._queues[host])
        return self._first(self._listed)

    def probe(self) -> Job | None:
        """Return a job that probes a host which is down, None if none is due."""
        return self._first(self._probed)

    def _first(self, listed: deque[_Queue]) -> Job | None:
        while listed:
            queue = listed[0]
            if queue.has_jobs and queue.listed_in is listed and self._may_start(queue):
                job = self._pop(queue)
                self._start(queue, job)
                return job
            listed.popleft()
            if queue.listed_in is listed:
                queue.listed_in = None
                self._tidy(queue)
        return None

    def due(self) -> float | None:
        """Return the seconds until `ready` may have a job although none has ended, None if it never has."""
        return max(0.0, self._timers[0][0] - self._clock()) if self._timers else None

    def failed(self) -> Iterator[tuple[Job, FetchError]]:
        """Yield the jobs whose hosts are given up, and the error of each."""
        while self._over:
            queue, _ = self._over.popitem()
            assert queue.outage is not None
            outage, count = queue.outage, self._given_up[queue.outage.error.why]
            while queue.has_jobs and queue.outage is outage:  # the host may answer meanwhile
                job = self._pop(queue)
                count[queue.host] += 1
                yield job, error_of(job, outage.error)
            self._look_again(queue)

    def give_last_chances(self) -> bool:
        """Probe the hosts that were set back: the run is at its end. Return whether there are any."""
        found, now = bool(self._set_back), self._clock()
        for host in self._set_back:
            queue = self._queues[host]
            if queue.outage is not None:
                queue.outage.revive(now)
                self._look_at(queue.outage.due, host)
        self._set_back.clear()
        return found

    def notes(self) -> list[str]:
        """Return a sentence for each kind of failure of the hosts that were given up."""
        return [_note(why, +count) for why, count in self._given_up.items() if +count]

    # ---- one queue

    def _queue(self, host: str) -> _Queue:
        if host not in self._queues:
            self._queues[host] = _Queue(host)
        return self._queues[host]

    def _may_start(self, queue: _Queue) -> bool:
        if (pause := self._pause(queue.host)) > 0:
            self._look_at(self._clock() + pause, queue.host)
            return False
        if queue.outage is not None:
            return self._may_probe(queue, queue.outage)
        if not queue.heard:
            return queue.out < max(1, _CONTACTED // (self._new + (queue.out == 0)))
        most = self._most(queue.host)
        # a host alone has twice as many files that are being finished, and leaves places to those after it
        finishing = FINISHING // self._used if self._used > 1 else 2 * FINISHING
        return queue.out < most + max(most, finishing)

    def _is_paused(self, queue: _Queue) -> bool:
        return self._pause(queue.host) > 0

    def _may_probe(self, queue: _Queue, outage: Outage) -> bool:
        if outage.stage not in (Stage.PROBED, Stage.LAST) or queue.probe is not None:
            return False
        return outage.due <= self._clock()

    def _start(self, queue: _Queue, job: Job) -> None:
        if not queue.out:
            self._used += 1
            self._new += not queue.heard
            queue.began = self._clock()
        queue.out += 1
        self._unheard += not queue.heard
        if queue.outage is not None and self._may_probe(queue, queue.outage):
            queue.probe = queue.probed_by = job.order

    def _leave(self, queue: _Queue, job: Job) -> None:
        queue.out -= 1
        self._unheard -= not queue.heard
        if not queue.out:
            self._used -= 1
            self._new -= not queue.heard
        if queue.probe == job.order:
            queue.probe = None

    def _push(self, queue: _Queue, job: Job, *, first: bool = False) -> None:
        self._count += 1
        is_down = queue.outage is not None
        waits = is_down or self._is_paused(queue)
        if waits and not first and self._in_memory >= _IN_MEMORY and self._spill is not None:
            self._spill.put(queue.host, pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
            queue.spilled += 1
        else:
            self._in_memory += 1
            queue.busy += not waits
            self._busy += not waits
            queue.jobs.insert(0 if first else len(queue.jobs), job)
        if queue.outage is not None and queue.outage.stage is Stage.OVER:
            self._over[queue] = None

    def _pop(self, queue: _Queue) -> Job:
        if not queue.jobs and self._spill is not None:
            queue.jobs.extend(pickle.loads(row) for row in self._spill.take(queue.host, _PAGE))
            queue.spilled -= len(queue.jobs)
            self._in_memory += len(queue.jobs)
        self._count -= 1
        self._in_memory -= 1
        if queue.busy:
            queue.busy -= 1
            self._busy -= 1
        return queue.jobs.popleft()

    def _report(self, queue: _Queue) -> None:
        """Report the outage, and make sure that it is looked at in time."""
        assert queue.outage is not None
        outage = queue.outage
        wait = outage.due - self._clock() if outage.stage in (Stage.PROBED, Stage.LAST) else None
        self._observe(events.HostDown(queue.host, wait, outage.error.reason, heard=outage.error.heard))
        if wait is not None:
            self._look_at(outage.due, queue.host)
        elif outage.stage is Stage.SET_BACK:
            self._set_back[queue.host] = None
        else:
            self._over[queue] = None

    def _end_outage(self, queue: _Queue) -> None:
        if queue.outage is None:
            return
        self._set_back.pop(queue.host, None)
        self._over.pop(queue, None)
        queue.outage = None

    def _remember(self, host: str) -> None:
        self._heard[host] = None
        if len(self._heard) > _HEARD_KEPT:
            del self._heard[next(iter(self._heard))]

    def _are_tried(self, queue: _Queue) -> bool:
        """Return whether two connections for each job that waits got no answer in this outage."""
        tries = (job.tries if job.outage == queue.outages else 0 for job in queue.jobs)
        return not queue.spilled and all(count >= _SUSPECT for count in tries)

    def _look_at(self, when: float, host: str) -> None:
        heapq.heappush(self._timers, (when, host))

    def _list(self, queue: _Queue) -> None:
        place = self._listed if queue.outage is None else self._probed
        if queue.listed_in is not place and queue.has_jobs:
            queue.listed_in = place
            place.append(queue)

    def _look_again(self, queue: _Queue) -> None:
        """List a queue whose jobs may start now, or remove it if it has none."""
        if queue.has_jobs:
            self._list(queue)
        else:
            self._tidy(queue)

    def _tidy(self, queue: _Queue) -> None:
        """Remove a queue that has no job, no outage and no place in a list."""
        if not (queue.out or queue.listed_in is not None or queue.outage or queue.has_jobs):
            self._queues.pop(queue.host, None)


def error_of(job: Job, error: HostDownError) -> FetchError:
    """Return the error of a file whose host is given up.

    Args:
        job: The job of the file.
        error: The error of the last attempt at the host.
    """
    made = unreachable(job.entry.path, error.host, error.why, error.reason)
    made.remedy = Remedy.FAIL
    return NotUpdatedError(made, job.entry.path) if job.update else made


_WHAT: Final = {
    Unreachable.NO_NAME: ("does not exist", "do not exist"),
    Unreachable.REFUSED: ("refuses connections", "refuse connections"),
    Unreachable.CERTIFICATE: ("has no valid certificate", "have no valid certificate"),
    Unreachable.DROPPED: ("closes connections without a reply", "close connections without a reply"),
    Unreachable.SILENT: ("does not answer", "do not answer"),
}


def _note(why: Unreachable, count: Counter[str]) -> str:
    """Return a sentence on the hosts that were given up for the reason `why`; `count` has their files."""
    files = count.total()
    hosts = f"{len(count):,} host{'s' * (len(count) != 1)} with {files:,} file{'s' * (files != 1)}"
    some = ", ".join(urls.name_of(host) for host, _ in count.most_common(3))
    return f"{hosts} {_WHAT[why][len(count) != 1]}: {some}{', …' if len(count) > 3 else ''}"
