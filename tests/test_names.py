"""Tests of names for rows without a path: no two links share one, and every run gives the same."""

from __future__ import annotations

import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import cast

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osp_fetch import Entry, fetch_all
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model.entry import portability, relative_path
from osp_fetch.model.errors import ManifestError
from osp_fetch.model.protocols import Row
from osp_fetch.sources import resolve as resolving
from osp_fetch.sources.names import NAMES, Naming, last_name, spread
from osp_fetch.sources.resolve import Options, resolve
from tests import origin as o
from tests.conftest import quick
from tests.origin import Origin, Page, noise

SAME = ["http://h/a/1.jpg", "http://h/b/1.jpg", "http://i/a/1.JPG", "http://h/one/2.jpg", "http://h/x.php?id=1",
        "http://h/x.php?id=2", "http://h/get/?file=3", "http://h/get/?file=4", "http://h/?x=1"]  # fmt: skip


def rows(source: object, **options: object) -> list[Row]:
    return list(cast("Iterable[Row]", resolve(source, Options(**options)).rows))  # type: ignore[arg-type]


def paths(source: object, naming: Naming | None = None) -> dict[str, str]:
    """Return the path of each link."""
    found = rows(source, naming=naming or Naming())
    assert all(isinstance(row, Entry) for row in found), found
    return {row.urls[0]: row.path for row in found if isinstance(row, Entry)}


def listed(folder: Path, links: list[str]) -> Path:
    place = folder / "urls.txt"
    place.write_text("\n".join(links) + "\n")
    return place


def test_a_name_is_plain_where_it_is_unique_and_has_a_hash_where_it_is_shared(tmp_path: Path) -> None:
    found = paths(listed(tmp_path, SAME))
    assert found["http://h/one/2.jpg"] == "2.jpg"
    assert len({path.casefold() for path in found.values()}) == len(SAME)
    assert found["http://h/a/1.jpg"].startswith("1-")
    assert found["http://h/a/1.jpg"].endswith(".jpg")
    assert found["http://h/x.php?id=1"].startswith("x-")
    assert found["http://h/get/?file=3"].startswith("get-")


@pytest.mark.parametrize("rule", [name for name in NAMES if name not in ("index", "server")])
def test_names_do_not_depend_on_the_order_of_rows(tmp_path: Path, rule: str) -> None:
    naming = Naming(rule=rule)
    expected = paths(listed(tmp_path, SAME), naming)
    assert len(set(expected.values())) == len(SAME)
    shuffled = list(SAME)
    for seed in range(10):
        random.Random(seed).shuffle(shuffled)
        assert paths(listed(tmp_path, shuffled), naming) == expected


def test_every_form_of_a_manifest_gives_the_same_names(tmp_path: Path) -> None:
    expected = paths(listed(tmp_path, SAME))
    assert paths(list(SAME)) == expected
    assert paths(pandas.DataFrame({"url": SAME})) == expected
    assert paths([{"url": link, "caption": "x"} for link in SAME]) == expected
    (tmp_path / "m.csv").write_text("caption,url\n" + "".join(f"x,{link}\n" for link in SAME))
    assert paths(tmp_path / "m.csv") == expected


def test_a_manifest_that_is_streamed_is_named_alike_until_it_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = paths(listed(tmp_path, SAME))
    monkeypatch.setattr(resolving, "_MOMENT", 10)
    assert paths(listed(tmp_path, SAME)) == expected
    monkeypatch.setattr(resolving, "_READ_TWICE", 20)
    large = paths(listed(tmp_path, SAME))
    assert large["http://h/one/2.jpg"].startswith("2-")
    assert large["http://h/a/1.jpg"] == expected["http://h/a/1.jpg"]
    assert paths(listed(tmp_path, SAME[::-1])) == large


def test_a_list_that_is_read_twice_is_named_alike_whether_its_rows_are_kept_or_not(tmp_path: Path) -> None:
    links = [f"http://host-{n % 7}.example/{'folder/' * 8}{n % 20_000:06}.jpg" for n in range(30_000)]
    place = listed(tmp_path, links)
    assert resolving._MOMENT < place.stat().st_size < resolving._KEPT
    kept = paths(place)
    assert list(kept) == links
    assert len(set(kept.values())) == len(links)
    assert kept[links[15_000]] == "015000.jpg"
    assert kept[links[0]] != "000000.jpg" != kept[links[20_000]]
    place.write_text(place.read_text() + "\n" * resolving._KEPT)
    assert paths(place) == kept


def test_rows_that_come_one_by_one_never_collide() -> None:
    found = paths(iter(SAME))
    assert len(set(found.values())) == len(SAME)


