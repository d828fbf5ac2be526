"""The error for a request that got no reply, from the exceptions of aiohttp, asyncio and the system."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Final

import aiohttp

from ..model import urls
from ..model.errors import NetworkError, Remedy, StatusError, TransferError, Unreachable, unreachable
from .body import reason

_NO_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

_WORDS: Final = {Unreachable.NO_NAME: "no such name", Unreachable.REFUSED: "connection refused"}
_NOT_VALID: Final = (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)


def failure(name: str, url: str, error: BaseException, *, proxy: str | None = None) -> TransferError:
    """Return the error for a request that got no reply, or one that is not valid HTTP.

    Args:
        name: The path of the file, for the message.
        url: The URL that was requested.
        error: What was raised instead of a reply.
        proxy: The URL of the proxy that the request went through. The failure may be that of the proxy.

    Returns:
        An `UnreachableError` with the kind of the failure and with the host. A host whose reply is not valid
        has answered: this costs the file, and says nothing of others.
    """
    host = urls.host(url)
    if isinstance(error, _NOT_VALID) and not isinstance(error, aiohttp.ClientHttpProxyError):
        return NetworkError(f"{name}: {host} answered, but not with valid HTTP ({_reason(error)})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _refused_by_proxy(name, host, urls.host(proxy or ""), error.status)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return unreachable(name, host, Unreachable.CERTIFICATE, reason(error.certificate_error))
    if proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError):
        why = f"the proxy {urls.host(proxy)}: {_reason(error)}; check http_proxy, https_proxy and all_proxy"
        return unreachable(name, host, Unreachable.SILENT, why)
    kind = Unreachable.SILENT if proxy is not None else _kind(error)
    why = "no answer in time" if isinstance(error, TimeoutError) else _WORDS.get(kind) or _reason(error)
    return unreachable(name, host, kind, why)


def _reason(error: BaseException) -> str:
    """Return the message of an error, without what aiohttp adds to that of the system."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, (socket.gaierror, ssl.SSLError)):
        return os.strerror(cause.errno).lower()
    if cause is not error:  # aiohttp's own message contains objects
        return reason(cause) if str(cause) not in ("", "None", "[None]") else "the TLS handshake failed"
    return reason(error)


def _refused_by_proxy(name: str, host: str, proxy: str, status: int) -> TransferError:
    """Return the error for a proxy that makes no tunnel to the host; it says nothing of the host."""
    text = f"{name}: the proxy {proxy} answered {status} to the request for a tunnel to {host}"
    if status == 407:
        text += "; put USER:PASSWORD@ before the host of the proxy's address (https_proxy, all_proxy)"
    if status >= 500:
        return NetworkError(f"{text}; check the proxy")
    return StatusError(text, status=status, remedy=Remedy.FAIL)


def _kind(error: BaseException) -> Unreachable:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, socket.gaierror):
        return Unreachable.NO_NAME if cause.errno in _NO_NAME else Unreachable.SILENT
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return Unreachable.REFUSED
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable.SILENT
    closed = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError)
    return Unreachable.DROPPED if isinstance(error, closed) else Unreachable.SILENT
