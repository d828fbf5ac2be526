"""Tests of name resolution, with a name server on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from osp_fetch import SettingsError, Status, entry, fetch_all
from osp_fetch.model.settings import Settings
from osp_fetch.network.resolver import Resolver, _has_further_services
from tests.conftest import quick
from tests.origin import Origin, noise


class NameServer(asyncio.DatagramProtocol):
    """Knows names in `.here`, which are 127.0.0.1; is silent about `.slow`; others do not exist.

    Names in `.lossy` are 127.0.0.1, too; every first query for one is lost.
    """

    def __init__(self) -> None:
        self.queries: Counter[str] = Counter()
        self.ttl = 60

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        name, question = ".".join(labels).lower(), data[12 : at + 5]
        (kind,) = struct.unpack("!H", data[at + 1 : at + 3])
        self.queries[name] += 1
        if labels[-1] == "slow" or (labels[-1] == "lossy" and self.queries[name] == 1):
            return
        exists = labels[-1] in ("here", "lossy")
        answers = b""
        if exists and kind == 1:
            answers = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, self.ttl, 4) + socket.inet_aton("127.0.0.1")
        flags = 0x8180 if exists else 0x8183
        head = data[:2] + struct.pack("!HHHHH", flags, 1, bool(answers), 0, 0)
        self.transport.sendto(head + question + answers, address)


@asynccontextmanager
async def name_server() -> AsyncIterator[tuple[NameServer, str]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, ("127.0.0.1", 0))
    try:
        yield server, f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


async def test_names_are_resolved_and_the_kinds_of_failure_are_told_apart() -> None:
    async with name_server() as (_, where):
        resolver = Resolver([where])
        (found,) = await resolver.resolve("a.here", 80, socket.AF_UNSPEC)
        assert (found["host"], found["port"], found["family"]) == ("127.0.0.1", 80, socket.AF_INET)
        with pytest.raises(socket.gaierror) as absent:
            await resolver.resolve("a.nowhere", 80, socket.AF_UNSPEC)
        assert absent.value.errno == socket.EAI_NONAME
        await resolver.close()


async def test_one_slow_name_delays_no_other_and_none_has_a_thread() -> None:
    async with name_server() as (_, where):
        resolver = Resolver([where])
        threads = len(list(Path("/proc/self/task").iterdir()))  # also those that Python does not know
        slow = [asyncio.ensure_future(resolver.resolve(f"n{n}.slow", 80)) for n in range(20)]
        async with asyncio.timeout(5):
            for n in range(200):
                await resolver.resolve(f"n{n}.here", 80)
        assert not any(each.done() for each in slow)
        assert len(list(Path("/proc/self/task").iterdir())) <= threads  # those of other tests may end
        for each in slow:
            each.cancel()
        await asyncio.wait(slow)
        await resolver.close()


async def test_a_lost_query_is_sent_again() -> None:
    async with name_server() as (server, where):
        resolver = Resolver([where])
        names = [f"n{n}.lossy" for n in range(40)]
        async with asyncio.timeout(20):
            found = await asyncio.gather(*(resolver.resolve(name, 80) for name in names))
        assert [each["host"] for (each,) in found] == ["127.0.0.1"] * 40
        assert max(server.queries.values()) <= 3
        await resolver.close()


async def test_names_that_are_looked_up_at_the_end_are_given_up() -> None:
    async with name_server() as (server, where), asyncio.timeout(5):
        resolver = Resolver([where])
        waiting = [asyncio.ensure_future(resolver.resolve(f"n{n}.slow", 80)) for n in range(3)]
        while len(server.queries) < 3:
            await asyncio.sleep(0.01)
        await resolver.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in results] == [socket.gaierror] * 3


async def test_answers_and_failures_are_kept_for_their_lifetime() -> None:
    async with name_server() as (server, where):
        resolver = Resolver([where])
        for _ in range(5):
            await resolver.resolve("kept.here", 80)
            with pytest.raises(socket.gaierror):
                await resolver.resolve("kept.nowhere", 80)
        assert server.queries["kept.here"] <= 2, "one query for each kind of address"
        assert server.queries["kept.nowhere"] <= 2
        server.ttl = 0
        for _ in range(3):
            await resolver.resolve("brief.here", 80)
        assert server.queries["brief.here"] >= 3
        await resolver.close()


async def test_a_run_over_names_fetches_the_good_files_and_says_which_hosts_do_not_exist(
    origin: Origin, tmp_path: Path
) -> None:
    url = origin.add("f", noise(1000))
    port = url.rpartition(":")[2].partition("/")[0]
    rows = [entry(f"good{n}", f"http://h{n}.here:{port}/f") for n in range(40)]
    rows += [entry(f"bad{n}", f"http://h{n % 7}.nowhere:{port}/f") for n in range(21)]
    async with name_server() as (server, where):
        report = await fetch_all(rows, tmp_path, settings=quick(network={"dns_servers": where}))
    assert (report.counts[Status.FETCHED], report.counts[Status.FAILED]) == (40, 21)
    assert {f.error.cause for f in report.failures if f.error} == {"no such name"}
    assert any(note.startswith("7 hosts with 21 files do not exist: h") for note in report.notes)
    assert max(server.queries.values()) < 12, "a name that does not exist is not asked for again and again"


@pytest.mark.parametrize(
    ("line", "further"),
    [
        ("hosts: files dns", False),
        ("hosts:\tfiles mdns4_minimal [NOTFOUND=return] dns myhostname", False),
        ("# hosts: ldap\nhosts: files resolve [!UNAVAIL=return] dns", False),
        ("hosts: files ldap dns", True),
        ("passwd: files ldap", False),
    ],
)
def test_further_services_of_the_system_are_noticed(tmp_path: Path, line: str, further: bool) -> None:
    (tmp_path / "nsswitch.conf").write_text(line + "\n")
    assert _has_further_services(tmp_path / "nsswitch.conf") is further


@pytest.mark.parametrize("value", ["9.9.9.9", "127.0.0.1:5353", "::1", "[::1]:53", "1.1.1.1, 9.9.9.9", ""])
def test_name_servers_are_checked(value: str) -> None:
    assert Settings.load(("t", {"network": {"dns_servers": value}}))
    with pytest.raises(SettingsError, match="is not the address of a name server"):
        Settings.load(("t", {"network": {"dns_servers": "dns.example.org"}}))
