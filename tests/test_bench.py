"""Tests of `bench`: it finds the best number of connections of a host, shows it and saves it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from osp_fetch.bench import curve
from osp_fetch.bench.sweep import Point, best, next_number
from osp_fetch.concurrency import stop
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model.errors import SettingsError
from osp_fetch.model.profile import Profile
from osp_fetch.model.settings import Limits
from osp_fetch.storage import profiles
from tests.origin import Origin, Page, noise, refuse_above, slow
from tests.test_cli import get

MB = 1e6


def point(connections: int, goodput: float, refused: int = 0) -> Point:
    return Point(connections, goodput, 0.01, refused, 1.0)


@pytest.mark.parametrize(
    ("goodput", "refuses", "found"),
    [
        (lambda n: n * MB, None, range(128, 129)),
        (lambda n: min(n, 12) * MB, 12, range(12, 13)),
        (lambda n: n * MB if n <= 24 else n * MB / 10, None, range(21, 25)),
        (lambda n: min(n * 0.75, 25) * MB, None, range(30, 37)),
        (lambda n: 100 * MB, None, range(1, 2)),
    ],
    ids=["by connection", "refused above 12", "collapse above 24", "a full link", "one is enough"],
)
def test_the_best_number_is_found_in_few_steps(goodput, refuses, found) -> None:  # type: ignore[no-untyped-def]
    points: list[Point] = []
    while (number := next_number(points, 128)) is not None:
        refused = 5 if refuses is not None and number > refuses else 0
        points.append(point(number, goodput(number), refused))
    assert best(points).connections in found
    assert len(points) <= 12


def test_the_most_that_is_allowed_is_never_exceeded() -> None:
    points: list[Point] = []
    while (number := next_number(points, 6)) is not None:
        assert number <= 6
        points.append(point(number, number * MB))
    assert best(points).connections == 6


async def test_a_bench_finds_a_cap_saves_it_and_get_begins_with_it(origin: Origin, tmp_path: Path) -> None:
    data = noise(3 << 20)
    pace = 2 * MB
    lines = [origin.add(f"f{n}", data, always=refuse_above(origin, 5, pace)) for n in range(4)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    learnt = tmp_path / "state" / "profiles.json"
    words: list[str | Path] = ["m.txt", "--profiles", learnt, "-x", "16"]
    code, out, err = await get(
        "bench", *words, "--save", "--json", "--html", "curve.html", "--png", "curve.png", cwd=tmp_path
    )
    assert code == 0, err
    document = json.loads(out)
    assert 4 <= document["best"]["connections"] <= 5
    assert [p["connections"] for p in document["points"] if p["refused"]]
    assert document["points"] == sorted(document["points"], key=lambda p: p["connections"])
    page = (tmp_path / "curve.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    (host,) = profiles.read(learnt)
    assert host == origin.url.removeprefix("http://")
    assert not list(tmp_path.glob("f*"))  # bench keeps none of the bytes that it fetched

    code, _, err = await get("get", *words, "-o", "out", "--min-free", "0", "-v", cwd=tmp_path)
    assert code == 0, err
    assert {p.read_bytes() for p in (tmp_path / "out").glob("f*")} == {data}
    assert origin.most_open <= 16


async def test_a_bench_keeps_to_its_bytes_and_says_so(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("big.bin", noise(4 << 20))
    code, out, _ = await get("bench", url, "--bytes", "1MiB", "--time", "20s", cwd=tmp_path)
    assert code == 0
    assert "the bytes allowed were used up" in out
    assert "best: 1 connections" in out


async def test_small_files_of_unknown_size_and_a_curve_that_cannot_be_written(
    origin: Origin, tmp_path: Path
) -> None:
    lines = [origin.add(f"f{n}", noise(3000, n), always=slow(30_000)) for n in range(40)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    words = ("m.txt", "-x", "16", "--time", "6s", "--html", "nowhere/curve.html")
    code, out, err = await get("bench", *words, cwd=tmp_path)
    assert code == 2
    assert "best: " in out
    assert "nowhere/curve.html" in err
    assert "Traceback" not in err


async def test_a_host_that_gives_nothing_ends_a_bench_with_its_reason(origin: Origin, tmp_path: Path) -> None:
    code, out, err = await get("bench", f"{origin.url}/nowhere.bin", cwd=tmp_path)
    assert code != 0
    assert not out
    assert "404" in err
    assert "Traceback" not in err


async def test_a_bench_keeps_what_it_found_before_its_link_died(origin: Origin, tmp_path: Path) -> None:
    data = noise(8 << 20)

    async def alone(exchange: Exchange, page: Page) -> None:
        if origin.open > 1:
            await exchange.answer(403, b"URL signature expired")
        else:
            await exchange.serve(Blob(data), rate=4 * MB)

    url = origin.add("big.bin", data, always=alone)
    code, out, err = await get("bench", url, "--json", "-x", "8", cwd=tmp_path)
    assert code == 0, err
    document = json.loads(out)
    assert [p["connections"] for p in document["points"]] == [1]
    assert "403" in document["ended"]


async def test_a_bench_keeps_to_the_byte_rate(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("big.bin", noise(8 << 20))
    words = ("--json", "--time", "4s", "-x", "4", "--limit-rate", "1MiB")
    code, out, err = await get("bench", url, *words, cwd=tmp_path)
    assert code == 0, err
    rates = [p["bytes_per_second"] for p in json.loads(out)["points"]]
    assert max(rates) < 2 << 20


def test_profiles_of_other_hosts_stay(tmp_path: Path) -> None:
    place = tmp_path / "p.json"
    first = Profile(12, 4 << 20, 1000, 1.0)
    profiles.save(place, {"a:80": first, "b:80": first})
    profiles.save(place, {"b:80": replace(first, connections=3)})
    assert profiles.read(place) == {"a:80": first, "b:80": replace(first, connections=3)}


def test_profiles_that_are_saved_at_once_are_all_kept(tmp_path: Path) -> None:
    place = tmp_path / "p.json"
    hosts = [f"h{n}:80" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda host: profiles.save(place, {host: Profile(1, 4 << 20, 1000, 1.0)}), hosts))
    assert sorted(profiles.read(place)) == sorted(hosts)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 9, "hosts": {}}', '{"version": 1, "hosts": {"a": {}}}']
)
async def test_a_broken_profile_is_an_error_only_where_it_was_named(
    text: str, origin: Origin, tmp_path: Path
) -> None:
    place = tmp_path / "osp-fetch" / "profiles.json"
    place.parent.mkdir()
    place.write_text(text)
    with pytest.raises(SettingsError):
        profiles.read(place)
    url = origin.add("f", b"x" * 1000)
    code, _, err = await get("get", url, "-o", "out", "--profiles", place, "--min-free", "0", cwd=tmp_path)
    assert code == 2
    assert str(place) in err
    own = {"XDG_STATE_HOME": str(tmp_path)}
    code, _, err = await get("get", url, "-o", "out", "--min-free", "0", cwd=tmp_path, environment=own)
    assert code == 0
    assert str(place) in err


async def test_a_host_that_sends_no_byte_gets_no_profile(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", b"")
    own = {"XDG_STATE_HOME": str(tmp_path)}
    code, _, err = await get("bench", url, "--save", "--time", "1s", cwd=tmp_path, environment=own)
    assert code == 1
    assert "has sent no byte" in err
    assert not list(tmp_path.rglob("profiles.json"))


async def test_auto_begins_where_a_profile_says_and_a_number_is_kept() -> None:
    known = {"h": Profile(40, 16 << 20, 1000, 1.0)}
    pool = ConnectionPool(Limits(), profiles=known)
    assert pool.part_size("h") == 16 << 20
    assert await admitted(pool) == 40
    assert await admitted(ConnectionPool(Limits(connections=5), profiles=known)) == 5


async def test_auto_has_no_more_connections_than_memory_and_descriptors_allow() -> None:
    known = {"h": Profile(40, 16 << 20, 1000, 1.0)}
    assert await admitted(ConnectionPool(Limits(memory=30 << 20), profiles=known)) == 20
    assert await admitted(ConnectionPool(Limits(), profiles=known, most=10)) == 10
    assert await admitted(ConnectionPool(Limits(connections=30), most=10)) == 10
    assert await admitted(ConnectionPool(Limits(connections=30, memory=20 << 20))) == 30


async def admitted(pool: ConnectionPool) -> int:
    """Return how many slots `pool` grants before a byte has arrived."""
    asking = [asyncio.ensure_future(pool.connection("h", n).__aenter__()) for n in range(128)]
    await asyncio.sleep(0)
    given = pool.open
    await stop(asking)
    return given


def test_a_curve_with_one_point_can_be_drawn() -> None:
    page = curve.as_html("h:80 <&>", [point(1, 0.0)], point(1, 0.0))
    assert "h:80 &lt;&amp;&gt;" in page
