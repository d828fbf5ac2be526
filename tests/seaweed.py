"""A real object store: one SeaweedFS server for all tests of a process, with the S3 interface."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
_READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret"}
_PATIENCE = 60.0  # seconds until it has to answer


def weed() -> str | None:
    """Return the path of the server, None if it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    """Return ports that are free, and whose gRPC port, 10,000 above, is free, too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        if port < 55_000 and port not in found:
            with socket.socket() as other:
                try:
                    other.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
            found.append(port)
    return found


class Seaweed:
    """A server that can be killed and started again with what it holds.

    Attributes:
        url: the endpoint of the S3 interface.
        reader: the credentials of a user who may only read, as variables of the environment.
    """

    reader = _READER

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        master, volume, filer, s3 = _free_ports(4)
        self.url = f"http://127.0.0.1:{s3}"
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        users = {
            "identities": [
                {"name": "all", "credentials": [_pair(KEYS)], "actions": everything},
                {"name": "reader", "credentials": [_pair(_READER)], "actions": ["Read", "List"]},
            ]
        }
        (folder / "s3.json").write_text(json.dumps(users))
        (folder / "data").mkdir(exist_ok=True)
        self._words = [
            str(weed()), "server", "-dir", str(folder / "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1",
            "-s3", "-s3.config", str(folder / "s3.json"), "-s3.port", str(s3), "-master.port", str(master),
            "-volume.port", str(volume), "-filer.port", str(filer), "-master.volumeSizeLimitMB", "64",
            "-volume.max", "4000", "-master.telemetry=false", "-s3.port.iceberg", "0", "-s3.port.lance", "0",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it creates an object."""
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(self._words, stdout=log, stderr=log, cwd=self._folder)
        log.close()
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            try:
                self.bucket("ready")
                return
            except Exception:  # any error of botocore: it is starting
                time.sleep(0.3)
        raise AssertionError((self._folder / "log").read_text()[-2000:])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the server by a signal."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait()

    def client(self) -> object:
        """Return a blocking client of botocore with all rights."""
        from botocore.config import Config
        from botocore.session import Session

        return Session().create_client(
            "s3", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip

    def bucket(self, name: str) -> str:
        """Create a bucket, and check that objects can be written to it. Return its name."""
        client = self.client()
        with suppress(client.exceptions.ClientError):  # type: ignore[attr-defined]  # it is there already
            client.create_bucket(Bucket=name)  # type: ignore[attr-defined]
        client.put_object(Bucket=name, Key="ready", Body=b"")  # type: ignore[attr-defined]
        client.delete_object(Bucket=name, Key="ready")  # type: ignore[attr-defined]
        return name


def _pair(keys: dict[str, str]) -> dict[str, str]:
    return {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}


@contextmanager
def serving() -> Iterator[Seaweed]:
    """Start a server in a temporary folder, and end it."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        server = Seaweed(Path(folder))
        try:
            server.start()
            yield server
        finally:
            if server._process is not None and server._process.poll() is None:
                server.kill()
