"""Tests of buckets as destinations, on a SeaweedFS server and partly on moto's. Not run on AWS."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import osp_fetch
from osp_fetch import (
    Entry,
    Event,
    FinishedObject,
    Report,
    Settings,
    Status,
    StopToken,
    Wrote,
    fetch_all,
    finished_objects,
)
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.inspection.place import BucketPlace, opened_place
from osp_fetch.inspection.verify_bucket import verify_bucket
from osp_fetch.model.entry import RelativePath, entry
from osp_fetch.model.errors import FetchError, FolderBusyError, SettingsError
from osp_fetch.model.ranges import ByteRange
from osp_fetch.model.record import Record
from osp_fetch.s3.address import bucket_address
from osp_fetch.storage.bucket.grid import Grid, part_size
from osp_fetch.storage.bucket.objects import metadata_of
from osp_fetch.storage.bucket.part_memory import PartMemory
from osp_fetch.storage.bucket.state import state_of, state_root
from osp_fetch.storage.bucket.store import BucketStore
from osp_fetch.storage.bucket.sums import CRC32C, CRC64NVME, RunningDigests
from osp_fetch.storage.destination import destination
from osp_fetch.storage.ledger.sqlite import SqliteLedger
from tests import origin as o
from tests.conftest import quick
from tests.held import Held, Store
from tests.moto_server import Moto
from tests.origin import Origin, chunked, noise, sha256, slow
from tests.s3_proxy import (
    Fault,
    answers,
    cuts,
    damages,
    each,
    error_in_200,
    loses_reply,
    misstates_checksum,
    proxied,
)
from tests.seaweed import Seaweed

MIB = 1 << 20
PART = 8 * MIB
LARGE = noise(2 * PART + 12_345, 1)
Command = Callable[..., subprocess.CompletedProcess[str]]
on_both_stores = pytest.mark.parametrize("store", ["seaweed", "moto"], indirect=True)


def patient(*, two_connections: bool = False) -> Settings:
    """Return settings for a store that may be away for a moment."""
    limits: dict[str, object] = {"part_size": "4MiB", **({"connections": 2} if two_connections else {})}
    return quick(storage={"disk_patience": 30}, limits=limits)


def counts(report: Report) -> dict[Status, int]:
    """Return the numbers of outcomes that are not zero."""
    return {status: count for status, count in report.counts.items() if count}


def rows(origin: Origin, **files: bytes) -> list[Entry]:
    """Serve `files` and return their entries, without digests."""
    return [entry(f"d/{name}", origin.add(name, data)) for name, data in files.items()]


@on_both_stores
async def test_files_of_every_size_become_objects_and_are_not_fetched_again(
    origin: Origin, held: Held, bucket: str
) -> None:
    data = {
        "large": LARGE,
        "two": noise(PART + 1, 2),
        "one": noise(PART, 3),
        "small": noise(500, 4),
        "no": b"",
    }
    wanted = rows(origin, **data)
    report = await fetch_all(wanted, f"s3://{bucket}/a/b", settings=quick())
    assert report.ok, report.failures
    assert {key: held.data(key) for key in held.every()} == {f"a/b/d/{n}": d for n, d in data.items()}
    assert held.uploads() == []
    again = await fetch_all(wanted, f"s3://{bucket}/a/b", settings=quick())
    assert counts(again) == {Status.PRESENT: len(data)}
    metadata = held.client.head_object(Bucket=bucket, Key="a/b/d/small")["Metadata"]
    assert metadata["sha256"] == sha256(data["small"]).removeprefix("sha256:")


@on_both_stores
async def test_finished_objects_come_while_a_run_goes_on_and_once(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    data = {f"f{n}": noise(5_000 + n, n) for n in range(6)}
    wanted = rows(origin, **data)
    place, state = f"s3://{bucket}/p", tmp_path / "state"
    gate = asyncio.Event()

    async def half_then_the_rest() -> AsyncIterator[Entry]:
        for number, row in enumerate(wanted):
            if number == 3:
                await gate.wait()
            yield row

    run = asyncio.create_task(fetch_all(half_then_the_rest(), place, settings=quick(), state=state))
    found: list[FinishedObject] = []
    objects = finished_objects(place, state=state, follow=True, interval=0.05)
    async with asyncio.timeout(60):
        async for each in objects:
            found.append(each)
            content = held.data(each.url.removeprefix(f"s3://{bucket}/"))
            assert content == data[Path(each.path).name]  # it is there, and whole
            assert each.size == len(content)
            assert each.digests["sha256"] == hashlib.sha256(content).hexdigest()
            if len(found) == 3:
                gate.set()
        assert (await run).ok
    assert sorted(each.path for each in found) == sorted(f"d/{name}" for name in data)
    rest = finished_objects(place, state=state, after=found[3].position)
    assert [each.path for each in rest] == [each.path for each in found[4:]]


@on_both_stores
@pytest.mark.parametrize("size", [500, PART, 2 * PART + 1])
async def test_an_object_states_the_sha256_the_source_and_the_version(
    origin: Origin, held: Held, bucket: str, size: int
) -> None:
    data = noise(size, 5)
    url = quote(origin.add("folder/déjà.tar", data), safe=":/") + "?token=s3cret"
    report = await fetch_all([entry("f", url, size, sha256(data))], f"s3://{bucket}", settings=quick())
    assert report.ok, report.failures
    metadata = held.client.head_object(Bucket=bucket, Key="f")["Metadata"]
    assert metadata["sha256"] == sha256(data).removeprefix("sha256:")
    assert metadata["osp-version"] == osp_fetch.__version__
    assert "/folder/d" in metadata["source"]
    assert metadata["source"].isascii()
    assert "s3cret" not in str(metadata)


@pytest.mark.parametrize(
    "source",
    [
        "cdn.example/bcdn_token=SECRET&expires=1/x.bin",
        "h.example/x.bin;token=SECRET",
        "h.example/hdnea=exp=1~acl=/*~hmac=SECRET/x.bin",
        "h.example/api/hf_SECRETSECRET/x.bin",
    ],
)
def test_metadata_state_no_secret_of_a_path(source: str) -> None:
    stated = metadata_of({}, source=source)["source"]
    assert "SECRET" not in stated
    assert stated.startswith(source.partition("/")[0])


@given(st.text(), st.text(min_size=1))
def test_metadata_are_printable_and_bounded(modified: str, source: str) -> None:
    found = metadata_of({"sha256": "0" * 64}, modified * 20, source * 200)
    text = "".join(found.values())
    assert text.isascii()
    assert text.isprintable()
    assert sum(len(name) + len(value) for name, value in found.items()) < 1500


@on_both_stores
async def test_workers_share_a_bucket(origin: Origin, held: Held, bucket: str) -> None:
    data = {f"f{n}": noise(20_000 + n, n) for n in range(40)} | {"large": LARGE}
    settings = quick(limits={"processes": 2, "part_size": "4MiB", "connections": 8})
    report = await fetch_all(rows(origin, **data), f"s3://{bucket}", settings=settings)
    assert report.ok, report.failures
    assert {key: held.data(key) for key in held.every()} == {f"d/{n}": d for n, d in data.items()}


@on_both_stores
async def test_a_wrong_digest_is_never_visible_and_leaves_no_upload(
    origin: Origin, held: Held, bucket: str
) -> None:
    data, wrong = {"large": LARGE, "small": b"small"}, "sha256:" + "0" * 64
    entries = [entry(name, origin.add(name, content), digest=wrong) for name, content in data.items()]
    report = await fetch_all(entries, f"s3://{bucket}/p", settings=quick())
    assert counts(report) == {Status.FAILED: 2}
    assert "probably wrong" in str(report.failures[0].error)
    assert held.every() == []
    assert held.uploads() == []


@on_both_stores
@pytest.mark.parametrize("data", [LARGE, b"small"])
async def test_a_foreign_object_is_kept_unless_it_is_to_be_overwritten(
    origin: Origin, held: Held, bucket: str, data: bytes
) -> None:
    held.put("p/d/f", b"mine")
    wanted = rows(origin, f=data)
    report = await fetch_all(wanted, f"s3://{bucket}/p", settings=quick())
    assert "--overwrite" in str(report.failures[0].error)
    assert held.data("p/d/f") == b"mine"
    assert held.uploads() == []
    over = quick(storage={"existing": "overwrite"})
    assert (await fetch_all(wanted, f"s3://{bucket}/p", settings=over)).ok
    assert held.data("p/d/f") == data


@on_both_stores
async def test_an_object_of_the_right_content_is_adopted_without_a_ledger(
    origin: Origin, held: Held, bucket: str
) -> None:
    held.put("p/d/f", LARGE)
    (row,) = rows(origin, f=LARGE)
    report = await fetch_all([row], f"s3://{bucket}/p", settings=quick())
    assert counts(report) == {Status.PRESENT: 1}


@on_both_stores
async def test_an_object_that_was_replaced_is_not_taken_for_the_file(
    origin: Origin, held: Held, bucket: str
) -> None:
    wanted = rows(origin, f=LARGE)
    assert (await fetch_all(wanted, f"s3://{bucket}/p", settings=quick())).ok
    held.put("p/d/f", LARGE[:-1] + b"x")
    report = await fetch_all(wanted, f"s3://{bucket}/p", settings=quick())
    assert counts(report) == {Status.FAILED: 1}, "it is not ours any more, and is kept"
    held.client.delete_object(Bucket=bucket, Key="p/d/f")
    assert counts(await fetch_all(wanted, f"s3://{bucket}/p", settings=quick())) == {Status.FETCHED: 1}
    assert held.data("p/d/f") == LARGE


@on_both_stores
async def test_update_replaces_the_object_of_an_earlier_run(origin: Origin, held: Held, bucket: str) -> None:
    row = entry("d/f", origin.add("f", LARGE, headers={"ETag": '"1"'}))
    assert (await fetch_all([row], f"s3://{bucket}", settings=quick())).ok
    new = noise(len(LARGE), 9)
    origin.add("f", new, headers={"ETag": '"2"'})
    report = await fetch_all([row], f"s3://{bucket}", settings=quick(), update=True)
    assert counts(report) == {Status.FETCHED: 1}, report.failures
    assert held.data("d/f") == new


FAULTS: dict[str, Fault] = {
    "busy": each("UploadPart", answers("SlowDown", 503), answers("InternalError", 500)),
    "a part arrives damaged": each("UploadPart", damages, damages),
    "a small file arrives damaged": each("PutObject", damages),
    "parts are cut": each("UploadPart", cuts, cuts),
    "the reply to a part is lost": each("UploadPart", loses_reply),
    "the reply to a small file is lost": each("PutObject", loses_reply),
    "the reply to the completion is lost": each("CompleteMultipartUpload", loses_reply),
    "the completion is cut": each("CompleteMultipartUpload", cuts),
    "the completion is an error with status 200": each("CompleteMultipartUpload", error_in_200, error_in_200),
    "the completion conflicts": each("CompleteMultipartUpload", answers("ConditionalRequestConflict", 409)),
    "the completion is answered 503": each("CompleteMultipartUpload", answers("SlowDown", 503)),
    "the upload is forgotten": each("UploadPart", answers("NoSuchUpload", 404)),
    "the upload is forgotten at its completion": each(
        "CompleteMultipartUpload", answers("NoSuchUpload", 404)
    ),
    "the reply to the creation is lost": each("CreateMultipartUpload", loses_reply, loses_reply),
    "notes are cut": each("PutOwn", cuts, cuts, answers("SlowDown", 503), cuts, cuts),
    "the creation is cut": each("CreateMultipartUpload", cuts, answers("InternalError", 500)),
    "looks are cut": each("HeadObject", cuts, answers("SlowDown", 503)),
}


# moto compares no checksum with a body, and states 2010 as the time at which every upload began
NOT_ON_MOTO = {"a part arrives damaged", "a small file arrives damaged", "the reply to the creation is lost"}
CASES = [(name, what) for name in ("seaweed", "moto") for what in FAULTS]


@pytest.mark.parametrize(
    ("store", "what"),
    [(name, what) for name, what in CASES if name == "seaweed" or what not in NOT_ON_MOTO],
    indirect=["store"],
)
async def test_faults_between_the_tool_and_the_store_cost_no_byte(
    origin: Origin, store: Store, held: Held, bucket: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = FAULTS[what]
        wanted = rows(origin, large=LARGE, small=b"small")
        report = await fetch_all(wanted, f"s3://{bucket}/p", settings=patient())
    assert counts(report) == {Status.FETCHED: 2}, report.failures
    assert {key: held.data(key) for key in held.every()} == {"p/d/large": LARGE, "p/d/small": b"small"}
    assert held.uploads() == []


@pytest.mark.parametrize(
    ("store", "does"),
    [
        ("seaweed", "aborts it"),  # moto answers 500 to the completion of an upload that it does not have
        ("seaweed", "replaces a part"),
        ("moto", "replaces a part"),
        ("seaweed", "takes the name"),
        ("moto", "takes the name"),
    ],
    indirect=["store"],
)
async def test_another_program_that_meddles_with_an_upload_causes_no_wrong_object(
    origin: Origin, store: Store, held: Held, bucket: str, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself refuses the completion here: NoSuchUpload, InvalidPart, PreconditionFailed."""

    def meddle(query: Any) -> None:
        upload = {"Bucket": bucket, "Key": "p/d/f", "UploadId": query["uploadId"]}
        if does == "aborts it":
            held.client.abort_multipart_upload(**upload)
        elif does == "replaces a part":
            held.client.upload_part(**upload, PartNumber=1, Body=noise(PART, 99))
        else:
            held.put("p/d/f", b"of another program")

    async def fault(proxy: Any, call: Any, request: Any) -> None:
        if call.kind == "CompleteMultipartUpload" and call.number == 0:
            await asyncio.to_thread(meddle, request.query)

    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = fault
        wanted = rows(origin, f=LARGE)
        report = await fetch_all(wanted, f"s3://{bucket}/p", settings=patient())
        if does == "takes the name":
            assert "--overwrite" in str(report.failures[0].error)
            assert held.data("p/d/f") == b"of another program"
            over = quick(storage={"existing": "overwrite"})
            report = await fetch_all(wanted, f"s3://{bucket}/p", settings=over)
            assert report.bytes < PART, "the upload was kept"
    assert counts(report) == {Status.FETCHED: 1}, report.failures
    assert held.data("p/d/f") == LARGE
    assert held.every() == ["p/d/f"]


