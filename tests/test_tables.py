"""Tests of tables as people have them: dialects, compression, encodings, columns, values and Parquet."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, fetch_all
from osp_fetch.model.errors import ManifestError
from osp_fetch.model.protocols import Row
from osp_fetch.model.urls import encoded
from osp_fetch.sources.columns import ByHand, choose
from osp_fetch.sources.dialect import Dialect, detect
from osp_fetch.sources.resolve import Options, Resolved, resolve
from osp_fetch.sources.row_parser import read_size
from tests.conftest import quick
from tests.origin import Origin

SHA = hashlib.sha256(b"").hexdigest()
ROWS = ["url,path", "http://h/1.jpg,a.jpg", "http://h/2.jpg,b.jpg"]


def read(source: object, **options: Any) -> tuple[list[Row], Resolved]:
    resolved = resolve(source, Options(**options))
    return list(cast("Iterable[Row]", resolved.rows)), resolved


def good(source: object, **options: Any) -> list[Entry]:
    rows, _ = read(source, **options)
    assert all(isinstance(row, Entry) for row in rows), rows
    return cast("list[Entry]", rows)


def bad(rows: list[Row]) -> list[str]:
    return [str(row) for row in rows if isinstance(row, ManifestError)]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    place = folder / name
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


# dialects


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "m"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_table_is_read_in_every_dialect(
    tmp_path: Path, separator: str, quoted: bool, name: str, ending: str
) -> None:
    records = [
        ["score", "url", "path"],
        ["0,5", "http://h/1.jpg", "a.jpg"],
        ["7", "http://h/2.jpg", "d/b.jpg"],
    ]
    if separator == "," and not quoted:
        records[1][0] = "0.5"
    mark = '"' if quoted else ""
    lines = [separator.join(f"{mark}{cell}{mark}" for cell in record) for record in records]
    assert [e.path for e in good(file(tmp_path, name, ending.join(lines) + ending))] == ["a.jpg", "d/b.jpg"]


def test_commas_in_captions_of_a_tab_table_are_no_separators(tmp_path: Path) -> None:
    lines = [f"a caption, number {n}\thttp://h/{n}.jpg" for n in range(5)]
    assert [e.urls[0] for e in good(file(tmp_path, "m.txt", "\n".join(lines)))] == [
        f"http://h/{n}.jpg" for n in range(5)
    ]


@pytest.mark.parametrize(
    "lines",
    [["http://h/a,b.jpg"], ["http://h/full/200,/0/x.jpg", "http://h/full/400,/0/y.jpg"],
     ["http://h/a;b", "http://h/c"], ["http://h/a|b|c", "http://h/d|e|f"]],
)  # fmt: skip
def test_separators_in_links_make_no_table(tmp_path: Path, lines: list[str]) -> None:
    found = good(file(tmp_path, "urls.txt", "\n".join(lines)))
    assert [e.urls[0] for e in found] == lines


def test_a_csv_under_another_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    assert [e.path for e in good(file(tmp_path, "list.dat", "\n".join(ROWS)))] == ["a.jpg", "b.jpg"]
    assert [e.path for e in good(file(tmp_path, "one.list", "url\nhttp://h/a,b.jpg\n"))] == ["a,b.jpg"]


def test_comments_before_the_header_and_a_header_that_is_one(tmp_path: Path) -> None:
    assert len(good(file(tmp_path, "m.csv", "# made by hand\n" + "\n".join(ROWS)))) == 2
    assert len(good(file(tmp_path, "m.tsv", "#url\tpath\nhttp://h/1\ta\nhttp://h/2\tb\n"))) == 2


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    "comment", ["#http://h/b{0}d/b.bin", "# http://h/b{0}d/b.bin", "# a word", "# a{0} b", "#"]
)
def test_a_row_that_is_commented_out_is_no_row(
    tmp_path: Path, separator: str, header: bool, comment: str
) -> None:
    one, two = (f"http://h/{n}{separator}d/{n}.bin" for n in "ac")
    lines = [*[f"url{separator}path"] * header, one, comment.format(separator), two]
    name = "m.csv" if separator == "," else "m.txt"
    rows, _ = read(file(tmp_path, name, "\n".join(lines)))
    assert [each.path for each in rows if isinstance(each, Entry)] == ["d/a.bin", "d/c.bin"]
    assert len(rows) == 2


@pytest.mark.parametrize("bad", ["no link", ""])
def test_a_bad_row_of_a_few_costs_no_other(tmp_path: Path, bad: str) -> None:
    lines = ["http://h/a\td/a.bin", f"{bad}\td/b.bin", "http://h/c\td/c.bin"]
    found, _ = read(file(tmp_path, "m.tsv", "\n".join(lines)))
    assert [each.path for each in found if isinstance(each, Entry)] == ["d/a.bin", "d/c.bin"]
    assert len(found) == 3


def test_a_stray_quote_costs_its_row_and_no_other(tmp_path: Path) -> None:
    lines = ["url,caption,path"]
    lines += [f"http://h/{n},caption {n},{n}.jpg" for n in range(50)]
    lines[10] = 'http://h/9,"never closed,9.jpg'
    lines[30] = 'http://h/29,"also "never" closed,29.jpg'
    lines[-1] = 'http://h/49,"at the end,49.jpg'
    rows, _ = read(file(tmp_path, "m.csv", "\n".join(lines)))
    assert len(rows) == 50
    assert {row.path for row in rows if isinstance(row, Entry)} == {
        f"{n}.jpg" for n in range(50) if n not in (9, 49)
    }
    assert {said.partition(": ")[0] for said in bad(rows)} == {"m.csv:11", "m.csv:51"}


@pytest.mark.parametrize("columns", ["url,caption,path", "URL,TEXT,WIDTH,path"])
@pytest.mark.parametrize("run", [2, 3, 4])
def test_stray_quotes_of_neighbours_never_join_their_rows(tmp_path: Path, columns: str, run: int) -> None:
    between = "," * (columns.count(",") - 2)
    lines = [columns, *(f"http://h/{n},fine{between},{n}.jpg" for n in range(9))]
    for n in range(3, 3 + run):
        lines[n + 1] = f'http://h/{n},"a stray quote{between},{n}.jpg'
    rows, _ = read(file(tmp_path, "m.csv", "\n".join(lines)))
    assert {row.path: row.urls[0] for row in rows if isinstance(row, Entry)} == {
        f"{n}.jpg": f"http://h/{n}" for n in range(9) if not 3 <= n < 3 + run
    }
    assert len(rows) == 9


@pytest.mark.parametrize("caption", ["two\nlines", "see\nhttp://x/p, or so", "a\n\nb\nhttp://x/y,http://x/z"])
@pytest.mark.parametrize("order", [["caption", "url"], ["url", "caption"]])
@pytest.mark.parametrize(("name", "separator"), [("m.csv", ","), ("m.tsv", "\t")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_captions_of_several_lines_are_one_field(
    tmp_path: Path, caption: str, order: list[str], name: str, separator: str, quoting: Any
) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, order, delimiter=separator, quoting=quoting)
    writer.writeheader()
    writer.writerows(
        {"url": f"http://h/{n}.jpg", "caption": caption if n in (3, 5) else f"plain {n}"} for n in range(9)
    )
    rows, _ = read(file(tmp_path, name, out.getvalue()))
    assert [row.urls[0] for row in rows if isinstance(row, Entry)] == [f"http://h/{n}.jpg" for n in range(9)]
    assert len(rows) == 9


def test_a_caption_that_begins_with_a_hash_is_no_comment(tmp_path: Path) -> None:
    content = "# 1 dad mug\thttp://h/0.jpg\na mug\thttp://h/1.jpg\n#http://h/2.jpg\thttp://h/2.jpg\n"
    rows, _ = read(file(tmp_path, "m.tsv", content))
    assert [row.urls[0] for row in rows if isinstance(row, Entry)] == [
        "http://h/0.jpg",
        "http://h/1.jpg",
    ]


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    content = 'url,caption,path\nhttp://h/1,"two\nlines, and ""quotes""",a\nhttp://h/2,"",b\n'
    assert [e.path for e in good(file(tmp_path, "m.csv", content))] == ["a", "b"]


