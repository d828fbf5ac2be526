"""Tests of `plan` in the place of `get`: it takes every flag, and says what those of a run would do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import trustme

from osp_fetch import entry, fetch_all
from osp_fetch.cli.get import command as get_command
from osp_fetch.cli.plan import command as plan_command
from osp_fetch.inspection.plan import make_plan
from tests.conftest import quick
from tests.origin import Origin, noise
from tests.test_cli import Command

# --state needs a bucket to look at
OPTIONS = [each for each in get_command.params if isinstance(each, click.Option) and each.name != "state"]
# a value for each flag that takes one and does not take just any text
VALUES = {
    "connections": "4", "per_host": "4", "part_size": "1MiB", "limit_rate": "1MiB", "processes": "2",
    "min_free": "0", "on_expired": "exit", "depth": "2", "shard": "0/2", "columns": "url=1", "names": "hash",
    "fan_out": "4", "header": "A: b", "connect_to": "a:1:127.0.0.1:2", "profiles": "none", "form": "files",
    "settings": "limits.per_host=3", "shard_size": "1GiB", "workers": "2", "max_duration": "1h",
    "wait_lock": "1m", "engine": "folder", "address": "auto", "nodes": "2", "failed": "failed.jsonl",
    "report": "report.html", "metrics": "0", "metrics_file": "x.prom", "page": "0", "notify": "json://h",
    "on_event": "cat", "output": "out", "config": "c.toml", "checksums": "SUMS", "digests": "m.csv",
    "mirror": "m.csv", "cacert": "ca.pem", "include": "*", "exclude": "z*", "again": "q*", "into": "in",
    "links": "links.tsv", "links_command": "true", "s3_endpoint": "http://127.0.0.1:1",
    "s3_source_endpoint": "http://127.0.0.1:1", "state": "state",
}  # fmt: skip
RAY = ["--engine", "ray", "--address", "127.0.0.1:9"]  # not "auto": other tests have a cluster
NEEDS = {"page_control": ["--page", "0"], "nodes": RAY, "node_local": RAY}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Make a manifest, and files that flags name."""
    (tmp_path / "m.csv").write_text("http://127.0.0.1:1/a.bin\nhttp://127.0.0.1:1/b.bin\n")
    (tmp_path / "SUMS").write_text(f"{'0' * 64}  a.bin\n")
    (tmp_path / "c.toml").write_text("[limits]\nper_host = 2\n")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def words_of(option: click.Option) -> list[str]:
    name = str(option.name)
    words = [*NEEDS.get(name, []), max(option.opts, key=len)]
    return words if option.is_flag else [*words, VALUES[name]]