async def test_a_small_object_that_differs_from_what_was_sent_is_deleted_and_made_again(
    origin: Origin, store: Store, held: Held, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        wanted = rows(origin, small=b"small")
        proxy.fault = each("PutObject", *[misstates_checksum] * 100)
        failed = await fetch_all(wanted, f"s3://{bucket}/p", settings=patient())
        assert "differs from what was sent" in str(failed.failures[0].error)
        assert held.every() == []
        proxy.counts.clear()
        proxy.fault = each("PutObject", misstates_checksum)
        report = await fetch_all(wanted, f"s3://{bucket}/p", settings=patient())
    assert counts(report) == {Status.FETCHED: 1}, report.failures
    assert (held.every(), held.data("p/d/small")) == (["p/d/small"], b"small")


@on_both_stores
async def test_a_store_without_checksums_and_conditions_is_used_with_md5(
    origin: Origin, store: Store, held: Held, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def old(proxy: Any, call: Any, request: Any) -> Any:
        sums = [name for name in request.headers if name.lower().startswith("x-amz-checksum")]
        if sums and request.method != "HEAD":
            return await answers("InvalidRequest", 400)(proxy, call, request)
        if "If-None-Match" in request.headers or "If-Match" in request.headers:
            return await answers("NotImplemented", 501)(proxy, call, request)
        return None

    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = old
        wanted = rows(origin, large=LARGE, small=b"small")
        report = await fetch_all(wanted, f"s3://{bucket}/p", settings=patient())
    assert counts(report) == {Status.FETCHED: 2}, report.failures
    assert held.data("p/d/large") == LARGE


@on_both_stores
async def test_a_store_that_is_full_is_reported_as_such(
    origin: Origin, store: Store, held: Held, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        full = answers("QuotaExceeded", 403)
        proxy.fault = each("UploadPart", *[full] * 1000)
        with pytest.raises(FetchError, match="no space left or its quota"):
            await fetch_all(rows(origin, large=LARGE), f"s3://{bucket}/p", settings=quick())
    assert held.every("p/d") == []


def started(manifest: Path, target: str, *more: str) -> subprocess.Popen[bytes]:
    """Start a `get` process."""
    words = [sys.executable, "-m", "osp_fetch", "get", str(manifest), "-o", target, "-q", "-k", "4MiB", *more]
    return subprocess.Popen(words, cwd=manifest.parent)


# not on moto, which states one time for the begin of all uploads: those without a note cannot be told apart
async def test_killed_runs_are_continued_and_fetch_little_twice(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    data = {
        "a": noise(6 * PART + 5, 1),
        "b": noise(5 * PART, 2),
        **{f"s{n}": noise(9000 + n, n) for n in range(30)},
    }
    links = [origin.add(name, content, always=slow(6 * MIB)) for name, content in data.items()]
    manifest = tmp_path / "m.txt"
    manifest.write_text("\n".join(links))
    connections, kills = 2, 4
    for number in range(kills):
        run = started(manifest, f"s3://{bucket}/p", "-j", str(connections))
        await asyncio.sleep(1.6 + 0.4 * number)  # the moment of the kill
        run.send_signal(signal.SIGKILL)
        await asyncio.to_thread(run.wait)
        there = {key: held.data(key) for key in held.every("p/") if "/.osp-fetch/" not in key}
        assert all(data[key.removeprefix("p/")] == found for key, found in there.items())
    last = started(manifest, f"s3://{bucket}/p", "-j", str(connections))
    assert await asyncio.to_thread(last.wait) == 0
    assert {key: held.data(key) for key in held.every()} == {f"p/{n}": d for n, d in data.items()}
    assert held.uploads() == []


async def test_the_store_is_killed_and_comes_back(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    own = Seaweed(tmp_path)
    own.start()
    try:
        name = own.bucket("mine")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", own.url)
        row = entry("f", origin.add("f", LARGE, always=slow(8 * MIB)))
        run = asyncio.create_task(fetch_all([row], f"s3://{name}", settings=patient()))
        await asyncio.sleep(1.0)  # the moment of the kill
        await asyncio.to_thread(own.kill)
        await asyncio.to_thread(own.start)
        report = await run
        assert report.ok, report.failures
        assert Held(own.client(), name).data("f") == LARGE
    finally:
        own.kill()


@on_both_stores
async def test_a_lost_ledger_costs_the_unfinished_uploads_and_no_other(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    foreign = held.client.create_multipart_upload(Bucket=bucket, Key="p/of-another-program")["UploadId"]
    row = entry("f", origin.add("f", LARGE, always=slow(4 * MIB)))
    lost, found = tmp_path / "lost", tmp_path / "found"
    run = asyncio.create_task(
        fetch_all([row], f"s3://{bucket}/p", settings=patient(two_connections=True), state=lost)
    )
    while "p/f" not in await asyncio.to_thread(held.uploads):
        await asyncio.sleep(0.05)
    run.cancel()
    await asyncio.wait({run})
    assert sorted(held.uploads()) == ["p/f", "p/of-another-program"]
    assert (await fetch_all([row], f"s3://{bucket}/p", settings=patient(), state=found)).ok
    assert held.uploads() == ["p/of-another-program"]
    held.client.abort_multipart_upload(Bucket=bucket, Key="p/of-another-program", UploadId=foreign)
    assert held.every() == ["p/f"]


@on_both_stores
async def test_without_its_state_a_run_replaces_what_it_has_written_from_the_same_source(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    held.put("p/foreign", b"x")
    rows = [
        entry("empty", origin.add("empty", b"")),
        entry("f", origin.add("f", noise(5000), always=chunked)),
        entry("foreign", origin.add("foreign", noise(10))),
    ]
    for state in ("lost", "new"):
        report = await fetch_all(rows, f"s3://{bucket}/p", settings=patient(), state=tmp_path / state)
        assert [each.path for each in report.failures] == ["foreign"]
    assert (held.data("p/empty"), held.data("p/f"), held.data("p/foreign")) == (b"", noise(5000), b"x")


@on_both_stores
@pytest.mark.parametrize("size", [5000, PART + 100])
async def test_an_object_from_a_link_with_another_query_is_kept(
    origin: Origin, held: Held, bucket: str, tmp_path: Path, size: int
) -> None:
    """`/dl?id=one` and `/dl?id=two` are two files, though metadata show no query."""
    url = origin.add("dl", noise(size))
    first = await fetch_all(
        [entry("f", f"{url}?id=one")], f"s3://{bucket}/p", settings=patient(), state=tmp_path / "a"
    )
    assert first.ok
    origin.add("dl", noise(size, 1))
    second = await fetch_all(
        [entry("f", f"{url}?id=two")], f"s3://{bucket}/p", settings=patient(), state=tmp_path / "b"
    )
    assert [each.status for each in second.outcomes] == [Status.FAILED]
    assert held.data("p/f") == noise(size)


@on_both_stores
async def test_an_upload_that_states_a_wrong_sha256_is_not_continued(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    data, stop = noise(4 * PART, 1), StopToken()
    url = origin.add("f", data, always=slow(8 * MIB))
    settings = patient(two_connections=True)

    def observe(event: Event) -> None:
        if isinstance(event, Wrote) and held.uploads():
            stop.ask("test")

    wrong = entry("f", url, None, "sha256:" + "b" * 64)
    place = f"s3://{bucket}/p"
    stopped = await fetch_all([wrong], place, settings=settings, state=tmp_path, stop=stop, observer=observe)
    assert stopped.stopped == "test"
    right = entry("f", url, None, sha256(data))
    assert (await fetch_all([right], place, settings=settings, state=tmp_path)).ok
    assert held.data("p/f") == data
    assert (
        held.client.head_object(Bucket=bucket, Key="p/f")["Metadata"]["sha256"]
        == hashlib.sha256(data).hexdigest()
    )
    assert held.uploads() == []


@on_both_stores
def test_clean_aborts_our_uploads_and_lists_them_before(held: Held, bucket: str, command: Command) -> None:
    held.client.create_multipart_upload(Bucket=bucket, Key="p/of-another-program")
    ours = held.client.create_multipart_upload(Bucket=bucket, Key="p/f")["UploadId"]
    held.put("p/.osp-fetch/uploads/0-of-2/token", json.dumps({"path": "f", "upload": ours}).encode())
    shown = command("clean", f"s3://{bucket}/p", "-n")
    assert "would abort" in shown.stdout
    assert len(held.uploads()) == 2
    done = command("clean", f"s3://{bucket}/p")
    assert (done.returncode, done.stdout.count("aborted:")) == (0, 1)
    assert held.uploads() == ["p/of-another-program"]
    assert held.every() == []


@on_both_stores
def test_clean_names_the_prefixes_below_that_have_uploads_of_their_own(
    held: Held, bucket: str, command: Command
) -> None:
    ours = held.client.create_multipart_upload(Bucket=bucket, Key="p/child/d/f")["UploadId"]
    held.put("p/child/.osp-fetch/uploads/run/token", json.dumps({"path": "d/f", "upload": ours}).encode())
    held.client.create_multipart_upload(Bucket=bucket, Key="p/other/of-another-program")
    for prefix in ("", "/p"):
        done = command("clean", f"s3://{bucket}{prefix}")
        assert done.returncode == 0
        named = [line for line in done.stderr.splitlines() if "of its own" in line]
        assert named == [
            f"s3://{bucket}/p/child: has unfinished uploads of its own; run: osp-fetch clean s3://{bucket}/p/child"
        ]
    assert "aborted" in command("clean", f"s3://{bucket}/p/child").stdout
    assert held.uploads() == ["p/other/of-another-program"]


async def test_the_state_of_another_store_is_not_compared_with_this_one(
    origin: Origin, held: Held, bucket: str, command: Command, moto: Moto
) -> None:
    wanted, place = rows(origin, f=b"x"), f"s3://{bucket}/p"
    assert (await fetch_all(wanted, place, settings=quick())).ok
    moto.bucket(bucket)
    (row,) = wanted
    for words in (["status"], ["verify"], ["plan", row.urls[0], "-o"]):
        done = await asyncio.to_thread(command, *words, place, "--s3-endpoint", moto.url)
        assert (done.returncode, "holds the state of" in done.stderr) == (2, True), (words, done.stderr)


@on_both_stores
def test_clean_makes_no_bucket(held: Held, bucket: str, command: Command) -> None:
    done = command("clean", f"s3://{bucket}-typo/x")
    assert done.returncode == 3, done.stderr
    assert "there is no bucket" in done.stderr
    assert bucket in (names := [each["Name"] for each in held.client.list_buckets()["Buckets"]])
    assert f"{bucket}-typo" not in names


async def test_what_clean_has_aborted_is_not_said_to_be_held(
    origin: Origin, held: Held, bucket: str, command: Command, tmp_path: Path
) -> None:
    row = entry("f", origin.add("f", LARGE, always=slow(4 * MIB)))
    place, state = f"s3://{bucket}/p", tmp_path / "state"
    run = asyncio.create_task(fetch_all([row], place, settings=patient(two_connections=True), state=state))
    while not await asyncio.to_thread(_recorded_parts, state):
        await asyncio.sleep(0.02)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    def held_bytes() -> int:
        return int(json.loads(command("status", place, "--state", state, "--json").stdout)["held_bytes"])

    assert await asyncio.to_thread(held_bytes) >= PART
    done = await asyncio.to_thread(command, "clean", place, "--state", state)
    assert "aborted" in done.stdout, done.stderr
    assert await asyncio.to_thread(held_bytes) == 0


def _recorded_parts(state: Path) -> int:
    found = list(state.rglob("uploads.sqlite3"))
    if not found:
        return 0
    with closing(sqlite3.connect(found[0])) as ledger:
        try:
            return int(ledger.execute("SELECT count(*) FROM parts").fetchone()[0])
        except sqlite3.OperationalError:  # not created yet, or locked
            return 0


async def test_a_damaged_object_is_not_forgotten_because_it_is_kept(
    origin: Origin, held: Held, bucket: str, command: Command
) -> None:
    wanted, place = rows(origin, f=LARGE), f"s3://{bucket}/p"
    assert (await fetch_all(wanted, place, settings=quick())).ok
    held.put("p/d/f", b"CORRUPT")
    for _ in range(2):
        assert counts(await fetch_all(wanted, place, settings=quick())) == {Status.FAILED: 1}
        done = await asyncio.to_thread(command, "verify", place)
        assert (done.returncode, "1 damaged" in done.stdout) == (1, True), done.stdout
        shown = await asyncio.to_thread(command, "status", place)
        assert "1 changed since" in shown.stdout


async def test_a_list_of_sums_replaces_no_fetched_file(
    origin: Origin, held: Held, bucket: str, command: Command
) -> None:
    wanted = [entry("SHA256SUMS", origin.add("s", b"theirs")), entry("f", origin.add("f", b"x"))]
    assert (await fetch_all(wanted, f"s3://{bucket}", settings=quick())).ok
    done = await asyncio.to_thread(command, "status", f"s3://{bucket}", "--sums", "--put")
    assert (done.returncode, "one of the fetched files" in done.stderr) == (3, True), done.stderr
    assert held.data("SHA256SUMS") == b"theirs"


async def test_two_runs_to_one_prefix_exclude_each_other(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    row = entry("f", origin.add("f", LARGE, always=slow(4 * MIB)))
    first = asyncio.create_task(
        fetch_all([row], f"s3://{bucket}/p", settings=patient(two_connections=True), state=tmp_path / "1")
    )
    while not await asyncio.to_thread(held.every, "p/.osp-fetch/lock"):
        await asyncio.sleep(0.05)
    with pytest.raises(FolderBusyError, match="another run"):
        await fetch_all([row], f"s3://{bucket}/p", settings=quick(), state=tmp_path / "2")
    waited = await fetch_all([row], f"s3://{bucket}/p", settings=quick(), state=tmp_path / "2", wait_lock=60)
    assert (await first).ok
    assert counts(waited) == {Status.PRESENT: 1}


async def test_shards_of_one_prefix_leave_each_others_uploads_alone(
    origin: Origin, held: Held, bucket: str, tmp_path: Path
) -> None:
    data = {"a": LARGE, "b": noise(3 * PART, 7)}
    wanted = [entry(name, origin.add(name, each, always=slow(4 * MIB))) for name, each in data.items()]
    settings = patient(two_connections=True)

    async def shard(number: int) -> Report:
        target, state = f"s3://{bucket}/p", tmp_path / str(number)
        return await fetch_all(wanted, target, settings=settings, state=state, shard=(number, 2))

    first = asyncio.create_task(shard(0))
    while not await asyncio.to_thread(held.uploads):
        await asyncio.sleep(0.05)
    second = await shard(1)
    assert (await first).counts[Status.FETCHED] == second.counts[Status.FETCHED] == 1
    assert (await first).bytes + second.bytes < sum(map(len, data.values())) + PART
    assert {key: held.data(key) for key in held.every()} == {f"p/{n}": d for n, d in data.items()}


async def test_a_state_folder_belongs_to_one_bucket(origin: Origin, bucket: str, tmp_path: Path) -> None:
    wanted = rows(origin, f=b"1")
    assert (await fetch_all(wanted, f"s3://{bucket}/p", settings=quick(), state=tmp_path / "s")).ok
    with pytest.raises(SettingsError, match="--state"):
        await fetch_all(wanted, f"s3://{bucket}/q", settings=quick(), state=tmp_path / "s")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_plan_status_and_verify_of_a_bucket(
    held: Held, bucket: str, command: Command, tmp_path: Path
) -> None:
    from tests.test_nginx import Nginx

    server, loop = Nginx(tmp_path), asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    try:
        for name, data in {"large": LARGE, "small": b"small"}.items():
            (server.files / name).write_bytes(data)
        (tmp_path / "m.csv").write_text(
            f"url,size\n{server.url('large')},{len(LARGE)}\n{server.url('small')},5\n"
        )
        target = f"s3://{bucket}/p"
        plan = json.loads(command("plan", "m.csv", "-o", target, "--json").stdout)
        assert (plan["parts"], plan["widest_part"], plan["free"], plan["present"]) == (4, PART, None, 0)
        done = command("get", "m.csv", "-o", target)
        assert done.returncode == 0, done.stderr
        assert "parts of 8.0 MiB" in done.stderr
        assert json.loads(command("plan", "m.csv", "-o", target, "--json").stdout)["present"] == 2
        assert json.loads(command("status", target, "--json").stdout)["published"] == 2
        assert f"{sha256(LARGE).removeprefix('sha256:')}  " in command("status", target, "--sums").stdout
        stored, read = command("verify", target), command("verify", target, "--read")
        assert "2 ok (compared with the store's checksums, not read)" in stored.stdout
        assert "2 ok (read and hashed)" in read.stdout
        (key,) = [key for key in held.every() if key.endswith("large")]
        held.put(key, LARGE[:-1] + b"?")
        for flags in ((), ("--read",)):
            found = command("verify", target, *flags)
            assert found.returncode == 1
            assert "damaged: " in found.stdout
            assert "Run the same get again with --overwrite" in found.stderr
        assert command("get", "m.csv", "-o", target, "--overwrite").returncode == 0
        assert command("verify", target, "--read").returncode == 0
        held.client.delete_object(Bucket=bucket, Key=key)
        assert "missing: " in command("verify", target).stdout
    finally:
        loop.run_until_complete(server.stop())
        loop.close()


@pytest.mark.parametrize(
    ("environment", "target", "code", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "{}", 4, "refuses the credentials"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "{}", 4, "refuses the credentials"),
        ({"AWS_PROFILE": "none"}, "{}", 4, "check AWS_PROFILE"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "{}", 3, "does not answer"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "{}", 2, "nonsense"),
        (Seaweed.reader, "{}", 3, "do not allow it"),
        ({}, "", 2, "not the name of a bucket"),
        ({}, "{}/a//b", 2, "prefix"),
    ],
)
def test_bad_input_is_one_sentence(
    bucket: str, command: Command, environment: dict[str, str], target: str, code: int, said: str
) -> None:
    words = ("get", "http://127.0.0.1:9/f", "-o", f"s3://{target.format(bucket)}", "-q")
    done = command(*words, "--set", "storage.disk_patience=1s", **environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


@on_both_stores
def test_a_missing_bucket_is_reported_by_name(bucket: str, command: Command) -> None:
    done = command("get", "http://127.0.0.1:9/f", "-o", "s3://no-such-bucket-here", "-q")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "there is no bucket 'no-such-bucket-here'" in done.stderr


def test_without_the_library_a_bucket_is_refused_with_the_command_that_installs_it(
    without: Command,
) -> None:
    done = without({"aiobotocore"}, "get", "http://127.0.0.1:9/f", "-o", "s3://bucket/p", "-q")
    assert done.returncode == 2
    assert "pip install 'osp-fetch[s3]'" in done.stderr


# ---- without a store


@pytest.mark.parametrize(
    ("length", "size"), [(0, PART), (72_000 * MIB, PART), (72_000 * MIB + 1, 9 * MIB), (5 << 40, 583 * MIB)]
)
def test_parts_are_as_small_as_the_number_of_parts_allows(length: int, size: int) -> None:
    assert part_size(length) == size
    assert -(-length // size) <= 9000


def test_cells_of_a_grid_follow_each_other_and_grow_without_a_known_length() -> None:
    grid, at = Grid(None, 10), 0
    cells: list[int] = []
    while at < 10 * 1000 + 20 * 1000 + 40 * 3:
        cell = grid.cell(at)
        assert (cell.start, cell.number) == (at, len(cells) + 1)
        assert grid.cell(cell.stop - 1) == cell
        cells.append(cell.stop - cell.start)
        at = cell.stop
    assert cells == [10] * 1000 + [20] * 1000 + [40] * 3


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5", "sha512", "git-blob-sha1"])
def test_digests_are_continued_from_their_state(algorithm: str) -> None:
    data = noise(1_000_000)
    first = RunningDigests(frozenset({algorithm}), len(data))
    first.update(memoryview(data)[:300_001])
    second = RunningDigests(frozenset({algorithm}), len(data), first.state())
    for each_one in (first, second):
        each_one.update(memoryview(data)[300_001:])
    head = b"blob %d\0" % len(data) if algorithm == "git-blob-sha1" else b""
    name = "sha1" if head else algorithm
    assert first.result() == second.result() == {algorithm: hashlib.new(name, head + data).hexdigest()}
    assert second.result() == first.result(), "asking does not change it"


def test_digests_without_a_state_are_not_continued() -> None:
    digests = RunningDigests(frozenset({"sha256", "sha384"}), 3)
    digests.update(memoryview(b"abc"))
    assert digests.state() is None
    only = RunningDigests(frozenset({"sha256"}), 3)
    with pytest.raises(ValueError, match="from the start"):
        RunningDigests(frozenset({"sha256", "md5"}), 3, only.state())


@pytest.mark.parametrize("scheme", [CRC64NVME, CRC32C])
def test_checksums_of_parts_combine_to_that_of_the_file(scheme: Any) -> None:
    data = memoryview(noise(100_000))
    cuts_at = [0, 1, 40_000, 40_001, 100_000]
    parts = [data[a:b] for a, b in itertools.pairwise(cuts_at)]
    assert scheme.combined([(scheme.sum(part), len(part)) for part in parts]) == scheme.sum(data)


class File:
    """A holder of part memory that gives up the parts in `ahead`."""

    def __init__(self, memory: PartMemory, touched: float = 0.0) -> None:
        self.memory, self.touched = memory, touched
        self.ahead: list[Any] = []

    def give_up_part(self) -> bool:
        if self.ahead:
            self.memory.give(self.ahead.pop())
            return True
        return False


async def test_memory_for_parts_is_never_exceeded_and_the_next_part_gets_it_from_its_own_file() -> None:
    memory = PartMemory(30)
    file = File(memory)
    first = [await memory.take(10, file, is_next=False) for _ in range(3)]
    waiting = asyncio.create_task(memory.take(10, file, is_next=False))
    await asyncio.sleep(0)
    assert (memory.used, waiting.done()) == (30, False)
    memory.give(first.pop())
    await waiting
    file.ahead = [first.pop()]
    await memory.take(10, file, is_next=True)
    assert memory.used == 30
    assert not file.ahead


async def test_free_memory_of_all_part_sizes_together_stays_within_the_limit() -> None:
    memory = PartMemory(64)
    file = File(memory)
    for size in (8, 16, 32, 64):
        for buffer in [await memory.take(size, file, is_next=True) for _ in range(64 // size)]:
            memory.give(buffer)
    assert memory.used == 0
    assert sum(size * len(kept) for size, kept in memory._free.items()) <= 64


async def test_memory_of_a_file_that_makes_no_progress_goes_to_others() -> None:
    memory, now = PartMemory(20), asyncio.get_running_loop().time()
    stuck, quick_one = File(memory, now - 100), File(memory, now + 100)
    for file in (stuck, quick_one):
        memory.add(file)
        file.ahead = [await memory.take(10, file, is_next=False)]
    async with asyncio.timeout(10):
        await memory.take(10, quick_one, is_next=False)
    assert (len(stuck.ahead), len(quick_one.ahead)) == (0, 1)


async def test_a_part_larger_than_all_memory_is_possible_alone() -> None:
    memory = PartMemory(10)
    await memory.take(50, File(memory), is_next=False)
    assert memory.used == 50


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://b1-x", "b1-x", ""),
        ("S3://b1/", "b1", ""),
        ("s3://b1/a/b/", "b1", "a/b/"),
        ("s3://b1/ä x", "b1", "ä x/"),
    ],
)
def test_addresses_of_buckets(text: str, bucket: str, prefix: str) -> None:
    address = bucket_address(text)
    assert (address.bucket, address.prefix) == (bucket, prefix)
    assert state_root(address).is_relative_to(Path.home() / ".local/state") or "XDG_STATE_HOME" in os.environ


async def test_a_part_that_is_given_up_while_its_write_waits_for_memory_is_written_again(
    held: Held, bucket: str, tmp_path: Path
) -> None:
    class Busy:
        """A file that keeps memory, and is never idle."""

        touched = 1e18

        def give_up_part(self) -> bool:
            return False

    state, part, lost, busy = tmp_path / ".osp-fetch", 5 * MIB, list[ByteRange](), Busy()
    state.mkdir()
    data, half = memoryview(noise(3 * part)), part // 2
    async with BucketStore(
        bucket_address(f"s3://{bucket}"), state, quick(), memory=3 * part, least=part
    ) as store:
        memory = store._shared.memory
        memory.add(busy)
        taken = [await memory.take(part, busy, is_next=True) for _ in range(2)]
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True, lost=lost.append)
        await partial.begin(len(data), len(data))
        at = part + half
        writing = asyncio.create_task(partial.write(at, data[at : at + part]))
        while not lost:
            await asyncio.sleep(0.05)
        for buffer in taken:
            memory.give(buffer)
        await writing
        assert lost == [ByteRange(at, 2 * part)]
        await partial.write(0, data[:at])
        await partial.write(at + part, data[at + part :])
        digests, _ = await partial.hashing.digests(len(data))
        assert digests["sha256"] == hashlib.sha256(data).hexdigest()
        await partial.publish(len(data))
        await partial.close()
    assert held.data("f") == bytes(data)


async def test_bytes_that_were_given_up_are_fetched_again(bucket: str, tmp_path: Path) -> None:
    state = tmp_path / ".osp-fetch"
    state.mkdir()
    lost: list[ByteRange] = []
    part = 5 * MIB  # the smallest that the store completes
    data = noise(3 * part + 8_000)
    async with BucketStore(
        bucket_address(f"s3://{bucket}"), state, quick(), memory=2 * part, least=part
    ) as store:
        partial = store.partial(RelativePath("f"), frozenset({"sha256"}), fresh=True, lost=lost.append)
        await partial.begin(len(data), len(data))
        # the second and third part fill the memory, and wait for the first one
        await partial.write(part, memoryview(data)[part : 3 * part])
        await asyncio.sleep(0.6)  # longer than a part must rest before it may be given up
        await partial.sync(lost_set())
        await partial.write(0, memoryview(data)[:part])
        assert lost == [ByteRange(2 * part, 3 * part)]
        await partial.write(2 * part, memoryview(data)[2 * part :])
        digests, _ = await partial.hashing.digests(len(data))
        await partial.publish(len(data))
        await partial.close()
        assert "sha256:" + digests["sha256"] == sha256(data)
        found = await store.published.examine(RelativePath("f"), frozenset({"sha256"}))
        assert "sha256:" + found.digests["sha256"] == sha256(data)


def lost_set() -> Any:
    from osp_fetch.model.ranges import NOTHING

    return NOTHING


async def test_checksums_are_written_as_an_object(
    origin: Origin, held: Held, bucket: str, tmp_path: Path, command: Command
) -> None:
    data = {"a": b"one", "b": b"two"}
    await fetch_all(rows(origin, **data), f"s3://{bucket}/x", settings=quick(), state=tmp_path / "s")
    words = ("status", f"s3://{bucket}/x", "--sums", "--put", "--state", tmp_path / "s")
    for _ in range(2):  # it replaces its own list
        done = await asyncio.to_thread(command, *words)
        assert done.returncode == 0, done.stderr
    listed = "".join(f"{hashlib.sha256(content).hexdigest()}  d/{name}\n" for name, content in data.items())
    assert held.data("x/SHA256SUMS").decode() == listed
    held.put("x/SHA256SUMS", b"mine")
    refused = await asyncio.to_thread(command, *words)
    assert refused.returncode != 0
    assert held.data("x/SHA256SUMS") == b"mine"


def test_reading_finds_damage_also_where_no_sha256_is_recorded(
    seaweed: Seaweed, bucket: str, tmp_path: Path
) -> None:
    """An object that was copied on the server has the store's checksums only, or none at all."""
    target = destination(f"s3://{bucket}/v", tmp_path)
    client, data = seaweed.client(), noise(50_000, 1)
    for name in ("sum", "none", "short"):
        client.put_object(Bucket=bucket, Key=f"v/{name}", Body=data)
    state = tmp_path / ".osp-fetch"
    state.mkdir(parents=True)

    async def record() -> None:
        async with SqliteLedger(state / "ledger.sqlite3") as ledger:
            for name in ("sum", "none", "short"):
                etag = client.head_object(Bucket=bucket, Key=f"v/{name}")["ETag"]
                digests = {"md5": hashlib.md5(data).hexdigest()} if name == "sum" else {}
                await ledger.put(
                    Record(RelativePath(name), "h/x", len(data), digests=digests,
                           published=state_of(len(data), etag))
                )  # fmt: skip

    asyncio.run(record())

    def verdicts() -> dict[str, str]:
        with opened_place(target, quick()) as place:
            assert isinstance(place, BucketPlace)
            return {each.path: each.verdict for each in verify_bucket(place, read=True)}

    assert verdicts() == {"sum": "ok", "none": "unchecked", "short": "unchecked"}
    for name, wrong in (("sum", bytes(50_000)), ("none", bytes(50_000)), ("short", b"short")):
        client.put_object(Bucket=bucket, Key=f"v/{name}", Body=wrong)
    assert verdicts() == dict.fromkeys(("sum", "none", "short"), "damaged")


@pytest.mark.parametrize("change", [3, 6, 11])
async def test_versions_without_any_validator_are_never_mixed_in_a_bucket(
    origin: Origin, seaweed: Seaweed, bucket: str, change: int
) -> None:
    """Parts of an upload cannot be read back: they are compared while their bytes are in memory."""
    versions, requests = (noise(20 << 20, 1), noise(20 << 20, 2)), 0

    async def other(exchange: Exchange, page: o.Page) -> None:
        nonlocal requests
        requests += 1
        await exchange.serve(Blob(versions[requests > change]), page.headers, rate=20e6)

    row = entry("f", origin.add("f", versions[0], always=other))
    limits = {"per_host": 4, "part_size": "1MiB"}
    report = await fetch_all([row], f"s3://{bucket}/w{change}", settings=quick(limits=limits))
    assert report.ok, report.failures
    found = seaweed.client().get_object(Bucket=bucket, Key=f"w{change}/f")["Body"].read()
    assert found == versions[1]


async def test_a_name_that_the_store_calls_taken_and_does_not_show_fails_in_time(
    origin: Origin, seaweed: Seaweed, bucket: str
) -> None:
    """SeaweedFS refuses `a` where there is `a/b`, and shows no object `a`."""
    seaweed.client().put_object(Bucket=bucket, Key="y/a/b", Body=b"x")
    row = entry("a", origin.add("a", noise(500, 1)))
    async with asyncio.timeout(60):
        report = await fetch_all([row], f"s3://{bucket}/y", settings=quick(storage={"disk_patience": 1}))
    assert [str(each.error) for each in report.failures if "the name is taken" in str(each.error)]
