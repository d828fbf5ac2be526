"""Tests of the delivery of notices: over HTTP, to commands, and to what hangs, fails or never ends."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.model import events
from osp_fetch.model.report import Report
from osp_fetch.model.settings import Notify
from osp_fetch.storage.folder.disk import Disk
from osp_fetch.views.apprise_child import without_secrets
from osp_fetch.views.board import Board
from osp_fetch.views.delivery import Channel, Target, close_all
from osp_fetch.views.free_space import FreeSpace
from osp_fetch.views.notice import Kind, trial_notice
from osp_fetch.views.notices import Notices
from osp_fetch.views.notify import Notifier, look_at
from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start

SECRET = "s3cr3tt0k3n"


class Sink:
    """An HTTP server that keeps what is posted to it, or never answers."""

    def __init__(self, *, hangs: bool = False, status: int = 200) -> None:
        self.posts: list[dict[str, Any]] = []
        self.asked = threading.Event()
        self.over = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.posts.append(json.loads(body))
                sink.asked.set()
                if hangs:
                    sink.over.wait()
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"json://user:{SECRET}@127.0.0.1:{self.server.server_address[1]}/{SECRET}"


@contextmanager
def sink(*, hangs: bool = False, status: int = 200) -> Iterator[Sink]:
    made = Sink(hangs=hangs, status=status)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@pytest.fixture(autouse=True)
def needs_apprise() -> None:
    pytest.importorskip("apprise")


def lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text().splitlines()]


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


NOTICE = trial_notice("/data", "node7", 1.0)


def test_a_service_and_a_command_get_the_notice(tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    with sink() as server:
        targets = [Target.of_url(server.url), Target.of_command(f"cat >> {shlex.quote(str(place))}")]
        channels = [Channel(target, 30.0) for target in targets]
        for channel in channels:
            channel.put(NOTICE)
        assert close_all(channels, 30.0) == []
        (post,) = server.posts
    assert (post["title"], post["type"]) == (NOTICE.title, "info")
    assert NOTICE.text in post["message"]
    assert lines(place) == [NOTICE.row()]


@pytest.mark.parametrize(
    ("command", "why"),
    [("exit 3", "exit status 3"), ("exec /absent", "exit status 127"), ("kill -9 $$", "exit status -9")],
)
def test_a_command_that_fails_is_a_note_at_the_end(command: str, why: str) -> None:
    channel = Channel(Target.of_command(command), 30.0)
    channel.put(NOTICE)
    (note,) = close_all([channel], 30.0)
    assert why in note
    assert "1 of 1 notices" in note


def test_a_command_that_never_ends_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 1000 & echo $$ $! > {shlex.quote(str(pids))}; wait"
    channel = Channel(Target.of_command(command), 0.5)
    channel.put(NOTICE)
    (note,) = close_all([channel], 60.0)
    assert "was ended" in note
    numbers = [int(word) for word in pids.read_text().split()]
    assert len(numbers) == 2
    deadline = time.monotonic() + 30
    while any(map(alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, numbers))


def test_a_command_that_reads_nothing_is_no_failure() -> None:
    channel = Channel(Target.of_command("exec 0<&-; exit 0"), 30.0)
    for _ in range(3):
        channel.put(NOTICE)
    assert close_all([channel], 30.0) == []


def test_a_service_that_hangs_delays_neither_the_others_nor_the_end_for_long(tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    with sink(hangs=True) as silent:
        hanging = Channel(Target.of_url(silent.url), 1000.0)
        other = Channel(Target.of_command(f"cat >> {shlex.quote(str(place))}"), 30.0)
        for channel in (hanging, other):
            channel.put(NOTICE)
        assert silent.asked.wait(30)
        other.close(time.monotonic() + 30)
        assert lines(place) == [NOTICE.row()]
        (note,) = close_all([hanging], 0.0)
    assert "the run ended before" in note
    assert SECRET not in note


def test_a_channel_that_hangs_keeps_few_notices_and_never_blocks(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    channel = Channel(Target.of_command(f"touch {shlex.quote(str(begun))}; sleep 1000"), 1000.0)
    for _ in range(10_000):
        channel.put(NOTICE)
    assert channel._queue.qsize() <= 20
    (note,) = close_all([channel], 0.0)
    assert channel.lost == 10_000
    assert "10000 of 10000" in note.replace(",", "")


def test_a_message_of_a_service_is_shown_without_the_parts_of_its_address() -> None:
    url = f"tgram://123456789:{SECRET}/-100200300?silent=yes"
    said = without_secrets(f"POST /bot123456789:{SECRET}/send?x=1 to -100200300 refused", url)
    assert SECRET not in said
    assert "123456789" not in said
    assert "refused" in said


def test_nothing_is_told_before_a_run_begins_and_after_it_has_ended(tmp_path: Path) -> None:
    place, now = tmp_path / "notices.jsonl", 0.0
    board = Board(clock=lambda: now, wall=lambda: now)
    channel = Channel(Target.of_command(f"cat >> {shlex.quote(str(place))}"), 30.0)
    notifier = Notifier(board, Notices(Notify(stalled=10.0), "/d", "m"), [channel], wall=lambda: now)

    def at(when: float, *seen: events.Event) -> None:
        nonlocal now
        now = when
        for event in seen:
            board(event)
            notifier(event)
        notifier.tick()

    at(0, events.FolderWaiting("another run"))
    at(100)
    at(101, events.RunStarted("/d"))
    at(120)
    at(121, events.RunEnded(Report()))
    at(500)
    notifier.ended(Report(), None, 0)
    assert notifier.close(30.0) == []
    assert [line["event"] for line in lines(place)] == ["begun", "stalled", "done"]


def test_what_is_left_is_estimated_where_the_manifest_states_no_sizes() -> None:
    """The link file of SA-1B states none: a thousand tars of about 10 GB each."""
    board, size = Board(), 10 << 30
    board(events.RowsRead(1000, 0, 0, 9e9))
    assert (look_at(board, 5.0, 7).left, look_at(board, 5.0, 7).known) == (None, "At least")
    board(events.ManifestEnded())
    for number in range(3):
        board(events.FileBegun(f"{number}.tar", size, None, 0))
    board(events.Wrote("0.tar", size, "h"))
    look = look_at(board, 5.0, 7)
    assert (look.left, look.known, look.expires, look.room) == (999 * size, "About", 9e9, 7)
    board = Board()
    board(events.RowsRead(1000, 1000, 1000 * size, None))
    board(events.ManifestEnded())
    assert (look_at(board, 5.0, None).left, look_at(board, 5.0, None).known) == (1000 * size, "")


def test_a_disk_that_does_not_answer_delays_nothing() -> None:
    class Hanging(Disk):
        def __init__(self) -> None:
            self.over, self.asked = threading.Event(), threading.Event()

        def free(self, folder: Path) -> int:
            self.asked.set()
            self.over.wait()
            return 5

    disk = Hanging()
    with FreeSpace(Path("/"), disk) as space:
        assert disk.asked.wait(30)
        assert space.free is None
        assert space.beside(3)() is None
    disk.over.set()
    space._thread.join(30)
    assert space.beside(3)() == 2


# ---- the command line


def recorder(place: Path) -> str:
    return f"cat >> {shlex.quote(str(place))}"


async def test_get_tells_a_service_and_a_command_of_its_begin_and_end(origin: Origin, tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    url = origin.add("a.bin", noise(1000))
    gone = origin.add("gone.bin", b"", always=o.status(404))
    (tmp_path / "m.txt").write_text(f"{url}\n{gone}\n")
    with sink() as server:
        words = ["m.txt", "-o", "out", *QUICK, "--notify", server.url, "--on-event", recorder(place)]
        code, _, err = await get("get", *words, cwd=tmp_path)
        posts = server.posts
    assert code == 1, err
    assert [line["event"] for line in lines(place)] == ["begun", "failed"]
    assert [post["title"] for post in posts] == ["osp-fetch: begun", "osp-fetch: 1 file missing at the end"]
    end = lines(place)[-1]
    assert end["facts"]["counts"] == {"fetched": 1, "present": 0, "parked": 0, "failed": 1}
    assert end["facts"]["exit_code"] == 1
    assert "404" in end["text"]
    assert SECRET not in err
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


async def test_a_shard_says_which_one_it_is(origin: Origin, tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    (tmp_path / "m.txt").write_text("\n".join(origin.add(f"f{n}", noise(9, n)) for n in range(4)))
    words = ["m.txt", "-o", "out", *QUICK, "--shard", "1/2", "--on-event", recorder(place)]
    code, _, _ = await get("get", *words, cwd=tmp_path)
    assert code == 0
    assert [line["event"] for line in lines(place)] == ["begun", "done"]
    assert {line["place"] for line in lines(place)} == {f"{tmp_path / 'out'} (shard 1 of 2)"}


async def test_a_notifier_that_hangs_costs_no_file_and_the_run_ends(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("a.bin", noise(1000))
    with sink(hangs=True) as server:
        words = [url, "-o", "out", *QUICK, "--notify", server.url, "--set", "notify.timeout=300ms"]
        code, _, err = await get("get", *words, "--on-event", "sleep 1000", cwd=tmp_path)
    assert code == 0
    assert (tmp_path / "out/a.bin").read_bytes() == noise(1000)
    assert err.count("notices could not be delivered") == 2
    assert SECRET not in err


async def test_a_run_that_cannot_begin_and_one_that_is_stopped_are_told(
    origin: Origin, tmp_path: Path
) -> None:
    place = tmp_path / "notices.jsonl"
    code, _, _ = await get("get", "absent.tsv", "-o", "out", "--on-event", recorder(place), cwd=tmp_path)
    assert code == 2
    assert [(line["event"], line["facts"]) for line in lines(place)] == [("failed", {"exit_code": 2})]
    assert "absent.tsv" in lines(place)[0]["text"]
    place.unlink()
    url = origin.add("slow.bin", noise(1_000_000), always=o.slow(10_000))
    words = [url, "-o", "out", *QUICK, "--on-event", recorder(place)]
    process = await start("get", *words, cwd=tmp_path)
    while not place.exists() or not place.read_text().endswith("\n"):
        await asyncio.sleep(0.02)
    process.terminate()
    await process.communicate()
    assert [line["event"] for line in lines(place)] == ["begun", "stopped"]
    assert lines(place)[-1]["facts"]["exit_code"] == 75


async def test_dead_links_and_fresh_ones_are_told_by_a_run(tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    (tmp_path / "links.py").write_text(
        "import sys; sys.exit(4)\n"  # the command for fresh links fails
    )
    async with o.serving() as origin:
        url = origin.add("a.tar", b"x", always=o.status(403)) + "?oh=00_x&oe=6"
        (tmp_path / "links.tsv").write_text(f"file_name\tcdn_link\na.tar\t{url}\n")
        command = f"{shlex.quote(sys.executable)} links.py"
        words = ["links.tsv", "-o", "out", *QUICK, "--links-command", command, "--on-event", recorder(place)]
        code, _, err = await get("get", *words, cwd=tmp_path)
    assert code == 4, err
    assert [line["event"] for line in lines(place)] == ["begun", "links command failed", "failed"]
    assert "oh=" not in place.read_text()


async def test_links_that_will_not_last_are_told_while_the_run_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "notices.jsonl"
    async with o.serving() as origin:
        url = origin.add("a.tar", noise(3_000_000), always=o.slow(20_000))
        expires = int(time.time()) + 60
        row = {"path": "a.tar", "url": f"{url}?oh=00_x&oe={expires:X}", "size": 3_000_000}
        (tmp_path / "m.jsonl").write_text(json.dumps(row))
        words = ["m.jsonl", "-o", "out", "-x", "1", "--set", "notify.pace=1s", "--on-event", recorder(place)]
        process = await start("get", *words, *QUICK, cwd=tmp_path)
        while not (place.exists() and "links dying" in place.read_text()):
            await asyncio.sleep(0.1)
            assert process.returncode is None
        process.terminate()
        await process.communicate()
    (notice,) = [line for line in lines(place) if line["event"] == "links dying"]
    assert notice["facts"]["expires"] == expires
    assert 1_000_000 < notice["facts"]["short"] < 3_000_000
    assert notice["place"] == str(tmp_path / "out")
    assert "oh=" not in place.read_text()


async def test_notify_tests_each_target_and_says_which_one_fails(tmp_path: Path) -> None:
    with sink() as good, sink(status=500) as bad:
        words = ["notify", "--test", good.url, "--notify", bad.url, "--on-event", "echo no; exit 3"]
        code, out, err = await get(*words, cwd=tmp_path)
        assert [post["title"] for post in good.posts] == ["osp-fetch: a test"]
    assert code == 1
    assert out == "json://…: delivered\n"
    assert "exit status 3: no" in err
    assert "500" in err
    assert SECRET not in out + err
    code, out, _ = await get("notify", cwd=tmp_path)
    assert code == 0
    assert {kind.value for kind in Kind} == {line[:22].strip() for line in out.splitlines()}


async def test_addresses_come_from_a_file_and_the_environment_and_never_into_messages(tmp_path: Path) -> None:
    with sink() as first, sink() as second:
        (tmp_path / "urls").write_text(f"# mine\n{first.url}\n\n")
        environment = {"OSP_FETCH_NOTIFY": second.url}
        code, _, err = await get("notify", "--test", "@urls", cwd=tmp_path, environment=environment)
        assert (code, len(first.posts), len(second.posts)) == (0, 1, 1), err
    for words in (["--notify", f"nosuch://{SECRET}"], ["--notify", SECRET], ["--notify", "@absent"]):
        code, out, err = await get("get", "http://127.0.0.1:9/a", *words, cwd=tmp_path)
        assert code == 2
        assert SECRET not in out + err
        assert "--notify" in err


async def test_a_kind_that_does_not_exist_is_said_before_the_run(tmp_path: Path) -> None:
    words = ["--on-event", "cat", "--metrics", "0", "--set", "notify.kinds=dead links"]
    code, _, err = await get("get", "http://127.0.0.1:9/a", "-o", "out", *words, cwd=tmp_path)
    assert code == 2
    assert "links dead" in err
    assert not (tmp_path / "out").exists()


def test_without_apprise_the_message_names_the_extra(without: Any) -> None:
    done = without({"apprise"}, "get", "http://127.0.0.1:9/a", "--notify", "json://h/x")
    assert done.returncode == 2
    assert "osp-fetch[notify]" in done.stderr


def test_the_address_is_no_argument_of_a_process(tmp_path: Path) -> None:
    with sink(hangs=True) as server:
        channel = Channel(Target.of_url(server.url), 1000.0)
        channel.put(NOTICE)
        assert server.asked.wait(30)
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        pids = [pid for place in children for pid in place.read_text().split()]
        words = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        close_all([channel], 0.0)
    assert words
    assert not any(SECRET.encode() in each for each in words)
