"""Fetch over the nodes of a Ray cluster while nodes, the coordinator, the network and the links fail.

    python benchmarks/cluster_chaos.py [--minutes 30] [--seed 7]

Nodes are killed and added; worker processes are frozen for longer than their lease and woken; the coordinator
is killed and run again; the origin refuses, stalls, cuts and resets; links die and are replaced. At the end
every file is compared, the log is searched for files that were published twice, and the bytes that were sent
are compared with those of the files.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clients import MIB, digest, origin
from cluster import MB, Nodes, command

SIZE = 4 * MIB
RATE = 20 * MB  # bytes per second of all nodes together
LEASE = 30.0  # seconds; see `osp_fetch.cluster.pool.LEASE`
FAULTS = {"refused": 0.03, "cut": 0.03, "reset": 0.01, "stalled": 0.005}  # per request


class Wild:
    """An HTTP proxy before the origin, with faults. A link is valid while its generation is the present one.

    Args:
        upstream: port of the origin.
        generation: the number that valid links have as `?g=N`.
        sent: counts the bytes of bodies that were sent.
        seed: of the faults.
    """

    def __init__(self, upstream: int, generation: Any, sent: Any, seed: int) -> None:
        self._upstream, self._generation, self._sent = upstream, generation, sent
        self._chance = random.Random(seed)
        self._ready = 0.0

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection."""
        other: asyncio.StreamWriter | None = None
        try:
            back, other = await asyncio.open_connection("127.0.0.1", self._upstream)
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self._one(head, back, other, writer):
                    break
        except (OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop: the transport is closed
            pass
        finally:
            for each in (writer, other):
                if each is not None:
                    each.close()

    async def _one(
        self,
        head: bytes,
        back: asyncio.StreamReader,
        other: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; return whether the connection goes on."""
        link = head.split(b" ", 2)[1]
        if link.rpartition(b"g=")[2] != str(self._generation.value).encode():
            body = b"URL signature expired"
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return True
        fault = self._fault()
        if fault == "refused":
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            return True
        if fault == "reset":
            writer.transport.abort()
            return False
        other.write(head.replace(link, link.partition(b"?")[0], 1))
        reply = await back.readuntil(b"\r\n\r\n")
        lines = [line.partition(b":") for line in reply.lower().split(b"\r\n")]
        left = next(int(value) for name, _, value in lines if name == b"content-length")
        writer.write(reply)
        end = self._chance.randrange(left) if fault and left else left
        while left and (data := await back.read(min(left, 131_072))):
            left -= len(data)
            keep = data[: max(0, end)]
            end -= len(data)
            await self._send(writer, keep)
            if end < 0 or (fault and not end):
                break
        if fault == "stalled":
            await asyncio.sleep(120)
        return not fault

    def _fault(self) -> str:
        number = self._chance.random()
        for name, share in FAULTS.items():
            if (number := number - share) < 0:
                return name
        return ""

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self._sent.value += len(data)
        now = asyncio.get_running_loop().time()
        self._ready = max(self._ready, now - 0.02) + len(data) / RATE
        await asyncio.sleep(max(0.0, self._ready - now))


def _serve(port: Any, upstream: int, generation: Any, sent: Any, seed: int) -> None:
    import uvloop

    async def main() -> None:
        wild = Wild(upstream, generation, sent, seed)
        server = await asyncio.start_server(wild.client, "127.0.0.1", 0, limit=1 << 20)
        port.value = server.sockets[0].getsockname()[1]
        async with server:
            await server.serve_forever()

    uvloop.run(main())


@contextmanager
def wild(upstream: int, seed: int) -> Iterator[tuple[int, Any, Any]]:
    """Run the proxy in a process; yield its port, the generation of links, and the bytes sent."""
    context = multiprocessing.get_context("spawn")
    port, generation = context.Value(ctypes.c_int, 0), context.Value(ctypes.c_int, 1)
    sent = context.Value(ctypes.c_longlong, 0)
    process = context.Process(target=_serve, args=(port, upstream, generation, sent, seed))
    process.start()
    while not port.value:
        time.sleep(0.05)
    try:
        yield port.value, generation, sent
    finally:
        process.kill()
        process.join()


def write_links(listed: Path, port: int, generation: int, count: int) -> None:
    """Write the manifest with links of a generation in place of the one before."""
    sha256 = digest(SIZE)
    lines = (
        json.dumps(
            {"url": f"http://127.0.0.1:{port}/{SIZE}/{n}?g={generation}", "path": f"f{n}", "sha256": sha256}
        )
        for n in range(count)
    )
    beside = listed.with_suffix(".new")
    beside.write_text("".join(f"{line}\n" for line in lines))
    beside.replace(listed)


def frozen(seconds: float) -> bool:
    """Freeze the worker process of one node for a time. Return False if there is none."""
    found = workers_below(os.getpid())
    if not found:
        return False
    pid = random.choice(found)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, _woken, [pid]).start()
    return True


def _woken(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def workers_below(root: int) -> list[int]:
    """Return the worker processes of osp-fetch among the descendants of a process."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(place.name)] = (place / "cmdline").read_text()
    found = []
    for pid, name in names.items():
        above = pid
        while above not in (0, 1, root):
            above = parents.get(above, 0)
        if above == root and "osp_fetch.workers.worker" in name:
            found.append(pid)
    return found


class Chaos:
    """The troubles of a run: one every few seconds.

    Args:
        nodes: the cluster.
        fresh: makes the links of the manifest die, and writes others.
        seed: of the choices.
    """

    def __init__(self, nodes: Nodes, fresh: Any, seed: int) -> None:
        self._nodes, self._fresh, self._chance = nodes, fresh, random.Random(seed)
        self.counts: Counter[str] = Counter()

    def pause(self) -> float:
        """Return the seconds until the next trouble."""
        return self._chance.uniform(3, 9)

    def one(self) -> None:
        """Make trouble."""
        kinds = {"node added": 4, "node killed": 4, "worker frozen": 2, "links replaced": 1}
        kind = self._chance.choices(list(kinds), list(kinds.values()))[0]
        if kind == "node added":
            done = self._nodes.count < 5
            if done:
                self._nodes.add()
        elif kind == "node killed":
            done = self._nodes.count > 1
            self._nodes.remove()
        elif kind == "worker frozen":
            done = frozen(LEASE + self._chance.uniform(2, 10))
        else:
            done = True
            self._fresh()
        self.counts[kind] += done


def run(minutes: float, seed: int, place: str) -> dict[str, Any]:
    """Fetch while there is chaos, then without it until all is fetched, and compare."""
    count = max(40, int(minutes * 60 * RATE * 0.5 / SIZE))
    folder = Path(tempfile.mkdtemp(dir=place))
    listed, out = folder / "list.jsonl", folder / "out"
    with origin([SIZE], place) as (url, _):
        upstream = int(url.split(":")[2].split("/")[0])
        with wild(upstream, seed) as (port, generation, sent), Nodes(3) as nodes:
            write_links(listed, port, generation.value, count)

            def fresh() -> None:
                generation.value += 1
                time.sleep(1)
                write_links(listed, port, generation.value, count)

            chaos = Chaos(nodes, fresh, seed)
            report, runs = _fetched(command(listed, str(out), nodes.address), chaos, minutes)
            total = sent.value
    try:
        return _judged(out, count, total) | {
            "counts": report["counts"], "coordinators": runs, **dict(chaos.counts)
        }  # fmt: skip
    finally:
        shutil.rmtree(folder)


def _fetched(words: list[str], chaos: Chaos, minutes: float) -> tuple[dict[str, Any], int]:
    """Run the command until it ends with all files; return its report, and how often it was started."""
    ends, runs = time.monotonic() + minutes * 60, 0
    while True:
        runs += 1
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + random.uniform(30, 90)
        while process.poll() is None and time.monotonic() < min(until, ends):
            time.sleep(chaos.pause())
            if process.poll() is None:
                chaos.one()
        if process.poll() is None and time.monotonic() < ends:
            process.kill()
        out, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            chaos.counts["coordinator killed"] += 1
            continue
        if process.returncode == 0:
            return json.loads(out), runs
        print(err[-600:], file=sys.stderr)
        chaos.counts[f"ended with {process.returncode}"] += 1
        if time.monotonic() > ends + 600:
            raise SystemExit("the files do not come")


def _judged(out: Path, count: int, sent: int) -> dict[str, Any]:
    wrong = sum(not _is_right(out / f"f{n}") for n in range(count))
    published: Counter[str] = Counter()
    for part in sorted((out / ".osp-fetch").glob("events.jsonl*")):
        for line in part.read_text().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "finished" and event["status"] == "fetched":
                    published[event["path"]] += 1
    left = [path for path in out.rglob("*") if path.is_file() and path.parent.name in ("partial", "replaced")]
    return {
        "files": count,
        "wrong or missing": wrong,
        "published twice": sum(times > 1 for times in published.values()),
        "partials left": len(left),
        "bytes sent, of those of the files": round(sent / (count * SIZE), 3),
    }


def _is_right(place: Path) -> bool:
    return place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == digest(SIZE)[-64:]


def main() -> None:
    """Run, and print the result as one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=7)
    flags = parser.parse_args()
    random.seed(flags.seed)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    print(json.dumps(run(flags.minutes, flags.seed, place)), flush=True)


if __name__ == "__main__":
    main()
