"""Tests of networks: netrc, SOCKS and other proxies, certificate files, --connect-to for IP addresses."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from osp_fetch import Event, Report, SettingsError, Status, entry, fetch_all
from osp_fetch.demo.server import Exchange, Server
from osp_fetch.model import events
from osp_fetch.model.errors import UnreachableError
from osp_fetch.network.certificates import import_aiohttp
from osp_fetch.network.credentials import Credentials, read_netrc
from osp_fetch.network.proxies import Proxies
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, noise, serving
from tests.socks import SocksProxy
from tests.socks import serving as socks_serving

DATA = noise(150_000)
SMALL = {f"s{n}": noise(3000 + n, n) for n in range(30)}
Command = Callable[..., subprocess.CompletedProcess[str]]


def basic(login: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


# netrc


def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    place = tmp_path / "my.netrc"
    place.write_text(text)
    monkeypatch.setenv("NETRC", str(place))
    return place


def sent(origin: Origin) -> set[str | None]:
    return {exchange.headers.get("authorization") for exchange in origin.seen}


async def get(folder: Path, *urls: str, **more: object) -> Report:
    rows = [entry(f"{n}-{url.rsplit('/', 1)[-1]}", url) for n, url in enumerate(urls)]
    return await fetch_all(rows, folder, **{"settings": quick(), **more})  # type: ignore[arg-type]


async def test_every_request_to_a_host_of_netrc_has_its_credentials(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "machine 127.0.0.1 login me password s3cret")
    links = [origin.add(name, data) for name, data in SMALL.items()]
    report = await get(tmp_path / "out", origin.add("large", DATA), *links)
    assert report.ok, report.failures
    assert sent(origin) == {basic("me", "s3cret")}
    assert report.notes == []


async def test_workers_send_the_credentials_too(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "machine 127.0.0.1 login me password s3cret")
    links = [origin.add(name, data) for name, data in SMALL.items()]
    report = await get(tmp_path / "out", *links, settings=quick(limits={"processes": 2}))
    assert report.ok, report.failures
    assert sent(origin) == {basic("me", "s3cret")}


async def test_a_header_of_the_row_or_a_login_in_the_link_comes_before_netrc(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "machine 127.0.0.1 login me password s3cret")
    row = entry("f", origin.add("f", DATA), headers={"AUTHORIZATION": "Bearer row"})
    assert (await fetch_all([row], tmp_path / "a", settings=quick())).ok
    assert sent(origin) == {"Bearer row"}
    origin.seen.clear()
    link = origin.add("g", DATA).replace("//", "//anna:word@")
    assert (await get(tmp_path / "b", link)).ok
    assert sent(origin) == {basic("anna", "word")}


@pytest.mark.parametrize("size", [2000, len(DATA)])
async def test_a_redirect_takes_no_credentials_along_unless_netrc_has_some_for_its_target(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async with serving() as known, serving() as other:
        netrc(
            tmp_path,
            monkeypatch,
            f"machine 127.0.0.1:{origin.server.port} login me password one\n"
            f"machine 127.0.0.1:{known.server.port} login you password two\n"
            "default login any password three\n",
        )
        links = [
            origin.add("to-known", b"", always=o.redirect(known.add("f", DATA[:size]))),
            origin.add("to-other", b"", always=o.redirect(other.add("f", DATA[:size]))),
        ]
        report = await get(tmp_path / "out", *links)
        assert report.ok, report.failures
        assert sent(origin) == {basic("me", "one")}
        assert sent(known) == {basic("you", "two")}
        assert sent(other) == {None}


async def test_the_default_entry_is_for_the_hosts_of_links(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "default login any password three")
    target = origin.add("real", DATA)
    assert (await get(tmp_path / "out", origin.add("f", b"", always=o.redirect(target)))).ok
    assert sent(origin) == {basic("any", "three")}  # the redirect stays within the origin


async def test_netrc_can_be_left_alone(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "machine 127.0.0.1 login me password s3cret")
    settings = quick(network={"netrc": "ignore"})
    assert (await get(tmp_path / "out", origin.add("f", DATA), settings=settings)).ok
    assert sent(origin) == {None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machine h login me password two words", "not a valid netrc file near line 1"),
        ("machine h\nlogin me\npassword x\nsecret y\n", "not a valid netrc file near line 4"),
        ("secret\n", "not a valid netrc file near line 2"),
    ],
)
async def test_a_malformed_netrc_is_one_sentence_without_its_secrets(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    place = netrc(tmp_path, monkeypatch, text)
    report = await get(tmp_path / "out", origin.add("f", DATA))
    assert report.ok
    (note,) = report.notes
    assert said in note
    assert note.startswith(str(place))
    assert not {"words", "secret"} & set(note.replace("'", " ").split())


def test_a_netrc_that_is_missing_or_a_folder_is_said_where_the_user_named_it(tmp_path: Path) -> None:
    assert read_netrc({"HOME": str(tmp_path)})[1] is None
    found, said = read_netrc({"NETRC": str(tmp_path / "none")})
    assert not found
    assert "does not exist" in (said or "")
    found, said = read_netrc({"NETRC": str(tmp_path)})
    assert not found
    assert "cannot be read" in (said or "")


def test_credentials_are_chosen_by_host_and_port() -> None:
    made = Credentials({"h:81": "A", "h": "B", "::1": "C"}, "D")
    assert made.of("https://h:81/x", home=False) == "A"
    assert made.of("https://H/x", home=False) == "B"
    assert made.of("http://[::1]:8080/x", home=False) == "C"
    assert made.of("https://h.evil/x", home=False) is None
    assert made.of("https://h.evil/x", home=True) == "D"
    assert made.of("https://u:p@h/x", home=True) is None
    assert "A" not in repr(made)


# proxies


@pytest.mark.parametrize(
    ("proxies", "url", "proxy"),
    [
        ({"http": "proxy:3128"}, "http://h/x", "http://proxy:3128"),
        ({"https": "user:word@10.0.0.1:8080/"}, "https://h/x", "http://user:word@10.0.0.1:8080/"),
        ({"all": "SOCKS5h://[::1]:9050"}, "https://h/x", "socks5h://[::1]:9050"),
        ({"all": "socks5://p", "http": "proxy:1"}, "http://h/x", "http://proxy:1"),
        ({"all": "socks5://p", "http": "proxy:1"}, "https://h/x", "socks5://p"),
        ({"http": "proxy:3128"}, "https://h/x", None),
        ({"http": "nonsense://p", "no": "*"}, "http://h/x", None),
        ({"all": "nonsense://p", "http": "p:1", "https": "p:2"}, "https://h/x", "http://p:2"),
        ({"http": "p:1", "no": "::1"}, "http://[::1]:80/x", None),
        ({"http": "p:1", "no": "[::1]"}, "http://[0:0:0:0:0:0:0:1]/x", None),
        ({"http": "p:1", "no": "10.1.2.3"}, "http://10.1.2.3:8080/x", None),
        ({"http": "p:1", "no": "a.test 127.0.0.1"}, "http://127.0.0.1/x", None),
        ({"http": "p:1", "no": "localhost., a.test"}, "http://localhost/x", None),
        ({"http": "p:1", "no": "::1"}, "http://[::2]/x", "http://p:1"),
    ],
)
def test_the_proxy_of_a_url(proxies: dict[str, str], url: str, proxy: str | None) -> None:
    assert Proxies(proxies).of(url) == proxy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://user:word@p:21", "https_proxy: ftp://…@p:21: the scheme ftp: is not that of a proxy"),
        ("http://p:port", "is not the address of a proxy; write it as http://HOST:PORT"),
        ("socks5://:1080", "is not the address of a proxy; write it as socks5://HOST:PORT"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_said_before_the_run(
    origin: Origin, tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        await get(tmp_path / "out", origin.add("f", DATA), proxies={"https": text})
    assert said in str(caught.value)
    assert "word" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "said"), [(407, "USER:PASSWORD@"), (403, "answered 403"), (502, "check the proxy")]
)
async def test_what_a_proxy_refuses_is_not_laid_on_the_host(tmp_path: Path, status: int, said: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        report = await get(tmp_path, "https://far.test/f", proxies={"https": address})
    (failure,) = report.failures
    assert f"the proxy {address} answered {status}" in str(failure.error)
    assert said in str(failure.error)
    assert not isinstance(failure.error, UnreachableError)
    assert report.credentials == (status == 407)


async def test_a_proxy_without_a_scheme_is_an_http_proxy(
    origin: Origin, tmp_path: Path, command: Command
) -> None:
    seen = []

    async def relay(exchange: Exchange) -> None:
        seen.append(exchange.target)
        await o.polite(exchange, o.Page(DATA))

    async with Server(relay) as proxy:
        report = await get(tmp_path / "a", "http://far.test/f", proxies={"http": f"127.0.0.1:{proxy.port}"})
    assert report.ok, report.failures
    assert set(seen) == {"http://far.test/f"}


# SOCKS


@pytest.mark.parametrize(
    ("scheme", "version", "host"),
    [
        ("socks4", 4, "127.0.0.1"),
        ("socks4a", 4, "localhost"),
        ("socks5", 5, "127.0.0.1"),
        ("socks5h", 5, "localhost"),
        ("socks", 5, "localhost"),
    ],
)
async def test_a_socks_proxy_makes_every_connection(
    origin: Origin, tmp_path: Path, scheme: str, version: int, host: str
) -> None:
    files = {**SMALL, "large": DATA}
    links = [origin.add(name, data).replace("127.0.0.1", "localhost") for name, data in files.items()]
    rows = [entry(name, link) for name, link in zip(files, links, strict=True)]
    # socks4 and socks5 resolve here, where localhost may be ::1 first, at which the origin does not listen
    async with socks_serving(SocksProxy(names={"localhost": "127.0.0.1", "::1": "127.0.0.1"})) as proxy:
        report = await fetch_all(
            rows, tmp_path, settings=quick(), proxies={"all": f"{scheme}://127.0.0.1:{proxy.port}"}
        )
    assert report.ok, report.failures
    assert {(v, h) for v, h, _ in proxy.asked} <= {(version, host), (version, "::1")}
    assert proxy.asked
    assert len(proxy.asked) == len({id(exchange.writer) for exchange in origin.seen})
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data


async def test_workers_use_the_socks_proxy_and_its_password(origin: Origin, tmp_path: Path) -> None:
    links = [origin.add(name, data) for name, data in SMALL.items()]
    async with socks_serving(SocksProxy(("me", "a b@c"))) as proxy:
        report = await get(
            tmp_path,
            *links,
            settings=quick(limits={"processes": 2}),
            proxies={"http": f"socks5h://me:a%20b%40c@127.0.0.1:{proxy.port}"},
        )
    assert report.ok, report.failures
    assert len(proxy.asked) == len({id(exchange.writer) for exchange in origin.seen})


async def test_tls_through_socks_compares_the_certificate_with_the_links_host(tmp_path: Path) -> None:
    authority, context, origin = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Origin()
    authority.issue_cert("far.test").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    async with Server(origin.handle, tls=context) as server, socks_serving(SocksProxy()) as proxy:
        origin.server = server
        origin.add("f", DATA)
        origin.add("g", DATA[:3000])
        options = {
            "proxies": {"https": f"socks5h://127.0.0.1:{proxy.port}"},
            "connect_to": [f":443:127.0.0.1:{server.port}"],
            "cafile": str(ca),
        }
        report = await get(tmp_path / "a", "https://far.test/f", "https://far.test/g", **options)
        assert report.ok, report.failures
        report = await get(tmp_path / "b", "https://near.test/f", **options)
        assert "certificate is not valid" in str(report.failures[0].error)
    assert {(host, port) for _, host, port in proxy.asked} == {("127.0.0.1", server.port)}


async def test_the_command_fetches_over_tls_through_socks(tmp_path: Path, command: Command) -> None:
    authority, context, origin = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Origin()
    authority.issue_cert("far.test").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = {**SMALL, "large": noise(3 << 20)}
    proxy = SocksProxy(("me", "word"), {"far.test": "127.0.0.1"})
    async with Server(origin.handle, tls=context) as server, socks_serving(proxy):
        origin.server = server
        for name, data in files.items():
            origin.add(name, data)
        (tmp_path / "m.txt").write_text("".join(f"https://far.test:{server.port}/{n}\n" for n in files))
        words = ("get", "m.txt", "-o", "out", "--min-free", "0", "--cacert", "ca.pem")
        address = f"socks5h://me:word@127.0.0.1:{proxy.port}"
        done = await asyncio.to_thread(command, *words, all_proxy=address)
    assert done.returncode == 0, done.stderr
    assert {host for _, host, _ in proxy.asked} == {"far.test"}
    assert len(proxy.asked) == len({id(exchange.writer) for exchange in origin.seen}) < len(files)
    for name, data in files.items():
        assert (tmp_path / "out" / name).read_bytes() == data


async def test_a_socks_proxy_that_does_not_answer_times_out(origin: Origin, tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = quick(timeouts={"connect": 0.1, "head": 0.1}, retry={"attempts": 1})
        report = await get(
            tmp_path, origin.add("f", DATA), settings=settings, proxies={"all": f"socks5://127.0.0.1:{port}"}
        )
    assert report.counts[Status.FAILED] == 1
    assert "answer" in str(report.failures[0].error)
    assert origin.seen == []


async def test_what_a_socks_proxy_refuses_is_said_with_its_reason(origin: Origin, tmp_path: Path) -> None:
    said: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, events.HostDown):
            said.append(event.why)

    async with socks_serving(SocksProxy(refuse=True)) as proxy:
        proxies = {"all": f"socks5://127.0.0.1:{proxy.port}"}
        report = await get(tmp_path, origin.add("f", DATA), proxies=proxies, observer=observe)
    assert report.counts[Status.FAILED] == 1
    assert "the SOCKS proxy: " in said[0]
    assert origin.seen == []


async def test_hosts_without_proxy_are_reached_directly_beside_socks(origin: Origin, tmp_path: Path) -> None:
    async with socks_serving(SocksProxy(names={"far.test": "127.0.0.1"})) as proxy:
        proxies = {"http": f"socks5h://127.0.0.1:{proxy.port}", "no": "127.0.0.1"}
        origin.add("f", DATA)
        far = f"http://far.test:{origin.server.port}/f"
        report = await get(tmp_path, f"{origin.url}/f", far, proxies=proxies)
    assert report.ok, report.failures
    assert {host for _, host, _ in proxy.asked} == {"far.test"}


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
async def test_socks_without_its_package_is_refused_before_the_run(
    tmp_path: Path, without: Command, variable: str
) -> None:
    done = without(
        {"aiohttp_socks"}, "get", "http://h.test/f", "-o", "out", **{variable: "socks5://me:word@p:1"}
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'osp-fetch[socks]'" in line
    assert "word" not in line
    assert not (tmp_path / "out").exists()


# --connect-to


@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]", "far.test"])
async def test_connect_to_holds_for_addresses_too(origin: Origin, tmp_path: Path, host: str) -> None:
    files = {**SMALL, "large": DATA}
    for name, data in files.items():
        origin.add(name, data)
    written = host.replace("::", ":0:0:0:0:0:")
    report = await get(
        tmp_path,
        *(f"http://{host}:88/{name}" for name in files),
        connect_to=[f"{written}:88:127.0.0.1:{origin.server.port}"],
    )
    assert report.ok, report.failures
    assert {exchange.headers["host"] for exchange in origin.seen} == {f"{host}:88"}


async def test_the_first_matching_rule_is_used_once(origin: Origin, tmp_path: Path) -> None:
    rules = [
        "192.0.2.1:80:192.0.2.2:80",
        f"192.0.2.2:80:127.0.0.1:{origin.server.port}",
        "127.0.0.1::x.test:1",
    ]
    origin.add("f", DATA)
    assert (await get(tmp_path / "a", "http://192.0.2.2/f", connect_to=rules)).ok
    with pytest.raises(SettingsError, match="not HOST:PORT:HOST:PORT"):
        await get(tmp_path / "b", "http://192.0.2.2/f", connect_to=["192.0.2.2"])


# certificates


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_the_certificates_of_the_environment_are_trusted(
    tmp_path: Path, variable: str, command: Command
) -> None:
    authority, context, origin = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Origin()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with Server(origin.handle, tls=context) as server:
        origin.server = server
        url = origin.add("f", DATA)
        words = ("get", url, "-o", "out", "--min-free", "0", "--set", "retry.attempts=1")
        done = await asyncio.to_thread(command, *words)
        assert "certificate is not valid" in done.stderr
        done = await asyncio.to_thread(command, *words, **{variable: str(tmp_path / "ca.pem")})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "f").read_bytes() == DATA


def test_the_import_without_certificates_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "mine.pem")
    before = dict(os.environ)
    import_aiohttp()
    assert dict(os.environ) == before


def test_the_resolver_is_imported_by_the_first_name_and_not_before() -> None:
    program = """