async def test_an_async_manifest_of_links(origin: Origin, tmp_path: Path) -> None:
    links = [origin.add("a/1.bin", b"a"), origin.add("b/1.bin", b"b"), origin.add("c/2.bin", b"c")]

    async def come() -> AsyncIterator[object]:
        for link in links:
            yield {"url": link}

    report = await fetch_all(come(), tmp_path / "out", settings=quick())  # type: ignore[arg-type]
    assert report.ok
    assert sorted(p.read_bytes() for p in (tmp_path / "out").glob("*.bin")) == [b"a", b"b", b"c"]


async def test_the_same_link_twice_is_one_file_and_no_failure(origin: Origin, tmp_path: Path) -> None:
    link = origin.add("a/1.bin", b"abc")
    manifest = listed(tmp_path, [link, origin.add("b/1.bin", b"x"), link])
    for _ in range(2):
        report = await fetch_all(manifest, tmp_path / "out", settings=quick())
        assert (report.ok, len(report.outcomes)) == (True, 2)
        assert any("repeats an earlier one" in note for note in report.notes)
    assert origin.requests["/a/1.bin"] == 1


def test_one_path_with_two_links_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("url,path\nhttp://h/1,a\nhttp://h/2,a\nhttp://h/1,a\n")
    found = rows(tmp_path / "m.csv")
    assert [row.urls[0] for row in found if isinstance(row, Entry)] == ["http://h/1"]
    (error,) = [str(row) for row in found if isinstance(row, ManifestError)]
    assert "m.csv:3: a is listed twice" in error


def test_a_stated_path_keeps_its_name_from_links(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("url,path\nhttp://h/x/a.jpg,\nhttp://h/y,a.jpg\n")
    found = {row.urls[0]: row.path for row in rows(tmp_path / "m.csv") if isinstance(row, Entry)}
    assert found["http://h/y"] == "a.jpg"
    assert found["http://h/x/a.jpg"].startswith("a-")


def test_links_that_differ_only_in_a_token_are_two_files(tmp_path: Path) -> None:
    links = ["http://h/f.bin?token=A", "http://h/f.bin?token=B"]
    assert len(set(paths(listed(tmp_path, links)).values())) == 2


def test_a_fresh_signature_keeps_the_name(tmp_path: Path) -> None:
    signed = [
        "http://h/{}/1.jpg?X-Amz-Signature={}&X-Amz-Date=20260101T000000Z".format(*p) for p in ("ax", "bx")
    ]
    again = [link.replace("=x", "=y") for link in signed]
    assert list(paths(listed(tmp_path, signed)).values()) == list(paths(listed(tmp_path, again)).values())


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("http://h/a/b%20c.tar?x=1", "b c.tar"),
        ("http://h/%2e%2e", ""),
        ("http://h/..%2fetc%2fpasswd", "passwd"),
        ("http://h/a%0ab", "a_b"),
        ("http://h/.osp-fetch", ""),
        ("http://h/x&apikey=abc", ""),
        ("http://h/", ""),
        ("http://h/a%5cb.txt", "a\\b.txt"),
        ("http://h/%EC%82%AC.jpg", "사.jpg"),
        ("http://h/CON.jpg", "CON.jpg"),
        ("http://h/sa_000020.tar?x=1/2", "sa_000020.tar"),
        ("http://h/a/hf_abcdefgh.jpg", ""),
        ("http://h/a/shelf_abcdefgh.jpg", "shelf_abcdefgh.jpg"),
        ("http://h/a#b/c", "a"),
        ("http://h", ""),
        ("https://h?a/b.jpg", ""),
    ],
)
def test_names_out_of_links(link: str, name: str) -> None:
    assert last_name(link) == name


@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=6), st.sampled_from(["url", "host", "hash", "index"])
)
def test_whatever_a_link_says_its_file_stays_in_the_folder(parts: list[str], rule: str) -> None:
    link = "http://h/" + "/".join(parts)
    for row in rows(iter([link]), naming=Naming(rule=rule)):
        if isinstance(row, Entry):
            assert relative_path(row.path) == row.path
            assert ".." not in row.path.split("/")


@pytest.mark.parametrize("stem", ["x" * 400, "사" * 120, "a.b" * 200])
def test_a_name_that_is_too_long_is_shortened_with_a_hash(tmp_path: Path, stem: str) -> None:
    links = [f"http://h/{stem}1.tar.gz", f"http://h/{stem}2.tar.gz"]
    found = list(paths(listed(tmp_path, links)).values())
    assert len(set(found)) == 2
    assert all(name.endswith(".tar.gz") and len(name.encode()) <= 255 for name in found)
    assert found == list(paths(listed(tmp_path, links)).values())


