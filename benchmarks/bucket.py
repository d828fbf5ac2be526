"""Compare HTTP to bucket with other ways to get files into a bucket, on a SeaweedFS server of this machine.

    python benchmarks/bucket.py [--rounds N] [--only large|small] [--json FILE]

The workloads are 2 × 1 GiB and 2,000 × 50 kB from nginx. The other ways are `rclone copyurl` and `curl | aws
s3 cp -` (processes for each file, at most eight files at a time), and our own fetch to a folder followed by
`rclone copy` to the bucket. osp-fetch compares with a digest in its list. The pipe is hashed on its way, by
tee and openssl, and compared with the same digest; then the sizes of the objects are compared. `rclone
copyurl` verifies nothing. Of small files, 200 are piped and their time is multiplied by ten, because `aws`
takes long to start. A program that is not installed is left out. The rounds are alternated. The result is the
median time, and its ratio to that of osp-fetch to the bucket.
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

from clients import MIB, PYTHON, compile_ours, digest, nginx_origin

from tests.seaweed import KEYS, Seaweed, serving

WORKLOADS = {"large": (2, 1024 * MIB), "small": (2000, 50_000)}
AT_ONCE = 8  # files that are copied by processes of their own at the same time
PIPED = 200  # most files that are piped; the time of more is calculated
PIPE = (
    "curl -sSf {url} | tee >(openssl dgst -sha256 -r > {sums}) "
    "| aws s3 cp - {target} --only-show-errors {more}"
)


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
        size: bytes of each.
        place: a folder for lists, states and downloads.
    """

    def __init__(self, server: Seaweed, urls: list[str], size: int, place: Path) -> None:
        self._server, self._urls, self._size, self._place = server, urls, size, place
        self._sha256 = digest(size)
        self._list = place / "list.jsonl"
        rows = ({"path": str(n), "url": url, "sha256": self._sha256} for n, url in enumerate(urls))
        self._list.write_text("\n".join(map(json.dumps, rows)))
        self._env = {**os.environ, **KEYS, "AWS_ENDPOINT_URL_S3": server.url, "AWS_REGION": "us-east-1"}

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

    def piped(self, bucket: str) -> float:
        """`curl | aws s3 cp -` for each file. Return by how much the time has to be multiplied."""
        urls = self._urls[:PIPED]
        with tempfile.TemporaryDirectory(dir=self._place) as sums, ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda job: self._pipe(job[1], f"{bucket}/a/{job[0]}", sums), enumerate(urls)))
            found = [place.read_text().split()[0] for place in Path(sums).iterdir()]
        objects = self._server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        sizes = [row["Size"] for page in objects for row in page["Contents"]]
        if found != [self._sha256] * len(urls) or sizes != [self._size] * len(urls):
            raise SystemExit("the pipe has not copied what it should")
        return len(self._urls) / len(urls)

    def _pipe(self, url: str, target: str, sums: str) -> None:
        more = f"--expected-size {self._size}" if self._size > 8 * MIB else ""
        place = f"{sums}/{target.rsplit('/', 1)[-1]}"
        words = PIPE.format(url=url, sums=place, target=f"s3://{target}", more=more)
        # bash does not wait for the process of `>(…)`
        waits = f"set -o pipefail; {words} && until [ -s {place} ]; do sleep 0.01; done"
        subprocess.run(["bash", "-c", waits], env=self._env, check=True)

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


def seconds(way: Callable[[str], float | None], server: Seaweed, name: str) -> float:
    """Return how long a way takes, into a new bucket that is removed afterwards."""
    bucket = server.bucket(name)
    begun = time.perf_counter()
    factor = way(bucket)
    took = time.perf_counter() - begun
    rclone(server, "purge", f"b:{bucket}")
    return took * (factor or 1.0)


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
            ways = Ways(server, urls, WORKLOADS[workload][1], Path(place))
            every: dict[str, Callable[[str], float | None]] = {
                "osp-fetch": ways.ours,
                "rclone copyurl": ways.copyurl,
                "folder, rclone copy": ways.over_a_folder,
            }
            if shutil.which("aws"):
                every["curl, aws s3 cp -"] = ways.piped
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
