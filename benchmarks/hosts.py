"""Measure runs over many hosts: `python benchmarks/hosts.py [--only NAME] [--rounds 3] [--json FILE]`.

One server on the loopback interface answers for all hosts. Each host has its own address in 127.0.0.0/8.
The workloads are:

    hosts   20,000 files of 20 to 95 kB on 2,000 hosts. 8 % of the hosts refuse connections, 4 % do not
            answer a SYN, 5 % have no name. 5 % of the rows are answered with 404. All clients run.
    names   540 good rows among 60 rows whose hosts have no name, and the 540 good rows alone.
    flat    100,000 hosts with one file each, and one host with 100,000 files.

The lists hold no sizes and no digests, as the lists of crawls do. After each run, every byte of every file is
compared with what the server sends. The output holds, by client, medians of: the seconds to the last good
file, the seconds and the CPU seconds of the whole run, and the number of right files. The ratios are those of
osp-fetch (of its first run, in `names` and `flat`) to the others: below 1, osp-fetch took less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import uvloop
from clients import MIB, PYTHON, compile_ours

KEEP_ALIVE = 5.0  # seconds after which the server closes an idle connection: the default of Apache httpd
_BLOCK = bytes(range(256)) * 400


def body(number: int, size: int) -> bytes:
    """Return the content of file `number`. It differs from that of every other file."""
    return b"%016d" % number + _BLOCK[: size - 16]


# -- the server -----------------------------------------------------------------------------------------


class Files(asyncio.Protocol):
    """One connection to the server. `/SIZE/NUMBER` is a file; any other path is answered with 404.

    Args:
        used: All connections with the time of their last request, the longest idle first.
    """

    _RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
    _GONE = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nnot found\n"

    def __init__(self, used: dict[Files, float]) -> None:
        self.used = used
        self.waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's classes do not inherit from it
        self.used[self] = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self.used.pop(self, None)

    def data_received(self, data: bytes) -> None:
        *heads, self.waiting = (self.waiting + data).split(b"\r\n\r\n")
        for head in heads:
            self.transport.write(self._reply(head))
        self.used.pop(self, None)
        self.used[self] = time.monotonic()

    def _reply(self, head: bytes) -> bytes:
        _, target, _ = head.split(b" ", 2)
        _, first, second = target.split(b"/")
        if not first.isdigit():
            return self._GONE
        size, number = int(first), int(second)
        data, status, more = body(number, size), b"200 OK", b""
        if asked := self._RANGE.search(head):
            start, stop = int(asked[1]), min(int(asked[2] or size) + 1, size)
            data, status = data[start:stop], b"206 Partial Content"
            more = b"\r\nContent-Range: bytes %d-%d/%d" % (start, stop - 1, size)
        kind = b"Content-Type: application/octet-stream\r\nAccept-Ranges: bytes"
        return b'HTTP/1.1 %s\r\n%s%s\r\nETag: "%d-%d"\r\nContent-Length: %d\r\n\r\n%s' % (
            status, kind, more, size, number, len(data), data,
        )  # fmt: skip


class Names(asyncio.DatagramProtocol):
    """A DNS server. `hN.many.test` has the address of host N. No other name exists."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(resolved(data), addr)


def resolved(query: bytes) -> bytes:
    """Return the reply to a DNS query (RFC 1035, section 4.1)."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].lower())
        at += 1 + length
    question = query[12 : at + 5]
    host = re.fullmatch(rb"h(\d+)\.many\.test", b".".join(labels))
    record = b""
    if host and query[at + 1 : at + 5] == b"\0\1\0\1":  # type A, class IN
        # a pointer to the name of the question, type, class, 300 seconds, length, address
        record = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4" + socket.inet_aton(address(int(host[1])))
    flags = b"\x81\x80" if host else b"\x81\x83"  # a reply without an error, or NXDOMAIN
    counts = b"\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0"
    return query[:2] + flags + counts + question + record


def address(host: int) -> str:
    """Return the address of a host: 127.4.0.0 and the following ones."""
    return socket.inet_ntoa(((127 << 24) + (4 << 16) + host).to_bytes(4, "big"))


@dataclass(frozen=True)
class Ports:
    """The ports of the server: the files, one that refuses, one that does not answer a SYN, and DNS (UDP)."""

    files: int
    refusing: int
    silent: int
    names: int


async def serve() -> None:
    """Serve until the process is terminated. The first line of the output holds the ports as JSON."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop, used = asyncio.get_running_loop(), dict[Files, float]()
    listening = socket.create_server(("0.0.0.0", 0), backlog=4096)
    server = await loop.create_server(lambda: Files(used), sock=listening, backlog=4096)
    refusing = socket.socket()
    refusing.bind(("0.0.0.0", 0))  # reserved, but nothing listens
    silent = socket.create_server(("0.0.0.0", 0), backlog=0)
    held = _fill(silent.getsockname()[1])
    names, _ = await loop.create_datagram_endpoint(Names, ("127.0.0.1", 0))
    sockets = (listening, refusing, silent, names.get_extra_info("socket"))
    print(json.dumps(asdict(Ports(*(each.getsockname()[1] for each in sockets)))), flush=True)
    while server.is_serving() and held:
        await asyncio.sleep(1)
        before = time.monotonic() - KEEP_ALIVE
        while used and next(iter(used.values())) < before:
            used.pop(connection := next(iter(used)))
            connection.transport.close()


