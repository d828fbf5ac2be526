"""A check of files of CA certificates; it imports no aiohttp, which reads OpenSSL's variables on import."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..model.errors import SettingsError


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