def test_rules_by_hand(tmp_path: Path) -> None:
    place = listed(tmp_path, ["http://h.org:81/a/b.jpg", "http://h.org/c.tar.gz?v=2", "http://h.org/d/"])
    assert list(paths(place, Naming(rule="index")).values()) == [
        "000000000.jpg",
        "000000001.tar.gz",
        "000000002",
    ]
    hosts = list(paths(place, Naming(rule="host")).values())
    assert hosts[0] == "h.org_81/a/b.jpg"
    assert hosts[1].startswith("h.org/c-")
    hashes = list(paths(place, Naming(rule="hash")).values())
    assert [Path(name).suffix for name in hashes] == [".jpg", ".gz", ""]
    assert all(len(name.split(".")[0]) == 32 for name in hashes)


@pytest.mark.parametrize(
    "path",
    ["aux", "d/NUL.txt", "con.jpg", "a:b", "C:/a", "a\\b", "what?.txt", "a|b", "end.", "end /x", 'q"q'],
)
def test_names_that_windows_forbids_are_fine_here_and_refused_on_request(tmp_path: Path, path: str) -> None:
    assert relative_path(path) == path
    assert portability(path)
    assert portability("plain/name.tar.gz") is None
    (tmp_path / "m.jsonl").write_text(
        pandas.DataFrame([{"url": "http://h/x", "path": path}]).to_json(orient="records")
    )
    (error,) = rows(tmp_path / "m.jsonl", naming=Naming(portable=True))
    assert "without --portable-names" in str(error)


async def test_a_name_with_a_colon_and_a_device_are_fetched(origin: Origin, tmp_path: Path) -> None:
    names = ["aux", "con.jpg", "12:30.bin", "a\\b.bin", ".cache/model.bin"]
    manifest = [{"url": origin.add(f"f{n}.jpg" if ".jpg" in name else f"f{n}", name.encode()), "path": name}
                for n, name in enumerate(names)]  # fmt: skip
    report = await fetch_all(manifest, tmp_path / "out", settings=quick())
    assert report.ok
    assert all((tmp_path / "out" / name).read_bytes() == name.encode() for name in names)


def test_fan_out_spreads_by_the_name_alone(tmp_path: Path) -> None:
    links = [f"http://h/{n}.jpg" for n in range(1000)]
    found = paths(listed(tmp_path, links), Naming(fan_out=16))
    folders = [path.partition("/")[0] for path in found.values()]
    assert set(folders) == {f"{n:02}" for n in range(16)}
    assert max(map(folders.count, set(folders))) < 120
    assert found["http://h/7.jpg"] == spread("7.jpg", 16)
    (tmp_path / "m.csv").write_text("url,path\nhttp://h/a,d/a.jpg\nhttp://h/b,b.jpg\n")
    given_ = paths(tmp_path / "m.csv", Naming(fan_out=16))
    assert given_["http://h/a"] == "d/a.jpg"
    assert given_["http://h/b"] == spread("b.jpg", 16)


