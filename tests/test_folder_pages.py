"""Tests of folders of web servers as SOURCE: real nginx and http.server, recorded pages, hostile links."""

from __future__ import annotations

import asyncio
import functools
import html
import http.server
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, Status, StopToken, entry, fetch_all
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.demo.server import Exchange, Server
from osp_fetch.model.errors import CredentialsError, FetchError, ManifestError, NetworkError, StatusError
from osp_fetch.model.http import Request
from osp_fetch.model.settings import HostLimits
from osp_fetch.pages import WebPages
from osp_fetch.sources import autoindex, folder_pages
from osp_fetch.sources.pages import NoPages, Page, document
from osp_fetch.workers.reach import Reach, transport_of
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, serving
from tests.test_nginx import NGINX, Nginx

FILES = {
    "one.bin": noise(70_000, 1),
    "two words & more.txt": b"two\n",
    "100%.bin": noise(10, 2),
    "ü/naïve#1?.bin": noise(20, 3),
    "deep/er/and/deeper/x.bin": noise(30, 4),
    "a+b;c=d,e@f!.bin": noise(40, 5),
    "empty.bin": b"",
    f"{'long' * 30}.bin": noise(50, 6),
}


def tree(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".")}


def plant(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# real servers


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Nginx]:
    server = Nginx(tmp_path)
    server.locations = """
        location /html/ { alias %s/; autoindex on; }
        location /human/ { alias %s/; autoindex on; autoindex_exact_size off; }
        location /json/ { alias %s/; autoindex on; autoindex_format json; }
    """.replace("%s", str(server.files))
    await server.start()
    yield server
    await server.stop()


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("kind", ["html", "human", "json"])
async def test_a_folder_of_nginx(nginx: Nginx, tmp_path: Path, kind: str) -> None:
    plant(nginx.files)
    report = await fetch_all(nginx.url(f"{kind}/"), tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path / "out") == FILES
    report = await fetch_all(nginx.url(f"{kind}/deep/"), tmp_path / "below", settings=quick())
    assert tree(tmp_path / "below") == {"er/and/deeper/x.bin": FILES["deep/er/and/deeper/x.bin"]}


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_sizes_of_nginx_are_taken_where_they_are_exact(
    nginx: Nginx, command: Any, tmp_path: Path
) -> None:
    plant(nginx.files)
    for kind, sized in (("html", 8), ("human", 7), ("json", 8)):
        said = await asyncio.to_thread(command, "plan", nginx.url(f"{kind}/"), "--json")
        plan = json.loads(said.stdout)
        assert (plan["files"], plan["unsized"]) == (8, 8 - sized), kind
    assert plan["bytes"] == sum(map(len, FILES.values()))


@contextmanager
def python_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


async def test_a_folder_of_pythons_server(tmp_path: Path) -> None:
    plant(tmp_path / "files")
    (tmp_path / "files/deep/.osp-fetch/partial").mkdir(parents=True)
    (tmp_path / "files/deep/.osp-fetch/partial/x").write_bytes(b"a record of the run that made this mirror")
    with python_server(tmp_path / "files") as url:
        report = await fetch_all(url, tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path / "out") == FILES


# recorded pages: Apache with its table and with its preformatted text, lighttpd, Caddy

PAGES = sorted((Path(__file__).parent / "folder_pages").iterdir())
EXACT = {"caddy.html", "caddy.json"}  # these pages state sizes in bytes


