"""Tests of `bench`: it finds and confirms the best settings of a host, shows them and saves them."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.bench import curve, verdict
from osp_fetch.bench.disk import DiskRates
from osp_fetch.bench.levels import AUTO, Level, Look, Point, best
from osp_fetch.bench.measure import Bench
from osp_fetch.bench.meter import Meter, Windows
from osp_fetch.bench.search import MIB, finalists, next_level
from osp_fetch.concurrency import stop
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.demo.server import Blob, Exchange
from osp_fetch.model import events
from osp_fetch.model.errors import SettingsError
from osp_fetch.model.profile import Profile
from osp_fetch.model.settings import Limits
from osp_fetch.storage import profiles
from tests.origin import Origin, Page, noise, refuse_above, slow
from tests.test_cli import get, start
from tests.test_nginx import NGINX, Nginx

MB = 1e6
Host = Callable[[int, int | None], float]


def point(level: Level, goodput: float, refused: int = 0, busy: float = 0.0, looks: int = 1) -> Point:
    return Point(level, (Look((goodput,) * 4, refused, busy=busy),) * looks)


def found(host: Host, most: int = 128, refuses: int = 1000, total: int | None = None) -> list[Point]:
    """Return the points of a complete search on a simulated host."""
    points: list[Point] = []
    while (level := next_level(points, most, total=total)) is not None:
        assert level.connections is not None
        assert level.connections <= most
        refused = 9 if level.connections > refuses else 0
        points.append(point(level, host(level.connections, level.part_size), refused))
    return points


@pytest.mark.parametrize(
    ("host", "refuses", "wanted"),
    [
        (lambda n, k: n * MB, 1000, range(122, 129)),
        (lambda n, k: min(n, 12) * MB, 12, range(10, 13)),
        (lambda n, k: n * MB if n <= 24 else n * MB / 10, 1000, range(20, 25)),
        (lambda n, k: min(n * 0.75, 25) * MB, 1000, range(30, 39)),
        (lambda n, k: 100 * MB, 1000, range(1, 2)),
    ],
    ids=["by connection", "refused above 12", "collapse above 24", "a full link", "one is enough"],
)
def test_the_best_number_is_found_in_few_looks(host: Host, refuses: int, wanted: range) -> None:
    points = found(host, refuses=refuses)
    assert best(points).level.connections in wanted
    assert best(points).level.part_size is None
    assert len(points) <= 16


def burst(n: int, k: int | None) -> float:
    """Return the rate of a host that sends the first 2 MB of each reply at once, and then 1 MB/s."""
    part = k or 64 * MIB
    seconds = 0.02 + max(0.0, (part - 2 * MB) / MB)
    return min(120 * MB, n * part / seconds)


def test_a_burst_of_each_reply_leads_to_small_parts_over_few_connections() -> None:
    points = found(burst)
    assert best(points).level.part_size == 1 * MIB
    assert (best(points).level.connections or 0) <= 4
    assert best(points).goodput >= 114 * MB


def test_parts_of_which_the_files_have_too_few_are_not_tried() -> None:
    points = found(lambda n, k: min(n, 16) * MB, total=256 * MIB)
    sizes = {each.level.part_size for each in points}
    assert 1 * MIB in sizes
    assert sizes.isdisjoint({16 * MIB, 64 * MIB})


def test_files_with_too_few_automatic_parts_lead_to_smaller_ones() -> None:
    def host(n: int, k: int | None) -> float:
        return min(n, 16 if k is None or k > MIB else 64) * MB

    points = found(host, most=64, total=128 * MIB)
    assert best(points).level.part_size == MIB
    assert (best(points).level.connections or 0) >= 56


def test_more_processes_are_tried_where_a_core_is_the_limit() -> None:
    level = Level(4)
    known = [point(Level(n), min(n, 4) * 100 * MB, busy=0.95) for n in (1, 3, 4, 5, 16)]
    known += [point(Level(3, k * MIB), 300 * MB, busy=0.95) for k in (1, 4, 16, 64)]
    known += [point(Level(5, k * MIB), 400 * MB, busy=0.95) for k in (1, 4)]
    assert next_level(known, 128, cores=1) is None
    assert next_level(known, 128, cores=4) == replace(level, processes=2)
    assert best([*known, point(replace(level, processes=2), 420 * MB)]).level == level
    assert best([*known, point(replace(level, processes=2), 700 * MB)]).level.processes == 2


def test_the_most_that_is_allowed_is_never_exceeded() -> None:
    assert best(found(lambda n, k: n * MB, most=6)).level.connections == 6


def test_a_part_size_that_the_user_names_is_the_only_one_that_is_tried() -> None:
    points: list[Point] = []
    while (level := next_level(points, 128, part_size=16 * MIB)) is not None:
        points.append(point(level, min(level.connections or 0, 12) * MB))
    assert {each.level.part_size for each in points} == {16 * MIB}
    assert best(points).level.connections in range(11, 17)
    levels = finalists(points, 128)
    assert levels[0] == best(points).level
    assert {each.part_size for each in levels} == {16 * MIB}


def test_a_rate_that_the_user_allows_is_not_taken_for_the_limit_of_the_host() -> None:
    top = point(Level(4), 9.5 * MB, looks=3)
    held_back = result(top, point(AUTO, 9.6 * MB, looks=3), allowed=10_000_000)
    assert "--limit-rate allows 9.5 MiB/s: it is the limit" in list(verdict.sentences(held_back))[-1]
    free = result(top, point(AUTO, 9.6 * MB, looks=3), allowed=100_000_000)
    assert "--limit-rate" not in list(verdict.sentences(free))[-1]


def test_the_finalists_are_the_best_level_and_its_neighbours() -> None:
    levels = finalists(found(burst), 128)
    assert levels[0] == best(found(burst)).level
    assert len(levels) == len(set(levels)) == 5
    assert {level.part_size for level in levels} >= {1 * MIB, None}
    refused = finalists(found(lambda n, k: min(n, 12) * MB, refuses=12), 128)
    assert max(level.connections or 0 for level in refused) <= 12


def test_a_burst_at_the_start_is_no_steady_rate() -> None:
    windows = Windows(most=10)
    for rate in (800.0, 90.0, 10.0, 11.0, 9.0, 10.0):
        assert not windows.over
        windows.add(rate, 0)
    assert windows.steady
    assert windows.used == (10.0, 11.0, 9.0, 10.0)


def test_a_rate_that_never_becomes_steady_ends_a_look_and_is_marked() -> None:
    windows = Windows(most=6)
    for rate in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        windows.add(rate, 0)
    assert windows.over
    assert not windows.steady
    assert windows.used == (8.0, 16.0, 32.0)


def test_a_rate_is_not_steady_while_auto_changes_its_connections() -> None:
    windows = Windows(most=20)
    for moves in (0, 1, 1, 2, 3):
        windows.add(10.0, moves)
    assert not windows.steady
    for _ in range(3):
        windows.add(10.0, 3)
    assert windows.steady


def test_a_meter_counts_refusals_apart_from_other_errors() -> None:
    meter = Meter()
    for cause in ("status 503", "network", "status 429", "status 500"):
        meter(events.Retrying("f", cause, 0.1, "no"))
    meter(events.Wrote("f", 1000))
    assert (meter.refused, meter.received) == (2, 1000)
    meter.settle()
    assert meter.refused == 0  # connections of the look before were still closing
    meter(events.Retrying("f", "status 503", 0.1, "no"))
    assert meter.refused == 3


def test_a_rate_does_not_depend_on_where_the_writes_lie() -> None:
    rates = []
    for phase in range(10):
        meter = Meter()
        for tick in range(40):  # 2 s, in which 1 MB is written every 0.5 s
            if tick % 10 == phase:
                meter(events.Wrote("f", 1_000_000))
            meter.sample(tick / 20)
        rates.append(meter.slope(2.0) or 0.0)
    assert max(rates) < 1.15 * 2e6
    assert min(rates) > 0.85 * 2e6


def result(best_point: Point, auto: Point | None, **more: Any) -> Bench:
    values: dict[str, Any] = {
        "host": "h:80", "points": (best_point,), "best": best_point, "auto": auto, "confirmed": True,
        "drift": 1.0, "received": 1, "ended": "", "writes": True, **more,
    }  # fmt: skip
    return Bench(**values)


def test_the_sentence_on_auto_says_what_was_measured() -> None:
    top = point(Level(8), 100 * MB, looks=3)
    assert "auto needs no help: after 0 s it gives 98 %" in verdict.against_auto(
        result(top, point(AUTO, 98 * MB, looks=3))
    )
    slower = result(top, point(AUTO, 50 * MB, looks=3))
    assert slower.helps
    assert "2.00 times as fast as auto" in verdict.against_auto(slower)
    uneven = Point(AUTO, tuple(Look((rate * MB,)) for rate in (40, 50, 110)))
    assert not result(top, uneven).helps
    assert "may be chance" in verdict.against_auto(result(top, uneven))
    assert "not confirmed: the time" in verdict.against_auto(
        result(top, None, confirmed=False, ended="the time allowed was used up")
    )


@pytest.mark.parametrize(
    ("network", "disk", "digest", "through", "said"),
    [
        (
            1200,
            400,
            1500,
            390,
            "1.1 GiB/s from 24 connections up; your disk takes 381.5 MiB/s: it is the limit",
        ),
        (100, 400, 1500, 99, "your disk takes 381.5 MiB/s: the host is the limit"),
        (1200, 2000, 400, 390, "one core hashes 381.5 MiB/s: it is the limit of a single file"),
        (1200, 2000, 1500, 700, "this machine is the limit"),
    ],
    ids=["disk", "host", "digest", "machine"],
)
def test_the_sentence_on_the_limit_names_the_slowest_part(
    network: int, disk: int, digest: int, through: int, said: str
) -> None:
    curve_of_host = tuple(point(Level(n), min(n / 24, 1) * network * MB) for n in (4, 24, 64))
    rates = DiskRates("data", disk * MB, 0.001, {"sha256": digest * MB})
    top = point(Level(12), through * MB)
    assert said in verdict.limit(result(top, None, network=curve_of_host, disk=rates))


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_a_burst_of_each_request_of_a_real_nginx_does_not_deceive(tmp_path: Path) -> None:
    server = Nginx(tmp_path)
    (server.files / "f").write_bytes(noise(48 << 20))
    server.locations = f"location /burst {{ alias {server.files}; limit_rate 4m; }}"
    await server.start()
    try:
        words = (
            "bench",
            server.url("burst/f"),
            "-o",
            "out",
            "-x",
            "16",
            "--min-free",
            "0",
            "--profiles",
            "none",
        )
        code, out, err = await get(*words, "--time", "24s", "--json", cwd=tmp_path)
    finally:
        await server.stop()
    assert code == 0, err
    document = json.loads(out)
    alone = next(p for p in document["points"] if p["connections"] == 1 and p["part_size"] is None)
    assert document["confirmed"], document
    # without the bursts, one connection gives 4 MB/s; nginx itself gives far more than 40 MB/s
    assert alone["bytes_per_second"] < 10 * MB
    assert document["best"]["bytes_per_second"] > 4 * alone["bytes_per_second"]
    assert not list((tmp_path).glob(".osp-fetch-bench-*"))


async def test_a_bench_finds_a_cap_saves_it_and_get_begins_with_it(origin: Origin, tmp_path: Path) -> None:
    data = noise(3 << 20)
    pace = 2 * MB
    lines = [origin.add(f"f{n}", data, always=refuse_above(origin, 5, pace)) for n in range(12)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    learnt = tmp_path / "state" / "profiles.json"
    words: list[str | Path] = ["m.txt", "--profiles", learnt, "-x", "16", "-o", "out", "--min-free", "0"]
    drawn = ("--html", "curve.html", "--png", "curve.png", "--csv", "curve.csv")
    code, out, err = await get("bench", *words, "--time", "40s", "--save", "--json", *drawn, cwd=tmp_path)
    assert code == 0, err
    document = json.loads(out)
    assert document["confirmed"]
    assert 3 <= document["best"]["connections"] <= 5
    assert [p["connections"] for p in document["points"] if p["refused"]]
    page = (tmp_path / "curve.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert len(rows) == len(document["points"]) + 1
    assert rows[-1]["connections"] == "auto"
    (host,) = profiles.read(learnt)
    assert host == origin.url.removeprefix("http://")
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {"m.txt", "state", "curve.html", "curve.png", "curve.csv"}  # no byte that it fetched

    code, _, err = await get("get", *words, "-v", cwd=tmp_path)
    assert code == 0, err
    assert {p.read_bytes() for p in (tmp_path / "out").glob("f*")} == {data}
    assert origin.most_open <= 16


async def test_a_bench_keeps_to_its_bytes_says_so_and_saves_nothing(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("big.bin", noise(4 << 20))
    place = tmp_path / "p.json"
    words = ("--bytes", "1MiB", "--time", "20s", "-o", "out", "--min-free", "0")
    code, out, err = await get("bench", url, *words, "--save", "--profiles", place, cwd=tmp_path)
    assert code == 1
    assert "not confirmed: the bytes allowed were used up" in out
    assert "recommended: -j 1" in out
    assert "not saved" in err
    assert not place.exists()


async def test_small_files_of_unknown_size_and_a_curve_that_cannot_be_written(
    origin: Origin, tmp_path: Path
) -> None:
    lines = [origin.add(f"f{n}", noise(3000, n), always=slow(30_000)) for n in range(40)]
    (tmp_path / "m.txt").write_text("\n".join(lines))
    words = ("m.txt", "-x", "16", "--time", "6s", "--html", "nowhere/curve.html", "--min-free", "0")
    code, out, err = await get("bench", *words, cwd=tmp_path)
    assert code == 2
    assert "recommended: " in out
    assert "nowhere/curve.html" in err
    assert "Traceback" not in err


async def test_a_host_that_gives_nothing_ends_a_bench_with_its_reason(origin: Origin, tmp_path: Path) -> None:
    for more in ([], ["--no-disk"]):
        code, out, err = await get("bench", f"{origin.url}/nowhere.bin", *more, cwd=tmp_path)
        assert code != 0
        assert not out
        assert "404" in err
        assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


async def test_a_bench_goes_on_without_the_files_that_are_not_served(origin: Origin, tmp_path: Path) -> None:
    lines = [f"{origin.url}/nowhere{n}.bin" for n in range(5)]
    (tmp_path / "m.txt").write_text("\n".join([*lines, origin.add("f", noise(1 << 20), always=slow(4 * MB))]))
    words = ("--time", "4s", "-x", "2", "--json", "--min-free", "0")
    code, out, err = await get("bench", "m.txt", *words, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["bytes_received"] > 0


async def test_a_bench_keeps_what_it_found_before_its_link_died(origin: Origin, tmp_path: Path) -> None:
    data = noise(8 << 20)

    async def alone(exchange: Exchange, page: Page) -> None:
        if origin.open > 1:
            await exchange.answer(403, b"URL signature expired")
        else:
            await exchange.serve(Blob(data), rate=4 * MB)

    url = origin.add("big.bin", data, always=alone)
    words = ("--json", "-x", "8", "--time", "20s", "--min-free", "0")
    code, out, err = await get("bench", url, *words, cwd=tmp_path)
    assert code == 0, err
    document = json.loads(out)
    assert not document["confirmed"]
    # a look at several connections may end before the second one is refused: the first has the same rate
    assert document["points"][0]["connections"] == 1
    assert document["best"] in document["points"]
    assert "403" in document["ended"]


async def test_a_bench_keeps_to_the_byte_rate(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("big.bin", noise(8 << 20))
    words = ("--json", "--time", "6s", "-x", "4", "--limit-rate", "1MiB", "--min-free", "0")
    code, out, err = await get("bench", url, *words, cwd=tmp_path)
    assert code == 0, err
    rates = [p["bytes_per_second"] for p in json.loads(out)["points"]]
    assert max(rates) < 2 << 20


async def test_without_the_disk_nothing_is_written_and_digests_are_not_compared(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [
        {"path": f"f{n}", "url": origin.add(f"f{n}", noise(size, n)), "sha256": "0" * 64}
        for n, size in enumerate((1000, 100_000, 2_000_000))
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("--no-disk", "--json", "--time", "4s", "-x", "4", "-o", "out")
    code, out, err = await get("bench", "m.jsonl", *words, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["bytes_received"] > 2_000_000
    assert [each.name for each in tmp_path.iterdir()] == ["m.jsonl"]


async def test_the_disk_alone_is_measured_without_a_source(tmp_path: Path) -> None:
    code, out, err = await get("bench", "--disk", "-o", "out", "--json", cwd=tmp_path)
    assert code == 0, err
    disk = json.loads(out)["disk"]
    assert disk["write_bytes_per_second"] > 0
    assert {"md5", "sha1", "sha256", "blake2b"} <= disk["hash_bytes_per_second"].keys()
    code, out, err = await get("bench", cwd=tmp_path)
    assert code == 2
    assert "--disk" in err
    code, out, err = await get("bench", "--disk", "--no-disk", cwd=tmp_path)
    assert code == 2
    assert not list(tmp_path.iterdir())


async def test_a_bench_with_the_disk_says_which_is_the_limit(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(1 << 20), always=slow(2 * MB))
    words = ("--disk", "--time", "12s", "-x", "1", "--min-free", "0")
    code, out, err = await get("bench", url, *words, cwd=tmp_path)
    assert code == 0, err
    assert "the host is the limit" in out
    assert "writes and syncs" in out
    assert not list(tmp_path.iterdir())


async def test_a_bench_that_is_terminated_deletes_its_scratch_folder(origin: Origin, tmp_path: Path) -> None:
    url = origin.add("f", noise(1 << 20), always=slow(1 * MB))
    process = await start("bench", url, "--min-free", "0", cwd=tmp_path)
    while not list(tmp_path.glob(".osp-fetch-bench-*/*")):
        await asyncio.sleep(0.02)
    process.terminate()
    _, err = await process.communicate()
    assert process.returncode == 75, err
    assert not list(tmp_path.iterdir())


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


async def test_a_profile_keeps_its_part_size_if_other_sizes_were_slower() -> None:
    known = {"h": Profile(4, 2 << 20, 1000, 1.0, keeps_parts=True), "i": Profile(4, 2 << 20, 1000, 1.0)}
    pool = ConnectionPool(Limits(), profiles=known)
    for host in known:
        await pool.connection(host, 1).__aenter__()
        pool.host(host).throughput.measured(8 << 20, 1.0)
    assert pool.part_size("h") == 2 << 20
    assert pool.part_size("i") == 32 << 20


def test_a_profile_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    place = tmp_path / "p.json"
    fields = {"connections": 12, "part_size": 4 << 20, "bytes_per_second": 1000, "measured": 1.0}
    place.write_text(json.dumps({"version": 1, "hosts": {"a:80": fields}}))
    assert profiles.read(place) == {"a:80": Profile(12, 4 << 20, 1000, 1.0)}


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


def test_a_curve_with_one_point_can_be_drawn(tmp_path: Path) -> None:
    one = replace(result(point(Level(1), 0.0), None, confirmed=False), host="h:80 <&>")
    assert "h:80 &lt;&amp;&gt;" in curve.as_html(one)
    curve.draw_png(tmp_path / "c.png", one)
    assert curve.as_csv(one).count("\n") == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["http://127.0.0.1:9/x", "-o", "s3://bucket/x"], "bench measures folders"),
        (["--disk", "-o", "s3://bucket/x"], "bench measures folders"),
        (["--disk", "--csv", "x.csv"], "no curve of the disk alone"),
        (["http://127.0.0.1:9/x", "--time", "0"], "0 leaves nothing to measure with"),
        (["http://127.0.0.1:9/x", "--bytes", "0"], "0 leaves nothing to measure with"),
    ],
)
async def test_what_cannot_be_measured_is_refused(tmp_path: Path, words: list[str], why: str) -> None:
    code, _, said = await get("bench", *words, cwd=tmp_path)
    assert (code, why in said) == (2, True), said


async def test_a_host_that_refuses_every_connection_is_named_with_its_reason(tmp_path: Path) -> None:
    code, _, said = await get("bench", "http://127.0.0.1:9/x", "-o", "out", "--time", "5s", cwd=tmp_path)
    assert code == 1
    assert "refuse" in said, said
    assert "larger file" not in said
