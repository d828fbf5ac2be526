"""Tests of the aiohttp internals that the fast ways use, and of the plain way without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp.client_proto import ResponseHandler

from osp_fetch.model.errors import NetworkError
from osp_fetch.network import internals
from tests import origin as o
from tests.origin import noise
from tests.world import LOOPS, World, player, read

LARGE = noise(3 << 20)


def test_the_installed_aiohttp_has_every_name_that_the_fast_ways_use() -> None:
    assert internals.missing() == []


def test_a_name_that_aiohttp_no_longer_has_is_found() -> None:
    used: dict[object, tuple[str, ...]] = {ResponseHandler: ("read", "renamed_in_a_later_version")}
    assert internals.missing(used) == ["ResponseHandler.renamed_in_a_later_version"]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_plain_way_delivers_small_large_and_chunked_files(loop: str, tmp_path: Path) -> None:
    async def script(w: World) -> None:
        w.origin.add("small", LARGE[:1000])
        w.origin.add("large", LARGE)
        w.origin.add("chunked", LARGE, o.chunked)
        for path, data in [("small", LARGE[:1000]), ("large", LARGE), ("chunked", LARGE)] * 2:
            async with w.transport.send(w.request(path)) as reply:
                body, _ = await read(reply)
            assert body == data, path

    player(loop, tmp_path, direct=False)(script)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_plain_way_notices_a_body_that_ends_early(loop: str, tmp_path: Path) -> None:
    async def script(w: World) -> None:
        w.origin.add("cut", LARGE, o.cut(len(LARGE) // 2))
        with pytest.raises(NetworkError):
            async with w.transport.send(w.request("cut")) as reply:
                await read(reply)

    player(loop, tmp_path, direct=False)(script)
