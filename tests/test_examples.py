"""Tests of the scripts in examples/: each runs as a process against stand-ins of osp_fetch.demo."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import finished
from osp_fetch.demo import media
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import MetaCdn
from tests import origin as o
from tests.origin import Origin, noise, serving, sha256

EXAMPLES = Path(__file__).parents[1] / "examples"


async def run_example(name: str, *words: str | Path, **environment: str) -> tuple[int, str, str]:
    """Run one example as a process. Return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *map(str, words),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def sa1b_tars(count: int = 3) -> dict[str, bytes]:
    return {f"sa_{n:06}.tar": media.sa1b_tar(n, 300_000) for n in range(count)}


@asynccontextmanager
async def meta(tars: dict[str, bytes], links: Path) -> AsyncIterator[MetaCdn]:
    """Serve `tars` as Meta's CDN does, and write the link file."""
    cdn = MetaCdn({name: Blob(data) for name, data in tars.items()})
    async with Server(cdn.handle) as server:
        links.write_text(cdn.link_file(server.url, time.time() + 3600))
        yield cdn


def manifest(place: Path, urls: dict[str, str]) -> Path:
    place.write_text("path,url\n" + "".join(f"{path},{url}\n" for path, url in urls.items()))
    return place


def everything_below(folder: Path) -> dict[str, bytes]:
    files = (place for place in folder.rglob("*") if place.is_file())
    named = ((place.relative_to(folder).as_posix(), place) for place in files)
    return {name: place.read_bytes() for name, place in named if not name.startswith(".osp-fetch/")}


def test_each_of_the_seven_examples_is_run_here() -> None:
    names = sorted(place.name for place in EXAMPLES.glob("*.py"))
    assert len(names) == 7
    here = Path(__file__).read_text()
    assert [name for name in names if f'"{name}"' not in here] == []


@pytest.mark.parametrize("name", sorted(place.name for place in EXAMPLES.glob("*.py")))
async def test_an_example_without_arguments_says_how_to_run_it(name: str) -> None:
    code, out, err = await run_example(name)
    assert (code, out) == (1, "")
    assert f"python examples/{name} " in err
    assert "Traceback" not in err


async def test_fetch_list_prints_a_table_of_outcomes_and_totals(origin: Origin, tmp_path: Path) -> None:
    data = {f"d/f{n}.bin": noise(1000 + n, n) for n in range(4)}
    urls = {path: origin.add(path, content) for path, content in data.items()}
    place, folder = manifest(tmp_path / "files.csv", urls), tmp_path / "out"
    code, out, err = await run_example("01_fetch_list.py", place, folder)
    assert (code, err) == (0, "")
    assert everything_below(folder) == data
    assert all(path in out and sha256(content) in out for path, content in data.items())
    assert out.splitlines()[-1].split() == ["fetched", "4", str(sum(map(len, data.values())))]


async def test_fetch_list_names_failed_files_and_exits_with_1(origin: Origin, tmp_path: Path) -> None:
    urls = {"good": origin.add("good", b"right"), "bad": f"{origin.url}/absent"}
    code, out, err = await run_example(
        "01_fetch_list.py", manifest(tmp_path / "files.csv", urls), tmp_path / "out"
    )
    assert code == 1
    assert "fetched" in out
    assert err.startswith("bad: ")
    assert "404" in err
    assert (await run_example("01_fetch_list.py", tmp_path / "absent.csv", tmp_path / "out"))[0] == 2


async def test_fetch_as_they_finish_unpacks_each_finished_tar(tmp_path: Path) -> None:
    tars, links, folder = sa1b_tars(), tmp_path / "links.tsv", tmp_path / "out"
    async with meta(tars, links):
        code, out, err = await run_example("02_fetch_as_they_finish.py", links, folder)
        assert (code, err) == (0, "")
        again, said, _ = await run_example("02_fetch_as_they_finish.py", links, folder)
    assert again == 0, said
    members = [place for place in folder.rglob("sa_*.jpg") if ".osp-fetch" not in place.parts]
    assert members
    for name in tars:
        assert f"fetched {name} " in out
        assert f"unpacked {name}: " in out
        assert f"present {name} " in said


async def test_fetch_as_they_finish_exits_with_1_for_a_broken_archive(origin: Origin, tmp_path: Path) -> None:
    urls = {"half.tar": origin.add("half.tar", sa1b_tars(1)["sa_000000.tar"][:200_000])}
    place = manifest(tmp_path / "files.csv", urls)
    code, out, err = await run_example("02_fetch_as_they_finish.py", place, tmp_path / "out")
    assert (code, err) == (1, "")
    assert "fetched half.tar" in out
    assert "unpacked half.tar: " in out
    assert not (tmp_path / "out" / "half").exists()


async def test_progress_bar_reaches_100_percent(origin: Origin, tmp_path: Path) -> None:
    data = {f"f{n}.bin": noise(400_000, n) for n in range(3)}
    urls = [origin.add(name, content, always=o.slow(600e3)) for name, content in data.items()]
    origin.pages["/f1.bin"].faults.append(o.cut(100_000))
    folder = tmp_path / "out"
    code, out, err = await run_example("03_progress_bar.py", *urls, folder)
    assert (code, out) == (0, ""), err
    assert everything_below(folder) == data
    drawn = err.replace("\r", "\n").splitlines()
    bars = [line for line in drawn if "|" in line]
    assert len({line.partition("|")[0] for line in bars}) >= 2, err  # the bar moved
    assert bars[-1].startswith("100%"), err
    assert "3/3 files" in bars[-1]
    assert any("next attempt in" in line for line in drawn), err


