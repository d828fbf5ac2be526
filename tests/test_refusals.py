"""Tests of refusals: tables of replies, and whether each is the file, a page, or an error to retry."""

from __future__ import annotations

import gzip
import re

import pytest

from osp_fetch.model.errors import (
    BorrowedLinkSpentError,
    LinkExpiredError,
    NotThePayloadError,
    RangeNotSatisfiableError,
    Remedy,
    StatusError,
    TransferError,
)
from osp_fetch.model.http import Request
from osp_fetch.network import refusals

SIGNED = "https://scontent.xx.fbcdn.net/m1/v/t6/x.tar?_nc_gid&ccb=10-5&oh=00_S&oe=699024E8&_nc_sid=0"
PLAIN = "https://h/a.tar"


def refusal(
    status: int,
    body: bytes = b"",
    url: str = PLAIN,
    borrowed: bool = False,
    now: float = 0,
    fresh: str = "",
    **headers: str,
) -> TransferError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(url, name="a.tar", borrowed=borrowed)
    return refusals.refusal(
        request, status, named, body, borrowed=borrowed, now=now, longest_wait=900, fresh=fresh
    )


JPEG, TAR = b"\xff\xd8\xff\xe0\0\x10JFIF", bytes(257) + b"ustar\x0000"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
LOGIN = b"<!DOCTYPE html><title>Login</title>"


@pytest.mark.parametrize(
    ("name", "kind", "head", "page"),
    [
        ("a.tar", "text/html; charset=utf-8", b"<html>", True),
        *(
            (name, "application/octet-stream", LOGIN, True)
            for name in ("a.tar", "a.jpg", "a.bin", "a", "a.odd")
        ),
        ("a.tar", "application/octet-stream", b"  \n<?xml version='1.0'?><Error>", True),
        ("a.zip", "application/xml", b"<Error><Code>NoSuchKey</Code>", True),
        ("a.tar", "text/plain", b"URL signature expired", True),
        ("a.bin", "text/plain", b"Access denied", True),
        ("a.bin", "text/html", b"Access denied", True),
        ("a.parquet", "application/json", b'{"error": "no"}', True),
        ("a.dat", "application/problem+json", b'{"title": "no"}', True),
        ("5000-0.tar.part0", "text/html", b"<html>", True),
        ("a.txt", "text/html", b"<html>", True),
        ("README", "text/html", b"<html>", True),
        ("a.tar", "text/html", b"", True),
        ("a.txt", "text/plain", b"version https://git-lfs.github.com/spec/v1 is described in", False),
        *(
            ("a.csv", "text/html", tag, True)
            for tag in (b"<meta charset", b"<center>", b"<form a", b"<link ")
        ),
        ("a.nc", "text/html", b"Access denied", True),
        # what the bytes are decides, not the label
        ("a.jpg", "text/html", JPEG, False),
        ("a.png", "text/plain", JPEG, False),
        ("a.tar", "text/html", TAR, False),
        ("a", "text/html", JPEG, False),
        ("a.tar", "application/x-tar", b"\x1f\x8b\x08", False),
        ("a.tar", "text/plain", b"\x1f\x8b\x08", False),
        ("a.tar", "text/html", None, False),
        ("a.tar", "application/octet-stream", b"plain text in a tar", False),
        ("a.tar", "application/octet-stream", b"Access denied: quota exceeded, please log in", True),
        ("a.zip", "", b"Too Many Requests", True),
        ("a.mp4", "binary/octet-stream", b"The link has expired", True),
        ("a.txt", "", b"Too Many Requests", False),
        ("a.bin", "", b"terror and notation", False),
        ("a.json", "application/json", b'{"a": 1}', False),
        ("a.txt", "text/plain", b"12\n13\n", False),
        ("a.txt", "text/html", b"12\n13\n", False),
        ("a.csv", "text/html", b"a,b\n", False),
        ("index.html", "text/html", b"<html>", False),
        ("a.xml", "application/xml", b"<?xml", False),
        ("LICENSE", "text/plain", b"Apache", False),
        ("a.1", "text/plain", b"x", False),
        ("a", "text/plain", b"x", False),
        ("merges.bpe", "text/plain", b"a b\nc d\n", False),
        ("arm.urdf", "text/xml", b"<?xml version='1.0'?><robot>", False),
    ],
)
def test_pages_are_distinguished_from_files(name: str, kind: str, head: bytes | None, page: bool) -> None:
    if not page:
        refusals.check_page(name, kind, head)
        return
    with pytest.raises(NotThePayloadError, match="a page"):
        refusals.check_page(name, kind, head)


