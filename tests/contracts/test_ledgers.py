"""Every ledger follows the contract: SQLite, a worker's remote ledger, and the simulated one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from osp_fetch.model.protocols import Ledger
from osp_fetch.storage.ledger.sqlite import SqliteLedger
from osp_fetch.workers import messages
from osp_fetch.workers.channel import Channel
from osp_fetch.workers.remote_ledger import RemoteLedger
from tests.contracts.ledger import LedgerContract
from tests.simulated import Power, SimulatedLedger


class TestSqliteLedger(LedgerContract):
    @pytest.fixture
    async def ledger(self, tmp_path: Path) -> AsyncIterator[Ledger]:
        async with SqliteLedger(tmp_path / "ledger.sqlite3") as made:
            yield made


class TestSimulatedLedger(LedgerContract):
    @pytest.fixture
    async def ledger(self) -> Ledger:
        return SimulatedLedger(Power(1 << 30))


class TestRemoteLedger(LedgerContract):
    @pytest.fixture
    async def ledger(self) -> AsyncIterator[Ledger]:
        """A worker's ledger whose run, in the same process, answers from a simulated ledger."""
        ends = [await Channel.over(end) for end in socket.socketpair()]
        remote, behind = RemoteLedger(ends[0]), SimulatedLedger(Power(1 << 30))

        async def run() -> None:
            while received := await ends[1].receive():
                for message in received:
                    if isinstance(message, messages.LookUp):
                        records = await behind.get(message.paths)
                        ends[1].send(messages.RecordsFound(message.number, records))
                    elif isinstance(message, messages.PutRecord):
                        await behind.put(message.record)
                        ends[1].send(messages.RecordKept(message.number, None))

        async def worker() -> None:
            while received := await ends[0].receive():
                for message in received:
                    if isinstance(message, messages.RecordsFound | messages.RecordKept):
                        remote.answered(message)

        tasks = [asyncio.create_task(run()), asyncio.create_task(worker())]
        yield remote
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            await end.close()