@given(st.lists(st.tuples(st.text("ab,\"' \n;", max_size=12), st.integers(0, 9)), min_size=1, max_size=30))
def test_what_the_csv_module_writes_is_read_back(records: list[tuple[str, int]]) -> None:
    import csv
    import tempfile

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["url", "caption", "path"])
    for number, (caption, _) in enumerate(records):
        writer.writerow([f"http://h/{number}", caption, f"{number}.jpg"])
    with tempfile.TemporaryDirectory() as folder:
        found = good(file(Path(folder), "m.csv", out.getvalue()))
    assert [(e.urls[0], e.path) for e in found] == [
        (f"http://h/{number}", f"{number}.jpg") for number in range(len(records))
    ]


def test_a_dialect_is_none_for_a_list_of_links() -> None:
    assert detect("http://h/a\nhttp://h/b\n", ".txt") is None
    assert detect("url;path\nhttp://h/a;x\n", ".csv") == Dialect(";", quoted=True)


# compression and encodings


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/m.csv", data)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    half = len(data) // 2
    packed = zstandard.ZstdCompressor(write_checksum=True).compress
    return bytes(packed(data[:half]) + packed(data[half:]))  # two frames, as pzstd writes them


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd, ".zip": zipped,
}  # fmt: skip
CONTENTS = {
    "m.csv": "\n".join(ROWS),
    "m.jsonl": '{"url": "http://h/1.jpg", "path": "a.jpg"}\n{"url": "http://h/2.jpg", "path": "b.jpg"}',
    "m.json": '[{"url": "http://h/1.jpg", "path": "a.jpg"}, {"url": "http://h/2.jpg", "path": "b.jpg"}]',
    "m.txt": "http://h/a.jpg\nhttp://h/b.jpg\n",
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", CONTENTS)
def test_compressed_manifests_are_read_as_they_are(tmp_path: Path, packer: str, name: str) -> None:
    packed = PACKERS[packer](CONTENTS[name].encode())
    assert [e.path for e in good(file(tmp_path, name + packer, packed))] == ["a.jpg", "b.jpg"]
    assert [e.path for e in good(file(tmp_path, "no-suffix", packed))] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("packer", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_manifest_is_one_sentence(tmp_path: Path, packer: str) -> None:
    content = "url,path\n" + "".join(f"http://h/{SHA[n % 60 :]}{n},{n}.jpg\n" for n in range(20_000))
    packed = PACKERS[packer](content.encode())
    with pytest.raises(ManifestError, match=r"m\.csv.*(read to its end|decompressed).*again"):
        read(file(tmp_path, f"m.csv{packer}", packed[: len(packed) * 2 // 3]))


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("packer", PACKERS)
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, packer: str, place: float) -> None:
    digests = (hashlib.sha256(b"%d" % n).hexdigest() for n in range(20_000))
    packed = PACKERS[packer](("url,path\n" + "".join(f"http://h/{d},{d}.jpg\n" for d in digests)).encode())
    at = int(len(packed) * place)
    damaged = packed[:at] + b"\xff" * 99 + packed[at + 99 :]
    with pytest.raises(ManifestError, match=r"m\.csv.*(read to its end|decompressed).*again"):
        read(file(tmp_path, f"m.csv{packer}", damaged))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_with_a_mark_or_without(tmp_path: Path, encoding: str) -> None:
    content = "url,path,caption\nhttp://h/1,été.jpg,사진\n"
    assert [e.path for e in good(file(tmp_path, "m.csv", content.encode(encoding)))] == ["été.jpg"]


def test_captions_in_windows_1252_do_not_matter_and_names_are_right(tmp_path: Path) -> None:
    content = "url,path,caption\nhttp://h/1,café.jpg,“smart”\nhttp://h/2,b.jpg,plain\n".encode("cp1252")
    assert [e.path for e in good(file(tmp_path, "m.csv", content))] == ["café.jpg", "b.jpg"]


def test_json_in_one_line_in_many_and_nested(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image": {"url": "http://h/a.jpg", "bytes": None}},
        {"id": 2, "image": {"url": "http://h/b.jpg"}},
    ]
    for text in (json.dumps(rows), json.dumps(rows, indent=2), "\n".join(map(json.dumps, rows)),
                 "\n".join(json.dumps(row, indent=1) for row in rows)):  # fmt: skip
        assert [e.path for e in good(file(tmp_path, "m.json", text))] == ["a.jpg", "b.jpg"]
    with pytest.raises(ManifestError, match=r"bad\.json: cannot be read as JSON"):
        read(file(tmp_path, "bad.json", '[{"url": "http://h/a"}, '))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_object_that_maps_names_to_links(tmp_path: Path, indent: int | None) -> None:
    links = {"d/a.jpg": "http://h/1", "b.tar.gz": ["https://h/2?x=1", "http://mirror/2"]}
    found = good(file(tmp_path, "m.json", json.dumps(links, indent=indent)))
    assert {each.path: each.urls for each in found} == {
        "d/a.jpg": ("http://h/1",), "b.tar.gz": ("https://h/2?x=1", "http://mirror/2"),
    }  # fmt: skip
    for row in (
        {"url": "http://h/1", "thumbnail.url": "http://h/2"},
        {"a.url": "http://h/1", "b.url": "http://h/2"},
    ):
        assert [each.urls for each in good(file(tmp_path, "n.json", json.dumps(row)))] == [("http://h/1",)]


IMAGES = [
    {"id": 1, "images": ["http://h/a1.jpg", "http://h/a2.jpg", "http://h/a1.jpg"]},
    {"id": 2, "images": ["http://h/b1.jpg?x=1", "http://i/b1.jpg?y=2", "http://h/dir/b2.jpg"]},
    {"id": 3, "images": ["http://h/get?id=1", "http://h/get?id=2"]},
]
FILES = [
    ("http://h/a1.jpg",), ("http://h/a2.jpg",), ("http://h/b1.jpg?x=1", "http://i/b1.jpg?y=2"),
    ("http://h/dir/b2.jpg",), ("http://h/get?id=1",), ("http://h/get?id=2",),
]  # fmt: skip


def test_a_list_of_images_is_no_list_of_mirrors(tmp_path: Path) -> None:
    frame = pandas.DataFrame(IMAGES)
    frame.to_parquet(tmp_path / "m.parquet")
    lines = file(tmp_path, "m.jsonl", "\n".join(map(json.dumps, IMAGES)))
    for source in (lines, tmp_path / "m.parquet", frame, IMAGES):
        assert [entry.urls for entry in good(source)] == FILES


def test_a_bad_link_among_several_costs_its_row_only(tmp_path: Path) -> None:
    bad = [
        ["http://h/1.jpg", "http://[bad/2.jpg"],
        ["http://h/1.jpg", 7],
        "http://h/3.jpg ftp://x http://[bad",
    ]
    for links in bad:
        rows, _ = read([{"images": links}, {"images": ["http://h/4.jpg"]}])
        assert [row.urls for row in rows if isinstance(row, Entry)][-1] == ("http://h/4.jpg",)
        assert any(isinstance(row, ManifestError) for row in rows)
    frame = pandas.DataFrame({"url": [["http://h/a", "http://h/b"]], "path": [["x", "y"]]})
    assert [entry.urls for entry in good(frame)] == [("http://h/a",), ("http://h/b",)]


def test_the_links_of_a_row_that_states_a_file_are_mirrors(tmp_path: Path) -> None:
    links = ["http://h/a1.jpg", "http://i/a2.jpg"]
    for stated in ({"path": "a.jpg"}, {"sha256": SHA}, {"size": 7}):
        (entry,) = good([{"urls": links, **stated}])
        assert entry.urls == tuple(links)


def test_several_links_in_one_line_or_cell_are_files_of_their_own(tmp_path: Path) -> None:
    one, two, archived = (
        "http://h/a_1.gz",
        "https://h/a_2.gz",
        "https://web.archive.org/web/2020/http://h/a.jpg",
    )
    lines = file(tmp_path, "m.txt", f"{one} {two}\n{archived}\nhttp://h/b c.jpg\n")
    assert [e.urls for e in good(lines)] == [(one,), (two,), (archived,), ("http://h/b%20c.jpg",)]
    for between in (";", "|", "; "):
        table = file(tmp_path, "m.csv", f"run,fastq_url\n1,{one}{between}{two}\n2,{archived}\n")
        assert [e.urls for e in good(table)] == [(one,), (two,), (archived,)]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_separator_that_a_first_line_states_to_excel(tmp_path: Path, rows: int) -> None:
    body = "".join(f"http://h/a{n},1.jpg;eins{n}.jpg\r\n" for n in range(rows))
    for first in ("sep=;", '"sep=;"', "\ufeffSEP=;"):
        table = file(tmp_path, "m.csv", f"{first}\r\nurl;path\r\n{body}")
        found = [(e.path, e.urls) for e in good(table)]
        assert found == [(f"eins{n}.jpg", (f"http://h/a{n},1.jpg",)) for n in range(rows)]


def test_a_folder_and_a_glob_of_part_files_are_one_manifest(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    (parts / "deep").mkdir(parents=True)
    file(parts, "part-1.csv", "url\nhttp://h/1.jpg\n")
    file(parts / "deep", "part-2.csv.gz", gzip.compress(b"url\nhttp://h/2.jpg\n"))
    pandas.DataFrame({"url": ["http://h/3.jpg"]}).to_parquet(parts / "part-3.parquet")
    file(parts, "_SUCCESS", "")
    file(parts, "notes.md", "no table")
    assert {e.path for e in good(parts)} == {"1.jpg", "2.jpg", "3.jpg"}
    assert {e.path for e in good(str(parts / "part-*"))} == {"1.jpg", "3.jpg"}
    with pytest.raises(ManifestError, match="matches no file"):
        read(str(parts / "x-*.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="folder without tables"):
        read(tmp_path / "empty")


@pytest.mark.parametrize("packer", [None, ".gz"])
def test_standard_input_and_pipes(tmp_path: Path, packer: str | None) -> None:
    data = "\n".join(ROWS).encode()
    data = PACKERS[packer](data) if packer else data
    words = [sys.executable, "-m", "osp_fetch", "plan", "--json"]
    done = subprocess.run([*words, "-"], input=data, cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["files"] == 2
    (tmp_path / "data").write_bytes(data)
    shell = f"{sys.executable} -m osp_fetch plan --json <(cat data)"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["files"] == 2


async def test_get_from_standard_input_fetches(origin: Origin, tmp_path: Path) -> None:
    import asyncio

    origin.add("a.bin", b"abc")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", "get", "-", "-o", "out", "--set", "storage.min_free=0",
        cwd=tmp_path, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.communicate(f"{origin.url}/a.bin\n".encode())
    assert (process.returncode, (tmp_path / "out/a.bin").read_bytes()) == (0, b"abc")


# Parquet


def test_parquet_with_every_kind_of_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    links = ["http://h/1.jpg", "http://h/2.jpg"]
    kinds = {
        "string": pyarrow.array(links),
        "large": pyarrow.array(links, pyarrow.large_string()),
        "binary": pyarrow.array([link.encode() for link in links]),
        "dictionary": pyarrow.array(links).dictionary_encode(),
        "list": pyarrow.array([[link, link.replace("//h", "//i")] for link in links]),
    }
    for kind, column in kinds.items():
        place = tmp_path / f"{kind}.parquet"
        table = pyarrow.table({"id": [1, 2], "url": column, "image": pyarrow.array([b"\xff" * 9000] * 2)})
        pyarrow.parquet.write_table(table, place)
        found = good(place)
        assert [(e.path, e.urls[0]) for e in found] == [("1.jpg", links[0]), ("2.jpg", links[1])], kind
        assert len(found[0].urls) == (2 if kind == "list" else 1)
    nested = pyarrow.array([{"uri": link, "bytes": b"x"} for link in links])
    pyarrow.parquet.write_table(pyarrow.table({"meta": nested, "tags": [["a"], []]}), tmp_path / "n.parquet")
    assert [e.path for e in good(tmp_path / "n.parquet")] == ["1.jpg", "2.jpg"]
    pyarrow.parquet.write_table(
        pyarrow.table({"url": pyarrow.array([], pyarrow.string())}), tmp_path / "0.parquet"
    )
    assert good(tmp_path / "0.parquet") == []


# columns


LAION = "SAMPLE_ID,URL,TEXT,HEIGHT,WIDTH,LICENSE,NSFW,similarity,hash\n"
LAION += '1,http://h/1.jpg,"a, b",1,2,?,UNLIKELY,0.3,-4372918374918273\n'
TABLES = {
    "laion": (LAION, {"url": "URL"}),
    "openimages": (
        "ImageID,Subset,OriginalURL,OriginalLandingURL,License,Author,Title,OriginalSize,OriginalMD5,Thumbnail300KURL\n"
        f"1,train,http://h/1.jpg,http://h/page,,,t,3094,{base64.b64encode(bytes(16)).decode()},http://h/t.jpg\n",
        {"url": "OriginalURL", "size": "OriginalSize", "md5": "OriginalMD5"},
    ),
    "webvid": (
        "videoid,contentUrl,duration,page_dir,name\n1,http://h/1.mp4,PT00H00M10S,000001,A man walks home\n",
        {"url": "contentUrl"},
    ),
    "wit": (
        "language\tpage_url\timage_url\tpage_title\tmime_type\n"
        "en\thttp://h/page\thttp://h/1.jpg\tA title\timage/jpeg\n",
        {"url": "image_url"},
    ),
    "cc12m": ("http://h/1.jpg\ta caption\nhttp://h/2.jpg\tanother one\n", {"url": "column 1"}),
    "cc3m": ("a caption\thttp://h/1.jpg\nanother one\thttp://h/2.jpg\n", {"url": "column 2"}),
    "datacomp": (
        f"uid,url,text,original_width,original_height,sha256\nu1,http://h/1.jpg,x,1,2,{SHA}\n",
        {"url": "url", "sha256": "sha256"},
    ),
    "panda": (
        "videoID,url,timestamp,caption,matching_score\n"
        "v,https://h/watch?v=1,\"[['0:00', '0:01']]\",\"['a']\",\"[0.4]\"\n",
        {"url": "url"},
    ),
    "captions named name": ("name,link\nA dog on a hill,http://h/1.jpg\nA cat,http://h/2\n", {"url": "link"}),
    "a length in seconds": ("url,length\nhttp://h/1.mp4,12\nhttp://h/2.mp4,9\n", {"url": "url"}),
    "an index of pandas": (",url\n0,http://h/1.jpg\n1,http://h/2.jpg\n", {"url": "url"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_columns_of_well_known_tables(tmp_path: Path, name: str) -> None:
    content, taken = TABLES[name]
    rows, resolved = read(file(tmp_path, "m.csv", content))
    assert not bad(rows)
    assert resolved.reading.columns == {"m.csv": taken}


def test_the_size_and_digest_of_open_images_are_used(tmp_path: Path) -> None:
    (found,) = good(file(tmp_path, "m.csv", TABLES["openimages"][0]))
    assert (found.size, str(found.digest)) == (3094, "md5:" + "0" * 32)


def test_columns_by_hand_come_before_all_others(tmp_path: Path) -> None:
    content = (
        "videoid,contentUrl,url,bytes,OriginalMD5\nv1,http://h/1.mp4,http://h/page,12," + "0" * 32 + "\n"
    )
    by_hand = (("url", "contentUrl"), ("path", "videoid"), ("size", "bytes"), ("md5", "OriginalMD5"))
    (found,) = good(file(tmp_path, "m.csv", content), columns=by_hand)
    assert (found.path, found.urls[0], found.size) == ("v1", "http://h/1.mp4", 12)
    (found,) = good(
        file(tmp_path, "h.tsv", "x\thttp://h/1\nlast"[:-4]), columns=(("url", "2"), ("path", "1"))
    )
    assert (found.path, found.urls[0]) == ("x", "http://h/1")
    with pytest.raises(ManifestError, match=r"there is no column 'nope'; the columns are 'videoid'"):
        read(file(tmp_path, "m.csv", content), columns=(("url", "nope"),))
    with pytest.raises(ValueError, match="'md6' is not one of"):
        ByHand({"md6": "x"})


def test_columns_on_the_command_line(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file(tmp_path, "m.csv", "where,what,how many\nhttp://h/1,x.bin,7\n")
    done = command("plan", "m.csv", "--columns", "url=where,path=what,size=how many", "--json")
    plan = json.loads(done.stdout)
    assert plan["columns"] == {"m.csv": {"url": "where", "path": "what", "size": "how many"}}
    assert (plan["files"], plan["bytes"]) == (1, 7)
    assert "url from 'where'" in command("plan", "m.csv", "--columns", "url=where").stdout
    for words in (["--columns", "url"], ["--columns", "colour=x"]):
        done = command("plan", "m.csv", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_a_near_miss_matters_only_where_a_column_is_missing(tmp_path: Path) -> None:
    (found,) = good(file(tmp_path, "m.csv", f"url,sha265\nhttp://h/a,{SHA}\n"))
    assert str(found.digest) == f"sha256:{SHA}"
    rows, resolved = read(file(tmp_path, "n.csv", "url,sha265,pth\nhttp://h/a,not a digest,x\n"))
    assert not bad(rows)
    assert "'sha265' is not used" in resolved.notes()[0]
    with pytest.raises(ManifestError, match="did you mean 'url'"):
        read(file(tmp_path, "o.csv", "ulr,path\nx,y\n"))


def test_digests_are_recognised_by_their_values() -> None:
    hashes = [["http://h/1", "-4372918374918273"], ["http://h/2", "918273645"]]
    found = choose(["url", "hash"], hashes, "m")
    assert (found.places, found.notes) == ({"url": 0}, ())
    assert choose(["url", "hash"], [["http://h/1", SHA]], "m").places == {"url": 0, "digest": 1}


# values


@pytest.mark.parametrize(
    ("value", "size"),
    [("3094", 3094), ("3094.0", 3094), ("", None), ("nan", None), ("NaN", None), ("-1", None), ("None", None),
     ("null", None), (3094.0, 3094), (float("nan"), None), (-1, None), (None, None), ("1e3", 1000)],
)  # fmt: skip
def test_sizes_as_people_write_them(value: object, size: int | None) -> None:
    assert read_size(value) == size


@pytest.mark.parametrize("value", ["12.5", "large", "1.2 MB", True, 1.5, "inf", "0x10"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ManifestError, match="whole number of bytes"):
        read_size(value)


MD5 = hashlib.md5(b"x")
HEX, BASE64 = MD5.hexdigest(), base64.b64encode(MD5.digest()).decode()


@pytest.mark.parametrize(
    ("column", "value"),
    [("md5", HEX.upper()), ("md5", BASE64), ("OriginalMD5", BASE64), ("Content-MD5", BASE64), ("hash", HEX),
     ("checksum", f"md5:{HEX}"), ("checksum", f"MD5={HEX}"), ("digest", f"md5={BASE64}")],
)  # fmt: skip
def test_digests_as_people_write_them(tmp_path: Path, column: str, value: str) -> None:
    (found,) = good(file(tmp_path, "m.csv", f"url,{column}\nhttp://h/a,{value}\n"))
    assert str(found.digest) == f"md5:{MD5.hexdigest()}"


@pytest.mark.parametrize(
    ("link", "sent"),
    [
        ("http://h/hotel view 3.jpg", "http://h/hotel%20view%203.jpg"),
        ("http://h/하나.jpg", "http://h/%ED%95%98%EB%82%98.jpg"),
        ("HTTP://H/upper.jpg", "http://h/upper.jpg"),
        ("http://h/p%20q/100%25.jpg", "http://h/p%20q/100%25.jpg"),
        ("http://bücher.test/ä?q=ö x", "http://xn--bcher-kva.test/%C3%A4?q=%C3%B6%20x"),
        ("http://h/a?x=%2f&y='z'", "http://h/a?x=%2f&y='z'"),
        ("http://h/50%.jpg", "http://h/50%.jpg"),
        (" http://h/a\t", "http://h/a"),
        ('http://h/"a"<b>', "http://h/%22a%22%3Cb%3E"),
        ("http://h/semi;colon,comma.jpg", "http://h/semi;colon,comma.jpg"),
        ("http://u:p@H/a b", "http://u:p@h/a%20b"),
    ],
)
def test_links_are_encoded_as_a_browser_would(link: str, sent: str) -> None:
    assert encoded(link) == sent
    assert encoded(sent) == sent


@given(st.text(max_size=30))
def test_encoding_is_idempotent_and_gives_ascii(tail: str) -> None:
    once = encoded(f"http://h/{tail}")
    assert encoded(once) == once
    assert once.isascii()


async def test_odd_links_go_out_encoded(origin: Origin, tmp_path: Path) -> None:
    for path in ("a b.jpg", "사/하.jpg", "p q/100%.jpg", "semi;colon,comma.jpg"):
        origin.add(path, path.encode())
    lines = [f"{origin.url}/a b.jpg", f"{origin.url}/사/하.jpg", f"{origin.url}/p%20q/100%25.jpg",
             f"{origin.url.replace('http', 'HTTP')}/semi;colon,comma.jpg"]  # fmt: skip
    report = await fetch_all(file(tmp_path, "urls.txt", "\n".join(lines)), tmp_path / "out", settings=quick())
    assert report.ok, report
    assert {p.name for p in (tmp_path / "out").glob("*")} - {".osp-fetch"} == {
        "a b.jpg", "하.jpg", "100%.jpg", "semi;colon,comma.jpg"
    }  # fmt: skip
    assert {seen.target for seen in origin.seen} == {
        "/a%20b.jpg", "/%EC%82%AC/%ED%95%98.jpg", "/p%20q/100%25.jpg", "/semi;colon,comma.jpg"
    }  # fmt: skip


# what a reviewer found


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_links_with_separators_in_their_queries_are_no_table(tmp_path: Path, mark: str) -> None:
    links = [f"http://h/{n}.jpg?crop={mark.join(str(n + k) for k in range(4))}" for n in range(5)]
    assert [e.urls[0] for e in good(file(tmp_path, "urls.txt", "\n".join(links)))] == links


@pytest.mark.parametrize("missing", ["NA", "null", "-", "nan", ""])
def test_a_missing_digest_leaves_the_weaker_one(tmp_path: Path, missing: str) -> None:
    content = f"url,sha256,md5\nhttp://h/1,{missing},{HEX}\nhttp://h/2,{SHA},{HEX}\n"
    first, second = good(file(tmp_path, "m.csv", content))
    assert (str(first.digest), str(second.digest)) == (f"md5:{HEX}", f"sha256:{SHA}")


def test_a_column_that_states_its_algorithm_counts_if_it_is_the_strongest(tmp_path: Path) -> None:
    (found,) = good(file(tmp_path, "m.csv", f"url,md5,checksum\nhttp://h/1,{HEX},sha256:{SHA}\n"))
    assert str(found.digest) == f"sha256:{SHA}"
    (found,) = good(file(tmp_path, "n.csv", f"url,sha256,checksum\nhttp://h/1,{SHA},md5:{HEX}\n"))
    assert str(found.digest) == f"sha256:{SHA}"


def test_a_binary_digest_may_look_like_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    raw = b"0123456789abcdef"
    digests = pyarrow.array([raw, bytes(16), HEX.encode(), raw])
    table = pyarrow.table({"url": [f"http://h/{n}" for n in range(4)], "md5": digests})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    found = [each.digest.hex for each in good(tmp_path / "m.parquet") if each.digest]
    assert found == [raw.hex(), "00" * 16, HEX, raw.hex()]


def test_a_row_of_several_lines_changes_no_other_row(tmp_path: Path) -> None:
    lines = [f'http://h/{n}, "p/{n}.jpg", "a caption"' for n in range(5)]
    plain = good(file(tmp_path, "m.csv", "\n".join(["url, path, caption", *lines])))
    more = [*lines, 'http://h/9, "p/9.jpg", "two\nlines and\u2028more"']
    found = good(file(tmp_path, "n.csv", "\n".join(["url, path, caption", *more])))
    assert [e.path for e in found] == [*(e.path for e in plain), "p/9.jpg"]


def test_answers_and_labels_are_no_paths(tmp_path: Path) -> None:
    content = "image_url,instruction,output\n" + "".join(f"http://h/{n}.jpg,what?,Yes.\n" for n in range(9))
    assert [e.path for e in good(file(tmp_path, "m.csv", content))] == [f"{n}.jpg" for n in range(9)]
    labels = "url,name\n" + "".join(f"http://h/{n}.jpg,label{n % 300}\n" for n in range(600))
    assert len(good(file(tmp_path, "l.csv", labels))) == 600


async def test_rows_that_come_one_by_one_are_judged_by_their_own_values(
    origin: Origin, tmp_path: Path
) -> None:
    async def come():  # type: ignore[no-untyped-def]
        yield {"url": origin.add("0.bin", b"0"), "sha256": "pending", "name": "cat"}
        yield {"url": origin.add("1.bin", b"1"), "sha256": "0" * 64, "name": "a dog on a mat"}

    report = await fetch_all(come(), tmp_path, settings=quick())  # type: ignore[no-untyped-call]
    assert [failure.path for failure in report.failures] == ["1.bin"]
    assert (tmp_path / "0.bin").exists()


def test_json_lines_with_names_of_their_own_take_bounded_memory(tmp_path: Path) -> None:
    lines = [json.dumps({"url": f"http://h/{n}.jpg", "exif": {f"tag{n}": n}}) for n in range(5000)]
    rows, resolved = read(file(tmp_path, "m.jsonl", "\n".join(lines)))
    assert (len(rows), bad(rows)) == (5000, [])
    assert len(resolved.reading.columns["m.jsonl"]) == 1


DIGESTS: list[tuple[Any, str]] = [
    ({"type": "MD5", "value": "0123456789abcdef" * 2}, "md5"),
    ({"algorithm": "SHA-256", "value": "0123456789abcdef" * 4}, "sha256"),
    (
        {"spdx:algorithm": "spdx:checksumAlgorithm_sha256", "spdx:checksumValue": "0123456789abcdef" * 4},
        "sha256",
    ),
    ({"md5": "0123456789abcdef" * 2, "sha3-256": "0123456789abcdef" * 4}, "md5"),
    (["0123456789abcdef" * 4], "sha256"),
    ([{"type": "sha3-256", "checksum": "0" * 64}, {"type": "sha1", "checksum": "01234" * 8}], "sha1"),
    ("SHA256(" + "0123456789abcdef" * 4 + ")", "sha256"),
]


@pytest.mark.parametrize(("stated", "algorithm"), DIGESTS)
def test_digests_in_json_are_used_in_every_form(tmp_path: Path, stated: Any, algorithm: str) -> None:
    for name in ("checksum", "hashes", "digest"):
        lines = [json.dumps({"url": f"http://h/{n}.bin", name: stated}) for n in range(3)]
        rows = good(file(tmp_path, "m.jsonl", "\n".join(lines)))
        assert [row.digest and row.digest.algorithm for row in rows] == [algorithm] * 3


def test_the_algorithm_may_stand_in_a_column_of_its_own(tmp_path: Path) -> None:
    sha3 = hashlib.sha3_256(b"").hexdigest()
    rows = [
        "url,checksum_type,checksum",
        f"http://h/1.bin,SHA-1,{'01234' * 8}",
        f"http://h/2.bin,sha256,{SHA}",
    ]
    found = good(file(tmp_path, "m.csv", "\n".join(rows)))
    assert [str(row.digest) for row in found] == [f"sha1:{'01234' * 8}", f"sha256:{SHA}"]
    others, resolved = read(file(tmp_path, "n.csv", f"url,hash_type,hash\nhttp://h/1.bin,SHA3-256,{sha3}\n"))
    assert [row.digest for row in others if isinstance(row, Entry)] == [None]
    assert "osp-fetch cannot compute the digests that 'hash_type' states" in str(resolved.notes)


def test_a_column_of_other_algorithms_is_not_that_of_the_digests(tmp_path: Path) -> None:
    (row,) = good(file(tmp_path, "m.csv", f"url,algorithm,checksum\nhttp://h/1.bin,resnet50,{SHA}\n"))
    assert str(row.digest) == f"sha256:{SHA}"


@pytest.mark.parametrize("value", ["sha3-256:" + "0a" * 32, ["blake3-" + "0a" * 32]])
def test_digests_that_are_not_used_are_named(tmp_path: Path, value: Any) -> None:
    rows = [json.dumps({"url": f"http://h/{n}", "checksum": value}) for n in range(3)]
    _, resolved = read(file(tmp_path, "m.jsonl", "\n".join(rows)))
    assert "the column 'checksum' is not used" in str(resolved.notes)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (f"http://h/1.bin,{SHA}\nhttp://h/2.bin,{SHA}\n", "2"),
        (f"{SHA},http://h/1.bin\n{SHA},http://h/2.bin\n", "1"),
        (f"http://h/1.bin\ta.bin\t{SHA}\nhttp://h/2.bin\tb.bin\t{SHA}\n", "3"),
        (f"url,oid\nhttp://h/1.bin,sha256:{SHA}\nhttp://h/2.bin,\n", "'oid'"),
        (f"url,sum\nhttp://h/1.bin,{SHA}\n", "'sum'"),
    ],
)
def test_values_like_digests_in_a_column_of_another_name_are_named(
    tmp_path: Path, text: str, column: str
) -> None:
    _, resolved = read(file(tmp_path, "m.csv", text))
    assert f"the column {column} is not used: its values look like sha256" in str(resolved.notes())


def test_objects_that_look_like_digests_are_named(tmp_path: Path) -> None:
    row = {"url": "http://h/1.bin", "lfs": {"oid": f"sha256:{SHA}", "size": 3, "pointerSize": 1}}
    _, resolved = read(file(tmp_path, "m.jsonl", json.dumps(row)))
    assert "the column 'lfs' is not used: its values look like sha256" in str(resolved.notes())


@pytest.mark.parametrize("value", ["word", "1234", "0a1b", "sha256:nothing"])
def test_other_values_are_not_called_digests(tmp_path: Path, value: str) -> None:
    _, resolved = read(
        file(tmp_path, "m.csv", f"url,other\nhttp://h/1.bin,{value}\nhttp://h/2.bin,{value}\n")
    )
    assert "digest" not in str(resolved.notes())


@pytest.mark.parametrize("column", ["multihash", "checksum:multihash", "Repr-Digest", "x-goog-hash"])
def test_further_names_of_columns_of_digests(tmp_path: Path, column: str) -> None:
    (row,) = good(file(tmp_path, "m.csv", f"url,{column}\nhttp://h/1.bin,md5={HEX}\n"))
    assert str(row.digest) == f"md5:{HEX}"


def test_base64_of_links_is_a_digest_and_words_for_unknown_are_none(tmp_path: Path) -> None:
    raw = bytes(range(240, 256))
    url_safe = base64.urlsafe_b64encode(raw).decode()
    rows = ["url,md5", f"http://h/1,{url_safe}", "http://h/2,n/a", "http://h/3,n/a", "http://h/4,n/a"]
    found = good(file(tmp_path, "m.csv", "\n".join(rows)))
    assert [row.digest and row.digest.hex for row in found] == [raw.hex(), None, None, None]


def test_mirrors_with_other_schemes_are_left_out(tmp_path: Path) -> None:
    links = ["ftp://h/f", "https://h/f", "rsync://h/f"]
    (row,) = good(file(tmp_path, "m.jsonl", json.dumps({"path": "f", "url": links})))
    assert row.urls == ("https://h/f",)


EMPTY_MD5 = hashlib.md5(b"").hexdigest()
DOCUMENTS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "Zenodo": (
        {
            "links": {"self": "https://z.test/api/records/1"},
            "files": [
                {
                    "key": f"f{n}.bin",
                    "size": 7,
                    "checksum": f"md5:{EMPTY_MD5}",
                    "links": {"self": f"http://h/api/files/f{n}.bin/content"},
                }
                for n in range(2)
            ],
        },
        "f{}.bin",
        "md5",
    ),
    "figshare": (
        {
            "url_public_html": "https://f.test/a",
            "files": [
                {
                    "id": n,
                    "name": f"f{n}.bin",
                    "download_url": f"http://h/files/{n}",
                    "computed_md5": EMPTY_MD5,
                }
                for n in range(2)
            ],
        },
        "f{}.bin",
        "md5",
    ),
    "CKAN": (
        {
            "success": True,
            "result": {"resources": [{"url": f"http://h/{n}.csv", "hash": ""} for n in range(2)]},
        },
        "{}.csv",
        None,
    ),
    "DCAT": (
        {
            "@type": "dcat:Dataset",
            "dcat:distribution": [
                {
                    "downloadURL": f"http://h/{n}.zip",
                    "spdx:checksum": {"algorithm": "sha256", "checksumValue": SHA},
                }
                for n in range(2)
            ],
        },
        "{}.zip",
        "sha256",
    ),
    "Croissant": (
        {
            "url": "https://c.test",
            "distribution": [
                *({"@id": f"f{n}", "contentUrl": f"http://h/{n}.zip", "sha256": SHA} for n in range(2)),
                {"@type": "cr:FileSet", "includes": "*.csv"},
            ],
        },
        "{}.zip",
        "sha256",
    ),
    "STAC": (
        {
            "links": [{"rel": "self", "href": "https://s.test/i.json"}],
            "assets": {
                f"B{n}": {"href": f"http://h/B{n}.tif", "file:checksum": f"1220{SHA}"} for n in range(2)
            },
        },
        "B{}.tif",
        "sha256",
    ),
    "a data package": (
        {
            "homepage": "https://d.test/",
            "resources": [{"path": f"http://h/{n}.csv", "hash": f"sha256:{SHA}"} for n in range(2)],
        },
        "{}.csv",
        "sha256",
    ),
    "the Hub": (
        {
            "parquet_files": [
                {"url": f"http://h/{n}.parquet", "filename": f"{n}.parquet", "size": 7} for n in range(2)
            ]
        },
        "{}.parquet",
        None,
    ),
}


LEFT_OUT: dict[str, tuple[dict[str, Any], dict[str, str], int]] = {
    "a relative path of a data package": (
        {"resources": [{"path": "http://h/a.csv"}, {"path": "data/b.csv"}]}, {"a.csv": "http://h/a.csv"}, 1,
    ),
    "only relative paths, and a homepage": (
        {"homepage": "http://h/home", "resources": [{"path": "a.csv"}, {"path": "b.csv"}]}, {}, 2,
    ),
    "hrefs of STAC": (
        {"assets": {"a": {"href": "http://h/a.tif"}, "b": {"href": "./b.tif"}, "c": {"href": "s3://b/c"}}},
        {"a.tif": "http://h/a.tif"}, 2,
    ),
    "the members of an archive in Croissant": (
        {"distribution": [{"contentUrl": "http://h/a.zip"}, {"contentUrl": "y", "containedIn": "a"}]},
        {"a.zip": "http://h/a.zip"}, 0,
    ),
    "landing pages of a DCAT catalogue": (
        {
            "@context": "https://project-open-data.cio.gov/v1.1/schema/catalog.jsonld",
            "dataset": [
                {"distribution": [{"dcat:accessURL": "http://h/", "dcat:downloadURL": {"@id": link}}]}
                for link in ("http://h/a.csv", "http://h/b.csv")
            ] + [{"distribution": [{"accessURL": "http://h/page"}]}],
        },
        {"a.csv": "http://h/a.csv", "b.csv": "http://h/b.csv"}, 0,
    ),
    "a row that lists what its archive has": (
        {"url": "http://h/a.zip", "files": [{"path": "x/1.txt", "size": 1}]}, {"a.zip": "http://h/a.zip"}, 0,
    ),
    "Parquet files of one name": (
        {"parquet_files": [
            {"config": "c", "split": split, "filename": "0000.parquet", "url": f"http://h/{split}/0000.parquet"}
            for split in ("train", "test")
        ]},
        {f"c/{split}/0000.parquet": f"http://h/{split}/0000.parquet" for split in ("train", "test")}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_files_of_a_document_are_neither_missed_nor_invented(tmp_path: Path, kind: str) -> None:
    document, links, bad = LEFT_OUT[kind]
    place = tmp_path / "d.json"
    place.write_text(json.dumps(document))
    rows, _ = read(place)
    assert {str(row.path): row.urls[0] for row in rows if isinstance(row, Entry)} == links
    errors = [row for row in rows if isinstance(row, ManifestError)]
    assert len(errors) == bad
    assert all("no http(s) link" in str(error) for error in errors)


@pytest.mark.parametrize("supplied", [["", ""], ["", EMPTY_MD5]])
def test_the_digest_that_figshare_has_computed_is_used(tmp_path: Path, supplied: list[str]) -> None:
    files = [
        {"name": f"{n}", "download_url": f"http://h/{n}", "supplied_md5": md5, "computed_md5": EMPTY_MD5}
        for n, md5 in enumerate(supplied)
    ]
    (tmp_path / "d.json").write_text(json.dumps({"files": files}))
    rows = [row for row in read(tmp_path / "d.json")[0] if isinstance(row, Entry)]
    assert [row.digest and row.digest.hex for row in rows] == [EMPTY_MD5, EMPTY_MD5]


def test_of_two_columns_of_digests_the_fuller_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        f"url,md5,computed_md5\nhttp://h/a,,{EMPTY_MD5}\nhttp://h/b,{EMPTY_MD5},{EMPTY_MD5}\n"
    )
    rows = [row for row in read(tmp_path / "t.csv")[0] if isinstance(row, Entry)]
    assert all(row.digest is not None for row in rows)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_about_a_dataset_lists_its_files(tmp_path: Path, kind: str, indent: int | None) -> None:
    document, name, algorithm = DOCUMENTS[kind]
    rows, resolved = read(file(tmp_path, "d.json", json.dumps(document, indent=indent)))
    entries = [row for row in rows if isinstance(row, Entry)]
    assert [row.path for row in entries] == [name.format(n) for n in range(2)]
    assert [row.digest and row.digest.algorithm for row in entries] == [algorithm] * 2
    assert len(rows) == 2
    assert "is read, with 2 links" in str(resolved.notes)
