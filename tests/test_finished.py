"""Tests of `finished`: files and samples in order of publication, while real runs add more of them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from osp_fetch import FinishedFile, FinishedSample, fetch_all, finished, finished_objects
from osp_fetch.demo import media
from osp_fetch.demo.server import Exchange
from osp_fetch.model.errors import SettingsError, StorageError
from osp_fetch.storage.folder.run_lock import RunLock
from osp_fetch.storage.ledger.sqlite import PUBLICATIONS
from osp_fetch.storage.ordered_log import OrderedLog
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.test_cli import QUICK, get, start

# A consumer: prints path and position of each item. Its last argument is the position to continue from.
CONSUMER = """
import sys
from osp_fetch import finished
samples = sys.argv[2] == "samples"
after = sys.argv[3] or None
for each in finished(sys.argv[1], follow=True, samples=samples, after=after, interval=0.05, wait=60):
    print(each.key if samples else each.path, each.position, sep="\\t", flush=True)
"""


@asynccontextmanager
async def consumer(
    folder: Path, kind: str = "files", after: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a consumer as a process, which is killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONSUMER, str(folder), kind, after, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Return path and position of the next item that a consumer has received."""
    assert process.stdout is not None
    path, _, position = (await process.stdout.readline()).decode().rstrip("\n").partition("\t")
    return path, position


async def rest(process: asyncio.subprocess.Process) -> list[str]:
    """Return the paths of all items until the consumer ends by itself."""
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [each.partition("\t")[0] for each in out.decode().splitlines()]


