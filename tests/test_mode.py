"""Tests of `storage.mode`: a group works in one folder, and by default only its owner can."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from osp_fetch import Settings, SettingsError, fetch_all
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get, start

DATA = noise(3 << 20)
GROUP = 54_321
TAG = '"1"'
WORDS = ["-o", "out", *QUICK]


def links(origin: Origin, folder: Path) -> Path:
    """Return a manifest of a small file and a large one, which comes slowly."""
    rows = ["path\turl"]
    rows.append(f"d/small\t{origin.add('small', b'small')}")
    rows.append(f"e/large\t{origin.add('large', DATA, always=o.slow(800_000), headers={'ETag': TAG})}")
    place = folder / "m.tsv"
    place.write_text("\n".join(rows))
    return place


def modes(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the modes of all files, and of all folders, by path."""
    found: tuple[dict[str, int], dict[str, int]] = {}, {}
    for place in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(place.lstat().st_mode)
        found[place.is_dir()][str(place.relative_to(folder))] = mode
    return found


async def killed(origin: Origin, folder: Path, *more: str, user: int | None = None) -> None:
    """Run `get` until a sidecar of the large file exists, and kill it."""
    words = ("get", str(links(origin, folder)), *WORDS, *more)
    process = await (start(*words, cwd=folder) if user is None else started_as(user, *words, cwd=folder))
    state = folder / "out/.osp-fetch"
    while not ((state / "claims/e/large").exists() and (folder / "out/d/small").exists()):
        assert process.returncode is None
        await asyncio.sleep(0.02)
    process.kill()
    await process.wait()


@pytest.mark.parametrize(
    ("mode", "of_files", "of_folders"),
    [("0664", 0o664, 0o775), ("660", 0o660, 0o770), ("0640", 0o640, 0o750), ("0600", 0o600, 0o700)],
)
async def test_every_file_and_folder_has_the_mode(
    origin: Origin, tmp_path: Path, mode: str, of_files: int, of_folders: int
) -> None:
    await killed(origin, tmp_path, "--set", f"storage.mode={mode}", "--processes", "2")
    files, folders = modes(tmp_path / "out")
    # whoever may write to the folder may still not steer the run of another user
    files.pop(".osp-fetch/control.sock")  # a symbolic link, if its path is too long for a socket
    assert stat.S_IMODE((tmp_path / "out/.osp-fetch/control.sock").stat().st_mode) == 0o600
    assert {path: oct(found) for path, found in files.items() if found != of_files} == {}
    assert {path: oct(found) for path, found in folders.items() if found & 0o777 != of_folders} == {}
    passed_on = folders[".osp-fetch"] & stat.S_ISGID
    assert bool(passed_on) == bool(of_files & stat.S_IWGRP)
    for expected in (
        "d/small",
        ".osp-fetch/ledger.sqlite3",
        ".osp-fetch/ledger.sqlite3-wal",
        ".osp-fetch/partial/e/large",
        ".osp-fetch/claims/e/large",
        ".osp-fetch/lock",
        ".osp-fetch/events.jsonl",
        ".osp-fetch/status.json",
    ):
        assert expected in files


async def test_by_default_the_umask_decides_and_the_state_is_private(origin: Origin, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        await killed(origin, tmp_path)
    finally:
        os.umask(before)
    files, folders = modes(tmp_path / "out")
    assert (files["d/small"], folders["d"], folders["."]) == (0o640, 0o750, 0o750)
    assert folders[".osp-fetch"] == 0o700
    assert files[".osp-fetch/lock"] == files[".osp-fetch/events.jsonl"] == 0o600


async def test_the_library_sets_the_umask_back(origin: Origin, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        url = origin.add("f", b"x")
        await fetch_all(url, tmp_path / "out", settings=quick(storage={"mode": "0664"}))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert set(modes(tmp_path / "out")[0].values()) == {0o664}


async def test_a_folder_of_the_owner_alone_is_opened_later(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", b"x")
    for more in ([], ["--set", "storage.mode=0664"]):
        assert (await get("get", url, "-o", "out", *more, *QUICK, cwd=tmp_path))[0] == 0
    files, folders = modes(tmp_path / "out/.osp-fetch")
    assert folders["."] & 0o777 == 0o775
    assert {files[name] for name in ("lock", "ledger.sqlite3", "events.jsonl")} == {0o664}


@pytest.mark.parametrize("mode", ["0444", "rw", "0777", "0o664", "436", "7", "-1", "02664", True, 1.5, None])
def test_a_mode_that_is_none_is_refused(mode: object) -> None:
    with pytest.raises(SettingsError, match=r"storage\.mode: .* is not \"umask\" or the octal mode"):
        Settings.load(("t", {"storage": {"mode": mode}}))


@pytest.mark.parametrize("mode", ["0664", "664", 664])
def test_the_mode_may_be_a_number_of_toml(mode: object) -> None:
    assert Settings.load(("t", {"storage": {"mode": mode}})).storage.mode == "0664"


def as_user(user: int) -> list[str]:
    """Return the words that run a command as `user` of the shared group, who may read this interpreter."""
    caps = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return ["setpriv", "--reuid", str(user), "--regid", str(user), "--groups", str(GROUP), *caps]


async def started_as(user: int, *words: str | Path, cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *as_user(user),
        *(sys.executable, "-m", "osp_fetch", *map(str, words)),
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def can_switch_users() -> bool:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    tried = subprocess.run([*as_user(12_345), sys.executable, "-c", ""], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not can_switch_users(), reason="only root can be two other users")
async def test_another_user_of_the_group_continues(origin: Origin, tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents):
        place.chmod(place.stat().st_mode | 0o011)
    os.chown(tmp_path, -1, GROUP)
    tmp_path.chmod(0o2775)
    shared = ["--set", "storage.mode=0664"]
    await killed(origin, tmp_path, *shared, user=12_345)
    origin.pages["/large"].always = None
    origin.pages["/large"].headers["Last-Modified"] = "Tue, 15 Nov 1994 12:45:26 GMT"
    words = ["get", "m.tsv", *WORDS, *shared]
    process = await started_as(12_346, *words, cwd=tmp_path)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"1 fetched, 1 present" in said
    assert (tmp_path / "out/e/large").read_bytes() == DATA
    for user in (12_345, 12_346):
        process = await started_as(user, "verify", "out", cwd=tmp_path)
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    assert {place.stat().st_gid for place in (tmp_path / "out").rglob("*")} == {GROUP}
