"""What a bucket store and its files share."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from ...model.dataclasses import dataclass
from ...s3.client import Bucket
from .part_memory import PartMemory
from .sums import Scheme
from .uploads import Uploads


@dataclass(slots=True)
class BucketResources:
    """The shared objects of a bucket store.

    Attributes:
        bucket: requests to the bucket.
        memory: memory for parts.
        uploads: the ledger of unfinished uploads.
        hashers: threads to hash in.
        scheme: how uploads are compared.
        sending: largest number of bodies that are sent at the same time.
        overwrite: whether objects that no run of osp-fetch wrote are replaced.
        least: bytes of the smallest part.
        scope: the run or shard, whose notes of unfinished uploads are its own.
    """

    bucket: Bucket
    memory: PartMemory
    uploads: Uploads
    hashers: ThreadPoolExecutor
    scheme: Scheme
    sending: asyncio.Semaphore
    overwrite: bool
    least: int
    scope: str
