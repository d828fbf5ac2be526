"""The checks that a change has to pass, as sessions of nox: `nox` runs all, `nox -s docs` runs one.

Each session has a virtual environment of its own below `.nox/`, with the versions that `requirements.txt`
pins.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

PINS = ("-c", "requirements.txt")

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "lint", "types", "docs", "package"]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests. Arguments after `--` go to pytest."""
    session.install(*PINS, "-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    session.install(*PINS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    session.install(*PINS, "-e", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages into `site/`. Arguments after `--` go to mkdocs, such as `--site-dir DIR`."""
    session.install(*PINS, "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, and use the wheel in an environment that holds nothing else."""
    # The build runs without isolation: an isolated one takes the newest hatchling instead of the pinned one.
    session.install(*PINS, "build", "hatchling", "twine")
    work = Path(session.create_tmp()).absolute()
    dist, environment = work / "dist", work / "wheel"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    session.run("python", "-m", "venv", "--clear", str(environment))
    wheel = next(dist.glob("*.whl"))
    session.run(str(environment / "bin" / "pip"), "install", "-q", *PINS, str(wheel), external=True)
    command = str(environment / "bin" / "osp-fetch")
    # outside the source tree, so that the wheel alone provides the package and its presets
    with session.chdir(work):
        session.run(command, "demo", "--fast", external=True)
        session.run(command, "config", "show", "-c", "sa1b", external=True)
