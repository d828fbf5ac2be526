"""Delivery of events to several observers, and the timer that makes views redraw."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..concurrency import stop
from ..model import events
from .board import Board

_Handler = Callable[[Any], None]


class Fanout:
    """An observer that forwards each event to several others, skipping the types in their `passes_over`.

    An observer that raises is reported once, by name, and removed: views must never cost a file.

    Args:
        observers: The receivers, called in this order. Two attributes are optional: `passes_over`, a
            collection of event types, and `handlers`, a mapping from types of events to methods of the class
            that are called in place of the observer.

    Attributes:
        failures: A sentence for each observer that was removed.
    """

    def __init__(self, observers: Sequence[events.Observer]) -> None:
        self._observers = list(observers)
        self._only: dict[int, type[events.Event]] = {}  # id of an observer → the only type that it gets
        self._by_type: dict[type[events.Event], list[tuple[events.Observer, _Handler]]] = {}
        self.failures: list[str] = []

    def add(self, observer: events.Observer, only: type[events.Event] | None = None) -> None:
        """Forward further events to `observer`, too; with `only`, those of this type."""
        self._observers.append(observer)
        if only is not None:
            self._only[id(observer)] = only
        self._by_type.clear()

    def __iter__(self) -> Iterator[events.Observer]:
        """Yield the receivers, in the order in which they are called."""
        return iter(self._observers)

    def __call__(self, event: events.Event) -> None:
        """Forward one event. This never raises, except for exceptions that are not `Exception`."""
        kind = type(event)
        receivers = self._by_type.get(kind)
        if receivers is None:
            receivers = self._by_type[kind] = [
                (each, _handler(each, kind))
                for each in self._observers
                if self._only.get(id(each), kind) is kind and kind not in getattr(each, "passes_over", ())
            ]
        for observer, handler in receivers:
            try:
                handler(event)
            except (Exception, asyncio.CancelledError) as error:  # the latter of a future that it looked at
                self._remove(observer, error)

    def _remove(self, observer: events.Observer, error: BaseException) -> None:
        if observer not in self._observers:
            return  # it raised again before it was removed
        self._observers.remove(observer)
        self._only.pop(id(observer), None)  # another observer may get the same id
        self._by_type.clear()
        name = getattr(observer, "__qualname__", type(observer).__qualname__)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        self.failures.append(
            f"the observer {name} raised {type(error).__name__}: {error} ({where}) and is no longer "
            "called; the run is not affected"
        )


def board_and_views(observer: events.Observer | None) -> tuple[Board, list[events.Observer]]:
    """Return the board of a run, and the further observers that it was given.

    Those of a `Fanout` are called directly, and a board among them that is new serves the run as well: each
    event would otherwise be counted twice.

    Args:
        observer: The observer of the run, None if it has none.
    """
    if not isinstance(observer, Fanout):
        return Board(), [observer] if observer else []
    fresh = (each for each in observer if isinstance(each, Board) and each.report is None and not each.rows)
    board = next(fresh, None)
    return board or Board(), [each for each in observer if each is not board]


def _handler(observer: Any, kind: type[events.Event]) -> _Handler:
    """Return what receives the events of one type for `observer`."""
    # of the class itself: a subclass may have another `__call__`
    method = vars(type(observer)).get("handlers", {}).get(kind)
    handler: _Handler = observer if method is None else partial(method, observer)
    return handler


class ProgressTicker:
    """A view that sends `events.Progress` to an observer at each tick."""

    period = 0.5

    def __init__(self, board: Board, observe: events.Observer) -> None:
        self._board, self._observe = board, observe

    def tick(self) -> None:
        """Send the current progress."""
        self._observe(self._board.progress())


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
