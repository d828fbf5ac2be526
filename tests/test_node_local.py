"""Tests of nodes that write to their own disks: where files lie, and what becomes of them when nodes go.

The nodes are real worker processes of this machine. Each has a home directory of its own, and the output
folder is below it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.api import fetch_all
from osp_fetch.cluster.of_run import destination_of
from osp_fetch.cluster.own_folders import PlacedLedger, Places
from osp_fetch.concurrency import stop
from osp_fetch.inspection.finished import finished
from osp_fetch.inspection.status import folder_status
from osp_fetch.model import events
from osp_fetch.model.engines import Ray
from osp_fetch.model.entry import Entry, RelativePath, entry
from osp_fetch.model.errors import DiskFullError, SettingsError
from osp_fetch.model.ranges import NOTHING, RangeSet
from osp_fetch.model.record import Published, Record
from osp_fetch.model.report import Status
from osp_fetch.options import PlainOptions
from osp_fetch.storage.folder.run_lock import owner_of
from osp_fetch.storage.ledger.placement import Disk, Placed, Placement
from tests import origin as o
from tests.conftest import quick
from tests.fleet import Fleet, LocalNodes, served, tree
from tests.origin import Origin, noise
from tests.test_cluster import MIB, MIXED

Make = Callable[..., Fleet]
LOCAL = ".osp-fetch/nodes/local"  # the state folder of a node


def home(base: Path, name: str) -> Path:
    """Return the output folder of a node."""
    return base / name / "out"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Fleet] = []

    def make(*names: str, **more: Any) -> Fleet:
        homes = {name: {"HOME": str(tmp_path / name)} for name in "abcd"}
        nodes = LocalNodes(*names, environment=homes, folder=Path("~/out"))
        made.append(Fleet(tmp_path / "run" / "out", nodes, is_local=True, **more))
        return made[-1]

    yield make
    for each in made:
        await each.nodes.end()


async def when_joined(run: Fleet, count: int, rows: list[Entry]) -> AsyncIterator[Entry]:
    """Yield rows once the processes of a number of nodes work, so that each of them gets some.

    Until each has one, as many rows as there are nodes are in work at a time: a node whose process is slow to
    begin would find no row left.
    """
    base = run.root.parents[1]

    def work() -> bool:
        names = [each.node for each in run.seen if isinstance(each, events.NodeJoined)]
        return len([name for name in names if owner_of(home(base, name) / LOCAL)]) == count

    def done() -> int:
        return sum(isinstance(each, events.Finished) for each in run.seen)

    def have_some() -> bool:
        return len({row["node"] for row in lines(run)}) >= count  # a node may give back what it was assigned

    await run.until(work)
    for number, row in enumerate(rows):
        if number % count == 0:
            await run.until(lambda number=number: have_some() or done() >= number)  # type: ignore[misc]
        yield row


def lines(run: Fleet) -> list[dict[str, Any]]:
    """Return the complete lines of `placement.jsonl` about published files."""
    place = run.root / ".osp-fetch" / "placement.jsonl"
    whole = place.read_text().splitlines(keepends=True) if place.exists() else []
    rows = [json.loads(line) for line in whole if line.endswith("\n")]
    return [row for row in rows if row["size"] is not None]


async def test_each_file_is_on_the_disk_of_one_node_and_placement_says_which(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    run = fleet("a", "b", "c")
    await run.start(when_joined(run, 3, served(origin, MIXED)))
    assert run.counts() == {Status.FETCHED: len(MIXED)}
    assert tree(run.root) == {}, "nothing is on the machine of the run"
    found = {name: tree(home(tmp_path, name)) for name in "abc"}
    assert all(found.values())
    assert sum(map(len, found.values())) == len(MIXED)
    assert {path: data for files in found.values() for path, data in files.items()} == MIXED
    assert {(row["path"], row["node"]) for row in lines(run)} == {
        (path, name) for name, files in found.items() for path in files
    }
    for row in lines(run):
        assert row["address"] == f"10.0.0.{row['node']}"
        assert (row["size"], row["digest"]) == (len(MIXED[row["path"]]), o.sha256(MIXED[row["path"]]))
    (where,) = [each for each in run.seen if isinstance(each, events.DestinationFound)]
    assert where == events.DestinationFound("node-local folders", "~/out")


async def test_what_the_nodes_have_is_not_fetched_again(origin: Origin, fleet: Make, tmp_path: Path) -> None:
    rows = served(origin, MIXED)
    await fleet("a", "b").fetch(rows)
    asked = origin.requests.total()
    again = fleet("b", "a")
    await again.start(when_joined(again, 2, rows))
    assert again.counts() == {Status.PRESENT: len(MIXED)}
    assert origin.requests.total() == asked
    assert again.notes == []


async def test_files_of_a_node_that_is_gone_are_fetched_by_the_others_and_one_sentence_says_how_many(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    rows = served(origin, MIXED)
    await fleet("a").fetch(rows[:20])
    await fleet("b").fetch(rows[20:])
    on_a = tree(home(tmp_path, "a"))
    assert len(on_a) == 20
    second = fleet("b", "c")
    await second.start(when_joined(second, 2, rows))
    assert second.counts() == {Status.FETCHED: len(on_a), Status.PRESENT: len(MIXED) - len(on_a)}
    (note,) = second.notes
    assert note.startswith(f"{len(on_a)} finished files had to be fetched again")
    assert note.endswith("take no part in this run: a (10.0.0.a)")
    assert tree(home(tmp_path, "b")) | tree(home(tmp_path, "c")) == MIXED
    third = fleet("b", "c")
    await third.start(when_joined(third, 2, rows))
    assert third.counts() == {Status.PRESENT: len(MIXED)}
    assert sum(each["files"] for each in folder_status(third.root).placement) == len(MIXED)


async def test_a_file_that_has_vanished_from_a_disk_or_changed_is_fetched_again(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    files = {f"f{n}": noise(3 * MIB + n, n) for n in range(4)}
    rows = served(origin, files)
    await fleet("a").fetch(rows)
    (home(tmp_path, "a") / "f0").unlink()
    (home(tmp_path, "a") / "f1").write_bytes(b"short")
    again = fleet("a")
    await again.fetch(rows)
    assert again.counts() == {Status.FETCHED: 2, Status.PRESENT: 2}
    (note,) = again.notes
    assert note.startswith("1 finished file had to be fetched again, because the disks of their nodes")
    assert tree(home(tmp_path, "a")) == files


async def test_recheck_reads_each_file_on_its_node(origin: Origin, fleet: Make, tmp_path: Path) -> None:
    files = {f"f{n}": noise(3 * MIB + n, n) for n in range(6)}
    rows = served(origin, files)
    await fleet("a", "b").fetch(rows)
    (name,) = [each for each in "ab" if "f3" in tree(home(tmp_path, each))]
    place = home(tmp_path, name) / "f3"
    seen = place.stat()
    place.write_bytes(bytes(len(files["f3"])))
    os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # damage that size and time do not show
    asked = origin.requests.copy()
    again = fleet("a", "b", recheck=True)
    await again.start(when_joined(again, 2, rows))
    assert again.counts() == {Status.FETCHED: 1, Status.PRESENT: 5}
    assert [path for path, count in origin.requests.items() if count > asked[path]] == ["/f3"]
    assert place.read_bytes() == files["f3"]
    assert tree(home(tmp_path, "a")) | tree(home(tmp_path, "b")) == files


async def test_a_file_goes_on_at_the_node_that_began_it(origin: Origin, fleet: Make, tmp_path: Path) -> None:
    data, few = noise(24 * MIB, 1), quick(limits={"part_size": "1MiB", "connections": 2})
    rows = served(origin, {"large": data}, o.counted(origin, 6 * MIB))
    first = fleet("a", settings=few)
    first.start(rows)
    await first.until(lambda: first.received() > 12 * MIB)
    await stop({first.work})
    second = fleet("b", "a", settings=few)
    await second.start(when_joined(second, 2, rows))
    assert tree(home(tmp_path, "a")) == {"large": data}
    assert tree(home(tmp_path, "b")) == {}
    assert len(data) <= origin.sent["/large"] < len(data) + 6 * MIB


async def test_a_file_begins_anew_where_the_node_that_began_it_is_gone(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    data, few = noise(24 * MIB, 1), quick(limits={"part_size": "1MiB", "connections": 2})
    rows = served(origin, {"large": data}, o.counted(origin, 6 * MIB))
    first = fleet("a", settings=few)
    first.start(rows)
    await first.until(lambda: first.received() > 12 * MIB)
    first.nodes.add("b")
    await first.until(lambda: sum(isinstance(each, events.NodeJoined) for each in first.seen) == 2)
    first.nodes.signal("a", signal.SIGKILL)
    await first.work
    assert first.counts() == {Status.FETCHED: 1}
    assert tree(home(tmp_path, "b")) == {"large": data}
    assert origin.sent["/large"] > len(data) + 10 * MIB
    # the node that comes back has a partial that nothing continues
    left = home(tmp_path, "a") / LOCAL / "partial" / "large"
    assert left.exists()
    second = fleet("a", "b")
    rows = served(origin, {"large": data, "other": noise(8 * MIB, 2)}, o.slow(4 * MIB))
    await second.start(when_joined(second, 2, rows))
    assert second.counts() == {Status.FETCHED: 1, Status.PRESENT: 1}
    assert not left.exists()


async def test_a_node_that_is_lost_with_finished_files_is_named(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    files = {f"f{n:02}": noise(2 * MIB + n, n) for n in range(24)}
    run = fleet("a", "b")
    run.start(when_joined(run, 2, served(origin, files, o.slow(3 * MIB))))

    def ended_on_a() -> int:
        ended = {each.path for each in run.outcomes}
        return sum(row["node"] == "a" and row["path"] in ended for row in lines(run))

    await run.until(lambda: ended_on_a() > 2)
    run.nodes.signal("a", signal.SIGKILL)
    await run.work
    assert run.counts() == {Status.FETCHED: 24}
    last = {row["path"]: row["node"] for row in lines(run)}
    on_a = {path for path, node in last.items() if node == "a"}
    assert len(on_a) > 2
    assert run.lost == {"a (10.0.0.a)": len(on_a)}
    assert on_a | set(tree(home(tmp_path, "b"))) == set(files)


async def test_a_node_whose_disk_is_full_gets_no_more_files_and_the_others_go_on(
    origin: Origin, fleet: Make, tmp_path: Path, small_disk: Callable[[Path], None]
) -> None:
    home(tmp_path, "a").mkdir(parents=True)
    small_disk(home(tmp_path, "a"))
    files = {f"f{n}": noise(3 * MIB + n, n) for n in range(16)}
    run = fleet("a", "b")
    await run.start(when_joined(run, 2, served(origin, files)))
    assert run.counts() == {Status.FETCHED: 16}
    assert tree(home(tmp_path, "a")) | tree(home(tmp_path, "b")) == files
    assert [each.why for each in run.seen if isinstance(each, events.NodeLeft)] == ["its disk is full"]
    on_a = home(tmp_path, "a") / LOCAL / "partial"
    assert 0 < len(tree(home(tmp_path, "a"))) < 6
    assert [path.name for path in on_a.rglob("*") if path.is_file()] == []


async def test_of_two_nodes_with_a_copied_disk_only_one_takes_part(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    await fleet("a").fetch(served(origin, {"f": noise(1000, 1)}))
    copied = home(tmp_path, "b") / LOCAL / "disk"
    copied.parent.mkdir(parents=True)
    copied.write_text((home(tmp_path, "a") / LOCAL / "disk").read_text())
    run, files = fleet("a", "b"), {f"f{n}": noise(3 * MIB + n, n) for n in range(4)}

    async def rows() -> AsyncIterator[Entry]:
        await run.until(lambda: any(isinstance(each, events.NodeLeft) for each in run.seen))
        for row in served(origin, files):
            yield row

    await run.start(rows())
    assert run.counts() == {Status.FETCHED: 4}
    (left,) = [each.node for each in run.seen if isinstance(each, events.NodeLeft)]
    assert {row["node"] for row in lines(run) if row["path"] in files} == {"a", "b"} - {left}


async def test_the_run_ends_where_the_disks_of_all_nodes_are_full(
    origin: Origin, fleet: Make, tmp_path: Path, small_disk: Callable[[Path], None]
) -> None:
    for name in "ab":
        home(tmp_path, name).mkdir(parents=True)
        small_disk(home(tmp_path, name))
    files = {f"f{n}": noise(3 * MIB + n, n) for n in range(16)}
    run = fleet("a", "b", patience=4.0)
    with pytest.raises(DiskFullError):
        await run.start(when_joined(run, 2, served(origin, files)))
    found = tree(home(tmp_path, "a")) | tree(home(tmp_path, "b"))
    assert 6 <= len(found) <= 10, "what fits is finished"
    assert all(files[path] == data for path, data in found.items())


async def test_bytes_that_another_node_holds_are_not_taken_for_those_of_an_older_partial(
    origin: Origin, fleet: Make, tmp_path: Path
) -> None:
    data, few = noise(24 * MIB, 1), quick(limits={"part_size": "1MiB", "connections": 2})
    rows = [entry("large", origin.add("large", data, always=o.slow(4 * MIB)))]  # no digest would show it
    first = fleet("a", settings=few)
    first.start(rows)
    await first.until(lambda: held(first) > 4 * MIB)
    first.nodes.add("b")
    await first.until(lambda: sum(isinstance(each, events.NodeJoined) for each in first.seen) == 2)
    first.nodes.signal("a", signal.SIGKILL)
    await first.until(lambda: held(first) == 0)
    await first.until(lambda: held(first) > 12 * MIB)
    await stop({first.work})
    # the partial of a is overwritten with what no server sent: if it is trusted, the file is wrong
    left = home(tmp_path, "a") / LOCAL / "partial" / "large"
    left.write_bytes(bytes(len(data)))
    second = fleet("a", settings=few)
    await second.fetch(rows)
    assert tree(home(tmp_path, "a")) == {"large": data}


def held(run: Fleet) -> int:
    """Return the bytes of unfinished files that the ledger of the run states."""
    return folder_status(run.root).held_bytes if (run.root / ".osp-fetch" / "ledger.sqlite3").exists() else 0


def test_places_survive_a_torn_line_and_the_loss_of_their_index(tmp_path: Path) -> None:
    a, b = Disk("0a", "n1", "10.0.0.1"), Disk("0b", "n2", "10.0.0.2")
    rows = [Placed("x", a), Placed("y", a, Published(5, 1), "md5:00"), Placed("x", b, Published(7, 2))]
    places = Placement(tmp_path)
    places.add(rows[:2])
    places.add(rows[2:])
    places.close()
    lines = (tmp_path / "placement.jsonl").read_bytes()
    (tmp_path / "placement.jsonl").write_bytes(lines + b'{"path":"z","no')
    for lost in ((), ("placement.sqlite3",)):
        for name in lost:
            (tmp_path / name).unlink()
        reader, places = Placement(tmp_path, writes=False), Placement(tmp_path)
        for each in (reader, places):
            assert each.get(["x", "y", "z"]) == {"x": rows[2], "y": rows[1]}
            assert list(each.sums()) == [(a, 1, 5), (b, 1, 7)]
            each.close()
        assert (tmp_path / "placement.jsonl").read_bytes() == lines
    moved = Disk("0a", "n1", "10.0.0.9")
    places = Placement(tmp_path)
    places.add([Placed("z", moved, Published(1, 1))])
    assert list(places.sums()) == [(moved, 2, 6), (b, 1, 7)]
    places.close()


def test_places_that_the_index_could_not_take_are_there_later(tmp_path: Path) -> None:
    a, b = Disk("0a", "n1", "10.0.0.1"), Disk("0b", "n2", "10.0.0.2")
    rows = [Placed(f"{n:04}" + "x" * 500, b, Published(n, 1)) for n in range(2000)]
    places = Placement(tmp_path)
    places.add([Placed("x", a)])
    places._db.execute("PRAGMA max_page_count=1")
    with pytest.raises(DiskFullError):
        places.add(rows)
    places._db.execute("PRAGMA max_page_count=1000000")
    places.add([Placed("y", b)])
    for again in (places, Placement(tmp_path)):
        found = again.get(["x", "y", *(row.path for row in rows)])
        assert found == {"x": Placed("x", a), "y": Placed("y", b), **{row.path: row for row in rows}}
        again.close()


class Kept:
    """A ledger in memory, which checks that the place of each file is known before."""

    def __init__(self, places: Places) -> None:
        self._places, self.records = places, dict[str, Record]()

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        return [self.records.get(path) for path in paths]

    async def put(self, record: Record) -> None:
        assert record.path in await self._places.get([record.path])
        self.records[record.path] = record


async def test_a_node_reads_no_bytes_of_another_disk_from_the_ledger(tmp_path: Path) -> None:
    places = Places(tmp_path)
    await places.open()
    kept, path = Kept(places), RelativePath("x")
    a, b = (PlacedLedger(kept, places, partial(Disk, name, name)) for name in "ab")
    record = Record(path, "key", 10, held=RangeSet.upto(5))
    for mine, other in ((a, b), (b, a)):
        await mine.put(record)
        assert await mine.get([path]) == [record]
        assert await other.get([path]) == [replace(record, held=NOTHING)]
        mine.ended(path)
    await places.close()


async def test_a_run_of_one_kind_does_not_take_a_folder_of_the_other(origin: Origin, tmp_path: Path) -> None:
    local: PlainOptions = {"engine": Ray(node_local=True)}
    with pytest.raises(SettingsError, match="a bucket is the same for all nodes"):
        destination_of("s3://some-bucket/x", local)
    await fetch_all([entry("x", origin.add("x", b"x"))], tmp_path / "here")
    with pytest.raises(SettingsError, match="runs that did not write to the disks of nodes"):
        destination_of(tmp_path / "here", local)
    (tmp_path / "there" / ".osp-fetch").mkdir(parents=True)
    places = Placement(tmp_path / "there" / ".osp-fetch")
    assert destination_of(tmp_path / "there", {}) == destination_of(tmp_path / "there", local)
    places.add([Placed("y", Disk("0a", "n1"), Published(5, 1))])
    places.close()
    with pytest.raises(SettingsError, match="lie on the disks of nodes; add --engine ray --node-local"):
        destination_of(tmp_path / "there", {})


def test_finished_files_of_other_machines_are_not_looked_for_here(tmp_path: Path) -> None:
    (tmp_path / ".osp-fetch").mkdir()
    places = Placement(tmp_path / ".osp-fetch")
    places.add([Placed("y", Disk("0a", "n1"), Published(5, 1))])
    places.close()
    with pytest.raises(SettingsError, match="lie on the disks of nodes"):
        finished(tmp_path)