import sys
from osp_fetch.network.certificates import import_aiohttp
import_aiohttp()
import osp_fetch.network.transport
assert "aiodns" not in sys.modules and "pycares" not in sys.modules
import aiodns
assert aiodns.DNSResolver
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, variable: str, content: str | None, command: Command
) -> None:
    place = tmp_path / "my.pem"
    if content is not None:
        place.write_text(content)
    done = command("get", "https://h.test/f", "-o", "out", **{variable: str(place)})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{variable}: {place}" in line
    assert not (tmp_path / "out").exists()


def test_the_first_variable_of_certificates_counts(tmp_path: Path, command: Command) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    good, bad = str(tmp_path / "ca.pem"), str(tmp_path / "none.pem")
    (tmp_path / "m.txt").write_text("https://h.test/f\n")
    assert command("plan", "m.txt", SSL_CERT_FILE=good, REQUESTS_CA_BUNDLE=bad).returncode == 0
    assert command("plan", "m.txt", REQUESTS_CA_BUNDLE=bad, CURL_CA_BUNDLE=good).returncode == 2


async def test_a_cafile_of_the_library_is_checked_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match="no certificate in PEM form"):
        await get(tmp_path / "out", "https://h.test/f", cafile=str(tmp_path / "ca.pem"))
    assert not (tmp_path / "out").exists()


