"""Read tars with webdataset while another process downloads them: each tar as soon as it is finished.

    osp-fetch get MANIFEST -o FOLDER                            # one terminal, or a job of its own
    python examples/07_webdataset_while_it_downloads.py FOLDER  # another one; the order does not matter

Nothing is unpacked. The members of a sample have to be adjacent in their tar, as in tars that were made for
WebDataset. `get --unpack --format webdataset` regroups others: pass `samples=True` to `finished` then, and
take `sample.files["tar"]`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from zlib import crc32

from osp_fetch import finished


def finished_tars(folder: str) -> Iterator[dict[str, str]]:
    """Yield each tar of `folder` when it is finished, until the run has ended: the share of this worker."""
    from webdataset.utils import pytorch_worker_info

    rank, ranks, worker, workers = pytorch_worker_info()
    mine, share = rank * workers + worker, ranks * workers
    for file in finished(folder, follow=True):
        if file.path.endswith(".tar") and crc32(file.path.encode()) % share == mine:
            yield {"url": os.fspath(file.place)}


def pipeline(folder: str) -> Any:
    """Return the samples of all tars, shuffled in a buffer."""
    import webdataset

    tars = partial(finished_tars, folder)
    return webdataset.DataPipeline(
        tars, webdataset.tarfile_to_samples(), webdataset.shuffle(1000, initial=100)
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for sample in pipeline(sys.argv[1]):
        suffixes = sorted(name for name in sample if not name.startswith("__"))
        print(f"{sample['__key__']}: {', '.join(suffixes)}", flush=True)
