"""Tests of the engine `folder`: runs that share an output folder share a manifest, without a service."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import Folder, StopToken, fetch_all
from osp_fetch.assembly import again_of
from osp_fetch.cluster.members import Members, has_ended, member_name
from osp_fetch.cluster.shares import AT_ONCE, SharedRun, contents, fetch_shares
from osp_fetch.demo.server import Exchange
from osp_fetch.joint import Joint
from osp_fetch.launch import launch
from osp_fetch.model import events
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import FolderBusyError, SettingsError, StorageError
from osp_fetch.model.report import Report, Status
from osp_fetch.storage.folder.disk import Disk
from osp_fetch.storage.folder.layout import Layout
from osp_fetch.storage.folder.node_folders import collect, hand_over, mark_ended, node_folder
from osp_fetch.storage.folder.run_lock import RunLock
from osp_fetch.views import formatting
from tests.conftest import quick
from tests.fleet import tree
from tests.origin import Origin, Page, noise, polite, slow

Command = Callable[..., subprocess.CompletedProcess[str]]
MIB = 1 << 20


def manifest(folder: Path, origin: Origin, files: dict[str, bytes], fault: Any = None) -> Path:
    more = {"always": fault} if fault else {}
    place = folder / "list.txt"
    place.write_text("".join(f"{origin.add(name, data, **more)}\n" for name, data in files.items()))
    return place


def started(listed: Path, out: Path, *engine: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "osp_fetch", "get", str(listed), "-o", str(out), "-q", "-k", "1MiB"]
    return subprocess.Popen([*words, *(engine or ("--engine", "folder"))], cwd=listed.parent)


async def test_three_runs_fetch_each_file_once(origin: Origin, tmp_path: Path) -> None:
    files = {f"f{n:03}": noise(60_000 + n, n) for n in range(120)}
    listed = manifest(tmp_path, origin, files)
    ways = (["--engine", "folder"], ["--join"], ["--engine", "folder", "--shard", "auto"])
    runs = [started(listed, tmp_path / "out", *way) for way in ways]
    codes = await asyncio.gather(*(asyncio.to_thread(run.wait) for run in runs))
    assert codes == [0, 0, 0]
    assert tree(tmp_path / "out") == files
    assert set(origin.requests.values()) == {1}
    assert not (tmp_path / "out" / ".osp-fetch" / "join").exists()


async def test_a_file_that_failed_in_another_run_is_missing_for_all(origin: Origin, tmp_path: Path) -> None:
    files = {f"f{n:02}": noise(100_000 + n, n) for n in range(40)}
    listed = manifest(tmp_path, origin, files, slow(400_000))
    with listed.open("a") as more:
        more.write(f"{origin.url}/none\n")
    runs = [started(listed, tmp_path / "out", "--join", "-j", "2") for _ in range(2)]
    codes = await asyncio.gather(*(asyncio.to_thread(run.wait) for run in runs))
    assert codes == [1, 1]
    assert tree(tmp_path / "out") == files
    report = await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder())
    assert not any("--failed" in line for line in formatting.advice(report)), "it is refused there"


def written(state: Path) -> int:
    """Return the bytes on the disk of the partials; 0 if a run removes a folder just now."""
    try:
        return sum(place.stat().st_blocks * 512 for place in state.rglob("partial/large*"))
    except FileNotFoundError:
        return 0


async def test_the_share_of_a_killed_run_is_gone_on_with(origin: Origin, tmp_path: Path) -> None:
    files = {f"large{n}": noise(16 * MIB + n, n) for n in range(4)}
    listed = manifest(tmp_path, origin, files, slow(4 * MIB))
    first = started(listed, tmp_path / "out")
    state = tmp_path / "out" / ".osp-fetch"
    until = time.monotonic() + 60
    while written(state) < 8 * MIB:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    second = started(listed, tmp_path / "out")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert await asyncio.to_thread(second.wait) == 0
    assert tree(tmp_path / "out") == files


async def test_a_run_that_starts_later_finds_nothing_to_do(origin: Origin, tmp_path: Path) -> None:
    files = {f"f{n}": noise(5_000, n) for n in range(10)}
    listed = manifest(tmp_path, origin, files)
    first = await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder())
    assert first.counts[Status.FETCHED] == 10
    second = await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder())
    assert second.counts[Status.PRESENT] == 10
    plain = await fetch_all(listed, tmp_path / "out", settings=quick())
    assert plain.counts[Status.PRESENT] == 10


async def test_a_share_that_another_run_holds_is_waited_for(tmp_path: Path) -> None:
    calls: list[int] = []

    async def fetch(which: tuple[int, int]) -> Report:
        calls.append(which[0])
        if which[0] == 3 and calls.count(3) < 3:
            raise FolderBusyError("held")
        return Report()

    await fetch_shares(SharedRun(tmp_path, ["a"]), fetch)
    assert sorted(set(calls)) == list(range(32))
    assert calls.count(3) == 3


async def test_further_shares_begin_only_where_there_is_room_and_never_too_many(tmp_path: Path) -> None:
    running, most = set[int](), 0
    has_room = True

    async def fetch(which: tuple[int, int]) -> Report:
        nonlocal most
        running.add(which[0])
        most = max(most, len(running))
        while has_room and len(running) < AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5 if has_room else 0)  # longer than it takes to begin another one
        running.discard(which[0])
        return Report()

    await fetch_shares(SharedRun(tmp_path / "a", ["a"]), fetch, has_room=lambda runs: runs <= len(running))
    assert most == AT_ONCE
    most, has_room = 0, False
    await fetch_shares(SharedRun(tmp_path / "b", ["a"]), fetch, has_room=lambda _: False)
    assert most == 1


async def test_the_failure_of_one_share_ends_the_others_and_is_raised(tmp_path: Path) -> None:
    ended = list[int]()

    async def fetch(which: tuple[int, int]) -> Report:
        try:
            if len(running) == 3:
                raise StorageError("no disk")
            running.append(which[0])
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(which[0])
            raise StorageError("no disk for this one, either") from None
        return Report()

    running, reported = list[int](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    with pytest.raises(StorageError, match=r"no disk$"):
        await fetch_shares(SharedRun(tmp_path, ["a"]), fetch, has_room=lambda _: True)
    assert sorted(ended) == sorted(running)
    assert len(ended) == 3
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []  # by asyncio, as errors that were not retrieved


async def test_shares_of_one_run_overlap_and_have_their_connections_in_common(
    origin: Origin, command: Command, tmp_path: Path
) -> None:
    files = {f"f{n:02}": noise(200_000, n) for n in range(48)}
    run = started(manifest(tmp_path, origin, files, slow(200_000)), tmp_path / "out", "--join", "-j", "4")
    state = tmp_path / "out" / ".osp-fetch"
    added = None
    while run.poll() is None:
        if added is None and origin.seen:
            added = await asyncio.to_thread(command, "ctl", tmp_path / "out", "add", f"{origin.url}/f00")
        await asyncio.sleep(0.05)
    assert run.returncode == 0
    assert tree(tmp_path / "out") == files
    assert set(origin.requests.values()) == {1}
    assert origin.most_open <= 4
    assert added is not None
    assert added.returncode == 1
    assert "runs that share a folder fetch one manifest" in added.stderr
    turns = list[tuple[float, int]]()
    for place in state.glob("shards/*/events.jsonl"):
        for line in map(json.loads, place.read_text().splitlines()):
            if line["event"] in ("run started", "run ended"):
                turns.append((line["time"], 1 if line["event"] == "run started" else -1))
    open_now, most = 0, 0
    for _, change in sorted(turns):
        open_now += change
        most = max(most, open_now)
    assert 2 <= most <= AT_ONCE


def test_another_manifest_is_refused(tmp_path: Path) -> None:
    SharedRun(tmp_path, ["http://a.test/list?token=secret"]).join()
    with pytest.raises(SettingsError, match=r"fetches http://a\.test/list\?…,? this one b\.txt"):
        SharedRun(tmp_path, ["b.txt"]).join()
    written = [place.read_text() for place in (tmp_path / ".osp-fetch" / "join").iterdir()]
    assert not any("secret" in text for text in written)


def ended_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_what_a_run_has_done_counts_for_others_while_it_works(tmp_path: Path) -> None:
    first, second = SharedRun(tmp_path, ["a"]), SharedRun(tmp_path, ["a"])
    first.join()
    first.members.enter()
    first.end(3)
    second.join()
    assert second.is_done(3)
    assert not second.is_done(4)
    first.end(5)
    first.members.leave()
    assert second.is_done(5), "it was there when the share was done"
    later = SharedRun(tmp_path, ["a"])
    later.join()
    assert not later.is_done(3), "files may have been deleted since then"
    later.end(3)
    assert later.is_done(3)


def test_only_a_process_of_this_machine_is_known_to_have_ended() -> None:
    ended = member_name(ended_process())
    random, process, _ = ended.split(".")
    assert has_ended(ended)
    assert not has_ended(member_name(os.getpid()))
    assert not has_ended(f"{random}.{process}.another")
    assert not has_ended("0123456789abcdef")


def test_what_a_killed_run_has_done_does_not_count(tmp_path: Path) -> None:
    killed, later = SharedRun(tmp_path, ["a"]), SharedRun(tmp_path, ["a"])
    killed.members.name = member_name(ended_process())
    killed.join()
    (tmp_path / ".osp-fetch/join/members").mkdir()
    (tmp_path / ".osp-fetch/join/members" / killed.members.name).touch()
    killed.end(3)
    later.join()
    assert not later.is_done(3)


def test_the_session_of_another_list_is_replaced_once_its_runs_have_ended(tmp_path: Path) -> None:
    killed = SharedRun(tmp_path, ["a"], ["list of 30 rows"])
    killed.members.name = member_name(ended_process())
    killed.join()
    later = SharedRun(tmp_path, ["a"], ["list of 60 rows"])
    later.join()
    assert later.id != killed.id
    with pytest.raises(SettingsError, match="this one a with another content, or other checksum lists"):
        SharedRun(tmp_path, ["a"], ["list of 30 rows"]).join()


def test_a_fresh_link_file_is_the_same_list(tmp_path: Path) -> None:
    rows = [
        f"sa_{n:06}.tar\thttps://scontent.test/m1/v/t6/{n}.tar?_nc_gid&oh=00_A{{}}&oe=699024E8"
        for n in range(9)
    ]
    header, places = (
        "file_name\tcdn_link",
        [tmp_path / name for name in ("old", "fresh", "other", "plain", "less")],
    )
    old, fresh = [row.format("old") for row in rows], [row.format("new") for row in reversed(rows)]
    plain = ["a.tar\thttp://h/a?x=1", "b.tar\thttp://h/b"]
    for place, lines in zip(places, (old, fresh, old[1:], plain, plain[:1]), strict=True):
        place.write_text("\n".join([header, *lines]) + "\n")
    first, second, *others = contents([*map(str, places), "http://h/list", str(tmp_path)])
    assert first == second
    assert len({first, *others}) == 4


async def test_files_that_are_lost_after_a_stop_are_fetched_by_the_next_run(
    origin: Origin, tmp_path: Path
) -> None:
    files = {f"f{n:02}": noise(20_000, n) for n in range(60)}
    listed, out, stop = manifest(tmp_path, origin, files, slow(100_000)), tmp_path / "out", StopToken()
    fetched = []

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Finished):
            fetched.append(event.outcome.path)
            if len(fetched) == 20:
                stop.ask("test")

    report = await fetch_all(listed, out, engine=Folder(), observer=observe, stop=stop, settings=quick())
    assert report.stopped == "test"
    for path in fetched[:3]:
        (out / path).unlink()
    report = await fetch_all(listed, out, engine=Folder(), settings=quick())
    assert report.ok
    assert tree(out) == files


async def test_an_observer_sees_one_run_and_the_duration_is_that_of_all_shares(
    origin: Origin, tmp_path: Path
) -> None:
    files = {f"f{n}": noise(5_000, n) for n in range(40)}
    seen: list[events.Event] = []
    report = await fetch_all(
        manifest(tmp_path, origin, files), tmp_path / "out", settings=quick(), engine=Folder(),
        observer=seen.append,
    )  # fmt: skip
    kinds = Counter(type(each).__name__ for each in seen)
    assert (kinds["RunStarted"], kinds["RunEnded"], kinds["ManifestEnded"], kinds["Finished"]) == (
        1,
        1,
        1,
        40,
    )
    assert seen[-1] == events.RunEnded(report)
    slowly = manifest(tmp_path, origin, files, slow(2_000))
    short = await fetch_all(slowly, tmp_path / "other", settings=quick(), engine=Folder(), max_duration=3)
    assert short.stopped == "--max-duration"
    assert short.seconds < 30


@pytest.mark.parametrize("option", [{"shard": "0/2"}, {"page": "0"}, {"failed": "f.jsonl"}, {"name": "x"}])
async def test_options_of_a_single_run_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(option))} does not go with"):
        await fetch_all("list.txt", tmp_path, engine=Folder(), **option)


async def test_a_bucket_is_refused() -> None:
    with pytest.raises(SettingsError, match="a bucket does not go with"):
        await fetch_all("list.txt", "s3://bucket/x", engine=Folder())


def test_a_run_whose_lock_was_taken_publishes_nothing(tmp_path: Path) -> None:
    with RunLock(tmp_path, beat=0.0) as lock:
        lock.check()
        (tmp_path / "lock").write_text('{"token": "another"}')
        with pytest.raises(StorageError, match="another one has taken its place"):
            lock.check()


def test_the_partial_of_a_silent_holder_is_copied_and_that_of_an_ended_one_moved(tmp_path: Path) -> None:
    silent, ended, path = node_folder(tmp_path, "a"), node_folder(tmp_path, "b"), RelativePath("d/f")
    both = ((silent, "d/f"), (ended, "d/g"))
    for folder, name in both:
        place = folder / "partial" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(b"held")
    mark_ended(ended)
    before = {name: (folder / "partial" / name).stat().st_ino for folder, name in both}
    with (silent / "partial" / path).open("r+b") as late:
        collect(tmp_path)
        late.write(b"LATE")
    found = tmp_path / "partial"
    assert (found / "d/f").read_bytes() == b"held"
    assert (found / "d/f").stat().st_ino != before["d/f"]
    assert (found / "d/g").stat().st_ino == before["d/g"]
    assert not (tmp_path / "nodes").exists()
    hand_over(path, tmp_path, silent, moves=True)
    assert not (found / "d/f").exists()


def test_a_copy_of_a_partial_never_takes_the_place_of_another_files_partial(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, name, data in ((old, "a", b"aaaa"), (new, "a.copy", b"bbbb"), (new, "a.own", b"cccc")):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "partial" / name).write_bytes(data)
    hand_over(RelativePath("a"), old, new, moves=False)
    os.link(new / "partial/a", tmp_path / "second")
    layout = Layout(tmp_path, new, Disk())
    os.close(layout.open_partial(layout.partial(RelativePath("a")), str(tmp_path / "a"), fresh=False))
    assert tree(new / "partial") == {"a": b"aaaa", "a.copy": b"bbbb", "a.own": b"cccc"}


async def test_limits_are_those_of_all_runs_together(origin: Origin, tmp_path: Path) -> None:
    files = {f"f{n:02}": noise(40_000, n) for n in range(120)}

    async def after_a_moment(exchange: Exchange, page: Page) -> None:
        await asyncio.sleep(0.3)  # a request is over for the origin when it is over for the run
        await polite(exchange, page)

    listed = manifest(tmp_path, origin, files, after_a_moment)
    runs = [started(listed, tmp_path / "out", "--join", "-j", "6") for _ in range(3)]
    codes = await asyncio.gather(*(asyncio.to_thread(run.wait) for run in runs))
    assert codes == [0, 0, 0]
    assert tree(tmp_path / "out") == files
    assert origin.most_open <= 6


def test_members_see_each_other_until_they_leave(tmp_path: Path) -> None:
    first, second = Members(tmp_path), Members(tmp_path)
    first.enter()
    assert first.look() == (0, 1)
    first.confirm()
    assert first.is_confirmed()
    second.enter()
    try:
        assert sorted([first.look(), second.look()]) == [(0, 2), (1, 2)]
        assert not second.is_confirmed(), "the first one still uses all of the limits"
        first.confirm()
        assert second.is_confirmed()
    finally:
        second.leave()
    assert first.look() == (0, 1)
    first.leave()


def test_a_silent_member_is_counted_for_some_seconds_only(tmp_path: Path) -> None:
    mine = Members(tmp_path)
    mine.enter()
    (tmp_path / "members" / "killed").touch()
    try:
        until = time.monotonic() + 60
        assert mine.look()[1] == 2
        while mine.look()[1] == 2:
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        mine.leave()


async def test_commands_hold_for_the_shares_after_them(
    origin: Origin, command: Command, tmp_path: Path
) -> None:
    files = {f"f{n:02}": noise(30_000, n) for n in range(40)}
    run = started(manifest(tmp_path, origin, files, slow(60_000)), tmp_path / "out", "--join", "-j", "4")
    try:
        while not origin.seen:
            await asyncio.sleep(0.02)
        for words in (("connections", "2"), ("rate", "1MiB")):
            while (await asyncio.to_thread(command, "ctl", tmp_path / "out", *words)).returncode:
                assert run.poll() is None
        shares = set[str]()
        while len(shares) < 3:  # later ones begin with what was changed
            assert run.poll() is None, "it ended before three shares were seen"
            await asyncio.sleep(0.1)
            for place in (tmp_path / "out" / ".osp-fetch").glob("shards/*/status.json"):
                control = json.loads(place.read_text())["control"]
                if control and (control["connections"], control["rate"]) == (2, 1 << 20):
                    shares.add(place.parent.name)
    finally:
        run.kill()
        run.wait()


async def test_a_list_that_can_be_read_once_only_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in ("-", str(pipe)):
        with pytest.raises(SettingsError, match="write the list to a file"):
            await fetch_all(source, tmp_path / "out", settings=quick(), engine=Folder())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_held_bytes_are_gone_on_with_and_no_partial_is_left(
    origin: Origin, tmp_path: Path, number: signal.Signals
) -> None:
    data = noise(24 * MIB, 1)
    listed, out = manifest(tmp_path, origin, {"large": data}, slow(4 * MIB)), tmp_path / "out"
    first = started(listed, out, "--join", "-j", "2")
    until = time.monotonic() + 60
    while written(out / ".osp-fetch") < 12 * MIB:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    first.send_signal(number)
    await asyncio.to_thread(first.wait)
    asked = len(origin.seen)
    assert await asyncio.to_thread(started(listed, out, "--join").wait) == 0
    assert tree(out) == {"large": data}
    spans = [each.headers.get("range", "bytes=0-") for each in origin.seen[asked:]]
    assert not any(span.startswith("bytes=0-") for span in spans), spans
    assert not [place for place in (out / ".osp-fetch").rglob("*large*") if place.is_file()]


async def test_a_run_that_waits_for_shares_of_others_can_be_stopped(origin: Origin, tmp_path: Path) -> None:
    session = SharedRun(tmp_path, ["a"])
    stop = StopToken()

    async def fetch(_: tuple[int, int]) -> Report:
        raise FolderBusyError("held")

    waiting = asyncio.create_task(fetch_shares(session, fetch, stopping=stop))
    await asyncio.sleep(1)
    stop.ask("SIGTERM")
    async with asyncio.timeout(30):
        report = await waiting
    assert report.stopped == "SIGTERM"
    assert (tmp_path / ".osp-fetch" / "join" / "session.json").exists()


async def test_ctl_stop_reaches_a_run_that_waits_for_shares_of_others(
    tmp_path: Path, command: Command
) -> None:
    async def fetch(_: tuple[int, int]) -> Report:
        raise FolderBusyError("held")

    session = SharedRun(tmp_path, ["a"])
    waiting = asyncio.create_task(fetch_shares(session, fetch))
    while not (tmp_path / ".osp-fetch/join/session.json").exists():
        await asyncio.sleep(0.01)
    await asyncio.to_thread(command, "ctl", tmp_path, "stop")
    async with asyncio.timeout(30):
        report = await waiting
    assert report.stopped == "osp-fetch ctl stop"
    later = SharedRun(tmp_path, ["a"])
    later.join()
    assert not later.was_stopped(), "the next run is not the one that was meant"


async def test_shares_that_overlap_keep_the_mode_and_an_observer_that_raises_costs_nothing(
    origin: Origin, tmp_path: Path
) -> None:
    files = {f"f{n:02}": noise(40_000, n) for n in range(64)}
    calls = 0

    def observe(event: events.Event) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("observer")

    before = os.umask(0o022)
    os.umask(before)
    report = await fetch_all(
        manifest(tmp_path, origin, files, slow(200_000)), tmp_path / "out", engine=Folder(),
        settings={"storage": {"mode": "0660", "min_free": 0}}, observer=observe,
    )  # fmt: skip
    assert report.ok
    assert calls == 1
    assert sum("the observer" in note for note in report.notes) == 1
    assert os.umask(before) == before
    modes = {place.stat().st_mode & 0o777 for place in (tmp_path / "out").glob("f*")}
    assert modes == {0o660}


async def test_a_share_that_another_run_has_finished_meanwhile_is_not_fetched_again(
    origin: Origin, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, {"f": noise(5_000, 1)})
    session = SharedRun(tmp_path / "out", [str(listed)])
    session.join()
    for share in range(32):
        session.end(share)
    async with AsyncExitStack() as stack:
        joint = Joint(stack, session, again_of({}))
        report = await launch(str(listed), tmp_path / "out", {"shard": (0, 32)}, lambda _: None, joint=joint)
    assert sum(report.counts.values()) == 0
    assert not origin.requests


def test_a_lock_that_cannot_be_opened_for_lack_of_descriptors_is_not_lost(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with RunLock(tmp_path / ".osp-fetch", beat=0.01) as lock:
        opened = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        try:
            with suppress(OSError):
                while True:
                    opened.append(os.open("/dev/null", os.O_RDONLY))
            time.sleep(0.02)
            lock.check()
        finally:
            for each in opened:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_glob_of_again_is_looked_for_in_all_shares(origin: Origin, tmp_path: Path) -> None:
    listed = manifest(tmp_path, origin, {f"f{n}": noise(500, n) for n in range(6)})
    await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder())
    report = await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder(), again=["f3"])
    assert report.counts[Status.FETCHED] == 1
    assert not [note for note in report.notes if "--again" in note]
    none = await fetch_all(listed, tmp_path / "out", settings=quick(), engine=Folder(), again=["nothing"])
    assert [note for note in none.notes if "--again nothing matches no file" in note]
