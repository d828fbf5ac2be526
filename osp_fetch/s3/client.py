"""Requests to a bucket through aiobotocore, repeated while the store is busy."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from ..model.errors import FetchError, StorageError
from .address import BucketAddress
from .errors import is_passing, of_connection, of_reply
from .plain_put import PlainPuts

# First and longest pause in seconds before a request is repeated.
_PAUSES: Final = (0.2, 20.0)
# Seconds that a request may still take, with all repetitions, once the run is asked to stop.
_HURRY: Final = 10.0


class Bucket:
    """The requests to one bucket.

    Args:
        client: a client of aiobotocore.
        address: the bucket, and the prefix for messages.
        patience: seconds for which a request is repeated while the store does not answer or is busy.
        reads_only: whether nothing is written to the bucket.
        credentials: what the client signs with, as aiobotocore has it; None if it does not.
    """

    def __init__(
        self,
        client: Any,
        address: BucketAddress,
        patience: float,
        *,
        reads_only: bool = False,
        credentials: Any = None,
    ) -> None:
        self._client, self.address, self.patience = client, address, patience
        self._reads_only = reads_only
        self._puts = PlainPuts(client, credentials)
        self.conditional = True  # whether the store knows If-None-Match and If-Match for writing
        self.lost: StorageError | None = None  # why nothing more may be asked: another run has the lock
        self._hurried = asyncio.Event()
        self._clocks: set[asyncio.Timeout] = set()  # of the requests that are under way

    @property
    def endpoint(self) -> str:
        """The URL of the store."""
        return str(self._client.meta.endpoint_url)

    def hurry(self) -> None:
        """Wait no longer for a store that does not answer: the run is asked to stop."""
        self._hurried.set()
        self.patience = min(self.patience, _HURRY)
        for clock in self._clocks:
            clock.reschedule(asyncio.get_running_loop().time() + _HURRY)

    def watch(self, sent: Callable[[str, str], None]) -> None:
        """Call `sent` with the URL and the Authorization header of every request before it is sent."""

        def before(request: Any, **_: Any) -> None:
            authorization = request.headers.get("Authorization", "")
            text = authorization.decode() if isinstance(authorization, bytes) else authorization
            sent(request.url, text)

        self._client.meta.events.register("before-send.s3", before)

    async def ask(self, operation: str, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request, and repeat it while the store does not answer or is busy.

        Args:
            operation: a method of the client, such as `head_object`.
            what: what it is for, for messages: "s3://b/k: it cannot be read".
            **arguments: arguments of the operation; the bucket is added.

        Raises:
            BucketError: the store refused the request.
            CredentialsError: it refused the credentials, or there are none.
            DiskFullError: it has no space.
            StorageError: it did not answer for `patience` seconds; the remedy is ABORT.
        """

        async def send() -> dict[str, Any]:
            return await self._once(operation, arguments)

        try:
            found: dict[str, Any] = await self.repeated(send)
            return found
        except Exception as error:
            raise self._explained(error, what) from None

    async def once(self, operation: str, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request once, for a caller that has to look before it is repeated.

        Raises:
            FetchError: as `ask`, and where `is_passing` is true for the error.
        """
        try:
            return await self._once(operation, arguments)
        except Exception as error:
            raise self._explained(error, what) from None

    async def put(
        self, what: str, key: str, body: bytes | io.BytesIO, metadata: dict[str, str], **arguments: str
    ) -> dict[str, Any]:
        """Put an object with one request, for a caller that has to look before it is repeated.

        Args:
            what: as for `ask`.
            key: the key.
            body: all bytes, or a file of them.
            metadata: the metadata of the object.
            **arguments: further arguments of `put_object`.

        Returns:
            `ETag`, and the checksum that the store states.

        Raises:
            FetchError: as `once`.
        """

        async def send() -> dict[str, Any]:
            if reply := await self._puts.send(key, _rewound(body), metadata, arguments):
                return reply
            self._puts.watch(key)
            found: dict[str, Any] = await self._client.put_object(
                Bucket=self.address.bucket, Key=key, Body=_rewound(body), Metadata=metadata, **arguments
            )
            return found

        try:
            return await self._timed(send)
        except Exception as error:
            raise self._explained(error, what) from None

    async def _once(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        _rewound(arguments.get("Body"))
        place = {"Bucket": self.address.bucket} | arguments  # a source of a copy may be in another one
        return await self._timed(lambda: getattr(self._client, operation)(**place))

    async def _timed(self, send: Callable[[], Any]) -> dict[str, Any]:
        """Await `send`, within the time that is left once the run is asked to stop."""
        if self.lost is not None:
            raise self.lost
        async with asyncio.timeout(_HURRY if self._hurried.is_set() else None) as clock:
            self._clocks.add(clock)
            try:
                reply: dict[str, Any] = await send()
            finally:
                self._clocks.discard(clock)
        return reply

    async def repeated(self, send: Callable[[], Any]) -> Any:
        """Await `send`, and repeat it while the store does not answer or is busy.

        Raises:
            Exception: what `send` raises, if that does not pass in `patience` seconds.
        """
        again = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            stop=self._is_over,
            wait=wait_random_exponential(*_PAUSES),
            sleep=self._pause,
            reraise=True,
        )
        return await again(send)

    def _is_over(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) >= self.patience

    async def _pause(self, seconds: float) -> None:
        """Wait before a repetition, shorter once the run is asked to stop."""
        if self._hurried.is_set():
            await asyncio.sleep(min(seconds, _PAUSES[0]))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()

    def _explained(self, error: Exception, what: str) -> Exception:
        """Return what is raised for an error of botocore; a defect is passed on."""
        if isinstance(error, FetchError | asyncio.CancelledError):
            return error
        explained = of_reply(error, what, self.address.bucket, reads_only=self._reads_only) or of_connection(
            error, what, self.endpoint
        )
        return explained or error

    async def body(self, what: str, **arguments: Any) -> bytes:
        """Return the complete body of `get_object`, and repeat the request if it breaks off.

        Raises:
            FetchError: as `ask`.
        """

        async def read() -> dict[str, Any]:
            reply = await self._once("get_object", arguments)
            async with reply["Body"] as stream:
                return {"data": await stream.read()}

        try:
            return bytes((await self.repeated(read))["data"])
        except Exception as error:
            raise self._explained(error, what) from None

    async def pages(self, operation: str, what: str, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield the replies of an operation that lists in pages: parts, uploads or objects."""
        tokens = _TOKENS[operation]
        while True:
            page = await self.ask(operation, what, **arguments)
            yield page
            if not page.get("IsTruncated"):
                return
            following = {ours: page[theirs] for ours, theirs in tokens if page.get(theirs)}
            if following.items() <= arguments.items():
                raise StorageError(f"{what}: the store says that there is more, but not where it begins")
            arguments |= following


def _rewound(body: Any) -> Any:
    """Return the body of a request, at its begin: an attempt before may have read it."""
    if isinstance(body, io.BytesIO):
        body.seek(0)
    return body


# operation → (argument, member of the reply that it takes) of the next page
_TOKENS: Final = {
    "list_objects_v2": (("ContinuationToken", "NextContinuationToken"),),
    "list_parts": (("PartNumberMarker", "NextPartNumberMarker"),),
    "list_multipart_uploads": (("KeyMarker", "NextKeyMarker"), ("UploadIdMarker", "NextUploadIdMarker")),
}
