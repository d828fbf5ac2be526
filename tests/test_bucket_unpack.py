"""Tests of unpacking in a bucket, against a real SeaweedFS server. Not run on AWS."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.held import Held
from tests.origin import Origin, noise

MIB = 1 << 20
Command = Callable[..., subprocess.CompletedProcess[str]]
Pack = Callable[[Mapping[str, bytes]], bytes]
FILES = {
    "a.jpg": noise(30_000, 1),
    "a.json": b"{}",
    "sub/b.jpg": noise(9 * MIB, 2),
    "sub/b.json": b"[]",
    "no": b"",
}


def tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return out.getvalue()


def stamps(held: Held, prefix: str) -> dict[str, object]:
    """Return the time of each object: a new one has another."""
    pages = held.client.get_paginator("list_objects_v2").paginate(Bucket=held.bucket, Prefix=prefix)
    return {
        row["Key"]: (row["LastModified"], row["ETag"]) for page in pages for row in page.get("Contents", [])
    }


def manifest(folder: Path, origin: Origin, **archives: bytes) -> Path:
    """Serve archives, `_` in a name standing for its dot, and return a list of their links."""
    links = [origin.add(name.replace("_", "."), data) for name, data in archives.items()]
    place = folder / "list.txt"
    place.write_text("".join(f"{link}\n" for link in links))
    return place


def content(held: Held, prefix: str) -> dict[str, bytes]:
    """Return the objects below a prefix, without those of osp-fetch itself."""
    keys = [key for key in held.every(prefix) if "/.osp-fetch/" not in f"/{key}"]
    return {key.removeprefix(prefix): held.data(key) for key in keys}


class Run:
    """Runs commands that unpack into the bucket."""

    def __init__(self, command: Command, bucket: str, folder: Path) -> None:
        self._command, self.target, self.state = command, f"s3://{bucket}", folder / "state"

    async def get(self, listed: Path, *more: str) -> subprocess.CompletedProcess[str]:
        words = ("get", listed, "-o", self.target, "--unpack", "--into", "out", "--state", self.state, *more)
        return await asyncio.to_thread(self._command, *words)

    async def other(self, *words: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self._command, *words, "--state", self.state)


@pytest.fixture
def run(command: Command, bucket: str, tmp_path: Path) -> Run:
    return Run(command, bucket, tmp_path)


@pytest.mark.parametrize("pack", [tar, zipped, lambda files: gzip.compress(tar(files))])
async def test_members_become_objects_and_are_not_unpacked_again(
    run: Run, origin: Origin, held: Held, tmp_path: Path, pack: Pack
) -> None:
    listed = manifest(tmp_path, origin, x_tar=pack(FILES))
    done = await run.get(listed)
    assert done.returncode == 0, done.stderr
    assert "unpacked: x.tar: 5 files" in done.stderr
    assert content(held, "out/") == FILES
    marked = json.loads(held.data(".osp-fetch/unpacked/x.tar.json"))
    assert (marked["members"], marked["deleted"]) == (5, False)
    times = stamps(held, "out/")
    again = await run.get(listed)
    assert again.returncode == 0, again.stderr
    assert "unpacked:" not in again.stderr
    assert stamps(held, "out/") == times
    assert held.uploads() == []


async def test_a_member_that_was_deleted_comes_back_and_the_others_are_not_uploaded(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    assert (await run.get(listed)).returncode == 0
    times = stamps(held, "out/")
    held.client.delete_object(Bucket=held.bucket, Key="out/a.json")
    assert (await run.get(listed)).returncode == 0
    assert content(held, "out/") == FILES
    now = stamps(held, "out/")
    del times["out/a.json"], now["out/a.json"]
    assert now == times


async def test_a_killed_unpacking_is_continued(run: Run, origin: Origin, held: Held, tmp_path: Path) -> None:
    files = {f"m{n:03}": noise(200_000 + n, n) for n in range(150)} | FILES
    listed = manifest(tmp_path, origin, x_tar=tar(files))
    fetched = await run.other("get", str(listed), "-o", run.target)
    assert fetched.returncode == 0, fetched.stderr
    for least in (5, 40, 100):
        words = [sys.executable, "-m", "osp_fetch", "unpack", run.target, "--into", "out"]
        process = subprocess.Popen(
            [*words, "--state", str(run.state)], start_new_session=True, stderr=subprocess.DEVNULL
        )
        while len(held.every("out/")) < least and process.poll() is None:
            await asyncio.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert all(files[name] == data for name, data in content(held, "out/").items())
        with pytest.raises(held.client.exceptions.NoSuchKey):
            held.data(".osp-fetch/unpacked/x.tar.json")
    times = stamps(held, "out/")
    done = await run.other("unpack", run.target, "--into", "out")
    assert done.returncode == 0, done.stderr
    assert content(held, "out/") == files
    assert held.uploads() == []
    kept = [name for name, when in stamps(held, "out/").items() if times.get(name) == when]
    assert len(kept) >= len(times) - 1  # one may have been there without being noted: it was compared


async def test_a_killed_unpacking_of_a_repeated_member_is_continued(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    """The later member of a name wins; on continuing, the earlier one meets the object of the later one."""
    files = {f"m{n:03}": noise(200_000 + n, n) for n in range(100)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in [("twice", b"first"), ("twice", b"second time"), *files.items()]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    listed = manifest(tmp_path, origin, x_tar=packed.getvalue())
    assert (await run.other("get", str(listed), "-o", run.target)).returncode == 0
    words = [sys.executable, "-m", "osp_fetch", "unpack", run.target, "--into", "out"]
    process = subprocess.Popen(
        [*words, "--state", str(run.state)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    while len(held.every("out/")) < 20 and process.poll() is None:
        await asyncio.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = await run.other("unpack", run.target, "--into", "out")
    assert done.returncode == 0, done.stderr
    assert content(held, "out/") == files | {"twice": b"second time"}


async def test_members_of_two_archives_do_not_overwrite_each_other(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    small = {"m.txt": b"of the tar", "big": noise(9 * MIB, 1)}
    large = {"m.txt": b"of x", "big": noise(9 * MIB)}
    listed = manifest(tmp_path, origin, x_tar=tar(small), y_zip=zipped(large))
    done = await run.get(listed, "--overwrite", "--delete-after")
    assert done.returncode == 1
    assert done.stderr.count("an object that osp-fetch did not write has this name") >= 1
    assert content(held, "out/") in (small, large)
    assert len([key for key in held.every() if key in ("x.tar", "y.zip")]) == 1


async def test_without_the_journal_right_members_are_kept(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    assert (await run.get(listed)).returncode == 0
    times = stamps(held, "out/")
    held.client.delete_object(Bucket=held.bucket, Key=".osp-fetch/unpacked/x.tar.json")
    assert (await run.get(listed)).returncode == 0
    assert stamps(held, "out/") == times


async def test_a_deleted_archive_is_not_fetched_again(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    done = await run.get(listed, "--delete-after")
    assert done.returncode == 0, done.stderr
    assert "and deleted" in done.stderr
    assert "x.tar" not in held.every()
    asked = origin.requests["/x.tar"]
    again = await run.get(listed, "--delete-after")
    assert again.returncode == 0, again.stderr
    assert origin.requests["/x.tar"] == asked
    checked = await run.other("verify", run.target)
    assert checked.returncode == 0, checked.stderr
    held.client.delete_object(Bucket=held.bucket, Key="out/a.json")
    lost = await run.get(listed, "--delete-after")
    assert lost.returncode == 1
    assert "--again 'x.tar*'" in lost.stderr


async def test_verify_names_what_a_deleted_archive_has_lost(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    assert (await run.get(listed, "--delete-after")).returncode == 0
    whole = await run.other("verify", run.target)
    assert whole.returncode == 0, whole.stderr
    held.client.delete_object(Bucket=held.bucket, Key="out/a.json")
    for more in ([], ["--read"]):
        lost = await run.other("verify", run.target, *more)
        assert lost.returncode == 1
        assert "members missing of x.tar" in lost.stdout
        assert "out/a.json" in lost.stdout


async def test_a_broken_archive_has_no_mark(run: Run, origin: Origin, held: Held, tmp_path: Path) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES)[:-2000])
    done = await run.get(listed)
    assert done.returncode == 1
    assert "broken: x.tar" in done.stderr
    assert not [key for key in held.every() if "unpacked" in key]
    kept = content(held, "out/")
    kept.pop("x.tar", None)
    assert all(FILES[name] == data for name, data in kept.items())
    assert f"{len(kept)} members before that are in the bucket" in done.stderr


async def test_an_object_of_another_program_is_kept(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    held.put("out/a.jpg", b"mine")
    held.put("out/sub/b.jpg", b"mine, too")
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    done = await run.get(listed)
    assert done.returncode == 1
    assert "an object that osp-fetch did not write has this name" in done.stderr
    assert held.data("out/a.jpg") == b"mine"
    assert held.data("out/sub/b.jpg") == b"mine, too"


async def test_a_new_version_of_an_archive_replaces_its_members(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, x_tar=tar(FILES))
    assert (await run.get(listed)).returncode == 0
    new = FILES | {"a.jpg": noise(30_001, 7), "sub/b.jpg": noise(9 * MIB, 8)}
    origin.add("x.tar", tar(new))
    done = await run.get(listed, "--again", "x.tar")
    assert done.returncode == 0, done.stderr
    assert content(held, "out/") == new


async def test_a_member_that_occurs_twice_is_the_later_one(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for data in (b"first", b"second"):
            info = tarfile.TarInfo("a")
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    done = await run.get(manifest(tmp_path, origin, x_tar=out.getvalue()))
    assert done.returncode == 0, done.stderr
    assert content(held, "out/") == {"a": b"second"}


async def test_members_are_regrouped_into_tars(run: Run, origin: Origin, held: Held, tmp_path: Path) -> None:
    files = {f"{n:03}.{kind}": noise(100_000 + n, n) for kind in ("jpg", "json") for n in range(60)}
    listed = manifest(tmp_path, origin, x_tar=tar(files))
    done = await run.get(listed, "--format", "webdataset", "--shard-size", "5MiB")
    assert done.returncode == 0, done.stderr
    tars = content(held, "out/")
    assert len(tars) > 2
    found: dict[str, bytes] = {}
    for data in tars.values():
        with tarfile.open(fileobj=io.BytesIO(data)) as made:
            keys = [name.split(".")[0] for name in made.getnames()]
            assert keys == sorted(keys)
            for info in made:
                file = made.extractfile(info)
                assert file is not None
                found[info.name] = file.read()
    assert found == files
    assert held.uploads() == []
    times = stamps(held, "out/")
    assert (await run.get(listed, "--format", "webdataset", "--shard-size", "5MiB")).returncode == 0
    assert stamps(held, "out/") == times


async def test_the_pieces_of_a_split_archive_are_read_as_one(
    run: Run, origin: Origin, held: Held, tmp_path: Path
) -> None:
    data = tar(FILES)
    pieces = {"x.tar.aa": data[: 4 * MIB], "x.tar.ab": data[4 * MIB :]}
    place = tmp_path / "list.txt"
    place.write_text("".join(f"{origin.add(name, part)}\n" for name, part in pieces.items()))
    done = await run.get(place)
    assert done.returncode == 0, done.stderr
    assert content(held, "out/") == FILES
