"""Tests of objects that are put without the machinery of botocore, on SeaweedFS and moto. Not run on AWS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from osp_fetch import Status, fetch_all
from osp_fetch.model.settings import S3
from osp_fetch.s3.address import BucketAddress
from osp_fetch.s3.client import Bucket
from osp_fetch.s3.errors import BucketError, UnansweredError
from osp_fetch.s3.session import connected
from osp_fetch.storage.bucket.part_memory import Body
from osp_fetch.storage.bucket.sums import CRC64NVME
from tests.conftest import quick
from tests.held import Held, Store
from tests.origin import Origin, noise
from tests.s3_proxy import Fault, answers, cuts, damages, loses_reply, proxied, refusal
from tests.test_bucket import counts, on_both_stores, rows

# botocore quotes all but unreserved letters and the slash; a store takes any key of UTF-8
KEYS = [
    *("a/b.bin", "a b", "a+b", "a%20b", "a=b&c?d#e", "~._-", "täg/文件", "(1)!*'", "a:b,c;d"),
    'q"<>[]{}|^`',
]  # fmt: skip
METADATA = {"osp-token": "t" * 32, "source": "host/p%20q"}


class Sent:
    """The requests that the client has sent itself."""

    def __init__(self, bucket: Bucket) -> None:
        self.urls: list[str] = []
        bucket.watch(lambda url, _: self.urls.append(url))


@asynccontextmanager
async def opened(bucket: str, **more: Any) -> AsyncIterator[tuple[Bucket, Sent]]:
    address = BucketAddress(bucket, "")
    async with connected(address, S3(**more), 4, 2.0) as found:
        yield found, Sent(found)


def crc(data: bytes) -> int:
    return CRC64NVME.sum(memoryview(data))


async def put(bucket: Bucket, key: str, data: bytes, **arguments: str) -> dict[str, Any]:
    return await bucket.put("it", key, data, METADATA, **arguments)


@on_both_stores
async def test_objects_are_the_same_as_those_that_the_client_puts(held: Held, bucket: str) -> None:
    async with opened(bucket) as (mine, sent):
        for number, key in enumerate(["first", *KEYS]):
            data = f"{number} {key}".encode()
            reply = await put(mine, key, data)
            found = held.client.head_object(Bucket=bucket, Key=key)
            assert reply["ETag"] == found["ETag"]
            assert found["Metadata"] == METADATA
            assert held.data(key) == data
        for length in (0, 1, 3 << 20):
            data = noise(length)
            body = Body(memoryview(data))
            await put(mine, "file", data[:1])
            await mine.put("it", "file", body, METADATA, **CRC64NVME.arguments(memoryview(data), crc(data)))
            assert held.data("file") == data
            held.client.delete_object(Bucket=bucket, Key="file")
        assert len(sent.urls) == 1, "the client has put the first object alone"
        assert sorted(held.every()) == sorted(["first", *KEYS])


async def test_urls_are_those_of_the_client(bucket: str) -> None:
    async with opened(bucket) as (mine, sent):
        await put(mine, "first", b"1")
        base = sent.urls[0].removesuffix("first")
        for key in [*KEYS, "a\\b", "a//b", "a/../b", "./a", "a/"]:
            with suppress(BucketError):  # this store refuses some of them
                await mine.once("put_object", "it", Key=key, Body=b"2")
            place = mine._puts._place
            assert place is not None
            request = await mine._puts._signed(place, key, b"2", {}, {})
            assert request.url == sent.urls[-1]
            assert request.url.startswith(base)


@on_both_stores
async def test_conditions_and_checksums_hold(store: Store, held: Held, bucket: str) -> None:
    async with opened(bucket) as (mine, sent):
        await put(mine, "first", b"1")
        made = await put(mine, "k", b"1", IfNoneMatch="*")
        assert len(sent.urls) == 1
        with pytest.raises(BucketError) as taken:
            await put(mine, "k", b"2", IfNoneMatch="*")
        assert taken.value.code == "PreconditionFailed"
        assert len(sent.urls) == 2, "the client knows what a refusal means"
        await put(mine, "k", b"3", IfMatch=made["ETag"])
        assert held.data("k") == b"3"
        assert len(sent.urls) == 2
        if type(store).__name__ == "Seaweed":  # moto compares no checksum with a body
            with pytest.raises(BucketError) as wrong:
                await put(mine, "n", b"1", ChecksumCRC64NVME="AAAAAAAAAAA=")
            assert wrong.value.code == "BadDigest"
            right = await put(mine, "n", b"1", ContentMD5="xMpCOKC5I4INzFCab3WEmw==")
            assert held.data("n") == b"1"
            assert right["ETag"] == '"c4ca4238a0b923820dcc509a6f75849b"'


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (answers("SlowDown", 503), BucketError, 1),
        (cuts, UnansweredError, 2),  # aiohttp repeats a request once if an open connection breaks
        (loses_reply, UnansweredError, 2),
    ],
)
async def test_a_store_that_is_busy_or_silent_is_not_asked_again_at_once(
    store: Store,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    error: type[Exception],
    requests: int,
) -> None:
    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        async with opened(bucket) as (mine, sent):
            await put(mine, "first", b"1")
            proxy.fault = fault
            with pytest.raises(error, match=r"the store is busy \(SlowDown\)|does not answer"):
                await put(mine, "k", b"1")
            assert (proxy.counts["PutObject"], len(sent.urls)) == (1 + requests, 1)


LATER = {
    "busy": answers("SlowDown", 503),
    "cut": cuts,
    "the reply is lost": loses_reply,
    "it arrives damaged": damages,
    "a conflict": answers("ConditionalRequestConflict", 409),
    "refused once": answers("AccessDenied", 403),
    "the signature is refused once": answers("RequestTimeTooSkewed", 403),
}


@pytest.mark.parametrize("what", LATER)
async def test_faults_of_later_objects_cost_no_byte(
    origin: Origin, store: Store, held: Held, bucket: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    data = {f"f{number}": b"%d" % number * 50 for number in range(6)}

    async def fault(proxy: Any, call: Any, request: Any) -> Any:
        if call.kind != "PutObject" or call.number not in (2, 4):
            return None
        return await LATER[what](proxy, call, request)

    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = fault
        settings = quick(storage={"disk_patience": 30}, limits={"connections": 1})
        report = await fetch_all(rows(origin, **data), f"s3://{bucket}/p", settings=settings)
    assert counts(report) == {Status.FETCHED: 6}, report.failures
    assert {key: held.data(key) for key in held.every()} == {f"p/d/{k}": v for k, v in data.items()}


async def test_a_store_that_refuses_all_plain_requests_gets_those_of_the_client(
    store: Store, held: Held, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(proxy: Any, call: Any, request: Any) -> Any:
        is_of_client = "amz-sdk-invocation-id" in request.headers
        return None if is_of_client else refusal("AccessDenied", 403)

    async with proxied(store.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = refuses
        async with opened(bucket) as (mine, sent):
            for number in range(20):
                await put(mine, f"k{number}", b"%d" % number)
        assert len(sent.urls) == 20
        assert proxy.counts["PutObject"] == 20 + 5, "they are given up after five"
    assert len(held.every()) == 20


async def test_requests_that_are_not_signed_are_left_to_the_client(bucket: str) -> None:
    async with (
        connected(BucketAddress(bucket, ""), S3(), 4, 0.0, unsigned=True) as mine,
    ):
        sent = Sent(mine)
        for key in ("a", "b"):
            with pytest.raises(BucketError):  # this store has no bucket for everybody
                await put(mine, key, b"1")
        assert len(sent.urls) == 2


async def test_without_the_library_s_own_sender_the_client_puts_everything(held: Held, bucket: str) -> None:
    async with opened(bucket) as (opened_bucket, _):
        client = opened_bucket._client
        plain = Bucket(Renamed(client), opened_bucket.address, 2.0, credentials=object())
        for key in ("a", "b"):
            assert (await put(plain, key, b"1"))["ETag"]
        assert held.every() == ["a", "b"]


class Renamed:
    """A client of a version of the library that calls its sender otherwise."""

    def __init__(self, client: Any) -> None:
        self._found = client

    def __getattr__(self, name: str) -> Any:
        if name == "_endpoint":
            raise AttributeError(name)
        return getattr(self._found, name)
