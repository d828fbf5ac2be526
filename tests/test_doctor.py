"""Tests of `doctor`: it says what limited a run, from what was measured, and what to do."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from osp_fetch.bench.disk import DiskRates
from osp_fetch.bench.doctor import ADVICE, diagnosis
from osp_fetch.model import events
from osp_fetch.model.settings import Settings
from osp_fetch.storage.destination import destination
from osp_fetch.views.board import Board
from osp_fetch.views.bottleneck import LIMITS
from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK, get
from tests.test_docs import compare
from tests.test_schemas import check

MB = 1_000_000
FAST = DiskRates("data", 1000 * MB, 0.001, {"sha256": 2000.0 * MB})


async def test_a_host_that_refuses_connections_is_named_with_its_number_and_what_to_do(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [
        origin.add(f"f{n}", noise(4 << 20, n), always=o.refuse_above(origin, 3, 400_000)) for n in range(4)
    ]
    (tmp_path / "m.txt").write_text("\n".join(rows))
    words = ("m.txt", "-o", "out", *QUICK, "--set", "retry.attempts=50", "--max-duration", "6s")
    assert (await get("get", *words, cwd=tmp_path))[0] == 75
    code, out, _ = await get("doctor", "out", cwd=tmp_path, environment={"COLUMNS": "100"})
    assert code == 0
    assert "was limited by the number of connections that a host allows" in " ".join(out.split())
    assert ADVICE["refused connections"] in " ".join(out.split())
    assert ": 3 connections, refused above 3 (" in out
    assert "no limit" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [".osp-fetch"], "no scratch is left"

    code, out, _ = await get("doctor", "out", "--json", "--set", "limits.rate=5MiB", cwd=tmp_path)
    document = json.loads(out)
    check("doctor", document)
    compare("doctor --json", document, {**document, "disk": None})
    assert {
        "topic": "rate",
        "wrong": False,
        "text": "limited to 5.0 MiB/s",
        "advice": ADVICE["rate limit"],
    } in (document["findings"])


def found(
    folder: Path, run: dict[str, Any] | None, disk: DiskRates | None = FAST
) -> dict[str, dict[str, Any]]:
    """Return the findings by topic, the last one of each; `run` changes the state that a run left."""
    state = folder / ".osp-fetch"
    state.mkdir(exist_ok=True)
    (state / "ledger.sqlite3").touch()
    if run is not None:
        (state / "status.json").write_text(json.dumps({**Board().snapshot(), **run}))
    findings = diagnosis(destination(folder), Settings(), disk)["findings"]
    return {each["topic"]: each for each in findings}


def test_a_folder_without_a_run_is_no_error(tmp_path: Path) -> None:
    assert found(tmp_path, None)["run"]["text"] == "no run has worked here yet"


@pytest.mark.parametrize(
    ("run", "topic", "wrong", "said"),
    [
        ({"bytes_received": 9000 * MB, "seconds": 10.0, "ended": True}, "disk", False, "syncs a small file"),
        ({"bytes_received": 30_000 * MB, "seconds": 10.0, "ended": True}, "hashing", True, "(SHA-256)"),
        ({"bytes_total": 10**18}, "space", True, "are to come"),
        ({"bytes_total": 10}, "space", False, "10 B are to come"),
        ({"links_expire": time.time() + 9e6}, "links", False, "links expire"),
        ({"links_expire": time.time() + 3600, "eta_seconds": 1e6}, "links", True, "the run needs 11 d"),
        ({"links_expire": time.time() - 3600}, "links", True, "links expired"),
        ({"seconds": 100.0, "limited_seconds": {"disk": 80.0}}, "run", False, "by the disk 80 % of its time"),
        ({"seconds": 100.0, "limited_seconds": {"disk": 1.0}}, "run", False, "nothing that is known"),
    ],
)
def test_facts_are_compared_with_what_the_run_needs(
    tmp_path: Path, run: dict[str, Any], topic: str, wrong: bool, said: str
) -> None:
    finding = found(tmp_path, run)[topic]
    assert finding["wrong"] is wrong
    assert said in finding["text"]
    assert finding["advice"] or not wrong


def test_nothing_is_to_come_for_a_run_that_has_everything(tmp_path: Path) -> None:
    whole = {"bytes_total": 10, "bytes_done": 10, "ended": True}
    text = found(tmp_path, whole)["space"]["text"]
    assert text.endswith("may be written before --min-free is reached")
    text = found(tmp_path, {**whole, "bytes_done": 4, "bytes_total_exact": True})["space"]["text"]
    assert text.endswith("; 6 B of the last run are to come")


def test_a_slow_disk_is_marked(tmp_path: Path) -> None:
    run = {"bytes_received": 300 * MB, "seconds": 10.0, "ended": True}
    slow = DiskRates("data", 35 * MB, 0.05, {"sha256": 2000.0 * MB})
    assert found(tmp_path, run, slow)["disk"]["wrong"], "a sync takes 50 ms"
    rows = diagnosis(destination(tmp_path), Settings(), slow)["findings"]
    first = next(each for each in rows if each["topic"] == "disk")
    assert first["wrong"]
    assert first["text"] == "writes and syncs 33.4 MiB/s; the last run received 28.6 MiB/s"
    assert first["advice"] == ADVICE["disk"]


def test_there_is_advice_for_each_cause() -> None:
    assert set(ADVICE) == set(LIMITS)


def test_few_open_files_are_marked(tmp_path: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

    words = [sys.executable, "-m", "osp_fetch", "doctor", str(tmp_path)]
    done = subprocess.run(words, preexec_fn=few, capture_output=True, text=True, check=True)
    (line,) = (each for each in done.stdout.splitlines() if each.startswith("open files"))
    assert line.startswith("open files  ! 400 open files are allowed, enough for ")


def test_a_package_that_the_environment_needs_is_named(
    without: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = without({"apprise"}, "doctor", ".", OSP_FETCH_NOTIFY="ntfy://topic")
    assert "OSP_FETCH_NOTIFY needs apprise, which is not installed" in done.stdout
    assert "pip install 'osp-fetch[notify]'" in done.stdout


def test_a_folder_that_does_not_exist_is_one_sentence(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = command("doctor", "nowhere")
    assert done.returncode == 3
    assert done.stderr == "osp-fetch: nowhere: there is no such folder; give the one that get -o used\n"


def test_a_full_disk_is_a_finding(
    command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    small_disk: Callable[[Path], None],
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    small_disk(place)
    with (place / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    done = command("doctor", place)
    assert done.returncode == 0
    assert "No space left on device" in done.stdout
    assert "open files" in done.stdout, "and the other findings"


def test_the_state_of_a_run_has_what_doctor_reads() -> None:
    board = Board()
    board(events.RunStarted("out"))
    assert {"limited", "limited_seconds", "bytes_per_second", "links_expire"} <= set(board.snapshot())
