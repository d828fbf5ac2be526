"""Run osp-fetch with everything that watches it, and record memory, descriptors, threads and processor time.

    python benchmarks/watched.py --minutes 30
    python benchmarks/watched.py --compare --rounds 5

The first form fetches small files for a long time, some of them with faults, with metrics that are
scraped each second, a metrics file, a service that never answers, one that refuses, a command that
fails, a page with one viewer that reads and one that does not, a command of `ctl` every ten seconds, and a
report at the end. Notices are as frequent as the settings allow. The second form fetches 100,000 files of
20 kB in turns without and with all of that but `ctl`, and prints the seconds of the run, as its report states
them, and the processor seconds of each. `--requests 200` limits the requests per second as in the first.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from osp_fetch.demo.server import Blob, Exchange, Server

FILES, LENGTH = 100_000, 20_000
COMMANDS = ["status", "rate 50MiB", "rate 0", "connections 8", "pause", "resume", "connections auto"]
QUICK = ["notify.every=0", "notify.stalled=2s", "notify.pause=1s", "notify.pace=5s", "notify.timeout=2s"]


class Origin:
    """Serves `/SIZE/NAME`; with `faulty`, one request in 50 is refused with a pause, one in 50 is cut."""

    def __init__(self, *, faulty: bool) -> None:
        self.asked, self._faulty = 0, faulty

    async def handle(self, exchange: Exchange) -> None:
        self.asked += 1
        length = int(exchange.path.split("/")[1])
        if self._faulty and self.asked % 50 == 0:
            await exchange.answer(429, "slow down", {"Retry-After": "1"})
        elif self._faulty and self.asked % 50 == 25:
            await exchange.answer(500, "no", {})
        else:
            await exchange.serve(Blob(bytes(length)), {})


async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept a connection and never answer."""
    with suppress(OSError, asyncio.CancelledError):
        await asyncio.sleep(3600)
    writer.close()


def flags(folder: Path, port: int) -> list[str]:
    """Return the flags of everything that watches a run."""
    words = ["--metrics", "0", "--metrics-file", str(folder / "osp.prom"), "--report", str(folder / "r.html")]
    words += ["--page", "0", "--page-control"]
    for url in (f"json://127.0.0.1:{port}/silent", "json://127.0.0.1:9/refused"):
        words += ["--notify", url]
    return [*words, "--on-event", "exit 3", "--on-event", f"cat >> {folder / 'notices.jsonl'}"]


async def started(folder: Path, urls: Path, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "osp_fetch", "get", str(urls), "-o", str(folder / "out"), "--min-free", "0"),
        *(*words, "--profiles", "none"), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


