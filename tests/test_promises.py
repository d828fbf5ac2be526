"""Regression tests: each case once published a wrong file, hung, or lost held bytes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from osp_fetch import Entry, Event, RelativePath, Report, Status, entry, fetch_all
from osp_fetch.demo.server import Blob, Cut, Exchange
from osp_fetch.inspection.verify import repair_files, verify_folder
from osp_fetch.model import events
from osp_fetch.model.errors import ManifestError, StorageError
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, sha256

QUICK = quick()


async def get(row: Entry, folder: Path, **sections: dict[str, object]) -> Report:
    return await fetch_all([row], folder, settings=quick(**sections))


@pytest.mark.parametrize("digest", [True, False])
async def test_the_tail_of_an_older_partial_is_never_published(
    origin: Origin, tmp_path: Path, digest: bool
) -> None:
    stale = tmp_path / ".osp-fetch/partial/f"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(noise(500_000, 9))
    data = noise(100_000)
    report = await get(entry("f", origin.add("f", data), None, sha256(data) if digest else None), tmp_path)
    assert report.ok
    assert (tmp_path / "f").read_bytes() == data


async def test_what_a_published_file_held_is_not_held_of_its_successor(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(300_000)
    row = entry("f", origin.add("f", data))
    await get(row, tmp_path)
    (tmp_path / "f").unlink()
    # The state after a kill before the first record: bytes at the end only, and the old record.
    with (tmp_path / ".osp-fetch/partial/f").open("wb") as file:
        file.seek(200_000)
        file.write(data[200_000:])
    assert (await get(row, tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.parametrize("fault", [o.chunked, o.until_close, o.until_close_short(1000)])
@pytest.mark.parametrize("stated", [299_999, 1000, 400_000])
async def test_the_manifests_size_is_a_promise_also_where_no_length_is_stated(
    origin: Origin, tmp_path: Path, fault: o.Fault, stated: int
) -> None:
    data = noise(300_000)
    report = await get(entry("f", origin.add("f", data, always=fault), stated), tmp_path)
    assert (report.counts[Status.FAILED], (tmp_path / "f").exists()) in ((1, False), (0, True))
    assert not (tmp_path / "f").exists() or (tmp_path / "f").stat().st_size == stated


async def test_a_chunked_body_that_is_cut_and_then_answered_by_416_is_not_half_a_file(
    origin: Origin, tmp_path: Path
) -> None:
    async def cut_chunked(exchange: Exchange, page: o.Page) -> None:
        await exchange.head(200, {"Transfer-Encoding": "chunked"})
        await exchange.raw(b"%x\r\n%s\r\n" % (100_000, page.data[:100_000]))
        raise Cut

    data = noise(300_000)
    await get(entry("f", origin.add("f", data, cut_chunked, o.status(416), o.rangeless)), tmp_path)
    assert not (tmp_path / "f").exists() or (tmp_path / "f").read_bytes() == data


@pytest.mark.parametrize("before", [{"ETag": '"1"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}])
@pytest.mark.parametrize("after", [{}, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}])
async def test_versions_are_never_mixed_when_validators_come_and_go(
    origin: Origin, tmp_path: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    old, new = noise(1 << 20, 1), noise(1 << 20, 2)
    url = origin.add("f", old, headers=before)
    work: asyncio.Task[Report]

    def observe(event: Event) -> None:
        if isinstance(event, events.Wrote) and event.count:
            asyncio.get_running_loop().call_later(0.02, work.cancel)

    settings = quick(limits={"per_host": 2, "rate": 1_500_000})
    work = asyncio.create_task(fetch_all([entry("f", url)], tmp_path, settings=settings, observer=observe))
    await asyncio.wait({work})
    assert not (tmp_path / "f").exists()
    origin.add("f", new, headers=after)
    assert (await get(entry("f", url), tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == new


@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"\xe9"'}, {"Last-Modified": "\xff"}, {"Content-Range": "bytes 0-999/9999999999999999999"},
     {"Retry-After": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, {"RateLimit": '"x";r=0;t=999999'}],
)  # fmt: skip
async def test_no_header_hangs_or_ends_a_run(origin: Origin, tmp_path: Path, headers: dict[str, str]) -> None:
    async def odd(exchange: Exchange, page: o.Page) -> None:
        partial = "Content-Range" in headers
        await exchange.head(206 if partial else 200, {"Content-Length": str(len(page.data)), **headers})
        await exchange.raw(page.data)

    rows = [
        entry("odd", origin.add("odd", noise(1000), always=odd)),
        entry("f", origin.add("f", noise(1000, 1))),
    ]
    async with asyncio.timeout(30):
        report = await fetch_all(rows, tmp_path, settings=quick(retry={"retry_after": 0.1}))
    assert sum(report.counts.values()) == 2
    assert (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "url",
    ["http://[::1/x", "http://[::1/x?a=1", "http://h:99999/x", "http://h:abc/x", "http://@/x", "http://xn--a/ü",
     "http://℀.invalid/x"],
)  # fmt: skip
async def test_an_odd_url_costs_its_row_not_the_run(origin: Origin, tmp_path: Path, url: str) -> None:
    rows: list[Entry | ManifestError] = [entry("f", origin.add("f", noise(10)))]
    try:
        rows.insert(0, entry("odd", url))
    except ManifestError as error:
        rows.insert(0, error)
    report = await fetch_all(rows, tmp_path, settings=quick(retry={"attempts": 1}))
    assert (report.counts[Status.FAILED], report.counts[Status.FETCHED]) == (1, 1)


@pytest.mark.parametrize("target", ["http://h:99999/", "//h:99999/x", "http://[::1]:abc/", "http://xn--a/ü"])
async def test_an_odd_redirect_costs_its_row_not_the_run(origin: Origin, tmp_path: Path, target: str) -> None:
    async def away(exchange: Exchange, page: o.Page) -> None:
        await exchange.raw(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + target.encode() + b"\r\n\r\n"
        )

    rows = [entry("odd", origin.add("odd", b"", always=away)), entry("f", origin.add("f", noise(10)))]
    report = await fetch_all(rows, tmp_path, settings=quick(retry={"attempts": 1}))
    assert (report.counts[Status.FAILED], report.counts[Status.FETCHED]) == (1, 1)


async def test_a_reader_of_the_ledger_costs_a_run_nothing(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(10, n))) for n in range(20)]
    await fetch_all(rows, tmp_path, settings=QUICK)
    reader = sqlite3.connect(tmp_path / ".osp-fetch/ledger.sqlite3")
    rows_read = reader.execute("SELECT * FROM files")
    rows_read.fetchone()
    report = await fetch_all(rows, tmp_path, settings=QUICK)
    reader.close()
    assert report.counts[Status.PRESENT] == 20


async def test_other_shards_files_are_here_too(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(1000, n)), 1000) for n in range(12)]
    for index in range(2):
        await fetch_all(rows, tmp_path, settings=QUICK, shard=(index, 2))
    assert origin.requests.total() == 12
    for index in range(3):
        assert (await fetch_all(rows, tmp_path, settings=QUICK, shard=(index, 3))).counts[Status.FETCHED] == 0
    assert (await fetch_all(rows, tmp_path, settings=QUICK)).counts[Status.PRESENT] == 12
    assert origin.requests.total() == 12


async def test_what_is_no_row_fails_as_one(tmp_path: Path, origin: Origin) -> None:
    url = origin.add("a.tar", noise(10))
    rows = [url, {"path": "b", "url": url}, {"pth": "c"}, 7, ("d", url)]
    report = await fetch_all(iter(rows), tmp_path, settings=QUICK)  # type: ignore[arg-type]
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (2, 3)


@pytest.mark.parametrize("path", ["../f", "/tmp/f", ".osp-fetch/f", "a/../../f", ""])
async def test_an_entry_made_by_hand_cannot_leave_the_folder(
    origin: Origin, tmp_path: Path, path: str
) -> None:
    row = Entry(RelativePath(path), (origin.add("f", noise(10)),))
    report = await get(row, tmp_path / "deep/out")
    assert report.counts[Status.FAILED] == 1
    assert [p for p in tmp_path.rglob("f") if p.is_file()] == []


async def test_folders_of_an_older_manifest_are_not_in_the_way(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(100))
    assert (await get(entry("x/y/f", url), tmp_path)).ok
    (tmp_path / "x/y/f").unlink()
    (tmp_path / "x/y").rmdir()
    (tmp_path / "x").rmdir()
    assert (await get(entry("x", url), tmp_path)).ok


async def test_wrong_bytes_of_one_mirror_are_replaced_from_the_others(origin: Origin, tmp_path: Path) -> None:
    data = noise(300_000)
    urls = [origin.add("good", data), origin.add("bad", noise(300_000, 5))]
    for order in (urls, urls[::-1]):
        report = await get(entry(f"f{order[0][-4:]}", order, None, sha256(data)), tmp_path)
        assert report.ok, report.failures


async def test_one_complete_answer_to_a_range_does_not_cost_what_is_held(
    origin: Origin, tmp_path: Path
) -> None:
    data = noise(2 << 20)
    lost = []

    def observe(event: Event) -> None:
        if isinstance(event, events.Lost):
            lost.append(event)

    url = origin.add("f", data, *[o.polite] * 10, o.rangeless)
    settings = quick(limits={"per_host": 1})
    report = await fetch_all([entry("f", url)], tmp_path, settings=settings, observer=observe)
    assert report.ok
    assert lost == []


async def test_what_came_before_a_cut_is_not_asked_for_again(origin: Origin, tmp_path: Path) -> None:
    """This includes bytes that were too few to be written before the cut."""
    data = noise(1 << 20)
    url = origin.add("f", data, o.cut(500_000), headers={"ETag": '"1"'})
    assert (await get(entry("f", url), tmp_path, limits={"part_size": "4MiB"})).ok
    assert (tmp_path / "f").read_bytes() == data
    asked = [exchange.headers.get("range", "") for exchange in origin.seen]
    assert len(asked) == 2
    assert int(asked[1].removeprefix("bytes=").partition("-")[0]) > 100_000


async def test_a_slow_connection_at_the_end_is_hedged(origin: Origin, tmp_path: Path) -> None:
    """One connection hangs in its last part: idle ones fetch that part again, and the run does not wait."""
    data = noise(1 << 20)
    hung = 0

    async def sometimes(exchange: Exchange, page: o.Page) -> None:
        nonlocal hung
        start, stop = exchange.span(len(page.data)) or (0, len(page.data))
        if start >= 512 << 10 and not hung:
            hung = 1
            await exchange.head(
                206,
                {
                    "Content-Range": f"bytes {start}-{stop - 1}/{len(page.data)}",
                    "Content-Length": str(stop - start),
                },
            )
            await exchange.raw(page.data[start : start + 100])
            await asyncio.sleep(3600)
        await exchange.serve(Blob(page.data), page.headers)

    url = origin.add("f", data, always=sometimes, headers={"ETag": '"1"'})
    begun = time.monotonic()
    report = await get(entry("f", url), tmp_path, timeouts={"idle": 60}, limits={"per_host": 4})
    assert report.ok
    assert hung
    assert (tmp_path / "f").read_bytes() == data
    assert time.monotonic() - begun < 30  # without a hedge the stalled connection would cost 60 s


async def test_no_descriptor_is_left_open(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(200_000, n), o.cut(1000))) for n in range(10)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(3):
        work = asyncio.create_task(fetch_all(rows, tmp_path / str(n), settings=QUICK))
        await asyncio.sleep(0.05 * n)
        work.cancel()
        await asyncio.wait({work})
    await asyncio.sleep(0.1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2 * origin.open + 30


async def test_mirrors_that_differ_are_never_mixed(origin: Origin, tmp_path: Path) -> None:
    """There is no digest; the first mirror loses one part, and the second holds other bytes."""
    first, second = noise(1 << 20, 1), noise(1 << 20, 2)

    async def hole(exchange: Exchange, page: o.Page) -> None:
        start, _ = exchange.span(len(page.data)) or (0, 0)
        if start == 192 << 10:
            await exchange.answer(404, "gone")
        else:
            await exchange.serve(Blob(page.data), page.headers, rate=1e6)

    for tags in ({}, {"ETag": '"a"'}):
        async with o.serving() as other:
            urls = [origin.add("f", first, always=hole, headers=tags), other.add("f", second, headers=tags)]
            folder = tmp_path / str(len(tags))
            assert (await get(entry("f", urls), folder, limits={"per_host": 4})).ok
            assert (folder / "f").read_bytes() == second


async def test_a_silent_mirror_costs_nothing_where_another_answers(origin: Origin, tmp_path: Path) -> None:
    data = noise(1 << 20)
    row = entry("f", ["http://127.0.0.1:9/f", origin.add("f", data)], None, sha256(data))
    report = await get(row, tmp_path)
    assert report.ok, report.failures


@pytest.mark.parametrize("wreck", [b"", b"no database" * 1000])
async def test_another_shards_broken_ledger_costs_nothing(
    origin: Origin, tmp_path: Path, wreck: bytes
) -> None:
    other = tmp_path / ".osp-fetch/shards/0-of-2"
    other.mkdir(parents=True)
    (other / "ledger.sqlite3").write_bytes(wreck)
    assert (await get(entry("f", origin.add("f", noise(10))), tmp_path)).ok


# Cases found by the third review.


async def cut_unframed(exchange: Exchange, page: o.Page) -> None:
    """Send a coding without framing, and close the connection early."""
    await exchange.head(200, {"Transfer-Encoding": "identity", "Connection": "close"})
    await exchange.raw(page.data[:30_000])
    exchange.keep_alive = False


async def whole_in_a_range(exchange: Exchange, page: o.Page) -> None:
    """Send a correct Content-Range, and then the complete file in chunks."""
    start, stop = exchange.span(len(page.data)) or (0, len(page.data))
    if start == 0:
        await o.polite(exchange, page)
        return
    total = f"bytes {start}-{stop - 1}/{len(page.data)}"
    await exchange.head(206, {"ETag": '"1"', "Content-Range": total, "Transfer-Encoding": "chunked"})
    for at in range(0, len(page.data), 8192):
        piece = page.data[at : at + 8192]
        await exchange.raw(b"%x\r\n%s\r\n" % (len(piece), piece))
        await asyncio.sleep(0.002)
    await exchange.raw(b"0\r\n\r\n")


async def empty(exchange: Exchange, page: o.Page) -> None:
    await exchange.answer(200, b"")


async def star(exchange: Exchange, page: o.Page) -> None:
    """Send ranges whose Content-Range has no total (`*`)."""
    await o.ranged(Content_Range="bytes {start}-{last}/*")(exchange, page)


@pytest.mark.parametrize(
    "faults",
    [
        [cut_unframed],
        [o.polite, *[whole_in_a_range] * 3],
        [o.polite, o.polite, empty],
        [o.polite, o.polite, empty, empty],
        [o.polite, o.polite, o.ranged(Content_Range="bytes {start}-{last}/999999")],
        [star, star, o.status(416), *[star] * 9],
    ],
)
async def test_one_odd_answer_is_not_believed_over_what_is_known(
    origin: Origin, tmp_path: Path, faults: list[o.Fault]
) -> None:
    data = noise(400_000)
    url = origin.add("f", data, *faults, headers={"ETag": '"1"'})
    report = await get(entry("f", url), tmp_path, limits={"per_host": 1, "memory": "64KiB"})
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == data


async def test_a_server_that_refuses_bytes_it_has_sent_does_not_end_the_file(
    origin: Origin, tmp_path: Path
) -> None:
    """No length, no validator: requests begin with bytes that are held, and 416 contradicts what came."""
    data = noise(400_000)
    url = origin.add("f", data, star, star, o.status(416), o.status(416), *[star] * 12)
    report = await get(entry("f", url), tmp_path, limits={"per_host": 1, "memory": "64KiB"})
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == data


async def test_links_that_differ_in_their_query_are_two_files(origin: Origin, tmp_path: Path) -> None:
    async def by_query(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(Blob(noise(1000, int(exchange.query["id"]))))

    url = origin.add("get", b"", always=by_query)
    for number in (1, 2):
        assert (await get(entry("f", f"{url}?id={number}"), tmp_path)).ok
        assert (tmp_path / "f").read_bytes() == noise(1000, number)


async def test_a_damaged_file_is_not_adopted_against_our_own_record(origin: Origin, tmp_path: Path) -> None:
    data = noise(8 << 20)
    assert (await get(entry("f", origin.add("old", data)), tmp_path)).ok
    harmed = bytearray(data)
    harmed[5_000_001] ^= 1
    (tmp_path / "f").write_bytes(harmed)
    report = await get(entry("f", origin.add("new", data)), tmp_path)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f").read_bytes() == data


async def test_a_ledger_that_claims_more_than_the_disk_has_is_put_right(
    origin: Origin, tmp_path: Path
) -> None:
    """A restored copy holds 1 MiB of 3 MiB recorded; later a kill leaves bytes beyond the gap."""
    data = noise(4 << 20)
    url = origin.add("f", data, *[o.polite] * 48, always=o.reset, headers={"ETag": '"1"'})
    await get(entry("f", url), tmp_path, limits={"per_host": 1}, retry={"outage": 0.1, "longest": 0.1})
    partial = tmp_path / ".osp-fetch/partial/f"
    with partial.open("r+b") as file:
        file.truncate(1 << 20)
    origin.add("f", data, o.polite, always=o.reset, headers={"ETag": '"1"'})
    await get(entry("f", url), tmp_path, limits={"per_host": 1}, retry={"outage": 0.1, "longest": 0.1})
    with partial.open("r+b") as file:
        file.truncate(3 << 20)  # the size after a write further on
    origin.add("f", data, headers={"ETag": '"1"'})
    assert (await get(entry("f", url), tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == data


async def test_repair_follows_no_link_and_takes_the_right_record(origin: Origin, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    old, new = noise(1 << 20, 1), noise(20 << 20, 2)
    assert (await get(entry("f", origin.add("f", old), len(old)), out)).ok
    row = entry("f", origin.add("f", new), len(new))
    assert (await fetch_all([row], out, settings=QUICK, shard=(0, 1))).ok
    harmed = bytearray(new)
    harmed[5] ^= 1
    (out / "f").write_bytes(harmed)
    ((record, kept),) = await repair_files(out, ["f"])
    assert (
        out / (kept or "")
    ).read_bytes() == harmed  # a damaged file may hold edits of its owner, and is kept
    assert (record.length, len(record.held)) == (len(new), len(new) - (16 << 20))
    assert (await fetch_all([row], out, settings=QUICK, shard=(0, 1))).ok
    assert (out / "f").read_bytes() == new
    (out / "f").replace(outside)
    (out / "f").symlink_to(outside)
    assert [checked.verdict for checked in verify_folder(out)] == ["missing"]
    with pytest.raises(StorageError):
        await repair_files(out, ["f"])
    assert outside.read_bytes() == new


async def test_an_empty_file_is_not_set_aside(origin: Origin, tmp_path: Path) -> None:
    data = noise(1000)
    url = origin.add("f", data, empty, empty, empty)
    assert not (await get(entry("f", url, None, sha256(data)), tmp_path)).ok
    origin.pages["/f"].faults.clear()
    assert (await get(entry("f", url, None, sha256(data)), tmp_path)).ok


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_stated_size_of_zero_is_confirmed_by_the_server(
    origin: Origin, tmp_path: Path, processes: int
) -> None:
    rows = [
        entry("full", origin.add("full", noise(500)), 0),
        entry("gone", f"{origin.url}/gone", 0),
        entry("empty", origin.add("empty", b""), 0),
    ]
    settings = quick(limits={"processes": processes}) if processes > 1 else QUICK
    report = await fetch_all(rows, tmp_path, settings=settings)
    failed = {outcome.path: str(outcome.error) for outcome in report.failures}
    assert failed.keys() == {"full", "gone"}
    assert "offers 500 bytes, the manifest states 0" in failed["full"]
    assert "404" in failed["gone"]
    assert (tmp_path / "empty").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["empty"]


@pytest.mark.parametrize("tag", ['"1"', ""])
async def test_what_was_set_aside_never_stands_in_the_way(origin: Origin, tmp_path: Path, tag: str) -> None:
    """The server sends one wrong byte twice, where no sample is taken, and is then corrected."""
    data = noise(4 << 20)
    harmed = bytearray(data)
    harmed[1_000_001] ^= 1
    row = entry("f", origin.add("f", bytes(harmed), headers={"ETag": tag} if tag else {}), None, sha256(data))
    assert not (await get(row, tmp_path)).ok
    origin.add("f", data, headers={"ETag": '"2"'} if tag else {})
    assert (await get(row, tmp_path)).ok
    assert (tmp_path / "f").read_bytes() == data


@pytest.mark.parametrize(("old", "new"), [('W/"a"', 'W/"b"'), ('"a"', 'W/"b"'), ('W/"a"', '"b"')])
async def test_equal_dates_prove_nothing_where_weak_tags_differ(
    origin: Origin, tmp_path: Path, old: str, new: str
) -> None:
    """RFC 9110 section 8.8.2.2: Last-Modified counts whole seconds, and the file changed within one."""
    versions, tags, requests = (noise(4 << 20, 1), noise(4 << 20, 2)), (old, new), 0

    async def other(exchange: Exchange, page: o.Page) -> None:
        nonlocal requests
        requests += 1
        at = requests > 3
        await exchange.serve(
            Blob(versions[at]), {"ETag": tags[at], "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        )

    url = origin.add("f", versions[0], always=other)
    report = await get(entry("f", url), tmp_path, limits={"per_host": 1, "part_size": "256KiB"})
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == versions[1]


@pytest.mark.parametrize("change", [3, 5, 8, "each second request"])
async def test_versions_without_any_validator_are_never_mixed(
    origin: Origin, tmp_path: Path, change: int | str
) -> None:
    """No digest, no ETag, no Last-Modified, equal lengths: parts that are fetched side by side must fit."""
    versions, requests = (noise(4 << 20, 1), noise(4 << 20, 2)), 0

    async def other(exchange: Exchange, page: o.Page) -> None:
        nonlocal requests
        requests += 1
        is_other = requests > change if isinstance(change, int) else requests % 2
        await exchange.serve(Blob(versions[is_other]), page.headers, rate=4e6)

    url = origin.add("f", versions[0], always=other)
    report = await get(entry("f", url), tmp_path, limits={"per_host": 4, "part_size": "256KiB"})
    if isinstance(change, int):
        assert report.ok, report.failures
        assert (tmp_path / "f").read_bytes() == versions[1]
    elif report.ok:
        assert (tmp_path / "f").read_bytes() in versions
    else:
        assert not (tmp_path / "f").exists()
