"""Soak a run over hosts that come and go: `python benchmarks/churn.py [--minutes 10] [--hosts 2000]`.

Each host has its own address in 127.0.0.0/8. A quarter of the hosts is down at any time: their connections
are reset. Every 20 seconds it is another quarter. The list is longer than the run, which ends after the given
time and is then continued over hosts that are all up.

The output holds the memory and the descriptors of osp-fetch in each tenth of the run, the number of
right, wrong and missing files after the second run, and how many outages were reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from clients import PYTHON
from hosts import Files, address, body

PERIOD = 20.0  # seconds after which other hosts are down


class Churning(Files):
    """A connection to one of the hosts, of which a quarter is down."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._is_down():
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_down():
            self.transport.abort()
        else:
            super().data_received(data)

    def _is_down(self) -> bool:
        if Path("all-up").exists():
            return False
        host = int.from_bytes(socket.inet_aton(self.transport.get_extra_info("sockname")[0]), "big")
        return random.Random(host * 1000 + int(time.monotonic() / PERIOD)).random() < 0.25


async def serve() -> None:
    """Serve until the process is terminated. The first line of the output is the port."""
    loop, used = asyncio.get_running_loop(), dict[Files, float]()
    server = await loop.create_server(lambda: Churning(used), "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def watch(command: list[str], folder: Path) -> tuple[list[int], list[int]]:
    """Run a command; return its resident memory in bytes and its open descriptors, once a second."""
    memory, descriptors = [], []
    with subprocess.Popen(command, cwd=folder) as process:
        while process.poll() is None:
            try:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                descriptors.append(sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir()))
            except OSError:
                break
            memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
            time.sleep(1)
    return memory, descriptors


def tenths(values: list[int]) -> list[int]:
    """Return the median of each tenth."""
    size = max(1, len(values) // 10)
    return [int(statistics.median(values[at : at + size])) for at in range(0, size * 10, size)]


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        uvloop.run(serve())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hosts", type=int, default=2000)
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    given = parser.parse_args()
    chance, files = random.Random(1), int(given.minutes * 60 * 300)
    with tempfile.TemporaryDirectory(dir=given.place) as name:
        folder = Path(name)
        server = subprocess.Popen(
            [PYTHON, str(Path(__file__).resolve()), "--serve"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            sizes = [chance.randint(1000, 4000) for _ in range(files)]
            with (folder / "m.jsonl").open("w") as out:
                for n, size in enumerate(sizes):
                    url = f"http://{address(chance.randrange(given.hosts))}:{port}/{size}/{n}"
                    out.write(json.dumps({"path": f"{n % 1000}/{n}", "url": url}) + "\n")
            run = [PYTHON, "-m", "osp_fetch", "get", "m.jsonl", "-o", "out", "-q", "--min-free", "0"]
            limits = ["--limit-rate", "500KiB", "--max-duration", f"{given.minutes * 60:g}s"]
            memory, descriptors = watch([*run, *limits], folder)
            log = (folder / "out/.osp-fetch/events.jsonl").read_text()
            (folder / "all-up").touch()
            ended = subprocess.run(run, cwd=folder, check=False).returncode
            right, wrong = 0, 0
            for n, size in enumerate(sizes):
                place = folder / f"out/{n % 1000}/{n}"
                if place.exists():
                    is_right = place.read_bytes() == body(n, size)
                    right, wrong = right + is_right, wrong + (not is_right)
        finally:
            server.terminate()
            server.wait()
    found = {
        "minutes": given.minutes, "hosts": given.hosts, "files": files,
        "memory": tenths(memory), "descriptors": tenths(descriptors), "peak": max(memory),
        "outages": log.count('"host down"'), "exit of the second run": ended,
        "right": right, "wrong": wrong, "missing": files - right - wrong,
    }  # fmt: skip
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
