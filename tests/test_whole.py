"""Tests of small files: one reply each, and a helper process that publishes many of them.

A file that turns out to be larger goes on with the reply that has arrived.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, Event, Report, Status, entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange, Server
from osp_fetch.engine.small import first_request
from osp_fetch.engine.state import FileState
from osp_fetch.model import events, urls
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import IntegrityError
from osp_fetch.model.http import Request
from osp_fetch.model.profile import Profile
from osp_fetch.network.transport import HttpTransport
from osp_fetch.storage.folder.run_lock import RunLock, state_folder
from osp_fetch.storage.folder.store import FolderStore
from osp_fetch.storage.publishing.helper_process import HelperProcess
from osp_fetch.storage.publishing.shared_memory import SharedBuffer, SharedPool
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256

QUICK = quick()
LARGE_PARTS = quick(limits={"part_size": "1MiB"})
SHA256 = frozenset({"sha256"})


@given(
    st.none() | st.integers(1, 3000),
    st.integers(1, 2000),
    st.sampled_from([None, "md5:" + 32 * "0"]),
    st.sampled_from([{}, {"X-Key": "1"}]),
)
def test_a_first_request_is_what_a_download_would_ask_for(
    size: int | None, part: int, digest: str | None, headers: dict[str, str]
) -> None:
    row = entry("f", ["https://a.example/f", "https://b.example/f"], size, digest, headers)
    download = FileState(row)
    claimed = download.part(download.mirrors.choose(), part)
    assert claimed is not None
    assert first_request(row, part) == download.request(claimed)


async def get(rows: list[Entry], folder: Path, **more: object) -> Report:
    return await fetch_all(rows, folder, settings=LARGE_PARTS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 50_000, 256 << 10, (256 << 10) + 1, 900_000])
@pytest.mark.parametrize("fault", [None, o.rangeless, o.status_200_with_range, o.chunked])
@pytest.mark.parametrize("stated", [True, False])
async def test_one_request_whatever_a_file_turns_out_to_be(
    origin: Origin, tmp_path: Path, size: int, fault: o.Fault | None, stated: bool
) -> None:
    data = noise(size)
    row = entry("f", origin.add("f", data, always=fault), size if stated else None, sha256(data))
    assert (await get([row], tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == data
    assert origin.requests["/f"] == 1


@pytest.mark.parametrize(
    "fault",
    [o.cut(20_000), o.stall(20_000), o.status(503, "later"), o.instead("<html>no</html>")],
    ids=["cut", "stall", "503", "page"],
)
async def test_a_first_reply_that_fails_costs_no_second_one_at_once(
    origin: Origin, tmp_path: Path, fault: o.Fault
) -> None:
    data = noise(50_000)
    retries: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, events.Retrying):
            retries.append(event.cause)
        if isinstance(event, events.Lost):
            retries.append("lost")  # the digest has shown that a page is not the file

    row = entry("f.bin", origin.add("f", data, fault), None, sha256(data))
    assert (await get([row], tmp_path, observer=observe)).ok
    assert (tmp_path / "f.bin").read_bytes() == data
    assert (origin.requests["/f"], len(retries)) == (2, 1)


async def test_what_came_before_a_cut_is_not_asked_for_again(origin: Origin, tmp_path: Path) -> None:
    data = noise(200_000)
    row = entry("f", origin.add("f", data, o.cut(150_000)), None, sha256(data))
    assert (await get([row], tmp_path)).ok
    assert origin.seen[1].span(len(data)) == (150_000, 200_000)


async def test_a_small_file_that_comes_slowly_is_claimed_as_it_comes(origin: Origin, tmp_path: Path) -> None:
    data = noise(200_000)
    row = entry("f", origin.add("f", data, o.slow(100_000)), None, sha256(data))
    work: asyncio.Task[Report]
    written = 0

    def observe(event: Event) -> None:
        nonlocal written
        if isinstance(event, events.Wrote):
            written += event.count
            work.cancel()

    work = asyncio.create_task(get([row], tmp_path, observer=observe))
    with pytest.raises(asyncio.CancelledError):
        await work
    assert 0 < written < len(data)
    assert (await get([row], tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == data
    again = origin.seen[1].span(len(data))
    assert again is not None
    assert again[0] >= written


async def test_the_pool_counts_a_connection_that_is_handed_over_once(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(600_000, n), o.slow(2e6))) for n in range(12)]
    now = most = 0

    def observe(event: Event) -> None:
        nonlocal now, most
        now += isinstance(event, events.Opened) - isinstance(event, events.Closed)
        most = max(most, now)

    settings = quick(limits={"part_size": "1MiB", "connections": 3})
    report = await fetch_all(rows, tmp_path, settings=settings, observer=observe)
    assert report.ok
    assert (origin.most_open, most, now) == (3, 3, 0)


# Requests and replies on the connection.


async def test_own_headers_stand_for_the_usual_ones(origin: Origin, tmp_path: Path) -> None:
    rows = [
        entry(f"f{n}", origin.add(f"f{n}", b"x"), None, None, {"user-agent": "mine", "X-Key": str(n)})
        for n in range(3)
    ]
    settings = quick(limits={"connections": 1})
    assert (await fetch_all(rows, tmp_path, settings=settings)).ok
    for n, exchange in enumerate(origin.seen):
        assert exchange.headers["user-agent"] == "mine"
        assert exchange.headers["x-key"] == str(n)
        assert exchange.headers["accept-encoding"] == "identity"
        assert exchange.headers["host"] == origin.url.removeprefix("http://")


async def test_no_value_of_a_header_begins_a_line_of_its_own(origin: Origin, tmp_path: Path) -> None:
    plain = entry("a", origin.add("a", b"x"))
    evil = Entry(RelativePath("b"), (origin.add("b", b"x"),), headers=(("X-Key", "1\r\nX-Evil: 2"),))
    settings = quick(limits={"connections": 1}, retry={"attempts": 1, "longest": 0.01})
    await fetch_all([plain, evil], tmp_path, settings=settings)
    assert all("x-evil" not in exchange.headers for exchange in origin.seen)


async def test_a_kept_connection_that_the_server_closed_costs_no_attempt(tmp_path: Path) -> None:
    """A server may close an idle connection in the moment in which the next request is sent."""
    asked: list[str] = []

    async def handle(exchange: Exchange) -> None:
        asked.append(exchange.path)
        if len(asked) == 3:
            exchange.writer.transport.abort()
            return
        await exchange.serve(Blob(b"x"))

    retries = []

    def observe(event: Event) -> None:
        if isinstance(event, events.Retrying):
            retries.append(event)

    async with Server(handle) as server:
        rows = [entry(f"f{n}", f"{server.url}/f{n}") for n in range(6)]
        settings = quick(limits={"connections": 1})
        report = await fetch_all(rows, tmp_path, settings=settings, observer=observe)
    assert (report.ok, retries) == (True, [])
    assert asked[2] == asked[3]


async def test_a_host_that_turns_away_above_a_number_is_not_left_for_dead(tmp_path: Path) -> None:
    """The host counts idle connections, too. A batch of simultaneous refusals lowers the limit once."""
    refused, levels, lock = 0, [32], asyncio.Lock()

    async def handle(exchange: Exchange) -> None:
        nonlocal refused
        async with lock:  # one reply at a time, as on a slow host
            await asyncio.sleep(0)
        if len(server._connections) > 20:
            refused += 1
            await exchange.answer(503, "too many")
        else:
            await exchange.serve(Blob(b"x" * 1000))

    def observe(event: Event) -> None:
        if isinstance(event, events.LimitChanged):
            levels.append(event.connections)

    server = Server(handle)
    async with server:
        rows = [entry(f"f{n}", f"{server.url}/f{n}") for n in range(3000)]
        settings = quick(limits={"connections": "auto"}, retry={"attempts": 20})
        # the run begins above the number: whether it would climb there depends on what else the machine does
        known = {urls.host(server.url): Profile(levels[0], 1 << 20, 1, 0.0)}
        report = await fetch_all(rows, tmp_path, settings=settings, observer=observe, profiles=known)
    assert report.ok
    assert refused
    assert min(levels) >= 8
    assert refused < 150


# The helper process that publishes.


@given(st.lists(st.integers(1, 200_000) | st.integers(-40, -1), max_size=60))
def test_no_two_pieces_of_a_pool_that_are_in_use_overlap(steps: list[int]) -> None:
    pool = SharedPool(1 << 20)
    pool.close()
    used: list[SharedBuffer] = []
    for step in steps:
        if step < 0:
            if used:
                used.pop(step % len(used)).free()
        elif (memory := pool.take(step)) is not None:
            assert len(memory.view) == step
            used.append(memory)
    for number, memory in enumerate(used):
        memory.view[:] = bytes([number]) * len(memory.view)
    for number, memory in enumerate(used):
        assert memory.view == bytes([number]) * len(memory.view)


async def test_the_helper_process_gives_names_to_what_is_right_and_to_nothing_else(tmp_path: Path) -> None:
    state = state_folder(tmp_path, None)
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(RunLock(state))
        store = await stack.enter_async_context(FolderStore(tmp_path, state, LARGE_PARTS.storage))
        helper = HelperProcess(tmp_path, state, LARGE_PARTS.storage, lock.descriptor)
        stack.callback(helper.close)
        helper.begin()
        store.publisher.remote = helper.publish
        (tmp_path / "taken").mkdir()
        sums = {name: entry("f", "http://h/f", None, sha256(name.encode())).digest for name in ("a", "wrong")}
        found: dict[str, Any] = {}
        for name, bytes_in in {"a": b"a", "d/wrong": b"other", "taken": b"taken"}.items():
            memory = helper.pool.take(len(bytes_in) + 1)
            assert memory is not None
            memory.view[:-1] = bytes_in
            wanted = sums.get(name.removeprefix("d/"))
            put = store.small_files.publish(RelativePath(name), memory, len(bytes_in), SHA256, wanted)
            (found[name],) = await asyncio.gather(put, return_exceptions=True)
            if isinstance(found[name], Exception):
                assert memory.view[:-1] == bytes_in  # the caller goes on with this memory
    (published, kept), digests = found["a"]
    assert (published.size, kept, digests["sha256"]) == (1, None, sha256(b"a").removeprefix("sha256:"))
    assert isinstance(found["d/wrong"], IntegrityError)
    assert "cannot be put in place" in str(found["taken"])
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a"]
    assert not (tmp_path / "d").exists()


def helpers(of: int) -> list[int]:
    """Return the ids of the helper processes that the process `of` has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            ours = f"\nPPid:\t{of}\n" in (process / "status").read_text()
            if ours and b"publishing.helper_process" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def manifest(origin: Origin, tmp_path: Path, count: int) -> dict[str, bytes]:
    files = {f"d{n % 7}/f{n}": noise(2000 + n % 50, n) for n in range(count)}
    rows = [
        {"path": name, "url": origin.add(name, data), "sha256": sha256(data).removeprefix("sha256:")}
        for name, data in files.items()
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return files


async def started(tmp_path: Path) -> asyncio.subprocess.Process:
    words = ["get", str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "out"), "-q", "--min-free", "0"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", *words, stderr=asyncio.subprocess.PIPE
    )


