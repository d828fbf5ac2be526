"""Tests of other tools' lists as SOURCE: aria2, TsvHttpData, curl, BagIt, checksum lists."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, Status, fetch_all
from osp_fetch.model.digest import Digest
from osp_fetch.model.errors import CredentialsError, ManifestError, NetworkError
from osp_fetch.sources import aria2, bagit, checksum_lines, curl_config, other_tools, tsvhttp
from osp_fetch.sources.checksums import Checksums
from osp_fetch.sources.dispatch import OF_LISTS
from osp_fetch.sources.resolve import Options, resolve
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
MD5 = "098f6bcd4621d373cade4e832627b4f6"
B64 = base64.b64encode(bytes.fromhex(MD5)).decode()


def write(folder: Path, name: str, text: str) -> Path:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, newline="")
    return place


def rows(source: object) -> list[Entry | ManifestError]:
    return list(resolve(source, Options()).rows)  # type: ignore[arg-type]


def entries(source: object) -> list[Entry]:
    found = rows(source)
    assert all(isinstance(row, Entry) for row in found), found
    return [row for row in found if isinstance(row, Entry)]


def plain(row: Entry) -> tuple[str, tuple[str, ...], int | None, str | None]:
    return row.path, row.urls, row.size, str(row.digest) if row.digest else None


# aria2


def test_the_folders_of_a_session_of_aria2_lie_below_the_output_folder(tmp_path: Path) -> None:
    text = "http://h/a1\n dir=/downloads/x\n out = eins.jpg\nhttp://h/a2\n dir=D:\\loads\\y\n gid=1\n"
    found = entries(write(tmp_path, "session.txt", text))
    assert [entry.path for entry in found] == ["downloads/x/eins.jpg", "loads/y/a2"]


def test_an_aria2_input_file_with_mirrors_folders_checksums_and_headers(tmp_path: Path) -> None:
    text = (
        "# made by a script\n"
        "  # and edited\n"
        "http://a.test/1?x=1\thttps://b.test/m/1\tftp://c.test/1\r\n"
        "  out=data/one.tar\r\n"
        "  checksum=sha-256=" + SHA.upper() + "\n"
        "  header=Authorization: Bearer abc\n"
        "  # indented\n"
        "  header=X-Kind: 7\n"
        "  header=Cookie: a=b\n"
        "  header=Cookie: c=d\n"
        "  split=5\n"
        "\n"
        "http://a.test/two%20words.tar\n"
        "\tdir=second/\n"
        "\tchecksum=md5=" + MD5 + "\n"
        "\treferer=http://a.test/page\n"
        "http://a.test/three.tar\n"
    )
    one, two, three = entries(write(tmp_path, "input.txt", text))
    assert plain(one) == (
        "data/one.tar",
        ("http://a.test/1?x=1", "https://b.test/m/1"),
        None,
        f"sha256:{SHA}",
    )
    assert one.headers == (("Authorization", "Bearer abc"), ("X-Kind", "7"), ("Cookie", "a=b; c=d"))
    assert plain(two) == ("second/two words.tar", ("http://a.test/two%20words.tar",), None, f"md5:{MD5}")
    assert two.headers == (("Referer", "http://a.test/page"),)
    assert plain(three) == ("three.tar", ("http://a.test/three.tar",), None, None)


def test_mirrors_without_any_option_are_one_file(tmp_path: Path) -> None:
    text = "http://a.test/x/1.tar\thttp://b.test/1.tar\nhttp://a.test/2.tar\n"
    assert [len(row.urls) for row in entries(write(tmp_path, "list.csv", text))] == [2, 1]


def test_bad_rows_of_an_aria2_file_name_their_line(tmp_path: Path) -> None:
    text = "http://a.test/1\n out=/etc/passwd\nhttp://a.test/2\n out=../2\nhttp://a.test/3\n oops\n out=3\n"
    found = [str(row) for row in rows(write(tmp_path, "in", text)) if isinstance(row, ManifestError)]
    assert [said.partition(" ")[0] for said in sorted(found)] == ["in:1:", "in:3:", "in:6:"]


@pytest.mark.parametrize(
    "head",
    ["http://a.test/1\nhttp://a.test/2\n", "url\tname\nhttp://a.test/1\tx\n",
     "http://a.test/1\thttp://b.test/2\n", "http://a.test/1\tcaption\n", "path,url\n a=b,http://h\n", ""],
)  # fmt: skip
def test_other_lists_are_not_taken_for_aria2(head: str) -> None:
    assert not aria2.looks_like(head)


# TsvHttpData


def test_a_list_of_the_storage_transfer_service(tmp_path: Path) -> None:
    text = f"TsvHttpData-1.0\r\nhttps://a.test/b/a.bin\t4\t{B64}\r\nhttps://a.test/b.bin\t9\nhttps://a.test/c.bin\n"
    assert [plain(row) for row in entries(write(tmp_path, "list", text))] == [
        ("a.bin", ("https://a.test/b/a.bin",), 4, f"md5:{MD5}"),
        ("b.bin", ("https://a.test/b.bin",), 9, None),
        ("c.bin", ("https://a.test/c.bin",), None, None),
    ]


def test_bad_rows_of_a_transfer_list_name_their_line(tmp_path: Path) -> None:
    text = "TsvHttpData-1.0\nhttps://a.test/a\t1\tno-md5\nhttps://a.test/b\t1\t2\t3\nhttps://a.test/c\tmany\n"
    said = [str(row) for row in rows(write(tmp_path, "t", text))]
    assert [text.partition(" ")[0] for text in sorted(said)] == ["t:2:", "t:3:", "t:4:"]
    assert not tsvhttp.looks_like("TsvHttpData-2.0\n")


# curl


def test_a_config_file_of_curl(tmp_path: Path) -> None:
    text = (
        '# files\n--silent\nheader = "X-Token: a\\"b"\n'
        'url = "http://a.test/1"\noutput = "d/one.bin"\n'
        "url=http://a.test/2.bin\n-O\n"
        "next\nurl: http://a.test/3.bin\n"
    )
    one, two, three = entries(write(tmp_path, "c", text))
    assert (one.path, two.path, three.path) == ("d/one.bin", "2.bin", "3.bin")
    assert one.headers == two.headers == (("X-Token", 'a"b'),)
    assert three.headers == ()


def test_a_header_of_curl_holds_for_all_urls_until_next(tmp_path: Path) -> None:
    text = (
        'url = "http://a.test/1"\nheader = "X-A: 1"\n'
        'url = "http://a.test/2"\nuser-agent = "me"\noutput = "x"\n'
        'next\nurl = "http://a.test/3"\nheader = "X-B: 2"\n'
    )
    one, two, three = entries(write(tmp_path, "c", text))
    assert one.path == "x"
    assert one.headers == two.headers == (("X-A", "1"), ("User-Agent", "me"))
    assert three.headers == (("X-B", "2"),)


def test_a_header_of_curl_that_comes_too_late_is_no_silent_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curl_config, "_HELD", 2)
    lines = [f"url = http://a.test/{n}\noutput = {n}\n" for n in range(5)]
    found = rows(write(tmp_path, "c", "".join(lines) + 'header = "X-A: 1"\n'))
    bad = [row for row in found if isinstance(row, ManifestError)]
    assert [str(row) for row in bad] == [
        "c:11: the header follows more than 2 URLs, of which the first have been fetched without it; put it "
        "before them"
    ]


@pytest.mark.parametrize("head", ["url,name\nhttp://h/a,b\n", "url\thttp://x/\n", "http://h/a\n", "{}\n"])
def test_other_lists_are_not_taken_for_curl(head: str) -> None:
    assert not curl_config.looks_like(head)


# BagIt


def bag(folder: Path) -> Path:
    write(folder, "bagit.txt", "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    write(
        folder,
        "fetch.txt",
        "http://a.test/1 4 data/one.bin\nhttp://a.test/2 - data/two words %25.bin\nhttp://a.test/3\t7\tdata/3\n",
    )
    write(folder, "manifest-md5.txt", f"{MD5}  data/3\n")
    write(folder, "manifest-sha256.txt", f"{SHA}  data/one.bin\n{OTHER} data/two words %25.bin\n")
    return folder


def test_a_bag_and_its_fetch_file_are_the_same_source(tmp_path: Path) -> None:
    folder = bag(tmp_path / "bag")
    expected = [
        ("data/one.bin", ("http://a.test/1",), 4, f"sha256:{SHA}"),
        ("data/two words %.bin", ("http://a.test/2",), None, f"sha256:{OTHER}"),
        ("data/3", ("http://a.test/3",), 7, None),
    ]
    assert [plain(row) for row in entries(folder)] == expected
    assert [plain(row) for row in entries(str(folder / "fetch.txt"))] == expected


def test_a_broken_bag_is_one_sentence_with_file_and_line(tmp_path: Path) -> None:
    folder = bag(tmp_path / "bag")
    write(folder, "manifest-sha256.txt", f"{SHA}  data/one.bin\n{MD5} data/3\n")
    with pytest.raises(ManifestError, match=r"manifest-sha256\.txt:2: .*correct"):
        rows(folder)
    write(folder, "manifest-sha256.txt", f"{SHA}  data/one.bin\n")
    write(folder, "fetch.txt", "http://a.test/1 4 data/one.bin\n" * 3000 + "http://a.test/2 data/2\n")
    assert any(":3001: not of the form" in str(row) for row in rows(folder))
    assert not bagit.looks_like("http://a.test/1\nhttp://a.test/2\n")


# checksum lists: their lines


@pytest.mark.parametrize(
    ("line", "name", "digest"),
    [
        (f"{MD5} one blank.bin", "one blank.bin", f"md5:{MD5}"),
        (f"{SHA}\ttabbed.bin", "tabbed.bin", f"sha256:{SHA}"),
        (f"{SHA.upper()} *./d/binary", "d/binary", f"sha256:{SHA}"),
        (f"SHA256 (a (1).tar) = {SHA}", "a (1).tar", f"sha256:{SHA}"),
        (f"SHA2-256(a.tar)= {SHA}", "a.tar", f"sha256:{SHA}"),
        (f"BLAKE2b (a) = {'ab' * 64}", "a", f"blake2b:{'ab' * 64}"),
        (f"name first.tar  {SHA}", "name first.tar", f"sha256:{SHA}"),
        (f"a.tar: {MD5}", "a.tar", f"md5:{MD5}"),
        (f"a.tar,{MD5}", "a.tar", f"md5:{MD5}"),
        (rf"\{SHA}  two\nlines\\x", "two\nlines\\x", f"sha256:{SHA}"),
        (f"{B64}  base64.bin", "base64.bin", f"md5:{MD5}"),
        (f"sha256:{SHA} named", "named", f"sha256:{SHA}"),
        (SHA, None, f"sha256:{SHA}"),
        (f"- {SHA}  dash-escaped", "dash-escaped", f"sha256:{SHA}"),
    ],
)
def test_a_line_of_a_checksum_list(line: str, name: str | None, digest: str) -> None:
    ((_, named, found),) = checksum_lines.parsed([line + "\r\n"], "sums")
    assert (named, str(found)) == (name, digest)


def test_a_signed_list_is_read_without_its_signature() -> None:
    text = (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# a.iso: 5 bytes\n"
        f"SHA256 (a.iso) = {SHA}\n-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAdFiEE\n=abcd\n"
    )
    assert [(each.line, each.name) for each in checksum_lines.parsed(text.splitlines(), "x")] == [
        (5, "a.iso")
    ]
    assert checksum_lines.looks_like(text)


DISTINFO = f"""TIMESTAMP = 1700000000
SHA256 (a.bin) = {SHA}
RMD160 (a.bin) = {"0" * 40}
SHA512/256 (a.bin) = {SHA}
SIZE (a.bin) = 12
sha256sum: foo: Is a directory
"""
LISTS = [
    DISTINFO.encode(),
    f"filename,sha256\na.bin,{SHA}\n".encode(),
    f'"filename","sha256"\n"a.bin","{SHA}"\n'.encode(),
    f"// File Checksum Integrity Verifier\n{SHA} a.bin\n".encode(),
    f"\ufeff{SHA.upper()} *a.bin\r\n".encode("utf-16-le"),
    f"{SHA}  a.bin\n".encode("utf-16"),
]


@pytest.mark.parametrize("content", LISTS, ids=range(len(LISTS)))
async def test_lists_as_other_tools_write_them(origin: Origin, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sums").write_bytes(content)
    assert Checksums.read(tmp_path / "sums").digests == {"a.bin": Digest("sha256", SHA)}
    origin.add("d/SHA256SUMS", content)
    origin.add("d/a.bin", b"test")
    report = await fetch_all(f"{origin.url}/d/SHA256SUMS", tmp_path / "out", settings=quick())
    assert [(each.path, each.digest) for each in report.outcomes] == [("a.bin", f"sha256:{SHA}")]


def test_a_path_of_windows(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{SHA} *.\\sub\\a.bin\n\\{SHA} *odd\\\\name\n")
    assert set(Checksums.read(tmp_path / "sums").digests) == {"sub/a.bin", "odd\\name"}


def test_a_list_without_a_digest_of_a_known_algorithm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"RMD160 (a.bin) = {'0' * 40}\nSIZE (a.bin) = 12\n")
    with pytest.raises(ManifestError, match="sums: the checksum list is empty"):
        Checksums.read(tmp_path / "sums")


def test_a_digest_may_follow_a_link(tmp_path: Path) -> None:
    text = f"http://a.test/1.bin?x=1  {SHA}\nhttp://a.test/2.bin {MD5.upper()}\nhttp://a.test/3.bin\n"
    found = entries(write(tmp_path, "links.txt", text))
    assert [str(row.digest or "") for row in found] == [f"sha256:{SHA}", f"md5:{MD5}", ""]
    assert [row.urls[0].rpartition("/")[2] for row in found] == ["1.bin?x=1", "2.bin", "3.bin"]


def test_names_of_checksum_lists() -> None:
    lists = "SHA256SUMS MD5SUMS.txt a.tar.sha256 a.tar.md5 wiki-20260101-sha1sums.txt sha512sum.txt"
    lists += " F-42-CHECKSUM CHECKSUM.SHA256-14.0"
    assert all(map(checksum_lines.is_list_name, lists.split()))
    assert not any(map(checksum_lines.is_list_name, ["a.tar", "readme.txt", "sasha1", "x.json", ""]))
    assert [*map(checksum_lines.single_name, ["a.tar.sha256", "SHA256SUMS", "w-md5sums.txt"])] == [
        "a.tar",
        None,
        None,
    ]


@given(st.from_regex(checksum_lines.LIST_NAME, fullmatch=True) | st.from_regex(checksum_lines.LIST_PREFIX))
def test_a_url_is_looked_at_as_a_checksum_list_only_by_these_words(name: str) -> None:
    """`dispatch` does not ask `is_list_name` about other names."""
    assert any(word in name.lower() for word in OF_LISTS)


def test_a_local_checksum_list_as_source_has_no_links(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="SHA256SUMS: a checksum list has no links; pass the list's URL"):
        rows(write(tmp_path, "SHA256SUMS", f"{SHA}  a.tar\n{OTHER}  b.tar\n"))
    assert other_tools.reader("http://a.test/x?md5=" + MD5 + "\n") is None


# checksum lists on a server, as SOURCE


def sums(**files: bytes) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


async def test_the_files_beside_a_list_with_their_digests(origin: Origin, tmp_path: Path) -> None:
    one, two = noise(70_000, 1), noise(10, 2)
    origin.add("d/files/one.tar", one)
    origin.add("d/two words.tar", two)
    url = origin.add("d/SHA256SUMS.txt", sums(**{"files/one.tar": one, "two words.tar": two}))
    report = await fetch_all(url, tmp_path, settings=quick())
    assert report.ok, report.failures
    assert report.frame()["digest"].str.startswith("sha256:").all()
    assert (tmp_path / "files/one.tar").read_bytes() == one
    assert (tmp_path / "two words.tar").read_bytes() == two


async def test_a_list_that_lies_fails_its_file(origin: Origin, tmp_path: Path) -> None:
    origin.add("one.tar", noise(100, 3))
    url = origin.add(
        "MD5SUMS", f"{MD5}  one.tar\n{MD5}  ../out.tar\n{MD5}  /etc/x\n{MD5}  //evil.test/y\n".encode()
    )
    report = await fetch_all(url, tmp_path / "out", settings=quick())
    assert report.counts[Status.FAILED] == 4
    assert not (tmp_path / "out/one.tar").exists()
    assert set(origin.requests) == {"/MD5SUMS", "/one.tar"}


async def test_a_list_of_one_bare_value_is_the_file_that_it_is_named_after(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(5000, 4)
    origin.add("x.tar", data)
    url = origin.add("x.tar.sha256", hashlib.sha256(data).hexdigest().encode())
    report = await fetch_all(url, tmp_path, settings=quick())
    assert report.ok, report.failures
    assert [str(each.digest)[:7] for each in report.outcomes] == ["sha256:"]
    assert (tmp_path / "x.tar").read_bytes() == data


async def test_a_file_named_like_a_list_is_a_file(origin: Origin, tmp_path: Path) -> None:
    data = noise(3000, 5)
    url = origin.add("model.md5", data)
    assert (await fetch_all(url, tmp_path, settings=quick())).ok
    assert (tmp_path / "model.md5").read_bytes() == data


async def test_bsd_lists_state_one_file_on_several_lines(origin: Origin, tmp_path: Path) -> None:
    data = noise(30, 6)
    origin.add("a", data)
    text = f"MD5 (a) = {hashlib.md5(data).hexdigest()}\nSHA256 (a) = {hashlib.sha256(data).hexdigest()}\n"
    report = await fetch_all(origin.add("CHECKSUM.txt", text.encode()), tmp_path, settings=quick())
    assert report.ok, report.failures
    assert str(report.outcomes[0].digest).startswith("sha256:")


async def test_what_the_server_says_of_a_list_is_said(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such page"):
        await fetch_all(f"{origin.url}/SHA256SUMS", tmp_path, settings=quick())
    origin.add("MD5SUMS", b"", always=o.status(403))
    with pytest.raises(CredentialsError, match="--header"):
        await fetch_all(f"{origin.url}/MD5SUMS", tmp_path, settings=quick())
    origin.add("SHA1SUMS", b"", always=o.status(503))
    with pytest.raises(NetworkError, match="503"):
        await fetch_all(f"{origin.url}/SHA1SUMS", tmp_path, settings=quick())
    assert origin.requests["/SHA1SUMS"] == quick().retry.attempts
    assert [place.name for place in tmp_path.iterdir()] == [".osp-fetch"]


async def test_a_list_survives_busy_servers_and_cuts(origin: Origin, tmp_path: Path) -> None:
    files = {f"w{n:02}": noise(5, n) for n in range(20)}
    for name, data in files.items():
        origin.add(f"d/{name}", data)
    others = "".join(f"{SHA}  other/{n}\n" for n in range(20_000)).encode()
    again = o.status(429, **{"Retry-After": "0"})
    faults = o.status(503), again, o.silent, o.cut(200_000), o.cut(300_000)
    url = origin.add("d/SHA256SUMS", others + sums(**files), *faults, headers={"ETag": '"one"'})
    report = await fetch_all(url, tmp_path, settings=quick(), include="w*")
    assert report.ok, report.failures
    assert report.counts[Status.FETCHED] == 20
    ranges = [each.headers.get("range") for each in origin.seen if each.path == "/d/SHA256SUMS"]
    assert ranges[:4] == [None] * 4
    assert all(each is not None for each in ranges[4:])  # what was received is not fetched again


async def test_a_list_at_connect_to_with_a_header(origin: Origin, tmp_path: Path) -> None:
    data = noise(5, 7)
    origin.add("a", data)
    origin.add("SHA256SUMS", sums(a=data))
    rule = f"lists.test:80:127.0.0.1:{origin.server.port}"
    report = await fetch_all(
        "http://lists.test/SHA256SUMS", tmp_path, settings=quick(), connect_to=[rule], headers={"X-Key": "k"}
    )
    assert report.ok, report.failures
    assert {each.headers.get("x-key") for each in origin.seen} == {"k"}


async def test_a_list_through_a_proxy(origin: Origin, tmp_path: Path) -> None:
    data = noise(5, 7)
    origin.add("d/a b", data)
    origin.add("d/SHA256SUMS-ü", sums(**{"a b": data}))
    # a request that a proxy receives names the host in its first line; the origin ignores that
    proxies = {"http": origin.url}
    report = await fetch_all("http://lists.test/d/SHA256SUMS-ü", tmp_path, settings=quick(), proxies=proxies)
    assert report.ok, report.failures
    assert {each.target.partition("/d/")[0] for each in origin.seen} == {"http://lists.test"}


# --checksums


async def test_checksums_from_a_url_and_a_bare_value(origin: Origin, tmp_path: Path) -> None:
    data = noise(5000, 8)
    url = origin.add("d/model.bin", data)
    listed = origin.add("d/SUMS", sums(**{"model.bin": data}))
    report = await fetch_all(url, tmp_path / "a", settings=quick(), checksums=listed)
    assert str(report.outcomes[0].digest).startswith("sha256:")
    bare = write(tmp_path, "value", hashlib.md5(data).hexdigest() + "\n")
    report = await fetch_all(url, tmp_path / "b", settings=quick(), checksums=bare)
    assert str(report.outcomes[0].digest).startswith("md5:")
    bare = write(tmp_path, "value", f"{MD5}\n")
    report = await fetch_all(url, tmp_path / "c", settings=quick(), checksums=bare)
    assert report.counts[Status.FAILED] == 1


async def test_verify_and_bench_read_lists_on_servers(
    origin: Origin, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    data = noise(5000, 9)
    origin.add("d/a.bin", data)
    listed = origin.add("d/SHA256SUMS", sums(**{"a.bin": data}))
    assert (await fetch_all(listed, tmp_path / "out", settings=quick())).ok
    done = await asyncio.to_thread(command, "verify", "out", "--checksums", listed)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out/a.bin").write_bytes(data[:-1] + b"x")
    done = await asyncio.to_thread(command, "verify", "out", "--checksums", listed)
    assert done.returncode == 1
    done = await asyncio.to_thread(command, "bench", listed, "--bytes", "10KiB", "--time", "1s")
    assert done.returncode == 0, done.stderr


async def test_a_mirror_may_be_a_folder_page(origin: Origin, tmp_path: Path) -> None:
    data = noise(5000, 10)
    origin.add("m/", b'<title>Index of /m/</title><a href="../">../</a><a href="a.bin">a.bin</a>')
    origin.add("m/a.bin", data)
    url = origin.add("a.bin", b"", always=o.status(404))
    report = await fetch_all(url, tmp_path, settings=quick(), mirror=f"{origin.url}/m/")
    assert report.ok, report.failures
    assert (tmp_path / "a.bin").read_bytes() == data


async def test_a_bare_value_for_several_files_is_refused(origin: Origin, tmp_path: Path) -> None:
    links = [origin.add("a", b"a"), origin.add("b", b"b")]
    with pytest.raises(ManifestError, match="several files; write the name"):
        await fetch_all(links, tmp_path / "out", settings=quick(), checksums=write(tmp_path, "v", MD5))
    with pytest.raises(ManifestError, match=r"v:1: a value without a name"):
        await fetch_all(
            links, tmp_path / "out", settings=quick(), checksums=write(tmp_path, "v", f"{MD5}\n{MD5}\n")
        )
    text = f"{MD5}  a\n\nnonsense here\n"
    with pytest.raises(ManifestError, match=r"v:3: not of the form 'HEX  NAME'"):
        await fetch_all(links, tmp_path / "out", settings=quick(), checksums=write(tmp_path, "v", text))
    assert not (tmp_path / "out").exists()
