"""Tests of replies that are not the file's bytes as they come: compressed, mislabelled, or pages."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

import pytest

from osp_fetch import Outcome, Report, entry, fetch_all
from osp_fetch.demo.server import Blob, Cut, Exchange
from osp_fetch.model import events
from osp_fetch.model.errors import NotThePayloadError
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, Page, noise

TEXT = b"".join(b"%d,caption number %d\n" % (n, n * 7) for n in range(40_000))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def coded(packed: bytes, coding: str = "gzip", *, ranges: bool = False) -> o.Fault:
    """Serve `packed` with a Content-Encoding, whatever the request accepts."""

    async def answer(exchange: Exchange, page: Page) -> None:
        if ranges:
            await exchange.serve(Blob(packed), {"Content-Encoding": coding})
        else:
            await exchange.answer(200, packed, {"Content-Encoding": coding, "ETag": '"coded"'})

    return answer


async def get(
    origin: Origin, folder: Path, name: str, fault: o.Fault, **stated: object
) -> tuple[Report, Path]:
    row = entry(name, origin.add(name, TEXT, always=fault), **stated)  # type: ignore[arg-type]
    report = await fetch_all([row], folder, settings=quick())
    return report, folder / name


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [500, len(TEXT)])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress),
     ("deflate", lambda data: zlib.compress(data, wbits=-15)),
     ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]))],
)  # fmt: skip
async def test_a_file_that_the_server_compresses_is_decoded(
    origin: Origin, tmp_path: Path, coding: str, pack: object, size: int, ranges: bool
) -> None:
    data = TEXT[:size]
    packed = pack(data)  # type: ignore[operator]
    report, place = await get(origin, tmp_path, "a.csv", coded(packed, coding, ranges=ranges))
    assert report.ok, report.failures
    assert place.read_bytes() == data
    assert any("sent compressed" in note and "a.csv" in note for note in report.notes)
    assert (await fetch_all([entry("a.csv", f"{origin.url}/a.csv")], tmp_path, settings=quick())).ok
    assert sum(origin.requests.values()) <= 2 if ranges else 1


async def test_a_file_that_is_fetched_twice_to_confirm_its_end_is_named_once(
    origin: Origin, tmp_path: Path
) -> None:
    async def until_close(exchange: Exchange, page: Page) -> None:
        await exchange.head(200, {"Content-Encoding": "gzip", "Connection": "close"})
        await exchange.raw(gzip.compress(page.data))
        exchange.keep_alive = False

    report, place = await get(origin, tmp_path, "a.csv", until_close)
    assert (report.ok, place.read_bytes()) == (True, TEXT)
    assert [note.count("a.csv") for note in report.notes if "1 file was sent compressed" in note] == [1]


async def test_a_compressed_body_that_is_cut_is_no_file_that_was_saved(
    origin: Origin, tmp_path: Path
) -> None:
    report, place = await get(
        origin, tmp_path, "a.csv", coded(gzip.compress(TEXT)[:-20], "gzip", ranges=False)
    )
    assert not report.ok
    assert not place.exists()
    assert not any("sent compressed" in note for note in report.notes)


@pytest.mark.parametrize("form", ["decoded", "coded"])
@pytest.mark.parametrize("size", [500, len(TEXT)])
async def test_with_a_digest_whichever_form_matches(
    origin: Origin, tmp_path: Path, form: str, size: int
) -> None:
    data = TEXT[:size]
    packed = gzip.compress(data)
    wanted = data if form == "decoded" else packed
    report, place = await get(origin, tmp_path, "a.csv", coded(packed), digest=sha256(wanted))
    assert report.ok, report.failures
    assert place.read_bytes() == wanted
    report, place = await get(
        origin, tmp_path, "b.csv", coded(packed), digest=sha256(wanted), size=len(wanted)
    )
    assert report.ok, report.failures
    assert place.read_bytes() == wanted


async def test_without_a_digest_the_size_shows_the_form(origin: Origin, tmp_path: Path) -> None:
    packed = gzip.compress(TEXT)
    for wanted in (TEXT, packed):
        report, place = await get(
            origin, tmp_path / str(len(wanted)), "a.csv", coded(packed), size=len(wanted)
        )
        assert report.ok, report.failures
        assert place.read_bytes() == wanted


@pytest.mark.parametrize(
    ("name", "coding"), [("a.tar.gz", "gzip"), ("a.tgz", "x-gzip"), ("a.csv", "none"), ("a.csv", "identity")]
)
async def test_a_label_that_means_the_files_own_bytes(
    origin: Origin, tmp_path: Path, name: str, coding: str
) -> None:
    packed = gzip.compress(noise(300_000))
    report, place = await get(origin, tmp_path, name, coded(packed, coding, ranges=True))
    assert report.ok, report.failures
    assert place.read_bytes() == packed


@pytest.mark.parametrize("kept", [0.3, 0.999])
async def test_a_coded_body_that_ends_early_is_never_published(
    origin: Origin, tmp_path: Path, kept: float
) -> None:
    packed = gzip.compress(TEXT)
    report, place = await get(origin, tmp_path, "a.csv", coded(packed[: int(len(packed) * kept)]))
    (failure,) = report.failures
    assert "compressed" in str(failure.error)
    assert not place.exists()


async def test_a_cut_of_a_coded_body_is_fetched_again(origin: Origin, tmp_path: Path) -> None:
    packed = gzip.compress(noise(200_000))

    async def cut(exchange: Exchange, page: Page) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        exchange.writer.write(head.encode() + packed[:100_000])
        await exchange.writer.drain()
        raise Cut

    row = entry("a.csv", origin.add("a.csv", b"", cut, always=coded(packed)))
    report = await fetch_all([row], tmp_path, settings=quick())
    assert report.ok, report.failures
    assert (tmp_path / "a.csv").read_bytes() == gzip.decompress(packed)


async def test_other_codings_are_refused(origin: Origin, tmp_path: Path) -> None:
    report, place = await get(origin, tmp_path, "a.csv", coded(b"\x1b\x00", "br"))
    (failure,) = report.failures
    assert isinstance(failure.error, NotThePayloadError)
    assert not place.exists()


# pages


JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + noise(2000)


def page(body: bytes, kind: str) -> o.Fault:
    async def answer(exchange: Exchange, _: Page) -> None:
        await exchange.answer(200, body, {"Content-Type": kind})

    return answer


@pytest.mark.parametrize(
    ("name", "body", "kind"),
    [("a.jpg", JPEG, "text/html; charset=utf-8"), ("photo", JPEG, "text/html"), ("a.jpg", JPEG, "text/plain"),
     ("data", b"1 2 3\n", "text/plain"), ("a.unknown", b"1 2 3\n", "text/plain"),
     ("a.csv", b"a,b\n", "text/html"), ("a.htm", b"<html></html>", "text/html")],
)  # fmt: skip
async def test_what_the_bytes_are_decides(
    origin: Origin, tmp_path: Path, name: str, body: bytes, kind: str
) -> None:
    report, place = await get(origin, tmp_path, name, page(body, kind))
    assert report.ok, report.failures
    assert place.read_bytes() == body


LOGIN = b"<!DOCTYPE html><html><title>Please log in</title></html>"
REFUSED = [
    *((name, LOGIN, "text/html") for name in ("a.tar", "a.jpg", "a.bin", "a")),
    *((name, LOGIN, "application/octet-stream") for name in ("a.tar", "a.jpg", "a.bin", "a")),
    ("a.parquet", b'{"error": "not found"}', "application/json"),
    ("a.bin", b"Access denied", "text/plain"),
    ("a.zip", b"<?xml version='1.0'?><Error/>", "application/xml"),
]


@pytest.mark.parametrize(("name", "body", "kind"), REFUSED)
async def test_pages_in_place_of_a_file_stay_refused(
    origin: Origin, tmp_path: Path, name: str, body: bytes, kind: str
) -> None:
    report, place = await get(origin, tmp_path, name, page(body, kind))
    (failure,) = report.failures
    assert isinstance(failure.error, NotThePayloadError)
    assert not place.exists()
    report, place = await get(origin, tmp_path, name, page(body, kind), size=100_000)
    assert not report.ok
    assert not place.exists()


@pytest.mark.parametrize(("name", "body", "kind"), REFUSED)
async def test_size_and_digest_decide_over_every_guess(
    origin: Origin, tmp_path: Path, name: str, body: bytes, kind: str
) -> None:
    proofs: list[dict[str, object]] = [{"digest": sha256(body)}, {"size": len(body)}]
    for number, stated in enumerate(proofs):
        report, place = await get(origin, tmp_path / str(number), name, page(body, kind), **stated)
        assert report.ok, report.failures
        assert place.read_bytes() == body
    report, place = await get(origin, tmp_path / "wrong", name, page(body, kind), digest=sha256(b"another"))
    (failure,) = report.failures
    assert isinstance(failure.error, NotThePayloadError), (
        failure.error
    )  # the reason, not only that it differs
    assert not place.exists()


async def test_pages_are_accepted_on_request(origin: Origin, tmp_path: Path) -> None:
    row = entry("a.tar", origin.add("a.tar", LOGIN, headers={"Content-Type": "text/html"}))
    report = await fetch_all([row], tmp_path, settings=quick(network={"pages": "accept"}))
    assert report.ok
    assert (tmp_path / "a.tar").read_bytes() == LOGIN


async def test_a_portal_page_costs_no_held_byte(origin: Origin, tmp_path: Path) -> None:
    """The length of the file is known from its first reply, and the page has another one."""
    data, lost = noise(900_000), list[object]()
    url = origin.add(
        "a.tar", data, o.polite, o.cut(40_000), page(LOGIN, "text/html"), page(LOGIN, "text/html")
    )

    def observe(event: events.Event) -> None:
        lost.extend([event] if isinstance(event, events.Lost) else [])

    report = await fetch_all(
        [entry("a.tar", url, digest=sha256(data))], tmp_path, settings=quick(), observer=observe
    )
    assert report.ok, [outcome for outcome in report.failures if isinstance(outcome, Outcome)]
    assert (tmp_path / "a.tar").read_bytes() == data
    assert not lost


# replies that end without a sign


def closing(head: str, body: bytes) -> o.Fault:
    """Answer without a length, and close the connection after `body`."""

    async def answer(exchange: Exchange, page: Page) -> None:
        exchange.writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n".encode() + body)
        await exchange.writer.drain()
        raise Cut

    return answer


@pytest.mark.parametrize("kept", ["nothing", "one member"])
async def test_a_coded_reply_without_a_length_is_confirmed_by_a_second_one(
    origin: Origin, tmp_path: Path, kept: str
) -> None:
    first = gzip.compress(b"first,")
    packed = first + gzip.compress(b"second")
    part = b"" if kept == "nothing" else first
    whole = closing("Content-Encoding: gzip", packed)
    url = origin.add("a.csv", b"", closing("Content-Encoding: gzip", part), always=whole)
    report = await fetch_all([entry("a.csv", url)], tmp_path, settings=quick())
    assert report.ok, report.failures
    assert (tmp_path / "a.csv").read_bytes() == b"first,second"


async def test_plain_bytes_with_the_label_gzip_are_never_decoded_as_something_else(
    origin: Origin, tmp_path: Path
) -> None:
    report, place = await get(origin, tmp_path, "a.csv", coded(b"\x03\x00"))  # valid as raw deflate: empty
    assert not report.ok
    assert not place.exists()


async def test_a_206_without_a_range_request_is_the_file_only_if_it_is_complete(
    origin: Origin, tmp_path: Path
) -> None:
    async def part(exchange: Exchange, page: Page) -> None:
        await exchange.answer(206, page.data[:100], {"Content-Range": f"bytes 0-99/{len(page.data)}"})

    row = entry("a.bin", origin.add("a.bin", noise(1000), always=part), size=None)
    report = await fetch_all([row], tmp_path, settings=quick())
    assert not report.ok
    assert not (tmp_path / "a.bin").exists()


async def test_a_page_without_a_length_costs_no_held_byte(origin: Origin, tmp_path: Path) -> None:
    data, lost = noise(900_000), list[object]()
    login = closing("Content-Type: text/html", LOGIN)
    url = origin.add("a.tar", data, o.polite, o.cut(40_000), login, login)

    def observe(event: events.Event) -> None:
        lost.extend([event] if isinstance(event, events.Lost) else [])

    row = entry("a.tar", url, digest=sha256(data))
    report = await fetch_all([row], tmp_path, settings=quick(), observer=observe)
    assert report.ok, report.failures
    assert not lost
