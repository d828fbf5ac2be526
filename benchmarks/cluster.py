"""Measure a run over several nodes: speed against one node, a host with a limit, and the cost of decisions.

    python benchmarks/cluster.py [--only speed|last|bucket|limit|simulation] [--rounds 3] [--jobs 10000000]

The nodes are those of a Ray cluster on this machine. Each has a loopback address of its own, and a proxy
limits the bytes of each address, so that every node has "its" bandwidth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import MIB, PYTHON, digest, origin

from tests.seaweed import KEYS, serving

MB = 1_000_000


class Shaper:
    """A TCP proxy that limits the bytes per second of each client address, and the connections of all.

    Args:
        upstream: port of the origin.
        rate: bytes per second for each address.
        most: connections above which requests are refused with 503; 0 for no limit.
        each: bytes per second of one connection; 0 for no limit.
    """

    def __init__(self, upstream: int, rate: float, most: int = 0, each: float = 0) -> None:
        self._upstream, self._rate, self._most, self._each = upstream, rate, most, each
        self._ready: dict[str, float] = defaultdict(float)
        self._open = 0

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._most and self._open > self._most:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            other, into = await asyncio.open_connection("127.0.0.1", self._upstream)
            who = writer.get_extra_info("peername")[0]
            ways = [self._pass(reader, into), self._down(other, writer, who)]
            tasks = [asyncio.create_task(way) for way in ways]
            try:
                # the client may close while the origin keeps its connection
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                into.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: str) -> None:
        clock, mine = asyncio.get_running_loop().time, 0.0
        while data := await reader.read(131072):
            writer.write(data)
            await writer.drain()
            now = clock()
            self._ready[who] = max(self._ready[who], now - 0.02) + len(data) / self._rate
            if self._each:
                mine = max(mine, now - 0.02) + len(data) / self._each
            await asyncio.sleep(max(0.0, self._ready[who] - now, mine - now))


def _shape(port: int, upstream: int, rate: float, most: int, each: float) -> None:
    import uvloop

    async def main() -> None:
        shaper = Shaper(upstream, rate, most, each)
        server = await asyncio.start_server(shaper.client, "127.0.0.1", port, limit=1 << 20)
        async with server:
            await server.serve_forever()

    uvloop.run(main())


@contextlib.contextmanager
def shaped(upstream: int, rate: float, most: int = 0, each: float = 0) -> Iterator[int]:
    """Run a shaper in a process, and return its port."""
    port = random.randrange(20_000, 30_000)
    process = multiprocessing.get_context("spawn").Process(
        target=_shape, args=(port, upstream, rate, most, each)
    )
    process.start()
    time.sleep(1.5)
    try:
        yield port
    finally:
        process.kill()
        process.join()


class Nodes:
    """A Ray cluster whose head fetches nothing; a context manager.

    Args:
        count: nodes at the start.
    """

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"object_store_memory": 75 << 20, "num_cpus": 0, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self._number = 0
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def count(self) -> int:
        return len(self._nodes)

    def add(self) -> None:
        """Add a node with a loopback address of its own."""
        self._number += 1
        place = f"127.0.{self._number // 200}.{self._number % 200 + 2}"
        node = self._cluster.add_node(num_cpus=1, object_store_memory=75 << 20, node_ip_address=place)
        self._nodes.append(node)

    def remove(self) -> None:
        """Kill the oldest node, unless it is the last one."""
        if len(self._nodes) > 1:
            self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()


def command(listed: Path, out: str, address: str, *more: str) -> list[str]:
    """Return the command of a run."""
    words = [PYTHON, "-m", "osp_fetch", "get", str(listed), "-o", out, "-q", "--json", "--min-free", "0"]
    words += ["--profiles", "none", "--engine", "ray", "--address", address, *more]
    return words


def manifest(folder: Path, port: int, count: int, size: int) -> Path:
    """Write a list of `count` files of `size` bytes behind a port, and return it."""
    sha256 = digest(size)
    base = f"http://127.0.0.1:{port}/{size}"
    rows = ({"url": f"{base}/{n}", "path": f"f{n}", "sha256": sha256} for n in range(count))
    place = folder / "list.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def timed(nodes: int, listed: Path, place: str, *more: str, bucket: str = "") -> tuple[float, int]:
    """Return the seconds of a run over `nodes` nodes without the start of the cluster, and its failures."""
    with Nodes(nodes) as made:
        out = Path(tempfile.mkdtemp(dir=place))
        into = [f"s3://{bucket}/{out.name}", "--state", str(out)] if bucket else [str(out)]
        try:
            words = command(listed, into[0], made.address, *into[1:], *more)
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if not done.stdout:
                raise SystemExit(done.stderr[-1000:])
            report = json.loads(done.stdout)
            return report["seconds"], report["counts"]["failed"]
        finally:
            shutil.rmtree(out)


def speed(rounds: int, place: str, count: int = 72, size: int = 32 * MIB, bucket: str = "") -> dict[str, Any]:
    """Three nodes, each behind 30 MB/s, against one. The start of Ray takes two seconds of each run."""
    with origin([size], place) as (url, _):
        upstream = int(url.split(":")[2].split("/")[0])
        with shaped(upstream, 30 * MB) as port:
            listed = manifest(Path(tempfile.mkdtemp(dir=place)), port, count, size)
            found: dict[int, list[float]] = {1: [], 3: []}
            for _ in range(rounds):
                for nodes, seconds in found.items():
                    seconds.append(timed(nodes, listed, place, bucket=bucket)[0])
    one, three = (statistics.median(found[n]) for n in (1, 3))
    return {"one node": found[1], "three nodes": found[3], "times as fast": round(one / three, 2)}


def last(rounds: int, place: str) -> dict[str, Any]:
    """The same for one file of 2 GiB, of which idle nodes fetch ranges."""
    return speed(rounds, place, 1, 2048 * MIB)


def bucket(rounds: int, place: str) -> dict[str, Any]:
    """The same for one file of 1 GiB, on its way into a bucket of SeaweedFS, which is not behind 30 MB/s."""
    with serving() as server:
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL_S3": server.url, "AWS_EC2_METADATA_DISABLED": "true"}
        return speed(rounds, place, 1, 1024 * MIB, server.bucket("ranges"))


def limit(rounds: int, place: str) -> dict[str, Any]:
    """A host that refuses above 12 connections of 2 MB/s, with one node and with three."""
    count, size = 120, 8 * MIB
    best = count * size / (12 * 2 * MB)
    found: dict[int, list[float]] = {1: [], 3: []}
    failed = 0
    with origin([size], place) as (url, _):
        upstream = int(url.split(":")[2].split("/")[0])
        with shaped(upstream, 1e9, 12, 2 * MB) as port:
            listed = manifest(Path(tempfile.mkdtemp(dir=place)), port, count, size)
            for _ in range(rounds):
                for nodes, seconds in found.items():
                    taken, missing = timed(nodes, listed, place)
                    seconds.append(taken)
                    failed += missing
    return {
        f"{n} nodes, of the limit's time": round(statistics.median(s) / best, 3) for n, s in found.items()
    } | {"failed": failed}


class _Simulated:
    """A node in virtual time: each second it ends as many jobs as it has connections.

    Args:
        number: of the member.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: dict[str, deque[Any]] = defaultdict(deque)  # host → leases
        self.share: dict[str, tuple[int, int]] = {}  # host → connections, and the number of the assignment
        self.changed: set[str] = set()

    def assigned(self, assign: Any) -> None:
        """Apply an assignment."""
        self.share[assign.host] = assign.connections, assign.number
        self.changed.add(assign.host)

    def work(self) -> Iterator[Any]:
        """Yield the leases of the jobs that end now."""
        for host in list(self.jobs):
            jobs = self.jobs[host]
            for _ in range(min(self.share.get(host, (0, 0))[0], len(jobs))):
                yield jobs.popleft()
                self.changed.add(host)
            if not jobs:
                del self.jobs[host]

    def report(self, kind: Any) -> list[Any]:
        """Return the reports on the hosts that have changed."""
        found = []
        for host in self.changed:
            (share, number), jobs = self.share.get(host, (0, 0)), len(self.jobs.get(host, ()))
            used = min(share, jobs)
            found.append(kind(host, used, used, jobs - used, 10**6 * used, 0, share, 0.1, number))
            if not share and not jobs:
                self.share.pop(host, None)
        self.changed.clear()
        return found


