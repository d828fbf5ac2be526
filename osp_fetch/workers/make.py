"""What settings mean for the workers of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..engine.context import Context
from ..model import events
from ..model.profile import Profile
from .budget import Budget
from .messages import Setup
from .pool import WorkerPool
from .process import say
from .reach import Reach

_MOST: Final = 4  # processes that auto takes


def worker_pool(
    context: Context, root: Path, state: Path, reach: Reach, profiles: dict[str, Profile], lock: int
) -> WorkerPool | None:
    """The workers of a run, where its settings ask for more processes than its own; `lock`: the descriptor
    of its lock."""
    limits = context.settings.limits
    count = max(1, min(_MOST, _cores() // 2)) if limits.processes == "auto" else limits.processes
    pool, steers = context.pool, limits.connections == "auto"
    count = min(count, pool.per_host)  # each begins with one connection to a host at least
    if count == 1:
        return None
    budget = Budget(count, pool.total, pool.per_host, _guarded(context.observe), profiles, steers=steers)
    share = replace(
        limits,
        memory=limits.memory // count,
        rate=-(-limits.rate // count),
        requests_per_second=limits.requests_per_second / count,
        # a number is a promise over all hosts: each worker keeps to its part of it, whatever it is told
        connections=pool.total if steers else pool.total // count,
    )
    settings = replace(context.settings, limits=share)
    setup = Setup(root, state, settings, reach, profiles, budget.first_share, steers)
    return WorkerPool([setup] * count, context, budget, lock)


def _guarded(observe: events.Observer) -> events.Observer:
    """`observe`, whose failures are said and go no further: the workers works on without it."""

    def told(event: events.Event) -> None:
        try:
            observe(event)
        except Exception as error:
            say(error, "an observer failed")

    return told


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
