"""Run osp-fetch for a long time under random faults, kills and link renewals; check for loss and leaks.

    python benchmarks/soak.py --minutes 30

The origin in this process answers one request in twenty with a fault. Its links expire after 8 seconds, and
fresh link files replace the old ones. Two clients work against it. One is a single process that mirrors
round after round; its memory and its descriptors are recorded after each round. The other is killed every
few seconds and started again. Every file of every round is compared byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from osp_fetch.demo.server import Blob, Cut, Exchange, Server

FILES = 400
# Lifetime of a link in seconds. Link files are renewed after 0.7 to 1.3 of it, before or after the expiry.
LIFE = 8.0
WORDS = ["-q", "--on-expired", "wait", "--min-free", "0", "-k", "256KiB", "-x", "8"]
SETTINGS = ["retry.initial=0.05", "retry.longest=1", "timeouts.idle=2", "timeouts.head=2"]


def content(name: str) -> bytes:
    """Return the bytes of a file: of 8 sizes, 0 to 2,000,000 bytes, most of them small."""
    chance = random.Random(name)
    return chance.randbytes(chance.choice([0, 1, 900, 5000, 40_000, 40_000, 300_000, 2_000_000]))


class Origin:
    """An origin that serves `/CLIENT/ROUND/NAME` behind signed links, with a fault in one of 20 requests."""

    def __init__(self) -> None:
        self.chance = random.Random()
        self.met: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def links(self, url: str, prefix: str) -> str:
        dies = int(time.time() + LIFE)
        rows = [f"f{n}.bin\t{url}/{prefix}/f{n}.bin?ccb=1&oh=00_A&oe={dies:X}" for n in range(FILES)]
        return "\n".join(["file_name\tcdn_link", *rows])

    async def handle(self, exchange: Exchange) -> None:
        if int(exchange.query["oe"], 16) < time.time():
            self.met["expired"] += 1
            await exchange.answer(403, "URL signature expired", {"Content-Type": "text/plain"})
            return
        data = content(exchange.path)
        fault = self.chance.choice(FAULTS) if self.chance.random() < 0.05 else None
        if fault:
            self.met[fault] += 1
        await self.serve(exchange, data, fault)

    async def serve(self, exchange: Exchange, data: bytes, fault: str | None) -> None:
        match fault:
            case "reset":
                raise Cut
            case "503" | "429":
                await exchange.answer(int(fault), "busy", {"Retry-After": "0"})
            case "page":
                await exchange.answer(200, "<html><title>wait</title>", {"Content-Type": "text/html"})
            case "silence":
                await asyncio.sleep(3)
                raise Cut
            case "gzip":
                await exchange.serve(Blob(data), {"Content-Encoding": "gzip"})
            case _:
                await self.honest(exchange, data, fault)

    async def honest(self, exchange: Exchange, data: bytes, fault: str | None) -> None:
        try:
            start, stop = exchange.span(len(data)) or (0, len(data))
        except ValueError:
            await exchange.answer(416, "", {"Content-Range": f"bytes */{len(data)}"})
            return
        shift = 7 if fault == "shifted" else 0
        head = {"Content-Length": str(stop - start)}
        ranged = (start, stop) != (0, len(data))
        if ranged:
            head["Content-Range"] = f"bytes {start + shift}-{stop - 1 + shift}/{len(data)}"
        await exchange.head(206 if ranged else 200, head)
        body = data[start : stop - (stop - start) // 2 if fault in ("cut", "stall") else stop]
        for at in range(0, len(body), 64 << 10):
            await exchange.raw(body[at : at + (64 << 10)])
            self.sent[exchange.path] += len(body[at : at + (64 << 10)])
            await asyncio.sleep(0.01)
        if fault == "stall":
            await asyncio.sleep(3)
        if fault in ("cut", "stall"):
            raise Cut


FAULTS = ["reset", "503", "429", "page", "silence", "gzip", "shifted", "cut", "stall"]


def check(folder: Path, prefix: str, *, whole: bool) -> int:
    """Check that every final name holds the right bytes.

    Args:
        folder: The output folder.
        prefix: The client and the round, which select the contents.
        whole: Whether all files must be present.

    Returns:
        The number of bytes under final names.

    Raises:
        SystemExit: A file is wrong or missing.
    """
    count = 0
    finals = [p for p in folder.glob("*.bin") if p.is_file()] if folder.is_dir() else []
    for final in finals:
        data = content(f"/{prefix}/{final.name}")
        if final.read_bytes() != data:
            raise SystemExit(f"{final} is wrong under its final name")
        count += len(data)
    if whole and len(finals) != FILES:
        raise SystemExit(f"{folder}: {FILES - len(finals)} files are lost")
    return count


def renew(place: Path, text: str) -> None:
    """Replace a link file atomically."""
    beside = place.with_suffix(".new")
    beside.write_text(text)
    beside.replace(place)


async def renewing(origin: Origin, url: str, place: Path, prefix: str) -> None:
    while True:
        renew(place, origin.links(url, prefix))
        await asyncio.sleep(LIFE * origin.chance.uniform(0.7, 1.3))


async def killed(origin: Origin, url: str, folder: Path, until: float) -> Counter[str]:
    """Mirror round after round, until Unix time `until`, with processes killed every 1 to 8 seconds."""
    seen: Counter[str] = Counter()
    while time.time() < until:
        prefix = f"killed/{seen['rounds']}"
        out, links = folder / f"k{seen['rounds']}", folder / "killed.tsv"
        renewal = asyncio.create_task(renewing(origin, url, links, prefix))
        await asyncio.sleep(0.1)
        words = ["get", str(links), "-o", str(out), *WORDS]
        words += [word for key in SETTINGS for word in ("--set", key)]
        while True:
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "osp_fetch", *words)
            try:
                code = await asyncio.wait_for(process.wait(), origin.chance.uniform(1, 8))
            except TimeoutError:
                process.kill()
                await process.wait()
                seen["kills"] += 1
                check(out, prefix, whole=False)
                continue
            if code == 0:
                break
            seen[f"exit {code}"] += 1
        renewal.cancel()
        seen["bytes"] += check(out, prefix, whole=True)
        seen["rounds"] += 1
        shutil.rmtree(out)
    return seen


async def steady(origin: Origin, url: str, folder: Path, until: float) -> list[dict[str, Any]]:
    """Mirror with one process that is never killed, and return its figures for each round.

    Raises:
        SystemExit: The process failed.
    """
    links = folder / "steady.tsv"
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", str(folder), str(until), stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stdin
    lines: list[dict[str, Any]] = []
    renewal: asyncio.Task[None] | None = None
    while line := await process.stdout.readline():
        said = json.loads(line)
        if renewal:
            renewal.cancel()
        if "rss" in said:
            lines.append(said)
        renewal = asyncio.create_task(renewing(origin, url, links, f"steady/{said['next']}"))
        await asyncio.sleep(0.1)
        process.stdin.write(b"go\n")
    if renewal:
        renewal.cancel()
    if await process.wait() != 0:
        raise SystemExit("the steady client failed: its error is printed above")
    return lines


def worker(folder: Path, until: float) -> None:
    """Run the steady client. Each round requests a link file on stdout, waits on stdin, and mirrors.

    Args:
        folder: Where the link file is written and the output folders are made.
        until: The Unix time of the last start of a round.
    """
    from osp_fetch import Settings, fetch

    pairs = [setting.partition("=") for setting in SETTINGS]
    layer: dict[str, dict[str, Any]] = {"links": {"on_expired": "wait"}, "storage": {"min_free": 0}}
    layer["limits"] = {"part_size": "256KiB", "per_host": 8}
    for key, _, value in pairs:
        section, _, name = key.partition(".")
        layer.setdefault(section, {})[name] = float(value)
    settings = Settings.load(("soak", layer))
    number, again, said = 0, 0, {"next": 0}
    while time.time() < until:
        print(json.dumps(said), flush=True)
        sys.stdin.readline()
        out = folder / f"s{number}"
        report = fetch(folder / "steady.tsv", out, settings=settings)
        if not report.ok:  # a file fails after three pages in a row: run again, as a user would
            again += 1
            fetch(folder / "steady.tsv", out, settings=settings).raise_for_failures()
        count = check(out, f"steady/{number}", whole=True)
        shutil.rmtree(out)
        number += 1
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        fds = sum(1 for _ in Path("/proc/self/fd").iterdir())
        said = {"next": number, "rss": rss, "descriptors": fds, "bytes": count, "again": again}
    print(json.dumps(said), flush=True)


async def soak(minutes: float) -> dict[str, Any]:
    origin = Origin()
    until = time.time() + minutes * 60
    with tempfile.TemporaryDirectory() as place:
        async with Server(origin.handle) as server:
            one, other = await asyncio.gather(
                killed(origin, server.url, Path(place), until), steady(origin, server.url, Path(place), until)
            )
    good = one["bytes"] + sum(line["bytes"] for line in other)
    first, tenth, last = other[0], other[min(9, len(other) - 1)], other[-1]
    return {
        "minutes": minutes,
        "files": FILES * (one["rounds"] + len(other)),
        "bytes": good,
        "lost or wrong": 0,
        "faults met": dict(origin.met),
        "kills": one["kills"],
        "bytes sent for each byte kept": round(origin.sent.total() / good, 3),
        "rounds of the steady process": len(other),
        "of these run twice": last["again"],
        # In the first rounds the memory grows, because each thread fills its own arena of the allocator.
        "its memory after the first, the tenth, the last round, MiB": [
            round(line["rss"] / 2**20) for line in (first, tenth, last)
        ],
        "its descriptors at start and end": [first["descriptors"], last["descriptors"]],
    }


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    print(json.dumps(asyncio.run(soak(parser.parse_args().minutes)), indent=2))


if __name__ == "__main__":
    main()
