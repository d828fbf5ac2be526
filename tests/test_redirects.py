"""Tests of redirects: credentials stay with their origin, https stays https, certificates are checked."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from osp_fetch import Report, Settings, Status, entry, fetch_all
from osp_fetch.demo.server import Server
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise

DATA = noise(100_000)
SECRETS = {"Authorization": "Bearer S", "Cookie": "session=S", "X-Api-Key": "S"}


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Origin]:
    """Serve an origin over TLS for 127.0.0.1 and localhost; its authority is written to `ca.pem`."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made = Origin()
    async with Server(made.handle, tls=context) as server:
        made.server = server
        yield made


async def get(url: str, tmp_path: Path, settings: Settings | None = None) -> Report:
    row = entry("f.bin", url, headers=SECRETS)
    return await fetch_all(
        [row], tmp_path / "out", settings=settings or quick(), cafile=str(tmp_path / "ca.pem")
    )


def secrets_seen(origin: Origin) -> set[str]:
    return {
        name for e in origin.seen for name in e.headers if name in ("authorization", "cookie", "x-api-key")
    }


async def test_credentials_end_at_another_scheme(origin: Origin, secure: Origin, tmp_path: Path) -> None:
    target = secure.add("f", DATA)
    report = await get(origin.add("f", b"", always=o.redirect(target)), tmp_path)
    assert report.ok, report.failures
    assert secrets_seen(origin) == {"authorization", "cookie", "x-api-key"}
    assert secure.seen
    assert secrets_seen(secure) == set()


async def test_credentials_end_at_another_port_and_do_not_come_back(origin: Origin, tmp_path: Path) -> None:
    async with o.serving() as other:
        back = origin.add("real", DATA)
        away = other.add("f", b"", always=o.redirect(back))
        origin.add("f", b"", always=o.redirect(away))
        row = entry("f.bin", f"{origin.url}/f", headers=SECRETS)
        assert (await fetch_all([row], tmp_path, settings=quick())).ok
        assert secrets_seen(other) == set()
        assert all("authorization" not in e.headers for e in origin.seen if e.path == "/real")


async def test_credentials_end_at_another_host(secure: Origin, tmp_path: Path) -> None:
    target = secure.add("real", DATA).replace("127.0.0.1", "localhost")
    report = await get(secure.add("f", b"", always=o.redirect(target)), tmp_path)
    assert report.ok, report.failures
    assert all("authorization" not in e.headers for e in secure.seen if e.path == "/real")


async def test_cookies_that_a_server_sets_are_not_kept(origin: Origin, tmp_path: Path) -> None:
    rows = [entry(f"f{n}", origin.add(f"f{n}", DATA, headers={"Set-Cookie": "a=b"})) for n in range(4)]
    assert (await fetch_all(rows, tmp_path, settings=quick(limits={"per_host": 1}))).ok
    assert not any("cookie" in e.headers for e in origin.seen)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_downgrade_is_refused_unless_it_is_asked_for(
    origin: Origin, secure: Origin, tmp_path: Path, allowed: bool
) -> None:
    url = secure.add("f", b"", always=o.redirect(origin.add("f", DATA)))
    settings = quick(links={"downgrade": "allow" if allowed else "refuse"})
    report = await get(url, tmp_path, settings)
    assert report.counts[Status.FETCHED if allowed else Status.FAILED] == 1
    assert bool(origin.seen) is allowed
    assert secrets_seen(origin) == set()
    assert allowed or "plain http" in str(report.failures[0].error)


async def test_a_false_certificate_fails_at_once_and_sends_nothing(secure: Origin, tmp_path: Path) -> None:
    row = entry("f.bin", secure.add("f", DATA), headers=SECRETS)
    report = await fetch_all([row], tmp_path / "out", settings=quick())
    assert report.counts[Status.FAILED] == 1
    assert "certificate" in str(report.failures[0].error)
    assert secure.seen == []


async def test_credentials_of_a_url_stay_with_it_in_utf8(origin: Origin, tmp_path: Path) -> None:
    """As curl sends them: the password is no Latin-1, and an absolute redirect leads to the same origin."""
    target = origin.add("g", DATA)
    url = origin.add("f", b"", always=o.redirect(target)).replace("//", "//me:%E2%82%AC@")
    report = await fetch_all([entry("f.bin", url)], tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    sent = {e.headers.get("authorization") for e in origin.seen}
    assert sent == {"Basic " + base64.b64encode("me:€".encode()).decode()}


async def test_a_header_of_the_user_comes_before_the_credentials_of_a_url(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("f", DATA).replace("//", "//me:pw@")
    row = entry("f.bin", url, headers={"Authorization": "Bearer S"})
    assert (await fetch_all([row], tmp_path / "out", settings=quick())).ok
    assert {e.headers.get("authorization") for e in origin.seen} == {"Bearer S"}


async def test_what_a_server_quotes_of_a_request_is_not_shown(origin: Origin, tmp_path: Path) -> None:
    page = (
        b"<!DOCTYPE html><title>Invalid key KEYSECRET3 for token GHSECRET4, pw "
        + b"x" * 30
        + b" URLSECRET5</title>"
    )
    url = origin.add("f.tar", page, headers={"Content-Type": "text/html"}).replace("//", "//me:URLSECRET5@")
    headers = {"X-Api-Key": "KEYSECRET3", "X-Auth": "token GHSECRET4"}
    report = await fetch_all([entry("f.tar", url, headers=headers)], tmp_path / "out", settings=quick())
    said = str(report.failures[0].error)
    assert "Invalid key *" in said
    assert "SEC" not in said
