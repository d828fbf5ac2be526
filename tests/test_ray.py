"""Tests of the engine `ray` on a real Ray cluster of this machine, with three nodes of real processes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from osp_fetch.cluster.node import Link
from osp_fetch.cluster.ray_nodes import RayNodes, _Relay
from osp_fetch.model.engines import Ray
from osp_fetch.model.errors import StorageError
from osp_fetch.storage.destination import Destination
from osp_fetch.version import __version__
from tests.fleet import tree
from tests.held import Held
from tests.origin import Origin, noise, sha256, slow
from tests.seaweed import KEYS, Seaweed
from tests.test_cluster import MIXED

Command = Callable[..., subprocess.CompletedProcess[str]]
MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster(seaweed: Seaweed) -> Iterator[Any]:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 75 << 20}
    # every node has credentials of its own: none is passed to an actor
    own = pytest.MonkeyPatch()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": seaweed.url}.items():
        own.setenv(name, value)
    made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    for _ in range(2):
        made.add_node(**options)
    own.undo()
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]


def manifest(folder: Path, origin: Origin, files: dict[str, bytes], fault: Any = None) -> Path:
    more = {"always": fault} if fault else {}
    place = folder / "list.txt"
    place.write_text("".join(f"{origin.add(name, data, **more)}\n" for name, data in files.items()))
    return place


async def test_all_nodes_fetch_into_one_folder(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, MIXED)
    words = ("get", listed, "-o", tmp_path / "out", "--engine", "ray", "--address", cluster.address)
    done = await asyncio.to_thread(command, *words)
    assert done.returncode == 0, done.stderr
    assert "has joined: 3 nodes" in done.stderr
    assert tree(tmp_path / "out") == MIXED
    checked = await asyncio.to_thread(command, "verify", tmp_path / "out")
    assert checked.returncode == 0, checked.stderr
    asked = origin.requests.total()
    again = await asyncio.to_thread(command, *words)
    assert again.returncode == 0, again.stderr
    assert origin.requests.total() == asked


async def test_all_nodes_fetch_into_a_bucket(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path, seaweed: Seaweed, bucket: str
) -> None:
    listed = manifest(tmp_path, origin, MIXED)
    words = ("get", listed, "-o", f"s3://{bucket}/x", "--engine", "ray", "--address", cluster.address)
    done = await asyncio.to_thread(command, *words, "--state", tmp_path / "state")
    assert done.returncode == 0, done.stderr
    held = Held(seaweed.client(), bucket)
    assert {key: held.data(key) for key in held.every("x/")} == {f"x/{n}": d for n, d in MIXED.items()}
    assert held.uploads() == []


async def test_a_killed_coordinator_is_gone_on_with(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path
) -> None:
    files = {f"large{n}": noise(24 * MIB + n, n) for n in range(2)}
    listed = manifest(tmp_path, origin, files, slow(MIB))
    words = ["get", str(listed), "-o", str(tmp_path / "out"), "--engine", "ray", "--address", cluster.address]
    more = ["-k", "1MiB", "-j", "6"]
    run = subprocess.Popen(
        [sys.executable, "-m", "osp_fetch", *words, *more], stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    held = 0  # as recorded: what was written since the last record is fetched again
    while held < 16 * MIB:
        assert run.poll() is None
        shown = await asyncio.to_thread(command, "status", tmp_path / "out", "--json")
        held = json.loads(shown.stdout)["held_bytes"] if shown.returncode == 0 else 0
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = await asyncio.to_thread(command, *words, *more, "--json")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == files
    # the last parts, of which six are on their way, may be fetched a second time over another connection
    assert json.loads(done.stdout)["bytes"] <= 48 * MIB + 1 - held + 8 * MIB


async def test_a_killed_node_is_replaced_by_the_others(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path
) -> None:
    files = {f"f{n}": noise(2 * MIB + n, n) for n in range(24)}
    listed = manifest(tmp_path, origin, files, slow(MIB))
    node = cluster.add_node(num_cpus=1, object_store_memory=75 << 20)
    words = ("get", listed, "-o", tmp_path / "out", "--engine", "ray", "--address", cluster.address, "--json")
    run = asyncio.create_task(asyncio.to_thread(command, *words))
    log = tmp_path / "out" / ".osp-fetch" / "events.jsonl"
    while not log.exists() or log.read_text().count('"finished"') < 2:
        assert not run.done(), run.result()
        await asyncio.sleep(0.05)
    await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
    done = await run
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["fetched"] == 24  # stdout is data, whatever Ray has to say
    assert tree(tmp_path / "out") == files


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[Path]]]:
    """A cluster of three nodes, each with a home directory of its own."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 75 << 20}
    homes, own, made = [tmp_path_factory.mktemp(f"home{n}") for n in range(3)], pytest.MonkeyPatch(), None
    for home in homes:
        own.setenv("HOME", str(home))
        if made is None:
            made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        else:
            made.add_node(**options)
    own.undo()
    assert made is not None
    yield made, homes
    made.shutdown()  # type: ignore[no-untyped-call]


