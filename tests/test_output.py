"""Tests of `-o`: a folder, the name of a file for one link, or one sentence that says which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osp_fetch import ManifestError, fetch_all
from tests.conftest import quick
from tests.origin import Origin, noise, sha256
from tests.test_cli import QUICK, get

DATA = noise(1000)


@pytest.mark.parametrize("name", ["model.safetensors", "sub/deeper/clip.MP4", "a.tar.gz", "x.v2", "a.7z"])
async def test_for_one_link_a_name_with_a_suffix_is_the_name_of_the_file(
    origin: Origin, tmp_path: Path, name: str
) -> None:
    url = origin.add("download", DATA)
    for expected in ("1 fetched", "1 present"):
        code, _, said = await get("get", url, "-o", name, *QUICK, cwd=tmp_path)
        assert (code, expected in said) == (0, True), said
    assert (tmp_path / name).read_bytes() == DATA
    assert (tmp_path / name).parent.joinpath(".osp-fetch").is_dir()
    code, out, _ = await get("plan", url, "-o", name, "--json", cwd=tmp_path)
    assert (code, json.loads(out)["present"]) == (0, 1)
    code, _, said = await get("verify", Path(name).parent, cwd=tmp_path)
    assert code == 0, said


@pytest.mark.parametrize("name", ["data", "v1.1.0", "model.safetensors/", "there.bin", "."])
async def test_everything_else_is_a_folder(origin: Origin, tmp_path: Path, name: str) -> None:
    (tmp_path / "there.bin").mkdir()
    url = origin.add("f.bin", DATA)
    code, _, said = await get("get", url, "-o", name, *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / name / "f.bin").read_bytes() == DATA


async def test_a_link_that_suggests_no_name_gets_one(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("", DATA)
    words = [url, "-o", "f.bin", "--header", "X-Mine: 1"]
    code, _, said = await get("get", *words, *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "f.bin").read_bytes() == DATA
    assert origin.seen[-1].headers["x-mine"] == "1"


async def test_a_checksum_list_has_the_name_that_the_link_suggests(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f.bin", DATA)
    for digest, expected in ((sha256(b"other"), 1), (sha256(DATA), 0)):
        (tmp_path / "sums").write_text(f"{digest[7:]}  f.bin\n")
        words = [url, "-o", "mine.bin", "--checksums", "sums"]
        code, _, said = await get("get", *words, *QUICK, cwd=tmp_path)
        assert code == expected, said
        assert (tmp_path / "mine.bin").exists() == (expected == 0)


async def test_a_file_of_the_user_is_kept_and_named(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("mine")
    code, _, said = await get("get", origin.add("f", DATA), "-o", "config", *QUICK, cwd=tmp_path)
    assert code == 0, said
    assert (tmp_path / "config").read_bytes() == DATA
    assert (tmp_path / ".osp-fetch/replaced/config").read_text() == "mine"
    assert "config is now .osp-fetch/replaced/config" in said


@pytest.mark.parametrize("command", ["get", "plan"])
@pytest.mark.parametrize(
    ("sources", "output", "said"),
    [
        (["two"], "model.safetensors", "write model.safetensors/ if that is its name"),
        (["one", "one"], "clip.mp4", "SOURCE is not one link"),
        (["hf://datasets/a/b"], "all.tar", "give a folder"),
        (["two"], "mine", "mine is a file; give a folder, or one link as SOURCE"),
    ],
)
async def test_a_file_where_a_folder_is_needed_is_refused_in_one_sentence(
    origin: Origin, tmp_path: Path, command: str, sources: list[str], output: str, said: str
) -> None:
    (tmp_path / "mine").write_text("mine")
    url = origin.add("f", DATA)
    (tmp_path / "two.txt").write_text(f"{url}\n{url}2\n")
    given = {"one": url, "two": "two.txt"}
    words = [command, *(given.get(source, source) for source in sources), "-o", output]
    code, out, err = await get(*words, *QUICK, cwd=tmp_path)
    assert (code, out, origin.requests.total()) == (2, "", 0), err
    assert said in err
    assert "Traceback" not in err
    assert sorted(place.name for place in tmp_path.iterdir()) == ["mine", "two.txt"]


async def test_the_library_names_a_single_file(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("download", DATA)
    report = await fetch_all(url, tmp_path, settings=quick(), name="d/f.bin")
    assert report.ok
    assert (tmp_path / "d/f.bin").read_bytes() == DATA
    with pytest.raises(ManifestError, match="only a single file can have this name"):
        await fetch_all([url, url + "2"], tmp_path, settings=quick(), name="f")
    with pytest.raises(ManifestError, match="leaves the output folder"):
        await fetch_all(url, tmp_path, settings=quick(), name="../f")
