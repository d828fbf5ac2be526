"""Compare all installed clients with the same files: `python benchmarks/peers.py [--rounds 5] [--json FILE]`.

The clients fetch from one origin, on one machine, in alternated rounds. The only setting is the number of
connections: 16, if a client needs one (rclone: 8 files at a time with 4 streams each). Every client verifies;
over TLS every client checks the certificate. A client that is not installed is skipped, with the reason. The
output holds medians, CPU seconds per GB, and the time of osp-fetch divided by that of each client: below 1
osp-fetch is faster. At the end stands a table that compares with the fastest client of each workload.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import (
    CLIENTS,
    MIB,
    PYTHON,
    Measured,
    Work,
    check_sums,
    compile_ours,
    digest,
    in_rounds,
    origin,
    per_gb,
    run,
    skipped,
)
from origin import Pattern


@dataclass(frozen=True)
class Files:
    """A workload: the number of files, the bytes of each, and whether to serve over TLS."""

    count: int
    size: int
    tls: bool = False


WORKLOADS = {
    "large, 4 x 512 MiB": Files(4, 512 * MIB),
    "mid, 400 x 4 MiB": Files(400, 4 * MIB),
    "TLS, 4 x 512 MiB": Files(4, 512 * MIB, tls=True),
    "small, 5000 x 50 kB": Files(5000, 50_000),
    "more, 25000 x 50 kB": Files(25_000, 50_000),
}
HUB = "hub, 16 x 4 MiB"
_REPO = "bench/files"


def summary(found: Mapping[str, Sequence[Measured]], size: int) -> dict[str, Any]:
    """Summarise the runs of each client; "osp-fetch" is one of them.

    Args:
        found: The runs by client.
        size: Bytes that one run fetches.

    Returns:
        Medians by client, and the time of osp-fetch divided by that of the client.
    """
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    ours = middle["osp-fetch"]
    return {
        name: {
            "seconds": round(middle[name], 2),
            "of its time": round(ours / middle[name], 2),
            "cpu_seconds_per_gb": per_gb(runs, size),
            "peak_mib": round(max(each.peak for each in runs) / MIB),
            "rounds": [round(each.seconds, 2) for each in runs],
        }
        for name, runs in found.items()
    }


def by_http(names: Sequence[str], files: Files, rounds: int, place: str) -> dict[str, Any]:
    """Run one workload with the named clients, and return the results of `summary`."""
    clients = {name: CLIENTS[name] for name in names}
    with (
        origin([files.size], place, tls=files.tls) as (address, ca),
        tempfile.TemporaryDirectory(dir=place) as folder,
    ):
        urls = [f"{address}/{files.size}/f{number}" for number in range(files.count)]
        work = Work(urls, digest(files.size), Path(folder), ca)
        return summary(in_rounds(clients, work, rounds), files.count * files.size)


def by_hub(rounds: int, place: str) -> dict[str, Any]:
    """Fetch a repository from a stand-in of the hub. One process serves both clients."""
    server = subprocess.Popen([PYTHON, __file__, "--serve-hub"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        address = f"hf://datasets/{_REPO}"
        sha256 = hashlib.sha256(_hub_file()).hexdigest()

        def ours(work: Work) -> Measured:
            folder = work.folder
            words = ["get", address, "-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
            more = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home")}
            compile_ours()
            return run([[PYTHON, "-m", "osp_fetch", *words]], folder, more)

        def hf(work: Work) -> Measured:
            folder = work.folder
            words = ["download", _REPO, "--repo-type", "dataset", "--local-dir", "out", "--max-workers", "16"]
            more = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
            # hf compares sizes, not digests: openssl verifies its files, as for the other clients.
            one = "openssl dgst -sha256 -r out/f*[{0}].bin > sums{1}"
            both = f"{one.format('02468', 0)} & {one.format('13579', 1)}; wait"
            found = run([["hf", *words], ["sh", "-c", both]], folder, more)
            check_sums(folder, 16, sha256)
            return found

        with tempfile.TemporaryDirectory(dir=place) as folder:
            work = Work([f"{url}/{4 * MIB}/"], sha256, Path(folder))
            found = in_rounds({"osp-fetch": ours, "hf download": hf}, work, rounds)
        return summary(found, 16 * 4 * MIB)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def _hub_file() -> bytes:
    return Pattern(4 * MIB).read(0, MIB) * 4


async def serve_hub() -> None:
    from osp_fetch.demo.server import Server
    from osp_fetch.demo.sources import Hub, HubRepo

    data = _hub_file()
    hub = Hub({_REPO: HubRepo(_REPO, lfs={f"f{number}.bin": data for number in range(16)}, git={})})
    async with Server(hub.handle) as site, Server(hub.handle_cdn) as store:
        hub.cdn_url = store.url
        print(site.url, flush=True)
        await asyncio.Event().wait()


def table(workloads: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of the results: osp-fetch beside the fastest other client of each workload."""
    lines = [
        "| workload | osp-fetch: s, CPU-s/GB | fastest other client | its s, CPU-s/GB | ratio of s |",
        "|---|---|---|---|---|",
    ]
    for workload, found in workloads.items():
        others = [name for name in found if name != "osp-fetch"]
        if not others:
            continue
        best = min(others, key=lambda name: found[name]["seconds"])
        mine, its = (
            f"{found[n]['seconds']:.2f}, {found[n]['cpu_seconds_per_gb']:.2f}" for n in ("osp-fetch", best)
        )
        lines.append(f"| {workload} | {mine} | {best} | {its} | {found[best]['of its time']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:] == ["--serve-hub"]:
        import uvloop

        uvloop.run(serve_hub())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--only", default="", help="run only workloads whose name contains this text")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="names of clients, separated by commas")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    results: dict[str, Any] = {
        "cores": os.cpu_count(),
        "rounds": given.rounds,
        "workloads": {},
        "skipped": {},
    }
    for workload, files in WORKLOADS.items():
        if given.only in workload:
            why = {name: skipped(name, files.count, tls=files.tls) for name in given.clients.split(",")}
            found = by_http([n for n, reason in why.items() if not reason], files, given.rounds, given.place)
            results["workloads"][workload] = found
            results["skipped"][workload] = {name: reason for name, reason in why.items() if reason}
            print(json.dumps({workload: found, "skipped": results["skipped"][workload]}), flush=True)
    if given.only in HUB:
        results["workloads"][HUB] = by_hub(given.rounds, given.place)
        print(json.dumps({HUB: results["workloads"][HUB]}), flush=True)
    print(table(results["workloads"]))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
