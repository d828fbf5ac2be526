"""Requests to a bucket through aiobotocore: retries, and the translation of errors into ours."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from ...model.errors import (
    CredentialsError,
    DiskFullError,
    FetchError,
    Remedy,
    SettingsError,
    StorageError,
)
from ...model.settings import S3
from .address import BucketAddress

# First and longest pause in seconds before a request is repeated.
_PAUSES: Final = (0.2, 20.0)
# Seconds to connect, and seconds without a byte. S3 sends blanks while it completes an upload.
_TIMEOUTS: Final = (20, 120)
_REFUSED: Final = frozenset(
    "InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken ExpiredTokenException InvalidToken "
    "TokenRefreshRequired UnrecognizedClientException InvalidClientTokenId AuthFailure".split()
)
_FORBIDDEN: Final = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"})
_ELSEWHERE: Final = frozenset(
    "PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException "
    "301 307".split()
)
_FULL: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507", "EntityTooLargeForQuota"}
)
_BUSY: Final = frozenset(
    "SlowDown InternalError ServiceUnavailable RequestTimeout Throttling ThrottlingException BadGateway "
    "RequestThrottled TooManyRequests OperationAborted 429 500 502 503 504".split()
)


class BucketError(StorageError):
    """The store refused a request.

    Attributes:
        code: the code of the S3 API, such as `NoSuchUpload`; the status in digits if the reply had no body.
        status: the HTTP status.
        region: the region of the bucket, if the store has stated it.
    """

    cause = "bucket"

    def __init__(self, message: str, *, code: str, status: int, remedy: Remedy | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code, self.status = code, status


class UnansweredError(StorageError):
    """The store did not answer."""

    remedy = Remedy.ABORT
    cause = "bucket does not answer"


class Bucket:
    """The requests to one bucket.

    Args:
        client: a client of aiobotocore.
        address: the bucket, and the prefix for messages.
        patience: seconds for which a request is repeated while the store does not answer or is busy.
    """

    def __init__(self, client: Any, address: BucketAddress, patience: float) -> None:
        self._client, self.address, self.patience = client, address, patience
        self.conditional = True  # whether the store knows If-None-Match and If-Match for writing
        self.lost: StorageError | None = None  # why nothing more may be asked: another run has the lock

    @property
    def endpoint(self) -> str:
        """The URL of the store."""
        return str(self._client.meta.endpoint_url)

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

    async def _once(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.lost is not None:
            raise self.lost
        if isinstance(body := arguments.get("Body"), io.BytesIO):
            body.seek(0)  # an attempt before has read it
        reply: dict[str, Any] = await getattr(self._client, operation)(
            Bucket=self.address.bucket, **arguments
        )
        return reply

    async def repeated(self, send: Callable[[], Any]) -> Any:
        """Await `send`, and repeat it while the store does not answer or is busy.

        Raises:
            Exception: what `send` raises, if that does not pass in `patience` seconds.
        """
        again = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            stop=stop_after_delay(self.patience),
            wait=wait_random_exponential(*_PAUSES),
            reraise=True,
        )
        return await again(send)

    def _explained(self, error: Exception, what: str) -> Exception:
        """Return what is raised for an error of botocore; a defect is passed on."""
        if isinstance(error, FetchError | asyncio.CancelledError):
            return error
        explained = _of_reply(error, what, self.address.bucket) or _of_connection(error, what, self.endpoint)
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
            arguments |= {ours: page[theirs] for ours, theirs in tokens if page.get(theirs)}


# operation → (argument, member of the reply that it takes) of the next page
_TOKENS: Final = {
    "list_objects_v2": (("ContinuationToken", "NextContinuationToken"),),
    "list_parts": (("PartNumberMarker", "NextPartNumberMarker"),),
    "list_multipart_uploads": (("KeyMarker", "NextKeyMarker"), ("UploadIdMarker", "NextUploadIdMarker")),
}


def is_passing(error: BaseException) -> bool:
    """Return whether a repetition of the request may succeed: the store is busy or did not answer."""
    from botocore import exceptions

    if isinstance(error, UnansweredError):
        return True
    if isinstance(error, BucketError):
        return error.code in _BUSY or error.status in (429, 500, 502, 503, 504)
    if isinstance(error, exceptions.ClientError):
        return _code(error) in _BUSY or _status(error) in (429, 500, 502, 503, 504)
    if isinstance(error, exceptions.ProxyConnectionError):
        return False
    return isinstance(error, _unanswered())


def _unanswered() -> tuple[type[BaseException], ...]:
    """Return the errors of a request without a reply."""
    import aiohttp
    from botocore import exceptions

    return (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.ResponseStreamingError,
        exceptions.IncompleteReadError,
        aiohttp.ClientError,
        asyncio.TimeoutError,
        ConnectionError,
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _of_reply(error: Exception, what: str, bucket: str) -> FetchError | None:
    """Return our error for a reply that refuses a request, None if there was no reply."""
    from botocore import exceptions

    if not isinstance(error, exceptions.ClientError):
        return None
    code, status = _code(error), _status(error)
    said = error.response["Error"].get("Message") or code

    def refused(text: str, remedy: Remedy = Remedy.ABORT) -> BucketError:
        return BucketError(f"{what}: {text}", code=code, status=status, remedy=remedy)

    if code in _REFUSED:
        return CredentialsError(
            f"{what}: the store refuses the credentials ({said}); check AWS_PROFILE, or AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or renew them"
        )
    if code == "NoSuchBucket":
        return refused(f"there is no bucket {bucket!r}; create it, or correct the name")
    if code == "RequestTimeTooSkewed":
        return refused("the clock of this machine differs too much from the store's; set the clock")
    if code in _ELSEWHERE:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response["Error"].get("Region")
        return refused(
            f"the bucket is in the region {region}; set AWS_REGION={region}"
            if region
            else f"the bucket is in another region ({said}); set AWS_REGION"
        )
    if code in _FULL or status == 507:
        return DiskFullError(f"{what}: the store has no space left or its quota is used up ({said})")
    if code in _FORBIDDEN:
        return refused(
            f"the credentials do not allow it ({said}); they need s3:ListBucket, s3:GetObject, s3:PutObject, "
            "s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts",
            Remedy.FAIL,
        )
    if is_passing(error):
        return refused(f"the store is busy ({said}); try again later")
    return refused(f"the store refused it ({code}: {said})", Remedy.FAIL)


def _of_connection(error: Exception, what: str, endpoint: str) -> FetchError | None:
    """Return our error for a request without a reply, None if it is a defect."""
    from botocore import exceptions

    if isinstance(error, _unanswered()):
        why = str(error) or type(error).__name__
        return UnansweredError(
            f"{what}: {endpoint} does not answer ({why}); check the endpoint and the network, and run the "
            "same command again"
        )
    if isinstance(error, exceptions.BotoCoreError):
        return _of_configuration(error, what)
    return None


def _of_configuration(error: Exception, what: str) -> FetchError:
    """Return our error for credentials or settings that botocore cannot use."""
    from botocore import exceptions

    none = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)
    if isinstance(error, none):
        return CredentialsError(
            f"{what}: there are no credentials ({error}); set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    return SettingsError(f"{what}: {error}")


@asynccontextmanager
async def connected(
    address: BucketAddress, settings: S3, connections: int, patience: float
) -> AsyncIterator[Bucket]:
    """Open a client for a bucket. Credentials, region and endpoint are found as every AWS tool finds them.

    Args:
        address: the bucket.
        settings: the endpoint and how the bucket is addressed.
        connections: largest number of connections.
        patience: as in `Bucket`.

    Raises:
        SettingsError: the library is not installed, or its configuration cannot be used.
        CredentialsError: the profile does not exist.
    """
    try:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session
        from botocore import exceptions
    except ImportError:
        raise SettingsError(f"{address}: buckets need a library; run: pip install 'osp-fetch[s3]'") from None
    style = settings.addressing
    session = get_session()
    endpoint = settings.endpoint or None
    own = endpoint or session.get_config_variable("endpoint_url") or _endpoint_of_environment()
    config = AioConfig(
        # a store of one's own seldom has a name for each bucket
        s3={
            "addressing_style": style if style != "auto" else ("path" if own else "auto"),
            # every body carries a checksum; signing it, too, would hash it a second time
            "payload_signing_enabled": False,
        },
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},  # `Bucket` repeats requests
        max_pool_connections=connections,
        connect_timeout=_TIMEOUTS[0],
        read_timeout=_TIMEOUTS[1],
        user_agent_extra="osp-fetch",
    )
    try:
        making = session.create_client(
            "s3", endpoint_url=endpoint, region_name=_region(session, own), config=config
        )
    except (exceptions.BotoCoreError, ValueError) as error:
        raise SettingsError(f"{address}: {error}") from None
    try:
        client = await making.__aenter__()
    except exceptions.ProfileNotFound as error:
        raise CredentialsError(f"{address}: {error}; check AWS_PROFILE") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        raise SettingsError(f"{address}: {error}") from None
    try:
        yield Bucket(client, address, patience)
    finally:
        await making.__aexit__(None, None, None)


def _endpoint_of_environment() -> str | None:
    import os

    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region(session: Any, endpoint: str | None) -> str | None:
    """Return the region for a store of one's own, which seldom has any; None to leave it to botocore."""
    from botocore import exceptions

    try:
        found = session.get_config_variable("region")
    except exceptions.ProfileNotFound:
        return None  # `create_client` reports it
    return None if found else ("us-east-1" if endpoint else None)
