"""Tests of manifests in every format: what is read, what is refused, and that bad rows cost no good ones."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, entry
from osp_fetch.demo.server import Blob
from osp_fetch.demo.sources import MetaCdn
from osp_fetch.model.errors import ManifestError, Remedy
from osp_fetch.model.protocols import Row
from osp_fetch.sources import select
from osp_fetch.sources.checksums import Checksums
from osp_fetch.sources.join import RowJoin
from osp_fetch.sources.resolve import Options, resolve
from osp_fetch.sources.select import Seen, Selection, matches
from tests.conftest import SHARED

MD5 = hashlib.md5(b"").hexdigest()
SHA = hashlib.sha256(b"").hexdigest()


def rows(source: object, **options: object) -> list[Row]:
    return list(cast("Iterable[Row]", resolve(source, Options(**options)).rows))  # type: ignore[arg-type]


def good(source: object, **options: object) -> list[Entry]:
    found = rows(source, **options)
    assert all(isinstance(row, Entry) for row in found), found
    return cast("list[Entry]", found)


def text(folder: Path, name: str, content: str) -> Path:
    place = folder / name
    place.write_bytes(content.encode())
    return place


def link_file() -> str:
    cdn = MetaCdn()
    cdn.files |= {f"sa_{n:06}.tar": Blob(b"") for n in range(20)} | {"sa_images_ids.txt": Blob(b"")}
    cdn.files["sa_co_gold.tar"] = Blob(b"")
    return cdn.link_file("https://scontent.xx.fbcdn.net", 1_800_000_000)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("name", ["links.tsv", "links.txt", "links"])
def test_the_sa1b_link_file_in_all_its_forms(
    tmp_path: Path, header: bool, ending: str, final: bool, name: str
) -> None:
    original = link_file()
    lines = original.split("\n")[0 if header else 1 :]
    found = good(text(tmp_path, name, ending.join(lines) + ending * final))
    links = dict(line.split("\t") for line in original.split("\n")[1:])
    del links["sa_co_gold.tar"]
    assert {e.path: e.urls[0] for e in found} == links
    assert all("?_nc_gid&ccb=10-5&oh=00_" in e.urls[0] for e in found)


def test_what_is_not_sa1b_comes_only_on_request(tmp_path: Path) -> None:
    links = text(tmp_path, "links.tsv", link_file())
    assert [e.path for e in good(links, selection=Selection(("sa_co_gold.tar",)))] == ["sa_co_gold.tar"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real link files are not present")
def test_the_real_link_files_are_read_completely() -> None:
    first, second = (good(SHARED / f"sa1b_links_2026-0{n}.tsv") for n in (1, 2))
    listed = Checksums.read(SHARED / "sa1b_md5.txt")
    assert len(first) == len(second) == 1001
    assert {e.path for e in first} == {e.path for e in second}
    raw = (SHARED / "sa1b_links_2026-01.tsv").read_text()
    assert all(f"{e.path}\t{e.urls[0]}" in raw for e in first)
    joined = RowJoin(listed).over(first)
    assert sum(isinstance(e, Entry) and e.digest is not None for e in joined) == 1000


def test_tables_of_every_kind_give_the_same_rows(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"path": "NA", "url": "http://h/0012", "size": 12, "md5": MD5},
        {"path": "d/0012", "url": "http://h/b?x=1e10", "size": None, "md5": None},
    ]
    csv = (
        "path,url,size,md5,caption\n"
        + f'NA,http://h/0012,12,{MD5},"a, b"\n'
        + "d/0012,http://h/b?x=1e10,,,\n"
    )
    frame = pandas.DataFrame(records)
    parquet = tmp_path / "m.parquet"
    frame.to_parquet(parquet)
    lines = "\n".join(json.dumps({k: v for k, v in r.items() if v is not None}) for r in records)
    expected = [
        entry("NA", "http://h/0012", 12, f"md5:{MD5}"),
        entry("d/0012", "http://h/b?x=1e10"),
    ]
    for source in (
        text(tmp_path, "m.csv", csv),
        text(tmp_path, "m.tsv", csv.replace('"a, b"', "x").replace(",", "\t")),
        text(tmp_path, "m.jsonl", lines),
        parquet,
        frame,
    ):
        assert good(source) == expected, source


def test_json_lines_may_name_mirrors_and_headers(tmp_path: Path) -> None:
    row = {"path": "a", "urls": ["http://h/1", "http://i/1"], "sha256": SHA, "headers": {"X-A": "b"}}
    (found,) = good(text(tmp_path, "m.jsonl", json.dumps(row)))
    assert found.urls == ("http://h/1", "http://i/1")
    assert found.headers == (("X-A", "b"),)
    assert str(found.digest) == f"sha256:{SHA}"


def test_a_list_of_urls_names_files_after_them(tmp_path: Path) -> None:
    listed = text(tmp_path, "urls.txt", "# a comment\nhttp://h/a/b%20c.tar?x=1\n\nhttps://h/d.zip\n")
    assert [e.path for e in good(listed)] == ["b c.tar", "d.zip"]


def test_a_url_is_a_manifest_of_one() -> None:
    assert [e.path for e in good("https://h/x/y.tar?sig=1")] == ["y.tar"]


def test_several_sources_are_one_manifest(tmp_path: Path) -> None:
    one, two = text(tmp_path, "1.txt", "http://h/a"), text(tmp_path, "2.txt", "http://h/b\nhttp://i/a")
    found = rows([str(one), str(two)])
    assert [row.path.partition("-")[0] for row in found if isinstance(row, Entry)] == ["a", "b", "a"]


def test_bad_rows_name_file_line_and_remedy_and_stop_no_others(tmp_path: Path) -> None:
    content = f"path,url,size,md5\na,http://h/a,1,{MD5}\n../b,http://h/b,,\nc,ftp://h/c,,\nd,http://h/d,x,\n"
    content += "e,http://h/e,,12\n"
    content += "f,http://h/f,1,,,extra\ng,,,\na,http://h/other,1,\nh,http://h/h,5,\n"
    found = rows(text(tmp_path, "m.csv", content))
    assert [row.path for row in found if isinstance(row, Entry)] == ["a", "h"]
    said = [str(row) for row in found if isinstance(row, ManifestError)]
    assert [message.partition(": ")[0] for message in said] == [f"m.csv:{n}" for n in range(3, 10)]
    assert all("remove" in message for message in said)


def test_strict_ends_at_the_first_bad_row(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"m.txt:2"):
        rows(text(tmp_path, "m.txt", "http://h/a\nnonsense\n"), strict=True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", "a,b\n1,2\n", "no column holds links"),
        ("m.csv", "ulr,sha265\n1,1\n", "did you mean 'url'"),
        ("m.tsv", "", "no column holds links (columns: none found)"),
        ("m.txt", "\x7fELF\0\0\x02", "not UTF-8 text"),
        ("m.parquet", "not parquet", "cannot be read as Parquet"),
        ("m.jsonl", '{"path": "a"}', "no column holds links"),
        ("m.jsonl", "[1]", "not a JSON object"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_said_so(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    place = text(tmp_path, name, content)
    try:
        message = " ".join(str(row) for row in rows(place))
    except ManifestError as error:
        message = str(error)
    assert said in message
    assert name in message


def test_a_missing_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="the manifest cannot be read"):
        rows(tmp_path / "absent.tsv")


def test_checksum_lists_join_by_name(tmp_path: Path) -> None:
    listed = text(tmp_path, "sums", f"{MD5}  a.tar\n{SHA} *./d/b.tar\nSHA256 (c d.tar) = {SHA}\n")
    sums = Checksums.read(listed)
    given = [entry(path, "http://h/x") for path in ("a.tar", "d/b.tar", "c d.tar", "other")]
    found = list(RowJoin(sums).over(given))
    assert [str(e.digest) if isinstance(e, Entry) else e for e in found] == [
        f"md5:{MD5}", f"sha256:{SHA}", f"sha256:{SHA}", "None"
    ]  # fmt: skip


def test_a_flat_checksum_list_joins_files_in_folders(tmp_path: Path) -> None:
    sums = Checksums.read(text(tmp_path, "sums", f"{MD5}  a.tar\n"))
    (joined,) = RowJoin(sums).over([entry("deep/a.tar", "http://h/x")])
    assert isinstance(joined, Entry)
    assert joined.digest is not None


def test_contradicting_digests_fail_the_row(tmp_path: Path) -> None:
    sums = Checksums.read(text(tmp_path, "sums", f"{MD5}  a\n"))
    (joined,) = RowJoin(sums).over([entry("a", "http://h/a", digest="md5:" + "1" * 32)])
    assert isinstance(joined, ManifestError)


def test_a_checksum_list_that_contradicts_itself_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="sums:1 and sums:3") as caught:
        Checksums.read(text(tmp_path, "sums", f"{MD5}  a\n{SHA}  a\n{'1' * 32}  ./a\n"))
    assert caught.value.remedy is Remedy.ABORT
    twice = Checksums.read(text(tmp_path, "same", f"{MD5}  a\n{SHA}  a\n{MD5}  a\n"))
    assert str(twice.digests["a"]) == f"sha256:{SHA}"


def test_a_broken_checksum_list_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="sums:2"):
        Checksums.read(text(tmp_path, "sums", f"{MD5}  a\nhello\n"))


@pytest.mark.parametrize(
    ("path", "glob", "wanted"),
    [("a/b.tar", "*.tar", True), ("a/b.tar", "a/*", True), ("a/b.tar", "a", True), ("a/b.tar", "a/", True),
     ("a/b/c.tar", "a/*", True), ("ab/c", "a", False), ("a/b.tar", "b.*", True), ("a/b.tar", "x/*", False)],
)  # fmt: skip
def test_globs(path: str, glob: str, wanted: bool) -> None:
    assert matches(path, glob) == wanted


@given(st.lists(st.lists(st.integers(0, 300).map(str), max_size=40), max_size=30), st.integers(1, 64))
def test_repeats_are_found_however_the_paths_come(blocks: list[list[str]], limit: int) -> None:
    old, select._SET_LIMIT = select._SET_LIMIT, limit  # type: ignore[misc]
    try:
        seen, known = Seen(), set[str]()
        for block in blocks:
            expected = []
            for path in block:
                expected.append(path in known)
                known.add(path)
            assert seen.repeats(block) == expected
    finally:
        select._SET_LIMIT = old  # type: ignore[misc]


def entries(sizes: list[int | None]) -> list[Entry]:
    return [entry(f"f{n}", f"http://h/{n}", size) for n, size in enumerate(sizes)]


@given(st.lists(st.none() | st.integers(0, 1000), max_size=60), st.integers(1, 7))
def test_shards_are_disjoint_and_together_all(sizes: list[int | None], total: int) -> None:
    whole = entries(sizes)
    parts = [list(select.shard(whole, index, total)) for index in range(total)]
    assert sorted(e.path for part in parts for e in part if isinstance(e, Entry)) == sorted(
        e.path for e in whole
    )


def test_shards_split_by_bytes_where_sizes_are_known_and_else_by_count() -> None:
    sized = entries([1000, *[100] * 30])
    loads = [sum(e.size or 0 for e in select.shard(sized, i, 4) if isinstance(e, Entry)) for i in range(4)]
    assert max(loads) - min(loads) <= 200
    counts = [len(list(select.shard(entries([None] * 103), i, 4))) for i in range(4)]
    assert max(counts) - min(counts) <= 1


def test_a_fresh_link_file_in_another_order_shards_alike(tmp_path: Path) -> None:
    lines = link_file().split("\n")
    one = text(tmp_path, "1.tsv", "\n".join(lines))
    two = text(tmp_path, "2.tsv", "\n".join([lines[0], *reversed(lines[1:])]))
    for index in range(3):
        assert [e.path for e in good(one, shard=(index, 3))] == [e.path for e in good(two, shard=(index, 3))]


def test_pandas_is_not_imported_for_a_list_of_urls(tmp_path: Path) -> None:
    import subprocess

    text(tmp_path, "urls.txt", "http://h/a\n")
    code = (
        "import sys; from osp_fetch.sources.resolve import *; "
        "list(resolve('urls.txt', Options()).rows); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_what_reads_a_kind_of_source_is_imported_for_it_alone() -> None:
    import subprocess

    code = (
        "import sys, osp_fetch.api; from osp_fetch.sources.resolve import Options, resolve\n"
        "list(resolve('http://h/a.tar', Options()).rows)\n"
        "own = 'formats opening table folder_pages huggingface checksum_lines modelscope buckets'.split()\n"
        "print({f'osp_fetch.sources.{each}' for each in own}.intersection(sys.modules) or '')\n"
        "print({'csv', 'zipfile', 'html', 'difflib', 'pandas'}.intersection(sys.modules) or '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_metalinks_name_mirrors_sizes_and_digests(tmp_path: Path) -> None:
    content = f"""<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">
      <file name="d/a.tar"><size>12</size><hash type="md5">{MD5}</hash><hash type="sha-256">{SHA}</hash>
        <url priority="2">http://second/a</url><url priority="1">http://first/a</url></file>
      <file name="../b"><url>http://h/b</url></file></metalink>"""
    found = rows(text(tmp_path, "m.meta4", content))
    assert [row for row in found if isinstance(row, Entry)] == [
        entry("d/a.tar", ["http://first/a", "http://second/a"], 12, f"sha256:{SHA}")
    ]
    assert any("m.meta4:2" in str(row) for row in found)
    with pytest.raises(ManifestError, match="Metalink"):
        rows(text(tmp_path, "bad.meta4", "<metalink>"))
