"""Compare HTTP to bucket with other ways to get files into a bucket, on a SeaweedFS server of this machine.

    python benchmarks/bucket.py [--rounds N] [--only large|small] [--json FILE]

The workloads are 2 × 1 GiB and 2,000 × 50 kB from nginx. The other ways are `rclone copyurl` (one process for
each file, at most eight at a time), and our own fetch to a folder followed by `rclone copy` to the bucket.
Only osp-fetch verifies what it uploads against a digest; the folder way hashes while it fetches, too. The
rounds are alternated. The result is the median time, and its ratio to that of osp-fetch to the bucket.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients import MIB, PYTHON, compile_ours, nginx_origin

from tests.seaweed import KEYS, Seaweed, serving

WORKLOADS = {"large": (2, 1024 * MIB), "small": (2000, 50_000)}
AT_ONCE = 8  # processes of rclone


def rclone(server: Seaweed, *words: str) -> None:
    """Run rclone with a remote `b:` that is the server."""
    remote = {
        "RCLONE_CONFIG_B_TYPE": "s3",
        "RCLONE_CONFIG_B_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_B_ENDPOINT": server.url,
        "RCLONE_CONFIG_B_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"],
        "RCLONE_CONFIG_B_SECRET_ACCESS_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
        "RCLONE_CONFIG": os.devnull,
    }
    program = shutil.which("rclone") or str(Path(PYTHON).with_name("rclone"))
    subprocess.run([program, *words], env={**os.environ, **remote}, check=True)


class Ways:
    """The ways to get the files of one workload into a bucket.

    Args:
        server: the object store.
        urls: the files.
        place: a folder for lists, states and downloads.
    """

    def __init__(self, server: Seaweed, urls: list[str], place: Path) -> None:
        self._server, self._urls, self._place = server, urls, place
        self._list = place / "list.txt"
        self._list.write_text("\n".join(urls))
        self._env = {**os.environ, **KEYS, "AWS_ENDPOINT_URL_S3": server.url}

    def _get(self, target: str, *more: str) -> None:
        words = [PYTHON, "-m", "osp_fetch", "get", str(self._list), "-o", target, "-q", "--profiles", "none"]
        subprocess.run([*words, "--min-free", "0", *more], env=self._env, check=True)

    def ours(self, bucket: str) -> None:
        """osp-fetch to the bucket."""
        with tempfile.TemporaryDirectory(dir=self._place) as state:
            self._get(f"s3://{bucket}/a", "--state", state)

    def copyurl(self, bucket: str) -> None:
        """One `rclone copyurl` for each file."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = enumerate(self._urls)
            list(
                pool.map(lambda job: rclone(self._server, "copyurl", job[1], f"b:{bucket}/a/{job[0]}"), jobs)
            )

    def over_a_folder(self, bucket: str) -> None:
        """osp-fetch to a folder, then `rclone copy`."""
        with tempfile.TemporaryDirectory(dir=self._place) as folder:
            self._get(folder)
            words = ("copy", folder, f"b:{bucket}/a", "--exclude", ".osp-fetch/**", "--transfers", "16")
            rclone(self._server, *words)


@contextmanager
def origin(count: int, size: int, place: str) -> Iterator[list[str]]:
    """Start nginx, and yield the links of `count` files of `size` bytes."""
    with nginx_origin([size], place) as (url, _):
        yield [f"{url}/{size}/f{number}" for number in range(count)]


def seconds(way: Callable[[str], None], server: Seaweed, name: str) -> float:
    """Return how long a way takes, into a new bucket that is removed afterwards."""
    bucket = server.bucket(name)
    begun = time.perf_counter()
    way(bucket)
    took = time.perf_counter() - begun
    rclone(server, "purge", f"b:{bucket}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(WORKLOADS), action="append")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--place", default="/dev/shm", help="folder for all files")
    given = parser.parse_args()
    compile_ours()
    results: dict[str, dict[str, list[float]]] = {}
    for workload in given.only or sorted(WORKLOADS):
        with (
            serving() as server,
            origin(*WORKLOADS[workload], given.place) as urls,
            tempfile.TemporaryDirectory(dir=given.place) as place,
        ):
            ways = Ways(server, urls, Path(place))
            every = {
                "osp-fetch": ways.ours,
                "rclone copyurl": ways.copyurl,
                "folder, rclone copy": ways.over_a_folder,
            }
            took: dict[str, list[float]] = {name: [] for name in every}
            for number in range(given.rounds):
                for name, way in every.items() if number % 2 == 0 else reversed(every.items()):
                    took[name].append(seconds(way, server, f"r{number}-{name.split()[0].strip(',')}"))
            results[workload] = took
        ours = statistics.median(took["osp-fetch"])
        for name, each in took.items():
            middle = statistics.median(each)
            print(f"{workload:6} {name:20} {middle:7.2f} s  {middle / ours:5.2f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
