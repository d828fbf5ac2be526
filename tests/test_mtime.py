"""Tests that the server's Last-Modified becomes the modification time, and that files are known by it."""

from __future__ import annotations

import json
import os
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from osp_fetch import Entry, Settings, Status, entry, fetch_all
from osp_fetch.inspection.verify import verify_folder
from osp_fetch.storage.publishing.batch import modification_time
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get

STAMP = "Tue, 15 Nov 1994 12:45:26 GMT"
WHEN = 784_903_526
SIZES = {"small": 1000, "parted": 300_000}


def rows_of(origin: Origin, stamp: str | None = STAMP, *, digest: bool = False) -> list[Entry]:
    rows = []
    for name, size in SIZES.items():
        url = origin.add(name, noise(size), headers={"Last-Modified": stamp} if stamp else {})
        rows.append(entry(name, url, None, o.sha256(noise(size)) if digest else None))
    return rows


def times(folder: Path) -> set[int]:
    return {(folder / name).stat().st_mtime_ns for name in SIZES}


@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("settings", [{}, {"limits": {"processes": 2}}, {"storage": {"durability": "none"}}])
async def test_files_get_the_time_of_the_server(
    origin: Origin, tmp_path: Path, settings: dict[str, dict[str, object]], digest: bool
) -> None:
    rows, made = rows_of(origin, digest=digest), quick(**settings)
    assert (await fetch_all(rows, tmp_path, settings=made)).ok
    assert times(tmp_path) == {WHEN * 10**9}
    assert all(time.time() - (tmp_path / name).stat().st_atime < 3600 for name in SIZES)
    asked = origin.requests.total()
    report = await fetch_all(rows, tmp_path, settings=made)
    assert (report.counts[Status.PRESENT], origin.requests.total()) == (2, asked)
    assert {checked.verdict for checked in verify_folder(tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    "stamp",
    [None, "yesterday", formatdate(time.time() + 86_400, usegmt=True), "Thu, 01 Jan 1970 00:00:00 GMT", "0"],
    ids=["none", "a word", "tomorrow", "1970", "a number"],
)
async def test_a_date_that_cannot_be_true_is_ignored(
    origin: Origin, tmp_path: Path, stamp: str | None
) -> None:
    begun = time.time() - 2
    assert (await fetch_all(rows_of(origin, stamp), tmp_path, settings=quick())).ok
    assert all(begun < mtime / 1e9 < time.time() + 2 for mtime in times(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STAMP, WHEN),
        ("Tuesday, 15-Nov-94 12:45:26 GMT", WHEN),  # RFC 850
        ("Tue Nov 15 12:45:26 1994", WHEN),  # asctime
        ("Tue, 15 Nov 1994 13:45:26 +0100", WHEN),
        ("Tue, 15 Nov 1994 12:45:26 -0000", WHEN),
        ("Tue, 45 Nov 1994 12:45:26 GMT", None),
        ("Tue, 15 Nov 1994 99:45:26 GMT", None),
        ("Tue, 15 Nov 99999999 12:45:26 GMT", None),
        ("Fri, 13 Dec 1901 20:45:52 GMT", None),
        ("Wed, 01 Jan 2200 00:00:00 GMT", None),
        ("", None),
        ("\x00", None),
    ],
)
def test_dates_are_read_in_every_form_that_http_allows(text: str, expected: int | None) -> None:
    assert modification_time(text, 2e9) == (expected * 10**9 if expected else None)


@pytest.mark.parametrize("words", [["--no-mtime"], ["--set", "storage.mtime=local"]])
async def test_the_local_time_is_kept_on_request(origin: Origin, tmp_path: Path, words: list[str]) -> None:
    begun = time.time() - 2
    (tmp_path / "m.txt").write_text("\n".join(row.urls[0] for row in rows_of(origin)))
    code, _, said = await get("get", "m.txt", "-o", "out", *words, *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert min(times(tmp_path / "out")) / 1e9 > begun
    code, _, said = await get("get", "m.txt", "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, "2 present" in said) == (0, True), "other settings do not make a finished file another one"


async def test_many_small_files_get_it_from_the_helper_process(origin: Origin, tmp_path: Path) -> None:
    origin.add("f", noise(100), headers={"Last-Modified": STAMP})
    rows = [entry(f"f{n}", f"{origin.url}/f") for n in range(1500)]
    assert (await fetch_all(rows, tmp_path, settings=quick())).ok
    assert {(tmp_path / row.path).stat().st_mtime_ns for row in rows} == {WHEN * 10**9}
    asked = origin.requests.total()
    report = await fetch_all(rows, tmp_path, settings=quick())
    assert (report.counts[Status.PRESENT], origin.requests.total()) == (1500, asked)


async def test_a_changed_file_is_still_seen_and_a_repaired_one_gets_the_time_again(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(20 << 20)
    row = entry("f", origin.add("f", data, headers={"Last-Modified": STAMP, "ETag": '"1"'}))
    settings = Settings.load(("t", {"storage": {"min_free": 0}}))
    assert (await fetch_all([row], tmp_path / "out", settings=settings)).ok
    place = tmp_path / "out/f"
    with place.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"damage")
    os.utime(place, (WHEN, WHEN))  # the disk damaged it, not the user
    code, _, _ = await get("verify", "out", "--repair", cwd=tmp_path)
    assert code == 1
    report = await fetch_all([row], tmp_path / "out", settings=settings)
    assert report.ok
    assert report.bytes <= 16 << 20
    assert place.read_bytes() == data
    assert place.stat().st_mtime == WHEN
    place.write_bytes(data)  # edited by the user: another time
    _, out, _ = await get("status", "out", "--json", cwd=tmp_path)
    assert (json.loads(out)["published"], json.loads(out)["changed"]) == (0, 1)
