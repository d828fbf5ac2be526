"""Compare all installed clients with the same files: `python benchmarks/peers.py [--rounds 5] [--json FILE]`.

The clients fetch from one origin, on one machine, in alternated rounds. The only setting is the number of
connections: 16, if a client needs one. Every client verifies. The output holds medians, and the time of
osp-fetch divided by that of each client: below 1 osp-fetch is faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clients import CLIENTS, MIB, PYTHON, Measured, Work, compile_ours, digest, installed, origin, run
from origin import Pattern

WORKLOADS = {"4 x 512 MiB": (4, 512 * MIB), "200 x 5 MiB": (200, 5 * MIB), "5000 x 50 kB": (5000, 50_000)}
HUB = "hub, 16 x 4 MiB"
_REPO = "bench/files"


def compare(
    clients: dict[str, Callable[[Path], Measured]], rounds: int, place: str, size: int
) -> dict[str, Any]:
    """Run clients in alternated rounds, each run in a new folder.

    Args:
        clients: What to run in a folder, by name; "osp-fetch" is one of them.
        rounds: Runs of each client.
        place: The folder for the files.
        size: Bytes that one run fetches.

    Returns:
        Medians by client, and the time of osp-fetch divided by that of the client.
    """
    found: dict[str, list[Measured]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name, client in clients.items():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                found[name].append(client(Path(folder)))
    middle = {name: statistics.median(each.seconds for each in runs) for name, runs in found.items()}
    ours = middle["osp-fetch"]
    return {
        name: {
            "seconds": round(middle[name], 2),
            "of its time": round(ours / middle[name], 2),
            "cpu_seconds_per_gb": round(statistics.median(each.cpu for each in runs) / (size / 1e9), 2),
            "peak_mib": round(max(each.peak for each in runs) / MIB),
            "rounds": [round(each.seconds, 2) for each in runs],
        }
        for name, runs in found.items()
    }


def by_http(names: Sequence[str], files: int, size: int, rounds: int, place: str) -> dict[str, Any]:
    """Run one workload of `files` files of `size` bytes each, and return the results of `compare`."""
    sha256 = digest(size)
    with origin([size], place) as (address, _):
        urls = [f"{address}/{size}/f{number}" for number in range(files)]

        def client(name: str) -> Callable[[Path], Measured]:
            return lambda folder: CLIENTS[name](Work(urls, sha256, folder))

        return compare({name: client(name) for name in names}, rounds, place, files * size)


def by_hub(rounds: int, place: str) -> dict[str, Any]:
    """Fetch a repository from a stand-in of the hub. One process serves both clients."""
    server = subprocess.Popen([PYTHON, __file__, "--serve-hub"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        address = f"hf://datasets/{_REPO}"

        def ours(folder: Path) -> Measured:
            words = ["get", address, "-o", "out", "-q", "--min-free", "0", "--profiles", "none"]
            more = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home")}
            compile_ours()
            return run([[PYTHON, "-m", "osp_fetch", *words]], folder, more)

        def hf(folder: Path) -> Measured:
            words = ["download", _REPO, "--repo-type", "dataset", "--local-dir", "out", "--max-workers", "16"]
            more = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
            fetched = [str(Path(PYTHON).with_name("hf")), *words]
            # hf compares sizes, not digests: sha256sum verifies its files, as for the other clients.
            return run([fetched, ["sh", "-c", "sha256sum out/f*"]], folder, more)

        return compare({"osp-fetch": ours, "hf download": hf}, rounds, place, 16 * 4 * MIB)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


async def serve_hub() -> None:
    from osp_fetch.demo.server import Server
    from osp_fetch.demo.sources import Hub, HubRepo

    data = Pattern(4 * MIB).read(0, MIB) * 4
    hub = Hub({_REPO: HubRepo(_REPO, lfs={f"f{number}.bin": data for number in range(16)}, git={})})
    async with Server(hub.handle) as site, Server(hub.handle_cdn) as store:
        hub.cdn_url = store.url
        print(site.url, flush=True)
        await asyncio.Event().wait()


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
    names = [name for name in given.clients.split(",") if installed(name)]
    results: dict[str, Any] = {"cores": os.cpu_count(), "rounds": given.rounds, "workloads": {}}
    for workload, (files, size) in WORKLOADS.items():
        if given.only in workload:
            able = [name for name in names if name != "rclone" or files < 16]
            found = by_http(able, files, size, given.rounds, given.place)
            results["workloads"][workload] = found
            print(json.dumps({workload: found}), flush=True)
    if given.only in HUB:
        results["workloads"][HUB] = by_hub(given.rounds, given.place)
        print(json.dumps({HUB: results["workloads"][HUB]}), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
