"""CA certificates: the TLS context of a transport, a check of files, and an import of aiohttp without them.

The module itself imports no aiohttp, which reads OpenSSL's variables on import.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from ..model.errors import SettingsError

_PLACES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL's variables for the system's certificates


def import_aiohttp() -> None:
    """Import aiohttp without what a run may not need; this saves 40 ms and more.

    On import aiohttp makes two TLS contexts, and would read the system's certificates for both. They trust no
    server then; requests use the context of `Tls`. It would also import aiodns, which the resolver of this
    package imports for the first name that it looks up; aiohttp's own resolver uses threads then. Only a
    process that runs no other code over aiohttp may call this, before it starts threads.
    """
    kept = {name: os.environ[name] for name in _PLACES if name in os.environ}
    os.environ.update(dict.fromkeys(_PLACES, os.devnull))
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    defers_aiodns = modules.setdefault("aiodns", None) is None  # an import finds no such module
    try:
        import aiohttp  # noqa: F401
    finally:
        if defers_aiodns:
            del modules["aiodns"]
        for name in _PLACES:
            del os.environ[name]
        os.environ.update(kept)


class Tls:
    """The TLS options of requests. The context takes 20 ms; the first request that may need it makes it.

    aiohttp's own contexts may be without certificates, see `import_aiohttp`.

    Args:
        cafile: File of additional certificate authorities in PEM form, None for the system's alone.
    """

    def __init__(self, cafile: str | None) -> None:
        self._cafile = cafile
        self._context: ssl.SSLContext | None = None

    def of(self, url: str, proxy: str | None) -> ssl.SSLContext | bool:
        """Return the TLS options of a request: a context, True where no TLS is used.

        Args:
            url: The URL of the request.
            proxy: The URL of its proxy, None for none.
        """
        if proxy is None and url[:6].lower() != "https:":
            return True
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
            if self._cafile:
                self._context.load_verify_locations(self._cafile)
        return self._context


def check_certificates(name: str, place: str) -> None:
    """Check that `place` is a file of certificates in PEM form.

    Args:
        name: The option or variable that names it, for the message.
        place: The path of the file.

    Raises:
        SettingsError: There is no such file, or it holds no certificate.
    """
    if not Path(place).is_file():
        raise SettingsError(f"{name}: {place} is not a file; name a file of CA certificates (PEM)")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(place)
    except OSError as error:  # SSLError is one, too
        why = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"{name}: {place} cannot be used ({why})") from None
