"""Delivery of events to several observers, and the timer that makes views redraw."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..concurrency import stop
from ..model import events


def telling(observers: Sequence[events.Observer]) -> events.Observer:
    """Return an observer that forwards each event to every observer, skipping the types in its `passes_over`.

    Args:
        observers: The receivers, called in this order. `passes_over` is an optional attribute: a collection
            of event types.
    """
    told: dict[type[events.Event], list[events.Observer]] = {}

    def observe(event: events.Event) -> None:
        kind = type(event)
        if kind not in told:
            told[kind] = [each for each in observers if kind not in getattr(each, "passes_over", ())]
        for observer in told[kind]:
            observer(event)

    return observe


class Ticking:
    """A context that calls `view.tick()` every `view.period` seconds while it is open.

    Args:
        view: An object with `period` (seconds) and `tick()`.
        at_end: Whether to call `tick` once more when the context exits.
    """

    def __init__(self, view: Any, *, at_end: bool = True) -> None:
        self._view, self._at_end = view, at_end

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._view.period)
            self._view.tick()

    async def __aexit__(self, *_: object) -> None:
        await stop({self._task})
        if self._at_end:
            self._view.tick()
