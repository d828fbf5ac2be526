"""Tests of `plan --export`: what is written is read again, by osp-fetch and by the tools themselves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from osp_fetch import Entry, entry
from osp_fetch.inspection.export import FORMATS, Export, opened
from osp_fetch.model.errors import ManifestError, StorageError
from osp_fetch.model.protocols import Row
from osp_fetch.sources.checksums import Checksums
from osp_fetch.sources.resolve import Options, resolve
from tests.origin import Origin, noise

SHA, MD5 = "a" * 64, "b" * 32
ODD = 'd/#two <words> & "ü" 100%.bin'
Command = Callable[..., CompletedProcess[str]]

ROWS: list[Row] = [
    entry("plain.bin", "http://a.test/plain.bin", 5, f"md5:{MD5}"),
    entry("d/<two> & \"words\" 'ü'.bin", ["http://a.test/1?x=1&y=2", "https://b.test/1"], 7, f"sha256:{SHA}"),
    entry(
        "100%.bin", "http://a.test/100%25.bin", None, None, {"X-Kind": "7", "Authorization": "Bearer secret"}
    ),
    ManifestError("m:4: a bad row"),
    entry("#hash.bin", "http://a.test/%23hash.bin", 0, f"sha512:{'c' * 128}"),
    entry("crc.bin", "http://a.test/crc.bin", 1, "crc32c:0123abcd"),
]


def exported(kind: str, rows: list[Row]) -> tuple[str, list[str]]:
    file = io.BytesIO()
    export = Export(kind, file)
    assert list(export.passing(iter(rows))) == rows
    return file.getvalue().decode(), export.notes()


def again(folder: Path, name: str, text: str) -> dict[str, Entry]:
    place = folder / name
    place.write_text(text)
    found = list(resolve(place, Options()).rows)  # type: ignore[arg-type]
    assert all(isinstance(row, Entry) for row in found), found
    return {row.path: row for row in found if isinstance(row, Entry)}


def test_aria2_and_metalink_come_back_as_the_same_entries(tmp_path: Path) -> None:
    for kind, name in (("aria2", "list"), ("metalink", "list.meta4")):
        text, notes = exported(kind, ROWS)
        found = again(tmp_path, name, text)
        entries = [row for row in ROWS if isinstance(row, Entry)]
        assert set(found) == {row.path for row in entries}
        for row in entries:
            other = found[row.path]
            assert other.urls == row.urls
            assert other.digest == (None if row.path == "crc.bin" else row.digest)
            assert kind == "aria2" or other.size == row.size
        assert f"{kind}: the digests of 1 files are not written" in " ".join(notes)
        assert "secret" not in text
    assert again(tmp_path, "list", exported("aria2", ROWS)[0])["100%.bin"].headers == (("X-Kind", "7"),)


def test_a_transfer_list_comes_back_with_what_it_can_hold(tmp_path: Path) -> None:
    text, notes = exported("tsvhttp", ROWS)
    assert text.splitlines()[:2] == [
        "TsvHttpData-1.0",
        "http://a.test/plain.bin\t5\tu7u7u7u7u7u7u7u7u7u7uw==",
    ]
    rows = [row for row in ROWS if isinstance(row, Entry)]
    found = again(tmp_path, "list", text)
    assert {row.urls[0] for row in found.values()} == {row.urls[0] for row in rows}
    by_url = {row.urls[0]: row for row in found.values()}
    assert by_url["http://a.test/plain.bin"].digest == rows[0].digest
    assert [by_url[row.urls[0]].size for row in rows] == [row.size for row in rows]
    said = " ".join(notes)
    for what in ("the digests of 3", "the mirrors of 1", "the headers of 1", "the paths of 1"):
        assert f"tsvhttp: {what} files are not written" in said


def test_sums_hold_the_files_with_a_sha256_and_name_the_others(tmp_path: Path) -> None:
    text, notes = exported("sha256sums", ROWS)
    assert text == f"{SHA}  d/<two> & \"words\" 'ü'.bin\n"
    assert notes == ["sha256sums: 4 files are left out: the manifest states no SHA-256 of them"]
    assert Checksums.of(text.splitlines(), "sums").digests.keys() == {ROWS[1].path}  # type: ignore[union-attr]


def test_names_that_a_format_cannot_hold_are_left_out_and_counted() -> None:
    rows: list[Row] = [entry(" blank", "http://a.test/1"), entry("x\ufffe", "http://a.test/2")]
    text, notes = exported("aria2", rows)
    assert " blank" not in text
    assert notes == ["aria2: 1 files are left out: aria2 drops the blanks at the ends of their names"]
    text, notes = exported("metalink", rows)
    assert "\ufffe" not in text
    assert "1 files are left out" in notes[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_pass_one_by_one(kind: str) -> None:
    """A list of any length is written while it is read."""
    file, read = io.BytesIO(), 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for n in range(1000):
            read += 1
            yield entry(f"{n}", f"http://a.test/{n}", 1, f"sha256:{SHA}")

    passing = Export(kind, file).passing(rows())
    for n in range(1000):
        next(passing)
        assert read == n + 1
    assert file.getvalue().count(b"\n") >= 1000


def test_a_file_appears_when_it_is_complete_and_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "list"
    place.write_text("old")
    with pytest.raises(StorageError, match="exists"), opened(str(place), io.BytesIO()):
        pass
    assert place.read_text() == "old"
    with opened(str(place), io.BytesIO(), overwrite=True) as file:
        file.write(b"new")
        file.flush()
        assert place.read_text() == "old"
    assert place.read_text() == "new"
    assert stat.S_IMODE(place.stat().st_mode) == 0o666 & ~_umask()
    with suppress(ManifestError), opened(str(place), io.BytesIO(), overwrite=True) as file:
        file.write(b"half")
        raise ManifestError("the manifest ends here")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("list", "new")]
    for wrong in (str(tmp_path), str(tmp_path / "none/list")):
        with (
            pytest.raises(StorageError, match=r"--export: .* choose another place"),
            opened(wrong, io.BytesIO()),
        ):
            pass


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# the command line


def manifest(folder: Path, origin: Origin) -> Path:
    lines = []
    for n, name in enumerate(("a.bin", ODD, "c.bin")):
        data = noise(1000 + n, n)
        url = origin.add(f"{n}/x", data)
        digest = {} if name == "c.bin" else {"sha256": hashlib.sha256(data).hexdigest()}
        lines.append(json.dumps({"path": name, "url": url, "size": len(data), **digest}))
    place = folder / "m.jsonl"
    place.write_text("\n".join(lines))
    return place


async def test_get_takes_what_plan_exported(origin: Origin, tmp_path: Path, command: Command) -> None:
    place = manifest(tmp_path, origin)
    for kind, name in (("aria2", "l.txt"), ("metalink", "l.meta4")):
        done = await asyncio.to_thread(command, "plan", place, "--export", kind, name, "--exclude", "c.bin")
        assert done.returncode == 0, done.stderr
        done = await asyncio.to_thread(command, "get", name, "-o", kind)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / kind / ODD).read_bytes() == noise(1001, 1)
        assert not (tmp_path / kind / "c.bin").exists()


async def test_coreutils_and_aria2_read_the_lists(origin: Origin, tmp_path: Path, command: Command) -> None:
    place = manifest(tmp_path, origin)
    done = await asyncio.to_thread(command, "get", place, "-o", "out")
    assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(command, "plan", place, "--export", "sha256sums", "sums")
    assert "1 files are left out" in done.stdout
    if tool := shutil.which("sha256sum"):
        checked = run(
            [tool, "--strict", "-c", "../sums"], cwd=tmp_path / "out", capture_output=True, check=True
        )
        assert checked.stdout.decode().count(": OK") == 2
    if tool := shutil.which("aria2c"):
        await asyncio.to_thread(command, "plan", place, "--export", "aria2", "list")
        words = [tool, "-i", "list", "-d", "aria2", "--no-conf", "-q"]
        process = await asyncio.create_subprocess_exec(*words, cwd=tmp_path)
        assert await process.wait() == 0
        assert (tmp_path / "aria2" / ODD).read_bytes() == noise(1001, 1)


async def test_the_list_on_stdout_is_alone_there(origin: Origin, tmp_path: Path, command: Command) -> None:
    place = manifest(tmp_path, origin)
    done = await asyncio.to_thread(command, "plan", place, "--export", "tsvhttp", "-", "--json")
    assert done.stdout.startswith("TsvHttpData-1.0\nhttp://127.0.0.1:")
    assert done.stdout.count("\n") == 4
    assert json.loads(done.stderr)["files"] == 3
    done = await asyncio.to_thread(command, "plan", place, "--export", "csv", "-")
    assert done.returncode == 2
    done = await asyncio.to_thread(command, "plan", place, "--export", "aria2", "no/such/list")
    assert done.returncode == 3
    assert "choose another place" in done.stderr