async def test_each_node_keeps_what_it_fetches_on_its_own_disk(
    apart: tuple[Any, list[Path]], origin: Origin, command: Command, tmp_path: Path
) -> None:
    cluster, homes = apart
    listed = manifest(tmp_path, origin, MIXED)
    me = {"HOME": str(tmp_path)}
    words = (listed, "-o", tmp_path / "data", "--engine", "ray", "--address", cluster.address, "--node-local")
    done = await asyncio.to_thread(command, "get", *words, **me)
    assert done.returncode == 0, done.stderr
    assert "destination: node-local folders; each node writes to ~/data on its own disk" in done.stderr
    trees = [tree(home / "data") for home in homes]
    assert all(trees)
    assert {path: data for files in trees for path, data in files.items()} == MIXED
    assert tree(tmp_path / "data") == {}

    shown = await asyncio.to_thread(command, "status", tmp_path / "data", "--json")
    placement = json.loads(shown.stdout)["placement"]
    assert sorted(each["files"] for each in placement) == sorted(map(len, trees))
    checked = await asyncio.to_thread(command, "verify", tmp_path / "data")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert "43 files lie on the disks of 3 nodes, which verify does not read from here" in checked.stderr
    here = await asyncio.to_thread(command, "get", listed, "-o", tmp_path / "data")
    assert here.returncode == 2
    assert "the files of this folder lie on the disks of nodes" in here.stderr

    asked = origin.requests.total()
    planned = await asyncio.to_thread(command, "plan", *words, "--json", **me)
    plan = json.loads(planned.stdout)
    assert plan["present"] == len(MIXED)
    assert plan["free"] is None
    assert plan["run"]["destination"].startswith("node-local folders on 3 nodes")
    unpacked = await asyncio.to_thread(command, "unpack", tmp_path / "data")
    assert unpacked.returncode == 2
    assert "43 files lie on the disks of 3 nodes; run unpack there" in unpacked.stderr
    again = await asyncio.to_thread(command, "get", *words, **me)
    assert again.returncode == 0, again.stderr
    assert origin.requests.total() == asked


async def test_a_folder_that_nodes_share_is_not_taken_for_folders_of_the_nodes(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path
) -> None:
    listed = manifest(tmp_path, origin, MIXED)
    words = ("get", listed, "-o", tmp_path / "out", "--engine", "ray", "--address", cluster.address)
    for more, kind in (((), "shared folder, which 3 nodes see"), (("--node-local",), "refused: 3 nodes see")):
        planned = await asyncio.to_thread(command, "plan", *words[1:], "--json", *more)
        assert json.loads(planned.stdout)["run"]["destination"].startswith(kind), planned.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["list.txt"], "a plan leaves nothing behind"
    done = await asyncio.to_thread(command, *words, "--node-local")
    assert done.returncode == 3, done.stderr
    assert "nodes see the same" in done.stderr
    assert origin.requests.total() == 0
    done = await asyncio.to_thread(command, *words)
    assert done.returncode == 0, done.stderr
    assert "destination: shared folder" in done.stderr