async def begun_helper(process: asyncio.subprocess.Process) -> int:
    """Wait for the helper process of a run and return its id."""
    async with asyncio.timeout(30):
        while not (found := helpers(process.pid)):
            assert process.returncode is None, "the run ended without a helper process"
            await asyncio.sleep(0.005)
    return found[0]


linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to find processes in")
cores = pytest.mark.skipif(not HelperProcess.possible(), reason="a helper process needs a second core")


@linux
@cores
async def test_many_small_files_are_published_by_another_process_that_may_die(
    origin: Origin, tmp_path: Path
) -> None:
    files = manifest(origin, tmp_path, 3000)
    process = await started(tmp_path)
    os.kill(await begun_helper(process), signal.SIGKILL)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in files.items())


@linux
@cores
async def test_a_killed_run_leaves_no_process_and_no_wrong_name(origin: Origin, tmp_path: Path) -> None:
    files = manifest(origin, tmp_path, 3000)
    process = await started(tmp_path)
    helper = await begun_helper(process)
    process.kill()
    await process.communicate()
    async with asyncio.timeout(30):
        while Path(f"/proc/{helper}").exists():
            await asyncio.sleep(0.01)
    out = tmp_path / "out"
    for found in out.glob("d*/f*"):
        assert found.read_bytes() == files[found.relative_to(out).as_posix()]
    process = await started(tmp_path)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert all((out / name).read_bytes() == data for name, data in files.items())
    assert helpers(os.getpid()) == []