def test_the_flags(command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    listed(tmp_path, ["http://h/a.jpg", "http://h/con.jpg"])
    assert '"bad_rows": 1' in command("plan", "urls.txt", "--portable-names", "--json").stdout
    for words in (["--names", "colour"], ["--fan-out", "0"], ["--fan-out", "x"]):
        done = command("plan", "urls.txt", *words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert command("plan", "urls.txt", "--names", "hash", "--fan-out", "8").returncode == 0


# names that the server states


def disposition(value: str) -> o.Fault:
    async def answer(exchange: Exchange, page: Page) -> None:
        await exchange.serve(Blob(page.data), {"Content-Disposition": value})

    return answer


@pytest.mark.parametrize(
    ("value", "name"),
    [("attachment; filename=report.tar", "report.tar"), ('attachment; filename="a b.tar"', "a b.tar"),
     ("attachment; filename*=UTF-8''%e4%ba%8b.tar; filename=x.tar", "事.tar"),
     # the server encodes its head in ISO 8859-1; the second one is UTF-8
     ('attachment; filename="résumé.jpg"', "résumé.jpg"),
     ("attachment; filename=sm\u00c3\u00b8r.jpg", "smør.jpg"),
     ('attachment; filename="../../evil.tar"', "evil.tar"),
     ('attachment; filename="C:\\\\x\\\\evil.tar"', "evil.tar"),
     ('attachment; filename="/etc/passwd"', "passwd"), ("inline; filename=\"a\tb.bin\"", "a_b.bin")],
)  # fmt: skip
async def test_a_link_without_a_name_is_named_by_its_server(
    origin: Origin, tmp_path: Path, value: str, name: str
) -> None:
    origin.add("get/", noise(1000), always=disposition(value))
    (tmp_path / "urls.txt").write_text(f"{origin.url}/get/?file=3\n")
    for _ in range(2):
        report = await fetch_all(tmp_path / "urls.txt", tmp_path / "out", settings=quick())
        assert report.ok, report.failures
        assert (tmp_path / "out" / name).read_bytes() == noise(1000)
    assert not (tmp_path / "evil.tar").exists()
    assert not (tmp_path.parent / "evil.tar").exists()


async def test_the_last_link_of_redirects_names_the_file(origin: Origin, tmp_path: Path) -> None:
    origin.add("files/report.tar", noise(1000))
    origin.add("get/", b"", always=o.redirect("/files/report.tar"))
    (tmp_path / "urls.txt").write_text(f"{origin.url}/get/?file=3\n")
    report = await fetch_all(tmp_path / "urls.txt", tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    assert (tmp_path / "out/report.tar").read_bytes() == noise(1000)


@pytest.mark.parametrize("form", ["file", "stream"])
async def test_two_links_whose_servers_state_one_name_are_two_files(
    origin: Origin, tmp_path: Path, form: str
) -> None:
    for number in (1, 2):
        origin.add(f"{number}/", noise(1000, number), always=disposition("attachment; filename=data.bin"))
    links = [f"{origin.url}/{number}/?x" for number in (1, 2)]
    (tmp_path / "urls.txt").write_text("\n".join(links))

    async def stream() -> AsyncIterator[object]:
        for link in links:
            yield {"url": link}

    source: object = stream() if form == "stream" else tmp_path / "urls.txt"
    report = await fetch_all(source, tmp_path / "out", settings=quick())  # type: ignore[arg-type]
    assert report.ok, report.failures
    found = sorted((tmp_path / "out").glob("data*.bin"))
    assert sorted(place.read_bytes() for place in found) == sorted(noise(1000, n) for n in (1, 2))


async def test_names_server_asks_for_every_row(origin: Origin, tmp_path: Path) -> None:
    origin.add("download.php", noise(1000), always=disposition("attachment; filename=photo.jpg"))
    (tmp_path / "urls.txt").write_text(f"{origin.url}/download.php?id=1\n")
    report = await fetch_all(tmp_path / "urls.txt", tmp_path / "out", settings=quick(), names="server")
    assert report.ok, report.failures
    assert (tmp_path / "out/photo.jpg").exists()


async def test_a_server_that_states_no_name_leaves_it_to_the_link(origin: Origin, tmp_path: Path) -> None:
    origin.add("get/", noise(1000))
    (tmp_path / "urls.txt").write_text(f"{origin.url}/get/?file=3\n")
    report = await fetch_all(tmp_path / "urls.txt", tmp_path / "out", settings=quick())
    assert report.ok, report.failures
    (place,) = (tmp_path / "out").glob("get-*")
    assert place.read_bytes() == noise(1000)


async def test_a_name_that_cannot_be_asked_for_fails_its_row_alone(origin: Origin, tmp_path: Path) -> None:
    origin.add("get/", b"", always=o.status(404))
    (tmp_path / "urls.txt").write_text(f"{origin.url}/get/?file=3\n{origin.add('a.bin', noise(10))}\n")
    report = await fetch_all(tmp_path / "urls.txt", tmp_path / "out", settings=quick())
    (failure,) = report.failures
    assert "urls.txt:1" in str(failure.error)
    assert "give the row a path" in str(failure.error)
    assert (tmp_path / "out/a.bin").exists()


def test_names_that_servers_state_are_told_apart_in_a_manifest_that_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_MOMENT", 10)
    naming = Naming(rule="server", ask=lambda rows: ["image.jpg"] * len(rows))
    found = paths(listed(tmp_path, [f"http://h/get?{n}" for n in range(3000)]), naming)
    assert len(set(found.values())) == 3000


def test_shards_end_where_a_name_cannot_be_asked_for(tmp_path: Path) -> None:
    naming = Naming(strict=True, ask=lambda rows: [ManifestError("no answer")] * len(rows))
    with pytest.raises(ManifestError, match="all shards have to know all names"):
        rows(listed(tmp_path, ["http://h/get/?1", "http://h/a.bin"]), naming=naming, shard=(0, 2))


def test_host_names_tell_odd_paths_apart(tmp_path: Path) -> None:
    links = ["http://h/x/a%2Fb", "http://h/x/b", "http://h//d/e", "http://h/d/e", "http://h/f?token=A",
             "http://h/f?token=B", "http://h/f"]  # fmt: skip
    assert len(set(paths(listed(tmp_path, links), Naming(rule="host")).values())) == len(links)