# bad input


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--node-local",), "--node-local: it is for nodes of a Ray cluster"),
        (("--engine", "ray", "--node-local", "--unpack"), "--unpack: it needs all files in one place"),
        (("--engine", "ray", "--node-local", "--layout"), "--layout: it needs all files in one place"),
    ],
)
def test_what_nodes_with_their_own_disks_cannot_do_is_refused(
    command: Command, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    done = command("get", "http://127.0.0.1:9/x", "-o", tmp_path / "out", *words)
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert not (tmp_path / "out").exists()


async def test_an_address_that_nobody_answers_is_one_sentence(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    words = ("get", "http://127.0.0.1:9/x", "-o", tmp_path / "out", "--engine", "ray")
    done = await asyncio.to_thread(command, *words, "--address", "127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
async def test_auto_does_not_wait_for_a_head_that_has_died(
    command: Command, tmp_path: Path, address: str
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    words = ("get", "http://127.0.0.1:9/x", "-o", tmp_path / "out", "--engine", "ray")
    done = await asyncio.to_thread(command, *words, RAY_ADDRESS=address)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers at" in done.stderr


async def test_without_ray_one_sentence_says_what_to_install(without: Any, tmp_path: Path) -> None:
    words = ("get", "http://127.0.0.1:9/x", "-o", str(tmp_path / "out"), "--engine", "ray")
    done = await asyncio.to_thread(without, {"ray"}, *words)
    assert done.returncode == 2, done.stderr
    assert "pip install 'osp-fetch[ray]'" in done.stderr


async def test_a_node_that_comes_late_and_does_not_fit_is_tried_once_and_named(tmp_path: Path) -> None:
    tried: list[str] = []

    class Late(RayNodes):
        async def _alive(self) -> dict[str, dict[str, Any]]:
            return {name: {"NodeID": name} for name in ["first", "late"][: 1 + bool(tried)]}

        async def _start(self, node: dict[str, Any]) -> list[Link]:
            tried.append(node["NodeID"])
            self._check(node["NodeID"], found[node["NodeID"]], None)
            self._actors["first"] = [_Relay(None)]
            return [cast("Link", "a link")]

    here = {"version": __version__, "python": sys.version_info[:2], "sees": True}
    found = {"first": here, "late": {**here, "version": "0.0.1"}}
    nodes = Late(Ray(), Destination(tmp_path), 1)
    assert len(await nodes.arrivals()) == 1
    for _ in range(2):
        assert await nodes._new_nodes() == []
    assert tried == ["first", "late"]
    (note,) = nodes.notes()
    assert "late has osp-fetch 0.0.1" in note


def test_another_version_or_folder_on_a_node_is_named(tmp_path: Path) -> None:
    here = {"version": __version__, "python": sys.version_info[:2], "sees": True}
    probe = tmp_path / ".osp-fetch" / "probe"
    RayNodes._check("n1", here, probe)
    with pytest.raises(StorageError, match="n1 has osp-fetch 0"):
        RayNodes._check("n1", {**here, "version": "0.0.1"}, probe)
    with pytest.raises(StorageError, match=r"the folder is not shared.*--node-local"):
        RayNodes._check("n1", {**here, "sees": False}, probe)
    RayNodes._check("n1", {**here, "sees": False}, probe, node_local=True)


async def test_all_ways_of_running_make_the_same_tree_and_the_same_report(
    cluster: Any, origin: Origin, command: Command, tmp_path: Path
) -> None:
    rows = [
        {"path": name, "url": origin.add(name, data), "sha256": sha256(data)[7:]}
        for name, data in MIXED.items()
    ]
    rows += [
        {"path": "wrong", "url": rows[0]["url"], "sha256": "0" * 64},
        {"path": "gone", "url": f"{origin.url}/gone", "sha256": "1" * 64},
        {"path": "../out", "url": rows[0]["url"], "sha256": "2" * 64},
    ]
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ways: dict[str, list[list[str]]] = {
        "one process": [[]],
        "processes": [["--processes", "2"]],
        "shards": [["--shard", f"{number}/3"] for number in range(3)],
        "folder": [["--engine", "folder"]],
        "ray": [["--engine", "ray", "--address", cluster.address]],
    }
    found = {}
    for way, flags in ways.items():
        out = tmp_path / way / "out"
        words = [("get", listed, "-o", out, "--json", *each) for each in flags]
        reports = [json.loads((await asyncio.to_thread(command, *each)).stdout) for each in words]
        counts = sum((Counter(report["counts"]) for report in reports), Counter[str]())
        failures = sorted(
            # a set-aside file is kept in the state folder of its shard
            (each["path"], each["cause"], re.sub(r"kept in \S+", "kept", each["error"]))
            for report in reports
            for each in report["failures"]
        )
        sums = await asyncio.to_thread(command, "status", out, "--sums")
        found[way] = tree(out), dict(counts), failures, sorted(sums.stdout.splitlines())
    assert found["one process"][0] == MIXED
    assert found["one process"][1] == {"fetched": len(MIXED), "failed": 3}
    assert len(found["one process"][3]) == len(MIXED)
    for way in ways:
        assert found[way] == found["one process"], way