class Gates:
    """Pages of an origin that are served when the test opens them."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._gates: dict[str, asyncio.Event] = {}

    def add(self, name: str, data: bytes) -> str:
        gate = self._gates[name] = asyncio.Event()

        async def fault(exchange: Exchange, page: o.Page) -> None:
            await gate.wait()
            await o.polite(exchange, page)

        return self._origin.add(name, data, always=fault)

    def open(self, *names: str) -> None:
        for name in names or self._gates:
            self._gates[name].set()


@pytest.fixture
async def gates(origin: Origin) -> AsyncIterator[Gates]:
    made = Gates(origin)
    yield made
    made.open()


def manifest(place: Path, urls: dict[str, str]) -> Path:
    place.write_text("path,url\n" + "".join(f"{path},{url}\n" for path, url in urls.items()))
    return place


def published(folder: Path) -> list[str]:
    """Return the paths in the log of publications."""
    text = (folder / ".osp-fetch" / PUBLICATIONS).read_text()
    return [json.loads(each)[1] for each in text.splitlines()]


def paths(folder: Path, after: str | None = None) -> list[str]:
    return [each.path for each in finished(folder, after=after)]


# files


async def test_files_come_in_order_of_publication_with_size_and_digest(gates: Gates, tmp_path: Path) -> None:
    data = {f"d/{name}": noise(1000 + n, n) for n, name in enumerate("abc")}
    urls = {path: gates.add(path, each) for path, each in data.items()}
    running = asyncio.create_task(
        fetch_all(str(manifest(tmp_path / "m.csv", urls)), tmp_path / "out", settings=quick())
    )
    found: list[FinishedFile] = []
    gates.open("d/b")
    following = {"d/b": "d/c", "d/c": "d/a"}
    async for each in finished(tmp_path / "out", follow=True, interval=0.05, wait=30):
        found.append(each)
        assert each.place.read_bytes() == data[each.path]
        if each.path in following:
            gates.open(following[each.path])
    await running
    assert [each.path for each in found] == ["d/b", "d/c", "d/a"]
    assert [each.size for each in found] == [len(data[each.path]) for each in found]
    assert all(f"sha256:{each.digests['sha256']}" == sha256(data[each.path]) for each in found)
    assert list(finished(tmp_path / "out")) == found
    assert paths(tmp_path / "out", found[0].position) == ["d/c", "d/a"]
    assert paths(tmp_path / "out", found[-1].position) == []


async def test_a_consumer_that_was_killed_continues_by_position(gates: Gates, tmp_path: Path) -> None:
    names = [f"f{n}" for n in range(8)]
    urls = {name: gates.add(name, noise(5000, n)) for n, name in enumerate(names)}
    place, out = manifest(tmp_path / "m.csv", urls), tmp_path / "out"
    async with consumer(out) as waits_for_the_run:
        run = await start("get", place, "-o", out, "-q", *QUICK, cwd=tmp_path)
        gates.open(*names[:3])
        seen = [await line(waits_for_the_run) for _ in range(3)]
    gates.open(*names[3:5])
    async with consumer(out, after=seen[-1][1]) as second:
        seen += [await line(second) for _ in range(2)]
        gates.open()
        await run.communicate()
        everything = [path for path, _ in seen] + await rest(second)
    assert run.returncode == 0
    assert everything == published(out)
    assert sorted(everything) == names


async def test_a_run_that_is_killed_and_run_again_gives_each_file_once(
    gates: Gates, origin: Origin, tmp_path: Path
) -> None:
    names = [f"f{n}" for n in range(60)]
    urls = {name: gates.add(name, noise(3000 + n, n)) for n, name in enumerate(names)}
    urls["large"] = origin.add("large", noise(600_000, 99), o.slow(300_000))
    place, out = manifest(tmp_path / "m.csv", urls), tmp_path / "out"
    async with consumer(out) as process:
        found: list[str] = []
        for kill in range(3):
            run = await start("get", place, "-o", out, "-q", *QUICK, cwd=tmp_path)
            gates.open(*names[kill * 20 : kill * 20 + 10])
            found += [(await line(process))[0] for _ in range(10)]
            gates.open(*names[kill * 20 + 10 : kill * 20 + 20])
            run.send_signal(signal.SIGKILL)
            await run.communicate()
            while len(found) < len(published(out)):
                found.append((await line(process))[0])
        code, _, err = await get("get", place, "-o", out, "-q", *QUICK, cwd=tmp_path)
        assert (code, err) == (0, "")
        found += await rest(process)
    assert found == published(out)
    assert sorted(found) == sorted(urls)


async def test_what_was_changed_or_removed_is_left_out_and_a_newer_file_comes_again(
    origin: Origin, tmp_path: Path
) -> None:
    old, out = {"ETag": '"1"'}, tmp_path / "out"
    urls = {
        name: origin.add(name, name.encode() * 500, headers=old) for name in ("kept", "new", "gone", "own")
    }
    place = manifest(tmp_path / "m.csv", urls)
    await fetch_all(str(place), out, settings=quick())
    before = list(finished(out))
    assert sorted(each.path for each in before) == sorted(urls)
    (out / "gone").unlink()
    (out / "own").write_bytes(b"edited")
    assert sorted(paths(out)) == ["kept", "new"]
    origin.add("new", b"newer", headers={"ETag": '"2"'})
    await fetch_all(f"{origin.url}/new", out, update=True, settings=quick())
    assert paths(out, before[-1].position) == ["new"]
    assert sorted(paths(out)) == ["kept", "new"]


async def test_shards_are_merged_and_the_iteration_ends_when_all_have_ended(
    gates: Gates, tmp_path: Path
) -> None:
    names = [f"f{n}" for n in range(6)]
    place = manifest(
        tmp_path / "m.csv", {name: gates.add(name, noise(100, n)) for n, name in enumerate(names)}
    )
    out = tmp_path / "out"

    async def shard(index: int) -> None:
        await fetch_all(str(place), out, shard=(index, 2), settings=quick())

    gates.open(*names[::2])
    async with consumer(out) as process:
        first = asyncio.create_task(shard(0))
        found = [(await line(process))[0] for _ in range(len(names[::2]))]
        second = asyncio.create_task(shard(1))
        gates.open()
        await asyncio.gather(first, second)
        found += await rest(process)
    assert sorted(found) == names
    positions = [each.position for each in finished(out)]
    assert len(json.loads(positions[-1])["files"]) == 2
    for at, position in enumerate(positions):
        assert len(paths(out, position)) == len(names) - at - 1


async def test_without_follow_it_ends_although_a_run_adds_files_faster_than_they_are_read(
    origin: Origin, tmp_path: Path
) -> None:
    await fetch_all([origin.add(name, name.encode()) for name in "abc"], tmp_path, settings=quick())
    log, seen = OrderedLog(tmp_path / ".osp-fetch" / PUBLICATIONS), []
    for each in finished(tmp_path):
        seen.append(each.path)
        assert len(seen) < 9
        added = tmp_path / f"added {len(seen)}"
        added.write_bytes(b"x")
        log.append([[time.time_ns(), added.name, 1, added.stat().st_mtime_ns, {}]])
    assert sorted(seen) == ["a", "b", "c"]


async def test_files_of_another_run_in_the_folder_are_adopted_once(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", b"content")
    (tmp_path / "f").write_bytes(b"content")
    place = tmp_path / "m.jsonl"
    place.write_text(json.dumps({"path": "f", "url": url, "sha256": sha256(b"content").partition(":")[2]}))
    for _ in range(2):
        await fetch_all(str(place), tmp_path, settings=quick())
    assert paths(tmp_path) == ["f"]


# the end


async def ends(folder: Path, wait: float) -> list[str]:
    """Follow a folder to the end, within the time limit of the test."""
    return [each.path async for each in finished(folder, follow=True, interval=0.05, wait=wait)]


async def test_it_ends_at_once_after_a_run_that_ended_by_itself(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.add("f", b"x"), f"{origin.url}/absent"]
    await fetch_all(urls, tmp_path, settings=quick())
    assert await ends(tmp_path, wait=3600) == ["f"]


async def test_a_shard_that_was_given_up_does_not_count_after_an_unsharded_run(
    origin: Origin, tmp_path: Path
) -> None:
    urls = [origin.add(name, name.encode()) for name in "abcd"]
    place, out = manifest(tmp_path / "m.csv", {url[-1]: url for url in urls}), tmp_path / "out"
    await fetch_all(str(place), out, shard=(0, 2), settings=quick())
    assert len(await ends(out, wait=0.2)) < 4
    killed = {"pid": 1, "host": "another-machine", "since": 1, "token": "0"}
    (out / ".osp-fetch" / "shards" / "0-of-2" / "lock").write_text(json.dumps(killed))
    await fetch_all(str(place), out, settings=quick())
    assert {*await ends(out, wait=3600)} == set("abcd")


async def test_without_a_run_it_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    assert await ends(tmp_path / "absent", wait=0.2) == []
    assert await ends(tmp_path, wait=0) == []


async def test_after_a_run_that_was_stopped_it_waits_for_the_next(gates: Gates, tmp_path: Path) -> None:
    urls = {name: gates.add(name, name.encode()) for name in "ab"}
    place, out = manifest(tmp_path / "m.csv", urls), tmp_path / "out"
    gates.open("a")
    async with consumer(out) as process:
        run = await start("get", place, "-o", out, "-q", *QUICK, cwd=tmp_path)
        assert (await line(process))[0] == "a"
        run.terminate()
        await run.communicate()
        assert run.returncode == 75
        gates.open()
        assert (await get("get", place, "-o", out, "-q", *QUICK, cwd=tmp_path))[0] == 0
        assert await rest(process) == ["b"]


async def test_it_waits_while_another_machine_holds_the_lock(origin: Origin, tmp_path: Path) -> None:
    await fetch_all(origin.add("f", b"x"), tmp_path, settings=quick())
    state = tmp_path / ".osp-fetch"
    with RunLock(state):
        lock = json.loads((state / "lock").read_text())
        (state / "lock").write_text(json.dumps({**lock, "host": "another-machine"}))
        held = asyncio.create_task(ends(tmp_path, wait=3600))
        done, _ = await asyncio.wait({held}, timeout=1)
        assert not done
    assert await held == ["f"]


# arguments


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="use finished_objects"):
        finished("s3://bucket/prefix")
    with pytest.raises(SettingsError, match="this is no bucket"):
        finished_objects(str(tmp_path))
    with pytest.raises(SettingsError, match="not the position of one of the files"):
        finished(tmp_path, after='{"samples": {}}')
    for after in (
        '{"files": {".": "x"}}',
        '{"files": {".": []}}',
        '{"files": {".": null}}',
        "[]",
        "null",
        "x",
    ):
        with pytest.raises(SettingsError, match="not the position of one of the files"):
            finished(tmp_path, after=after)
    for after in (
        '{"samples": {"host": 5}}',
        '{"samples": {"host": [5]}}',
        '{"samples": {"host": ["x", 0]}}',
    ):
        with pytest.raises(SettingsError, match="not the position of one of the samples"):
            finished(tmp_path, samples=True, after=after)
    with pytest.raises(SettingsError, match=r"interval=0: pass at least 0\.05 seconds"):
        finished(tmp_path, interval=0)
    with pytest.raises(SettingsError, match="wait='soon'"):
        finished(tmp_path, wait="soon")


async def test_records_without_an_order_are_reported(origin: Origin, tmp_path: Path) -> None:
    await fetch_all(origin.add("f", b"x"), tmp_path, settings=quick())
    (tmp_path / ".osp-fetch" / PUBLICATIONS).unlink()
    with pytest.raises(StorageError, match="run the same get again"):
        list(finished(tmp_path))


async def test_a_log_that_a_run_has_not_created_yet_is_not_missed(origin: Origin, tmp_path: Path) -> None:
    await fetch_all(origin.add("f", b"x"), tmp_path, settings=quick())
    (tmp_path / ".osp-fetch" / PUBLICATIONS).unlink()
    with RunLock(tmp_path / ".osp-fetch"):
        assert paths(tmp_path) == []


OTHER_USER = """
import os, sys
from osp_fetch import FinishedFile, StorageError, finished
items = finished(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    print(list(items))
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("folder", [".osp-fetch", ".osp-fetch/shards"])
async def test_state_that_another_user_cannot_read_is_reported(origin: Origin, folder: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # other users can reach it, unlike `tmp_path`
        out = Path(name)
        out.chmod(0o755)
        await fetch_all(origin.add("f", b"x"), out, shard=(0, 1), settings=quick())
        (out / ".osp-fetch").chmod(0o755)
        (out / folder).chmod(0)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHER_USER, name, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        (out / folder).chmod(0o700)
    assert f"{out / folder} cannot be read: Permission denied" in said.decode()


# samples


def tars(origin: Origin, folder: Path, count: int = 3) -> Path:
    urls = {f"sa_{n:06}.tar": origin.add(f"{n}", media.sa1b_tar(n, 300_000)) for n in range(count)}
    return manifest(folder / "m.csv", urls)


def samples(folder: Path, after: str | None = None) -> list[FinishedSample]:
    return list(finished(folder, samples=True, after=after))


async def test_samples_of_unpacked_archives_come_once_while_they_are_unpacked(
    origin: Origin, tmp_path: Path
) -> None:
    place, out = tars(origin, tmp_path), tmp_path / "out"
    async with consumer(out, "samples") as first:
        run = await start("get", place, "-o", out, "--unpack", "--delete-after", "-q", *QUICK, cwd=tmp_path)
        seen = [await line(first) for _ in range(7)]
    async with consumer(out, "samples", seen[-1][1]) as second:
        everything = [key for key, _ in seen] + await rest(second)
    await run.communicate()
    assert run.returncode == 0
    pictures = [each.relative_to(out).as_posix().removesuffix(".jpg") for each in out.rglob("sa_*.jpg")]
    assert sorted(everything) == sorted(pictures)
    found = samples(out)
    assert [each.key for each in found] == everything
    assert all(each.files.keys() == {"jpg", "json"} for each in found)
    assert all(place == out / f"{each.key}.{name}" for each in found for name, place in each.files.items())
    for at in (0, 4, 5, len(found) - 1):
        assert samples(out, found[at].position) == found[at + 1 :]


async def test_samples_of_an_archive_that_was_unpacked_again_come_once(
    origin: Origin, tmp_path: Path
) -> None:
    place, out = tars(origin, tmp_path, 1), tmp_path / "out"
    words: list[str | Path] = ["get", place, "-o", out, "--unpack", "-q", *QUICK]
    run = await start(*words, cwd=tmp_path)
    assert await run.wait() == 0
    before = {sample.key for sample in samples(out)}
    origin.add("0", media.sa1b_tar(0, 200_000), headers={"ETag": '"2"'})
    run = await start(*words, "--update", cwd=tmp_path)
    assert await run.wait() == 0
    keys = [sample.key for sample in samples(out)]
    assert (len(keys), set(keys) <= before) == (len(set(keys)), True)
    assert keys


async def test_a_sample_of_which_a_file_is_gone_is_left_out(origin: Origin, tmp_path: Path) -> None:
    assert (await get("get", tars(origin, tmp_path, 1), "-o", "out", "--unpack", "-q", *QUICK, cwd=tmp_path))[
        0
    ] == 0
    found = samples(tmp_path / "out")
    found[1].files["json"].unlink()
    assert [each.key for each in samples(tmp_path / "out")] == [each.key for each in (found[:1] + found[2:])]


async def test_tars_of_webdataset_come_as_samples(origin: Origin, tmp_path: Path) -> None:
    words = ("-o", "out", "--unpack", "--format", "webdataset", "--shard-size", "200kB", "-q", *QUICK)
    assert (await get("get", tars(origin, tmp_path, 1), *words, cwd=tmp_path))[0] == 0
    found = samples(tmp_path / "out")
    assert len(found) > 1
    assert all(list(each.files) == ["tar"] and each.files["tar"].is_file() for each in found)