async def test_wrong_ones_among_many_small_files_are_reported_and_the_others_are_here(
    origin: Origin, tmp_path: Path
) -> None:
    rows = []
    for n in range(700):
        data = noise(500, n)
        digest = sha256(b"other") if n % 100 == 50 else sha256(data)
        rows.append(entry(f"f{n}", origin.add(f"f{n}", data), None, digest))
    report = await get(rows, tmp_path)
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (693, 7)
    assert not any((tmp_path / f"f{n}").exists() for n in range(50, 700, 100))


@linux
@cores
async def test_files_of_a_users_own_folder_are_not_taken_for_modules(origin: Origin, tmp_path: Path) -> None:
    """A working folder may hold a `random.py`. A process started there must not import it."""
    files = manifest(origin, tmp_path, 1500)
    for name in ("socket.py", "pickle.py", "mmap.py"):
        (tmp_path / name).write_text("raise SystemExit('not the module that was meant')")
    words = ["get", "m.jsonl", "-o", "out", "-q", "--min-free", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "osp_fetch", *words, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    await begun_helper(process)
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in files.items())


async def own_helper(job: asyncio.Future[Report]) -> int:
    """Wait for the helper process of a run in this process and return its id."""
    async with asyncio.timeout(30):
        while not (found := helpers(os.getpid())):
            assert not job.done(), "the run ended without a helper process"
            await asyncio.sleep(0.001)
    return found[0]


