"""Nothing leaks, whatever raises: an exception is injected at every await and every observer call of a
fetch."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import Entry, Event, Status, entry, fetch_all
from osp_fetch.connections.buffers import Buffers
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.engine.context import Context
from osp_fetch.engine.run import Run
from osp_fetch.model.report import Outcome
from osp_fetch.network.transport import HttpTransport
from osp_fetch.storage.folder.store import FolderStore
from tests.conftest import quick
from tests.origin import Origin, cut, noise
from tests.simulated import Power, SimulatedLedger

SETTINGS = quick(limits={"per_host": 3}, retry={"attempts": 2, "initial": 0})


class Injected(Exception):
    """The defect."""


class Faulty:
    """Wraps an adapter; call number `at` of any of its async methods raises. Counts calls."""

    def __init__(self, inner: Any, count: list[int], at: int) -> None:
        self._inner, self._count, self._at = inner, count, at

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if asyncio.iscoroutinefunction(value):
            return self._faulty(value)
        if name == "partial":
            return lambda *a, **k: Faulty(value(*a, **k), self._count, self._at)
        if name in ("small_files", "published", "set_aside", "hashing"):
            return Faulty(value, self._count, self._at)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_inner", "_count", "_at"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)

    def _faulty(
        self, method: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def called(*args: Any, **more: Any) -> Any:
            self._count[0] += 1
            if self._count[0] == self._at and method.__name__ != "close":
                raise Injected
            return await method(*args, **more)

        return called


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def own_tasks() -> int:
    """Tasks of the product; the origin in this process keeps one for each connection."""
    return sum(
        "osp_fetch" in repr(task.get_coro()) and "demo" not in repr(task) for task in asyncio.all_tasks()
    )


async def settled(origin: Origin, most: int) -> int:
    """The open descriptors, once the origin has closed its ends of connections, too."""
    for _ in range(200):
        if (found := descriptors()) <= most and not origin.open:
            return found
        await asyncio.sleep(0.01)
    return descriptors()


async def run(
    rows: list[Entry], folder: Path, at: int, *, observer: bool
) -> tuple[int, ConnectionPool, list[Outcome]]:
    """Fetch `rows` with one exception at call or event number `at`; how many there were, and what is left."""
    state = folder / ".osp-fetch"
    state.mkdir(parents=True, exist_ok=True)
    count, outcomes = [0], list[Outcome]()

    def observe(event: Event) -> None:
        if observer:
            count[0] += 1
            if count[0] == at:
                raise Injected

    pool = ConnectionPool(SETTINGS.limits)
    async with (
        FolderStore(folder, state, SETTINGS.storage) as store,
        HttpTransport(SETTINGS.limits, SETTINGS.retry, SETTINGS.timeouts) as transport,
    ):
        faulty: Any = store if observer else Faulty(store, count, at)
        ledger: Any = SimulatedLedger(Power(1 << 30))
        ledger = ledger if observer else Faulty(ledger, count, at)
        context = Context(transport, faulty, ledger, pool, Buffers(SETTINGS.limits), SETTINGS, observe)
        with suppress(Injected):  # outside of any file, a defect ends the run
            await Run(context, outcomes.append).fetch(rows)
        assert store.in_progress == 0
        assert store.space.reserved == 0
    return count[0], pool, outcomes


@pytest.mark.parametrize("observer", [True, False], ids=["observer", "await"])
@pytest.mark.parametrize("kind", ["small", "parted", "cut", "adopted", "absent"])
async def test_no_slot_part_or_descriptor_leaks(
    origin: Origin, tmp_path: Path, kind: str, observer: bool
) -> None:
    data = noise(2000 if kind == "small" else 400_000)
    rows = [entry(f"f{n}", origin.add(f"f{n}", data)) for n in range(4)]
    if kind == "cut":
        rows = [entry(f"f{n}", origin.add(f"f{n}", data, cut(90_000), cut(10_000))) for n in range(4)]
    if kind == "absent":
        rows = [entry(f"f{n}", f"{origin.url}/absent{n}") for n in range(4)]
    calls, _, _ = await run(rows, tmp_path / "whole", 0, observer=observer)
    assert calls > 4
    before = await settled(origin, 0)
    for at in range(1, calls + 1, max(1, calls // 60)):
        folder = tmp_path / f"at{at}"
        if kind == "adopted":
            folder.mkdir()
            (folder / "f0").write_bytes(data)
        _, pool, outcomes = await asyncio.wait_for(run(rows, folder, at, observer=observer), 20)
        assert pool.open == 0, at
        assert all(host.open == 0 and not host.streams and not host.queue for host in pool._hosts.all()), at
        assert not pool._hosts.in_use, at
        assert await settled(origin, before) <= before, at
        assert own_tasks() == 0, at
        for outcome in outcomes:
            if outcome.status in (Status.FETCHED, Status.PRESENT):
                assert (folder / outcome.path).read_bytes() == data


async def test_an_observer_that_raises_is_named_and_costs_nothing(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(3000, n))) for n in range(30)]
    seen = 0

    def broken(event: Event) -> None:
        nonlocal seen
        seen += 1
        raise ValueError("a bug of the observer")

    report = await fetch_all(rows, tmp_path, settings=SETTINGS, observer=broken)
    assert (report.ok, seen) == (True, 1)
    (note,) = report.notes
    assert "broken raised ValueError: a bug of the observer (test_leaks.py:" in note


def children() -> list[str]:
    """Return the processes that this process has started and that still exist."""
    return [pid for place in Path("/proc/self/task").glob("*/children") for pid in place.read_text().split()]


async def test_a_run_with_workers_leaves_no_descriptor_and_no_process(origin: Origin, tmp_path: Path) -> None:
    """Shared memory is a descriptor, too (memfd_create)."""
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(3000 if n % 2 else 300_000, n))) for n in range(12)]
    settings = quick(limits={"processes": 2, "connections": 8})
    assert (await fetch_all(rows, tmp_path / "first", settings=settings)).ok
    before = await settled(origin, 0)
    started = children()
    for at in (1, 4, 15, 40):
        seen = 0

        def broken(event: Event, at: int = at) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Injected

        report = await fetch_all(rows, tmp_path / f"at{at}", settings=settings, observer=broken)
        assert report.ok, report.failures
        assert seen == at, "it was called again after it had raised"
        assert any("raised Injected" in note for note in report.notes)
        assert await settled(origin, before) <= before
        assert children() == started
        assert own_tasks() == 0


async def test_a_defect_costs_its_file_and_says_where_it_is(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(name, origin.add(name, noise(1000))) for name in "fg"]
    calls, _, _ = await run(rows, tmp_path / "whole", 0, observer=False)
    said = []
    for at in range(1, calls + 1):
        _, _, outcomes = await run(rows, tmp_path / f"at{at}", at, observer=False)
        said += [str(o.error) for o in outcomes if o.error]
        assert sum(o.error is not None for o in outcomes) <= 1
    assert any(re.search(r"report it \(Injected: , in test_leaks.py:\d+\)", error) for error in said)