async def test_progress_bar_ends_with_the_reason_of_a_failure(origin: Origin, tmp_path: Path) -> None:
    code, _, err = await run_example("03_progress_bar.py", f"{origin.url}/absent", tmp_path / "out")
    assert code == 1
    assert "404" in err.splitlines()[-1]


async def test_train_from_tars_reads_every_member_of_every_tar(tmp_path: Path) -> None:
    tars, links = sa1b_tars(), tmp_path / "links.tsv"
    async with meta(tars, links):
        code, out, err = await run_example("04_train_from_tars.py", links, tmp_path / "out")
    assert (code, err) == (0, "")
    assert {line.partition(":")[0] for line in out.splitlines()} == set(tars)
    assert set(everything_below(tmp_path / "out")) == set(tars)  # nothing is unpacked
    example = load("04_train_from_tars.py")
    samples = dict(example.TarSamples([tmp_path / "out" / name for name in tars]))
    assert len(samples) == sum(int(line.split()[1]) for line in out.splitlines())
    assert all(name.endswith((".jpg", ".json")) and data for name, data in samples.items())


@pytest.mark.parametrize("ranks", [1, 2])
async def test_train_while_it_downloads_trains_on_each_sample_once(tmp_path: Path, ranks: int) -> None:
    tars, links, folder = sa1b_tars(), tmp_path / "links.tsv", tmp_path / "out"
    async with meta(tars, links):
        words = ("get", links, "-o", folder, "--unpack", "-q", "--min-free", "0")
        run = await asyncio.create_subprocess_exec(sys.executable, "-m", "osp_fetch", *map(str, words))
        shares = await asyncio.gather(
            *(
                run_example("06_train_while_it_downloads.py", folder, RANK=str(rank), WORLD_SIZE=str(ranks))
                for rank in range(ranks)
            )
        )
        assert await run.wait() == 0
    assert [(code, err) for code, _, err in shares] == [(0, "")] * ranks
    trained = [line.partition(":")[0] for _, out, _ in shares for line in out.splitlines()]
    samples = [place.relative_to(folder).with_suffix("").as_posix() for place in folder.rglob("sa_*.jpg")]
    assert sorted(trained) == sorted(samples)
    assert all(out for _, out, _ in shares)


async def test_train_while_it_downloads_continues_behind_its_position(tmp_path: Path) -> None:
    tars, links, folder = sa1b_tars(1), tmp_path / "links.tsv", tmp_path / "out"
    async with meta(tars, links):
        words = ("get", links, "-o", folder, "--unpack", "-q", "--min-free", "0")
        run = await asyncio.create_subprocess_exec(sys.executable, "-m", "osp_fetch", *map(str, words))
        assert await run.wait() == 0
    place = tmp_path / "out.positions-0.json"
    found = list(finished(folder, samples=True))
    place.write_text(json.dumps({"0 of 1": found[1].position}))
    code, out, err = await run_example("06_train_while_it_downloads.py", folder)
    assert (code, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()] == [each.key for each in found[2:]]
    assert json.loads(place.read_text()) == {"0 of 1": found[-1].position}


async def test_webdataset_reads_each_tar_while_others_are_downloaded(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    tars, links, folder = sa1b_tars(), tmp_path / "links.tsv", tmp_path / "out"
    async with meta(tars, links):
        words = ("get", links, "-o", folder, "-q", "--min-free", "0")
        run = await asyncio.create_subprocess_exec(sys.executable, "-m", "osp_fetch", *map(str, words))
        code, out, err = await run_example("07_webdataset_while_it_downloads.py", folder)
        assert await run.wait() == 0
    assert (code, err) == (0, "")
    example = load("04_train_from_tars.py")
    names = {name.rpartition(".")[0] for name, _ in example.TarSamples([folder / tar for tar in tars])}
    assert sorted(out.splitlines()) == sorted(f"./{name}: jpg, json" for name in names)


async def test_mirror_with_checksums_takes_missing_files_from_the_mirror(
    origin: Origin, tmp_path: Path
) -> None:
    data = {f"d/f{n}.bin": noise(90_000 + n, n) for n in range(3)}
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(f"{sha256(each).partition(':')[2]}  {name}\n" for name, each in data.items()))
    first = {name: origin.add(name, content) for name, content in data.items()}
    del origin.pages["/d/f1.bin"]
    async with serving() as other:
        second = {name: other.add(name, content) for name, content in data.items()}
        words = (
            manifest(tmp_path / "files.csv", first),
            sums,
            manifest(tmp_path / "mirror.csv", second),
            tmp_path / "out",
        )
        code, out, err = await run_example("05_mirror_with_checksums.py", *words)
        assert (code, err) == (0, "")
        assert "3 files are present and verified" in out
        assert everything_below(tmp_path / "out") == data
        assert other.requests["/d/f1.bin"]

        for source in (origin, other):
            source.add("d/f2.bin", b"other bytes")
        (tmp_path / "out" / "d" / "f2.bin").unlink()
        code, out, err = await run_example("05_mirror_with_checksums.py", *words)
    assert code == 1
    assert "not complete: 1 of the files" in err
    assert not (tmp_path / "out" / "d" / "f2.bin").exists()


def load(name: str) -> Any:
    """Import an example. Its name begins with a digit, so that `import` cannot name it."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
