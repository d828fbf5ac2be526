"""Measure osp-fetch against its goals: `python benchmarks/scorecard.py [--rounds 5] [--only NAME]`.

One session runs each workload in alternated rounds with the clients that it is compared with. Where several
are installed, the best one counts: the fastest for the time, the one with the least CPU seconds for those.
The output holds medians, ratios, CPU seconds per GB, peak memory, and whether the goal is reached. Every
client verifies every file, except over many hosts, whose lists have no digests; there the script compares
every byte. osp-fetch publishes with full durability. The results of the last run are kept in
`benchmarks/results/`, with a plot.

With `--before CHECKOUT`, the only other client is the osp-fetch of that checkout: the files on a fast link
and over the shaped links are fetched by both in turns, and neither time nor CPU seconds may grow by more
than 3 %.
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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import again
import hosts
import links
from clients import (
    CLIENTS,
    MIB,
    PYTHON,
    Measured,
    Work,
    compile_ours,
    digest,
    in_rounds,
    origin,
    ours,
    per_gb,
    run,
    skipped,
    unverified,
)

RESULTS = Path(__file__).with_name("results")
Client = Callable[[Work], Measured]
Measures = dict[str, Callable[[], list[dict[str, Any]]]]


KEPT = 1.03  # of the time and of the CPU seconds that the code before a change took
RIVALS = ("rclone", "aria2-next", "curl", "hf_transfer", "axel")


@dataclass(frozen=True)
class Workload:
    """Files of one size and the clients to compare with.

    Attributes:
        name: The name in the results.
        files: The number of files.
        size: Bytes of each file.
        time: The goal for osp-fetch's time divided by that of the fastest rival.
        cpu: The goal for its CPU seconds divided by the least of a rival; 0 for none.
        unverified: The goal for its time divided by that of osp-fetch without hashing; 0 for none.
        rivals: The clients, of which those that are installed run.
        tls: Whether to serve over TLS.
    """

    name: str
    files: int
    size: int
    time: float
    cpu: float = 0.0
    unverified: float = 0.0
    rivals: tuple[str, ...] = RIVALS
    tls: bool = False


WORKLOADS = (
    Workload("4 x 512 MiB", 4, 512 * MIB, time=0.95, cpu=1.05, unverified=1.10),
    Workload("400 x 4 MiB", 400, 4 * MIB, time=0.95, cpu=1.1),
    Workload("4 x 512 MiB over TLS", 4, 512 * MIB, time=0.95, tls=True),
    Workload("5000 x 50 kB", 5000, 50_000, time=1.2, rivals=("curl",)),
    Workload("25000 x 50 kB", 25_000, 50_000, time=0.95, rivals=("curl",)),
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
START = "start, one file of 50 kB"
# Shorter than the workloads of hosts.py: a fifth of the rows and of the hosts.
HOSTS = hosts.Sizes(files=4_000, hosts=400, flat=20_000)
HOSTS_LIMIT = 150.0  # seconds after which a run over many hosts is interrupted


def row(workload: str, what: str, found: float, goal: float, **more: Any) -> dict[str, Any]:
    """Return one line of the scorecard. The goal is reached if `found` is at most `goal`."""
    return {
        "workload": workload, "of": what, "found": round(found, 3), "goal": round(goal, 3),
        "reached": found <= goal, **more,
    }  # fmt: skip


def files(workload: Workload, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a workload of plain files, and return a line for each of its goals."""
    able = [name for name in workload.rivals if not skipped(name, workload.files, tls=workload.tls)]
    clients: dict[str, Client] = {name: CLIENTS[name] for name in ("osp-fetch", *able)}
    if workload.unverified:
        clients["unverified"] = unverified
    return lines(workload, _found(workload, clients, rounds, place))


def _found(
    workload: Workload, clients: dict[str, Client], rounds: int, place: str
) -> dict[str, list[Measured]]:
    """Run clients in alternated rounds over the files of a workload."""
    with (
        origin([workload.size], place, tls=workload.tls) as (address, ca),
        tempfile.TemporaryDirectory(dir=place) as folder,
    ):
        urls = [f"{address}/{workload.size}/f{number}" for number in range(workload.files)]
        return in_rounds(clients, Work(urls, digest(workload.size), Path(folder), ca), rounds)


