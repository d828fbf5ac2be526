"""Train while another process downloads and unpacks: iterate over the samples of each archive that is ready.

    osp-fetch get MANIFEST -o FOLDER --unpack               # one terminal, or a job of its own
    python examples/06_train_while_it_downloads.py FOLDER   # another one; the order does not matter

The iteration ends when the run has ended. FOLDER.positions-RANK.json states how far each worker is: if this
script is killed and started again, it continues behind the last sample that was trained on.

torch is optional. With it, `Samples` is an IterableDataset for a DataLoader. The samples are divided among
all workers of all ranks by their keys.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from osp_fetch import finished

try:
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info
except ImportError:
    DataLoader, IterableDataset = None, object

    def get_worker_info() -> Any:
        """There are no workers without torch."""


RANK, RANKS = (
    int(os.environ.get("RANK", "0")),
    int(os.environ.get("WORLD_SIZE", "1")),
)  # as torchrun sets them


class Samples(IterableDataset):  # type: ignore[misc]
    """(worker, position, key, {suffix: bytes}) of each unpacked sample, in order.

    Args:
        folder: the output folder of the run.
        positions: worker → the position behind which it continues.
    """

    def __init__(self, folder: Path, positions: dict[str, str]) -> None:
        self.folder, self.positions = folder, positions

    def __iter__(self) -> Iterator[tuple[str, str, str, dict[str, bytes]]]:
        """Yield this worker's share until the run has ended."""
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        mine, share = RANK * workers + number, RANKS * workers
        worker = f"{mine} of {share}"
        for sample in finished(self.folder, follow=True, samples=True, after=self.positions.get(worker)):
            if crc32(sample.key.encode()) % share == mine:
                data = {suffix: place.read_bytes() for suffix, place in sample.files.items()}
                yield worker, sample.position, sample.key, data


def train(key: str, data: dict[str, bytes]) -> None:
    """Stand for a training step: print what came."""
    print(
        f"{key}: {', '.join(f'{suffix} of {len(each)} bytes' for suffix, each in data.items())}", flush=True
    )


def main(folder: str, workers: int = 2) -> None:
    """Train on each sample, and store the position of each worker afterwards."""
    place = Path(f"{folder}.positions-{RANK}.json")
    positions = json.loads(place.read_text()) if place.exists() else {}
    samples = Samples(Path(folder), positions)
    loader = samples if DataLoader is None else DataLoader(samples, batch_size=None, num_workers=workers)
    for worker, position, key, data in loader:
        train(key, data)
        # here, not in the worker: a DataLoader reads ahead, and what it has read is lost with the process
        positions[worker] = position
        beside = place.with_suffix(".new")
        beside.write_text(json.dumps(positions))
        beside.replace(place)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
