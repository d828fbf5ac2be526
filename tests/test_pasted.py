"""Tests of links to pages: which are rewritten to the file's address, and which are left alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from osp_fetch import Entry, ManifestError, Report, Status, entry, fetch_all
from osp_fetch.assembly import rows_of
from osp_fetch.model.protocols import Row
from osp_fetch.options import plain
from osp_fetch.sources.pasted import PageLinks, page_of
from tests.conftest import quick
from tests.origin import Origin, noise

ID = "1Eesj6HTqT1kCi6QLyL5j0mL_ELYRp3GV"
UC = f"https://drive.google.com/uc?id={ID}"

FILES = {
    "https://huggingface.co/datasets/O/N/blob/main/data/a%20b.tar": (
        "https://huggingface.co/datasets/O/N/resolve/main/data/a%20b.tar"
    ),
    "https://hf.co/O/N/blob/refs%2Fpr%2F1/x.bin?download=true#L1": (
        "https://hf.co/O/N/resolve/refs%2Fpr%2F1/x.bin"
    ),
    "https://huggingface.co/gpt2/blob/main/config.json": "https://huggingface.co/gpt2/resolve/main/config.json",
    "https://huggingface.co/spaces/O/N/blob/main/app.py": (
        "https://huggingface.co/spaces/O/N/resolve/main/app.py"
    ),
    "https://github.com/O/R/blob/main/d/x.zip?raw=true": "https://github.com/O/R/raw/main/d/x.zip",
    "https://github.com/O/R/blob/feature/y/x.zip": "https://github.com/O/R/raw/feature/y/x.zip",
    "https://gitlab.com/G/S/P/-/blob/v1/x.zip?ref_type=tags": "https://gitlab.com/G/S/P/-/raw/v1/x.zip",
    f"https://drive.google.com/file/d/{ID}/view?usp=sharing": UC,
    f"https://drive.google.com/file/u/0/d/{ID}/edit": UC,
    f"https://drive.google.com/file/d/{ID}": UC,
    f"https://drive.google.com/open?id={ID}&usp=drive_copy": UC,
    f"https://drive.google.com/file/d/{ID}/view?resourcekey=0-abc": f"{UC}&resourcekey=0-abc",
    "https://www.dropbox.com/s/k3y/x.zip?dl=0": "https://www.dropbox.com/s/k3y/x.zip?dl=1",
    "https://www.dropbox.com/scl/fi/k/x.zip?rlkey=a&st=b&dl=0": (
        "https://www.dropbox.com/scl/fi/k/x.zip?rlkey=a&st=b&dl=1"
    ),
    "https://dropbox.com/s/k3y/x.zip": "https://dropbox.com/s/k3y/x.zip?dl=1",
}


@pytest.mark.parametrize(("page", "link"), FILES.items())
def test_a_page_of_a_file_is_rewritten_to_its_address(page: str, link: str) -> None:
    found = page_of(page)
    assert found is not None
    assert found.link == link
    assert page_of(link) is None  # the address itself is left alone


@pytest.mark.parametrize(
    "link",
    [
        "https://example.org/blob/main/x.tar",
        "https://account.blob.core.windows.net/container/blob/x.tar",
        "https://github.com.evil.test/O/R/blob/main/x.zip",
        "https://github.com:8443/O/R/blob/main/x.zip",
        "https://github.com/O/R/blob/main",
        "https://github.com/O/R/blob/main/folder/",
        "https://github.com/O/R/releases/download/v1/x.zip",
        "https://raw.githubusercontent.com/O/R/main/blob/x.zip",
        "https://huggingface.co/datasets/O/N/resolve/main/blob/x.tar",
        "https://huggingface.co/docs/hub/index",
        "https://huggingface.co/docs/hub",
        "https://drive.google.com/uc?export=download&id=" + ID,
        "https://drive.google.com/open?usp=sharing",
        "https://docs.google.com/document/d/" + ID + "/edit",
        "https://www.dropbox.com/s/k3y/x.zip?raw=1",
        "https://www.dropbox.com/sh/k3y/folder?dl=0",
        "https://dl.dropboxusercontent.com/s/k3y/x.zip?dl=0",
        "https://[::1/blob/x",
    ],
)
def test_every_other_link_is_left_alone(link: str) -> None:
    assert page_of(link) is None


@pytest.mark.parametrize(
    ("page", "source"),
    [
        ("https://huggingface.co/datasets/O/N", "hf://datasets/O/N"),
        ("https://huggingface.co/O/N/tree/main/sub/dir/", "hf://O/N@main/sub/dir"),
        (f"https://drive.google.com/drive/folders/{ID}?usp=sharing", f"gdrive://folders/{ID}"),
        (f"https://drive.google.com/drive/u/1/folders/{ID}", f"gdrive://folders/{ID}"),
        (f"https://drive.google.com/file/d/{ID}/view", f"gdrive://files/{ID}"),
    ],
)
def test_a_page_as_source_is_taken_as_the_address_that_lists_it(page: str, source: str) -> None:
    pages = PageLinks({})
    assert pages.source(page) == source
    (note,) = pages.notes()
    assert note.endswith(f"it was taken as {source}")
    assert pages.source(source) == source
    assert pages.source(Path("x")) == Path("x")


def test_a_mirror_below_a_path_is_the_hub_only_there() -> None:
    pages = PageLinks({"HF_ENDPOINT": "https://nexus.test/repository/hf/"})
    base = "https://nexus.test/repository/hf"
    assert pages.source(f"{base}/datasets/O/N/tree/main") == "hf://datasets/O/N@main"
    assert pages.source("https://nexus.test/files/x.tar") == "https://nexus.test/files/x.tar"
    page = page_of(f"{base}/O/N/blob/main/x", {"nexus.test": "/repository/hf"})
    assert page is not None
    assert page.link == f"{base}/O/N/resolve/main/x"


def read(manifest: object) -> tuple[list[Row], list[str]]:
    resolved = rows_of(manifest, plain({}))  # type: ignore[arg-type]
    rows = list(resolved.rows)  # type: ignore[arg-type]
    return rows, resolved.notes()


@pytest.fixture(params=["csv", "jsonl", "txt", "entries"])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, str]], object]:
    """Return a function that makes a manifest of path → link in each of several forms."""

    def made(links: dict[str, str]) -> object:
        place = tmp_path / f"m.{request.param}"
        match request.param:
            case "csv":
                place.write_text("path,url\n" + "".join(f"{p},{u}\n" for p, u in links.items()))
            case "jsonl":
                place.write_text("".join(json.dumps({"path": p, "url": u}) + "\n" for p, u in links.items()))
            case "txt":
                place.write_text("".join(f"{u}\n" for u in links.values()))
            case "entries":
                return [entry(path, url) for path, url in links.items()]
        return place

    return made


def test_rows_of_every_form_are_rewritten_and_the_note_counts_them(
    manifest: Callable[[dict[str, str]], object],
) -> None:
    links = {
        "a.zip": "https://github.com/O/R/blob/main/a.zip",
        "b.zip": "https://github.com/O/R/blob/main/b.zip",
        "c.zip": "https://www.dropbox.com/s/k3y/c.zip?dl=0",
        "d.zip": "https://example.org/blob/d.zip",
    }
    rows, notes = read(manifest(links))
    found = {str(row.path): row for row in rows if isinstance(row, Entry)}
    assert {path: row.urls[0] for path, row in found.items()} == {
        "a.zip": "https://github.com/O/R/raw/main/a.zip",
        "b.zip": "https://github.com/O/R/raw/main/b.zip",
        "c.zip": "https://www.dropbox.com/s/k3y/c.zip?dl=1",
        "d.zip": "https://example.org/blob/d.zip",
    }
    key = found["a.zip"].source_key(found["a.zip"].urls[0])
    assert key == "github.com/O/R/raw/main/a.zip"
    assert notes == [
        "2 links of GitHub pages and 1 link of Dropbox pages were rewritten to the files' addresses, such as "
        "https://github.com/O/R/raw/main/a.zip"
    ]


async def test_rows_of_an_async_iterable_are_rewritten_too() -> None:
    async def rows() -> AsyncIterator[object]:
        yield {"url": "https://github.com/O/R/blob/main/a.zip"}

    resolved = rows_of(rows(), plain({}))  # type: ignore[arg-type]
    (row,) = [row async for row in resolved.rows]  # type: ignore[union-attr]
    assert isinstance(row, Entry)
    assert row.urls == ("https://github.com/O/R/raw/main/a.zip",)
    assert resolved.notes() == [
        "1 link of GitHub pages was rewritten to the file's address: https://github.com/O/R/raw/main/a.zip"
    ]


def test_a_row_that_leads_to_a_folder_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path,url\na,https://drive.google.com/drive/folders/{ID}\nb,{UC}\n")
    rows, notes = read(tmp_path / "m.csv")
    (bad,) = [row for row in rows if isinstance(row, ManifestError)]
    assert str(bad).startswith("m.csv:2: ")
    assert f"pass gdrive://folders/{ID} as a SOURCE" in str(bad)
    assert notes == []


async def test_a_pasted_page_of_the_hubs_mirror_is_fetched_and_said_once(
    origin: Origin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", origin.url)
    data = noise(20_000)
    origin.add("datasets/O/N/resolve/main/x.bin", data)
    report: Report = await fetch_all(
        f"{origin.url}/datasets/O/N/blob/main/x.bin", tmp_path / "out", settings=quick()
    )
    assert report.counts[Status.FETCHED] == 1, report.failures
    assert (tmp_path / "out" / "x.bin").read_bytes() == data
    (note,) = report.notes
    assert note.startswith(
        "1 link of Hugging Face pages was rewritten to the file's address: http://127.0.0.1:"
    )


def test_the_command_says_it(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "m.txt").write_text("https://github.com/O/R/blob/main/a.zip\n")
    done = command("plan", "m.txt")
    assert "1 link of GitHub pages was rewritten" in done.stdout
    document = json.loads(command("plan", "m.txt", "--json").stdout)
    assert document["hosts"] == {"github.com": 1}
    assert len(document["notes"]) == 1
