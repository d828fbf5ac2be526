"""Measure connections × part size on a shaped link.

Usage: `python benchmarks/tune.py [--link NAME] [--results FOLDER]`.

Each pair is a complete run of osp-fetch with both values fixed. The last run has both automatic. The script
writes a CSV and, if matplotlib is installed, a plot.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
from pathlib import Path

from clients import MIB, Measured, Work, ours, own_origin, per_gb
from links import SCENARIOS, fetch

CONNECTIONS = ["4", "8", "12", "16", "24", "32", "48", "64"]
PARTS = ["1MiB", "4MiB", "16MiB", "64MiB", "auto"]


def measure(name: str, sizes: tuple[int, int], rounds: int, place: str) -> list[dict[str, str | float]]:
    """Run osp-fetch with each pair of connections and part size.

    Args:
        name: Part of the name of a scenario in links.py.
        sizes: The number of files, and the bytes of each.
        rounds: Runs of each pair.
        place: The folder for the files.

    Returns:
        One row per pair, with the MB/s of the median run and the CPU seconds per GB.
    """
    scenario = next(each for each in SCENARIOS if name in each.name)
    count, size = sizes
    rows: list[dict[str, str | float]] = []
    with own_origin() as address:
        port = address.rsplit(":", 1)[1]
        for connections, part in [*itertools.product(CONNECTIONS, PARTS), ("auto", "auto")]:

            def client(work: Work, j: str = connections, k: str = part) -> Measured:
                return ours(work, "-j", j, "-k", k)

            runs = [fetch(scenario.link, port, count, size, place, client) for _ in range(rounds)]
            seconds = statistics.median(each.seconds for each in runs)
            row: dict[str, str | float] = {
                "connections": connections, "part": part, "seconds": round(seconds, 2),
                "mb_per_second": round(count * size / seconds / 1e6, 1),
                "cpu_seconds_per_gb": per_gb(runs, count * size),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    return rows


def plot(rows: list[dict[str, str | float]], title: str, place: Path) -> None:
    """Plot a curve per part size, and a horizontal line for auto. Without matplotlib, write no plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    fixed = [row for row in rows if row["connections"] != "auto"]
    for part in dict.fromkeys(row["part"] for row in fixed):
        line = [row for row in fixed if row["part"] == part]
        numbers = [int(row["connections"]) for row in line]
        axes.plot(numbers, [row["mb_per_second"] for row in line], marker="o", label=f"parts of {part}")
    axes.axhline(float(rows[-1]["mb_per_second"]), color="black", linestyle="--", label="nothing fixed")
    axes.set_xlabel("connections")
    axes.set_ylabel("MB/s, of the complete run")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(place, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--link", default="collapse above 24", help="part of the name of a scenario in links.py"
    )
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--mib", type=int, default=128, help="size of each file, in MiB")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args()
    rows = measure(given.link, (given.files, given.mib * MIB), given.rounds, given.place)
    given.results.mkdir(exist_ok=True)
    with (given.results / "tune.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, f"{given.link}: {given.files} files of {given.mib} MiB", given.results / "tune.png")


if __name__ == "__main__":
    main()
