"""Train from tars while others are still fetched: iterate over the members of those that are finished.

    python examples/04_train_from_tars.py MANIFEST FOLDER

torch is optional. With it, `TarSamples` is an IterableDataset for a DataLoader, whose workers share the tars.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from osp_fetch import Status, fetch_iter
from osp_fetch.archives.read import members

try:
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError:
    IterableDataset = object

    def get_worker_info() -> Any:
        """There are no workers without torch."""


class TarSamples(IterableDataset):  # type: ignore[misc]
    """(name, bytes) of every member of `tars`, which are complete and verified. Nothing is unpacked."""

    def __init__(self, tars: Iterable[Path]) -> None:
        self.tars = list(tars)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Read the tars one after another; a worker of a DataLoader reads its share of them."""
        worker = get_worker_info()
        share = self.tars[worker.id :: worker.num_workers] if worker else self.tars
        for tar in share:
            for member in members([tar]):
                yield member.path, member.read(member.size)


def train(tar: Path) -> None:
    """Stand for one part of an epoch: count the samples of one tar."""
    sizes = {name: len(data) for name, data in TarSamples([tar])}
    print(f"{tar.name}: {len(sizes)} samples, {sum(sizes.values())} bytes")


async def main(manifest: str, folder: str) -> None:
    """Train on each tar when it is finished."""
    async for outcome in fetch_iter(manifest, folder):
        if outcome.status in (Status.FETCHED, Status.PRESENT) and outcome.path.endswith(".tar"):
            await asyncio.to_thread(train, Path(folder, outcome.path))  # fetching goes on meanwhile


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
