"""Tests of the library inside other programs: threads, forks, cancellation, and options of wrong types."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import Event, ManifestError, StopToken, entry, fetch, fetch_all
from osp_fetch.model import events
from osp_fetch.storage.folder.permissions import Permissions
from osp_fetch.storage.folder.run_lock import RunLock
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise


async def test_a_stop_token_serves_several_event_loops(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.add(f"f{n}", noise(1000, n)) for n in range(2)]
    stop = StopToken()
    for url in urls:
        report = await asyncio.to_thread(fetch, url, tmp_path, stop=stop, settings=quick())
        assert report.ok, report.failures
        assert report.stopped is None


async def test_another_thread_may_ask_to_stop(origin: Origin, tmp_path: Path) -> None:
    stop, asked = StopToken(), threading.Event()
    url = origin.add("f", noise(1 << 20), always=o.slow(1e5))

    def observe(event: Event) -> None:
        if isinstance(event, events.Wrote):
            asked.set()

    def ask() -> None:
        asked.wait(20)
        stop.ask("enough")

    threading.Thread(target=ask).start()
    async with asyncio.timeout(8):
        report = await fetch_all([url], tmp_path, stop=stop, observer=observe, settings=quick())
    assert report.stopped == "enough"


async def test_a_run_that_is_cancelled_twice_at_its_lock_leaves_none(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(1000))
    for n in range(40):
        folder = tmp_path / str(n % 4)
        running = asyncio.create_task(fetch_all([url], folder, settings=quick()))
        for _ in range(2 + n % 8):
            await asyncio.sleep(0)
        for _ in range(2):
            running.cancel()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await running
        assert (await fetch_all([url], folder, settings=quick())).ok


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    until_read, until_written = os.pipe()
    with RunLock(tmp_path):
        child = os.fork()
        if not child:
            os.close(until_written)
            os.read(until_read, 1)  # as a worker of a DataLoader, which lives on
            os._exit(0)
    with RunLock(tmp_path):
        pass
    os.close(until_written)
    os.waitpid(child, 0)
    os.close(until_read)


def test_runs_that_overlap_leave_the_umask_of_the_program() -> None:
    before = os.umask(0o022)
    try:
        first, second = (Permissions(mode).applied() for mode in ("0664", "0660"))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert os.umask(0o007) == 0o007  # the second one still runs
        second.__exit__(None, None, None)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


async def test_an_observer_that_looks_at_a_cancelled_future_costs_no_file(
    origin: Origin, tmp_path: Path
) -> None:
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()

    def observe(event: Event) -> None:
        if isinstance(event, events.Finished):
            gone.result()

    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(1000, n))) for n in range(3)]
    report = await fetch_all(rows, tmp_path, observer=observe, settings=quick())
    assert report.ok
    assert len(report.outcomes) == 3
    assert "raised CancelledError" in report.notes[0]


@pytest.mark.parametrize(
    ("options", "form"),
    [
        (
            {"headers": {"Authorization": None}},
            "headers: the value of 'Authorization' is NoneType; pass a string",
        ),
        ({"headers": {"Authorization": "Bearer x\n"}}, "contains a line break"),
        ({"stop": 5}, "stop=5: pass a StopToken"),
        ({"name": 5}, "name=5: pass a string"),
        ({"cafile": 5}, "cafile=5: pass the path"),
        ({"proxies": "x"}, "proxies='x': pass a dict"),
        ({"profiles": 5}, "profiles=5: pass a dict"),
        ({"strict": "no"}, "strict='no': pass True or False"),
        ({"links": 5}, "links=5: pass the path"),
        ({"page": 1.5}, "page=1.5: pass a port"),
    ],
)
async def test_options_of_a_wrong_type_state_the_right_one(
    tmp_path: Path, options: dict[str, object], form: str
) -> None:
    run: Callable[..., object] = fetch_all
    with pytest.raises(TypeError, match=form.replace("(", "\\(")):
        await run(["http://127.0.0.1:9/f"], tmp_path, **options)  # type: ignore[misc]


async def test_paths_may_be_path_objects(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = origin.add("f", noise(1000))
    monkeypatch.setenv("HOME", str(tmp_path))
    rows: list[Any] = [{"url": url, "path": Path("train/a.bin")}, entry(Path("b.bin"), url)]
    assert (await fetch_all(rows, "~/out", settings=quick())).ok
    assert (tmp_path / "out/train/a.bin").exists()
    assert (tmp_path / "out/b.bin").exists()


async def test_a_dict_is_no_manifest(tmp_path: Path) -> None:
    row: Any = {"url": "http://127.0.0.1:9/f", "path": "f"}
    with pytest.raises(ManifestError, match="put rows in a list"):
        await fetch_all(row, tmp_path, settings=quick())


@pytest.mark.parametrize("manifest", ["", [""]])
async def test_an_empty_source_is_not_the_current_folder(tmp_path: Path, manifest: str | list[str]) -> None:
    with pytest.raises(ManifestError, match="a SOURCE is empty; is a variable not set"):
        await fetch_all(manifest, tmp_path, settings=quick())
