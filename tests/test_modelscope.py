"""Tests with ModelScope: the official client proves the emulator, and osp-fetch gets the same bytes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from osp_fetch import Status, fetch_all
from osp_fetch.demo.modelscope import ModelScope
from osp_fetch.demo.server import Server
from osp_fetch.model.errors import CredentialsError, ManifestError
from tests.conftest import quick
from tests.origin import noise

REPO = "iic/AnyWord-3M"
FILES = {
    "README.md": b"# AnyWord-3M\n",
    "laion/data_v1.1.json": noise(5000, 1),
    "laion/laion_split.z01": noise(300_000, 2),
    "laion/laion_split.zip": noise(200_000, 3),
    "OCR_RCTW/100%&+ ü.bin": noise(90_000, 4),
    "empty.txt": b"",
    **{f"wukong_1of5/{n:04}.json": noise(20, n) for n in range(450)},
}


@pytest.fixture
async def scope(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelScope]:
    made = ModelScope({REPO: dict(FILES)})
    async with Server(made.handle) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        yield made


def tree(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file()]
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
    return {name: data for name, data in found.items() if not name.startswith(".")}


async def test_the_official_client_and_ours_get_the_same_bytes(scope: ModelScope, tmp_path: Path) -> None:
    pytest.importorskip("modelscope_hub")
    scope.denials[2] = 2
    code = (
        "from modelscope.hub.snapshot_download import dataset_snapshot_download as d;"
        f"d({REPO!r}, local_dir={str(tmp_path / 'theirs')!r}, endpoint={os.environ['MODELSCOPE_ENDPOINT']!r})"
    )
    home = {"MODELSCOPE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        env={**os.environ, **home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]
    assert tree(tmp_path / "theirs") == FILES
    scope.denials[3] = 2
    report = await fetch_all(f"modelscope://datasets/{REPO}", tmp_path / "ours", settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path / "ours") == FILES
    assert report.frame()["digest"].str.startswith("sha256:").all()


async def test_ranges_with_status_200_are_used_over_several_connections(
    scope: ModelScope, tmp_path: Path
) -> None:
    report = await fetch_all(
        f"modelscope://datasets/{REPO}@master/laion/*.z*", tmp_path, settings=quick(limits={"per_host": 3})
    )
    assert report.counts[Status.FETCHED] == 2
    assert scope.requests["cdn"] >= 8
    # The redirect to the CDN is requested once per file, not once per part.
    assert scope.requests["laion/laion_split.z01"] == 1


async def test_a_digest_that_is_not_listed_or_wrong(scope: ModelScope, tmp_path: Path) -> None:
    scope.without_sha256 = {"laion/laion_split.z01"}
    scope.wrong_sha256 = {"laion/laion_split.zip"}
    report = await fetch_all(f"modelscope://datasets/{REPO}/laion", tmp_path, settings=quick())
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (2, 1)
    assert "probably wrong" in str(report.failures[0].error)
    assert (tmp_path / ".osp-fetch/aside/laion/laion_split.zip").read_bytes() == FILES[
        "laion/laion_split.zip"
    ]


async def test_a_token_is_sent_to_modelscope(
    scope: ModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope.token = "secret"
    with pytest.raises(CredentialsError, match="MODELSCOPE_API_TOKEN"):
        await fetch_all(f"modelscope://datasets/{REPO}", tmp_path, settings=quick())
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    report = await fetch_all(f"modelscope://datasets/{REPO}/laion", tmp_path, settings=quick())
    assert report.counts[Status.FETCHED] == 3


async def test_what_there_is_not_is_said(scope: ModelScope, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="dataset not found"):
        await fetch_all("modelscope://datasets/iic/nothing", tmp_path, settings=quick())
    with pytest.raises(ManifestError, match="not of the form"):
        await fetch_all("modelscope://iic/nothing", tmp_path, settings=quick())
