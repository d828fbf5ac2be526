"""The same files for everybody: `python benchmarks/peers.py [--rounds 5]`.

Against aria2 and `curl -Z`, whichever are here, from one origin in a process of its own, on one machine,
in alternated rounds. Every client verifies: aria2 is given digests, curl is followed by sha256sum.
Shown are medians, and how ours compares with each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from links import aria2, digest, ours
from scorecard import MIB, origin

WORKLOADS = {"4 x 512 MiB": (4, 512 * MIB), "5000 x 50 kB": (5000, 50_000)}


def curl(urls: list[str], sha256: str, folder: Path) -> float:
    lines = [f'url = "{url}"\noutput = "f{n}"' for n, url in enumerate(urls)]
    (folder / "list").write_text("\n".join(lines))
    (folder / "sums").write_text("\n".join(f"{sha256}  f{n}" for n in range(len(urls))) + "\n")
    begun = time.monotonic()
    words = ["curl", "-sS", "-Z", "--parallel-max", "16", "-K", "list"]
    subprocess.run(words, check=True, cwd=folder)
    subprocess.run(["sha256sum", "--quiet", "-c", "sums"], check=True, cwd=folder)
    return time.monotonic() - begun


def with_aria2(urls: list[str], sha256: str, folder: Path) -> float:
    # as many connections as it can have: many files, or many to one file
    words = ("-j16", "-x16", "-s16") if len(urls) < 16 else ("-j16", "-x1", "-s1")
    return aria2(urls, sha256, folder, words)


CLIENTS: dict[str, Callable[[list[str], str, Path], float]] = {
    "osp_fetch": ours,
    "aria2": with_aria2,
    "curl": curl,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--place", default="/dev/shm", help="where files go")
    given = parser.parse_args()
    programs = {"aria2": "aria2c", "curl": "curl"}
    here = [name for name in CLIENTS if name not in programs or shutil.which(programs[name])]
    for workload, (files, size) in WORKLOADS.items():
        sha256 = digest(size)
        took: dict[str, list[float]] = {name: [] for name in here}
        with origin() as address:
            urls = [f"{address}/{size}/f{n}" for n in range(files)]
            for _ in range(given.rounds):
                for name in here:
                    with tempfile.TemporaryDirectory(dir=given.place) as folder:
                        took[name].append(CLIENTS[name](urls, sha256, Path(folder)))
        medians = {name: statistics.median(each) for name, each in took.items()}
        ratios = {f"of {name}'s time": round(medians["osp_fetch"] / medians[name], 2) for name in here[1:]}
        seconds = {name: round(each, 2) for name, each in medians.items()}
        print(json.dumps({"workload": workload, "seconds": seconds, **ratios}), flush=True)


if __name__ == "__main__":
    main()