class Simulation:
    """A coordinator and a budget in virtual time: 1,000 nodes that come and go, 10,000 hosts.

    A step is a look of half a second. No host may have more than 16 connections, and each job ends once.

    Args:
        jobs: number of jobs.
    """

    def __init__(self, jobs: int) -> None:
        from osp_fetch.cluster.coordinator import Coordinator
        from osp_fetch.workers.budget import Budget

        self._jobs, self._begun, self.ended, self.looks = jobs, 0, 0, 0
        self._waiting, self._held = deque[int](), dict[int, int]()  # held: lease → job
        self._made = Coordinator(30.0)
        self._budget = Budget(0, 128_000, 16, lambda _: None, {}, steers=False)
        self._nodes: dict[int, _Simulated] = {}
        self._chance = random.Random(1)
        self.spent: dict[str, float] = defaultdict(float)  # kind of decision → CPU seconds
        for _ in range(1_000):
            self._join()

    @property
    def _now(self) -> float:
        return 1.0 + self.looks / 2

    @contextlib.contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.spent[what] += time.process_time() - begun

    def _join(self) -> None:
        member = self._made.join("n", self._now)
        self._budget.joined(member.number)
        self._nodes[member.number] = _Simulated(member.number)

    def _die(self) -> None:
        dead = self._nodes.pop(self._chance.choice(list(self._nodes)))
        self._made.leave(dead.number)
        self._budget.gone(dead.number)
        self._waiting.extend(self._held.pop(each.number) for many in dead.jobs.values() for each in many)

    def step(self) -> None:
        """Let half a second pass."""
        from osp_fetch.connections.controller import HostReport

        self.looks += 1
        if self.looks % 20 == 0:
            self._die()
            self._join()
        with self._counted("deal"):
            self._deal()
        done = [lease for node in self._nodes.values() for lease in node.work()]
        with self._counted("end"):
            for lease in done:
                assert self._made.end(lease)
                del self._held[lease.number]
        self.ended += len(done)
        reports = [(node, node.report(HostReport)) for node in self._nodes.values()]
        with self._counted("reports"):
            for node, each in reports:
                self._made.heard(node.number, self._now)
                self._budget.reported(node.number, each, self._now)
        with self._counted("look"):
            assigned = self._budget.look(self._now)
        for number, assign in assigned:
            self._nodes[number].assigned(assign)
        if self.looks % 50 == 0:
            self._check()

    def _deal(self) -> None:
        while len(self._held) < 100_000 and (self._waiting or self._begun < self._jobs):
            job = self._waiting.popleft() if self._waiting else self._begun
            lease = self._made.deal()
            assert lease is not None
            self._begun, self._held[lease.number] = max(self._begun, job + 1), job
            host, node = f"h{hash((job, 7)) % 10_000}:443", self._nodes[lease.node]
            node.jobs[host].append(lease)
            node.changed.add(host)
            if (granted := self._budget.grant(node.number, host)) is not None:
                node.assigned(granted)

    def _check(self) -> None:
        opened: dict[str, int] = defaultdict(int)
        for node in self._nodes.values():
            for host, many in node.jobs.items():
                opened[host] += min(node.share.get(host, (0, 0))[0], len(many))
        assert max(opened.values()) <= 16


def simulation(jobs: int) -> dict[str, Any]:
    """What the decisions of a run cost."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    made = Simulation(jobs)
    while made.ended < jobs:
        made.step()
    total = sum(made.spent.values())
    return {
        "jobs": made.ended,
        "CPU microseconds a job": round(total / made.ended * 1e6, 1),
        "of these": {name: round(seconds / made.ended * 1e6, 1) for name, seconds in made.spent.items()},
        "CPU seconds of one look": round(made.spent["look"] / made.looks, 3),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def main() -> None:
    """Run what was asked for, and print one JSON line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["speed", "last", "bucket", "limit", "simulation"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    place = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
    parts = {
        "simulation": lambda: simulation(flags.jobs),
        "speed": lambda: speed(flags.rounds, place),
        "last": lambda: last(flags.rounds, place),
        "bucket": lambda: bucket(flags.rounds, place),
        "limit": lambda: limit(flags.rounds, place),
    }
    found = {}
    for name, work in parts.items():  # each returns what it has measured
        if flags.only in (None, name):
            found[name] = work()  # type: ignore[no-untyped-call]
            print(json.dumps({name: found[name]}), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
