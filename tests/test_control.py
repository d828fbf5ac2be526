"""Tests of control: a run obeys commands while it works, and loses nothing by any order of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import Event, Report, Settings, Status, fetch_all
from osp_fetch.control import commands
from osp_fetch.control.client import NoRunError, ask
from osp_fetch.control.commands import CommandError, parse
from osp_fetch.control.endpoint import SOCKET, ControlSocket
from osp_fetch.demo.server import Blob, Exchange, Server
from osp_fetch.model import events
from osp_fetch.model.entry import Entry, entry
from tests.conftest import quick
from tests.origin import Origin, Page, noise
from tests.origin import status as refuse
from tests.test_cli import QUICK, get, start

STATE = ".osp-fetch"
SLOW = 400_000  # bytes per second of one connection


class Run:
    """A run in this process, and the commands that a test sends to its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task: asyncio.Task[Report]
        self.seen: list[Event] = []
        self._came = asyncio.Event()

    def observe(self, event: Event) -> None:
        self.seen.append(event)
        self._came.set()

    async def ask(self, *words: str) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self.folder / STATE, words)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, which is looked at after each event and every 20 ms."""
        async with asyncio.timeout(30):
            while not holds():
                self._came.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._came.wait()

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.seen)


@asynccontextmanager
async def running(rows: Any, folder: Path, settings: Settings) -> AsyncIterator[Run]:
    run = Run(folder)
    run.task = asyncio.create_task(fetch_all(rows, folder, settings=settings, observer=run.observe))
    try:
        await run.until(lambda: run.count(events.Wrote) > 0 or run.task.done())
        yield run
    finally:
        run.task.cancel()
        await asyncio.wait({run.task})


async def paced(exchange: Exchange, page: Page) -> None:
    await exchange.serve(Blob(page.data), page.headers, rate=SLOW)


def large(origin: Origin, count: int = 4, size: int = 600_000) -> list[Entry]:
    return [entry(f"big/{n}", origin.add(f"big/{n}", noise(size, n), always=paced)) for n in range(count)]


def right(folder: Path, rows: list[Entry], size: int = 600_000) -> bool:
    return all((folder / row.path).read_bytes() == noise(size, n) for n, row in enumerate(rows))


# words


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["pause"], commands.Pause()),
        (["rate", "20MiB"], commands.SetRate(20 << 20)),
        (["rate", "off"], commands.SetRate(0)),
        (["rate", "08:00,1k", "19:00,off"], commands.SetRate("08:00,1024 19:00,0")),
        (["rate", "08:00,1k 19:00,off"], commands.SetRate("08:00,1024 19:00,0")),
        (["connections", "8"], commands.SetConnections(8)),
        (["connections", "auto"], commands.SetConnections(None)),
        (["host", "Example.org", "pause"], commands.PauseHost("example.org", True)),
        (["host", "https://example.org:8443/", "resume"], commands.PauseHost("example.org:8443", False)),
        (["host", "[::1]:80", "pause"], commands.PauseHost("[::1]:80", True)),
        (["links", "/a b"], commands.UseLinks("/a b")),
    ],
)
def test_words_mean_a_command(words: list[str], command: commands.Command) -> None:
    assert parse(words) == command


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "'' is not a command; known are status, pause"),
        (["puase"], "'puase' is not a command; did you mean pause?"),
        (["pause", "now"], "pause takes no argument, not 'now'"),
        (["rate"], "a rate is needed; write rate RATE"),
        (["rate", "fast"], "'fast' is not a size"),
        (["connections", "0"], "connections: 0 is not a whole number"),
        (["connections", "1", "2"], "one argument is needed"),
        (["host", "example.org"], "write host HOST pause"),
        (["host", "a b", "pause"], "not the name of a host"),
        (["links"], "write links FILE"),
    ],
)
def test_words_that_are_no_command_get_one_sentence(words: list[str], why: str) -> None:
    with pytest.raises(CommandError) as error:
        parse(words)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


# a run obeys


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_paused_run_opens_no_connection_and_goes_on_at_the_same_byte(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    rows = large(origin)
    settings = quick(limits={"connections": 4, "processes": processes, "part_size": "1MiB"})
    async with running(rows, tmp_path, settings) as run:
        assert (await run.ask("pause"))["said"] == "paused; what is held is kept"
        await run.until(lambda: origin.open == 0)
        held, requests = run.count(events.Wrote), origin.requests.total()
        status = (await run.ask("status"))["status"]
        assert status["control"]["paused"]
        assert status["connections"] == 0
        assert 0 < status["bytes_done"] < 4 * 600_000
        await asyncio.sleep(1.2)  # more than two ticks: what a pause that does not hold would do
        assert (run.count(events.Wrote), origin.requests.total()) == (held, requests)
        assert (await run.ask("resume"))["said"] == "resumed"
        assert (await asyncio.wait_for(run.task, 60)).ok
    assert right(tmp_path, rows)
    # each of the four transfers was interrupted once: what was on its way is sent again, not the files
    assert origin.sent.total() == 0 or sum(origin.sent.values()) < 5 * 600_000
    assert run.count(events.Retrying) == 0
    assert run.count(events.Lost) == 0


async def test_the_rate_follows_the_command(origin: Origin, tmp_path: Path) -> None:
    rows = large(origin, 2)
    async with running(rows, tmp_path, quick(limits={"connections": 2, "rate": "50k"})) as run:
        status = (await run.ask("status"))["status"]
        assert status["control"] is None
        said = (await run.ask("rate", "00:00,1k", "12:00,2k"))["said"]
        assert said == "rate: 00:00 1.0 KiB/s, 12:00 2.0 KiB/s"
        reply = await run.ask("rate", "off")
        assert reply["status"]["control"]["rate"] == 0
        assert [change["what"] for change in reply["status"]["control"]["changes"]] == [
            "rate: 00:00 1.0 KiB/s, 12:00 2.0 KiB/s",
            "rate: no limit",
        ]
        assert (await asyncio.wait_for(run.task, 60)).ok
    assert right(tmp_path, rows)
    lines = [json.loads(line) for line in (tmp_path / STATE / "events.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines if line["event"] == "steered"][-1] == "rate: no limit"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("first", ["auto", 6])
async def test_the_number_of_connections_follows_the_command(
    origin: Origin, tmp_path: Path, first: str | int, processes: int
) -> None:
    rows = large(origin, 16)
    settings = quick(limits={"connections": first, "processes": processes})
    async with running(rows, tmp_path, settings) as run:
        await run.until(lambda: origin.open >= 3)
        await run.ask("connections", "2")
        async with asyncio.timeout(30):
            while True:  # worker processes obey a moment later, and what is open ends with its reply
                origin.most_open, done = origin.open, run.count(events.Finished)
                await run.until(lambda done=done: run.count(events.Finished) > done)  # type: ignore[misc]
                if origin.most_open <= 2:
                    break
        await run.ask("connections", "9")
        await run.until(lambda: origin.open > 6 or run.task.done())
        if first == 6:
            with pytest.raises(CommandError, match="begun with 6; write that number"):
                await run.ask("connections", "auto")
        elif not run.task.done():
            await run.ask("connections", "auto")
        assert (await asyncio.wait_for(run.task, 60)).ok
    assert origin.most_open > 6
    assert right(tmp_path, rows)


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_paused_host_is_left_alone_and_the_others_go_on(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    rows = large(origin)
    other = [entry(f"s/{n}", origin.add(f"s/{n}", noise(9000, n))) for n in range(30)]
    async with Server(origin.handle, host="127.0.0.2") as second:
        moved = [entry(row.path, row.urls[0].replace(origin.url, second.url)) for row in rows]
        settings = quick(limits={"connections": 8, "processes": processes})
        async with running([*moved, *other], tmp_path, settings) as run:
            reply = await run.ask("host", "127.0.0.2", "pause")
            assert reply["status"]["control"]["paused_hosts"] == ["127.0.0.2"]
            await run.until(lambda: origin.open == 0 and run.count(events.Finished) >= 30)
            requests = origin.requests.total()
            await asyncio.sleep(1.2)
            assert origin.requests.total() == requests
            assert not run.task.done()
            with pytest.raises(CommandError, match=r"10\.0\.0\.9 is not paused; paused are 127\.0\.0\.2"):
                await run.ask("host", "10.0.0.9", "resume")
            await run.ask("host", "127.0.0.2", "resume")
            assert (await asyncio.wait_for(run.task, 60)).ok
    assert right(tmp_path, rows)


async def test_a_link_file_of_a_command_is_used(origin: Origin, tmp_path: Path) -> None:
    for n in range(8):
        origin.add(f"f{n}", noise(1000, n))

    async def handle(exchange: Exchange) -> None:
        if exchange.query.get("Signature") == "new":
            await origin.handle(exchange)
        else:
            await exchange.answer(403, "Request has expired", {"Content-Type": "text/plain"})

    async with Server(handle) as server:
        for signature in ("old", "new"):
            lines = [f"f{n}\t{server.url}/f{n}?Expires=1&Signature={signature}\n" for n in range(8)]
            (tmp_path / f"{signature}.tsv").write_text("file_name\tcdn_link\n" + "".join(lines))
        (tmp_path / "empty.tsv").write_text("file_name\tcdn_link\n")
        run = Run(tmp_path / "out")
        settings = quick(links={"on_expired": "wait"})
        old = str(tmp_path / "old.tsv")
        run.task = asyncio.create_task(fetch_all(old, run.folder, settings=settings, observer=run.observe))
        await run.until(lambda: run.count(events.Parked) == 8)
        for bad in ("empty.tsv", "missing.tsv"):
            with pytest.raises(CommandError, match=f"links: .*{bad}"):
                await run.ask("links", str(tmp_path / bad))
        assert (await run.ask("links", str(tmp_path / "new.tsv")))["said"].endswith("from new.tsv")
        report = await asyncio.wait_for(run.task, 30)
    assert report.counts[Status.FETCHED] == 8


@pytest.mark.parametrize("processes", [1, 2])
async def test_what_has_failed_is_fetched_again_and_counts_once(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    rows = large(origin, 1, 1_500_000)
    data = {f"f{n}": noise(3000, n) for n in range(20)}
    rows += [entry(name, origin.add(name, one, *[refuse(500)] * 2)) for name, one in data.items()]
    rows += [entry("gone", f"{origin.url}/gone")]
    run = Run(tmp_path / "out")
    settings = quick(retry={"attempts": 2}, limits={"connections": 4, "processes": processes})
    kept = tmp_path / "failed.jsonl"
    run.task = asyncio.create_task(
        fetch_all(rows, run.folder, settings=settings, observer=run.observe, failed=kept)
    )
    await run.until(lambda: run.count(events.Finished) == 21)
    before = (await run.ask("status"))["status"]
    assert before["counts"]["failed"] == 21
    assert (await run.ask("retry-failed"))["said"] == "21 failed files will be fetched again"
    report = await asyncio.wait_for(run.task, 30)
    assert report.counts == {Status.FETCHED: 21, Status.FAILED: 1, Status.PRESENT: 0, Status.PARKED: 0}
    assert [outcome.path for outcome in report.failures] == ["gone"]
    assert all((run.folder / name).read_bytes() == one for name, one in data.items())
    assert [json.loads(line)["path"] for line in kept.read_text().splitlines()] == ["gone"]
    after = json.loads((run.folder / STATE / "status.json").read_text())
    assert after["counts"]["failed"] == 1
    assert after["bytes_total"] == after["bytes_done"] == 1_500_000 + 20 * 3000


async def test_a_host_that_was_given_up_is_asked_again(origin: Origin, tmp_path: Path) -> None:
    for n in range(6):
        origin.add(f"far/{n}", noise(2000, n))
    goes_on, run = asyncio.Event(), Run(tmp_path / "out")
    settings = quick(retry={"attempts": 2, "outage": 0.2, "longest": 0.05}, limits={"connections": 4})
    async with Server(origin.handle, host="127.0.0.2") as first:
        port = first.port

        async def manifest() -> AsyncIterator[Entry]:
            yield entry("far/0", f"http://127.0.0.2:{port}/far/0")
            await goes_on.wait()
            for n in range(1, 6):
                yield entry(f"far/{n}", f"http://127.0.0.2:{port}/far/{n}")
            await last.wait()

        last = asyncio.Event()
        run.task = asyncio.create_task(
            fetch_all(manifest(), run.folder, settings=settings, observer=run.observe)
        )
        await run.until(lambda: run.count(events.Finished) == 1)
    goes_on.set()
    await run.until(lambda: run.count(events.Finished) == 6)
    async with Server(origin.handle, host="127.0.0.2", port=port):
        assert (await run.ask("retry-failed"))["said"] == "5 failed files will be fetched again"
        await run.until(lambda: run.count(events.Finished) == 11)
        last.set()
        report = await asyncio.wait_for(run.task, 60)
    assert report.ok
    assert report.counts[Status.FETCHED] == 6


async def test_another_source_is_fetched_in_the_same_run(origin: Origin, tmp_path: Path) -> None:
    first = large(origin, 2, 1_000_000)
    paths = {f"m{n}": origin.add(f"m{n}", noise(1000, n)) for n in range(700)}
    more = [{"path": path, "url": url} for path, url in paths.items()]
    more += [{"path": row.path, "url": row.urls[0]} for row in first]  # under way, and then present
    (tmp_path / "more.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in more))
    async with running(first, tmp_path / "out", quick()) as run:
        with pytest.raises(CommandError, match=r"add: .*missing"):
            await run.ask("add", str(tmp_path / "missing.csv"))
        said = (await run.ask("add", str(tmp_path / "more.jsonl")))["said"]
        assert said.endswith("more.jsonl are fetched, too")
        report = await asyncio.wait_for(run.task, 60)
        assert report.ok, report.failures[:3]
        assert report.counts[Status.FETCHED] == 702
        assert report.counts[Status.PRESENT] == 2
    assert all((tmp_path / "out" / f"m{n}").read_bytes() == noise(1000, n) for n in range(700))
    assert right(tmp_path / "out", first, 1_000_000)


async def test_a_manifest_without_links_says_so(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "new.tsv").write_text("file_name\tcdn_link\n")
    async with running(large(origin, 1), tmp_path, quick()) as run:
        with pytest.raises(CommandError, match="the manifest of this run is no file"):
            await run.ask("links", str(tmp_path / "new.tsv"))


@pytest.mark.parametrize("seed", range(6))
async def test_no_order_of_commands_loses_anything(origin: Origin, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows = large(origin, 10, 400_000)
    small = [entry(f"s/{n}", origin.add(f"s/{n}", noise(5000 + n, n))) for n in range(150)]
    settings = quick(limits={"connections": chance.choice(["auto", 4]), "processes": 1 + seed % 2})
    host = origin.url.removeprefix("http://")
    orders: list[list[str]] = [
        ["pause"], ["resume"], ["rate", "300k"], ["rate", "off"], ["rate", "00:00,1M 12:00,2M"],
        ["connections", "2"], ["connections", "12"], ["connections", "auto"], ["host", host, "pause"],
        ["host", host, "resume"], ["host", "127.0.0.1", "pause"], ["host", "127.0.0.1", "resume"],
        ["status"], ["nonsense"], ["retry-failed"], ["add", str(tmp_path / "again.jsonl")],
    ]  # fmt: skip
    mixed = [*rows, *small]
    again = [{"path": row.path, "url": row.urls[0]} for row in [*rows[:3], *small[:40]]]
    (tmp_path / "again.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in again))
    chance.shuffle(mixed)
    async with running(mixed, tmp_path / "out", settings) as run:
        for _ in range(25):
            with suppress(CommandError):
                await run.ask(*chance.choice(orders))
            await asyncio.sleep(chance.random() * 0.1)
        for last in (["resume"], ["rate", "off"], ["connections", "12"]):
            with suppress(NoRunError):
                await run.ask(*last)
        for name in (host, "127.0.0.1"):
            with suppress(CommandError):
                await run.ask("host", name, "resume")
        report = await asyncio.wait_for(run.task, 60)
    assert report.ok
    assert report.counts[Status.FETCHED] == 160
    out = tmp_path / "out"
    assert right(out, rows, 400_000)
    assert all((out / f"s/{n}").read_bytes() == noise(5000 + n, n) for n in range(150))
    assert run.count(events.Lost) == 0
    assert not [place for place in (out / STATE / "partial").rglob("*") if place.is_file()]


async def test_a_worker_that_is_replaced_while_the_run_is_paused_is_paused(
    origin: Origin, tmp_path: Path
) -> None:
    from tests.test_workers import workers_of

    rows = large(origin)
    async with running(rows, tmp_path, quick(limits={"connections": 4, "processes": 2})) as run:
        await run.ask("pause")
        requests = -1
        while origin.open or origin.requests.total() != requests:
            requests = origin.requests.total()  # of a loaded machine, some requests are still on their way
            await asyncio.sleep(0.3)
        before = workers_of(os.getpid())
        os.kill(before[0], signal.SIGKILL)
        await run.until(lambda: len(set(workers_of(os.getpid())) - {before[0]}) == 2)
        await asyncio.sleep(1.2)
        assert origin.requests.total() == requests
        await run.ask("resume")
        assert (await asyncio.wait_for(run.task, 60)).ok
    assert right(tmp_path, rows)


# the socket


async def test_only_the_owner_can_connect_and_the_socket_goes_with_the_run(
    origin: Origin, tmp_path: Path
) -> None:
    async with running(large(origin, 1), tmp_path, quick(storage={"mode": "0664"})) as run:
        place = tmp_path / STATE / SOCKET
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        await run.ask("stop")
        report = await asyncio.wait_for(run.task, 30)
        assert report.stopped == "osp-fetch ctl stop"
    assert not place.exists()
    with pytest.raises(NoRunError, match="no run works here; osp-fetch get starts one"):
        await run.ask("status")


async def test_a_path_that_is_too_long_for_a_socket_works(origin: Origin, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    async with running(large(origin, 1), folder, quick()) as run:
        place = folder / STATE / SOCKET
        assert place.is_symlink()
        target = place.readlink()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        assert (await run.ask("status"))["status"]["rows"] == 1
        await run.task
    assert not target.parent.exists()
    assert not place.is_symlink()


async def test_what_is_no_request_gets_a_sentence_and_the_connection_stays(tmp_path: Path) -> None:
    async def carry(words: Any) -> dict[str, Any]:
        return {"said": " ".join(words), "status": {}}

    async with ControlSocket(tmp_path, carry, pytest.fail):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
        for line in (b"nonsense\n", b"[]\n", b'{"command": "pause"}\n', b'{"command": [1]}\n'):
            writer.write(line)
            assert json.loads(await reader.readline())["error"].startswith('a request is {"command"')
        writer.write(b'{"command": ["a", "b"]}\n')
        assert json.loads(await reader.readline()) == {"ok": True, "said": "a b", "status": {}}
        writer.write(b"x" * (1 << 17))
        assert await reader.read() == b""
        writer.close()


async def test_the_socket_of_a_killed_run_is_told_from_a_run_and_replaced(
    origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / STATE).mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / STATE / SOCKET))
    with pytest.raises(NoRunError, match="the last one was killed, and get continues it"):
        ask(tmp_path / STATE, ["status"])
    async with running(large(origin, 1), tmp_path, quick()) as run:
        assert (await run.ask("status"))["status"]["rows"] == 1


# the command line


async def test_the_command_steers_a_run_of_another_process(origin: Origin, tmp_path: Path) -> None:
    rows = [{"path": row.path, "url": row.urls[0]} for row in large(origin, 3)]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code, _, err = await get("ctl", "out", "status", cwd=tmp_path)
    assert (code, err.strip()) == (1, "osp-fetch: out: no run works here; osp-fetch get starts one")
    process = await start("get", "m.jsonl", "-o", "out", *QUICK, "--limit-rate", "100k", cwd=tmp_path)
    try:
        async with asyncio.timeout(30):
            while not (tmp_path / "out" / STATE / SOCKET).exists():
                await asyncio.sleep(0.02)
        code, out, _ = await get("ctl", "out", "pause", cwd=tmp_path)
        assert (code, out) == (0, "paused; what is held is kept\n")
        code, out, _ = await get("ctl", "out", "status", cwd=tmp_path)
        assert "paused; rate: 100.0 KiB/s; connections: auto" in out
        assert "0 of 3 files" in out
        async with asyncio.timeout(30):
            while "paused; rate: 100.0 KiB/s" not in (await get("status", "out", cwd=tmp_path))[1]:
                pass  # status.json is written once a second
        code, out, _ = await get("ctl", "out", "status", "--json", cwd=tmp_path)
        assert json.loads(out)["control"]["paused"]
        code, _, err = await get("ctl", "out", "resmue", cwd=tmp_path)
        assert (code, err) == (1, "osp-fetch: 'resmue' is not a command; did you mean resume?\n")
        for words in (["rate", "off"], ["resume"]):
            assert (await get("ctl", "out", *words, cwd=tmp_path))[0] == 0
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert all((tmp_path / "out" / f"big/{n}").read_bytes() == noise(600_000, n) for n in range(3))


def test_a_run_that_does_not_answer_is_not_one_that_has_ended(tmp_path: Path) -> None:
    """`ctl` leaves ended runs out of its result where others have answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as frozen:
        frozen.bind(str(tmp_path / SOCKET))
        frozen.listen()
        with pytest.raises(NoRunError, match="has not answered for") as silent:
            ask(tmp_path, ["pause"], patience=0.05)
    (tmp_path / SOCKET).unlink()
    with pytest.raises(NoRunError) as ended:
        ask(tmp_path, ["pause"])
    assert (silent.value.cause, ended.value.cause) == ("no answer", "no run")
