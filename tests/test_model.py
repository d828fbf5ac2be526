"""Tests of digests, paths, links and settings: tables of accepted and refused input."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from osp_fetch import Settings, entry
from osp_fetch.model import quantities, urls
from osp_fetch.model.digest import Digest
from osp_fetch.model.entry import relative_path
from osp_fetch.model.errors import FetchError, ManifestError, SettingsError

MD5 = hashlib.md5(b"").hexdigest()
SIGNED = "https://cdn.example/a/b.tar?_nc_gid&ccb=10-5&oh=00_SECRET&oe=699024E8&_nc_sid=0fdd51"


def test_digests_are_read_in_every_usual_form() -> None:
    assert Digest.parse(f"md5:{MD5.upper()}") == Digest("md5", MD5)
    assert Digest.parse(MD5) == Digest("md5", MD5)
    assert Digest.parse(hashlib.sha256(b"").hexdigest()).algorithm == "sha256"
    assert str(Digest("md5", MD5)) == f"md5:{MD5}"
    assert (
        Digest.parse("crc32c:yZRlqg==") == Digest.parse("yZRlqg==", "crc32c") == Digest("crc32c", "c99465aa")
    )
    raw = hashlib.sha256(b"").digest()
    base64_of_raw = base64.b64encode(raw).decode()
    for text in (base64_of_raw.rstrip("="), f":{base64_of_raw}:", f"sha-256=:{base64_of_raw}:"):
        assert Digest.parse(text, "sha256") == Digest("sha256", raw.hex())
    assert Digest.parse(f"md5-{base64.b64encode(hashlib.md5(b'').digest()).decode()}") == Digest("md5", MD5)


@pytest.mark.parametrize("text", ["md5:12", "crc7:00", "sha256:" + "g" * 64, "1e10", ""])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Digest.parse(text)


@pytest.mark.parametrize(
    "text", ["a", "a/b.tar", "NA", "0012", "ä/ö.jpg", "a b/c", "..a/b..", "5000-0.tar.part0"]
)
def test_good_paths_stay_as_they_are(text: str) -> None:
    assert relative_path(text) == text


def test_a_leading_dot_is_dropped() -> None:
    assert relative_path("./a/b") == "a/b"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "../a", "a/../b", "/a", "//a", "a\0b", "a\nb", "a//b", "a/", "a/./b",
     ".osp-fetch/x", ".OSP-FETCH/x", ".osp-fetch./x", ".osp-fetch /x", ".osp-fetch::$DATA/x",
     ".osp-\u200cfetch/x", "OSP-FE~1/x", "a/.osp-fetch/lock", "a\x85b", "a\u202eb", "a\x1b[2Jb",
     "x" * 256, "/".join(["x" * 200] * 25), "\udcff"],
)  # fmt: skip
def test_paths_that_could_leave_the_folder_or_break_it_are_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        relative_path(text)


@pytest.mark.parametrize(
    "url", ["", "ftp://a/b", "file:///etc/passwd", "http://", "http:///x", "http://a/b c", "x\ny"]
)
def test_only_http_links_are_taken(url: str) -> None:
    with pytest.raises(ManifestError):
        entry("a", url)


def test_headers_cannot_inject_others() -> None:
    with pytest.raises(ManifestError):
        entry("a", "http://h/a", headers={"X-A": "b\r\nHost: evil"})
    with pytest.raises(ManifestError):
        entry("a", "http://h/a", headers={"X A": "b"})


def test_an_entry_shows_no_secret() -> None:
    shown = repr(entry("a", SIGNED, headers={"Authorization": "Bearer hf_abcdefgh"}))
    assert "SECRET" not in shown
    assert "hf_abcdefgh" not in shown


def test_the_identity_of_a_link_outlives_its_signature() -> None:
    assert urls.source_key(SIGNED) == urls.source_key(
        SIGNED.replace("SECRET", "other").replace("699024E8", "69B7B1E8")
    )
    assert urls.source_key(SIGNED) == "cdn.example/a/b.tar"


@pytest.mark.parametrize(
    ("url", "when"),
    [
        (SIGNED, 0x699024E8),
        ("https://s3/x?X-Amz-Date=20260102T030405Z&X-Amz-Expires=600&X-Amz-Signature=1", 1767323045 + 600),
        ("https://gs/x?X-Goog-Date=20260102T030405Z&X-Goog-Expires=600", 1767323045 + 600),
        ("https://cf/x?Expires=1767323045&Signature=a&Key-Pair-Id=b", 1767323045),
        ("https://az/x?se=2026-01-02T03:04:05Z&sig=a", 1767323045),
        ("https://h/x?oe=699024E8", None),
        ("https://az/x?se=2026-01-02&sig=a", 1767312000),
        ("https://h/x?Expires=soon", None),
        ("https://h/x?Expires=1&Signature=a", 1),
        ("https://h/x?expires=3600", None),
        ("https://h/x?expires=0&sig=a", None),
        ("https://h/x?expires=1893456000000&sig=a", 1893456000),
        ("https://h/x?expires=99999999999999999999&sig=a", None),
        ("https://h/x?oh=1&oe=FFFFFFFFFFFFFFFFFFFFFFFFF", None),
        ("https://s3/x?X-Amz-Date=20260102T030405Z&X-Amz-Expires=99999999999999999", None),
        ("https://h/x", None),
    ],
)
def test_expiry_is_read_from_every_usual_signature(url: str, when: float | None) -> None:
    assert urls.expiry(url) == when


@pytest.mark.parametrize(
    "secret",
    [SIGNED, "https://user:SECRET@h/x", "Authorization: Bearer SECRET", "hf_SECRETSECRET", "oh=SECRET&x=1",
     "X-Amz-Signature=SECRET", "https://h/x?token=SECRET#f", "see http://h/a?q=SECRET, then"],
)  # fmt: skip
def test_redaction_leaves_nothing_secret(secret: str) -> None:
    assert "SECRET" not in urls.redact(secret)
    assert "SECRET" not in str(FetchError(secret))


@pytest.mark.parametrize(
    "text", ["'" + "\\" * 200, "x-amz-" * 5000, "a-" * 10_000, "http://" + "a." * 10_000]
)
def test_redaction_ends_whatever_a_server_sends(text: str) -> None:
    assert urls.redact(text)  # an unclosed quote before backslashes once took exponential time


def test_redaction_leaves_the_rest() -> None:
    assert urls.redact("a.tar from https://h:8/p/a.tar: 404") == "a.tar from https://h:8/p/a.tar: 404"


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (7, 7),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64MB", 64_000_000),
        ("1.5 GiB", 3 << 29),
        ("2k", 2048),
        ("9", 9),
    ],
)
def test_sizes_are_read_with_units(value: object, size: int) -> None:
    assert quantities.size(value) == size


@pytest.mark.parametrize(
    ("value", "time"), [(7, 7.0), ("30s", 30.0), ("1.5m", 90.0), ("2h", 7200.0), ("100ms", 0.1)]
)
def test_times_are_read_with_units(value: object, time: float) -> None:
    assert quantities.seconds(value) == time


def test_layers_lie_on_top_of_each_other() -> None:
    made = Settings.load(
        ("a", {"limits": {"per_host": 4, "rate": "1MiB"}}), ("b", {"limits": {"per_host": "auto"}})
    )
    assert (made.limits.per_host, made.limits.rate) == ("auto", 1 << 20)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"limits": {"perhost": 4}}, "did you mean per_host"),
        ({"limit": {"per_host": 4}}, "did you mean limits"),
        ({"limits": {"per_host": 0}}, "limits.per_host"),
        ({"limits": {"rate": "fast"}}, "limits.rate"),
        ({"limits": {"part_size": 5}}, "64KiB"),
        ({"timeouts": {"idle": True}}, "timeouts.idle"),
        ({"storage": {"durability": "some"}}, "full, none"),
        ({"limits": 3}, "must be a table of keys"),
    ],
)
def test_wrong_settings_name_the_layer_and_the_key(layer: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Settings.load(("x.toml", layer))
    assert str(caught.value).startswith("x.toml: ")


@pytest.mark.parametrize("name", ["default", "sa1b", "huggingface", "polite"])
def test_every_config_file_loads(name: str) -> None:
    from osp_fetch.cli.options import read_toml

    path = Path(__file__).parent.parent / "configs" / f"{name}.toml"
    loaded = Settings.load((path.name, read_toml(path)))
    assert (loaded == Settings()) == (name == "default")


def test_proxies_are_chosen_by_scheme_and_not_for_hosts_that_need_none() -> None:
    from osp_fetch.network.proxies import Proxies

    proxies = Proxies({"https": "http://proxy:3128", "no": "inside.example,127.0.0.1"})
    assert proxies.of("https://h/x") == "http://proxy:3128"
    assert proxies.of("http://h/x") is None
    assert proxies.of("https://inside.example/x") is None
    assert Proxies({}).of("https://h/x") is None
    without = "a.example, 10.0.0.0/8 ,fd00::/8,192.168.7.9/24,bad/x"
    within = Proxies({"http": "http://proxy:3128", "no": without})
    for host in ("10.1.2.3", "[fd12::1]", "192.168.7.200"):
        assert within.of(f"http://{host}:8080/x") is None
    for host in ("11.1.2.3", "[fe80::1]", "192.168.8.1", "ten.example"):
        assert within.of(f"http://{host}/x") == "http://proxy:3128"


def test_limits_of_one_host_are_layered_like_other_settings() -> None:
    made = Settings.load(
        ("a.toml", {"hosts": {"Images.Example.org": {"connections": 4}, "b": {"requests_per_second": 2}}}),
        ("--set", {"hosts": {"images.example.org": {"requests_per_second": "5"}}}),
    )
    limits = made.hosts["images.example.org"]
    assert (limits.connections, limits.requests_per_second) == (4, 5.0)
    assert ('hosts."b"', "requests_per_second", 2.0) in made.items()
    with pytest.raises(SettingsError, match=r'unknown key hosts\."b"\.conections; did you mean connections'):
        Settings.load(("x", {"hosts": {"b": {"conections": 4}}}))
    with pytest.raises(SettingsError, match=r"\[hosts\.\"b\"\] must be a table"):
        Settings.load(("x", {"hosts": {"b": 4}}))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("B\u00fccher.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_hosts_are_named_as_links_name_them(given: str, name: str) -> None:
    assert list(Settings.load(("x", {"hosts": {given: {"connections": 4}}})).hosts) == [name]


@pytest.mark.parametrize("wrong", ["https://example.org", "example.org:8080", "example.org/x", ""])
def test_what_is_no_host_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="without scheme, port and path"):
        Settings.load(("x", {"hosts": {wrong: {"connections": 4}}}))
