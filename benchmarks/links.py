"""Measure whether osp-fetch finds the right number of connections on shaped links, without settings.

    python benchmarks/links.py [--only NAME] [--rounds 3] [--json FILE]

A TCP proxy in a separate process shapes the connections to an origin: a rate per connection, a rate of the
link, a round trip time, refusals or a collapse above a number of connections, stalls, and slow connections
among fast ones. Each scenario runs without any setting. Its time is compared with what the link allows and,
if it is installed, with aria2. Every client verifies every byte; aria2 gets the digests, too.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import math
import os
import random
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from clients import (
    MIB,
    PYTHON,
    Measured,
    Work,
    aria2,
    digest,
    in_rounds,
    installed,
    origin,
    ours,
    per_gb,
    unverified,
)

MB = 1e6


@dataclass(frozen=True)
class Link:
    """The shape of a link. 0 means no limit.

    Attributes:
        per_connection: Bytes per second of one connection.
        in_all: Bytes per second of the link.
        round_trip: Seconds.
        refuse_above: The number of connections above which the link refuses with 503.
        collapse_above: The number of connections above which the total falls to a tenth.
        slow: Of each `slow` connections, one is 50 times slower.
        edges: Of each `edges` connections, only one has the whole rate; the others have an eighth of it, like
            connections to the busy edges of a content delivery network.
        stalls: Mean seconds between two pauses of a connection. A pause takes 0.3 s, the largest cost of a
            lost packet.
    """

    per_connection: float = 0.0
    in_all: float = 0.0
    round_trip: float = 0.0
    refuse_above: int = 0
    collapse_above: int = 0
    slow: int = 0
    stalls: float = 0.0
    edges: int = 0

    def rate(self, number: int) -> float:
        """Return the bytes per second of connection `number`, counted from 1; 0 for no limit."""
        if self.edges and number % self.edges != 1:
            return self.per_connection / 8
        return self.per_connection / (50 if self.slow and number % self.slow == 0 else 1)


@dataclass(frozen=True)
class Scenario:
    """Files that are fetched over a link.

    Attributes:
        name: The name in the results.
        link: The shape of the link.
        files: The number of files.
        size: Bytes of each file.
        limit: Bytes per second that the link allows with the right number of connections; 0 if not compared.
        aria2: The arguments of aria2; empty if it is not compared.
        best: The best fixed number of connections, found by a sweep; 0 if not compared.
        unverified: Whether to compare with osp-fetch without hashing.
    """

    name: str
    link: Link
    files: int
    size: int
    limit: float = 0.0
    aria2: tuple[str, ...] = ()
    best: int = 0
    unverified: bool = False


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
    Scenario(
        "200 MB/s in all, which leaves a core free", Link(in_all=200 * MB), 4, 512 * MIB, unverified=True
    ),
)  # fmt: skip


class Proxy:
    """A proxy that shapes connections to the origin at `port`.

    Bytes stay in the kernel (splice), because the proxy shares the processor with the measured clients.
    """

    def __init__(self, link: Link, port: int) -> None:
        self.link, self.port = link, port
        self.open = self.count = 0
        self._due = 0.0  # loop time at which the link will have sent all its bytes

    async def connected(self, client: socket.socket) -> None:
        self.open += 1
        self.count += 1
        with client, suppress(OSError):
            try:
                if self.link.refuse_above and self.open > self.link.refuse_above:
                    await self._refuse(client)
                else:
                    await self._pass(client, self.link.rate(self.count))
            finally:
                self.open -= 1

    async def _refuse(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if await loop.sock_recv(client, 1 << 16):
            busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(client, busy)

    async def _pass(self, client: socket.socket, rate: float) -> None:
        if self.link.round_trip:
            await asyncio.sleep(self.link.round_trip)  # the TCP handshake
        with socket.socket() as above:
            above.setblocking(False)
            await asyncio.get_running_loop().sock_connect(above, ("127.0.0.1", self.port))
            ways = {
                asyncio.create_task(self._up(client, above)),
                asyncio.create_task(self._down(above, client, rate)),
            }
            try:
                # A client that closes its connection frees it at once, as a kernel does.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, client: socket.socket, above: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(client, 1 << 16):
            await asyncio.sleep(self.link.round_trip / 2)
            await loop.sock_sendall(above, data)

    async def _down(self, above: socket.socket, client: socket.socket, rate: float) -> None:
        clock = asyncio.get_running_loop().time
        own = clock()
        pause = clock() + random.expovariate(1 / self.link.stalls) if self.link.stalls else math.inf
        step = int(max(2048, min(1 << 18, rate / 20))) if rate else 1 << 18
        with _pipe() as (end, begin):
            while count := await _splice(above.fileno(), begin, step):
                now = clock()
                if now > pause:
                    pause = now + 0.3 + random.expovariate(1 / self.link.stalls)
                    await asyncio.sleep(0.3)
                pace = rate
                if self.link.collapse_above and self.open > self.link.collapse_above:
                    pace = rate / 10 * self.link.collapse_above / self.open
                if pace:
                    own = max(own, now - 0.02) + count / pace
                if self.link.in_all:
                    self._due = max(self._due, now - 0.02) + count / self.link.in_all
                wait = max(own, self._due if self.link.in_all else own) - now
                if wait > 0:
                    await asyncio.sleep(wait)
                while count:
                    count -= await _splice(end, client.fileno(), count)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    end, begin = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(begin, fcntl.F_SETPIPE_SZ, 1 << 20)
        yield end, begin
    finally:
        os.close(end)
        os.close(begin)


async def _splice(source: int, target: int, count: int) -> int:
    """Move up to `count` bytes between a socket and a pipe, and return their number; 0 at the end.

    Only the socket can block. The pipe always has bytes or space when it is needed.
    """
    loop = asyncio.get_running_loop()
    reading = stat.S_ISSOCK(os.fstat(source).st_mode)
    watch = loop.add_reader if reading else loop.add_writer
    forget = loop.remove_reader if reading else loop.remove_writer
    while True:
        try:
            return os.splice(source, target, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            ready = asyncio.Event()
        watch(source if reading else target, ready.set)
        try:
            await ready.wait()
        finally:
            forget(source if reading else target)


async def serve(link: Link, port: int) -> None:
    proxy, loop = Proxy(link, port), asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        server.setblocking(False)
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = await loop.sock_accept(server)
            task = asyncio.create_task(proxy.connected(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


@contextmanager
def shaped(link: Link, port: str) -> Iterator[int]:
    """Start a proxy that shapes connections to the origin at `port`, and yield its port.

    Args:
        link: The shape of the link.
        port: The port of the origin.
    """
    words = [PYTHON, __file__, "--serve", json.dumps(asdict(link)), port]
    proxy = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert proxy.stdout is not None
    try:
        yield int(proxy.stdout.readline())
    finally:
        proxy.terminate()
        proxy.wait()
        proxy.stdout.close()


def fetch(
    link: Link, port: str, files: int, size: int, place: str, client: Callable[[Work], Measured]
) -> Measured:
    """Run `client` once through a new proxy to the origin at `port`.

    Args:
        link: The shape of the link.
        port: The port of the origin.
        files: The number of files.
        size: Bytes of each file.
        place: The folder for the files.
        client: The client to run.
    """
    with shaped(link, port) as own, tempfile.TemporaryDirectory(dir=place) as folder:
        urls = [f"http://127.0.0.1:{own}/{size}/f{n}" for n in range(files)]
        return client(Work(urls, digest(size), Path(folder)))


def run(
    scenario: Scenario, rounds: int, place: str, *, peers: bool = True, before: Path | None = None
) -> dict[str, Any]:
    """Run a scenario in alternated rounds of all its clients.

    Args:
        scenario: The scenario.
        rounds: Runs of each client.
        place: The folder for the files.
        peers: Whether to run other programs as well.
        before: The checkout of another osp-fetch, which is the only other client then.

    Returns:
        Median seconds and CPU seconds per GB by client, peak memory in MiB, and the ratios of osp-fetch's
        time to the others'.
    """
    clients = _clients(scenario, peers=peers, before=before)
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    with origin([scenario.size], place) as (address, _):
        port = address.rsplit(":", 1)[1]
        with tempfile.TemporaryDirectory(dir=place) as folder:
            warm = Work([f"{address}/{scenario.size}/f0"], digest(scenario.size), Path(folder))
            in_rounds(clients, warm, 0)
        for _ in range(rounds):
            for name, client in clients.items():
                link = replace(scenario.link, slow=0) if name == "without slow ones" else scenario.link
                found[name].append(fetch(link, port, scenario.files, scenario.size, place, client))
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    mine = middle["osp-fetch"]
    result: dict[str, Any] = {
        "scenario": scenario.name,
        "seconds": {name: round(each, 2) for name, each in middle.items()},
        "cpu_seconds_per_gb": {
            name: per_gb(runs, scenario.files * scenario.size) for name, runs in found.items()
        },
        "peak_mib": round(max(each.peak for each in found["osp-fetch"]) / MIB),
        "rounds": {name: [round(each.seconds, 2) for each in runs] for name, runs in found.items()},
    }
    if scenario.limit:
        result["of the limit's time"] = round(mine / (scenario.files * scenario.size / scenario.limit), 3)
    result.update({f"of {n}'s time": round(mine / each, 3) for n, each in middle.items() if n != "osp-fetch"})
    return result


def _clients(
    scenario: Scenario, *, peers: bool, before: Path | None
) -> dict[str, Callable[[Work], Measured]]:
    """Return osp-fetch and what it is compared with in a scenario; the arguments are those of `run`."""
    clients: dict[str, Callable[[Work], Measured]] = {"osp-fetch": ours}
    if before:
        return {**clients, "before": partial(ours, checkout=before)}
    if peers and scenario.aria2 and installed("aria2"):
        clients["aria2"] = lambda work: aria2(work, *scenario.aria2)
    if scenario.best:
        clients["best fixed number"] = lambda work: ours(work, "-j", str(scenario.best))
    if scenario.unverified:
        clients["unverified"] = unverified
    if scenario.link.slow:
        clients["without slow ones"] = ours
    return clients


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(serve(Link(**json.loads(sys.argv[2])), int(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="run only scenarios whose name contains this text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
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
