"""A request and the redirects that it was led through."""

from __future__ import annotations

from dataclasses import dataclass, field

from .connection import PlainReply
from .fallback import Response


@dataclass(slots=True)
class Chain:
    """A request and the redirects that it was led through.

    Attributes:
        url: The last URL.
        response: Its response.
        pauses: (host, seconds) of each host whose quota is used up.
        headers_sent: Whether every request carried the entry's own headers.
        by_cookie: Whether the last request carried a cookie that a redirect had set.
    """

    url: str
    response: Response | PlainReply = field(init=False)
    pauses: tuple[tuple[str, float], ...] = ()
    headers_sent: bool = True
    by_cookie: bool = False