def lines(workload: Workload, found: dict[str, list[Measured]]) -> list[dict[str, Any]]:
    """Return the lines of a workload from the runs of osp-fetch and of the other clients."""
    size = workload.files * workload.size
    time = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    cpu = {name: statistics.median(each.cpu for each in runs) for name, runs in found.items()}
    more = {
        "cpu_seconds_per_gb": {name: per_gb(runs, size) for name, runs in found.items()},
        "cpu_us_per_file": round(cpu["osp-fetch"] / workload.files * 1e6),
        "peak_mib": round(max(each.peak for each in found["osp-fetch"]) / MIB),
        "seconds": {n: [round(each.seconds, 2) for each in runs] for n, runs in found.items()},
    }
    made = []
    if rivals := [name for name in found if name in workload.rivals]:
        fastest, least = min(rivals, key=time.__getitem__), min(rivals, key=cpu.__getitem__)
        made.append((f"{fastest}, the fastest", time["osp-fetch"] / time[fastest], workload.time))
        made.append((f"{least}'s CPU time, the least", cpu["osp-fetch"] / cpu[least], workload.cpu))
    if "unverified" in found:
        made.append(("unverified", time["osp-fetch"] / time["unverified"], workload.unverified))
    return [row(workload.name, what, ratio, goal, **more) for what, ratio, goal in made if goal]


