"""Measure the peak memory: `python benchmarks/memory.py [--rows 10000000]`.

The settings bound the memory, not the size of the manifest. The script prints two figures: `plan` over a
manifest of `--rows` rows, and `get` of 500 files over 256 connections.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from clients import MIB, own_origin


def peak(words: list[str]) -> int:
    """Run osp-fetch once and return its peak resident memory in bytes.

    Raises:
        SystemExit: osp-fetch failed. Exit codes 0 and 75 are accepted.
    """
    command = [sys.executable, "-m", "osp_fetch", *words]
    pid = os.posix_spawn(sys.executable, command, {**os.environ})
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 75):
        raise SystemExit(f"osp-fetch failed: {' '.join(words)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def long_manifest(folder: Path, rows: int) -> Path:
    """Write a TSV manifest with `rows` rows and return its path."""
    place = folder / "long.tsv"
    with place.open("w") as file:
        file.write("path\turl\tsize\n")
        for n in range(rows):
            file.write(f"d{n % 1000}/f{n:08}.jpg\thttp://127.0.0.1:9/f{n:08}.jpg\t50000\n")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        used = peak(
            ["plan", str(long_manifest(folder, arguments.rows)), "-o", str(folder / "none"), "--json"]
        )
        print(f"plan of {arguments.rows} rows: {used / MIB:.0f} MiB")
        with own_origin() as url:
            listed = folder / "list.txt"
            listed.write_text("\n".join(f"{url}/{8 * MIB}/f{n}.bin" for n in range(500)))
            words = ["get", str(listed), "-o", str(folder / "out"), "-j", "256", "--min-free", "0", "-q"]
            print(f"500 files of 8 MiB over 256 connections: {peak(words) / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