# variables


async def test_a_variable_holds_one_header_per_line(origin: Origin, tmp_path: Path, command: Command) -> None:
    url = origin.add("f", DATA)
    headers = "X-A: one two\n\nX-B:3\n"
    done = await asyncio.to_thread(
        command, "get", url, "-o", "out", "--min-free", "0", OSP_FETCH_HEADER=headers
    )
    assert done.returncode == 0, done.stderr
    assert {(e.headers["x-a"], e.headers["x-b"]) for e in origin.seen} == {("one two", "3")}
    done = await asyncio.to_thread(command, "get", url, "-o", "out", OSP_FETCH_HEADER="X-A one")
    assert done.returncode == 2
    assert "expected 'NAME: VALUE'" in done.stderr


def test_config_show_honours_the_variable_of_set(command: Command) -> None:
    done = command("config", "show", OSP_FETCH_SET="limits.per_host=7 network.netrc=ignore")
    assert "per_host = 7  # --set" in done.stdout
    assert 'netrc = "ignore"  # --set' in done.stdout
    assert command("config", "show", OSP_FETCH_SET="limits.nonsense=7").returncode == 2


# extras


@pytest.mark.parametrize(
    ("package", "extra", "source"),
    [
        ("pyarrow", "parquet", "list.parquet"),
        ("gdown", "gdrive", "gdrive://files/1small_file_0123456789abcdefgh"),
        ("gdown", "gdrive", "https://drive.google.com/drive/folders/1Eesj6HTqT1kCi6QLyL5j0mL_ELYRp3GV"),
    ],
)
@pytest.mark.parametrize("verb", ["get", "plan"])
def test_a_missing_extra_is_said_before_the_run_begins(
    tmp_path: Path, without: Command, package: str, extra: str, source: str, verb: str
) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    done = without({package}, verb, source, "-o", "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"needs {package}, which is not installed: pip install 'osp-fetch[{extra}]'" in line
    assert not (tmp_path / "out").exists()


def test_bench_says_before_it_measures_that_it_cannot_draw(without: Command) -> None:
    done = without({"matplotlib"}, "bench", "http://127.0.0.1:9/f", "--png", "x.png")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'osp-fetch[plot]'" in line


@pytest.mark.parametrize("others", [{}, {"http_proxy": "127.0.0.1:1", "https_proxy": "127.0.0.1:1"}])
def test_a_listing_of_the_hub_through_socks_names_the_extra_too(
    without: Command, others: dict[str, str]
) -> None:
    missing = {"aiohttp_socks", "socksio"} if others else {"socksio"}
    done = without(
        missing,
        *("get", "hf://datasets/O/N", "-o", "out"),
        **{"HF_ENDPOINT": "http://127.0.0.1:1", "ALL_PROXY": "socks5://127.0.0.1:1", **others},
    )
    assert done.returncode == 2
    assert "pip install 'osp-fetch[socks]'" in done.stderr
    assert "Traceback" not in done.stderr


async def test_netrc_does_not_follow_a_redirect_out_of_tls(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(tmp_path, monkeypatch, "machine 127.0.0.1 login me password s3cret")
    authority, context, secure = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Origin()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with Server(secure.handle, tls=context) as server:
        secure.server = server
        link = secure.add("f", b"", always=o.redirect(origin.add("f", DATA)))
        report = await get(
            tmp_path / "out",
            link,
            cafile=str(tmp_path / "ca.pem"),
            settings=quick(links={"downgrade": "allow"}),
        )
    assert report.ok, report.failures
    assert sent(secure) == {basic("me", "s3cret")}
    assert sent(origin) == {None}


async def test_a_socks_proxy_that_is_not_there_is_named(tmp_path: Path) -> None:
    report = await get(tmp_path / "out", "http://far.test/f", proxies={"all": "socks5h://127.0.0.1:1"})
    assert "the proxy 127.0.0.1:1: connection refused; check http_proxy" in str(report.failures[0].error)
