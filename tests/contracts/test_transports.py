"""Every transport follows the contract: both ways of HttpTransport, and the simulated server."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from osp_fetch.model.protocols import Transport
from osp_fetch.network.transport import HttpTransport
from tests.contracts.transport import DATA, TransportContract
from tests.origin import Origin
from tests.test_power import Resource, Server
from tests.world import SETTINGS


class TestHttpTransport(TransportContract):
    @pytest.fixture(params=[True, False], ids=["direct", "plain"])
    async def transport(self, request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
        limits, retry, timeouts = SETTINGS.limits, SETTINGS.retry, SETTINGS.timeouts
        async with HttpTransport(limits, retry, timeouts, direct=request.param) as made:
            yield made

    @pytest.fixture
    def url(self, origin: Origin) -> str:
        return origin.add("f", DATA)


class TestSimulatedServer(TransportContract):
    @pytest.fixture
    async def transport(self) -> Transport:
        return Server({"f": Resource([DATA], tagged=False, listed=False)}, random.Random(0), cuts=0.0)

    @pytest.fixture
    def url(self) -> str:
        return "http://host/f"