def index(*links: str, title: str = "Index of /x/") -> bytes:
    anchors = "\n".join(f'<a href="{link}">{link}</a>' for link in links)
    return f"<html><head><title>{title}</title></head><body><pre>{anchors}</pre></body></html>".encode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_a_recorded_page(origin: Origin, tmp_path: Path, page: Path) -> None:
    data, other = noise(1200, 1), noise(7, 2)
    url = origin.add("pub/data/", page.read_bytes())
    origin.add("pub/data/a & b.bin", data)
    origin.add("pub/data/sub/", index("../", "c.bin"))
    origin.add("pub/data/sub/c.bin", other)
    report = await fetch_all(url, tmp_path, settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path) == {"a & b.bin": data, "sub/c.bin": other}
    assert set(origin.requests) == {f"/pub/data/{name}" for name in ("", "sub/", "a & b.bin", "sub/c.bin")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_only_exact_sizes_are_taken(page: Path) -> None:
    text = page.read_text()
    sizes = [link.size for link in autoindex.links([text], text) if link.size is not None]
    assert sizes == [1200] * (page.name in EXACT)


def test_a_page_may_arrive_in_pieces_of_any_length() -> None:
    page = (
        index("../", *(f"{n}.bin" for n in range(50)))
        .decode()
        .replace("</a>", "</a>  02-Jan-2026 10:00    17\r")
    )
    whole = [(link.href, link.size) for link in autoindex.links([page], page)]
    for length in (1, 7, 100):
        pieces = [page[at : at + length] for at in range(0, len(page), length)]
        assert [(link.href, link.size) for link in autoindex.links(pieces, page)] == whole
    assert whole[1:] == [(f"{n}.bin", 17) for n in range(50)]
    text = (Path(__file__).parent / "folder_pages/caddy.json").read_text()
    assert [each.href for each in autoindex.links(iter(text), text)] == ["./sub/", "./a%20%26%20b.bin"]


# what is followed


async def test_hostile_links_are_not_followed(origin: Origin, tmp_path: Path) -> None:
    hostile = [
        "../", "../../secret.bin", "/", "/secret.bin", "//evil.test/x.bin", "http://evil.test/x.bin",
        "https://evil.test/d/x/", "javascript:alert(1)", "mailto:a@b.test", "data:text/plain,x", "#top", "",
        "?C=N;O=D", "x.bin?download=1", ".", "./", "file:///etc/passwd", "%2e%2e/secret.bin",
        "..%2fsecret.bin",
        "%2e%2e/", "a/../../secret.bin", "http://[bad", "sub/%2e%2e/%2e%2e/secret.bin", "c%00.bin", "\\..\\x",
    ]  # fmt: skip
    origin.add("secret.bin", b"secret")
    url = origin.add("d/x/", index(*hostile, "good.bin", "good.bin", f"{origin.url}/d/x/also.bin"))
    origin.add("d/x/good.bin", b"good")
    origin.add("d/x/also.bin", b"also")
    report = await fetch_all(url, tmp_path / "out", settings=quick())
    assert tree(tmp_path / "out") == {"good.bin": b"good", "also.bin": b"also"}
    assert set(origin.requests) == {"/d/x/", "/d/x/good.bin", "/d/x/also.bin"}
    assert all("/d/x/" in str(each.error) or "path" in str(each.error) for each in report.failures)
    assert not (tmp_path / "secret.bin").exists()


HREFS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["..", ".", "a", "%2e%2e", "%2F", "/", "//", "\\", "?", "#", "d/x/", "é", " ", "%00", ":"]
        ),
        max_size=8,
    ).map("".join),
)


@given(HREFS)
def test_no_link_leads_out_of_the_folder(href: str) -> None:
    page = f'<title>Index of /d/x/</title><a href="{html.escape(href)}">x</a>'
    found: list[object] = []

    class Here(NoPages):
        def get(self, *_: object, **__: object) -> Page:
            return Page("http://h.test/d/x/", io.BytesIO(page.encode("utf-8", "replace")))

        def get_all(self, requests: Sequence[Request], **_: object) -> list[Page | FetchError]:
            found.extend(request.url for request in requests)
            return [NetworkError("closed") for _ in requests]

    for block in folder_pages.files("http://h.test/d/x/", Here(), []):
        for _, row in block:
            if isinstance(row, Entry):
                found.extend(row.urls)
                assert ".." not in row.path.split("/")
                assert not row.path.startswith("/")
    for url in found:
        parts = urlsplit(str(url))
        assert (parts.scheme, parts.netloc, parts.query) == ("http", "h.test", "")
        assert parts.path.startswith("/d/x/")
        assert ".." not in unquote(parts.path).split("/")


