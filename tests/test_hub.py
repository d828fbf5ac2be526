"""Tests with the Hugging Face Hub: the real client proves the emulator that osp-fetch is tested with."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from osp_fetch import Event, Status, fetch_all
from osp_fetch.demo.server import Blob, Server
from osp_fetch.demo.sources import Hub, HubRepo, MetaCdn
from osp_fetch.model import events
from osp_fetch.model.errors import CredentialsError, ManifestError
from osp_fetch.model.report import Report
from tests.conftest import quick
from tests.origin import noise

REPO = "LanguageBind/Open-Sora-Plan-v1.1.0"
TOKEN = "hf_SECRETtoken"


def repo() -> HubRepo:
    lfs = {
        f"all_mixkit/{name}.tar": noise(200_000 + n, n) for n, name in enumerate(["Road", "Safari", "beach"])
    }
    lfs |= {f"pexels/5000-0.tar.part{n}": noise(70_000 + n, n + 9) for n in range(5)}
    git = {
        "README.md": b"# hello\n",
        "anno_jsons/video_mixkit_513f_1997.json": noise(90_000, 7),
        "pexel/111.txt": b"",
    }
    return HubRepo(REPO, lfs=lfs, git=git)


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, hub: Hub, token: str | None = TOKEN) -> AsyncIterator[str]:
    """Serve a hub in this process and yield its address.

    huggingface_hub reads the address from the environment on import, so that its users run as processes.
    """
    async with Server(hub.handle) as site, Server(hub.handle_cdn) as store:
        hub.cdn_url = store.url
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        yield site.url


def made(**more: object) -> Hub:
    return Hub({REPO: repo()}, **{"token": TOKEN, **more})  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    places = (p for p in folder.rglob("*") if p.is_file())
    kept = {p.relative_to(folder).as_posix(): p.read_bytes() for p in places}
    return {name: data for name, data in kept.items() if not name.startswith((".cache/", ".osp-fetch/"))}


async def hf_download(folder: Path, *more: str) -> str:
    """Run the command of the real client as a process and return its output."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("hf")),
        *("download", "--repo-type", "dataset", REPO, "--local-dir", str(folder), *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def ours(folder: Path, source: str = f"hf://datasets/{REPO}", **sections: dict[str, object]) -> Report:
    return await fetch_all(source, folder, settings=quick(**sections))


async def test_both_clients_produce_identical_trees_and_hf_accepts_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = made(page=3)
    async with running(monkeypatch, hub):
        await hf_download(tmp_path / "theirs")
        hub.resolves.clear()
        assert (await ours(tmp_path / "ours")).counts[Status.FETCHED] == 11
        content = {**hub.repos[REPO].lfs, **hub.repos[REPO].git}
        assert tree(tmp_path / "theirs") == tree(tmp_path / "ours") == content
        assert all(hub.resolves[path] == 1 for path in hub.repos[REPO].lfs)
        hub.resolves.clear()
        await hf_download(tmp_path / "ours")
        assert hub.resolves.total() == 0
        assert hub.leaks == []


async def test_the_revision_is_pinned_and_digests_are_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = made()
    async with running(monkeypatch, hub):
        report = await ours(tmp_path, f"hf://datasets/{REPO}@main/anno_jsons/*")
    (outcome,) = report.outcomes
    assert outcome.digest is not None
    assert outcome.digest.startswith("git-blob-sha1:")
    assert outcome.entry is not None
    assert f"/resolve/{hub.repos[REPO].commit}/" in outcome.entry.urls[0]


async def test_a_signed_link_that_dies_in_mid_file_is_minted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ticks = itertools.count(1000, 3)  # the clock moves on by three seconds with each reading
    hub = made(lifetime=10.0, clock=lambda: float(next(ticks)))
    async with running(monkeypatch, hub):
        report = await ours(
            tmp_path, f"hf://datasets/{REPO}/all_mixkit", limits={"per_host": 1, "part_size": "64KiB"}
        )
    assert report.ok, report.failures
    assert tree(tmp_path) == {k: v for k, v in hub.repos[REPO].lfs.items() if k.startswith("all_mixkit")}
    assert 3 < hub.resolves.total() < 12
    assert hub.leaks == []


async def test_the_quota_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = made(left=0)
    slept = []
    async with running(monkeypatch, hub):

        def observe(event: object) -> None:
            if type(event).__name__ == "Cooling":
                slept.append(event)

        report = await fetch_all(
            f"hf://datasets/{REPO}/all_mixkit",
            tmp_path,
            settings=quick(limits={"connections": 1}),
            observer=observe,
            max_duration=1.0,
        )
    assert report.stopped
    assert len(slept) == 1
    assert hub.resolves.total() == 1
    assert report.counts[Status.FETCHED] == 1


async def test_a_mirrors_next_page_stays_on_the_mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = made(page=2, link_host="https://original.invalid")
    async with running(monkeypatch, hub):
        assert (await ours(tmp_path)).counts[Status.FETCHED] == 11


@pytest.mark.parametrize(
    ("source", "token", "gated", "said"),
    [
        (f"hf://datasets/{REPO}", None, False, "private"),
        (f"hf://datasets/{REPO}", None, True, "gated"),
        ("hf://datasets/no/such", TOKEN, False, "no such repository"),
        (f"hf://datasets/{REPO}@v9", TOKEN, False, "no such revision"),
    ],
)
async def test_refusals_are_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, token: str | None, gated: bool, said: str
) -> None:
    hub = made()
    hub.repos[REPO].gated = gated
    async with running(monkeypatch, hub, token):
        with pytest.raises((CredentialsError, ManifestError), match=said):
            await ours(tmp_path, source)


