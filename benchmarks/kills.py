"""Measure what kill -9 costs: send it again and again to runs over a mixed manifest.

    python benchmarks/kills.py --kills 200

The script serves an origin and starts `osp-fetch get` as a process. It kills that process at random moments,
checks every final name after each kill, and starts it again. After a run that ends by itself it uses a new
folder. The origin counts every byte that it sends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osp_fetch.demo.server import Blob, Exchange, Server

CONNECTIONS = 8


@dataclass
class Origin:
    """An origin of mixed files: with and without a digest, a size, an ETag, and a redirect.

    Attributes:
        chance: The source of the random contents.
        rate: Bytes per second of each connection.
        files: The content by file name.
        sent: The bytes sent by file name.
    """

    chance: random.Random
    rate: float
    files: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)

    def begin(self, manifest: Path, url: str) -> None:
        """Create new files, and write their manifest."""
        sizes = [12 << 20] * 4 + [3_000_000] * 6 + [70_000] * 20 + [2_000] * 60 + [0]
        self.files = {f"{size}-{n}.bin": self.chance.randbytes(size) for n, size in enumerate(sizes)}

        self.sent.clear()
        manifest.write_text("\n".join(self._rows(url)))

    def _rows(self, url: str) -> list[str]:
        rows = []
        for n, (name, data) in enumerate(self.files.items()):
            row: dict[str, Any] = {"path": f"d{n % 3}/{name}", "url": f"{url}/{name}"}
            if n % 3 == 0:
                row["sha256"] = hashlib.sha256(data).hexdigest()
            if n % 4 == 0:
                row["size"] = len(data)
            if n % 5 == 0:
                row["url"] = f"{url}/to/{name}"
            rows.append(json.dumps(row))
        return rows

    async def handle(self, exchange: Exchange) -> None:
        name = exchange.path.rsplit("/", 1)[-1]
        if exchange.path.startswith("/to/"):
            await exchange.answer(302, "", {"Location": f"/{name}?signature=1"})
            return
        data = self.files[name]
        number = int(name.split("-")[1].split(".")[0])
        tags = {"ETag": f'"{name}"'} if number % 2 else {}
        try:
            start, stop = exchange.span(len(data)) or (0, len(data))
        except ValueError:
            await exchange.answer(416, "", {**tags, "Content-Range": f"bytes */{len(data)}"})
            return
        head = {**tags, "Content-Length": str(stop - start)}
        if (start, stop) != (0, len(data)):
            head["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        await exchange.head(206 if "Content-Range" in head else 200, head)
        content = Blob(data)
        step = max(1024, int(self.rate / 20))
        for at in range(start, stop, step):
            count = min(step, stop - at)
            await exchange.raw(content.read(at, at + count))
            self.sent[name] += count
            await asyncio.sleep(count / self.rate)


async def run(words: list[str], delay: float) -> bool:
    """Run osp-fetch, and send SIGKILL after `delay` seconds.

    Returns:
        Whether the process was killed.

    Raises:
        SystemExit: osp-fetch failed by itself.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "osp_fetch", *words, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        code = await asyncio.wait_for(process.wait(), delay)
    except TimeoutError:
        process.kill()
        await process.wait()
        return True
    if code != 0:
        raise SystemExit(f"osp-fetch failed with exit code {code}")
    return False


def check(folder: Path, files: dict[str, bytes]) -> int:
    """Check that every final name holds the right bytes.

    Returns:
        The number of finished files.

    Raises:
        SystemExit: A file is wrong under its final name.
    """
    finals = [p for p in folder.glob("d*/*") if p.is_file()]
    for final in finals:
        if final.read_bytes() != files[final.name]:
            raise SystemExit(f"{final} is wrong under its final name")
    return len(finals)


async def measure(kills: int, seed: int, rate: float) -> dict[str, Any]:
    chance = random.Random(seed)
    origin = Origin(chance, rate)
    done = runs = twice = 0
    async with Server(origin.handle) as server:
        while done < kills:
            with tempfile.TemporaryDirectory() as place:
                folder, manifest = Path(place, "out"), Path(place, "m.jsonl")
                origin.begin(manifest, server.url)
                words = ["get", str(manifest), "-o", str(folder), "-q", "-x", str(CONNECTIONS), "-k", "1MiB"]
                words += ["--min-free", "0", "--set", "retry.initial=0.05"]
                while await run(words, chance.uniform(0.5, 3.0) if done < kills else 600):
                    done += 1
                    check(folder, origin.files)
                if check(folder, origin.files) != len(origin.files):
                    raise SystemExit("osp-fetch reported success although files are missing")
                runs += 1
                twice += origin.sent.total() - sum(map(len, origin.files.values()))
    return {
        "kills": done,
        "mirrors finished": runs,
        "files": runs * len(origin.files),
        "wrong names": 0,
        "bytes fetched twice per kill": round(twice / done),
        "the same per connection": round(twice / done / CONNECTIONS),
        "seconds of one connection that this is": round(twice / done / CONNECTIONS / rate, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e6, help="bytes per second of each connection")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.kills, given.seed, given.rate)), indent=2))


if __name__ == "__main__":
    main()
