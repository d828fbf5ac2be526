"""Every store follows the contract: a real folder, and a folder on the simulated disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from osp_fetch.model.protocols import Store
from osp_fetch.s3.address import BucketAddress
from osp_fetch.storage.bucket.store import BucketStore
from osp_fetch.storage.folder.store import FolderStore
from tests.conftest import quick
from tests.contracts.store import StoreContract
from tests.simulated import Power, SimulatedDisk

STORAGE = quick().storage


class TestFolderStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        state = tmp_path / ".osp-fetch"
        state.mkdir()
        async with FolderStore(tmp_path, state, STORAGE) as made:
            yield made


class TestBucketStore(StoreContract):
    @pytest.fixture
    async def store(self, bucket: str, tmp_path: Path) -> AsyncIterator[Store]:
        state = tmp_path / ".osp-fetch"
        state.mkdir()
        address = BucketAddress(bucket, "some/prefix/")
        # a small file is a multipart upload with one part: the store demands 5 MiB of all but the last
        async with BucketStore(address, state, quick(), memory=64 << 20, least=64 << 10) as made:
            yield made


class TestFolderStoreOnTheSimulatedDisk(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        out, disk = Path("/out"), SimulatedDisk(Power(1 << 30))
        async with FolderStore(out, out / ".osp-fetch", STORAGE, disk) as made:
            yield made
