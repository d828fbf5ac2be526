"""How fast, for what CPU and memory: files × sizes × connections, against an origin in another process.

    python benchmarks/scorecard.py [--json] [--rounds 3] [--folder /dev/shm]

Every file is hashed and published with full durability, as always. Cases alternate within each round,
and medians are shown: on a shared machine only what was measured side by side can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20
CASES = [(2000, 50_000), (200, 1 * MIB), (4, 256 * MIB)]
CONNECTIONS = [4, 16]


@dataclass(frozen=True)
class Measured:
    """One run. Seconds of wall clock and of CPU, bytes of peak resident memory."""

    files: int
    size: int
    connections: int
    seconds: float
    cpu: float
    memory: int


@contextmanager
def origin() -> Iterator[str]:
    """An origin process; its URL."""
    place = Path(__file__).with_name("origin.py")
    process = subprocess.Popen([sys.executable, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def measure(url: str, folder: Path, files: int, size: int, connections: int) -> Measured:
    """Fetch `files` of `size` bytes in a process of its own."""
    manifest, out = folder / "manifest.txt", folder / "out"
    manifest.write_text("\n".join(f"{url}/{size}/f{n}.bin" for n in range(files)))
    words = ["get", manifest, "-o", out, "-j", connections, "--min-free", 0, "-q"]
    begun = time.monotonic()
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "osp_fetch", *map(str, words)], {**os.environ}
    )
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - begun
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"a run of {files} files of {size} bytes failed")
    shutil.rmtree(out)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(files, size, connections, seconds, usage.ru_utime + usage.ru_stime, peak)


def rows(measured: list[Measured]) -> list[dict[str, float]]:
    """The medians of each case."""
    table = []
    for files, size in CASES:
        for connections in CONNECTIONS:
            runs = [m for m in measured if (m.files, m.size, m.connections) == (files, size, connections)]
            seconds = statistics.median(m.seconds for m in runs)
            cpu = statistics.median(m.cpu for m in runs)
            table.append(
                {
                    "files": files,
                    "size": size,
                    "connections": connections,
                    "seconds": round(seconds, 3),
                    "files_per_second": round(files / seconds, 1),
                    "mib_per_second": round(files * size / seconds / MIB, 1),
                    "cpu_seconds_per_gb": round(cpu / (files * size / 1e9), 2),
                    "cpu_us_per_file": round(cpu / files * 1e6),
                    "peak_mib": round(max(m.memory for m in runs) / MIB),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to fetch to; a file system in memory measures us")
    arguments = parser.parse_args()
    measured = []
    with origin() as url, tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.rounds):
            for (files, size), connections in itertools.product(CASES, CONNECTIONS):
                measured.append(measure(url, Path(folder), files, size, connections))
    table = rows(measured)
    if arguments.json:
        runs = [asdict(m) for m in measured]
        print(json.dumps({"cores": os.cpu_count(), "medians": table, "runs": runs}, indent=2))
        return
    print(f"{os.cpu_count()} cores, {arguments.rounds} rounds, medians")
    print("  ".join(f"{name:>18}" for name in table[0]))
    for row in table:
        print("  ".join(f"{value:>18}" for value in row.values()))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
