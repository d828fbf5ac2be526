"""Tests of misbehaving servers, row by row, with and without a checksum in the manifest.

The rows are those of docs/sources.md, "How servers misbehave". For each fault three statements hold: the
final name holds the right bytes or is absent; success is reported only for a file that is present; the run
ends. A passing fault does not cost the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from osp_fetch import Entry, Event, Outcome, Status, entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from tests import origin as o
from tests.conftest import quick
from tests.origin import Fault, Origin, noise, sha256

DATA = noise(300_000)
SETTINGS = quick(
    timeouts={"slowest": "64KiB", "slow_for": 0.5, "connect": 0.5, "head": 0.5, "idle": 0.5},
    retry={"attempts": 4, "outage": 1, "longest": 0.5},
)


async def one(
    origin: Origin, folder: Path, faults: list[Fault], always: Fault | None, known: str, data: bytes = DATA
) -> Outcome:
    """Fetch one file and assert the statements that hold for every fault."""
    url = origin.add("f.tar", data, *faults, always=always)
    row = entry(
        "f.tar", url, len(data) if known != "nothing" else None, sha256(data) if known == "digest" else None
    )
    seen_early: list[int] = []

    def observe(event: Event) -> None:
        final = folder / "f.tar"
        if not isinstance(event, events.Finished) and final.exists() and final.read_bytes() != data:
            seen_early.append(1)

    async with asyncio.timeout(60):
        report = await fetch_all([row], folder, settings=SETTINGS, observer=observe)
    (outcome,) = report.outcomes
    assert not seen_early
    if outcome.status is Status.FETCHED:
        assert (folder / "f.tar").read_bytes() == data
    else:
        assert not (folder / "f.tar").exists()
    return outcome


def later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


XML = "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"

PASSING: dict[str, list[Fault]] = {
    "none": [],
    "206 in shorter ranges than asked": [o.short_range(10_000)] * 40,
    "200 with a right Content-Range": [o.status_200_with_range] * 20,
    "206 with the complete file": [o.status_206_of_all] * 40,
    "200 with a Content-Range that is not valid": [o.status_200_with_nonsense] * 40,
    "a body until the connection closes": [o.until_close] * 9,
    "206 with a wrong start": [o.shifted(7)],
    "206 with a total that changes": [o.ranged(Content_Range="bytes {start}-{last}/999999")],
    "206 whose range contradicts its length": [o.ranged(Content_Range="bytes {start}-{start}/{total}")],
    "206 without a Content-Range": [o.ranged(Content_Range="")],
    "206 with a Content-Range of nonsense": [o.ranged(Content_Range="bytes */{total}")],
    "206 with two Content-Ranges": [o.two_content_ranges],
    "206 with several ranges": [o.several_ranges],
    "200 to a range in mid-file": [o.polite, o.rangeless],
    "200 to every range": [o.rangeless] * 20,
    "200 to If-Range though the tag is equal": [o.deaf_to_if_range] * 20,
    "416 for nothing": [o.status(416)],
    "a short body with a clean close": [o.until_close_short(1000)],
    "a body that is longer than asked": [o.overlong(5)],
    "gzip on a ranged answer": [o.gzipped],
    "an HTML page with 200": [o.instead("<html><title>Quota exceeded</title></html>")],
    "a page called a tar": [o.instead("<!DOCTYPE html><html>", "application/x-tar")],
    "XML with 200": [o.instead(XML, "application/xml")],
    "JSON with 200": [o.instead('{"error": "try later"}', "application/json")],
    "text with 200": [o.instead("Too many requests", "text/plain")],
    "429 with seconds": [o.status(429, Retry_After="0.1")] * 2,
    "429 with a date": [o.status(429, Retry_After=later(0))],
    "429 with 0": [o.status(429, Retry_After="0")] * 3,
    "429 without a word": [o.status(429)] * 3,
    "a storm of 503": [o.status(503)] * 3,
    "a tag that is weak": [o.other_tag_each_time(weak=True)] * 20,
    "another tag on each edge": [o.other_tag_each_time(weak=False)] * 30,
    "no length": [o.chunked] * 20,
    "a reset before the head": [o.reset] * 3,
    "a reset in the status line": [o.cut_head(b"HTTP/1.1 2")] * 3,
    "a reset in the headers": [o.cut_head(b"HTTP/1.1 200 OK\r\nContent-Le")] * 3,
    "a reset after the head": [o.cut_head(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")] * 3,
    "a reset in the body": [o.cut(100_000)] * 3,
    "silence before the head": [o.silent],
    "silence in the body": [o.stall(5000)],
    "a header flood": [o.header_flood],
    "a slow head": [o.slow_head],
    "interim replies without end": [o.early_hints],
    "a drip body": [o.drip(0.005)],
    "chunks of nonsense": [o.bad_chunks],
}


@pytest.mark.parametrize("case", PASSING)
@pytest.mark.parametrize("known", ["nothing", "size", "digest"])
async def test_a_passing_fault_is_outlived(origin: Origin, tmp_path: Path, case: str, known: str) -> None:
    outcome = await one(origin, tmp_path, PASSING[case], None, known)
    assert outcome.status is Status.FETCHED, outcome.error


LASTING: dict[str, tuple[Fault, str]] = {
    "206 with a wrong start": (o.shifted(7), "asked for bytes"),
    "206 with two Content-Ranges": (o.two_content_ranges, "Content-Range"),
    "206 with several ranges": (o.several_ranges, "several ranges"),
    "gzip": (o.gzipped, "compressed"),
    "a page": (o.instead("<html><title>Quota exceeded</title></html>"), "Quota exceeded"),
    "404": (o.status(404), "404"),
    "503": (o.status(503), "503"),
    "XML with 403": (o.status(403, XML, Content_Type="application/xml"), "403"),
    "text with 403": (o.status(403, "URL signature expired"), "fresh link"),
    "429 with an hour": (o.status(429, Retry_After="3600"), "3600 s"),
    "429 with a date in an hour": (o.status(429, Retry_After=later(3600)), "longer than"),
    "redirects in circles": (o.redirect("/f.tar"), "circles"),
    "a redirect to a file": (o.redirect("file:///etc/passwd"), "no http"),
    "a redirect to ftp": (o.redirect("ftp://127.0.0.1/x"), "no http"),
    "a redirect to nowhere": (o.redirect(""), "no http"),
    "a redirect to data": (o.redirect("data:text/plain,hello"), "no http"),
    "a reset before the head": (o.reset, "127.0.0.1"),
    "silence": (o.silent, "not answer"),
    "a header flood": (o.header_flood, "127.0.0.1"),
    "a slow head": (o.slow_head, "not answer"),
    "interim replies without end": (o.early_hints, "not answer"),
    "a drip body": (o.drip(0.05), "slower than"),
    "chunks of nonsense": (o.bad_chunks, "127.0.0.1"),
}


@pytest.mark.parametrize(
    ("known", "case"),
    # a digest shows that bytes labelled gzip are the file's own
    [
        (known, case)
        for known in ("nothing", "digest")
        for case in LASTING
        if (known, case) != ("digest", "gzip")
    ],
)
async def test_a_lasting_fault_ends_and_leaves_no_name(
    origin: Origin, tmp_path: Path, case: str, known: str
) -> None:
    fault, said = LASTING[case]
    outcome = await one(origin, tmp_path, [], fault, known)
    assert outcome.status in (Status.FAILED, Status.PARKED)
    assert said in str(outcome.error)


async def test_416_that_states_no_length_does_not_hold_a_shorter_file_up_for_ever(
    origin: Origin, tmp_path: Path
) -> None:
    """RFC 9110 section 15.5.17: Content-Range SHOULD be sent with 416."""
    url = origin.add("f.tar", noise(900_000, 1), *[o.polite] * 5, always=o.reset)
    assert (await fetch_all([entry("f.tar", url)], tmp_path, settings=SETTINGS)).counts[Status.FAILED] == 1
    new = DATA[:100_000]

    async def shorter(exchange: Exchange, page: o.Page) -> None:
        if (span := exchange.span(900_000)) is not None and span[0] >= len(new):
            await exchange.answer(416, "")
        else:
            await exchange.serve(Blob(new), page.headers)

    origin.add("f.tar", new, always=shorter)
    assert (await fetch_all([entry("f.tar", url)], tmp_path, settings=SETTINGS)).ok
    assert (tmp_path / "f.tar").read_bytes() == new


async def test_416_for_what_is_larger_here_than_there_begins_anew(origin: Origin, tmp_path: Path) -> None:
    """The partial of an earlier run holds more than the server now has."""
    url = origin.add("f.tar", noise(900_000, 1), *[o.polite] * 5, always=o.reset)
    assert (await fetch_all([entry("f.tar", url)], tmp_path, settings=SETTINGS)).counts[Status.FAILED] == 1
    origin.add("f.tar", DATA[:100_000])
    assert (await fetch_all([entry("f.tar", url)], tmp_path, settings=SETTINGS)).ok
    assert (tmp_path / "f.tar").read_bytes() == DATA[:100_000]


def without_total(most: int, validator: dict[str, str]) -> o.Fault:
    """Reply as a relay that knows no length: `bytes 0-99/*`, `most` bytes at a time, 416 at the end."""

    async def fault(exchange: Exchange, page: o.Page) -> None:
        first, _, last = exchange.headers["range"].removeprefix("bytes=").partition("-")
        body = page.data[int(first) : min(int(last) + 1, int(first) + most)]
        if not body:
            await exchange.answer(416, "", {"Content-Range": "bytes */*"})
            return
        span = f"bytes {first}-{int(first) + len(body) - 1}/*"
        await exchange.head(206, {"Content-Range": span, "Content-Length": str(len(body)), **validator})
        await exchange.raw(body)

    return fault


@pytest.mark.parametrize("part_size", ["64KiB", "1MiB"])
@pytest.mark.parametrize("validator", [{"ETag": '"1"'}, {}])
async def test_a_server_that_states_the_total_of_no_range(
    origin: Origin, tmp_path: Path, part_size: str, validator: dict[str, str]
) -> None:
    url = origin.add("f.tar", DATA[:500_001], always=without_total(1 << 30, validator))
    settings = quick(limits={"part_size": part_size})
    report = await fetch_all([entry("f.tar", url)], tmp_path, settings=settings)
    assert report.ok, report.failures
    assert (tmp_path / "f.tar").read_bytes() == DATA[:500_001]


@pytest.mark.parametrize("most", [1, 2, 1000, 2048, 4095, 4096, 4097, 6000])
@pytest.mark.parametrize("validator", [{"ETag": '"1"'}, {}])
async def test_a_server_that_sends_few_bytes_at_a_time_ends_no_file(
    origin: Origin, tmp_path: Path, most: int, validator: dict[str, str]
) -> None:
    """A reply that repeats the overlap sample and no more looks like the end of the file."""
    data = DATA[: 20 * most + 7]
    url = origin.add("f.tar", data, always=without_total(most, validator))
    report = await fetch_all([entry("f.tar", url)], tmp_path, settings=SETTINGS)
    assert report.failures or (tmp_path / "f.tar").read_bytes() == data


@pytest.mark.parametrize("size", [20_000, 1_000_000])
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_an_unrequested_reply_is_never_taken_for_the_next_file(
    origin: Origin, tmp_path: Path, pause: float, size: int
) -> None:
    """A forged reply follows a correct one on a kept connection: at once, or 50 ms later."""
    forge = o.trailing(noise(size, 66), pause)
    sent = asyncio.Semaphore(0)

    async def forging(exchange: Exchange, page: o.Page) -> None:
        try:
            await forge(exchange, page)
        finally:
            sent.release()

    rows = []
    for n in range(8):
        name = f"f{n}.bin"
        rows.append(entry(name, origin.add(name, noise(size, n), forging)))

    async def slowly() -> AsyncIterator[Entry]:
        for row in rows:
            yield row
            await sent.acquire()  # forged bytes after the next request cannot be distinguished from its reply
            await asyncio.sleep(0.05)

    one_request_each = quick(limits={"per_host": 1, "part_size": "2MiB"})
    report = await fetch_all(slowly(), tmp_path, settings=one_request_each)
    assert report.ok, report.failures
    for n in range(8):
        assert (tmp_path / f"f{n}.bin").read_bytes() == noise(size, n)


async def test_a_body_without_end_ends_at_the_manifests_size(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f.bin", b"", always=o.endless)
    async with asyncio.timeout(30):
        report = await fetch_all([entry("f.bin", url, 5 << 20)], tmp_path, settings=SETTINGS)
    assert report.counts[Status.FAILED] == 1
    assert not (tmp_path / "f.bin").exists()


async def test_a_host_that_falls_silent_for_a_while_is_an_outage_and_not_a_thousand_failures(
    origin: Origin, tmp_path: Path
) -> None:
    down = asyncio.Event()
    seen: list[Event] = []
    began: list[int] = []

    async def sometimes(exchange: Exchange, page: o.Page) -> None:
        if down.is_set():
            await o.silent(exchange, page)
        await o.polite(exchange, page)

    def observe(event: Event) -> None:
        seen.append(event)
        if isinstance(event, events.Finished) and not began:
            began.append(1)
            down.set()
            asyncio.get_running_loop().call_later(3, down.clear)

    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(5000, n), always=sometimes)) for n in range(200)]
    patient = quick(timeouts={"head": 0.2, "connect": 0.2, "idle": 0.2}, limits={"per_host": 4})
    report = await fetch_all(rows, tmp_path, settings=patient, observer=observe)
    assert report.counts[Status.FETCHED] == 200, report.failures[:3]
    kinds = [type(event) for event in seen]
    assert events.HostDown in kinds
    assert kinds.count(events.HostBack) == 1, "once for each outage"
    assert report.notes == [], "no observer has failed"


async def test_content_that_changes_between_two_runs_is_never_mixed(origin: Origin, tmp_path: Path) -> None:
    """Cover a changed ETag, no ETag, and an equal weak one."""
    for n, (before, after) in enumerate([('"1"', '"2"'), (None, None), ('W/"1"', 'W/"1"')]):
        old, new = noise(1 << 20, 1), noise(1 << 20, 2)
        heads = [{"ETag": tag} if tag else {} for tag in (before, after)]
        folder = tmp_path / str(n)
        url = origin.add("f.bin", old, *[o.polite] * 5, always=o.reset, headers=heads[0])
        first = await fetch_all([entry("f.bin", url)], folder, settings=SETTINGS)
        assert first.counts[Status.FAILED] == 1
        origin.add("f.bin", new, headers=heads[1])
        assert (await fetch_all([entry("f.bin", url)], folder, settings=SETTINGS)).ok
        assert (folder / "f.bin").read_bytes() == new


async def test_a_new_manifest_with_rows_added_removed_and_renamed(origin: Origin, tmp_path: Path) -> None:
    urls = {n: origin.add(f"f{n}", noise(1000, n)) for n in range(6)}
    first = [entry(f"f{n}", urls[n]) for n in range(4)]
    assert (await fetch_all(first, tmp_path, settings=SETTINGS)).ok
    origin.requests.clear()
    second = [entry("f0", urls[0]), entry("g1", urls[1]), *(entry(f"f{n}", urls[n]) for n in (3, 4, 5))]
    report = await fetch_all(second, tmp_path, settings=SETTINGS)
    assert (report.counts[Status.PRESENT], report.counts[Status.FETCHED]) == (2, 3)
    assert origin.requests.total() == 3
    # Files that the manifest no longer lists are kept.
    names = ["f0", "f1", "f2", "f3", "f4", "f5", "g1"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == names


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 17) + b"\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_a_reply_that_is_not_valid_http_costs_its_file_and_says_nothing_of_the_host(
    origin: Origin, tmp_path: Path, reply: bytes
) -> None:
    async def raw(exchange: Exchange, _: o.Page) -> None:
        exchange.writer.write(reply)
        await exchange.writer.drain()
        exchange.writer.close()

    seen: list[events.Event] = []
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(5_000, n))) for n in range(20)]
    bad = entry("bad", origin.add("bad", b"hello", always=raw))
    report = await fetch_all([bad, *rows], tmp_path, settings=quick(), observer=seen.append)
    assert report.counts == {**dict.fromkeys(report.counts, 0), Status.FETCHED: 20, Status.FAILED: 1}
    assert "answered, but not with valid HTTP" in str(report.failures[0].error)
    assert not [each for each in seen if isinstance(each, events.HostDown)]