async def test_a_tree_without_end_is_walked_to_its_depth(tmp_path: Path) -> None:
    async def handle(exchange: Exchange) -> None:
        body = index("loop/", "f.bin") if exchange.path.endswith("/") else b"f"
        await exchange.answer(200, body)

    async with Server(handle) as server:
        report = await fetch_all(f"{server.url}/d/", tmp_path / "out", settings=quick(), depth=3)
        assert sorted(tree(tmp_path / "out")) == ["f.bin", "loop/f.bin", "loop/loop/f.bin"]
        assert any("1 folders below" in note and "--depth 3" in note for note in report.notes), report.notes
        report = await fetch_all(f"{server.url}/d/", tmp_path / "flat", settings=quick(), depth=1)
        assert sorted(tree(tmp_path / "flat")) == ["f.bin"]
        report = await fetch_all(f"{server.url}/d/", tmp_path / "all", settings=quick())
        assert report.counts[Status.FETCHED] == 10


async def test_a_folder_that_cannot_be_read_costs_its_own_files_only(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("d/", index("closed/", "site/", "away/", "f.bin"))
    origin.add("d/f.bin", b"f")
    origin.add("d/closed/", b"", always=o.status(403))
    origin.add("d/site/", b"<html><title>Welcome</title><a href='x.bin'>x</a></html>")
    origin.add("d/away/", b"", always=o.redirect(f"{origin.url}/other/"))
    origin.add("other/", index("y.bin"))
    report = await fetch_all(url, tmp_path, settings=quick())
    assert tree(tmp_path) == {"f.bin": b"f"}
    said = " ".join(str(each.error) for each in report.failures)
    assert len(report.failures) == 3
    assert "403" in said
    assert "another page in place" in said
    assert "leads out of the SOURCE" in said


async def test_a_page_that_is_no_folder_is_a_plain_link(origin: Origin, tmp_path: Path) -> None:
    for kind, body in {
        "html": b"<html><title>Shop</title><a href='a.bin'>a</a></html>",
        "raw": noise(5000),
    }.items():
        report = await fetch_all(origin.add(f"{kind}/", body), tmp_path / kind, settings=quick())
        assert report.counts[Status.FAILED] + report.counts[Status.FETCHED] == 1
        assert "/a.bin" not in origin.requests


async def test_what_the_server_says_of_a_folder_is_said(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such page"):
        await fetch_all(f"{origin.url}/none/", tmp_path, settings=quick())
    origin.add("shut/", b"", always=o.status(401))
    with pytest.raises(CredentialsError, match="--header"):
        await fetch_all(f"{origin.url}/shut/", tmp_path, settings=quick())


async def test_headers_stay_at_the_origin_that_they_are_for(origin: Origin, tmp_path: Path) -> None:
    async with serving() as other:
        target = other.add("d/", index("f.bin"))
        other.add("d/f.bin", b"f")
        url = origin.add("d/", b"", always=o.redirect(target))
        with pytest.raises(ManifestError, match="another origin"):
            await fetch_all(url, tmp_path / "a", settings=quick(), headers={"X-Key": "secret"})
        assert all("x-key" not in each.headers for each in other.seen)
        assert [each.headers.get("x-key") for each in origin.seen] == ["secret"]
        assert (await fetch_all(url, tmp_path / "b", settings=quick())).ok
        assert tree(tmp_path / "b") == {"f.bin": b"f"}


async def test_a_url_with_blanks_and_letters_of_other_languages(origin: Origin, tmp_path: Path) -> None:
    origin.add("two words/ü/", index("../", "f.bin", "/two words/ü/g.bin", "/two%20words/%C3%BC/h.bin"))
    for name in "fgh":
        origin.add(f"two words/ü/{name}.bin", name.encode())
    report = await fetch_all(f"{origin.url}/two words/ü/", tmp_path, settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path) == {f"{name}.bin": name.encode() for name in "fgh"}


async def test_a_host_alone_is_its_root_folder(origin: Origin, tmp_path: Path) -> None:
    origin.add("", index("f.bin", "http://other.test/x.bin"))
    origin.add("f.bin", b"f")
    report = await fetch_all(origin.url, tmp_path, settings=quick())
    assert report.ok, report.failures
    assert tree(tmp_path) == {"f.bin": b"f"}


async def test_only_the_beginning_of_another_document_is_received(origin: Origin) -> None:
    url = origin.add("d/", noise(4 << 20))
    pages = WebPages(quick(), Reach())
    with await asyncio.to_thread(pages.get, document(url), judge=autoindex.is_folder_page) as page:
        assert 64 << 10 <= page.file.seek(0, io.SEEK_END) <= 1 << 20


# requests for pages are metered like those for files


def walked(url: str, **limits: object) -> list[str]:
    """Walk a folder with these limits and return the paths of its files."""
    pages = WebPages(quick(limits=limits), Reach())
    blocks = folder_pages.files(url, pages, [])
    return sorted(row.path for block in blocks for _, row in block if isinstance(row, Entry))


def tree_of(origin: Origin, folders: str, *faults: o.Fault) -> str:
    """Serve a folder with one file in each of its folders; the first of them meets `faults`."""
    for n, name in enumerate(folders):
        origin.add(f"d/{name}/", index("f.bin"), *([] if n else faults))
    return origin.add("d/", index(*(f"{name}/" for name in folders)))


async def test_pages_keep_to_the_rate_of_requests_from_one_call_to_the_next(origin: Origin) -> None:
    url = tree_of(origin, "abcde")
    begun = time.monotonic()
    assert len(await asyncio.to_thread(walked, url, requests_per_second=10)) == 5
    assert time.monotonic() - begun >= 0.5, "six pages in two calls"
    pages = WebPages(quick(limits={"requests_per_second": 10}), Reach())
    begun = time.monotonic()
    for _ in range(4):
        (await asyncio.to_thread(pages.get, document(url))).file.close()
    links = [(f"{origin.url}/d/?{n}", ()) for n in range(3)]
    assert await asyncio.to_thread(pages.names, links) == ["", "", ""]
    assert time.monotonic() - begun >= 0.6, "seven requests in five calls"


async def test_pages_keep_to_the_rate_of_bytes(origin: Origin) -> None:
    url = origin.add("list", noise(60_000))
    pages = WebPages(quick(limits={"rate": 200_000}), Reach())
    begun = time.monotonic()
    for _ in range(3):
        (await asyncio.to_thread(pages.get, document(url))).file.close()
    assert time.monotonic() - begun >= 180_000 / 200_000 - 0.25, "a quarter of a second may be made up for"


@pytest.mark.parametrize("limits", [{"per_host": 1}, {"connections": 1}, {"per_host": 2}])
async def test_pages_keep_to_the_connections_of_a_host(origin: Origin, limits: dict[str, int]) -> None:
    url = tree_of(origin, "abcdefgh")
    assert len(await asyncio.to_thread(walked, url, **limits)) == 8
    assert origin.most_open <= max(limits.values())


@pytest.mark.parametrize("processes", [1, 2])
async def test_pages_and_files_of_a_run_keep_to_the_connections_of_a_host_together(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    kinds: Counter[bool] = Counter()  # open requests, for pages and for files
    both, begun, number = 0, asyncio.Event(), itertools.count()

    async def late(exchange: Exchange, page: o.Page) -> None:
        nonlocal both
        kind = exchange.path.endswith("/")
        kinds[kind] += 1
        both += kinds[True] > 0 < kinds[False]
        if not kind:
            begun.set()
        await begun.wait()  # no page is answered before a file is fetched
        # files end one after another, so that a page takes the slot of one while others are fetched
        await asyncio.sleep(0.02 if kind else 0.02 * (1 + next(number) % 4))
        await o.polite(exchange, page)
        kinds[kind] -= 1

    first = [f"{n}.bin" for n in range(500)]  # rows are read in pages of 500
    for path in (*first, *(f"{n}/f.bin" for n in range(40))):
        origin.add(f"d/{path}", path.encode(), always=late)
    for n in range(40):
        origin.add(f"d/{n}/", index("f.bin"), always=late)
    url = origin.add("d/", index(*first, *(f"{n}/" for n in range(40))))
    report = await fetch_all(url, tmp_path, settings=quick(limits={"per_host": 4, "processes": processes}))
    assert report.ok, report.failures
    assert report.counts[Status.FETCHED] == 540
    assert both, "pages were walked while files were fetched"
    assert origin.most_open == 4


async def test_processes_share_the_only_connection_of_a_host(origin: Origin, tmp_path: Path) -> None:
    for folder in range(24):
        origin.add(f"d/{folder}/", index(*(f"{n}.bin" for n in range(25))))
        for n in range(25):
            origin.add(f"d/{folder}/{n}.bin", b"x")
    url = origin.add("d/", index(*(f"{folder}/" for folder in range(24))))
    settings = replace(quick(limits={"processes": 2}), hosts={"127.0.0.1": HostLimits(connections=1)})
    report = await asyncio.wait_for(fetch_all(url, tmp_path, settings=settings), 60)
    assert report.ok, report.failures
    assert origin.most_open == 1


async def test_a_mirror_that_is_a_folder_page_is_listed_while_rows_of_the_caller_come(
    origin: Origin, tmp_path: Path
) -> None:
    origin.add("m/", index("f.bin"))
    origin.add("m/f.bin", b"hello")

    async def rows() -> AsyncIterator[Entry]:
        yield entry("f.bin", f"{origin.url}/gone/f.bin", 5, "sha256:" + sha256(b"hello").hexdigest())

    found = fetch_all(rows(), tmp_path, settings=quick(), mirror=f"{origin.url}/m/")
    report = await asyncio.wait_for(found, 30)
    assert report.ok, report.failures


async def test_a_host_that_was_silent_once_is_asked_again_for_later_pages(origin: Origin) -> None:
    settings, reach = quick(retry={"attempts": 8}), Reach()
    bad, good = origin.add("bad/", b"x", always=o.reset), origin.add("good/", b"a page")
    pages = WebPages(settings, reach)
    pool = ConnectionPool(settings.limits)
    async with transport_of(settings, reach) as transport, pages.over(pool, transport, lambda _: None):
        with pytest.raises(FetchError):
            await asyncio.to_thread(pages.get, document(bad))
        origin.pages["/bad/"].always = None
        for url in (good, bad):
            (await asyncio.to_thread(pages.get, document(url))).file.close()
        assert await asyncio.to_thread(pages.names, [(good, ())]) == [""]


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_pause_asked_for_in_reply_to_a_page_holds_for_files(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    refused: list[float] = []
    times: list[float] = []
    begun = asyncio.Event()

    async def file(exchange: Exchange, page: o.Page) -> None:
        times.append(time.monotonic())
        begun.set()
        await asyncio.sleep(0.0 if refused else 0.1)
        await o.polite(exchange, page)

    async def refuse(exchange: Exchange, page: o.Page) -> None:
        await begun.wait()
        refused.append(time.monotonic())
        await o.status(429, Retry_After="3")(exchange, page)

    for folder in range(40):
        # rows are read in pages of 500: this folder is walked while files are fetched
        faults = [refuse] if folder == 32 else []
        origin.add(f"d/{folder:02}/", index(*(f"{n}.bin" for n in range(30))), *faults)
        for n in range(30):
            origin.add(f"d/{folder:02}/{n}.bin", b"x", always=file)
    url = origin.add("d/", index(*(f"{folder:02}/" for folder in range(40))))
    settings = quick(limits={"processes": processes, "connections": 8}, retry={"longest": 5})
    report = await fetch_all(url, tmp_path, settings=settings)
    assert report.ok, report.failures
    assert not [at for at in times if refused[0] + 0.5 < at < refused[0] + 2.5]


@pytest.mark.parametrize("seconds", [1, 2])
async def test_no_page_is_asked_for_while_its_host_wants_a_pause(origin: Origin, seconds: int) -> None:
    times: list[float] = []

    async def refuse(exchange: Exchange, page: o.Page) -> None:
        times.append(time.monotonic())
        await exchange.answer(429, "later", {"Retry-After": str(seconds)})

    async def late(exchange: Exchange, page: o.Page) -> None:
        times.append(time.monotonic())
        await o.polite(exchange, page)

    url = tree_of(origin, "abc", refuse)
    for name in "abc":
        origin.pages[f"/d/{name}/"].always = late
    assert await asyncio.to_thread(walked, url, per_host=1) == ["a/f.bin", "b/f.bin", "c/f.bin"]
    refused, *others = times
    assert len(others) == 3
    assert min(others) >= refused + seconds


async def test_a_pause_holds_for_the_next_call(origin: Origin) -> None:
    url = origin.add("d/", index("f.bin"), o.status(429, Retry_After="1"))
    pages = WebPages(quick(retry={"attempts": 1}), Reach())
    begun = time.monotonic()
    with pytest.raises(StatusError):
        await asyncio.to_thread(pages.get, document(url))
    (await asyncio.to_thread(pages.get, document(url))).file.close()
    assert time.monotonic() - begun >= 1


async def test_links_of_a_host_that_does_not_answer_fail_together() -> None:
    dropped = 0

    async def drop(exchange: Exchange) -> None:
        nonlocal dropped
        dropped += 1
        exchange.writer.close()

    async with Server(drop) as server:
        pages = WebPages(quick(retry={"attempts": 100}), Reach())
        links = [(f"{server.url}/{n}", ()) for n in range(40)]
        names = await asyncio.to_thread(pages.names, links)
    assert all(isinstance(name, ManifestError) and "cannot be asked" in str(name) for name in names)
    assert dropped < 80, "one request finds out for the others whether the host is back"


async def test_a_host_that_does_not_answer_is_said_soon(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"cannot be read .* run again later"):
        await fetch_all("http://127.0.0.1:9/d/", tmp_path, settings=quick(retry={"attempts": 100}))


async def test_a_stopped_run_waits_for_no_page(origin: Origin, tmp_path: Path) -> None:
    stop, asked = StopToken(), asyncio.Event()

    async def silent(exchange: Exchange, page: o.Page) -> None:
        asked.set()
        await asyncio.Event().wait()

    url = origin.add("d/", b"", always=silent)
    settings = quick(timeouts={"head": 3600})
    run = asyncio.create_task(fetch_all(url, tmp_path, settings=settings, stop=stop))
    await asked.wait()
    stop.ask("enough")
    assert (await run).stopped == "enough"
    async with asyncio.timeout(60):  # no thread waits for the page any more
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_page_of_a_hundred_thousand_files(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("d/", index("../", *(f"{n:06}.bin" for n in range(100_000))))
    origin.add("d/000007.bin", b"seven")
    report = await fetch_all(url, tmp_path, settings=quick(), include="000007.bin")
    assert report.ok, report.failures
    assert tree(tmp_path) == {"000007.bin": b"seven"}


async def test_globs_and_the_command_line(
    origin: Origin, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    url = origin.add("d/", index("a.bin", "b.txt", "sub/"))
    origin.add("d/a.bin", b"a")
    origin.add("d/sub/", index("c.bin"))
    origin.add("d/sub/c.bin", b"c")
    done = await asyncio.to_thread(command, "get", url, "-o", "out", "--include", "*.bin", "--depth", "1")
    assert done.returncode == 0, done.stderr
    assert "--depth 1" in done.stderr
    assert tree(tmp_path / "out") == {"a.bin": b"a"}
    done = await asyncio.to_thread(command, "get", url, "--depth", "0")
    assert done.returncode == 2
