"""Kill the tool and the object store again and again during mirrors of mixed files into a bucket.

    python benchmarks/bucket_kills.py --kills 100 --server-kills 10

The script serves an origin, starts a SeaweedFS server, and starts `osp-fetch get` as a process. It sends
SIGKILL to that process, or to the server, at random moments. After each kill it reads and hashes every object
that is visible. The same command then goes on; after a mirror is finished, a new bucket is used. A finished
mirror has every object, nothing else, and no upload. The origin counts every byte that it sends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from osp_fetch.demo.server import Blob, Exchange, Server
from tests.held import Held
from tests.seaweed import KEYS, Seaweed, serving

CONNECTIONS = 4
MEMORY = 64 << 20  # limits.memory
PARTS = MEMORY - MEMORY // 4  # of these, what the parts of files may use together
# (bytes, files, digest in the manifest, whether the server states the length)
KINDS: tuple[tuple[int, int, str, bool], ...] = (
    ((20 << 20) + 12_345, 1, "sha256", True),
    ((17 << 20) + 1, 1, "md5", True),
    (16 << 20, 1, "sha1", True),
    ((9 << 20) + 77, 1, "sha512", True),
    (12 << 20, 1, "", True),
    ((11 << 20) + 5, 1, "", False),
    ((9 << 20) + 5, 1, "sha256", False),
    (3_000_000, 2, "blake2b", True),
    (300_000, 8, "sha256", True),
    (200_000, 2, "", False),
    (20_000, 20, "md5", True),
    (1_000, 20, "", True),
    (0, 1, "sha256", True),
)


@dataclass
class Origin:
    """The source: files of every kind, at a limited rate.

    Attributes:
        chance: the source of the random contents.
        rate: bytes per second of each connection.
        files: name → content.
        unstated: names of files whose length is not stated in a reply to a request for their first bytes.
        sent: name → bytes that were sent.
    """

    chance: random.Random
    rate: float
    files: dict[str, bytes] = field(default_factory=dict)
    unstated: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)

    def begin(self, manifest: Path, url: str) -> None:
        """Make new files, and write their manifest."""
        self.files, self.unstated, rows = {}, set(), []
        self.sent.clear()
        for size, count, algorithm, is_stated in KINDS:
            for number in range(count):
                name = f"{size}-{algorithm or 'none'}-{is_stated}-{number}"
                data = self.files[name] = self.chance.randbytes(size)
                row: dict[str, Any] = {"path": f"d{number % 3}/{name}", "url": f"{url}/{name}"}
                if algorithm:
                    row["digest"] = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
                if number % 2 and is_stated:
                    row["size"] = size
                if not is_stated:
                    self.unstated.add(name)
                rows.append(json.dumps(row))
        self.chance.shuffle(rows)
        manifest.write_text("\n".join(rows))

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        name = exchange.path[1:]
        content = Counted(self.files[name], name, self.sent)
        tags = {"ETag": f'"{name}"'} if len(name) % 2 else {}
        is_first = exchange.headers.get("range", "bytes=0-").startswith("bytes=0-")
        if name not in self.unstated or not is_first:
            await exchange.serve(content, tags, rate=self.rate)
            return
        await exchange.head(200, {**tags, "Transfer-Encoding": "chunked", "Accept-Ranges": "bytes"})
        step = int(self.rate / 20)
        for at in range(0, content.length, step):
            piece = content.read(at, at + step)
            await exchange.raw(b"%x\r\n%s\r\n" % (len(piece), piece))
            await asyncio.sleep(len(piece) / self.rate)
        await exchange.raw(b"0\r\n\r\n")


class Counted(Blob):
    """A content that counts the bytes that are read of it."""

    __slots__ = ("_name", "_sent")

    def __init__(self, data: bytes, name: str, sent: Counter[str]) -> None:
        super().__init__(data)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_sent", sent)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`."""
        data = super().read(start, stop)
        self._sent[self._name] += len(data)  # type: ignore[attr-defined]
        return data


@dataclass
class Counts:
    """What has happened.

    Attributes:
        kills: kills of the tool.
        server_kills: kills of the store.
        mirrors: finished mirrors.
        objects: objects of finished mirrors, each read and hashed.
        looks: objects that were read and hashed after a kill.
        twice: bytes that the origin sent more than once.
        worst: the most of them in one mirror, for each kill.
    """

    kills: int = 0
    server_kills: int = 0
    mirrors: int = 0
    objects: int = 0
    looks: int = 0
    twice: int = 0
    worst: float = 0.0


def visible(held: Held, files: dict[str, bytes]) -> list[str]:
    """Read and hash every visible object, and return their keys.

    Raises:
        SystemExit: an object has other bytes than its file.
    """
    keys = [key for key in held.every() if "/.osp-fetch/" not in key]
    for key in keys:
        found, wanted = held.data(key), files[key.rsplit("/", 1)[-1]]
        if hashlib.sha256(found).digest() != hashlib.sha256(wanted).digest():
            raise SystemExit(f"{key} is visible with other bytes: {len(found)} of {len(wanted)}")
    return keys


