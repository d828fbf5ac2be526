"""A request and the redirects that it was led through."""

from __future__ import annotations

from dataclasses import field
from urllib.parse import unquote, urlsplit

from ..model.dataclasses import dataclass
from ..model.http import Request
from .connection import PlainReply
from .fallback import Response
from .head import stated_name


@dataclass(slots=True)
class Chain:
    """A request and the redirects that it was led through.

    Attributes:
        request: The request.
        url: The last URL.
        response: Its response.
        pauses: (host, seconds) of each host whose quota is used up.
        headers_sent: Whether every request carried the entry's own headers.
        by_cookie: Whether the last request carried a cookie that a redirect had set.
    """

    request: Request
    url: str
    response: Response | PlainReply = field(init=False)
    pauses: tuple[tuple[str, float], ...] = ()
    headers_sent: bool = True
    by_cookie: bool = False

    @property
    def link(self) -> str:
        """The URL by which the file can be requested again: a cookie's target needs the original link."""
        return self.request.url if self.by_cookie else self.url

    @property
    def borrowed(self) -> bool:
        """Whether `link` came out of a redirect."""
        return not self.by_cookie and (self.request.borrowed or self.url != self.request.url)

    @property
    def name(self) -> str:
        """The file name that the server states, unchecked: by a header or by the redirects; else empty."""
        if name := stated_name(self.response.headers.get("Content-Disposition", "")):
            return name
        return "" if self.url == self.request.url else unquote(urlsplit(self.url).path.rpartition("/")[2])
