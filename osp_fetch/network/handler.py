"""aiohttp's handler of one connection, for which a broken connection is not the end of a body."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp.client_proto import ResponseHandler


class Handler(ResponseHandler):
    """A handler whose bodies without a length end only with a clean end of their connection.

    aiohttp ends such a body for every reason, so that a file that a reset has cut looks complete.
    """

    def connection_lost(self, exc: BaseException | None) -> None:
        """Fail the body that is being received if the connection is broken, and then do as aiohttp does."""
        # A TLS connection that ends without its closing message raises nothing or an SSLError. Too many
        # servers end like that.
        broken = exc if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else None
        body: aiohttp.StreamReader | None = getattr(self, "_payload", None)
        if broken and body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientOSError(*broken.args))  # before aiohttp wakes the reader
        super().connection_lost(exc)
