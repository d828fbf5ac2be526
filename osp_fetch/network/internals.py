"""Which undocumented parts of aiohttp the fast ways use, and whether the installed aiohttp has them.

Two fast ways bypass aiohttp's session (`fallback`, `connection`) and its stream (`receiver`). They rest on
the names below, which exist in aiohttp 3.12 to 3.14; pyproject bounds aiohttp to those. Where a name is
missing all the same, `HttpTransport` uses the plain way through `ClientSession` and its stream: slower, and
otherwise equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

USED: Final[Mapping[object, tuple[str, ...]]] = {
    ResponseHandler: (
        *("set_response_params", "read", "set_exception", "should_close", "data_received"),
        *("connection_lost", "eof_received", "pause_reading", "resume_reading"),
    ),
    aiohttp.StreamReader: (
        *("total_bytes", "feed_eof", "read_nowait", "readany", "at_eof", "is_eof"),
        *("exception", "set_exception"),
    ),
    Connection: ("protocol", "transport", "release", "close"),
    aiohttp.ClientRequest: ("connection_key",),
    aiohttp.TCPConnector: ("connect",),
}


def missing(used: Mapping[object, tuple[str, ...]] = USED) -> list[str]:
    """Return the names of `used` that the installed aiohttp does not have, such as `ResponseHandler.read`."""
    return [
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, names in used.items()
        for name in names
        if not hasattr(owner, name)
    ]