def test_it_has_each_parameter_of_get() -> None:
    assert {each.name for each in get_command.params} - {each.name for each in plan_command.params} == set()
    mine = {each.name: each for each in plan_command.params}
    for each in OPTIONS:
        assert mine[each.name].opts == each.opts
        assert mine[each.name].type.name == each.type.name


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: str(option.name))
def test_a_command_line_of_get_can_be_planned(
    option: click.Option, command: Command, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(listed)
    done = command("plan", "m.csv", *words_of(option))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert {each.name for each in listed.iterdir()} <= {"m.csv", "SUMS", "c.toml", "ca.pem", "home"}, (
        "nothing is written"
    )


def test_it_says_what_a_run_would_do(command: Command, listed: Path) -> None:
    words = [
        "--engine",
        "ray",
        "--nodes",
        "3",
        "--max-duration",
        "90m",
        "--processes",
        "2",
        "--failed",
        "f.jsonl",
    ]
    words += [
        "--recheck",
        "--update",
        "--layout",
        "--wait-lock",
        "1m",
        "-q",
        "-v",
        "--on-event",
        "cat >> log",
    ]
    # whatever other tests have started: Ray finds the address of a head that has died
    done = command("plan", "m.csv", "-o", "out", *words, COLUMNS="200", RAY_ADDRESS="127.0.0.1:9")
    rows = {line[:14].strip(): line[14:].strip() for line in done.stdout.splitlines()}
    assert rows["engine"] == "the nodes of this machine's Ray cluster, at most 3 nodes"
    assert rows["stops after"] == "1 h 30 min"
    assert rows["processes"] == "2"
    assert rows["failures"] == "written to f.jsonl"
    assert rows["waits"] == "up to 1 min for another run in the folder"
    assert rows["notices"].startswith("to ")
    assert {"recheck", "update", "layout"} <= set(rows)


def test_names_with_brackets_are_shown_as_they_are(command: Command, listed: Path) -> None:
    (listed / "m.jsonl").write_text(
        '{"url": "http://127.0.0.1:1/a", "path": "a[/b].bin"}\n'
        '{"url": "http://127.0.0.1:1/b", "path": "x[red]b.bin"}\n'
    )
    done = command("plan", "m.jsonl", "-o", "out", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "a[/b].bin, x[red]b.bin" in done.stdout
    got = command("get", "m.jsonl", "-o", "out", "--max-duration", "1s", COLUMNS="200")
    assert "a[/b].bin, x[red]b.bin" in got.stderr


def test_a_port_that_is_taken_is_named(command: Command, listed: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command("plan", "m.csv", "--page", port, "--metrics", port, COLUMNS="200")
    assert f"port {port} of 127.0.0.1 cannot be used now (Address already in use)" in done.stdout
    assert done.stdout.count("cannot be used now") == 2
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--page", "nowhere"], "--page nowhere: expected [HOST:]PORT"),
        (["--page-control"], "--page-control: give --page, too"),
        (["--max-duration", "soon"], "soon"),
        (["--failed", "SUMS"], "holds something else"),
        (["--metrics-file", "x.txt"], "must end in .prom"),
        (["--unpack", "--shard-size", "big", "--format", "webdataset"], "big"),
        (["--layout", "-o", "s3://bucket/x"], "--layout: the file lists"),
        (["--engine", "folder", "--page", "0"], "page does not go with runs that share a folder"),
        (["--engine", "folder", "--failed", "f"], "failed does not go with runs that share a folder"),
        (["--engine", "folder", "--shard", "0/2"], "shard does not go with runs that share a folder"),
        (["--nodes", "3"], "--nodes: it is for nodes of a Ray cluster"),
        (["--join", "--address", "h:1"], "--address: it is for nodes of a Ray cluster"),
        (["--report", "m.csv"], "is no report of osp-fetch"),
    ],
)
def test_what_get_refuses_is_refused(command: Command, listed: Path, words: list[str], said: str) -> None:
    planned, got = command("plan", "m.csv", *words), command("get", "m.csv", *words)
    assert planned.returncode == got.returncode != 0
    assert said in planned.stderr
    assert planned.stderr.splitlines()[-1] == got.stderr.splitlines()[-1]
    assert "already here" not in got.stderr  # the plan is not printed before


def test_a_package_that_a_flag_needs_is_named(
    without: Callable[..., subprocess.CompletedProcess[str]], listed: Path
) -> None:
    done = without({"apprise"}, "plan", "m.csv", "--notify", "json://h")
    assert done.returncode == 2
    assert "pip install 'osp-fetch[notify]'" in done.stderr


@pytest.mark.parametrize("shard", [None, "0/1"])
async def test_what_a_run_publishes_while_the_plan_is_made_is_not_foreign(
    origin: Origin, tmp_path: Path, shard: str | None
) -> None:
    rows = [entry(name, origin.add(name, noise(1000, n))) for n, name in enumerate("ab")]
    assert (await fetch_all(rows[:1], tmp_path, settings=quick())).ok
    loop = asyncio.get_running_loop()

    def again(path: str) -> bool:
        """Publish the second file after the ledger was asked for it."""
        if path == "b":
            time.sleep(1.1)  # the plan looks for ledgers of further runs once a second
            more: dict[str, Any] = {"shard": shard} if shard else {}
            run = fetch_all(rows[1:], tmp_path, settings=quick(), **more)
            asyncio.run_coroutine_threadsafe(run, loop).result()
        return False

    made = await asyncio.to_thread(make_plan, rows, tmp_path, again=again)
    assert (made.present, made.foreign) == (2, [])
