"""The undocumented parts of aiohttp that the fast paths use, and a check that they are installed.

One fast path bypasses aiohttp's session (`fallback`, `connection`), the other its stream (`receiver`). They
need the names in `USED`, which exist in aiohttp 3.12 to 3.14; pyproject.toml restricts aiohttp to these
versions. If a name is missing all the same, `HttpTransport` uses `ClientSession` and its stream, which is
slower and behaves the same otherwise. `--connect-to` and SOCKS proxies override two methods of the connector,
which have no such way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

# class → its names that osp_fetch uses
USED: Final[Mapping[object, tuple[str, ...]]] = {
    ResponseHandler: (
        *("set_response_params", "read", "set_exception", "should_close", "data_received"),
        *("connection_lost", "eof_received", "pause_reading", "resume_reading", "_reading_paused"),
    ),
    aiohttp.StreamReader: (
        *("total_bytes", "feed_eof", "read_nowait", "readany", "at_eof", "is_eof"),
        *("exception", "set_exception"),
    ),
    Connection: ("protocol", "transport", "release", "close"),
    aiohttp.ClientRequest: ("connection_key",),
    aiohttp.TCPConnector: ("connect", "_resolve_host", "_wrap_create_connection"),
}


def missing(used: Mapping[object, tuple[str, ...]] = USED) -> list[str]:
    """Return the names that the installed aiohttp does not have, such as `ResponseHandler.read`.

    Args:
        used: Class → names of its attributes.
    """
    return [
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner, names in used.items()
        for name in names
        if not hasattr(owner, name)
    ]