def many(origin: Origin, count: int) -> list[Entry]:
    return [entry(f"f{n}", origin.add(f"f{n}", noise(500, n))) for n in range(count)]


@linux
@cores
async def test_a_helper_process_that_does_not_begin_is_not_waited_for(origin: Origin, tmp_path: Path) -> None:
    rows = many(origin, 1000)
    job = asyncio.ensure_future(get(rows, tmp_path))
    os.kill(await own_helper(job), signal.SIGSTOP)
    assert (await job).counts[Status.FETCHED] == 1000
    assert helpers(os.getpid()) == []


@linux
@cores
async def test_a_process_forked_during_a_run_does_not_keep_the_helper_process(
    origin: Origin, tmp_path: Path
) -> None:
    """The worker of a data loader may be forked during a run and outlive it."""
    job = asyncio.ensure_future(get(many(origin, 1500), tmp_path))
    helper = await own_helper(job)
    forked = os.fork()
    if forked == 0:
        signal.pause()
    try:
        assert (await job).ok
        assert not Path(f"/proc/{helper}").exists()
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


@linux
@cores
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_however_often_a_run_is_cancelled_its_helper_process_ends_with_it(
    origin: Origin, tmp_path: Path, times: int
) -> None:
    rows = many(origin, 1500)
    job = asyncio.ensure_future(get(rows, tmp_path))
    await own_helper(job)
    for _ in range(times):
        job.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await job
    assert helpers(os.getpid()) == []
    assert (await get(rows, tmp_path)).ok


class Leading:
    """A site on which pages under `/page` lead to `/file`."""

    def knows(self, url: str) -> bool:
        return "/page" in url

    def target(self, url: str, page: bytes) -> str:
        return "/file"


async def test_a_page_that_leads_on_and_stalls_leads_on_on_a_kept_connection_too(origin: Origin) -> None:
    async def stalling(exchange: Exchange, _: o.Page) -> None:
        await exchange.head(200, {"Content-Type": "text/html", "Content-Length": "3000"})
        await exchange.raw(b"x" * 100)
        await asyncio.sleep(30)

    origin.add("file", b"abc")
    for name in ("page1", "page2"):
        origin.add(name, b"", always=stalling)
    async with HttpTransport(QUICK.limits, QUICK.retry, QUICK.timeouts, leads=Leading()) as transport:
        for name in ("page1", "page2"):
            async with transport.send(Request(f"{origin.url}/{name}", name="f")) as reply:
                got = memoryview(bytearray(8))
                assert bytes(got[: await reply.readinto(got)]) == b"abc"


async def test_small_files_keep_to_a_byte_rate(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(150_000, n))) for n in range(40)]
    begun = asyncio.get_running_loop().time()
    assert (await fetch_all(rows, tmp_path, settings=quick(limits={"rate": "4MiB"}))).ok
    # Six million bytes; a quarter of a second of the rate may arrive at once.
    assert asyncio.get_running_loop().time() - begun > 1.0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to list descriptors in")
async def test_the_memory_of_a_helper_process_does_not_wait_for_the_garbage_collector(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(100, n))) for n in range(600)]
    gc.disable()
    try:
        assert (await get(rows, tmp_path)).ok
        shared = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    finally:
        gc.enable()
    assert not [name for name in shared if "memfd:osp-fetch" in name]


def test_the_helper_process_imports_no_event_loop() -> None:
    """That takes as long as the rest of its start, and each run with small files pays for it."""
    code = (
        "import sys, osp_fetch.storage.publishing.helper_process\n"
        "print({'asyncio', 'aiohttp', 'ssl'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
