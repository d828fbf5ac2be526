"""Shaped links: is the right number of connections found, with nothing to tune?

    python benchmarks/links.py [--only NAME] [--rounds 3] [--json FILE]

A TCP proxy in a process of its own shapes what an origin serves: by connection, by link, with a round
trip, with a cap that refuses, with a collapse above a number, with stalls, with slow connections among
others. Each scenario is run with no setting at all, against what the link allows, and against aria2 where
it is here. Every byte is verified by every client: aria2 is given the digests, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import uvloop
from clients import MIB, PYTHON, Measured, Work, aria2, digest, installed, ours, own_origin

MB = 1e6


@dataclass(frozen=True)
class Link:
    """Bytes per second and seconds; 0 for no limit. `slow`: one connection in so many, 50 times slower.
    A pause is as long as a lost packet costs at worst: 0.3 s."""

    per_connection: float = 0.0
    in_all: float = 0.0
    round_trip: float = 0.0
    refuse_above: int = 0
    collapse_above: int = 0
    slow: int = 0
    stalls: float = 0.0  # seconds, in the mean, from one pause of a connection to its next


@dataclass(frozen=True)
class Scenario:
    """Files over a link. `limit`: bytes per second that it allows to whoever knows the right number."""

    name: str
    link: Link
    files: int
    size: int
    limit: float = 0.0
    aria2: tuple[str, ...] = ()
    best: int = 0  # the best fixed number of connections, as a sweep found it


SCENARIOS = (
    Scenario("10 MB/s a connection", Link(10 * MB), 2, 512 * MIB, aria2=("-j16", "-x16", "-s16")),
    Scenario(
        "refused above 12", Link(10 * MB, refuse_above=12), 2, 512 * MIB, 120 * MB, ("-j4", "-x4", "-s4")
    ),
    Scenario(
        "80 ms, 200 Mbit/s, 6 a connection", Link(0.75 * MB, 25 * MB, 0.08), 24, 64 * MIB, 25 * MB,
        ("-j16", "-x16", "-s16"),
    ),
    Scenario("collapse above 24", Link(4 * MB, collapse_above=24), 16, 256 * MIB, 96 * MB, best=24),
    Scenario(
        "stalls of 0.3 s, each second", Link(10 * MB, stalls=1.0), 2, 512 * MIB,
        aria2=("-j16", "-x16", "-s16"),
    ),
    Scenario("one in twenty 50 times slower", Link(10 * MB, slow=20), 4, 256 * MIB),
)  # fmt: skip


class Proxy:
    """Passes connections on to `port`, shaped."""

    def __init__(self, link: Link, port: int) -> None:
        self.link, self.port = link, port
        self.open = self.count = 0
        self._due = 0.0  # when the link has sent all that was given to it

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.count += 1
        try:
            if self.link.refuse_above and self.open > self.link.refuse_above:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            await self._pass(reader, writer, slow=bool(self.link.slow) and self.count % self.link.slow == 0)
        except (OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop: the handler is closed
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        if self.link.round_trip:
            await asyncio.sleep(self.link.round_trip)  # the handshake
        above, back = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        up = asyncio.create_task(self._up(reader, back))
        down = asyncio.create_task(self._down(above, writer, self.link.per_connection / (50 if slow else 1)))
        try:
            # a client that hangs up is gone at once, as it is for a kernel
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if down.done():
                down.result()
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            back.close()

    async def _up(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.link.round_trip / 2)
                back.write(data)

    async def _down(self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
        clock = asyncio.get_running_loop().time
        own = clock()
        flying: deque[tuple[float, bytes]] = deque()
        pause = clock() + random.expovariate(1 / self.link.stalls) if self.link.stalls else math.inf
        step = int(max(2048, min(1 << 18, rate / 20))) if rate else 1 << 18
        while data := await above.read(step):
            now = clock()
            if now > pause:
                pause = now + 0.3 + random.expovariate(1 / self.link.stalls)
                await asyncio.sleep(0.3)
            pace = rate
            if self.link.collapse_above and self.open > self.link.collapse_above:
                pace = rate / 10 * self.link.collapse_above / self.open
            if pace:
                own = max(own, now - 0.02) + len(data) / pace
            if self.link.in_all:
                self._due = max(self._due, now - 0.02) + len(data) / self.link.in_all
            flying.append((max(own, self._due if self.link.in_all else own), data))
            wait = flying[-1][0] - now
            if wait > 0:
                await asyncio.sleep(wait)
            while flying:
                writer.write(flying.popleft()[1])
            await writer.drain()


async def serve(link: Link, port: int) -> None:
    proxy = Proxy(link, port)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0, backlog=1024, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def fetch(
    link: Link, port: str, files: int, size: int, place: str, client: Callable[[Work], Measured]
) -> Measured:
    """One run of `client` through a link of its own to the origin at `port`."""
    words = [PYTHON, __file__, "--serve", json.dumps(asdict(link)), port]
    proxy = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert proxy.stdout is not None
    try:
        shaped = int(proxy.stdout.readline())
        urls = [f"http://127.0.0.1:{shaped}/{size}/f{n}" for n in range(files)]
        with tempfile.TemporaryDirectory(dir=place) as folder:
            return client(Work(urls, digest(size), Path(folder)))
    finally:
        proxy.terminate()
        proxy.wait()
        proxy.stdout.close()


def run(scenario: Scenario, rounds: int, place: str, *, peers: bool = True) -> dict[str, Any]:
    """Alternated rounds of one scenario; medians, and ratios. `peers`: also against other programs."""
    clients: dict[str, Callable[[Work], Measured]] = {"osp-fetch": ours}
    if peers and scenario.aria2 and installed("aria2"):
        clients["aria2"] = lambda work: aria2(work, *scenario.aria2)
    if scenario.best:
        clients["best fixed number"] = lambda work: ours(work, "-j", str(scenario.best))
    if scenario.link.slow:
        clients["without slow ones"] = ours
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    with own_origin() as address:
        port = address.rsplit(":", 1)[1]
        for _ in range(rounds):
            for name, client in clients.items():
                link = replace(scenario.link, slow=0) if name == "without slow ones" else scenario.link
                found[name].append(fetch(link, port, scenario.files, scenario.size, place, client))
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    mine = middle["osp-fetch"]
    result: dict[str, Any] = {
        "scenario": scenario.name,
        "seconds": {name: round(each, 2) for name, each in middle.items()},
        "peak_mib": round(max(each.peak for each in found["osp-fetch"]) / MIB),
        "rounds": {name: [round(each.seconds, 2) for each in runs] for name, runs in found.items()},
    }
    if scenario.limit:
        result["of the limit's time"] = round(mine / (scenario.files * scenario.size / scenario.limit), 3)
    result.update({f"of {n}'s time": round(mine / each, 3) for n, each in middle.items() if n != "osp-fetch"})
    return result


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(serve(Link(**json.loads(sys.argv[2])), int(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the results there, too")
    parser.add_argument("--place", default="/dev/shm", help="where files go")
    given = parser.parse_args()
    results = []
    for scenario in SCENARIOS:
        if given.only in scenario.name:
            results.append(run(scenario, given.rounds, given.place))
            print(json.dumps(results[-1]), flush=True)
    if given.json:
        Path(given.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
