"""Tests of links that expire in mid-run: fresh ones are merged live, and files go on at the same byte."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from osp_fetch import Event, Status, fetch_all
from osp_fetch.demo.server import Blob, Exchange, Server
from osp_fetch.demo.sources import MetaCdn
from osp_fetch.model import events
from osp_fetch.model.entry import Entry, entry
from osp_fetch.model.errors import ManifestError
from osp_fetch.sources.link_files import _other
from osp_fetch.sources.resolve import Options, resolve
from osp_fetch.views.board import Board
from tests.conftest import quick
from tests.origin import Origin, noise

FILES = {f"sa_{n:06}.tar": noise(300_000 + n, n) for n in range(6)}


class World:
    """A stand-in of Meta's CDN whose links expire when a test advances the clock."""

    def __init__(self, folder: Path) -> None:
        self.cdn = MetaCdn()
        self.cdn.files |= {name: Blob(data) for name, data in FILES.items()}
        self.now = 1000.0
        self.cdn.clock = lambda: self.now
        self.links = folder / "links.tsv"
        self.out = folder / "out"

    def issue(self, url: str, place: Path | None = None) -> None:
        fresh = (place or self.links).with_suffix(".fresh")
        fresh.write_text(self.cdn.link_file(url, self.now + 100))
        fresh.replace(place or self.links)

    def whole(self) -> bool:
        return {p.name: p.read_bytes() for p in self.out.glob("*.tar")} == FILES


def settings(**links: object):  # type: ignore[no-untyped-def]
    return quick(limits={"per_host": 2}, links=links)