def looked(pid: int) -> dict[str, int]:
    """Return the memory in KiB, the descriptors, the threads and the children of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    children = sum(
        len((task / "children").read_text().split()) for task in Path(f"/proc/{pid}/task").iterdir()
    )
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {
        "memory": int(lines["VmRSS"].split()[0]), "descriptors": descriptors,
        "threads": int(lines["Threads"]), "children": children,
    }  # fmt: skip


async def scraped(url: str) -> int:
    """Get the metrics; return their length."""
    host, port = url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
    data = await reader.read()
    writer.close()
    return len(data)


async def viewed(link: str, *, reads: bool) -> None:
    """Follow the page at `link` as a browser does; without `reads`, never read what comes."""
    address, _, query = link.partition("?")
    host, port = address.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /events?{query} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    try:
        while not reads or await reader.read(1 << 16):
            await asyncio.sleep(0 if reads else 3600)
    finally:
        writer.close()


async def commanded(folder: Path) -> None:
    """Send a command to the run every ten seconds."""
    for number in itertools.count():
        await asyncio.sleep(10)
        command = COMMANDS[number % len(COMMANDS)].split()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "osp_fetch", "ctl", str(folder / "out"), *command),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await process.wait()


async def links_of(process: asyncio.subprocess.Process, *names: str) -> list[str]:
    """Return the links that a run prints, such as that of `page`, in the order of `names`."""
    assert process.stderr is not None
    found: dict[str, str] = {}
    while len(found) < len(names) and (line := (await process.stderr.readline()).decode()):
        name, _, link = line.partition(": ")
        if name in names:
            found[name] = link.strip()
    return [found[name] for name in names]


async def soak(minutes: float, folder: Path) -> None:
    origin = Origin(faulty=True)
    async with Server(origin.handle) as server, await asyncio.start_server(silent, "127.0.0.1", 0) as sink:
        urls = folder / "urls.txt"
        urls.write_text("".join(f"{server.url}/2000/f{n}\n" for n in range(int(minutes * 60 * 400))))
        words = [word for each in (*QUICK, "limits.requests_per_second=200") for word in ("--set", each)]
        port = sink.sockets[0].getsockname()[1]
        duration = f"{minutes * 60:.0f}s"
        process = await started(folder, urls, *flags(folder, port), *words, "--max-duration", duration)
        assert process.stderr is not None
        begun, rows = time.monotonic(), []
        url, page = await links_of(process, "metrics", "page")
        draining = asyncio.ensure_future(process.stderr.read())
        around = [viewed(page, reads=True), viewed(page, reads=False), commanded(folder)]
        tasks = [asyncio.ensure_future(each) for each in around]
        while process.returncode is None and time.monotonic() - begun < minutes * 60 - 2:
            with suppress(OSError):
                size = await scraped(url)
                rows.append(
                    {"seconds": round(time.monotonic() - begun), "scrape": size, **looked(process.pid)}
                )
            if len(rows) % 60 == 1:
                print(json.dumps(rows[-1]), flush=True)
            await asyncio.sleep(1)
        await process.wait()
        for task in tasks:
            task.cancel()
        said = (await draining).decode().splitlines()
        print(f"exit {process.returncode}; {origin.asked} requests; told {_told(folder)}")
        print("\n".join(line[:200] for line in said[-8:]))
    for name in ("memory", "descriptors", "threads", "children", "scrape"):
        values = [row[name] for row in rows[len(rows) // 4 :]]
        half = len(values) // 2
        print(f"{name}: {statistics.mean(values[:half]):.1f} in the first half, "
              f"{statistics.mean(values[half:]):.1f} in the second, {max(values)} at most")  # fmt: skip


def _told(folder: Path) -> int:
    place = folder / "notices.jsonl"
    return len(place.read_text().splitlines()) if place.exists() else 0


async def compare(rounds: int, files: int, requests: float, folder: Path) -> None:
    found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    origin = Origin(faulty=False)
    async with Server(origin.handle) as server, await asyncio.start_server(silent, "127.0.0.1", 0) as sink:
        urls = folder / "urls.txt"
        urls.write_text("".join(f"{server.url}/{LENGTH}/f{n}\n" for n in range(files)))
        port = sink.sockets[0].getsockname()[1]
        for number in range(rounds * 2):
            name = ("without", "with")[(number + number // 2) % 2]
            shutil.rmtree(folder / "out", ignore_errors=True)
            words = [*(flags(folder, port) if name == "with" else []), "--set", "notify.timeout=200ms"]
            words += ["--set", f"limits.requests_per_second={requests}"]
            before = os.times()
            process = await started(folder, urls, *words, "--json")
            viewing = None
            if name == "with":
                (page,) = await links_of(process, "page")
                viewing = asyncio.ensure_future(viewed(page, reads=True))
            report, _ = await process.communicate()
            if viewing is not None:
                viewing.cancel()
            after = os.times()
            spent = (
                after.children_user + after.children_system - before.children_user - before.children_system
            )
            found[name].append((json.loads(report)["seconds"], spent))
            print(f"{name}: {found[name][-1][0]:.2f} s, {spent:.2f} s of processors", flush=True)
    for name, values in found.items():
        seconds, processors = (sorted(column) for column in zip(*values, strict=True))
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, "
            f"{statistics.median(processors):.2f} s of processors"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--requests", type=float, default=0, help="requests per second, 0 for no limit")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="osp-watched-"))
    try:
        asyncio.run(
            compare(arguments.rounds, arguments.files, arguments.requests, folder)
            if arguments.compare
            else soak(arguments.minutes, folder)
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
