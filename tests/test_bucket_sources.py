"""Tests of buckets as sources, against a real SeaweedFS server. Not run on AWS."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from osp_fetch import Entry, Settings, Status, fetch_all
from osp_fetch.model.errors import CredentialsError, ManifestError
from osp_fetch.model.settings import S3
from osp_fetch.s3.credentials import SignatureRequest
from osp_fetch.s3.signing import Signer
from osp_fetch.sources.buckets import ObjectAddress, listing
from tests.conftest import quick
from tests.origin import noise
from tests.s3_proxy import proxied
from tests.seaweed import KEYS, Seaweed

MIB = 1 << 20


class Bucket:
    """A bucket on the server, filled with a client of botocore."""

    def __init__(self, seaweed: Seaweed, name: str) -> None:
        self.client: Any = seaweed.client()
        self.name = name

    def put(self, key: str, data: bytes, **more: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **more)

    def put_parts(self, key: str, *parts: bytes) -> None:
        place = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**place)["UploadId"]
        done = [
            {
                "PartNumber": n,
                "ETag": self.client.upload_part(**place, UploadId=upload, PartNumber=n, Body=part)["ETag"],
            }
            for n, part in enumerate(parts, 1)
        ]
        self.client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": done})


@pytest.fixture
def source(seaweed: Seaweed, bucket: str) -> Bucket:
    return Bucket(seaweed, bucket)


def s3(seaweed: Seaweed, **more: Any) -> Settings:
    return quick(s3={"source_endpoint": seaweed.url, **more})


def first(address: str, settings: Settings) -> Entry:
    """Return the only row of an address."""
    ((_, row),) = next(listing(address, settings.s3, lambda _: None))
    assert isinstance(row, Entry)
    return row


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".osp-fetch" not in path.parts
    }


async def test_the_objects_below_a_prefix_become_files_and_their_md5_is_verified(
    source: Bucket, seaweed: Seaweed, tmp_path: Path
) -> None:
    data = {
        "a.txt": b"one",
        "sub/b c+d&é(1)=~.bin": noise(300_000, 1),
        "sub/large": noise(9 * MIB, 2),
        "no": b"",
    }
    for name, content in data.items():
        source.put(f"set/x/{name}", content)
    source.put("set/other", b"not wanted")
    source.put("set/x/", b"")  # marks a folder
    source.put("set/x/.osp-fetch/lock-run", b"{}")
    source.put("set/x/sub/.osp-fetch/unpacked/a.tar.json", b"{}")
    source.put_parts("set/x/parts", noise(5 * MIB, 3), noise(MIB, 4))
    data["parts"] = noise(5 * MIB, 3) + noise(MIB, 4)
    report = await fetch_all(f"s3://{source.name}/set/x/", tmp_path, settings=s3(seaweed))
    assert report.ok, report.failures
    assert tree(tmp_path) == data
    digests = {each.path: each.entry.digest for each in report.outcomes if each.entry}
    for name, content in data.items():
        if name in ("no", "parts"):
            continue
        found = digests[name]
        assert found is not None
        assert found.hex == hashlib.new(found.algorithm, content).hexdigest()
    again = await fetch_all(f"s3://{source.name}/set/x/", tmp_path, settings=s3(seaweed))
    assert {each.status for each in again.outcomes} == {Status.PRESENT}


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("", {"k", "k-1", "k/a.tar", "k/b.txt", "k/deep/c.tar", "m[1]/d"}),
        ("/k", {"k"}),
        ("/k/", {"a.tar", "b.txt", "deep/c.tar"}),
        ("/k/deep", {"c.tar"}),
        ("/k/*.tar", {"a.tar", "deep/c.tar"}),
        ("/k*", {"k", "k-1", "k/a.tar", "k/b.txt", "k/deep/c.tar"}),
        ("/m[1]/", {"m[1]/d"}),
    ],
)
def test_an_address_names_an_object_a_folder_or_a_glob(
    source: Bucket, seaweed: Seaweed, address: str, names: set[str]
) -> None:
    for key in ("k", "k-1", "k/a.tar", "k/b.txt", "k/deep/c.tar", "m[1]/d"):
        source.put(key, key.encode())
    blocks = listing(f"s3://{source.name}{address}", s3(seaweed).s3, lambda _: None)
    assert {row.path for block in blocks for _, row in block} == names  # type: ignore[union-attr]


async def test_an_object_that_changes_after_it_was_listed_is_not_mixed(
    source: Bucket, seaweed: Seaweed, tmp_path: Path
) -> None:
    source.put("f", noise(100_000, 1))
    row = await asyncio.to_thread(first, f"s3://{source.name}/f", s3(seaweed))
    source.put("f", noise(100_000, 2))
    report = await fetch_all([row], tmp_path, settings=s3(seaweed))
    assert [each.status for each in report.outcomes] == [Status.FAILED]
    assert "changed" in str(report.outcomes[0].error)
    assert tree(tmp_path) == {}


async def test_from_bucket_to_bucket(source: Bucket, seaweed: Seaweed, tmp_path: Path) -> None:
    data = {"a": b"one", "b/large": noise(17 * MIB, 2)}
    for name, content in data.items():
        source.put(f"from/{name}", content)
    report = await fetch_all(
        f"s3://{source.name}/from/", f"s3://{source.name}/to", settings=s3(seaweed), state=tmp_path
    )
    assert report.ok, report.failures
    for name, content in data.items():
        found = source.client.get_object(Bucket=source.name, Key=f"to/{name}")
        assert found["Body"].read() == content


async def test_a_large_object_is_copied_on_the_server(
    source: Bucket, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (noise(9 * MIB, 1), noise(9 * MIB, 2))
    source.put_parts("from/parts", *parts)
    source.put("from/one é+", noise(17 * MIB, 3))
    source.put("from/small", b"x")
    async with proxied(seaweed.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        report = await fetch_all(
            f"s3://{source.name}/from/", f"s3://{source.name}/to", settings=quick(), state=tmp_path
        )
        again = await fetch_all(
            f"s3://{source.name}/from/", f"s3://{source.name}/to", settings=quick(), state=tmp_path
        )
    assert {each.status for each in again.outcomes} == {Status.PRESENT}
    assert report.ok, report.failures
    for name, data in {"parts": b"".join(parts), "one é+": noise(17 * MIB, 3), "small": b"x"}.items():
        assert source.client.get_object(Bucket=source.name, Key=f"to/{name}")["Body"].read() == data
    assert proxy.counts["GetObject"] == 1


@pytest.mark.parametrize("is_right", [True, False])
async def test_a_digest_that_the_store_does_not_state_needs_all_bytes(
    source: Bucket, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    data = noise(17 * MIB, 3)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweed.url)
    source.put("from/f", data)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(data if is_right else b'').hexdigest()}  f\n")
    report = await fetch_all(
        f"s3://{source.name}/from/", f"s3://{source.name}/to", settings=quick(), state=tmp_path / "state",
        checksums=[str(sums)],
    )  # fmt: skip
    assert [each.status for each in report.outcomes] == [Status.FETCHED if is_right else Status.FAILED]
    there = source.client.list_objects_v2(Bucket=source.name, Prefix="to/f").get("KeyCount", 0)
    assert bool(there) is is_right


async def test_a_copy_replaces_no_object_of_another_program(
    source: Bucket, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweed.url)
    source.put("from/f", noise(17 * MIB, 3))
    source.put("to/f", b"mine")
    report = await fetch_all(
        f"s3://{source.name}/from/", f"s3://{source.name}/to", settings=quick(), state=tmp_path
    )
    assert [each.status for each in report.outcomes] == [Status.FAILED]
    assert source.client.get_object(Bucket=source.name, Key="to/f")["Body"].read() == b"mine"


def test_more_than_a_page_of_objects_is_listed(source: Bucket, seaweed: Seaweed) -> None:
    for n in range(1_100):
        source.put(f"many/{n:04}", b"x")
    blocks = listing(f"s3://{source.name}/many/", s3(seaweed).s3, lambda _: None)
    assert sum(len(block) for block in blocks) == 1_100


def test_no_secret_is_in_a_row(source: Bucket, seaweed: Seaweed) -> None:
    source.put("f", b"x")
    row = first(f"s3://{source.name}/f", s3(seaweed))
    headers = dict(row.headers)
    assert SignatureRequest.parse(headers["Authorization"]) == SignatureRequest("aws", "us-east-1")
    assert "secret" not in json.dumps(headers)
    assert "?" not in row.urls[0]


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("s3://no-such-bucket-here/x", ManifestError, "there is no bucket"),
        ("s3://{bucket}/nothing/", ManifestError, "there is no such object"),
        ("s3://b!d/x", ManifestError, "not the name of a bucket"),
    ],
)
async def test_an_address_that_names_nothing_is_one_sentence(
    source: Bucket, seaweed: Seaweed, tmp_path: Path, address: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await fetch_all(address.format(bucket=source.name), tmp_path, settings=s3(seaweed))


async def test_wrong_keys_and_missing_keys_are_named(
    source: Bucket, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.put("f", b"x")
    with pytest.raises(CredentialsError, match="--s3-unsigned"):
        await fetch_all(f"s3://{source.name}/f", tmp_path, settings=s3(seaweed, sign="never"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsError, match="refuses the credentials"):
        await fetch_all(f"s3://{source.name}/f", tmp_path, settings=s3(seaweed))


def test_addresses_are_parsed() -> None:
    assert ObjectAddress.parse("gs://bbb/x/*.tar").folder == "x/"
    assert ObjectAddress.parse("s3://bbb").folder == ""
    assert ObjectAddress.parse("s3://bbb/x").folder == "x/"
    assert S3().sign == "auto"


async def test_a_list_cannot_make_the_keys_of_the_user_sign(
    source: Bucket, seaweed: Seaweed, tmp_path: Path
) -> None:
    source.put("private", b"secret")
    row = {
        "url": f"{seaweed.url}/{source.name}/private",
        "path": "taken",
        "headers": {"Authorization": str(SignatureRequest("aws", "us-east-1"))},
    }
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps(row))
    report = await fetch_all(listed, tmp_path / "out", settings=s3(seaweed))
    assert [each.status for each in report.outcomes] == [Status.FAILED]
    assert "ask for a signature" in str(report.outcomes[0].error)


async def test_keys_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    signer, headers = Signer(), {"Authorization": str(SignatureRequest("aws", "us-east-1"))}
    first = await signer.signed("http://127.0.0.1/b/k", headers)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    second = await signer.signed("http://127.0.0.1/b/k", headers)
    assert first["Authorization"].partition("/")[0] == second["Authorization"].partition("/")[0]
    assert first["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
