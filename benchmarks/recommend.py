"""Measure whether the settings that `osp-fetch bench` recommends are the best ones, in whole runs of `get`.

    python benchmarks/recommend.py [--only NAME] [--short] [--json FILE] [--place FOLDER]

On each link, `bench` recommends settings. Then every pair of a grid of connections and part sizes fetches the
same files once. The best three of them, the recommended settings and `get` without settings are run again in
alternated rounds. The result is the median time of the recommended settings divided by the best median. The
goal is 1.1 at most. The links are slow enough that two cores are not the limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import MIB, PYTHON, Work, compile_ours, digest, nginx_origin, ours
from links import MB, Link, shaped

CONNECTIONS = ("2", "4", "8", "12", "16", "24", "32", "48", "64")
PARTS = ("1MiB", "4MiB", "16MiB", "64MiB", "auto")
SHORT = (("12", "24", "48"), ("1MiB", "4MiB", "auto"))
GOAL = 1.1


@dataclass(frozen=True)
class Case:
    """A link and what is fetched over it.

    Attributes:
        name: The name in the results.
        link: The shape of the link.
        files: The number of files.
        size: Bytes of each file.
        nginx: Further directives of the server.
        tls: Whether to serve over TLS.
        disk: Bytes per second of the destination's disk, 0 for no limit.
    """

    name: str
    link: Link
    files: int = 4
    size: int = 96 * MIB
    nginx: str = ""
    tls: bool = False
    disk: float = 0.0


CASES = (
    Case("burst of each request, nginx limit_rate 4m", Link(in_all=120 * MB), nginx="limit_rate 4m;"),
    Case("4 MB/s a connection, 120 MB/s in all", Link(4 * MB, 120 * MB)),
    Case("refused above 12, 10 MB/s a connection", Link(10 * MB, refuse_above=12)),
    Case("collapse above 24, 4 MB/s a connection", Link(4 * MB, collapse_above=24)),
    Case("80 ms, 0.75 MB/s a connection, 25 MB/s in all", Link(0.75 * MB, 25 * MB, 0.08), 4, 32 * MIB),
    Case("slow edges: two of three have an eighth of 12 MB/s", Link(12 * MB, 120 * MB, edges=3)),
    Case("TLS, 8 MB/s a connection, 100 MB/s in all", Link(8 * MB, 100 * MB), tls=True),
    Case("disk of 100 MB/s, 10 MB/s a connection", Link(10 * MB, 200 * MB), disk=100 * MB),
)


@dataclass(frozen=True)
class Place:
    """Where a case is run: the URLs, the certificate if there is one, and the folder for the files."""

    case: Case
    origin: str
    ca: Path | None
    folder: str

    @contextmanager
    def work(self) -> Iterator[Work]:
        """Start a new proxy, and yield the files to fetch through it into a new folder."""
        scheme, _, port = self.origin.partition("://127.0.0.1:")
        with shaped(self.case.link, port) as own, tempfile.TemporaryDirectory(dir=self.folder) as folder:
            size = self.case.size
            urls = [f"{scheme}://127.0.0.1:{own}/{size}/f{n}" for n in range(self.case.files)]
            yield Work(urls, digest(size), Path(folder), self.ca)

    def seconds(self, *flags: str) -> float:
        """Return the seconds of one whole run of `get` with these flags."""
        with self.work() as work:
            return ours(work, *flags).seconds

    def recommended(self, seconds: str) -> dict[str, Any]:
        """Return the JSON document of `bench`."""
        with self.work() as work:
            (work.folder / "m.txt").write_text("\n".join(work.urls))
            trust = ["--cacert", str(work.ca)] if work.ca else []
            words = [PYTHON, "-m", "osp_fetch", "bench", "m.txt", "-o", "out", "--json", "--min-free", "0"]
            command = [*words, "--profiles", "none", "--time", seconds, *trust]
            done = subprocess.run(command, cwd=work.folder, stdout=subprocess.PIPE, check=True)
            found: dict[str, Any] = json.loads(done.stdout)
            return found


def measure(
    place: Place, grid: tuple[tuple[str, ...], tuple[str, ...]], rounds: int, time: str
) -> dict[str, Any]:
    """Compare the recommended settings with the best of a grid.

    Args:
        place: The case, and where it is run.
        grid: The connections and the part sizes.
        rounds: Rounds of the final comparison.
        time: The time that bench may take, as its flag takes it.
    """
    document = place.recommended(time)
    swept = {
        ("-j", connections, "-k", part): place.seconds("-j", connections, "-k", part)
        for connections, part in itertools.product(*grid)
    }
    chosen = tuple(document["flags"].split())
    finalists = list(dict.fromkeys([chosen, (), *sorted(swept, key=swept.__getitem__)[:3]]))
    runs: dict[tuple[str, ...], list[float]] = {flags: [] for flags in finalists}
    for number in range(rounds):
        for flags in finalists if number % 2 == 0 else reversed(finalists):
            runs[flags].append(place.seconds(*flags))
    middle = {flags: statistics.median(found) for flags, found in runs.items()}
    best = min((flags for flags in finalists if flags), key=middle.__getitem__)
    return {
        "case": place.case.name,
        "recommended": " ".join(chosen),
        "seconds": round(middle[chosen], 2),
        "best": " ".join(best),
        "best seconds": round(middle[best], 2),
        "of the best": round(middle[chosen] / middle[best], 3),
        "auto of the best": round(middle[()] / middle[best], 3),
        "bench": {key: document[key] for key in ("confirmed", "gain", "auto_suffices", "ended", "drift")},
        "rounds": {" ".join(flags) or "auto": [round(s, 2) for s in found] for flags, found in runs.items()},
        "sweep": {" ".join(flags): round(seconds, 2) for flags, seconds in swept.items()},
    }


@contextmanager
def slow_disk(rate: float) -> Iterator[None]:
    """Let the processes that are started meanwhile write `rate` bytes per second; 0 for no limit."""
    if not rate:
        yield
        return
    before = os.environ.get("PYTHONPATH", "")
    os.environ["OSP_BENCH_DISK"] = str(rate)
    os.environ["PYTHONPATH"] = f"{Path(__file__).with_name('slow_disk')}{os.pathsep}{before}"
    try:
        yield
    finally:
        del os.environ["OSP_BENCH_DISK"]
        os.environ["PYTHONPATH"] = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", help="run only cases with this in their name (repeatable)")
    parser.add_argument("--short", action="store_true", help="a grid of 9 pairs instead of 45")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time", default="60s", help="the time that bench may take for each case")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    given = parser.parse_args()
    compile_ours()
    results = []
    for case in (case for case in CASES if any(text in case.name for text in given.only or [""])):
        served = nginx_origin([case.size], given.place, tls=case.tls, more=case.nginx)
        with served as (origin, ca), slow_disk(case.disk):
            place = Place(case, origin, ca, given.place)
            grid = SHORT if given.short else (CONNECTIONS, PARTS)
            results.append(measure(place, grid, given.rounds, given.time))
        print(json.dumps(results[-1]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(results, indent=2) + "\n")
    missed = [each["case"] for each in results if each["of the best"] > GOAL]
    print(f"within {GOAL} of the best: {len(results) - len(missed)} of {len(results)}; not: {missed}")


if __name__ == "__main__":
    main()
