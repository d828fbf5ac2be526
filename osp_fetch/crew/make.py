"""What settings mean for the workers of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..engine.tools import Tools
from ..model import events
from ..model.profile import Profile
from .budget import Budget
from .crew import Crew
from .process import say
from .reach import Reach
from .wire import Setup

_MOST: Final = 4  # processes that auto takes


def crew_of(
    tools: Tools, root: Path, state: Path, reach: Reach, profiles: dict[str, Profile], lock: int
) -> Crew | None:
    """The workers of a run, where its settings ask for more processes than its own; `lock`: the descriptor
    of its lock."""
    limits = tools.settings.limits
    count = max(1, min(_MOST, _cores() // 2)) if limits.processes == "auto" else limits.processes
    gate, steers = tools.gate, limits.connections == "auto"
    count = min(count, gate.per_host)  # each begins with one connection to a host at least
    if count == 1:
        return None
    budget = Budget(count, gate.total, gate.per_host, _guarded(tools.observe), profiles, steers=steers)
    share = replace(
        limits,
        memory=limits.memory // count,
        rate=-(-limits.rate // count),
        requests_per_second=limits.requests_per_second / count,
        # a number is a promise over all hosts: each worker keeps to its part of it, whatever it is told
        connections=gate.total if steers else gate.total // count,
    )
    settings = replace(tools.settings, limits=share)
    setup = Setup(root, state, settings, reach, profiles, budget.first_share, steers)
    return Crew([setup] * count, tools, budget, lock)


def _guarded(observe: events.Observer) -> events.Observer:
    """`observe`, whose failures are said and go no further: the crew works on without it."""

    def told(event: events.Event) -> None:
        try:
            observe(event)
        except Exception as error:
            say(error, "an observer failed")

    return told


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