@pytest.mark.parametrize("mode", ["wait", "exit"])
async def test_a_fresh_file_in_mid_run_is_merged_live(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        seen: list[Event] = []

        def observe(event: Event) -> None:
            seen.append(event)
            if isinstance(event, events.Wrote) and world.now == 1000:
                world.now = 2000.0  # all links have expired, and at most two of six were used …
                if mode == "exit":
                    world.issue(server.url)  # … and a fresh file is there before the run gives up
            if isinstance(event, events.Parked) and event.files == 1 and mode == "wait":
                asyncio.get_running_loop().call_later(0.3, world.issue, server.url)

        report = await fetch_all(world.links, world.out, settings=settings(on_expired=mode), observer=observe)
    assert report.counts[Status.FETCHED] == len(FILES), report.failures
    assert world.whole()
    renewed = [event for event in seen if isinstance(event, events.LinksRenewed)]
    assert [event.expires for event in renewed] == [2100.0] * len(renewed) != []
    # Only samples of held bytes are fetched twice.
    assert world.cdn.sent.total() <= sum(map(len, FILES.values())) + 8 * 65536


async def test_without_fresh_links_the_rest_is_fetched_and_the_dead_are_parked(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        lines = world.links.read_text().split("\n")
        dead = [line.replace("oh=00_", "oh=00_x") for line in lines[1:3]]
        world.links.write_text("\n".join([lines[0], *dead, *lines[3:]]))
        report = await fetch_all(world.links, world.out, settings=settings())
        assert (report.counts[Status.PARKED], report.counts[Status.FETCHED]) == (2, len(FILES) - 2)
        world.issue(server.url)
        report = await fetch_all(world.links, world.out, settings=settings())
        assert (report.counts[Status.PRESENT], report.counts[Status.FETCHED]) == (len(FILES) - 2, 2)
    assert world.whole()


@pytest.mark.parametrize("way", ["prints", "replaces"])
async def test_a_command_supplies_fresh_links(tmp_path: Path, way: str) -> None:
    world = World(tmp_path)
    fresh = tmp_path / "fresh.tsv"
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        world.now = 2000.0
        world.issue(server.url, fresh)
        copy = f"cp {shlex.quote(str(fresh))} {shlex.quote(str(world.links))}"
        command = f"cat {shlex.quote(str(fresh))}" if way == "prints" else copy
        report = await fetch_all(world.links, world.out, settings=settings(command=command))
    assert report.counts[Status.FETCHED] == len(FILES), report.failures
    assert world.whole()


@pytest.mark.parametrize("command", ["false", "true", f"{sys.executable} -c 'print(1)'"])
async def test_a_command_that_supplies_no_links_ends_the_waiting(tmp_path: Path, command: str) -> None:
    world = World(tmp_path)
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        world.now = 2000.0
        seen: list[events.Event] = []
        report = await fetch_all(
            world.links, world.out, settings=settings(command=command), observer=seen.append
        )
    assert report.counts[Status.PARKED] == len(FILES)
    said = [event.why for event in seen if isinstance(event, events.LinksCommandFailed)]
    assert ["exited with status 1" in why for why in said] == ([True] if command == "false" else [])


async def test_half_a_fresh_file_is_no_harm(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        world.now = 2000.0

        def observe(event: Event) -> None:
            if isinstance(event, events.Parked) and event.files == len(FILES):
                whole = world.cdn.link_file(server.url, world.now + 100)
                loop = asyncio.get_running_loop()
                loop.call_later(0.1, world.links.write_text, whole[:300])
                loop.call_later(2.5, world.links.write_text, whole)

        report = await fetch_all(
            world.links, world.out, settings=settings(on_expired="wait"), observer=observe
        )
    assert report.counts[Status.FETCHED] == len(FILES)
    assert world.whole()


async def test_links_that_die_again_and_again_lose_no_outcome(tmp_path: Path) -> None:
    world = World(tmp_path)
    renewed = 0

    def observe(event: Event) -> None:
        nonlocal renewed
        if isinstance(event, events.LinksRenewed):
            renewed += 1
            if renewed < 3:
                world.now += 1000  # the fresh links expire before their first use
        if isinstance(event, events.Parked) and event.files == len(FILES):
            asyncio.get_running_loop().call_later(0.1, world.issue, server.url)

    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        world.now += 1000
        report = await fetch_all(
            world.links, world.out, settings=settings(on_expired="wait"), observer=observe
        )
    assert report.counts[Status.FETCHED] == len(FILES)
    assert renewed == 3
    assert world.whole()


async def test_a_command_of_dead_links_is_not_run_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path)
    count = tmp_path / "count"
    async with Server(world.cdn.handle) as server:
        world.issue(server.url)
        world.now += 1000
        # The command prints different links each time, and all of them have expired.
        change = "sed -E 's/oe=[0-9A-F]+/oe='$RANDOM'/'"
        command = f"echo x >> {shlex.quote(str(count))}; {change} {shlex.quote(str(world.links))}"
        async with asyncio.timeout(20):
            report = await fetch_all(
                world.links, world.out, settings=settings(command=f"bash -c {shlex.quote(command)}")
            )
    assert report.counts[Status.PARKED] == len(FILES)
    assert len(count.read_text()) <= 2 * 2


async def test_rows_that_were_read_before_a_fresh_file_came_get_its_links_too(
    origin: Origin, tmp_path: Path
) -> None:
    paths = [f"f{n}" for n in range(40)]
    for n, path in enumerate(paths):
        origin.add(path, noise(1000, n))
    replaced = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        if exchange.query.get("Signature") == "new":
            return await origin.handle(exchange)
        if exchange.path == "/f20":  # the others after it meet the server with their old links
            await replaced.wait()
        return await exchange.answer(403, "Request has expired", {"Content-Type": "text/plain"})

    links = tmp_path / "links.tsv"
    async with Server(handle) as server:

        def write(signature: str) -> None:
            rows = [f"{path}\t{server.url}/{path}?Expires=1&Signature={signature}\n" for path in paths]
            (tmp_path / "new").write_text("file_name\tcdn_link\n" + "".join(rows))
            (tmp_path / "new").replace(links)

        def observe(event: events.Event) -> None:
            if isinstance(event, events.Parked) and event.files == 20 and not replaced.is_set():
                write("new")
            elif isinstance(event, events.LinksRenewed):
                replaced.set()

        write("old")
        # /f20 is answered after the fresh file was read, which a busy machine does late
        settings = quick(limits={"connections": 1}, retry={"attempts": 1}, timeouts={"head": 60, "idle": 60})
        report = await fetch_all(str(links), tmp_path / "out", settings=settings, observer=observe)
    assert report.ok
    assert report.counts[Status.FETCHED] == 40


async def test_a_link_file_that_is_replaced_before_a_link_dies_is_reported(
    origin: Origin, tmp_path: Path
) -> None:
    links, board = tmp_path / "links.tsv", Board()
    now, renewed = int(time.time()), asyncio.Event()
    found: list[object] = []

    async def handle(exchange: Exchange) -> None:
        await renewed.wait()  # no link is refused: the run does not need the fresh ones
        await origin.handle(exchange)

    origin.add("f", noise(1000))
    async with Server(handle) as server:

        def write(expires: int) -> None:
            link = f"{server.url}/f?Expires={expires}&Signature=x"
            (tmp_path / "new").write_text(f"file_name\tcdn_link\nf\t{link}\n")
            (tmp_path / "new").replace(links)

        def observe(event: events.Event) -> None:
            board(event)
            if isinstance(event, events.Opened):
                found.append(board.expires)
                write(now + 9000)
            elif isinstance(event, events.LinksRenewed):
                found.append(event)
                renewed.set()

        write(now + 1000)
        given = quick(timeouts={"head": 60})
        report = await fetch_all(str(links), tmp_path / "out", settings=given, observer=observe)
    assert report.ok
    assert found == [now + 1000, events.LinksRenewed(0, now + 9000)]
    assert board.expires == now + 9000
    assert board.last_trouble.startswith("the link file was replaced; its links expire at 20")


@pytest.mark.parametrize(
    "link",
    ["http://[::1/x", "http://[zz]/x", "http://[www.example.com]/x", "http://u:p[@h/x", "http://[1.2.3.4]/x"],
)
def test_brackets_without_an_ipv6_address_cost_their_row_only(link: str, tmp_path: Path) -> None:
    place = tmp_path / "list.txt"
    place.write_text(f"http://127.0.0.1:9/a\n{link}\nhttp://[::1]:9/b[1].txt\n")
    found = resolve(place, Options()).rows
    assert isinstance(found, Iterable)
    rows = list(found)
    assert [row.urls[0] for row in rows if isinstance(row, Entry)] == [
        "http://127.0.0.1:9/a",
        "http://[::1]:9/b[1].txt",
    ]
    assert [str(row) for row in rows if isinstance(row, ManifestError)]
    with pytest.raises(ManifestError, match="is not an http"):
        resolve(link, Options())


async def test_a_command_whose_links_brought_bytes_is_run_again_and_older_links_are_not_taken(
    tmp_path: Path,
) -> None:
    """Links that die in mid-file, of which no generation lasts for a whole file."""
    data, dead = noise(3_000_000), set[str]()
    tried: list[str] = []

    async def handle(exchange: Exchange) -> None:
        name = exchange.query["Signature"]
        tried.append(name)
        if name in dead:
            return await exchange.answer(403, "Request has expired", {"Content-Type": "text/plain"})
        dead.add(name)
        return await exchange.serve(Blob(data), {"ETag": '"1"'}, cut_after=1_000_000)

    async with Server(handle) as server:
        links, count = tmp_path / "links.tsv", tmp_path / "count"
        past = int(time.time()) - 3600  # the file has links of long ago when the command has brought others

        def link(number: int) -> str:
            return f"file_name\tcdn_link\nf\t{server.url}/f?Expires={past + number}&Signature=s{number}\n"

        links.write_text(link(0))
        count.write_text("0")
        script = tmp_path / "fresh.py"
        script.write_text(
            f"from pathlib import Path\ncount = Path({str(count)!r})\nn = int(count.read_text()) + 1\n"
            f"count.write_text(str(n))\nprint('file_name\\tcdn_link')\n"
            f"print(f'f\\t{server.url}/f?Expires={{{past} + n}}&Signature=s{{n}}')\n"
        )
        settings = quick(
            links={"command": f"{sys.executable} {script}"}, limits={"per_host": 1}, retry={"attempts": 1}
        )
        report = await fetch_all(str(links), tmp_path / "out", settings=settings)
    assert report.ok, report.failures
    assert (tmp_path / "out/f").read_bytes() == data
    assert list(dict.fromkeys(tried)) == [f"s{n}" for n in range(len(set(tried)))], "no older link came back"


def test_links_that_live_shorter_than_the_refused_ones_are_taken() -> None:
    now = int(time.time())
    links = [f"http://h/f?Expires={now + seconds}&Signature={seconds}" for seconds in (900_000, 60, -900_000)]
    known, fresh, old = (entry("f", link) for link in links)
    renewed = _other(known, fresh)
    assert renewed is not None
    assert renewed.urls == fresh.urls
    assert _other(known, old) is None
