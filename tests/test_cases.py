"""Small inputs that people really have, as public reports describe them, and what is right for each.

The inputs are not part of the repository; without them these tests are skipped. `test_tables.py`,
`test_names.py` and `test_lists.py` hold other inputs of the same kinds.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from osp_fetch.demo.server import Blob, Exchange, Server
from tests.conftest import SHARED
from tests.test_cli import QUICK, get

CASES = SHARED.parent / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the inputs are not present")
KNOWN = {"one.tar": b"test", "two.tar": b"test2", "s.bin": bytes(3094)}  # their digests and sizes are stated


@dataclass
class Site:
    """A server for `origin.test` that has a file under every path, and the folder of a run."""

    folder: Path
    targets: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, exchange: Exchange) -> None:
        self.targets.append(exchange.target)
        if exchange.path == "/SHA256SUMS":
            await exchange.serve(Blob((CASES / "SHA256SUMS").read_bytes()))
            return
        await exchange.serve(Blob(KNOWN.get(exchange.path.rpartition("/")[2], exchange.target.encode())))

    async def get(self, source: str | Path, out: str = "out") -> dict[str, bytes]:
        """Fetch a SOURCE; return path → bytes of every file."""
        rule = f"origin.test:80:127.0.0.1:{self.url.rpartition(':')[2]}"
        words = ["get", str(source), "-o", out, "--connect-to", rule, *QUICK]
        code, _, said = await get(*words, cwd=self.folder)
        assert code == 0, said
        root = self.folder / out
        files = [place for place in root.rglob("*") if place.is_file() and ".osp-fetch" not in place.parts]
        return {str(place.relative_to(root)): place.read_bytes() for place in files}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    async with Server(made.answer) as server:
        made.url = server.url
        yield made


async def test_coyo(site: Site) -> None:
    found = await site.get(CASES / "coyo.csv")
    assert found == {f"{name}.jpg": f"/img/{name}.jpg".encode() for name in ("harbour", "bridge", "meadow")}


async def test_no_header(site: Site) -> None:
    found = await site.get(CASES / "no-header.tsv")
    assert sorted(found.values()) == [f"/cc/{n}/large.jpg".encode() for n in ("aa", "bb", "cc")]
    assert all(name.startswith("large-") and name.endswith(".jpg") for name in found)


async def test_semicolon(site: Site) -> None:
    assert await site.get(CASES / "semicolon.csv") == {"x/a.jpg": b"/a.jpg", "x/b.jpg": b"/b.jpg"}


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data)),
}  # fmt: skip


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("form", ["csv", "txt", "jsonl"])
async def test_compressed_rows(site: Site, packer: str, form: str) -> None:
    table = gzip.decompress((CASES / "rows.csv.gz").read_bytes())
    links = [line.split(",")[0] for line in table.decode().splitlines()[1:]]
    lines = "\n".join(json.dumps({"url": link}) for link in links)
    data = {"csv": table, "txt": "\n".join(links).encode(), "jsonl": lines.encode()}[form]
    place = site.folder / f"rows.{form}{packer}"
    place.write_bytes(PACKERS[packer](data))
    assert await site.get(place) == {"a.bin": b"/a.bin", "b.bin": b"/b.bin"}
    assert await site.get(CASES / "rows.csv.gz", "again") == {"a.bin": b"/a.bin", "b.bin": b"/b.bin"}


@pytest.mark.parametrize("indent", [None, 2])
async def test_array(site: Site, indent: int | None) -> None:
    place = site.folder / "array.json"
    place.write_text(json.dumps(json.loads((CASES / "array.json").read_text()), indent=indent))
    assert await site.get(place) == {"a.jpg": b"/a.jpg", "b.jpg": b"/b.jpg"}


async def test_sizes(site: Site) -> None:
    names = ("plain", "float", "empty", "nan", "minus", "none")
    assert await site.get(CASES / "sizes.csv") == {f"{name}.bin": bytes(3094) for name in names}


async def test_aria2_input(site: Site) -> None:
    assert await site.get(CASES / "aria2-input.txt") == {"first/one.tar": b"test", "second/two.tar": b"test2"}


async def test_same_names(site: Site) -> None:
    first = await site.get(CASES / "same-names.txt")
    assert sorted(first.values()) == [f"/{folder}/1.jpg".encode() for folder in "abc"]
    lines = (CASES / "same-names.txt").read_text().splitlines()
    (site.folder / "turned.txt").write_text("\n".join(reversed(lines)))
    assert await site.get(site.folder / "turned.txt", "turned") == first


async def test_queries(site: Site) -> None:
    found = await site.get(CASES / "queries.txt")
    assert sorted(found.values()) == [b"/download.php?id=1", b"/download.php?id=2", b"/get/?file=3"]


async def test_odd_urls(site: Site) -> None:
    assert len(await site.get(CASES / "odd-urls.txt")) == 5
    assert set(site.targets) == {
        "/hotel%20view%203.jpg", "/%EC%82%AC%EC%A7%84/%ED%95%98%EB%82%98.jpg", "/upper.jpg",
        "/semi;colon,comma.jpg", "/p%20q/100%25.jpg",
    }  # fmt: skip


async def test_a_checksum_list_by_its_url(site: Site) -> None:
    found = await site.get("http://origin.test/SHA256SUMS")
    assert found == {"files/one.tar": b"test", "files/two.tar": b"test2"}