@pytest.mark.parametrize(
    ("name", "kind", "body", "page"),
    [
        ("a.tar.gz", "text/html; charset=utf-8", LOGIN, True),
        ("a.tgz", "text/html", LOGIN, True),
        ("a.jsonl.gz", "application/json", LOGIN, True),
        ("a.jsonl.gz", "application/problem+json", b'{"title": "gone"}', True),
        ("a.tar.gz", "text/html", TAR, False),
        ("a.tgz", "text/html", TAR, False),
        ("a.html.gz", "text/html", LOGIN, False),
        ("a.svgz", "image/svg+xml", b"<?xml version='1.0'?><svg>", False),
        ("a.jsonl.gz", "application/json", b'{"a": 1}', False),
        ("a.csv.gz", "text/html", b"a,b\n1,2\n", False),
    ],
)
def test_a_compressed_page_is_not_the_compressed_file(name: str, kind: str, body: bytes, page: bool) -> None:
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
    coded = gzip.compress(body * 40)[: refusals.PEEK]
    inner, head = refusals.uncoded(name, headers, coded)
    if not page:
        refusals.check_page(name, kind, head, inner=inner)
        return
    with pytest.raises(NotThePayloadError, match=rf"^{re.escape(name)}: the server sent a page"):
        refusals.check_page(name, kind, head, inner=inner)


def test_the_right_size_is_better_proof_than_a_guess() -> None:
    refusals.check_page("a.tar", "text/html", LOGIN, length=35, size=35)
    with pytest.raises(NotThePayloadError, match="a page"):
        refusals.check_page("a.tar", "text/html", LOGIN, length=35, size=36)
    refusals.check_page("a.bin", "text/plain", b"1 2 3 4", length=1 << 20)


@pytest.mark.parametrize(
    ("name", "headers", "coded"),
    [
        ("a.csv", {"Content-Encoding": "gzip"}, "gzip"),
        ("a.csv", {"Content-Encoding": "x-gzip"}, "gzip"),
        ("a.csv", {"Content-Encoding": "deflate"}, "deflate"),
        ("a.tar.gz", {"Content-Encoding": "gzip"}, ""),
        ("a.TGZ", {"Content-Encoding": "x-gzip"}, ""),
        ("a.tar.zst", {"Content-Encoding": "zstd"}, ""),
        ("a.csv", {"Content-Encoding": "none"}, ""),
        ("a.csv", {"Content-Encoding": "identity", "Transfer-Encoding": "chunked"}, ""),
        ("a.csv", {"Content-Encoding": "UTF-8"}, ""),
        ("a.csv", {"Content-Encoding": "aws-chunked"}, ""),
        ("a.csv", {"Content-Encoding": ""}, ""),
    ],
)
def test_codings_that_are_none_and_those_that_can_be_removed(
    name: str, headers: dict[str, str], coded: str
) -> None:
    assert refusals.content_coding(Request(PLAIN, name=name), headers) == coded


@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "br"}, {"Content-Encoding": "gzip, gzip"}, {"Transfer-Encoding": "gzip, chunked"},
     {"Content-Encoding": "zstd"}],
)  # fmt: skip
def test_a_coding_that_cannot_be_removed_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(NotThePayloadError, match="encoded"):
        refusals.content_coding(Request(PLAIN, name="a.csv"), headers)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "9" * 40}, 1e9),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 60.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 1960 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 56.0),
        ({"RateLimit": '"resolvers";r=12;t=55'}, None),
        ({"RateLimit": '"api";r=0;t=9', "Retry-After": "3"}, 10.0),
    ],
)
def test_pauses_that_servers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert refusals.retry_after(headers, now=0.0) == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_passing_statuses_are_tried_again(status: int) -> None:
    assert refusal(status).remedy is Remedy.RETRY


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 501, 204, 300])
def test_lasting_statuses_fail(status: int) -> None:
    error = refusal(status)
    assert isinstance(error, StatusError)
    assert error.remedy is Remedy.FAIL


def test_a_file_that_is_being_prepared_is_asked_for_again_where_the_server_says_when() -> None:
    error = refusal(202, Retry_After="5")
    assert (error.remedy, error.retry_after) == (Remedy.RETRY, 5.0)
    never = refusal(202)
    assert never.remedy is Remedy.FAIL
    assert "not prepared" in str(never)


