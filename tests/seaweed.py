"""A real object store: one SeaweedFS server for all tests of a process, with the S3 interface."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from osp_fetch.demo.seaweed import KEYS, SeaweedServer
from osp_fetch.demo.seaweed import program as weed

__all__ = ["KEYS", "Seaweed", "client_of", "serving", "weed"]
_READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret"}


def client_of(url: str) -> Any:
    """Return a blocking client of botocore with all rights for the store at `url`."""
    from botocore.config import Config
    from botocore.session import Session

    return Session().create_client(
        "s3", endpoint_url=url, region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )  # fmt: skip


class Seaweed(SeaweedServer):
    """A server that can be killed and started again with what it holds.

    Attributes:
        reader: the credentials of a user who may only read, as variables of the environment.
    """

    reader = _READER

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [_READER])

    def _is_ready(self) -> bool:
        """Return whether an object can be created."""
        try:
            self.bucket("ready")
        except Exception:  # any error of botocore: it is starting
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the server by a signal."""
        self.stop(number)

    def client(self) -> Any:
        """Return a blocking client of botocore with all rights."""
        return client_of(self.url)

    def bucket(self, name: str) -> str:
        """Create a bucket, and check that objects can be written to it. Return its name."""
        client = self.client()
        with suppress(client.exceptions.ClientError):  # it is there already
            client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="ready", Body=b"")
        client.delete_object(Bucket=name, Key="ready")
        return name


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
            server.kill()
