"""Measure a run over a finished tree: `python benchmarks/again.py [--files 100000]`.

The script creates the files and their records in the ledger. Then it runs `get` with the manifest and
measures the time and the peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clients import compile_ours

from osp_fetch.model.entry import RelativePath
from osp_fetch.model.record import Published, Record
from osp_fetch.model.urls import source_key
from osp_fetch.storage.ledger.sqlite import SqliteLedger

ORIGIN = "http://127.0.0.1:9"  # no server listens on this port: a request fails the run


async def make(out: Path, manifest: Path, count: int) -> None:
    """Create `count` finished files of 1 byte, their records and their manifest, as a run leaves them."""
    state = out / ".osp-fetch"
    state.mkdir(parents=True)
    rows = []
    async with SqliteLedger(state / "ledger.sqlite3") as ledger:
        waiting = []
        for n in range(count):
            path = RelativePath(f"d{n % 100:02}/f{n:07}.jpg")
            place = out / path
            if n < 100:
                place.parent.mkdir()
            place.write_bytes(b"x")
            seen = place.stat()
            url = f"{ORIGIN}/{path}"
            published = Published(seen.st_size, seen.st_mtime_ns)
            record = Record(path, source_key(url), 1, digests={"sha256": "0" * 64}, published=published)
            waiting.append(ledger.put(record))
            rows.append(f"{path}\t{url}")
            if len(waiting) == 5000:
                await asyncio.gather(*waiting)
                waiting = []
        await asyncio.gather(*waiting)
    manifest.write_text("\n".join(["path\turl", *rows]))


def measure(out: Path, manifest: Path) -> tuple[float, int]:
    """Run `get` once over the finished tree.

    Returns:
        The elapsed time in seconds, and the peak memory in bytes.

    Raises:
        SystemExit: `get` did not end with exit code 0.
    """
    words = [sys.executable, "-m", "osp_fetch", "get", str(manifest), "-o", str(out), "-q", "--min-free", "0"]
    compile_ours()
    begun = time.monotonic()
    pid = os.posix_spawn(sys.executable, words, {**os.environ})
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("osp-fetch failed: it requested a finished file again, or another error occurred")
    return time.monotonic() - begun, usage.ru_maxrss * 1024


def run(files: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each round, and the largest peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        out, manifest = Path(folder, "out"), Path(folder, "m.tsv")
        asyncio.run(make(out, manifest, files))
        found = [measure(out, manifest) for _ in range(rounds)]
    return {
        "seconds": [round(seconds, 2) for seconds, _ in found],
        "peak_mib": round(max(peak for _, peak in found) / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = run(given.files, given.rounds)
    seconds = statistics.median(found["seconds"])
    print(json.dumps({"files": given.files, "seconds": seconds, "peak MiB": found["peak_mib"]}))


if __name__ == "__main__":
    main()
