"""Object stores for tests, and what a bucket holds, seen with a client that is not osp-fetch's."""

from __future__ import annotations

from typing import Any, Protocol


class Store(Protocol):
    """A real object store on the loopback interface.

    Attributes:
        url: the endpoint.
    """

    url: str

    def client(self) -> Any:
        """Return a blocking client of botocore with all rights."""
        ...

    def bucket(self, name: str) -> str:
        """Create a bucket, and return its name."""
        ...


class Held:
    """The content of one bucket.

    Args:
        client: a blocking client of botocore.
        bucket: the name of the bucket.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self.client, self.bucket = client, bucket

    def every(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def data(self, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def uploads(self) -> list[str]:
        """Return the keys of all unfinished multipart uploads."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [row["Key"] for row in found.get("Uploads", [])]

    def put(self, key: str, data: bytes) -> None:
        """Create an object as another program does."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
