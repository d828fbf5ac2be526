"""Measure connections × part size on a shaped link.

Usage: `python benchmarks/tune.py [--link NAME] [--results FOLDER]`.

Each pair is measured as `osp-fetch bench` does it: with equal windows of the steady state of a real run, in
alternated rounds. The last level has both automatic. The script writes a CSV, an HTML page and, if matplotlib
is installed, a plot.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import uvloop
from clients import MIB, digest, own_origin
from links import SCENARIOS, shaped

from osp_fetch import Settings, entry
from osp_fetch.bench import curve
from osp_fetch.bench.host_files import HostFiles
from osp_fetch.bench.levels import Level, Point
from osp_fetch.bench.measure import Bench, measure
from osp_fetch.model.errors import SettingsError

CONNECTIONS = (4, 8, 12, 16, 24, 32, 48, 64)
PARTS = (1 * MIB, 4 * MIB, 16 * MIB, 64 * MIB, None)
# Seconds of one look that are expected; the comparison is not limited otherwise.
LOOK = 20.0


def sweep(name: str, sizes: tuple[int, int], rounds: int, place: str) -> Bench:
    """Measure each pair of connections and part size, and both automatic.

    Args:
        name: Part of the name of a scenario in links.py.
        sizes: The number of files, and the bytes of each.
        rounds: Looks at each pair.
        place: The folder for the files.
    """
    scenario = next(each for each in SCENARIOS if name in each.name)
    count, size = sizes
    levels = [Level(*pair) for pair in itertools.product(CONNECTIONS, PARTS)]
    settings = Settings.load(("tune", {"storage": {"min_free": 0}}))

    def tell(point: Point) -> None:
        print(curve.line(point, 0.0), flush=True)

    with (
        own_origin() as address,
        tempfile.TemporaryDirectory(dir=place) as folder,
        shaped(scenario.link, address.rsplit(":", 1)[1]) as port,
    ):
        urls = [f"http://127.0.0.1:{port}/{size}/f{n}" for n in range(count)]
        rows = tuple(entry(f"f{n}", url, size, f"sha256:{digest(size)}") for n, url in enumerate(urls))
        work = measure(
            HostFiles(rows, count, rows), {"settings": settings}, size=1 << 50, output=Path(folder),
            seconds=LOOK * rounds * len(levels), tell=tell, levels=levels, rounds=rounds,
        )  # fmt: skip
        return uvloop.run(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--link", default="collapse above 24", help="part of the name of a scenario in links.py"
    )
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--mib", type=int, default=128, help="size of each file, in MiB")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--place", default="/dev/shm", help="folder for the fetched files")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args()
    found = sweep(given.link, (given.files, given.mib * MIB), given.rounds, given.place)
    given.results.mkdir(exist_ok=True)
    (given.results / "tune.csv").write_text(curve.as_csv(found))
    (given.results / "tune.html").write_text(curve.as_html(found))
    try:
        curve.draw_png(given.results / "tune.png", found)
    except SettingsError as error:
        print(error)


if __name__ == "__main__":
    main()
