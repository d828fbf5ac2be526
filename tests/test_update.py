"""Tests of `--update`: finished files are renewed if their source has changed, and never lost."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from osp_fetch import Entry, Report, Status, entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.engine.update import is_same
from osp_fetch.model.http import Representation, Validator
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, Page, noise, sha256
from tests.test_cli import QUICK, get, start

OLD_DATE, NEW_DATE = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
SETTINGS = quick()
SIZES = [1000, 300_000]


async def conditional(exchange: Exchange, page: Page) -> None:
    """Answer 304 as RFC 9110 section 13.2.2 states, else serve the page."""
    tags, since = exchange.headers.get("if-none-match"), exchange.headers.get("if-modified-since")
    same = tags == page.headers.get("ETag") if tags else since and since == page.headers.get("Last-Modified")
    if same:
        await exchange.head(304, page.headers)
    else:
        await o.polite(exchange, page)


def serve(origin: Origin, data: bytes, headers: dict[str, str], *, polite: bool = True) -> Entry:
    return entry("d/f", origin.add("f", data, always=conditional if polite else None, headers=headers))


async def update(row: Entry, folder: Path, **settings: dict[str, object]) -> Report:
    return await fetch_all([row], folder, settings=quick(**settings), update=True)


VALIDATORS = [
    ({"ETag": '"1"'}, {"ETag": '"2"'}),
    ({"ETag": 'W/"1"'}, {"ETag": 'W/"2"'}),
    ({"Last-Modified": OLD_DATE}, {"Last-Modified": NEW_DATE}),
    ({"ETag": '"1"', "Last-Modified": OLD_DATE}, {"ETag": '"2"', "Last-Modified": OLD_DATE}),
]


@pytest.mark.parametrize(("before", "after"), VALIDATORS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("polite", [True, False])
async def test_a_file_is_fetched_again_only_if_it_has_changed(
    origin: Origin, tmp_path: Path, before: dict[str, str], after: dict[str, str], size: int, polite: bool
) -> None:
    row, place = serve(origin, noise(size), before, polite=polite), tmp_path / "d/f"
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    seen = place.stat()
    origin.requests.clear()
    report = await update(row, tmp_path)
    assert (report.counts[Status.PRESENT], origin.requests.total()) == (1, 1)
    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns)

    serve(origin, noise(size, 1), after, polite=polite)
    assert (await fetch_all([row], tmp_path, settings=SETTINGS)).counts[Status.PRESENT] == 1
    report = await update(row, tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert report.bytes == size, "the reply to the question begins the file"
    assert place.read_bytes() == noise(size, 1)
    assert not (tmp_path / ".osp-fetch/replaced").exists()
    assert (await update(row, tmp_path)).counts[Status.PRESENT] == 1
    assert (await fetch_all([row], tmp_path, settings=SETTINGS, recheck=True)).ok


@pytest.mark.parametrize("headers", [{}, {"ETag": '"1"'}, {"Last-Modified": OLD_DATE}])
@pytest.mark.parametrize("size", [0, None])
@pytest.mark.parametrize("polite", [True, False])
async def test_an_empty_file_is_not_fetched_again(
    origin: Origin, tmp_path: Path, headers: dict[str, str], size: int | None, polite: bool
) -> None:
    row = replace(serve(origin, b"", headers, polite=polite), size=size)
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    seen = (tmp_path / "d/f").stat()
    assert (await update(row, tmp_path)).counts[Status.PRESENT] == 1
    assert (tmp_path / "d/f").stat().st_ino == seen.st_ino
    row = serve(origin, noise(1000), {"ETag": '"2"'}, polite=polite)
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    assert (tmp_path / "d/f").read_bytes() == noise(1000)


async def test_workers_ask_too(origin: Origin, tmp_path: Path) -> None:
    row = serve(origin, noise(5000), {"ETag": '"1"'})
    assert (await update(row, tmp_path, limits={"processes": 2})).counts[Status.FETCHED] == 1
    assert (await update(row, tmp_path, limits={"processes": 2})).counts[Status.PRESENT] == 1
    serve(origin, noise(5000, 1), {"ETag": '"2"'})
    assert (await update(row, tmp_path, limits={"processes": 2})).counts[Status.FETCHED] == 1
    assert (tmp_path / "d/f").read_bytes() == noise(5000, 1)


async def test_a_server_without_validators_is_asked_for_the_file(origin: Origin, tmp_path: Path) -> None:
    row = serve(origin, noise(5000), {})
    await update(row, tmp_path)
    serve(origin, noise(5000, 1), {})
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    assert (tmp_path / "d/f").read_bytes() == noise(5000, 1)


async def test_a_file_whose_digest_the_manifest_states_is_not_asked_for(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("f", noise(1000), headers={"ETag": '"1"'})
    row = entry("d/f", url, None, sha256(noise(1000)))
    await update(row, tmp_path)
    report = await update(row, tmp_path)
    assert (report.counts[Status.PRESENT], origin.requests.total()) == (1, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (o.status(404), Status.FAILED),
        (o.status(503), Status.FAILED),
        (o.reset, Status.FAILED),
        (o.instead("<html><title>Sign in</title>"), Status.FAILED),
        (o.status(403, "URL signature expired"), Status.PARKED),
    ],
)
async def test_a_source_that_cannot_be_asked_costs_nothing(
    origin: Origin, tmp_path: Path, fault: o.Fault, status: Status, size: int
) -> None:
    row, place = serve(origin, noise(size), {"ETag": '"1"'}), tmp_path / "d/f"
    await update(row, tmp_path)
    seen = place.stat()
    origin.pages["/f"].always = fault
    report = await update(row, tmp_path)
    (failure,) = report.failures
    assert failure.status is status
    assert "d/f is kept as an earlier run fetched it" in str(failure.error)
    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns)
    asked = origin.requests.total()
    assert (await fetch_all([row], tmp_path, settings=SETTINGS)).counts[Status.PRESENT] == 1
    assert origin.requests.total() == asked


async def test_a_host_that_is_down_costs_nothing(origin: Origin, tmp_path: Path) -> None:
    row = serve(origin, noise(1000), {"ETag": '"1"'})
    await update(row, tmp_path)
    origin.server._server.close()
    for exchange in origin.seen:
        exchange.writer.transport.abort()
    report = await update(row, tmp_path)
    assert "is kept" in str(report.failures[0].error)
    assert (await fetch_all([row], tmp_path, settings=SETTINGS)).counts[Status.PRESENT] == 1


async def test_the_old_file_stays_until_the_new_one_is_whole(origin: Origin, tmp_path: Path) -> None:
    old = noise(6 << 20)
    new = old[: 2 << 20] + b"!" + old[(2 << 20) + 1 :]  # samples would not find the one byte
    url = origin.add("f.bin", old, headers={"ETag": '"1"'})
    words = ["get", url, "-o", "out", "--update", *QUICK]
    assert (await get(*words, cwd=tmp_path))[0] == 0
    place, state = tmp_path / "out/f.bin", tmp_path / "out/.osp-fetch"
    origin.add("f.bin", new, always=o.slow(2 << 20), headers={"ETag": '"2"'})
    process = await start(*words, cwd=tmp_path)
    while not list((state / "claims").glob("*")):
        assert place.read_bytes() == old
        await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    assert place.read_bytes() == old
    _, status, _ = await get("status", "out", cwd=tmp_path)
    assert "of an earlier version, until the newer one is whole: 1 file\n" in status
    _, plan, _ = await get("plan", url, "-o", "out", cwd=tmp_path)
    assert "written by another program" not in plan
    origin.pages["/f.bin"].always = None
    code, _, said = await get("get", url, "-o", "out", *QUICK, cwd=tmp_path)
    assert (code, "1 fetched" in said) == (0, True), "a begun update is continued, with or without the flag"
    assert place.read_bytes() == new
    assert not (state / "replaced").exists()
    assert (await get("verify", "out", cwd=tmp_path))[0] == 0


async def test_kills_at_any_time_leave_the_old_file_or_the_new_one(origin: Origin, tmp_path: Path) -> None:
    versions = [noise(2 << 20, n) for n in range(5)]
    for n, data in enumerate(versions):
        # the same time and length: only the tag shows that the file has changed
        headers = {"ETag": f'"{n}"', "Last-Modified": OLD_DATE}
        url = origin.add("f.bin", data, always=o.slow(8 << 20), headers=headers)
        words = ["get", url, "-o", "out", "--update", *QUICK]
        if n:
            process = await start(*words, cwd=tmp_path)
            asked = origin.requests.total()
            while origin.requests.total() == asked:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1 * n)
            with suppress(ProcessLookupError):  # it was faster
                process.kill()
            await process.communicate()
            assert (tmp_path / "out/f.bin").read_bytes() in versions[n - 1 : n + 1]
        assert (await get(*words, cwd=tmp_path))[0] == 0
        assert (tmp_path / "out/f.bin").read_bytes() == data
        code, _, said = await get("verify", "out", cwd=tmp_path)
        assert code == 0, said
    assert not (tmp_path / "out/.osp-fetch/replaced").exists()


async def test_a_file_that_the_user_changed_is_kept_elsewhere(origin: Origin, tmp_path: Path) -> None:
    row, place = serve(origin, noise(1000), {"ETag": '"1"'}), tmp_path / "d/f"
    await update(row, tmp_path)
    place.write_bytes(b"mine")
    report = await update(row, tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert place.read_bytes() == noise(1000)
    assert (tmp_path / ".osp-fetch/replaced/d/f").read_bytes() == b"mine"


async def test_with_recheck_a_file_that_has_not_changed_is_read(origin: Origin, tmp_path: Path) -> None:
    row, place = serve(origin, noise(1000), {"ETag": '"1"'}), tmp_path / "d/f"
    await update(row, tmp_path)
    seen = place.stat()
    place.write_bytes(noise(1000, 5))
    os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    report = await fetch_all([row], tmp_path, settings=SETTINGS, update=True, recheck=True)
    assert report.counts[Status.FETCHED] == 1
    assert place.read_bytes() == noise(1000)


async def test_an_archive_that_was_unpacked_and_deleted_is_not_fetched(
    origin: Origin, tmp_path: Path
) -> None:
    from osp_fetch.demo import media

    url = origin.add("a.tar", media.sa1b_tar(1, 50_000), headers={"ETag": '"1"'})
    words = ["get", url, "-o", "out", "--unpack", "--delete-after", "--update", *QUICK]
    assert (await get(*words, cwd=tmp_path))[0] == 0
    asked = origin.requests.total()
    code, _, said = await get(*words, cwd=tmp_path)
    assert (code, "1 present" in said, origin.requests.total()) == (0, True, asked), said


async def test_after_a_change_of_the_link_its_validator_is_not_used(origin: Origin, tmp_path: Path) -> None:
    await update(serve(origin, noise(1000), {"ETag": '"1"'}), tmp_path)
    other = entry("d/f", origin.add("g", noise(1000, 1), always=conditional, headers={"ETag": '"1"'}))
    assert (await update(other, tmp_path)).counts[Status.FETCHED] == 1
    assert (tmp_path / "d/f").read_bytes() == noise(1000, 1)
    assert not any("if-none-match" in exchange.headers for exchange in origin.seen)


@pytest.mark.parametrize("changed", [False, True])
async def test_the_mirror_that_the_bytes_came_from_is_asked(
    origin: Origin, tmp_path: Path, changed: bool
) -> None:
    good = origin.add("good", noise(300_000), always=conditional, headers={"ETag": '"1"'})
    row = entry("f", [f"{origin.url}/absent", good])
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    if changed:
        origin.add("good", noise(300_000, 1), always=conditional, headers={"ETag": '"2"'})
    origin.requests.clear()
    report = await update(row, tmp_path)
    assert report.counts[Status.FETCHED if changed else Status.PRESENT] == 1
    assert changed or origin.requests == {"/good": 1}
    assert (tmp_path / "f").read_bytes() == noise(300_000, int(changed))


@pytest.mark.parametrize(
    ("known", "found", "length", "expected"),
    [
        (Validator('"1"'), Validator('"1"'), 10, True),
        (Validator('"1"'), Validator('"1"'), 11, False),
        (Validator('"1"', OLD_DATE), Validator(None, OLD_DATE), 10, True),
        (Validator('"1"', OLD_DATE), Validator('"2"', OLD_DATE), 10, False),
        (Validator('"1"'), Validator(None, OLD_DATE), 10, False),
        (Validator(), Validator(), 10, False),
        (Validator(None, OLD_DATE), Validator(None, OLD_DATE), None, True),
    ],
)
def test_validators_decide_for_servers_that_ignore_conditions(
    known: Validator, found: Validator, length: int | None, expected: bool
) -> None:
    assert is_same(known, 10, Representation("http://h/f", length, found)) is expected


@pytest.mark.parametrize("before", [b"", b"old content"])
async def test_a_file_without_a_byte_is_updated_although_no_range_of_it_can_be_sent(
    origin: Origin, tmp_path: Path, before: bytes
) -> None:
    async def refuses_ranges(exchange: Exchange, page: Page) -> None:
        if "range" in exchange.headers and not page.data:
            await exchange.answer(416, "", {"Content-Range": "bytes */0"})
        else:
            await o.polite(exchange, page)

    row = entry("d/f", origin.add("f", before, always=refuses_ranges))
    assert (await update(row, tmp_path)).counts[Status.FETCHED] == 1
    origin.add("f", b"", always=refuses_ranges)
    asked = sum(origin.requests.values())
    report = await update(row, tmp_path)
    assert report.ok, report.failures
    assert report.counts[Status.FETCHED if before else Status.PRESENT] == 1
    assert (tmp_path / "d/f").read_bytes() == b""
    assert sum(origin.requests.values()) - asked <= 2


async def test_a_source_that_went_back_to_an_older_file_is_seen(origin: Origin, tmp_path: Path) -> None:
    times = ["Wed, 02 Sep 2026 10:00:00 GMT", "Tue, 01 Sep 2026 10:00:00 GMT"]
    versions = [noise(5000, 1), noise(7000, 2)]
    now = [0]

    async def by_time(exchange: Exchange, page: Page) -> None:
        since, at = exchange.headers.get("if-modified-since"), now[-1]
        if since and times.index(since) <= at:  # as RFC 9110 has it: not modified since then
            await exchange.answer(304, "", {})
        else:
            await exchange.serve(Blob(versions[at]), {"Last-Modified": times[at]})

    url = origin.add("f", b"", always=by_time)
    for at, data in enumerate(versions):
        now.append(at)
        report = await fetch_all([entry("f", url)], tmp_path, settings=quick(), update=True)
        assert report.counts[Status.FETCHED] == 1
        assert (tmp_path / "f").read_bytes() == data
    report = await fetch_all([entry("f", url)], tmp_path, settings=quick(), update=True)
    assert report.counts[Status.PRESENT] == 1
