"""Tests of power loss at any instant, on a simulated disk that loses bytes that were not synced."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osp_fetch import Entry, Outcome, Status, entry
from osp_fetch.connections.buffers import Buffers
from osp_fetch.connections.pool import ConnectionPool
from osp_fetch.engine.context import Context
from osp_fetch.engine.run import Run
from osp_fetch.model.entry import RelativePath
from osp_fetch.model.errors import FetchError, NetworkError, NotThePayloadError
from osp_fetch.model.http import Coding, Representation, Request, Validator
from osp_fetch.model.protocols import Reply
from osp_fetch.model.ranges import ByteRange, RangeSet
from osp_fetch.model.record import Record
from osp_fetch.storage.folder.store import FolderStore
from osp_fetch.storage.ledger.sqlite import SqliteLedger
from tests.conftest import quick
from tests.origin import noise, sha256
from tests.simulated import Power, SimulatedDisk, SimulatedLedger

SCHEDULES = int(os.environ.get("OSP_TEST_SCHEDULES", "400"))
ROOT, STATE = Path("/out"), Path("/out/.osp-fetch")
PART = 64 << 10
SETTINGS = quick(limits={"per_host": 3}, retry={"attempts": 2, "initial": 0})


@dataclass
class Resource:
    """A file on the server with all its versions.

    Attributes:
        versions: The contents, oldest first.
        tagged: Whether a strong ETag distinguishes the versions.
        listed: Whether the manifest states the digest of the latest version.
    """

    versions: list[bytes]
    tagged: bool
    listed: bool

    def entry(self, name: str) -> Entry:
        digest = sha256(self.versions[-1]) if self.listed else None
        return entry(name, f"http://host/{name}", None, digest)


class Answer:
    """A Reply that returns its bytes in chunks of random size and may be cut short."""

    framed, borrowed, headers_sent = True, False, True
    pauses: tuple[tuple[str, float], ...] = ()
    doubt: NotThePayloadError | None = None
    coding: Coding = Coding.NONE
    name = ""

    def __init__(
        self, data: bytes, found: Representation, span: ByteRange | None, chance: random.Random, cuts: float
    ) -> None:
        self.representation, self.range = found, span
        self._left, self._chance = data, chance
        self._cut = chance.randint(0, len(data)) if chance.random() < cuts else None

    async def readinto(self, view: memoryview) -> int:
        await asyncio.sleep(0)
        count = min(self._chance.randint(1, 40_000), len(view))
        chunk, self._left = self._left[:count], self._left[count:]
        if self._cut is not None:
            if self._cut < len(chunk):
                raise NetworkError("cut")
            self._cut -= len(chunk)
        view[: len(chunk)] = chunk
        return len(chunk)


@dataclass
class Server:
    """A Transport to servers in memory.

    Attributes:
        cuts: The share of replies that are cut short, 0 to 1.
    """

    resources: dict[str, Resource]
    chance: random.Random
    cuts: float

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Reply]:
        name = request.url.rsplit("/", 1)[-1]
        resource = self.resources[name]
        data = resource.versions[-1]
        tag = f'"{len(resource.versions)}"' if resource.tagged else None
        found = Representation(request.url, len(data), Validator(tag))
        span = request.range
        if span is not None and (request.if_range in (None, tag)) and span.start < len(data):
            span = ByteRange(span.start, min(span.stop, len(data)))
            body = data[span.start : span.stop]
        else:
            span, body = None, data
        yield Answer(body, found, span, self.chance, self.cuts)


class World:
    """One schedule: a few files, power losses, and changes on the server between them."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.resources = {
            f"f{n}": Resource(
                [noise(chance.choice([0, 1, 3000, PART, 150_000, 300_001]), seed + n)],
                tagged=chance.random() < 0.5,
                listed=chance.random() < 0.3,
            )
            for n in range(chance.randint(1, 4))
        }
        self.disk = SimulatedDisk(Power(1 << 30))
        self.records: dict[str, Record] = {}

    async def run(self, power: Power, cuts: float = 0.2) -> list[Outcome]:
        """Run until the end or until the power fails."""
        ledger = SimulatedLedger(power, self.chance, self.records)
        self.disk.power = power
        outcomes: list[Outcome] = []
        async with FolderStore(ROOT, STATE, SETTINGS.storage, self.disk) as store:
            context = Context(
                transport=Server(self.resources, self.chance, cuts),
                store=store,
                ledger=ledger,
                pool=ConnectionPool(SETTINGS.limits),
                buffers=Buffers(SETTINGS.limits, most=20_000),
                settings=SETTINGS,
                observe=lambda _: None,
                claim_size=30_000,
            )
            rows = [resource.entry(name) for name, resource in self.resources.items()]
            with suppress(FetchError):
                await Run(context, outcomes.append).fetch(rows)
        self.records = ledger.records
        return outcomes

    def check(self) -> None:
        """Assert what must hold on the disk after a power loss."""
        for place, inode in self.disk.names.items():
            if not place.is_relative_to(STATE):
                versions = self.resources[place.name].versions
                assert bytes(inode.data) in versions, f"{place} is wrong under its final name"
        for path, record in self.records.items():
            if record.published:
                assert ROOT / path in self.disk.names, f"{path} is recorded as published and is not there"
            partial = self.disk.names.get(STATE / "partial" / path)
            if partial is None or record.published:
                continue
            for span in record.held & RangeSet.upto(len(partial.data)):
                held = bytes(partial.data[span.start : span.stop])
                known = [v[span.start : span.stop] for v in self.resources[path].versions]
                if self.resources[path].listed:
                    # With a digest, versions may be mixed, because the digest will fail. But every byte
                    # must come from one of the versions.
                    assert all(byte in some for byte, *some in zip(held, *known, strict=True))
                else:
                    assert held in known, f"{path}: {span} is claimed and not held"

    def time_passes(self) -> None:
        """Change each file on the server with a probability of 0.15, while the machine is down."""
        for resource in self.resources.values():
            if self.chance.random() < 0.15:
                resource.versions.append(noise(len(resource.versions[-1]), self.chance.randrange(1 << 30)))