def test_a_pause_longer_than_allowed_is_a_refusal() -> None:
    error = refusal(429, Retry_After="3600")
    assert error.remedy is Remedy.FAIL
    assert "3600 s" in str(error)
    assert refusal(429, Retry_After="60").retry_after == 60


@pytest.mark.parametrize(
    ("status", "body", "url", "now", "dead"),
    [
        (403, b"URL signature expired", SIGNED, 0, True),
        (403, b"URL signature mismatch", SIGNED, 0, True),
        (403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message>", PLAIN, 0, True),
        (403, b"no", SIGNED, 0x699024E8 + 1, True),
        (403, b"no", SIGNED, 0x699024E8 - 1, False),
        (403, b"no", PLAIN, 2e9, False),
        (404, b"gone", PLAIN, 0, False),
    ],
)
def test_dead_links_are_distinguished_from_refusals(
    status: int, body: bytes, url: str, now: float, dead: bool
) -> None:
    error = refusal(status, body, url, now=now)
    assert isinstance(error, LinkExpiredError) == dead
    assert "oh=" not in str(error)


def test_the_servers_clock_decides_about_expiry() -> None:
    error = refusal(403, b"no", SIGNED, now=2e9, Date="Thu, 01 Jan 2026 00:00:00 GMT")
    assert not isinstance(error, LinkExpiredError)


def test_a_refused_redirect_is_minted_again() -> None:
    assert isinstance(refusal(403, borrowed=True), BorrowedLinkSpentError)


@pytest.mark.parametrize("status", [401, 404, 410])
def test_what_a_fresh_redirect_target_lacks_is_the_answer(status: int) -> None:
    error = refusal(status, borrowed=True, fresh="cdn.example")
    assert isinstance(error, StatusError)
    assert error.remedy is Remedy.FAIL
    assert f"redirects to cdn.example, which answered {status}" in str(error)
    assert isinstance(refusal(403, borrowed=True, fresh="cdn.example"), BorrowedLinkSpentError)


def test_a_link_that_expires_with_status_400_is_an_expired_link() -> None:
    """Google Cloud Storage answers so, and S3 for links of a session."""
    body = b"<Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message></Error>"
    assert isinstance(refusal(400, body, PLAIN), LinkExpiredError)
    assert isinstance(refusal(400, body, PLAIN, borrowed=True), BorrowedLinkSpentError)
    assert type(refusal(400, b"<Code>InvalidArgument</Code>", PLAIN)) is StatusError


def test_the_hub_says_that_a_repository_is_gated() -> None:
    assert "accept its terms" in str(refusal(403, X_Error_Code="GatedRepo"))


def test_a_link_that_was_cut_off_is_not_called_expired() -> None:
    error = refusal(403, b"URL signature mismatch", SIGNED, now=0)
    assert isinstance(error, LinkExpiredError)
    assert "altered or cut off" in str(error)


@pytest.mark.parametrize(("head", "is_error"), [
    (b'{"Code": 500, "Success": false, "Message": "x"}', True),
    (b'{"Code": 200, "Success": true}', False),
    (b'"Success": false', False),
    (None, False),
])  # fmt: skip
def test_an_error_of_modelscope_with_status_200_is_not_the_file(head: bytes | None, is_error: bool) -> None:
    link = "https://m.example/api/v1/datasets/o/n/repo?Revision=master&FilePath=data.json"
    refusals.check_envelope(Request("https://h/data.json", name="data.json"), head)
    if not is_error:
        refusals.check_envelope(Request(link, name="data.json"), head)
        return
    with pytest.raises(NotThePayloadError, match="an error instead of the file"):
        refusals.check_envelope(Request(link, name="data.json"), head)


def test_416_states_the_length() -> None:
    error = refusal(416, Content_Range="bytes */77")
    assert isinstance(error, RangeNotSatisfiableError)
    assert error.length == 77


@pytest.mark.parametrize("name", ["a.bin", "train.csv", "a.json", "README", "a.html"])
def test_a_git_lfs_pointer_is_not_the_file(name: str) -> None:
    with pytest.raises(NotThePayloadError, match="a Git LFS pointer instead of the file of 12345 bytes"):
        refusals.check_page(name, "text/plain", LFS)
    refusals.check_page(name, "text/plain", LFS, length=len(LFS), size=len(LFS))
