"""Tests of complete runs of the library against a misbehaving origin: the right file, or none."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from osp_fetch import (
    Entry,
    Event,
    Outcome,
    Report,
    Settings,
    Status,
    StopToken,
    entry,
    fetch,
    fetch_all,
    fetch_iter,
)
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.engine.state import SAMPLE
from osp_fetch.engine.transfer import PartedTransfer
from osp_fetch.model import events
from osp_fetch.model.errors import DiskFullError, FetchError, FolderBusyError, ManifestError
from osp_fetch.storage.folder.partial import FilePartial
from tests import origin as o
from tests.conftest import quick
from tests.origin import Fault, Origin, noise, sha256

DATA = noise(300_000)
QUICK = quick()


async def one(
    origin: Origin,
    folder: Path,
    *faults: Fault,
    data: bytes = DATA,
    always: Fault | None = None,
    headers: dict[str, str] | None = None,
    stated: bool = False,
    digest: bool = False,
    settings: Settings = QUICK,
    name: str = "d/f.tar",
) -> Outcome:
    """Fetch one file through `faults` and assert that a final name holds the right bytes."""
    url = origin.add("f.tar", data, *faults, always=always, headers=headers)
    row = entry(name, url, len(data) if stated else None, sha256(data) if digest else None)
    report = await fetch_all([row], folder, settings=settings)
    (outcome,) = report.outcomes
    final = folder / name
    if outcome.status is Status.FETCHED:
        assert final.read_bytes() == origin.pages["/f.tar"].data
    else:
        assert not final.exists()
    return outcome


@pytest.mark.parametrize("size", [0, 1, 2, 65535, 65536, 65537, 131072, 196608, 300_001])
@pytest.mark.parametrize("stated", [True, False])
async def test_sizes_at_every_edge(origin: Origin, tmp_path: Path, size: int, stated: bool) -> None:
    outcome = await one(origin, tmp_path, data=noise(size), stated=stated)
    assert outcome.status is Status.FETCHED
    assert outcome.size == size


async def test_a_file_that_looks_like_a_page_is_had_where_a_digest_and_its_size_are_stated(
    origin: Origin, tmp_path: Path
) -> None:
    page = b"<html><title>a template</title>"
    markup = {"Content-Type": "text/html"}
    told = await one(origin, tmp_path, data=page, headers=markup, stated=True, digest=True, name="f.tmpl")
    assert told.status is Status.FETCHED
    untold = await one(origin, tmp_path, data=page, headers=markup, name="g.tmpl")
    assert untold.status is Status.FAILED
    assert "state its size or digest in the manifest" in str(untold.error)


async def test_a_file_no_longer_than_a_part_costs_one_request(origin: Origin, tmp_path: Path) -> None:
    await one(origin, tmp_path, data=noise(65536))
    assert origin.requests.total() == 1


async def test_parts_go_over_several_connections_and_cover_the_file_once(
    origin: Origin, tmp_path: Path
) -> None:
    slow = quick(limits={"part_size": "64KiB", "per_host": 4})

    async def slowly(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(Blob(page.data), rate=1e6)

    await one(origin, tmp_path, data=noise(1 << 20), always=slowly, settings=slow)
    assert origin.most_open == 4
    asked = sorted(filter(None, (e.span(1 << 20) for e in origin.seen)))
    # Only samples prove this file. Without the sample before a part, the parts cover the file once.
    starts = [start + (SAMPLE if start % 65536 == 65536 - SAMPLE else 0) for start, _ in asked]
    stops = [stop for _, stop in asked]
    assert [0, *stops] == [*starts, 1 << 20]


async def test_a_wrong_digest_is_tried_once_more_and_nothing_is_kept(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", DATA)
    row = entry("f", url, None, sha256(b"other"))
    report = await fetch_all([row], tmp_path, settings=quick(limits={"part_size": "1MiB"}))
    assert report.outcomes[0].status is Status.FAILED
    assert "the manifest states" in str(report.outcomes[0].error)
    assert origin.requests["/f"] == 2
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "algorithm", ["md5", "sha1", "sha512", "blake2b", "crc32c", "crc64nvme", "git-blob-sha1"]
)
async def test_every_digest_is_verified(origin: Origin, tmp_path: Path, algorithm: str) -> None:
    from osp_fetch.storage.folder.hashing import hasher

    running = hasher(algorithm, len(DATA))
    running.update(DATA)
    url = origin.add("f", DATA)
    good, bad = f"{algorithm}:{running.hexdigest()}", f"{algorithm}:{'0' * len(running.hexdigest())}"
    report = await fetch_all(
        [entry("a", url, None, good), entry("b", url, None, bad)], tmp_path, settings=QUICK
    )
    assert {x.path: x.status for x in report.outcomes} == {"a": Status.FETCHED, "b": Status.FAILED}


async def test_content_that_changes_in_mid_file_is_begun_anew(origin: Origin, tmp_path: Path) -> None:
    new = noise(len(DATA), 1)
    outcome = await one(
        origin, tmp_path, o.cut(70_000), o.replaced(new, {"ETag": '"2"'}), headers={"ETag": '"1"'}
    )
    assert outcome.status is Status.FETCHED
    assert (tmp_path / "d/f.tar").read_bytes() == new


async def test_tags_that_differ_by_edge_end_in_one_stream(origin: Origin, tmp_path: Path) -> None:
    async def edge(exchange: Exchange, page: o.Page) -> None:
        await exchange.serve(Blob(page.data), {"ETag": f'"{origin.requests.total()}"'})

    outcome = await one(origin, tmp_path, always=edge)
    assert outcome.status is Status.FETCHED


async def interrupted(origin: Origin, folder: Path, row: Entry, after: int) -> None:
    """Fetch until `after` bytes are written, then cancel."""
    work: asyncio.Task[Report]
    written = 0

    def observe(event: Event) -> None:
        nonlocal written
        if isinstance(event, events.Wrote):
            written += event.count
            if written >= after:
                work.cancel()

    work = asyncio.create_task(
        fetch_all([row], folder, settings=quick(limits={"per_host": 2}), observer=observe)
    )
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("headers", [{}, {"ETag": '"1"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
async def test_a_cancelled_fetch_goes_on_where_it_was(
    origin: Origin, tmp_path: Path, headers: dict[str, str]
) -> None:
    data = noise(1 << 20)
    url = origin.add("f", data, headers=headers)
    await interrupted(origin, tmp_path, entry("f", url + "?sig=1"), 500_000)
    assert not (tmp_path / "f").exists()
    before = len(origin.seen)
    report = await fetch_all([entry("f", url + "?sig=2")], tmp_path, settings=QUICK)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f").read_bytes() == data
    asked = [e.span(len(data)) or (0, len(data)) for e in origin.seen[before:]]
    assert sum(stop - start for start, stop in asked) <= 600_000 + 65536


async def test_a_resumed_file_that_changed_without_a_sign_is_begun_anew(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("f", noise(1 << 20))
    await interrupted(origin, tmp_path, entry("f", url), 500_000)
    new = noise(1 << 20, 9)
    origin.add("f", new)
    report = await fetch_all([entry("f", url)], tmp_path, settings=QUICK)
    assert report.counts[Status.FETCHED] == 1
    assert (tmp_path / "f").read_bytes() == new


async def test_a_second_run_asks_for_nothing(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"d{n % 3}/f{n}", origin.add(f"f{n}", noise(n * 100, n))) for n in range(50)]
    first = await fetch_all(rows, tmp_path, settings=QUICK)
    asked = origin.requests.total()
    second = await fetch_all(rows, tmp_path, settings=QUICK)
    assert (first.counts[Status.FETCHED], second.counts[Status.PRESENT]) == (50, 50)
    assert origin.requests.total() == asked
    assert second.bytes == 0


@pytest.mark.parametrize("harm", ["changed", "shorter", "gone"])
async def test_a_harmed_file_is_fetched_again(origin: Origin, tmp_path: Path, harm: str) -> None:
    row = entry("f", origin.add("f", DATA))
    await fetch_all([row], tmp_path, settings=QUICK)
    place = tmp_path / "f"
    if harm == "changed":
        place.write_bytes(noise(len(DATA), 5))
    elif harm == "shorter":
        os.truncate(place, 100)
    else:
        place.unlink()
    report = await fetch_all([row], tmp_path, settings=QUICK)
    assert report.counts[Status.FETCHED] == 1
    assert place.read_bytes() == DATA


async def test_recheck_finds_what_size_and_time_do_not_show(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(5000, n))) for n in range(3)]
    await fetch_all(rows, tmp_path, settings=QUICK)
    times = (tmp_path / "f1").stat()
    (tmp_path / "f1").write_bytes(noise(5000, 9))
    os.utime(tmp_path / "f1", ns=(times.st_atime_ns, times.st_mtime_ns))
    origin.requests.clear()
    report = await fetch_all(rows, tmp_path, settings=QUICK)
    assert report.counts[Status.PRESENT] == 3  # size and modification time are unchanged
    assert origin.requests.total() == 0
    report = await fetch_all(rows, tmp_path, settings=QUICK, recheck=True)
    assert report.counts == {**dict.fromkeys(Status, 0), Status.PRESENT: 2, Status.FETCHED: 1}
    assert origin.requests.keys() == {"/f1"}
    assert (tmp_path / "f1").read_bytes() == noise(5000, 1)


async def test_a_touched_or_moved_folder_is_recognised(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", DATA))
    await fetch_all([row], tmp_path / "a", settings=QUICK)
    (tmp_path / "a").rename(tmp_path / "b")
    os.utime(tmp_path / "b/f", (1, 1))
    report = await fetch_all([row], tmp_path / "b", settings=QUICK)
    assert report.counts[Status.PRESENT] == 1


async def test_a_file_of_another_downloader_is_adopted_by_its_digest(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    report = await fetch_all(
        [entry("f", origin.add("f", DATA), None, sha256(DATA))], tmp_path, settings=QUICK
    )
    assert report.counts[Status.PRESENT] == 1
    assert origin.requests.total() == 0


@pytest.mark.parametrize("wreck", [b"", b"not a database at all, but long enough to be read as one" * 99])
async def test_a_torn_ledger_costs_bytes_never_rightness(
    origin: Origin, tmp_path: Path, wreck: bytes
) -> None:
    row = entry("f", origin.add("f", DATA))
    await fetch_all([row], tmp_path, settings=QUICK)
    (tmp_path / ".osp-fetch/ledger.sqlite3").write_bytes(wreck)
    report = await fetch_all([row], tmp_path, settings=QUICK)
    assert report.ok
    assert (tmp_path / "f").read_bytes() == DATA


async def test_the_next_mirror_is_asked_when_one_fails_for_good(origin: Origin, tmp_path: Path) -> None:
    good = origin.add("good", DATA)
    row = entry("f", [f"{origin.url}/absent", "http://127.0.0.1:9/refused", good])
    report = await fetch_all([row], tmp_path, settings=QUICK)
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == DATA


async def test_with_a_digest_parts_come_from_all_mirrors(origin: Origin, tmp_path: Path) -> None:
    data = noise(1 << 20)
    row = entry("f", [origin.add("one", data), origin.add("two", data)], None, sha256(data))
    assert (await fetch_all([row], tmp_path, settings=QUICK)).ok
    assert min(origin.requests["/one"], origin.requests["/two"]) >= 4


async def test_a_mirror_with_wrong_bytes_is_left_for_another(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", [origin.add("bad", noise(len(DATA), 3)), origin.add("good", DATA)], None, sha256(DATA))
    assert (await fetch_all([row], tmp_path, settings=QUICK)).ok
    assert (tmp_path / "f").read_bytes() == DATA


async def test_a_failed_file_never_costs_the_run(origin: Origin, tmp_path: Path) -> None:
    rows: list[Entry | ManifestError] = [
        entry(f"f{n}", origin.add(f"f{n}", noise(1000, n))) for n in range(10)
    ]
    rows[3:3] = [entry("absent", origin.url + "/absent"), ManifestError("m.csv:4: a bad row")]
    report = await fetch_all(rows, tmp_path, settings=QUICK)
    assert report.counts == {Status.FETCHED: 10, Status.FAILED: 2, Status.PRESENT: 0, Status.PARKED: 0}
    frame = report.frame()
    assert sorted(frame[frame.status == "failed"].path) == ["", "absent"]
    with pytest.raises(Exception, match="2 of the files"):
        report.raise_for_failures()


async def test_a_file_leaves_nothing_in_memory_but_its_outcome(origin: Origin, tmp_path: Path) -> None:
    rows = [
        entry("small", origin.add("small", noise(1000))),
        entry("parts", origin.add("parts", DATA)),
        entry("absent", origin.url + "/absent"),
    ]
    gc.collect()
    gc.disable()  # memory must be freed without the collector: many files are open before it runs
    try:
        report = await fetch_all(rows, tmp_path, settings=quick(limits={"part_size": "64KiB"}))
        left = [type(each) for each in gc.get_objects() if type(each) in (PartedTransfer, FilePartial)]
    finally:
        gc.enable()
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (2, 1)
    assert left == []


async def test_fetch_iter_gives_outcomes_and_stops_when_left(origin: Origin, tmp_path: Path) -> None:
    async def rows() -> AsyncIterator[Entry]:
        for n in range(400):
            yield entry(f"f{n}", origin.add(f"f{n}", noise(10, n)))

    seen = []
    outcomes = fetch_iter(rows(), tmp_path, settings=QUICK)
    async for outcome in outcomes:
        seen.append(outcome)
        if len(seen) == 30:
            break
    await outcomes.aclose()
    assert {x.status for x in seen} == {Status.FETCHED}
    assert origin.requests.total() < 400
    assert (await fetch_all(rows(), tmp_path, settings=QUICK)).counts[Status.PRESENT] >= 30


def test_the_sync_call_runs_a_loop_of_its_own(tmp_path: Path) -> None:
    report = fetch([entry("f", "http://127.0.0.1:9/x")], tmp_path, settings=quick(retry={"attempts": 1}))
    assert report.counts[Status.FAILED] == 1


async def test_two_runs_on_one_folder_the_second_names_the_first(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", DATA, o.stall(10)))
    first = asyncio.create_task(fetch_all([row], tmp_path, settings=QUICK))
    while not origin.open:
        await asyncio.sleep(0.01)
    with pytest.raises(FolderBusyError, match=f"process {os.getpid()}"):
        await fetch_all([row], tmp_path, settings=QUICK)
    assert (await first).ok


async def test_two_runs_on_two_folders_do_not_know_each_other(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", noise(100_000, n))) for n in range(10)]
    reports = await asyncio.gather(*(fetch_all(rows, tmp_path / str(n), settings=QUICK) for n in range(3)))
    assert all(report.ok for report in reports)


async def test_a_full_disk_ends_the_run_and_keeps_what_is_held(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", DATA))
    with pytest.raises(DiskFullError, match="not enough free space"):
        await fetch_all([row], tmp_path, settings=quick(storage={"min_free": 1 << 60}))
    assert (await fetch_all([row], tmp_path, settings=QUICK)).ok


async def test_a_stop_is_graceful_and_said_in_the_report(origin: Origin, tmp_path: Path) -> None:
    row = entry("f", origin.add("f", DATA, o.stall(100_000)))
    stop = StopToken()

    def observe(event: Event) -> None:
        if isinstance(event, events.FileBegun):
            stop.ask("enough")

    report = await fetch_all([row], tmp_path, settings=QUICK, stop=stop, observer=observe)
    assert report.stopped == "enough"
    assert not report.ok
    with pytest.raises(FetchError, match=r"stopped before its end \(enough\)"):
        report.raise_for_failures()
    assert str(report).endswith("; stopped: enough")


@pytest.mark.parametrize(("reason", "options"), [("--max-duration", {"max_duration": 0.2})])
async def test_a_run_ends_in_time(
    origin: Origin, tmp_path: Path, reason: str, options: dict[str, float]
) -> None:
    row = entry("f", origin.add("f", DATA, always=o.silent))
    report = await fetch_all([row], tmp_path, settings=quick(timeouts={"head": 60}), **options)  # type: ignore[arg-type]
    assert reason in (report.stopped or "")


async def test_include_exclude_and_shards_choose(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"d{n % 2}/f{n}", origin.add(f"f{n}", noise(10, n))) for n in range(8)]
    report = await fetch_all(rows, tmp_path / "a", settings=QUICK, include=["d1"], exclude=["f3"])
    assert sorted(x.path for x in report.outcomes) == ["d1/f1", "d1/f5", "d1/f7"]
    for index in range(2):
        await fetch_all(rows, tmp_path / "b", settings=QUICK, shard=(index, 2))
    assert len(list((tmp_path / "b").glob("d*/f*"))) == 8


async def test_headers_go_to_the_links_own_origin_only(origin: Origin, tmp_path: Path) -> None:
    async with o.serving() as other:
        target = other.add("real", DATA)
        row = entry(
            "f", origin.add("f", DATA, always=o.redirect(target)), headers={"Authorization": "Bearer S"}
        )
        assert (await fetch_all([row], tmp_path, settings=QUICK)).ok
        assert all(e.headers["authorization"] == "Bearer S" for e in origin.seen)
        assert other.seen
        assert not any("authorization" in e.headers for e in other.seen)
    assert origin.requests.total() == 1


async def test_a_spent_redirect_is_minted_again_at_the_same_byte(origin: Origin, tmp_path: Path) -> None:
    data = noise(1 << 20)
    uses = 0

    async def store(exchange: Exchange, page: o.Page) -> None:
        nonlocal uses
        uses += 1
        if uses % 5 == 0:
            await exchange.answer(403, "<Error>Request has expired</Error>")
        else:
            await o.polite(exchange, page)

    async with o.serving() as other:
        target = other.add("real", data, always=store)
        row = entry("f", origin.add("f", b"", always=o.redirect(target)))
        report = await fetch_all([row], tmp_path, settings=quick(limits={"per_host": 2}))
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == data
    assert 2 <= origin.requests.total() <= 8


def secrets_in(folder: Path) -> list[str]:
    files = (place for place in folder.rglob("*") if place.is_file())
    return [str(place) for place in files if b"SECRET" in place.read_bytes()]


async def test_nothing_secret_is_left_behind(
    origin: Origin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    url = origin.add("f", DATA, o.cut(1000), o.status(503))
    rows = [
        entry(
            "f",
            url + "?oh=SECRET1&oe=699024E8&X-Amz-Signature=SECRET2",
            headers={"Authorization": "Bearer SECRET3"},
        ),
        entry("g", f"http://user:SECRET4@127.0.0.1:{origin.server.port}/absent?token=SECRET5"),
    ]
    report = await fetch_all(rows, tmp_path, settings=QUICK, observer=lambda event: seen.append(repr(event)))
    text = [*seen, repr(report), json.dumps(report.row()), *map(repr, report.failures), *capfd.readouterr()]
    assert report.counts[Status.FETCHED] == 1
    assert not [line for line in text if "SECRET" in line]
    assert secrets_in(tmp_path) == []
    database = sqlite3.connect(tmp_path / ".osp-fetch/ledger.sqlite3")
    assert "SECRET" not in "\n".join(database.iterdump())
    database.close()
    assert (tmp_path / ".osp-fetch/events.jsonl").stat().st_mode & 0o077 == 0


async def test_a_manifest_of_any_length_is_read_as_slots_come_free(origin: Origin, tmp_path: Path) -> None:
    read = 0
    origin.add("f", b"x", always=o.silent)

    def rows() -> object:
        nonlocal read
        while True:
            read += 1
            yield entry(f"f{read}", origin.url + "/f")

    settings = quick(limits={"connections": 4}, timeouts={"head": 60})
    report = await fetch_all(rows(), tmp_path, settings=settings, max_duration=0.5)  # type: ignore[arg-type]
    assert report.stopped
    assert read < 1500


async def test_published_bytes_are_what_the_ledger_says(origin: Origin, tmp_path: Path) -> None:
    from osp_fetch.inspection.status import with_checksums
    from osp_fetch.inspection.verify import verify_folder

    rows = [entry(f"d/f{n}", origin.add(f"f{n}", noise(70_000 * n, n))) for n in range(6)]
    await fetch_all(rows, tmp_path, settings=QUICK)
    for record, standing in with_checksums(tmp_path):
        value = hashlib.sha256((tmp_path / record.path).read_bytes()).hexdigest()
        assert (record.digests["sha256"], standing) == (value, "here")
    assert {checked.verdict for checked in verify_folder(tmp_path)} == {"ok"}
    (tmp_path / "d/f3").write_bytes(b"harm")
    (tmp_path / "d/f4").unlink()
    assert sorted(c.verdict for c in verify_folder(tmp_path)) == [
        "damaged",
        "missing",
        "ok",
        "ok",
        "ok",
        "ok",
    ]


async def test_recorded_digests_are_those_of_the_bytes_also_after_a_silent_change(
    origin: Origin, tmp_path: Path
) -> None:
    old, new = noise(40_000, 1), noise(40_000, 2)

    async def changed(exchange: Exchange, page: o.Page) -> None:
        page.data = new
        await o.rangeless(exchange, page)

    url = origin.add("f", old, o.cut(30_000), changed)
    report = await fetch_all([entry("f", url)], tmp_path, settings=quick(limits={"part_size": "1MiB"}))
    assert report.ok, report.failures
    assert (tmp_path / "f").read_bytes() == new
    assert report.outcomes[0].digest == sha256(new)


async def test_a_dead_host_costs_few_connections_and_fails_all_its_files(tmp_path: Path) -> None:
    knocks = 0

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.transport.abort()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rows = [entry(f"f{n}", f"http://127.0.0.1:{port}/{n}") for n in range(300)]
    report = await fetch_all(rows, tmp_path, settings=quick(limits={"connections": 8}))
    server.close()
    assert report.counts[Status.FAILED] == 300
    assert knocks < 100
