"""Construction of the worker pool from the settings of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from ..concurrency import cores
from ..connections.hosts import limits_of
from ..engine.context import Context
from ..model import events
from ..model.profile import Profile
from ..model.settings import HostLimits
from ..model.timetable import Timetable
from ..model.well_known import WELL_KNOWN
from ..storage.destination import Destination
from .budget import Budget
from .limits import part_of
from .messages import Setup
from .peer import say
from .pool import WorkerPool
from .reach import Reach

# `limits.processes = "auto"`: the cores for each process, and the most processes. With two cores, two of them
# took 1.35 times as long for 10,000 small files: one alone uses the second core for its helper process.
_CORES: Final = 4
_MOST: Final = 4


def worker_pool(
    context: Context, place: Destination, state: Path, reach: Reach, profiles: dict[str, Profile], lock: int
) -> WorkerPool | None:
    """Return the worker pool of a run, where its settings ask for several processes.

    Args:
        context: The engine's context in the process of the run.
        place: The destination.
        state: The folder of the run's state.
        reach: How the workers reach servers.
        profiles: `host:port` → what an earlier run learned of the host.
        lock: The descriptor of the run's lock.

    Returns:
        The pool, not yet entered; None where the run fetches in its own process.
    """
    limits = context.settings.limits
    count = max(1, min(_MOST, cores() // _CORES)) if limits.processes == "auto" else limits.processes
    pool, steers = context.pool, limits.connections == "auto"
    count = min(count, pool.per_host)  # each worker starts with at least one connection
    if count == 1:
        return None
    own = context.settings.hosts
    budget = Budget(
        count, pool.total, pool.per_host, _guarded(context.observe), profiles, steers=steers,
        own=lambda host: limits_of(host, limits, own).connections,
    )  # fmt: skip
    share = replace(
        limits,
        memory=limits.buffer_memory // count,
        rate=Timetable.of(limits.rate).divided(count),
        requests_per_second=limits.requests_per_second / count,
        # a fixed number of connections holds over all hosts: each worker keeps to its part of it, whatever
        # the budget assigns for one host
        connections=pool.total if steers else pool.total // count,
    )
    setups = []
    for worker in range(count):
        # with limits of its own, a host has those of all hosts only where it states none
        hosts = {
            name: _part(limits_of(f"{name}:", limits, own), worker, count) for name in {*WELL_KNOWN, *own}
        }
        settings = replace(context.settings, limits=share, hosts=hosts)
        setups.append(Setup(place, state, settings, reach, profiles, budget.first_share, steers))
    return WorkerPool(setups, context, budget, lock)


def _part(limits: HostLimits, worker: int, count: int) -> HostLimits:
    """Return what one of `count` workers may use of a host until the budget assigns another share."""
    most = limits.connections
    part = most if most == "auto" else part_of(most, worker, count)
    return HostLimits(part, limits.requests_per_second / count)


def _guarded(observe: events.Observer) -> events.Observer:
    """Return `observe`, with its exceptions reported instead of raised, so that the workers go on."""

    def guarded(event: events.Event) -> None:
        try:
            observe(event)
        except Exception as error:
            say(error, "an observer failed")

    return guarded