@given(st.integers(0, 1 << 40))
@settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_power_loss_at_any_instant_leaves_only_right_files_and_true_claims(seed: int) -> None:
    async def schedule() -> None:
        world = World(seed)
        for _ in range(world.chance.randint(1, 4)):
            await world.run(
                Power(world.chance.choice([3, 10, 30, 100, 1 << 30]) * world.chance.randint(1, 3))
            )
            world.disk = world.disk.crash(world.chance, Power(1 << 30))
            world.check()
            world.time_passes()
        outcomes = await world.run(Power(1 << 30), cuts=0)
        world.check()
        assert {o.status for o in outcomes} <= {Status.FETCHED, Status.PRESENT}, outcomes
        for name, resource in world.resources.items():
            # A file that was published before the change is kept: it was right when it was published.
            right = resource.versions if not resource.listed else resource.versions[-1:]
            assert bytes(world.disk.names[ROOT / name].data) in right

    asyncio.run(schedule())


@given(st.integers(0, 1 << 40))
@settings(max_examples=min(SCHEDULES, 60), deadline=None, suppress_health_check=list(HealthCheck))
def test_the_ledger_keeps_every_record_that_it_confirmed_through_a_torn_log(seed: int) -> None:
    """The log of SQLite is cut at any place after the last confirmed record, and the rest is scrambled."""
    chance = random.Random(seed)
    records = [
        Record(RelativePath(f"f{chance.randint(0, 5)}"), "host/f", 1 << 20, held=RangeSet.upto(n + 1))
        for n in range(chance.randint(1, 12))
    ]
    images: list[tuple[bytes, bytes]] = []

    async def write(place: Path) -> None:
        async with SqliteLedger(place) as ledger:
            for record in records:
                await ledger.put(record)
                images.append((place.read_bytes(), place.with_name(place.name + "-wal").read_bytes()))

    async def read(place: Path) -> list[Record | None]:
        async with SqliteLedger(place) as ledger:
            return await ledger.get(sorted({record.path for record in records}))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write(Path(folder, "ledger.sqlite3")))
        at = chance.randrange(len(records))
        base, log = images[at]
        coming = images[min(at + 1, len(images) - 1)][1]
        # If SQLite has restarted the log meanwhile, the next image is not its continuation.
        tail = coming[len(log) :] if coming.startswith(log) else b""
        torn = bytearray(tail[: chance.randint(0, len(tail))])
        for _ in range(chance.randint(0, 3)):
            if torn:
                torn[chance.randrange(len(torn))] ^= 1 << chance.randrange(8)
        crashed = Path(folder, "crashed", "ledger.sqlite3")
        crashed.parent.mkdir()
        crashed.write_bytes(base)
        crashed.with_name(crashed.name + "-wal").write_bytes(log + torn)
        found = asyncio.run(read(crashed))
        assert not crashed.with_name(crashed.name + ".damaged").exists()
    for confirmed in (at, at + 1):  # the record under way is present or absent
        last = {record.path: record for record in records[: confirmed + 1]}
        if found == [last.get(path) for path in sorted({record.path for record in records})]:
            return
    raise AssertionError(found)
