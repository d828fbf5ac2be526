"""What a bucket store and its files share."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...s3.client import Bucket
from ..ledger.uploads import UploadLedger
from .part_memory import PartMemory
from .sums import Scheme


@dataclass(slots=True)
class BucketResources:
    """The shared objects of a bucket store.

    Attributes:
        bucket: requests to the bucket.
        memory: memory for parts.
        uploads: the ledger of unfinished uploads.
        ledger_thread: the only thread that uses it.
        hashers: threads to hash in.
        scheme: how uploads are compared.
        sending: largest number of bodies that are sent at the same time.
        overwrite: whether objects that no run of osp-fetch wrote are replaced.
        least: bytes of the smallest part.
        scope: the run or shard, whose notes of unfinished uploads are its own.
    """

    bucket: Bucket
    memory: PartMemory
    uploads: UploadLedger
    ledger_thread: ThreadPoolExecutor
    hashers: ThreadPoolExecutor
    scheme: Scheme
    sending: asyncio.Semaphore
    overwrite: bool
    least: int
    scope: str
