"""Tests of the output folder under attack and after it vanishes: nothing is written elsewhere."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from osp_fetch import Event, Status, entry, fetch_all
from osp_fetch.connections.buffers import Buffers
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.engine.context import Context
from osp_fetch.engine.run import Run
from osp_fetch.model import events
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import FolderBusyError, Remedy, StorageError
from osp_fetch.model.report import Outcome
from osp_fetch.network.transport import HttpTransport
from osp_fetch.storage.folder.disk import Disk
from osp_fetch.storage.folder.run_lock import RunLock, owners_of
from osp_fetch.storage.folder.space import Space
from osp_fetch.storage.folder.store import FolderStore
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.simulated import Power, SimulatedDisk, SimulatedLedger

QUICK = quick()


@pytest.mark.parametrize("place", ["d", ".osp-fetch/partial/d"])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
async def test_a_link_that_leaves_the_folder_is_not_followed(
    origin: Origin, tmp_path: Path, place: str, target: str
) -> None:
    out, outside = tmp_path / "out", tmp_path / target
    if target == "elsewhere":
        outside.mkdir()
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).symlink_to(outside)
    rows = [entry("d/f", origin.add("f", noise(10))), entry("g", origin.add("g", noise(10)))]
    report = await fetch_all(rows, out, settings=QUICK)
    assert (report.counts[Status.FAILED], report.counts[Status.FETCHED]) == (1, 1)
    assert "symbolic link" in str(report.failures[0].error)
    assert list(tmp_path.rglob("f")) == []


async def test_a_link_within_the_folder_is_not_followed_either(origin: Origin, tmp_path: Path) -> None:
    """Otherwise two rows would share one file."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "x").symlink_to(".")
    rows = [entry(f"{d}/f", origin.add(d, noise(10, n))) for n, d in enumerate("ab")]
    rows.append(entry("x/l", origin.add("l", noise(10))))
    report = await fetch_all(rows, tmp_path, settings=QUICK)
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (1, 2)
    assert (tmp_path / "b/f").read_bytes() == noise(10, 1)


async def test_a_partial_of_another_manifest_is_not_in_the_way(origin: Origin, tmp_path: Path) -> None:
    for left, wanted in (("a", "a/b"), ("c/d", "c")):
        place = tmp_path / ".osp-fetch/partial" / left
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"left")
        os.utime(place, (1e9, 1e9))
        assert (await fetch_all([entry(wanted, origin.add("f", noise(10)))], tmp_path, settings=QUICK)).ok


async def test_a_link_under_the_final_name_is_replaced_and_what_it_leads_to_is_left(
    origin: Origin, tmp_path: Path
) -> None:
    out, outside = tmp_path / "out", tmp_path / "precious"
    outside.write_bytes(b"precious")
    out.mkdir()
    (out / "f").symlink_to(outside)
    assert (await fetch_all([entry("f", origin.add("f", noise(10)))], out, settings=QUICK)).ok
    assert outside.read_bytes() == b"precious"
    assert not (out / "f").is_symlink()


async def test_a_folder_that_vanishes_is_not_made_anew(origin: Origin, tmp_path: Path) -> None:
    """If a disk is unmounted in mid-run, further writes would fill the disk below the mount point."""
    out = tmp_path / "out"

    def observe(event: Event) -> None:
        if isinstance(event, events.Finished) and out.exists():
            out.rename(tmp_path / "unmounted")

    rows = [entry(f"d{n}/f{n}", origin.add(f"f{n}", noise(5000, n))) for n in range(300)]
    with pytest.raises(StorageError, match="no longer the folder it was") as raised:
        await fetch_all(rows, out, settings=QUICK, observer=observe)
    assert raised.value.remedy is Remedy.ABORT
    assert not out.exists()


async def test_a_path_too_long_for_the_disk_costs_its_row(origin: Origin, tmp_path: Path) -> None:
    deep = "/".join(["x" * 250] * 15) + "/" + "y" * 130
    tmp_path /= "o" * 200
    rows = [entry(deep, origin.add("f", noise(10))), entry("g", origin.add("g", noise(10)))]
    report = await fetch_all(rows, tmp_path, settings=QUICK)
    assert (report.counts[Status.FAILED], report.counts[Status.FETCHED]) == (1, 1)
    assert "File name too long" in str(report.failures[0].error)