def _fill(port: int) -> list[socket.socket]:
    """Fill the queue of a listening socket, so that the kernel drops every further SYN to `port`.

    Raises:
        SystemExit: The queue was not full after 32 connections.
    """
    held = []
    for _ in range(32):
        held.append(socket.socket())
        held[-1].settimeout(0.5)
        try:
            held[-1].connect(("127.0.0.1", port))
        except TimeoutError:
            return held
    raise SystemExit("this system accepts connections beyond the backlog: no host can be silent")


def end_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit, so that the server and the client end, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def served() -> Iterator[Ports]:
    """Start the server as a process, and yield its ports."""
    server = subprocess.Popen([PYTHON, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield Ports(**json.loads(server.stdout.readline()))
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


# -- the rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One file: its URL, and its size if it is there, else 0."""

    number: int
    url: str
    size: int

    @property
    def name(self) -> str:
        return f"f{self.number}"


def crawl(ports: Ports, files: int, hosts: int, seed: int) -> list[Row]:
    """Return the rows of workload `hosts`, in random order. They are the same for the same seed."""
    chance = random.Random(seed)
    kinds = ["refusing"] * round(hosts * 0.08) + ["silent"] * round(hosts * 0.04)
    kinds += ["nameless"] * round(hosts * 0.05)
    kinds += ["good"] * (hosts - len(kinds))
    chance.shuffle(kinds)
    gone = set(chance.sample(range(files), round(files * 0.05)))
    made = []
    for number in range(files):
        host, size = number % hosts, chance.randint(20_000, 95_000)
        path = f"gone/{number}" if number in gone else f"{size}/{number}"
        sites = {
            "good": f"{address(host)}:{ports.files}",
            "refusing": f"{address(host)}:{ports.refusing}",
            "silent": f"{address(host)}:{ports.silent}",
            "nameless": f"h{host}.invalid",
        }
        there = kinds[host] == "good" and number not in gone
        made.append(Row(number, f"http://{sites[kinds[host]]}/{path}", size if there else 0))
    chance.shuffle(made)
    return made


def with_dead_names(ports: Ports, good: int, dead: int, seed: int) -> list[Row]:
    """Return `good` rows of ten to a host and `dead` rows of hosts that have no name, in random order."""
    chance = random.Random(seed)
    made = [_row(ports, number, number // 10, chance.randint(20_000, 95_000)) for number in range(good)]
    made += [Row(good + n, f"http://h{n}.invalid/1/{n}", 0) for n in range(dead)]
    chance.shuffle(made)
    return made


def _row(ports: Ports, number: int, host: int, size: int, *, by_name: bool = False) -> Row:
    site = f"h{host}.many.test" if by_name else address(host)
    return Row(number, f"http://{site}:{ports.files}/{size}/{number}", size)


# -- the clients ----------------------------------------------------------------------------------------


def ours(rows: Sequence[Row], folder: Path, *flags: str) -> list[str]:
    """Return the command of osp-fetch without settings, and write its list."""
    lines = (json.dumps({"path": row.name, "url": row.url}) for row in rows)
    (folder / "m.jsonl").write_text("\n".join(lines))
    fixed = ["-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
    return [PYTHON, "-m", "osp_fetch", "get", "m.jsonl", *fixed, *flags]


_SCRIPT = """
import aiohttp, asyncio, json
async def main():
    todo = iter(json.load(open("rows.json")))
    async def work(session):
        for url, name in todo:
            try:
                async with session.get(url) as reply:
                    reply.raise_for_status()
                    with open(f"out/{name}", "wb") as file:
                        async for chunk in reply.content.iter_chunked(1 << 16):
                            file.write(chunk)
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
    connector = aiohttp.TCPConnector(limit=128)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(work(session) for _ in range(128)))
asyncio.run(main())
"""


def aiohttp_script(rows: Sequence[Row], folder: Path) -> list[str]:
    """Return the command of twenty lines of aiohttp: 128 files at once, ten seconds for each, one try."""
    (folder / "rows.json").write_text(json.dumps([(row.url, row.name) for row in rows]))
    return [PYTHON, "-c", _SCRIPT]


def curl(rows: Sequence[Row], folder: Path, *flags: str) -> list[str]:
    """Return the command of curl -Z. It waits for the first connection to a host before it makes a second."""
    lines = (f'url = "{row.url}"\noutput = "out/{row.name}"' for row in rows)
    (folder / "list").write_text("\n".join(lines))
    return ["curl", "-sfZ", "--parallel-max", "128", "--connect-timeout", "10", *flags, "-K", "list"]


def curl_immediate(rows: Sequence[Row], folder: Path) -> list[str]:
    """Return the command of curl -Z that makes each connection at once."""
    return curl(rows, folder, "--parallel-immediate")


def aria2(rows: Sequence[Row], folder: Path) -> list[str]:
    (folder / "list").write_text("\n".join(f"{row.url}\n out={row.name}" for row in rows))
    fixed = ["-j128", "-x1", "-s1", "--connect-timeout=10", "--timeout=10", "--file-allocation=none"]
    return ["aria2c", "-ilist", "-q", "-dout", *fixed]


Client = Callable[[Sequence[Row], Path], list[str]]
CLIENTS: dict[str, Client] = {
    "osp-fetch": ours,
    "aiohttp script": aiohttp_script,
    "curl": curl,
    "curl --parallel-immediate": curl_immediate,
    "aria2": aria2,
}
_NEEDS = {"curl": "curl", "curl --parallel-immediate": "curl", "aria2": "aria2c"}


# -- one run --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The result of one run.

    Attributes:
        last_good: Seconds to the last change of a right file: of its content or, on renaming, of its name.
        seconds: Seconds to the end of the process.
        cpu: CPU seconds of the client with its child processes.
        right: The number of files that are there with the right content.
        missing: The number of good rows without such a file.
        false: The number of files of other rows, such as a saved error page.
        peak: Peak bytes of the client's largest process.
        ended: Whether the client ended before the limit.
    """

    last_good: float
    seconds: float
    cpu: float
    right: int
    missing: int
    false: int
    peak: int
    ended: bool


def measure(client: Client, rows: Sequence[Row], place: str, limit: float) -> Run:
    """Run a client once in a new folder. Rows that fail are a part of the workload, so it may fail.

    Args:
        client: The client.
        rows: The rows to fetch.
        place: The folder for the folder of the run.
        limit: Seconds after which the client is interrupted.
    """
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        (folder / "out").mkdir()
        command = client(rows, folder)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begun, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        ended, peak = _wait(process, limit)
        seconds = time.monotonic() - clock
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        right, false, last = _checked(rows, folder / "out")
    good = sum(row.size > 0 for row in rows)
    return Run(max(last - begun, 0), seconds, cpu, right, good - right, false, peak, ended)


def _wait(process: subprocess.Popen[bytes], limit: float) -> tuple[bool, int]:
    """Wait for the end of a client; interrupt it after `limit` seconds, and kill it 20 seconds later.

    Returns:
        Whether it ended by itself, and its peak memory in bytes.
    """
    timers = [
        threading.Timer(limit, os.killpg, (process.pid, signal.SIGINT)),
        threading.Timer(limit + 20, os.killpg, (process.pid, signal.SIGKILL)),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    begun = time.monotonic()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # the client has a session of its own: it would stay
        raise
    finally:
        for timer in timers:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return time.monotonic() - begun < limit, peak


def _checked(rows: Sequence[Row], out: Path) -> tuple[int, int, float]:
    """Return the numbers of right and of false files, and the time of the last change of a right one."""
    right, false, last = 0, 0, 0.0
    for row in rows:
        place = out / row.name
        try:
            data, seen = place.read_bytes(), place.stat()
        except FileNotFoundError:
            continue
        if row.size and data == body(row.number, row.size):
            right, last = right + 1, max(last, seen.st_ctime)
        elif not row.size:
            false += 1
    return right, false, last


@dataclass(frozen=True)
class Entry:
    """A run to measure: its name in the results, the client, and its rows."""

    name: str
    client: Client
    rows: Sequence[Row]


def compare(entries: Sequence[Entry], rounds: int, place: str, limit: float) -> dict[str, Any]:
    """Run all entries in alternated rounds.

    Before the first round, each client fetches twenty good rows, so that none pays for reading programs from
    the disk.

    Returns:
        The medians by entry, with the values of each round, and the ratios of the first entry's medians to
        those of the others.

    Raises:
        SystemExit: A client fetched none of the twenty good rows.
    """
    compile_ours()
    for entry in entries:
        if not measure(entry.client, [row for row in entry.rows if row.size][:20], place, 60).right:
            raise SystemExit(f"{entry.name} fetched none of twenty good rows")
    found: dict[str, list[Run]] = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            found[entry.name].append(measure(entry.client, entry.rows, place, limit))
            print(json.dumps({entry.name: _rounded(found[entry.name][-1])}), file=sys.stderr, flush=True)
    result: dict[str, Any] = {entry.name: _summary(entry, found[entry.name]) for entry in entries}
    first = result[entries[0].name]
    kinds = ("last_good", "seconds", "cpu_seconds", "cpu_us_per_good_file")
    ratios = {
        f"of {name}": {kind: round(first[kind] / each[kind], 2) for kind in kinds if each[kind]}
        for name, each in result.items()
        if name != entries[0].name
    }
    return {"runs": result, f"ratios of {entries[0].name}": ratios}


def _rounded(run: Run) -> dict[str, float]:
    return {kind: round(value, 2) for kind, value in asdict(run).items()}


def _summary(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    good = sum(row.size > 0 for row in entry.rows)
    cpu = statistics.median(run.cpu for run in runs)
    return {
        "rows": len(entry.rows),
        "good": good,
        "right": min(run.right for run in runs),
        "false": max(run.false for run in runs),
        "ended": all(run.ended for run in runs),
        "last_good": round(statistics.median(run.last_good for run in runs), 2),
        "seconds": round(statistics.median(run.seconds for run in runs), 2),
        "cpu_seconds": round(cpu, 2),
        "cpu_us_per_good_file": round(cpu / good * 1e6),
        "cpu_seconds_per_gb": round(cpu / (sum(row.size for row in entry.rows) / 1e9), 2),
        "peak_mib": round(max(run.peak for run in runs) / MIB),
        "rounds": [_rounded(run) for run in runs],
    }


# -- the workloads --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How much to run: rows and hosts of `hosts`, good rows and dead names of `names`, files of `flat`."""

    files: int = 20_000
    hosts: int = 2_000
    good: int = 540
    dead: int = 60
    flat: int = 100_000
    seed: int = 1


def installed(name: str) -> bool:
    return name not in _NEEDS or shutil.which(_NEEDS[name]) is not None


def hosts(ports: Ports, sizes: Sizes, names: Sequence[str]) -> list[Entry]:
    rows = crawl(ports, sizes.files, sizes.hosts, sizes.seed)
    return [Entry(name, CLIENTS[name], rows) for name in names if installed(name)]


def dead_names(ports: Ports, sizes: Sizes) -> list[Entry]:
    rows = with_dead_names(ports, sizes.good, sizes.dead, sizes.seed)
    alone = [row for row in rows if row.size]
    return [Entry("with dead names", ours, rows), Entry("good rows alone", ours, alone)]


def flat(ports: Ports, sizes: Sizes) -> list[Entry]:
    chance = random.Random(sizes.seed)
    lengths = [chance.randint(1_000, 8_000) for _ in range(sizes.flat)]
    rows = [_row(ports, n, n, size, by_name=True) for n, size in enumerate(lengths)]
    one = [_row(ports, n, 0, size, by_name=True) for n, size in enumerate(lengths)]
    flags = ["--set", f"network.dns_servers=127.0.0.1:{ports.names}"]

    def client(rows: Sequence[Row], folder: Path) -> list[str]:
        return ours(rows, folder, *flags)

    return [Entry("many hosts", client, rows), Entry("one host", client, one)]


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        uvloop.run(serve())
        return
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=("hosts", "names", "flat"), help="run one workload")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", default=",".join(CLIENTS), help="clients of `hosts`, comma-separated")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run is interrupted")
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    sizes = Sizes(**{name: getattr(given, name) for name in asdict(Sizes())})
    workloads: dict[str, Callable[[Ports], list[Entry]]] = {
        "hosts": lambda ports: hosts(ports, sizes, given.clients.split(",")),
        "names": lambda ports: dead_names(ports, sizes),
        "flat": lambda ports: flat(ports, sizes),
    }
    results: dict[str, Any] = {"cores": os.cpu_count(), "rounds": given.rounds, "sizes": asdict(sizes)}
    results["workloads"] = {}
    for name, make in workloads.items():
        if given.only in (None, name):
            with served() as ports:
                found = compare(make(ports), given.rounds, given.place, given.limit)
            results["workloads"][name] = found
            print(json.dumps({name: found}), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
