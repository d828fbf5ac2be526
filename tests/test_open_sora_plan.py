"""Tests of Open-Sora-Plan v1.1.0: from dataset names to a folder that a training loader reads."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from osp_fetch.datasets.catalogue import DATASETS, OFFERED, expand_all, warnings
from osp_fetch.datasets.coverage import cover
from osp_fetch.datasets.layout import lay_out
from osp_fetch.demo.modelscope import ModelScope
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import Hub, HubRepo, MetaCdn
from osp_fetch.model.errors import ManifestError
from tests.origin import Origin, noise
from tests.test_archives import tar_bytes, zip_bytes

REPO = "LanguageBind/Open-Sora-Plan-v1.1.0"


def folders_only() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Road")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    return out.getvalue()


@dataclass
class Sources:
    """All six datasets at their sources, each with a few files of the right shape.

    Attributes:
        media: The expected content of the folder of each dataset after unpacking.
    """

    hub: Hub
    scope: ModelScope
    cdn: MetaCdn
    media: dict[str, dict[str, bytes]] = field(default_factory=dict)
    links: str = ""


def captions(paths: list[str], frames: int = 0) -> bytes:
    rows = [
        {"path": p, "cap": [f"of {p}"], **({"frame_idx": f"0:{frames}"} if frames else {})} for p in paths
    ]
    return json.dumps(rows).encode()


def make() -> Sources:
    sam = {
        f"sa_{t:06}.tar": {f"sa_{t * 10 + n}.{kind}": noise(900 + n, t * 100 + n) for n in range(6)
                           for kind in ("jpg", "json")}
        for t in range(3)
    }  # fmt: skip
    laion = {f"laion/{n}.jpg": noise(70_000, n) for n in range(6)}
    human = {f"images/{n}.jpg": noise(2000, n) for n in range(9)}
    mixkit = {"Airplane": {f"Airplane/a{n}.mp4": noise(5000, n) for n in range(4)},
              "Woman": {f"Woman/w{n}.mp4": noise(5000, n) for n in range(4)}}  # fmt: skip
    pixabay = {f"folder_{n:02}": {f"folder_{n:02}/p{n}.mp4": noise(9000, n)} for n in range(1, 4)}
    pexels = {
        f"5000-{n}": {f"{n}/x{k}_resize1080p.mp4": noise(40_000, n * 10 + k) for k in range(5)}
        for n in range(2)
    }
    made = Sources(Hub(), ModelScope(), MetaCdn())
    made.cdn.files |= {name: Blob(tar_bytes(files, "w:gz")) for name, files in sam.items()}
    lfs: dict[str, bytes] = {"human_image/images.tar.gz": tar_bytes(human, "w:gz", "")}
    lfs |= {f"all_mixkit/{name}.tar": tar_bytes(files, "w", "") for name, files in mixkit.items()}
    lfs["all_mixkit/Road.tar"] = folders_only()
    lfs |= {f"pixabay_v2_tar/{n}.tar.gz": tar_bytes(files, "w:gz", "") for n, files in pixabay.items()}
    for name, files in pexels.items():
        data = tar_bytes(files, "w", "")
        step = -(-len(data) // 5)
        lfs |= {f"pexels/{name}.tar.part{n}": data[n * step : (n + 1) * step] for n in range(5)}
    several = {"sam": sam, "mixkit": mixkit, "pixabay_v2": pixabay, "pexels": pexels}
    flat = {d: {k: v for files in each.values() for k, v in files.items()} for d, each in several.items()}
    made.media = {**flat, "images": human, "anytext3m": laion}
    named = {d.media: [f"anno_jsons/{c.file}" for c in d.captions] for d in DATASETS}
    git: dict[str, bytes] = {"README.md": b"#"}
    for media, files in made.media.items():
        for place in named[media]:
            paths = sorted(p for p in files if not p.endswith(".json"))
            # Three schemes of caption files: equal paths, bare names, one more folder.
            form = {"images": "{name}", "sam": "top/{path}"}.get(media, "{path}")
            shown = [form.format(name=p.rsplit("/", 1)[-1], path=p) for p in paths]
            git[place] = captions(shown, 513 if "513f" in place else 65 if "65f" in place else 0)
    made.hub.repos[REPO] = HubRepo(REPO, lfs=lfs, git=git)
    made.scope.repositories["iic/AnyWord-3M"] = {"laion/laion_split.zip": zip_bytes(laion)}
    return made


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
async def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sources]:
    made = make()
    async with (
        Server(made.hub.handle) as site,
        Server(made.hub.handle_cdn) as store,
        Server(made.scope.handle) as scope,
        Server(made.cdn.handle) as meta,
    ):
        made.hub.cdn_url = store.url
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
        made.links = str(tmp_path / "links.tsv")
        (tmp_path / "links.tsv").write_text(made.cdn.link_file(meta.url, 4e9))
        yield made


async def run(*words: str, kill_after: float | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", *words, env=dict(os.environ), stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, said = await asyncio.wait_for(process.communicate(), kill_after)
    except TimeoutError:
        os.killpg(process.pid, 9)
        await process.communicate()
        return -9, ""
    return process.returncode or 0, said.decode() + out.decode()


def get_all(sources: Sources, out: Path) -> list[str]:
    words = [
        "get",
        "all",
        "--links",
        sources.links,
        "-o",
        str(out),
        "--unpack",
        "--layout",
        "--min-free",
        "0",
    ]
    return [*words, "-k", "64KiB", "--set", "retry.initial=0.05"]


def load(root: Path) -> dict[str, int]:
    """Read the folder as the training loader does, and count the caption paths by list.

    Each line of a list is FOLDER,JSON. Every path of the captions must name a file that is not empty.
    """
    read: dict[str, int] = {}
    for name in ("image_data.txt", "video_data.txt", "video_data_513.txt", "data.txt"):
        for line in (root / name).read_text().splitlines():
            folder, file = map(Path, line.split(","))
            assert folder.is_absolute()
            for item in json.loads(file.read_text()):
                path = item["path"]
                places = [folder / path, folder / path.removeprefix("top/"), folder / "images" / path]
                assert any(place.is_file() and place.stat().st_size for place in places), path
                read[name] = read.get(name, 0) + 1
    return read


def check(sources: Sources, out: Path) -> None:
    for media, files in sources.media.items():
        assert tree(out / "datasets" / media) == files, media
    read = load(out)
    assert read["image_data.txt"] == 18 + 6 + 9
    assert read["video_data.txt"] == read["video_data_513.txt"] == 8 + 3 + 10
    assert read["data.txt"] == read["image_data.txt"] + read["video_data.txt"]
    assert (out / "anno_jsons/video_pexel_513f_271782.json").samefile(
        out / "anno_jsons/video_pexels_513f_271782.json"
    )


async def test_one_command_makes_the_folder_that_training_reads(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = await run(*get_all(sources, out))
    assert code == 0, said
    check(sources, out)
    code, said = await run("coverage", str(out), "--json")
    assert code == 0, said
    found = json.loads(said)
    assert {c["captions"] for c in found} == {c.file for d in DATASETS for c in d.captions}
    assert all(c["missing"] == 0 and c["found"] == c["pairs"] for c in found)
    schemes = {c["dataset"]: c["scheme"] for c in found}
    assert schemes["sam-11m"] == "without 1 leading folder(s)"
    assert schemes["human-160k"] == "path as given, in images/"
    # A second run fetches nothing and unpacks nothing.
    before = sources.hub.resolves.total() + sources.scope.requests["cdn"]
    code, said = await run(*get_all(sources, out))
    assert code == 0, said
    assert "unpacked:" not in said
    assert sources.hub.resolves.total() + sources.scope.requests["cdn"] == before
    check(sources, out)


@pytest.mark.timeout(240)
async def test_killed_at_any_stage_it_ends_the_same(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chance = random.Random(5)
    sources.cdn.rate = 5_000.0  # slow enough that the first kills fall before the end
    kills = 0
    for turn in range(25):
        code, said = await run(*get_all(sources, out), kill_after=chance.uniform(0.5, 1.2 + turn / 4))
        if code == 0:
            break
        assert code == -9, said
        kills += 1
        for media, files in sources.media.items():
            for name, data in (
                tree(out / "datasets" / media).items() if (out / "datasets" / media).is_dir() else ()
            ):
                assert files[name] == data
    else:
        pytest.fail("25 runs did not finish the datasets")
    assert kills
    check(sources, out)


async def test_archives_that_were_deleted_after_unpacking_are_not_fetched_again(
    sources: Sources, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [*get_all(sources, out), "--delete-after"]
    assert (await run(*words))[0] == 0
    assert not [name for name in tree(out) if ".tar" in name and not name.startswith(".")]
    sources.cdn.requests.clear()
    for more in ([], ["--recheck"]):
        code, said = await run(*words, *more)
        assert code == 0, said
        assert sources.cdn.requests.total() == 0
        check(sources, out)
    code, said = await run("verify", str(out))
    assert code == 0, said
    assert "unpacked" in said


async def test_a_broken_archive_is_reported_and_does_not_loop(sources: Sources, tmp_path: Path) -> None:
    """An archive can be broken although its checksum is right (docs/sources.md, "SA-1B link file")."""
    name = "sa_000001.tar"
    sources.cdn.files[name] = Blob(sources.cdn.files[name].read(0, 2000))
    out = tmp_path / "out"
    words = ["get", "sam-11m", "--links", sources.links, "-o", str(out), "--unpack", "--min-free", "0"]
    for _ in range(2):
        code, said = await run(*words)
        assert code == 1
        assert f"broken: {name}" in said
    assert sources.cdn.requests[name] == 1
    assert (out / name).stat().st_size == 2000
    code, said = await run("verify", str(out), "--archives", "--json")
    assert code == 1
    found = json.loads(said)
    assert found["counts"] == {"ok": 3}
    assert [each["path"] for each in found["archives"]["broken"]] == [name]
    assert found["archives"]["whole"] == 2


# coverage and layout as separate commands.


def a_folder(tmp_path: Path, count: int, absent: int) -> Path:
    media = tmp_path / "datasets/mixkit"
    media.mkdir(parents=True)
    for n in range(absent, count):
        (media / f"m{n}.mp4").write_bytes(b"x")
    (media / "nobody.mp4").write_bytes(b"x")
    (tmp_path / "anno_jsons").mkdir()
    place = tmp_path / "anno_jsons/video_mixkit_65f_54735.json"
    place.write_bytes(captions([f"m{n}.mp4" for n in range(count)], 65))
    return place


async def test_coverage_counts_what_is_missing_and_what_no_caption_names(tmp_path: Path) -> None:
    a_folder(tmp_path, 300, 20)
    code, said = await run("coverage", str(tmp_path), "--missing", str(tmp_path / "missing.txt"), "--json")
    (found,) = json.loads(said)
    assert code == 1
    assert (found["pairs"], found["found"], found["missing"], found["unnamed"]) == (300, 280, 20, 1)
    assert found["documented"] == 54_735
    missing = (tmp_path / "missing.txt").read_text().splitlines()
    assert missing == [f"datasets/mixkit/m{n}.mp4" for n in range(20)]
    code, said = await run("coverage", str(tmp_path))
    assert "54,735 are documented" in said


async def test_coverage_shows_a_folder_with_brackets_as_it_is(tmp_path: Path) -> None:
    a_folder(tmp_path, 3, 3)
    inside = tmp_path / "datasets/mixkit/[red]"
    inside.mkdir()
    for n in range(3):
        (inside / f"m{n}.mp4").write_bytes(b"x")
    _, said = await run("coverage", str(tmp_path))
    assert "[red]/" in said


def test_a_caption_file_that_is_cut_is_said(tmp_path: Path) -> None:
    place = a_folder(tmp_path, 300, 0)
    place.write_bytes(place.read_bytes()[:-100])
    with pytest.raises(ManifestError, match="damaged list of captions"):
        list(cover(tmp_path))


async def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    a_folder(tmp_path, 3, 0)
    (tmp_path / "video_data.txt").mkdir()
    for words in (["layout", str(tmp_path)], ["coverage", str(tmp_path), "--missing", str(tmp_path)]):
        code, said = await run(*words)
        assert code == 3
        assert len(said.strip().splitlines()) == 1, said


def test_a_layout_names_what_is_missing_and_copies_nothing(tmp_path: Path) -> None:
    a_folder(tmp_path, 3, 0)
    made = lay_out(tmp_path, relative=True)
    assert (tmp_path / "video_data.txt").read_text() == (
        "datasets/mixkit,anno_jsons/video_mixkit_65f_54735.json\n"
    )
    assert not (tmp_path / "image_data.txt").exists()
    assert any("sam-11m" in lack for lack in made.missing)
    assert any("513f" in lack for lack in made.missing)


# The catalogue against the tables of the Open-Sora-Plan guide.


@pytest.mark.parametrize(
    ("name", "kind", "pairs", "hours"),
    [
        ("sam-11m", "image", [11_185_255], 0),
        ("anytext-3m-en", "image", [1_886_137], 0),
        ("human-160k", "image", [162_094], 0),
        ("mixkit", "video", [54_735, 1_997], 42.0),
        ("pixabay", "video", [601_513, 51_483], 353.3),
        ("pexels", "video", [3_832_666, 271_782], 2561.9),
    ],
)
def test_every_row_of_the_guides_tables(name: str, kind: str, pairs: list[int], hours: float) -> None:
    dataset = next(d for d in DATASETS if d.name == name)
    assert (dataset.kind, dataset.hours) == (kind, hours)
    assert [c.pairs for c in dataset.captions] == pairs
    assert all(c.file.endswith(f"_{c.pairs}.json") for c in dataset.captions)
    expected = [0] if kind == "image" else [65, 513]
    assert [c.frames for c in dataset.captions] == expected


def test_names_stand_for_sources() -> None:
    every = expand_all(["all"], "links.tsv")
    assert len(every) == 7
    assert every[0] == Path("links.tsv")
    assert every[1] == "modelscope://datasets/iic/AnyWord-3M"
    with pytest.raises(ManifestError, match="--links"):
        expand_all(["all"])
    with pytest.raises(ManifestError, match="mixkit"):
        expand_all(["mixkitt"])


def test_warnings_are_heard() -> None:
    said = "\n".join(warnings(["all"]))
    assert "evaluation benchmark" in said
    assert said.count("5000-") == 8
    assert said.count("sa_0000") == 4


async def test_datasets_are_shown(tmp_path: Path) -> None:
    code, said = await run("datasets")
    assert code == 0
    assert all(dataset.name in said for dataset in OFFERED)
    code, said = await run("datasets", "--json")
    assert len(json.loads(said)) == 7


async def test_ctrl_c_while_unpacking_ends_it_and_the_same_command_goes_on(
    origin: Origin, tmp_path: Path
) -> None:
    files = {f"{n:05}.jpg": noise(4000, n) for n in range(6000)}
    out = tmp_path / "out"
    url = origin.add("big.tar", tar_bytes(files, "w:gz"))
    words = ["get", url, "-o", str(out), "--unpack", "--min-free", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", *words, env=dict(os.environ), stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    while not (out / ".osp-fetch/unpack/big.tar/tree").is_dir():
        await asyncio.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert not (out / "big").exists()
    assert (await run(*words))[0] == 0
    assert tree(out / "big") == files


def test_one_file_is_not_counted_for_the_captions_of_several(tmp_path: Path) -> None:
    place = a_folder(tmp_path, 3, 0)
    paths = [f"{folder}/m{n}.mp4" for folder in ("Cat0", "Cat1") for n in range(3)]
    place.write_bytes(captions([*paths, paths[0]], 65))  # a second caption of one file is one
    (found,) = cover(tmp_path)
    assert (found.scheme, found.found, found.missing) == ("without 1 leading folder(s)", 4, 3)
    assert found.examples == paths[3:]


def test_the_list_states_the_folder_from_which_captions_count(tmp_path: Path) -> None:
    a_folder(tmp_path, 3, 3)
    inside = tmp_path / "datasets/mixkit/videos"
    inside.mkdir()
    for n in range(3):
        (inside / f"m{n}.mp4").write_bytes(b"x")
    lay_out(tmp_path, relative=True)
    folder, _, caption_file = (tmp_path / "video_data.txt").read_text().strip().partition(",")
    for each in json.loads((tmp_path / caption_file).read_text()):
        assert (tmp_path / folder / each["path"]).is_file()