async def test_offline_mode_is_one_sentence(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "osp_fetch", "get", f"hf://datasets/{REPO}", "-o", str(tmp_path)),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert "HF_HUB_OFFLINE forbids the network" in err.decode()


@pytest.mark.parametrize("text", ["hf://", "hf://datasets/x", "hf://datasets//b", "hf://a b/c"])
async def test_an_address_that_is_none_is_said_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match="not of the form"):
        await ours(tmp_path, text)


async def test_a_backup_on_the_hub_proves_metas_links_and_stands_in_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SA-1B's tars come with neither size nor digest; a backup lists both.

    Source: docs/sources.md, "SA-1B link file".
    """
    files = {f"sa_{n:06}.tar": noise(200_000 + n, n) for n in range(4)}
    hub = Hub({"Aber-r/SA-1B_backup": HubRepo("Aber-r/SA-1B_backup", lfs=files)}, token=None)
    cdn = MetaCdn()
    cdn.files |= {name: Blob(data) for name, data in files.items()}
    cdn.files["sa_000001.tar"] = Blob(noise(200_001, 77))  # the right size with wrong bytes
    dropped: list[Event] = []
    async with running(monkeypatch, hub, token=None), Server(cdn.handle) as meta:
        links = tmp_path / "links.tsv"
        links.write_text(cdn.link_file(meta.url, 1e10))
        backup = "hf://datasets/Aber-r/SA-1B_backup"
        report = await fetch_all(links, tmp_path / "proved", settings=quick(), digests=backup)
        assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (3, 1)
        assert all(str(o.digest).startswith("sha256:") for o in report.outcomes if o.digest)
        report = await fetch_all(
            links, tmp_path / "both", settings=quick(), mirror=backup, observer=dropped.append
        )
        assert report.ok, report.failures
        named = [e for e in dropped if isinstance(e, events.MirrorDropped)]
        assert {(e.path, e.host) for e in named} == {("sa_000001.tar", f"127.0.0.1:{meta.port}")}
    for name, data in files.items():
        assert (tmp_path / "both" / name).read_bytes() == data


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        (f"hf://datasets/{REPO}@refs/convert/parquet", ["default/train/0000.parquet", "default/[1]/x y.bin"]),
        (f"hf://datasets/{REPO}@refs/convert/parquet/default/train/*", ["default/train/0000.parquet"]),
        (f"hf://datasets/{REPO}@refs%2Fconvert%2Fparquet/default/train", ["default/train/0000.parquet"]),
        (f"hf://datasets/{REPO}@refs/pr/1/fix", ["fix"]),
        (f"hf://datasets/{REPO}@refs/pr/1", ["fix"]),
    ],
)
async def test_revisions_with_slashes_are_written_plainly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, paths: list[str]
) -> None:
    hub = made()
    hub.repos[REPO].revisions = REVISIONS
    async with running(monkeypatch, hub):
        report = await ours(tmp_path, source)
    assert report.ok, report.failures
    assert sorted(tree(tmp_path)) == sorted(paths)


REVISIONS = {
    "refs/convert/parquet": {"default/train/0000.parquet": noise(9000, 3), "default/[1]/x y.bin": b"data"},
    "refs/pr/1": {"fix": noise(900, 4)},
}
BRACKETS = {
    "a[1].bin": b"one",
    "a1.bin": b"two",
    "[2024] x/b.bin": b"three",
    "2 x/b.bin": b"four",
    "c1": b"c",
}


@pytest.mark.parametrize(
    ("glob", "paths"),
    [
        ("a[1].bin", {"a[1].bin"}),
        ("a[12].bin", {"a1.bin"}),
        ("[2024] x", {"[2024] x/b.bin"}),
        ("[2024] x/*.bin", {"[2024] x/b.bin"}),
        ("[0-9] x/*", {"2 x/b.bin"}),
        ("?[0-9]", {"c1"}),
        ("a[[]1].bin", {"a[1].bin"}),
    ],
)
async def test_brackets_are_literal_where_such_a_file_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, glob: str, paths: set[str]
) -> None:
    hub = Hub({REPO: HubRepo(REPO, git=BRACKETS)}, token=TOKEN, page=2)
    async with running(monkeypatch, hub):
        report = await ours(tmp_path, f"hf://datasets/{REPO}/{glob}")
    assert report.ok, report.failures
    assert tree(tmp_path) == {path: BRACKETS[path] for path in paths}


@pytest.mark.parametrize(
    ("link", "address", "paths"),
    [
        ("", "", 11),
        ("/", "", 11),
        ("/tree/main", "@main", 11),
        ("/tree/main/all_mixkit?not-for-all-audiences=true", "@main/all_mixkit", 3),
        ("/tree/refs%2Fconvert%2Fparquet/default/%5B1%5D", "@refs%2Fconvert%2Fparquet/default/[1]", 1),
        ("/tree/refs/pr/1", "@refs/pr/1", 1),
    ],
)
async def test_a_link_copied_from_the_browser_is_taken_as_the_address_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, link: str, address: str, paths: int
) -> None:
    hub = made()
    hub.repos[REPO].revisions = REVISIONS
    async with running(monkeypatch, hub) as site:
        for number, base in enumerate([site, "https://huggingface.co"]):
            report = await ours(tmp_path / str(number), f"{base}/datasets/{REPO}{link}")
            assert report.ok, report.failures
            assert report.counts[Status.FETCHED] == paths
            (note,) = report.notes
            assert note.endswith(f"taken as hf://datasets/{REPO}{address}")


@pytest.mark.parametrize("text", ["hf://buckets/me/data", "hf://buckets/me/data/sub/x.bin"])
async def test_buckets_of_the_hub_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match="storage buckets of the Hub cannot be listed"):
        await ours(tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", [REPO, "lists/mine.csv"])
async def test_a_name_of_a_repository_alone_is_refused_with_its_address(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=f"there is no such file.*write hf://datasets/{text}$"):
        await ours(tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


async def test_a_repository_that_holds_somebodys_cache_is_fetched_completely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """People upload the folder of `hf download --local-dir` with its `.cache/`."""
    cached = ".cache/huggingface/download/all_mixkit/beach.tar.metadata"
    git = {
        cached: b"of another machine\n",
        ".cache/huggingface/.gitignore": b"*\n",
        ".cache/x.bin": noise(900),
    }
    hub = Hub({REPO: HubRepo(REPO, lfs={"all_mixkit/beach.tar": noise(200_000)}, git=git)}, token=TOKEN)
    async with running(monkeypatch, hub):
        for _ in range(2):
            report = await fetch_all(f"hf://datasets/{REPO}", tmp_path, settings=quick())
            assert report.ok, report.failures
            assert all((tmp_path / name).read_bytes() == data for name, data in git.items())
    assert (tmp_path / "all_mixkit/beach.tar").read_bytes() == noise(200_000)
