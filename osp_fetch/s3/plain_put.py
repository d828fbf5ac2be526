"""PutObject as a plain signed request, without the events, rules and parsers of botocore.

They take more time than all else that is done for a small object.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import quote

from ..model.dataclasses import dataclass

# arguments of `put_object` → header
_HEADERS: Final = {
    "ContentMD5": "Content-MD5",
    "ChecksumCRC64NVME": "x-amz-checksum-crc64nvme",
    "ChecksumCRC32C": "x-amz-checksum-crc32c",
    "IfMatch": "If-Match",
    "IfNoneMatch": "If-None-Match",
}
# members of the reply → header; `ETag` is always there
_REPLIED: Final = {name: _HEADERS[name] for name in ("ChecksumCRC64NVME", "ChecksumCRC32C")}
_SIGNED: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request, ")
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
# Refusals in a row after which the client sends all requests: the store may want what only the client knows.
_REFUSALS: Final = 5
_SAID: Final = re.compile(rb"<(Code|Message)>([^<]{1,500})</")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a client puts its objects: the URL before the quoted key, and the region of the signature."""

    base: str
    region: str


class PlainPuts:
    """Sends PutObject requests that look like those of a client.

    The first object has to be put by the client itself: its request shows the URL and the signature. Others
    go over the client's connections, with the signature of botocore. Without keys, and where a store wants
    another kind of signature, the client has to send all of them.

    Args:
        client: a client of aiobotocore.
        credentials: the credentials that it signs with, as aiobotocore has them; None if it does not.
    """

    def __init__(self, client: Any, credentials: Any) -> None:
        self._client, self._credentials = client, credentials
        self._sender = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._place: _Place | None = None
        self._refusals = 0  # in a row
        self._key: ContextVar[str | None] = ContextVar("key", default=None)
        if credentials is not None and self._sender is not None:
            client.meta.events.register("before-send.s3.PutObject", self._learn)

    def watch(self, key: str) -> None:
        """Learn from the request that this task makes the client send for `key`."""
        self._key.set(None if self._place else key)

    def _learn(self, request: Any, **_: Any) -> None:
        key, authorization = self._key.get(), request.headers.get("Authorization", b"")
        self._key.set(None)
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        signed, end = _SIGNED.match(text), quoted(key or "")
        if key and signed and request.url.endswith("/" + end):
            self._place = _Place(request.url.removesuffix(end), signed[1])

    async def send(
        self, key: str, body: Any, metadata: dict[str, str], arguments: dict[str, str]
    ) -> dict[str, Any] | None:
        """Put an object, and return the reply as the client would.

        Args:
            key: the key.
            body: `bytes`, or a file of `Body`.
            metadata: the metadata of the object.
            arguments: further arguments of `put_object`.

        Returns:
            The reply. None if the client has to send the request: nothing was learned yet, or the store has
            refused it, and the client knows what the refusal means.

        Raises:
            ClientError: the store is busy.
            BotoCoreError: the connection failed.
        """
        place = self._place
        if place is None or self._sender is None or self._refusals >= _REFUSALS:
            return None
        if not arguments.keys() <= _HEADERS.keys():
            return None
        request = await self._signed(place, key, body, metadata, arguments)
        reply = await self._sender.send(request)
        if reply.status_code in _BUSY:
            raise _busy(reply.status_code, await reply.content)
        if reply.status_code != 200 or "etag" not in reply.headers:
            self._refusals += 1
            return None
        self._refusals = 0
        found = {name: reply.headers[header] for name, header in _REPLIED.items() if header in reply.headers}
        return {"ETag": reply.headers["etag"], **found}

    async def _signed(
        self, place: _Place, key: str, body: Any, metadata: dict[str, str], arguments: dict[str, str]
    ) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        config = self._client.meta.config
        headers = {
            "User-Agent": config.user_agent,
            **{_HEADERS[name]: value for name, value in arguments.items()},
            **{f"x-amz-meta-{name}": value for name, value in metadata.items()},
        }
        request = AWSRequest("PUT", place.base + quoted(key), headers=headers, data=body)
        request.context["client_config"] = config  # states whether the body is signed
        keys = await self._credentials.get_frozen_credentials()
        S3SigV4Auth(keys, "s3", place.region).add_auth(request)
        return request.prepare()


def quoted(key: str) -> str:
    """Return a key as the URLs of botocore have it."""
    return quote(key, safe="/~")


def _busy(status: int, body: bytes) -> Exception:
    from botocore.exceptions import ClientError

    said = {name.decode(): text.decode("utf-8", "replace") for name, text in _SAID.findall(body)}
    reply = {"Error": {"Code": str(status), **said}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = ClientError(reply, "PutObject")
    return error