async def test_few_descriptors_mean_fewer_connections_and_not_failures(
    origin: Origin, tmp_path: Path
) -> None:
    lines = [origin.add(f"f{n}", noise(20_000, n)) for n in range(300)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    words = f"ulimit -n 100; exec {sys.executable} -m osp_fetch get m.txt -o out -q -j 64 -x 64 --min-free 0"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", words, cwd=tmp_path, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said
    assert origin.most_open <= 10


async def test_what_a_run_leaves_behind_is_its_owners(origin: Origin, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        report = await fetch_all([entry("d/f", origin.add("f", noise(10)))], tmp_path / "out", settings=QUICK)
    finally:
        os.umask(old)
    assert report.ok
    assert stat.S_IMODE((tmp_path / "out/.osp-fetch").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out/.osp-fetch/events.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out/d/f").stat().st_mode) == 0o666


@pytest.mark.parametrize("alive", [True, False])
def test_a_lock_left_by_another_host_counts_while_that_lives(tmp_path: Path, alive: bool) -> None:
    """If flock works on one host only, the touched lock file of the other host counts as a lock."""
    state = tmp_path / ".osp-fetch"
    state.mkdir()
    lock = state / "lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": 0}))
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.01):
            os.utime(lock)

    other = threading.Thread(target=live)
    if alive:
        other.start()
    try:
        if alive:
            with pytest.raises(FolderBusyError, match="elsewhere"), RunLock(state, beat=0.1):
                pass
        else:
            with RunLock(state, beat=0.1):
                assert "elsewhere" not in lock.read_text()
    finally:
        over.set()
        if alive:
            other.join()


def test_the_runs_of_other_hosts_are_those_whose_locks_are_touched(tmp_path: Path) -> None:
    states = [tmp_path / ".osp-fetch/shards" / f"{number}-of-4" for number in range(1, 5)]
    for state, host in zip(states, ("dead", "left", "alive", "none"), strict=True):
        state.mkdir(parents=True)
        (state / "lock").write_text(json.dumps({"pid": 1, "host": host, "since": 0}))
    (states[3] / "lock").write_text("")
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.01):
            os.utime(states[2] / "lock")

    other = threading.Thread(target=live)
    with RunLock(states[1], beat=0.1):  # a run of this host has the folder that another one left
        other.start()
        try:
            dead, here, alive, none = owners_of(states, beat=0.1)
        finally:
            over.set()
            other.join()
    assert (dead, none) == (None, None)
    assert f"process {os.getpid()}" in (here or "")
    assert "on alive" in (alive or "")


def test_a_lock_shows_that_it_lives(tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    with RunLock(state, beat=0.01):
        first = (state / "lock").stat().st_mtime_ns
        waited = threading.Event()
        for _ in range(500):
            if (state / "lock").stat().st_mtime_ns != first:
                break
            waited.wait(0.01)
        else:
            pytest.fail("the lock file was not touched within five seconds")


def test_a_run_that_lost_its_lock_while_frozen_leaves_that_of_its_successor(tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    other = json.dumps({"pid": 1, "host": "elsewhere", "since": 1, "token": "of another run"})
    with RunLock(state, beat=0.1):
        (state / "lock").write_text(other)  # as a run on another host does after the silence
    assert (state / "lock").read_text() == other
    with RunLock(state, beat=0.1):
        pass
    assert (state / "lock").read_text() == ""


async def test_names_that_differ_in_case_are_one_where_the_disk_says_so(origin: Origin) -> None:
    out = Path("/out")
    disk = SimulatedDisk(Power(1 << 30), folding=True)
    ledger, outcomes = SimulatedLedger(Power(1 << 30)), list[Outcome]()
    async with (
        FolderStore(out, out / ".osp-fetch", QUICK.storage, disk) as store,
        HttpTransport(QUICK.limits, QUICK.retry, QUICK.timeouts) as transport,
    ):
        context = Context(
            transport,
            store,
            ledger,
            ConnectionPool(QUICK.limits),
            Buffers(QUICK.limits),
            QUICK,
            lambda _: None,
        )
        names = ["a.bin", "A.bin", "b/C.bin", "B/c.bin", "d.bin"]
        rows = [entry(name, origin.add(f"f{n}", noise(100, n))) for n, name in enumerate(names)]
        await Run(context, outcomes.append).fetch(rows)
    failed = {o.path: str(o.error) for o in outcomes if o.status is Status.FAILED}
    assert set(failed) == {"A.bin", "B/c.bin"}
    assert "the same as a.bin" in failed["A.bin"]
    assert bytes(disk.names[out / "a.bin"].data) == noise(100, 0)


async def test_a_folder_on_a_disk_that_is_read_only_is_one_sentence_and_exit_3(
    origin: Origin, tmp_path: Path
) -> None:
    place = tmp_path / "ro"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "osp_fetch", "get", origin.add("f", b"x"), "-o", str(place / "out"), "-q",
            stderr=subprocess.PIPE, env=dict(os.environ),
        )  # fmt: skip
        _, said = await process.communicate()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    assert process.returncode == 3
    assert b"Read-only file system" in said
    assert len(said.strip().splitlines()) == 1


async def test_what_two_connections_wrote_at_one_place_is_hashed_as_it_lies_on_the_disk(
    tmp_path: Path,
) -> None:
    ours, twins = noise(100_000, 1), noise(100_000, 2)
    (tmp_path / ".osp-fetch").mkdir()
    async with FolderStore(tmp_path, tmp_path / ".osp-fetch", QUICK.storage) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True)
        await asyncio.gather(*(partial.write(0, memoryview(data)) for data in (ours, twins)))
        partial.hashing.advance(len(ours), len(ours))
        digests, _ = await partial.hashing.digests(len(ours))
        await partial.publish(len(ours))
        await partial.close()
    assert digests["sha256"] == hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest()


