"""Shaped links: is the right number of connections found, with nothing to tune?

    python benchmarks/links.py [--only NAME] [--rounds 3] [--json FILE]

A TCP proxy in a process of its own shapes what an origin serves: by connection, by link, with a round
trip, with a cap that refuses, with a collapse above a number, with slow connections among others. Each
scenario is run with no setting at all, against what the link allows, and against aria2 where it is here.
Every byte is verified by every client: aria2 is given the digests, too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
from origin import Pattern
from scorecard import MIB, origin

MB = 1e6


@dataclass(frozen=True)
class Link:
    """Bytes per second and seconds; 0 for no limit. `slow`: one connection in so many, 50 times slower."""

    per_connection: float = 0.0
    in_all: float = 0.0
    round_trip: float = 0.0
    refuse_above: int = 0
    collapse_above: int = 0
    slow: int = 0


@dataclass(frozen=True)
class Scenario:
    """Files over a link. `limit`: bytes per second that it allows to whoever knows the right number."""

    name: str
    link: Link
    files: int
    size: int
    limit: float
    aria2: tuple[str, ...] = ()


SCENARIOS = (
    Scenario("10 MB/s a connection", Link(10 * MB), 2, 512 * MIB, 0, ("-j16", "-x16", "-s16")),
    Scenario(
        "refused above 12", Link(10 * MB, refuse_above=12), 2, 512 * MIB, 120 * MB, ("-j4", "-x4", "-s4")
    ),
    Scenario(
        "80 ms, 200 Mbit/s, 6 a connection", Link(0.75 * MB, 25 * MB, 0.08), 24, 64 * MIB, 25 * MB,
        ("-j16", "-x16", "-s16"),
    ),
    Scenario("collapse above 24", Link(4 * MB, collapse_above=24), 16, 256 * MIB, 96 * MB),
    Scenario("one in twenty 50 times slower", Link(10 * MB, slow=20), 4, 256 * MIB, 0),
    Scenario("the same without slow ones", Link(10 * MB), 4, 256 * MIB, 0),
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
        step = int(max(2048, min(1 << 18, rate / 20))) if rate else 1 << 18
        while data := await above.read(step):
            now = clock()
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


def digest(size: int) -> str:
    """The sha256 of a file of the origin's."""
    made, pattern = hashlib.sha256(), Pattern(size)
    for at in range(0, size, 1 << 20):
        made.update(pattern.read(at, min(at + (1 << 20), size)))
    return made.hexdigest()


def ours(urls: list[str], sha256: str, folder: Path) -> float:
    rows = [json.dumps({"path": f"f{n}", "url": url, "sha256": sha256}) for n, url in enumerate(urls)]
    manifest = folder / "m.jsonl"
    manifest.write_text("\n".join(rows))
    words = ["get", str(manifest), "-o", str(folder / "out"), "-q", "--min-free", "0"]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "osp_fetch", *words], check=True)
    return time.monotonic() - begun


def aria2(urls: list[str], sha256: str, folder: Path, words: tuple[str, ...]) -> float:
    lines = [f"{url}\n out=f{n}\n checksum=sha-256={sha256}" for n, url in enumerate(urls)]
    (folder / "list").write_text("\n".join(lines))
    fixed = ["--file-allocation=none", "-k1M", "--check-certificate=false", "-q", "-m0", "--retry-wait=1"]
    begun = time.monotonic()
    command = ["aria2c", f"-i{folder / 'list'}", f"-d{folder / 'aria2'}", *fixed, *words]
    subprocess.run(command, check=False)
    return time.monotonic() - begun


def run(scenario: Scenario, rounds: int, place: str) -> dict[str, Any]:
    """Alternated rounds of one scenario; medians of seconds, and ratios."""
    sha256 = digest(scenario.size)
    mine: list[float] = []
    theirs: list[float] = []
    with origin() as address:
        port = address.rsplit(":", 1)[1]
        for _ in range(rounds):
            for client in (ours, aria2):
                if client is aria2 and not (scenario.aria2 and shutil.which("aria2c")):
                    continue
                words = [sys.executable, __file__, "--serve", json.dumps(asdict(scenario.link)), port]
                proxy = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
                assert proxy.stdout is not None
                shaped = int(proxy.stdout.readline())
                urls = [f"http://127.0.0.1:{shaped}/{scenario.size}/f{n}" for n in range(scenario.files)]
                try:
                    with tempfile.TemporaryDirectory(dir=place) as folder:
                        if client is ours:
                            mine.append(ours(urls, sha256, Path(folder)))
                        else:
                            theirs.append(aria2(urls, sha256, Path(folder), scenario.aria2))
                finally:
                    proxy.terminate()
                    proxy.wait()
    total = scenario.files * scenario.size
    seconds = statistics.median(mine)
    found: dict[str, Any] = {"scenario": scenario.name, "seconds": round(seconds, 2)}
    if scenario.limit:
        found["of the limit's time"] = round(seconds / (total / scenario.limit), 3)
    if theirs:
        found["of aria2's time"] = round(seconds / statistics.median(theirs), 3)
    return found


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