def check_finished(held: Held, files: dict[str, bytes]) -> None:
    """Check a finished mirror: every object, nothing else, and no upload."""
    if len(visible(held, files)) != len(files):
        raise SystemExit("osp-fetch reported success although objects are missing")
    if left := held.uploads():
        raise SystemExit(f"unfinished uploads are left: {left}")
    if left := [key for key in held.every() if "/.osp-fetch/" in key]:
        raise SystemExit(f"notes are left: {left}")


class Mirrors:
    """Mirrors, one after another, during which the tool and the store are killed.

    Args:
        origin: the source.
        url: its URL.
        server: the store.
        chance: decides the moments.
        place: a folder for manifests and states.
    """

    def __init__(self, origin: Origin, url: str, server: Seaweed, chance: random.Random, place: Path) -> None:
        self._origin, self._url, self._server = origin, url, server
        self._chance, self._place = chance, place
        self.counts = Counts()

    async def run(self, kills: int, server_kills: int) -> Counts:
        """Make mirrors until everything was killed as often as wanted."""
        due = ["tool"] * kills + ["store"] * server_kills
        self._chance.shuffle(due)
        while due:
            await self._mirror(due)
            print(json.dumps(vars(self.counts)), file=sys.stderr, flush=True)
        return self.counts

    async def _mirror(self, due: list[str]) -> None:
        """Make one mirror. Kills are taken from `due`; it is finished when there are no more."""
        number, before = self.counts.mirrors, self.counts.kills + self.counts.server_kills
        held = Held(self._server.client(), self._server.bucket(f"mirror-{number}"))
        manifest = self._place / f"{number}.jsonl"
        self._origin.begin(manifest, self._url)
        files = self._origin.files
        words = ["get", str(manifest), "-o", f"s3://{held.bucket}/p", "-q", "-x", str(CONNECTIONS)]
        words += ["--state", str(self._place / str(number)), "--profiles", "none"]
        words += ["--set", f"limits.memory={MEMORY}", "--set", "retry.initial=0.05"]
        words += ["--set", "storage.disk_patience=60s"]
        while await self._attempt(words, due):
            self.counts.looks += len(await asyncio.to_thread(visible, held, files))
        await asyncio.to_thread(check_finished, held, files)
        self._count(len(files), sum(map(len, files.values())), before)
        await asyncio.to_thread(self._remove, held)

    def _count(self, files: int, size: int, before: int) -> None:
        twice = self._origin.sent.total() - size
        kills = self.counts.kills + self.counts.server_kills - before
        if twice > kills * PARTS:
            raise SystemExit(f"{twice} bytes were fetched twice over {kills} kills")
        self.counts.mirrors += 1
        self.counts.objects += files
        self.counts.twice += twice
        self.counts.worst = max(self.counts.worst, twice / max(1, kills))

    @staticmethod
    def _remove(held: Held) -> None:
        """Remove a bucket, so that the store frees its space."""
        for key in held.every():
            held.client.delete_object(Bucket=held.bucket, Key=key)
        held.client.delete_bucket(Bucket=held.bucket)

    async def _attempt(self, words: Sequence[str], due: list[str]) -> bool:
        """Run osp-fetch once, with at most one kill. Return False if the run ended by itself."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "osp_fetch", *words)
        ended = asyncio.create_task(process.wait())
        victim = due[-1] if due else None
        moment = self._chance.uniform(0.3, 4.0) if victim else 600.0
        await asyncio.wait({ended}, timeout=moment)
        if ended.done() or victim is None:
            return self._ended_well(await ended)
        due.pop()
        if victim == "tool":
            process.kill()
            await ended
            self.counts.kills += 1
            return True
        await self._kill_store()
        return self._ended_well(await ended)

    async def _kill_store(self) -> None:
        """Kill the store, and start it again after a while."""
        await asyncio.to_thread(self._server.kill)
        self.counts.server_kills += 1
        await asyncio.sleep(self._chance.uniform(0.0, 3.0))
        await asyncio.to_thread(self._server.start)

    @staticmethod
    def _ended_well(code: int) -> bool:
        if code != 0:
            raise SystemExit(f"osp-fetch failed with exit code {code}")
        return False


async def measure(kills: int, server_kills: int, seed: int, rate: float) -> dict[str, Any]:
    """Return the figures."""
    chance, begun = random.Random(seed), time.monotonic()
    origin = Origin(chance, rate)
    with serving() as store, tempfile.TemporaryDirectory() as place:
        os.environ.update(KEYS, AWS_ENDPOINT_URL_S3=store.url)
        async with Server(origin.handle) as server:
            mirrors = Mirrors(origin, server.url, store, chance, Path(place))
            counts = await mirrors.run(kills, server_kills)
    return {
        "kills of the tool": counts.kills,
        "kills of the store": counts.server_kills,
        "mirrors finished": counts.mirrors,
        "objects, each read and hashed": counts.objects,
        "objects read and hashed after kills": counts.looks,
        "objects with other bytes": 0,
        "uploads and notes left": 0,
        "bytes fetched twice per kill": round(counts.twice / (counts.kills + counts.server_kills)),
        "the most of them in a mirror": round(counts.worst),
        "bytes of memory for parts": PARTS,
        "seconds": round(time.monotonic() - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--server-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=4e6, help="bytes per second of each connection")
    given = parser.parse_args()
    figures = asyncio.run(measure(given.kills, given.server_kills, given.seed, given.rate))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
