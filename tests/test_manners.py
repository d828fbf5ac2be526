"""Tests of hosts with limits of their own: wide ranges, 403 without a reason, odd ranges and redirects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from osp_fetch import entry, fetch_all
from osp_fetch.connections.manners import Manners
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, Page, noise, serving
from tests.test_cli import QUICK, get

DATA = noise(900_000)


def test_ranges_of_a_file_are_made_narrower_until_one_is_taken() -> None:
    manners = Manners()
    widths = []
    width = 8 << 20
    while width > 1 << 20 and manners.narrow(7, width):
        width = manners.width(7) or 0
        widths.append(width)
    assert widths == [2 << 20, 512 << 10]
    assert (manners.width(8), manners.took(8, 8 << 20)) == (None, False)  # other files are not concerned
    assert manners.took(7, 512 << 10)
    assert (manners.widest, manners.width(8)) == (512 << 10, 512 << 10)
    assert not manners.took(7, 512 << 10)


def test_a_file_that_is_refused_at_any_width_is_refused_for_another_reason() -> None:
    manners, width = Manners(), 8 << 20
    tries = 0
    while manners.narrow(7, width):
        tries += 1
        width = (manners.width(7) or 0) + 4096  # a sample for comparison makes a request wider
    assert (tries <= 6, manners.widest, manners.width(7)) == (True, None, None)


def test_a_403_is_a_limit_where_files_are_served_after_it() -> None:
    manners = Manners()
    assert manners.forbade(1, 10.0) == (False, False)  # the host has served nothing
    manners.served(9, 11.0)
    assert manners.forbade(1, 12.0) == (True, False)
    assert manners.forbade(2, 12.1) == (True, True)  # nothing was served since
    manners.served(1, 13.0)
    for number in range(20):
        assert manners.forbade(2, 14.0 + number)[0]  # with full patience, which the retry counts
    assert manners.forbade(2, 120.0) == (False, False)  # it has served nothing for a minute


def test_a_403_that_never_passes_costs_few_attempts() -> None:
    manners, asked = Manners(), []
    manners.served(0, 10.0)
    for file in range(1, 30):
        asked.append(1)
        while manners.forbade(file, 11.0)[0]:
            manners.served(0, 11.0)
            asked[-1] += 1
    assert asked == [4] * 10 + [2] * 19


@pytest.mark.parametrize("status", [400, 413, 416, 501])
async def test_a_host_that_refuses_wide_ranges_is_asked_for_smaller_ones(
    origin: Origin, tmp_path: Path, status: int
) -> None:
    most = 200_000

    async def answer(exchange: Exchange, page: Page) -> None:
        span = exchange.span(len(page.data))
        if span is not None and span[1] - span[0] > most:
            await exchange.answer(status, "range too wide", {"Content-Range": f"bytes */{len(page.data)}"})
        else:
            await exchange.serve(Blob(page.data))

    (tmp_path / "m.jsonl").write_text(json.dumps({"url": origin.add("a.bin", DATA, always=answer)}))
    words = ["get", "m.jsonl", "--profiles", "profiles.json", *QUICK, "-k", "auto"]
    code, _, said = await get(*words, "-o", "one", cwd=tmp_path)
    assert code == 0, said
    assert (code, (tmp_path / "one/a.bin").read_bytes() == DATA) == (0, True), said
    (profile,) = json.loads((tmp_path / "profiles.json").read_text())["hosts"].values()
    assert profile["widest"] == 128 << 10
    before = len(origin.seen)
    code, _, said = await get(*words, "-o", "two", cwd=tmp_path)
    assert (code, (tmp_path / "two/a.bin").read_bytes() == DATA) == (0, True), said
    assert all(span is None or span[1] - span[0] <= most for span in
               [each.span(len(DATA)) for each in origin.seen[before:]])  # fmt: skip


async def test_a_403_without_a_reason_is_a_limit_where_the_host_serves_files(
    origin: Origin, tmp_path: Path
) -> None:
    links = [origin.add(f"{n}.bin", noise(1000, n)) for n in range(5)]
    links.append(origin.add("last.bin", DATA, *[o.status(403, "<h1>403 Forbidden</h1>")] * 3))
    rows = [entry(link.rpartition("/")[2], link) for link in links]
    report = await fetch_all(rows, tmp_path, settings=quick(limits={"connections": 1}))
    assert report.ok, report.failures


async def test_a_403_is_final_for_a_host_that_serves_nothing_and_where_a_reason_is_given(
    origin: Origin, tmp_path: Path
) -> None:
    link = origin.add("a.bin", DATA, always=o.status(403, "<h1>403 Forbidden</h1>"))
    assert not (await fetch_all([entry("a.bin", link)], tmp_path, settings=quick())).ok
    assert origin.requests["/a.bin"] == 1
    rows = [entry("good.bin", origin.add("good.bin", noise(1000)))]
    rows.append(entry("b.bin", origin.add("b.bin", DATA, always=o.status(403, "<Code>AccessDenied</Code>"))))
    report = await fetch_all(rows, tmp_path, settings=quick(limits={"connections": 1}))
    assert [failure.path for failure in report.failures] == ["b.bin"]
    assert origin.requests["/b.bin"] == 1


async def test_a_403_that_stays_fails_after_the_patience(origin: Origin, tmp_path: Path) -> None:
    rows = [entry("good.bin", origin.add("good.bin", noise(1000)))]
    rows.append(entry("b.bin", origin.add("b.bin", DATA, always=o.status(403, "Forbidden"))))
    report = await fetch_all(rows, tmp_path, settings=quick(limits={"connections": 1}))
    assert [failure.path for failure in report.failures] == ["b.bin"]
    assert origin.requests["/b.bin"] == 5  # retry.attempts


# ranges


def early(before: int, *, total: bool = True) -> o.Fault:
    """Answer a range with one that begins `before` bytes too early."""

    async def answer(exchange: Exchange, page: Page) -> None:
        try:
            span = exchange.span(len(page.data))
        except ValueError:
            await exchange.answer(416, b"", {"Content-Range": "bytes */*"})
            return
        if span is None:
            await exchange.serve(Blob(page.data))
            return
        start, stop = max(0, span[0] - before), min(span[1], len(page.data))
        whole = str(len(page.data)) if total else "*"
        fields = {"Content-Range": f"bytes {start}-{stop - 1}/{whole}", "ETag": '"one"'}
        await exchange.answer(206, page.data[start:stop], fields)

    return answer


@pytest.mark.parametrize("before", [1, 512, 100_000])
async def test_a_range_that_begins_too_early_is_used_from_its_overlap(
    origin: Origin, tmp_path: Path, before: int
) -> None:
    row = entry("a.bin", origin.add("a.bin", DATA, always=early(before)))
    report = await fetch_all([row], tmp_path, settings=quick())
    assert report.ok, report.failures
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("size", [None, len(DATA)])
async def test_a_range_without_a_total_is_taken_and_the_end_found(
    origin: Origin, tmp_path: Path, size: int | None
) -> None:
    for length in (1, 65_536, 65_537, len(DATA)):
        data = DATA[:length]
        name = f"{length}.bin"
        row = entry(name, origin.add(name, data, always=early(0, total=False)), size and length)
        report = await fetch_all([row], tmp_path, settings=quick())
        assert report.ok, report.failures
        assert (tmp_path / name).read_bytes() == data


# redirects


async def test_a_location_is_encoded_as_a_browser_does(origin: Origin, tmp_path: Path) -> None:
    origin.add("a b/사.bin", DATA)
    for number, location in enumerate(["/a b/사.bin", "/a%20b/%EC%82%AC.bin", " /a b/사.bin "]):

        async def lead(exchange: Exchange, page: Page, to: str = location) -> None:
            head = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
            exchange.writer.write(head.encode())

        row = entry(f"{number}.bin", origin.add(f"{number}", b"", always=lead))
        report = await fetch_all([row], tmp_path, settings=quick())
        assert report.ok, report.failures
        assert (tmp_path / f"{number}.bin").read_bytes() == DATA


def gate(cookie: str) -> o.Fault:
    """Set a cookie in a redirect to the same link, and serve the file only with it."""

    async def answer(exchange: Exchange, page: Page) -> None:
        if cookie in exchange.headers.get("cookie", "").split("; "):
            await exchange.serve(Blob(page.data))
        else:
            fields = {"Location": exchange.target, "Set-Cookie": f"{cookie}; Path=/; HttpOnly"}
            await exchange.answer(302, b"", fields)

    return answer


@pytest.mark.parametrize("size", [5000, len(DATA)])
async def test_a_cookie_of_a_redirect_goes_back_to_its_origin(
    origin: Origin, tmp_path: Path, size: int
) -> None:
    data = DATA[:size]
    url = origin.add("a.bin", data, always=gate("seen=1"))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    headers = {"Cookie": "own=2"}
    report = await fetch_all(
        [entry("a.bin", url, digest=digest, headers=headers)], tmp_path, settings=quick()
    )
    assert report.ok, report.failures
    served = [each.headers["cookie"] for each in origin.seen if "seen=1" in each.headers.get("cookie", "")]
    assert set(served) == {"own=2; seen=1"}


async def test_a_cookie_goes_nowhere_else(origin: Origin, tmp_path: Path) -> None:
    async with serving() as other:
        there = other.add("b.bin", DATA)

        async def away(exchange: Exchange, page: Page) -> None:
            await exchange.answer(302, b"", {"Location": there, "Set-Cookie": "secret=1"})

        rows = [
            entry(
                "b.bin", origin.add("a.bin", b"", always=away), headers={"User-Agent": "mine/1", "X-Key": "k"}
            )
        ]
        rows.append(entry("c.bin", origin.add("c.bin", DATA)))
        report = await fetch_all(rows, tmp_path, settings=quick(limits={"connections": 1}))
        assert report.ok, report.failures
        assert not any("cookie" in each.headers for each in [*other.seen, *origin.seen])
        assert {each.headers["user-agent"] for each in other.seen} == {"mine/1"}  # credentials are dropped
        assert not any("x-key" in each.headers for each in other.seen)


async def test_the_client_says_what_it_is(origin: Origin, tmp_path: Path) -> None:
    seen: list[object] = []
    report = await fetch_all(
        [entry("a.bin", origin.add("a.bin", DATA))], tmp_path, settings=quick(), observer=seen.append
    )
    assert report.ok
    assert not any(isinstance(event, events.WidthLearned) for event in seen)
    assert all("+https://" in each.headers["user-agent"] for each in origin.seen)