class _CountedDisk(Disk):
    """The real disk, which counts the bytes that are read from files."""

    count = 0

    def read(self, fd: int, block: memoryview, offset: int) -> int:
        found = super().read(fd, block, offset)
        self.count += found
        return found


class _FullDisk(Disk):
    """The real disk, with `left` bytes free; it counts how often it is asked."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left, self.asked = left, 0

    def free(self, folder: Path) -> int:
        self.asked += 1
        return self.left


async def test_space_is_reserved_from_a_recent_answer_and_refused_only_after_a_new_one(
    tmp_path: Path,
) -> None:
    disk = _FullDisk(10 << 20)
    space = Space(disk, tmp_path, 0)
    assert not space.surely(1), "the disk was not asked yet"
    space.take(1 << 20)
    assert space.surely(9 << 20)
    assert not space.surely((9 << 20) + 1), "what is written is not free"
    space.reserved = 5 << 20
    assert space.surely(4 << 20)
    assert not space.surely(5 << 20), "what is reserved is not free"
    assert disk.asked == 1


async def test_bytes_written_in_order_are_hashed_without_being_read_again(tmp_path: Path) -> None:
    data, disk = noise(3 << 20, 1), _CountedDisk()
    (tmp_path / ".osp-fetch").mkdir()
    async with FolderStore(tmp_path, tmp_path / ".osp-fetch", QUICK.storage, disk) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True)
        for at in range(0, len(data), 1 << 20):
            await partial.write(at, memoryview(data)[at : at + (1 << 20)], len(data))
            partial.hashing.advance(at + (1 << 20), len(data))
        digests, _ = await partial.hashing.digests(len(data))
        await partial.publish(len(data))
        await partial.close()
    assert digests["sha256"] == hashlib.sha256(data).hexdigest()
    assert disk.count == 0


class _OnceFull(Disk):
    """The real disk, on which the rename to `f` fails once the file of the user was moved aside."""

    def rename_new(self, place: Path | str, final: Path | str) -> None:
        if "partial" in str(place) and str(final).endswith("/f") and not Path(final).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().rename_new(place, final)


async def test_a_file_of_the_user_comes_back_if_the_new_one_cannot_take_its_name(tmp_path: Path) -> None:
    (tmp_path / ".osp-fetch").mkdir()
    (tmp_path / "f").write_bytes(b"mine")
    async with FolderStore(tmp_path, tmp_path / ".osp-fetch", QUICK.storage, _OnceFull()) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True)
        await partial.write(0, memoryview(b"new"), 3)
        partial.hashing.advance(3, 3)
        await partial.hashing.digests(3)
        with pytest.raises(StorageError):
            await partial.publish(3)
        await partial.close()
    assert (tmp_path / "f").read_bytes() == b"mine"