def compared(workload: Workload, before: Path, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a workload with this osp-fetch and with that of another checkout; return a line for each goal."""
    clients: dict[str, Client] = {"osp-fetch": ours, "before": partial(ours, checkout=before)}
    found = _found(workload, clients, rounds, place)
    return lines(replace(workload, time=KEPT, cpu=KEPT, unverified=0, rivals=("before",)), found)


def start(rounds: int, place: str) -> list[dict[str, Any]]:
    """Fetch one small URL, and return the line. The goal is 200 ms more than curl."""
    if skipped("curl", 1):
        return []
    compile_ours()
    with origin([50_000], place) as (address, _), tempfile.TemporaryDirectory(dir=place) as folder:
        work = Work([f"{address}/50000/f0"], digest(50_000), Path(folder))
        fixed = ["-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
        commands = {
            "osp-fetch": [PYTHON, "-m", "osp_fetch", "get", work.urls[0], *fixed],
            "curl": ["curl", "-sSfo", "f0", work.urls[0]],
        }
        clients = {name: partial(_once, command) for name, command in commands.items()}
        found = in_rounds(clients, work, max(rounds, 5))
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    more = {"seconds": {name: [round(each.seconds, 3) for each in runs] for name, runs in found.items()}}
    return [row(START, "200 ms more than curl", (middle["osp-fetch"] - middle["curl"]) / 0.2, 1.0, **more)]


def _once(command: list[str], work: Work) -> Measured:
    return run([command], work.folder)


def many_hosts(rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a part of the workload of many hosts, and return its lines."""
    name = f"{HOSTS.files} files on {HOSTS.hosts} hosts"
    found = _of_hosts(lambda ports: hosts.hosts(ports, HOSTS, ["osp-fetch", "aiohttp script"]), rounds, place)
    mine, its = found["osp-fetch"], found["aiohttp script"]
    more = _measured(found)
    return [
        row(name, "right files: good rows", mine["good"] / max(mine["right"], 1), 1.0, **more),
        row(name, "aiohttp script, to the last good file", mine["last_good"] / its["last_good"], 0.7, **more),
        row(name, "aiohttp script's CPU time", mine["cpu_seconds"] / its["cpu_seconds"], 1.5, **more),
    ]


def dead_names(rounds: int, place: str) -> list[dict[str, Any]]:
    """Run rows whose hosts have no name among good rows, and return the lines. The run's goal is 30 s."""
    name = f"{HOSTS.dead} dead names among {HOSTS.good} good rows"
    found = _of_hosts(lambda ports: hosts.dead_names(ports, HOSTS), rounds, place)
    mine, alone = found["with dead names"], found["good rows alone"]
    more = _measured(found)
    return [
        row(name, "right files: good rows", mine["good"] / max(mine["right"], 1), 1.0, **more),
        row(
            name, "the good rows alone, to the last one", mine["last_good"] / alone["last_good"], 2.0, **more
        ),
        row(name, "30 s", mine["seconds"] / 30, 1.0, **more),
    ]


def flat(rounds: int, place: str) -> list[dict[str, Any]]:
    """Fetch one file from each of many hosts, and the same number from one; return the line."""
    found = _of_hosts(lambda ports: hosts.flat(ports, HOSTS), rounds, place)
    many, one = found.values()
    ratio = many["cpu_us_per_good_file"] / one["cpu_us_per_good_file"]
    name = f"{HOSTS.flat} hosts with 1 file"
    return [row(name, "one host's CPU time per file", ratio, 1.3, **_measured(found))]


def _of_hosts(make: Callable[[hosts.Ports], list[hosts.Entry]], rounds: int, place: str) -> dict[str, Any]:
    with hosts.served() as ports:
        runs: dict[str, Any] = hosts.compare(make(ports), rounds, place, HOSTS_LIMIT)["runs"]
    return runs


def _measured(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a line over many hosts holds besides its ratio. The first run is that of osp-fetch."""
    return {
        "cpu_seconds_per_gb": {name: each["cpu_seconds_per_gb"] for name, each in found.items()},
        "peak_mib": next(iter(found.values()))["peak_mib"],
        "seconds": {name: [run["seconds"] for run in each["rounds"]] for name, each in found.items()},
        "seconds to the last good file": {
            name: [run["last_good"] for run in each["rounds"]] for name, each in found.items()
        },
    }


def shaped(scenario: links.Scenario, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a scenario of a shaped link, and return its line; none if the client to compare with is missing."""
    what, goal = LINKS[scenario.name]
    found = links.run(scenario, rounds, place, peers="aria2" in what)
    if what not in found:
        return []
    more = {
        "cpu_seconds_per_gb": found["cpu_seconds_per_gb"],
        "peak_mib": found["peak_mib"],
        "seconds": found["rounds"],
    }
    return [row(scenario.name, what.removeprefix("of ").removesuffix("'s time"), found[what], goal, **more)]


def shaped_compared(scenario: links.Scenario, before: Path, rounds: int, place: str) -> list[dict[str, Any]]:
    """Run a scenario of a shaped link with this osp-fetch and with that of another checkout."""
    found = links.run(scenario, rounds, place, before=before)
    cpu = found["cpu_seconds_per_gb"]
    more = {"cpu_seconds_per_gb": cpu, "peak_mib": found["peak_mib"], "seconds": found["rounds"]}
    return [
        row(scenario.name, "before", found["of before's time"], KEPT, **more),
        row(scenario.name, "before's CPU time", cpu["osp-fetch"] / cpu["before"], KEPT, **more),
    ]


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


def against_rivals(given: argparse.Namespace) -> Measures:
    """Return what measures each workload with other clients."""
    rounds, place = given.rounds, given.place
    return {
        **{each.name: partial(files, each, rounds, place) for each in WORKLOADS},
        START: partial(start, rounds, place),
        "hosts": partial(many_hosts, rounds, place),
        "hosts, dead names": partial(dead_names, rounds, place),
        "hosts, flat": partial(flat, rounds, place),
        **{each.name: partial(shaped, each, rounds, place) for each in links.SCENARIOS if each.name in LINKS},
        AGAIN: partial(finished, rounds),
    }


def comparisons(given: argparse.Namespace) -> Measures:
    """Return what measures each workload with the osp-fetch of another checkout."""
    before = given.before.resolve()
    return {
        **{each.name: partial(compared, each, before, given.rounds, given.place) for each in WORKLOADS},
        **{
            each.name: partial(shaped_compared, each, before, given.rounds, given.place)
            for each in links.SCENARIOS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="run only workloads whose name contains this text")
    parser.add_argument("--before", type=Path, help="compare with the osp-fetch of this checkout only")
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    given = parser.parse_args()
    work = comparisons(given) if given.before else against_rivals(given)
    card: list[dict[str, Any]] = []
    for name, measure in work.items():
        if given.only not in name:
            continue
        for line in measure():
            card.append(line)
            shown = {k: v for k, v in line.items() if not k.startswith("seconds")}
            print(json.dumps(shown), flush=True)
    given.results.mkdir(exist_ok=True)
    document = {
        "made": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rounds": given.rounds, "card": card,
    }  # fmt: skip
    if not given.only:
        name = "before" if given.before else "scorecard"
        (given.results / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        plot(card, given.results / f"{name}.png")
    if given.json:
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hosts.end_on_sigterm()
    main()
