"""Translation of botocore's errors into ours."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..model.errors import (
    CredentialsError,
    DiskFullError,
    FetchError,
    Remedy,
    SettingsError,
    StorageError,
)

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


_READING: Final = "s3:ListBucket and s3:GetObject; --s3-unsigned is for public buckets, and for no others"
_WRITING: Final = (
    "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and "
    "s3:ListMultipartUploadParts"
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


def of_reply(error: Exception, what: str, bucket: str, *, reads_only: bool = False) -> FetchError | None:
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
        needed = _READING if reads_only else _WRITING
        return refused(f"the credentials, if any, do not allow it ({said}); it needs {needed}", Remedy.FAIL)
    if is_passing(error):
        return refused(f"the store is busy ({said}); try again later")
    return refused(f"the store refused it ({code}: {said})", Remedy.FAIL)


def of_connection(error: Exception, what: str, endpoint: str) -> FetchError | None:
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
