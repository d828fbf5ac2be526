"""A second object store: moto's server as a process, which keeps everything in memory."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.seaweed import client_of

_PATIENCE = 60.0  # seconds until it has to answer


class Moto:
    """A store at `url`. It checks no credentials, and forgets everything when it ends.

    Attributes:
        url: the endpoint.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self) -> Any:
        """Return a blocking client of botocore."""
        return client_of(self.url)

    def bucket(self, name: str) -> str:
        """Create a bucket, and return its name."""
        self.client().create_bucket(Bucket=name)
        return name


def is_installed() -> bool:
    """Return whether moto and its server are installed."""
    return all(importlib.util.find_spec(name) for name in ("moto", "flask"))


@contextmanager
def serving() -> Iterator[Moto]:
    """Start the server, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        store, until = Moto(f"http://127.0.0.1:{port}"), time.monotonic() + _PATIENCE
        while True:
            try:
                store.bucket("ready")
                break
            except Exception:  # any error of botocore: it is starting
                assert process.poll() is None, "moto's server has ended"
                assert time.monotonic() < until, "moto's server does not answer"
                time.sleep(0.3)
        yield store
    finally:
        process.kill()
        process.wait()
