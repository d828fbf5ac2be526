"""Measure osp-fetch against its goals: `python benchmarks/scorecard.py [--rounds 5] [--only NAME]`.

One session runs each workload in alternated rounds with the clients that it is compared with. The output
holds medians, ratios, CPU seconds per GB, peak memory, and whether the goal is reached. Every client verifies
every file; osp-fetch publishes with full durability. The results of the last run are kept in
`benchmarks/results/`, with a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import again
import links
from clients import MIB, Measured, Work, aria2, curl, digest, installed, origin, ours, unverified

RESULTS = Path(__file__).with_name("results")
Client = Callable[[Work], Measured]


@dataclass(frozen=True)
class Workload:
    """Files of one size and the clients to compare with.

    Attributes:
        name: The name in the results.
        files: The number of files.
        size: Bytes of each file.
        against: By name, the client and the ratio of osp-fetch's time to its time that is the goal.
        tls: Whether to serve over TLS.
    """

    name: str
    files: int
    size: int
    against: dict[str, tuple[Client, float]]
    tls: bool = False


WORKLOADS = (
    Workload("4 x 512 MiB", 4, 512 * MIB, {"aria2": (aria2, 0.75), "unverified": (unverified, 1.10)}),
    Workload("4 x 512 MiB over TLS", 4, 512 * MIB, {"aria2": (aria2, 0.80)}, tls=True),
    Workload("5000 x 50 kB", 5000, 50_000, {"aria2": (aria2, 0.9), "curl": (curl, 1.5)}),
)
# By scenario of links.py: the ratio in its results, and the value of that ratio that is the goal.
LINKS = {
    "10 MB/s a connection": ("of aria2's time", 0.8),
    "refused above 12": ("of the limit's time", 1.25),
    "80 ms, 200 Mbit/s, 6 a connection": ("of the limit's time", 1 / 0.9),
    "collapse above 24": ("of best fixed number's time", 1 / 0.9),
    "200 MB/s in all, which leaves a core free": ("of unverified's time", 1.10),
    "one in twenty 50 times slower": ("of without slow ones's time", 1.15),
}
AGAIN = "again over 100,000 finished files"


def row(workload: str, what: str, found: float, goal: float, **more: Any) -> dict[str, Any]:
    """Return one line of the scorecard. The goal is reached if `found` is at most `goal`."""
    return {
        "workload": workload, "of": what, "found": round(found, 3), "goal": round(goal, 3),
        "reached": found <= goal, **more,
    }  # fmt: skip


def files(workload: Workload, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a workload of plain files, and return a line for each client that it is compared with."""
    clients: dict[str, Client] = {"osp-fetch": ours}
    clients |= {name: client for name, (client, _) in workload.against.items() if _here(name)}
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    sha256 = digest(workload.size)
    with origin([workload.size], place, tls=workload.tls) as (address, ca):
        urls = [f"{address}/{workload.size}/f{number}" for number in range(workload.files)]
        for _ in range(rounds):
            for name, client in clients.items():
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    found[name].append(client(Work(urls, sha256, Path(folder), ca)))
    mine = found["osp-fetch"]
    seconds = statistics.median(each.seconds for each in mine)
    cpu = statistics.median(each.cpu for each in mine)
    more = {
        "cpu_seconds_per_gb": round(cpu / (workload.files * workload.size / 1e9), 2),
        "cpu_us_per_file": round(cpu / workload.files * 1e6),
        "peak_mib": round(max(each.peak for each in mine) / MIB),
        "seconds": {n: [round(each.seconds, 2) for each in runs] for n, runs in found.items()},
    }
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    goals = {name: goal for name, (_, goal) in workload.against.items() if name in found}
    return [row(workload.name, n, seconds / middle[n], goal, **more) for n, goal in goals.items()]


def _here(name: str) -> bool:
    return name == "unverified" or installed(name)


def shaped(scenario: links.Scenario, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a scenario of a shaped link, and return its line; none if the client to compare with is missing."""
    what, goal = LINKS[scenario.name]
    found = links.run(scenario, rounds, place, peers="aria2" in what)
    if what not in found:
        return []
    more = {"peak_mib": found["peak_mib"], "seconds": found["rounds"]}
    return [row(scenario.name, what.removeprefix("of ").removesuffix("'s time"), found[what], goal, **more)]


def finished(rounds: int) -> list[dict[str, Any]]:
    """Run over 100,000 finished files, and return the line. The goal is 5 seconds."""
    found = again.run(100_000, rounds)
    seconds = statistics.median(found["seconds"])
    more = {"peak_mib": found["peak_mib"], "seconds": {"osp-fetch": found["seconds"]}}
    return [row(AGAIN, "5 s", seconds / 5, 1.0, **more)]


def plot(card: list[dict[str, Any]], place: Path) -> None:
    """Plot found / goal as bars. Without matplotlib, write no plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 0.5 * len(card) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    shares = [each["found"] / each["goal"] for each in card]
    colours = ["#15803d" if each["reached"] else "#dc2626" for each in card]
    names = [f"{each['workload']}, of {each['of']}" for each in card]
    axes.barh(names, shares, color=colours)
    for number, each in enumerate(card):
        axes.text(shares[number], number, f" {each['found']} (goal {each['goal']})", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(0, max(shares) * 1.35)
    axes.set_xlabel("found / goal (the goal is reached left of the line)")
    axes.invert_yaxis()
    figure.savefig(place, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="run only workloads whose name contains this text")
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    given = parser.parse_args()
    plain = {each.name: partial(files, each, given.rounds, given.place) for each in WORKLOADS}
    over_links = {
        each.name: partial(shaped, each, given.rounds, given.place)
        for each in links.SCENARIOS
        if each.name in LINKS
    }
    work = {**plain, **over_links, AGAIN: partial(finished, given.rounds)}
    card: list[dict[str, Any]] = []
    for name, measure in work.items():
        if given.only not in name:
            continue
        for line in measure():
            card.append(line)
            shown = {k: v for k, v in line.items() if k != "seconds"}
            print(json.dumps(shown), flush=True)
    given.results.mkdir(exist_ok=True)
    document = {
        "made": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rounds": given.rounds, "card": card,
    }  # fmt: skip
    if not given.only:
        (given.results / "scorecard.json").write_text(json.dumps(document, indent=2) + "\n")
        plot(card, given.results / "scorecard.png")
    if given.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
