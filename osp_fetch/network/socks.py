"""Connections through a SOCKS proxy. Imported only where one is used, because it needs the extra `socks`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp_socks import ProxyType
from python_socks import ProxyConnectionError, ProxyError
from python_socks.async_.asyncio import Proxy

from .connector import Connector
from .proxies import SOCKS

_PORT = 1080  # of a proxy whose URL states none (RFC 1928)


class Unresolved(AbstractResolver):
    """A resolver that returns names as they are, for a proxy that resolves them."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return `host` itself as its only address."""
        return [
            ResolveResult(hostname=host, host=host, port=port, family=socket.AF_INET, proto=0, flags=0),
        ]

    async def close(self) -> None:
        """Do nothing."""


class SocksConnector(Connector):
    """A pool of connections that a SOCKS proxy makes.

    Once the proxy has connected, the socket is as good as a direct one: aiohttp adds TLS, and the fast ways
    work as on any other connection. The connector of aiohttp-socks is not used: it would compare the
    certificate with the address of a `ConnectTo` rule instead of the URL's host, and reports an invalid
    certificate like a network error.

    Args:
        proxy: The URL of the proxy; its scheme is one of `proxies.SOCKS`.
        options: The arguments of `Connector`.
    """

    def __init__(self, proxy: str, **options: Any) -> None:
        parts = urlsplit(proxy)
        if SOCKS[parts.scheme]:
            options["resolver"] = Unresolved()
        super().__init__(**options)
        self._remote = SOCKS[parts.scheme]
        self._kind = ProxyType.SOCKS4 if parts.scheme.startswith("socks4") else ProxyType.SOCKS5
        self._address = parts.hostname or "", parts.port or _PORT
        self._login = unquote(parts.username or "") or None, unquote(parts.password or "") or None

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: aiohttp.ClientRequest,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """Connect to the first of `addr_infos` through the proxy; aiohttp goes on with the next one."""
        host, port = addr_infos[0][4][:2]
        proxy = Proxy(self._kind, *self._address, *self._login, rdns=self._remote)
        try:
            sock = await proxy.connect(str(host), int(port), timeout=timeout.sock_connect)
        except TimeoutError:
            raise
        except ProxyConnectionError as error:
            reason = OSError(error.errno or 0, error.strerror or str(error))
            raise aiohttp.ClientProxyConnectionError(req.connection_key, reason) from error
        except (ProxyError, OSError) as error:
            reason = OSError(getattr(error, "errno", None) or 0, f"the SOCKS proxy: {error}")
            raise client_error(req.connection_key, reason) from error
        try:
            return await self._loop.create_connection(*args, **kwargs, sock=sock)
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except OSError as error:
            raise client_error(req.connection_key, error) from error
