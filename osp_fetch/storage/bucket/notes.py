"""Small objects that osp-fetch keeps for itself."""

from __future__ import annotations

from typing import Final

from ...s3.errors import BucketError
from .objects import own_content
from .resources import BucketResources

_BLOCK: Final = 8 << 20  # bytes of one request for an object that is read in order


class Notes:
    """Small objects of osp-fetch itself, by name. They are replaced without a condition.

    Args:
        shared: what the store shares.
    """

    def __init__(self, shared: BucketResources) -> None:
        self._bucket = shared.bucket

    async def read(self, name: str) -> bytes | None:
        """Return the content of a note, None if there is none.

        Raises:
            StorageError: the store does not answer.
        """
        key = self._bucket.address.own(name)
        try:
            return await self._bucket.body(f"{self._bucket.address}: {key} cannot be read", Key=key)
        except BucketError as error:
            if error.status == 404:
                return None
            raise

    async def write(self, name: str, content: bytes) -> None:
        """Create or replace a note.

        Raises:
            StorageError: the store refuses it, or does not answer.
        """
        key = self._bucket.address.own(name)
        await self._bucket.ask(
            "put_object", f"{self._bucket.address}: {key} cannot be written", Key=key, **own_content(content)
        )
