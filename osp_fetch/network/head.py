"""What the head of a reply says: which bytes its body supplies, which state of the file, where else to look.

Nothing here is asked, read or opened. A range is believed only with one Content-Range of the right start.
"""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

from ..model.errors import NetworkError, Remedy, StatusError
from ..model.http import Request, Validator
from ..model.ranges import ByteRange
from .connection import PlainReply
from .fallback import Response

_LONGEST: Final = 1 << 60  # bytes; no file is longer, and no file system could hold it
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def redirected(url: str, location: str, *, downgrade: bool) -> str:
    """The absolute URL that a redirect from `url` leads to; its query stays byte for byte."""
    where = URL(url, encoded=True)
    try:
        target = where.join(URL(location, encoded=location.isascii()))
        _ = target.host, target.port
    except ValueError:
        location = ""
    if not location or target.scheme not in ("http", "https") or not target.host:
        raise StatusError(f"{where.host}: it redirects to no http(s) address", status=302, remedy=Remedy.FAIL)
    if where.scheme == "https" and target.scheme == "http" and not downgrade:
        raise StatusError(
            f"{where.host}: it redirects from https to plain http at {target.host}, which anyone on "
            'the way could alter; links.downgrade = "allow" takes it all the same',
            status=302,
            remedy=Remedy.FAIL,
        )
    return str(target.with_fragment(None)) if "#" in location else str(target)


def validator(response: Response | PlainReply) -> Validator:
    """The validators of a reply; one that is not ASCII, or endless, is none."""
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return Validator(_tag(etag), _tag(modified))


def _tag(text: str | None) -> str | None:
    return text if text and text.isascii() and len(text) < 1024 else None


def extent(request: Request, response: Response | PlainReply) -> tuple[ByteRange | None, int | None]:
    """Which bytes the body supplies (None: the whole file), and the length of the whole.

    A range with status 200 is believed where Content-Length agrees with Content-Range, as
    ModelScope sends it (FACTS section 4).
    """
    stated = response.headers.getall("Content-Range", [])
    carried = response.content_length
    if carried is not None and carried > _LONGEST:
        raise NetworkError(f"{request.name}: an impossible Content-Length, {carried}")
    if response.status == 200 and (not stated or request.range is None):
        return None, carried
    name = request.name
    match = _CONTENT_RANGE.fullmatch(stated[0].strip()) if len(stated) == 1 else None
    if request.range is None and match and (int(match[1]), int(match[2]) + 1) == (0, carried):
        return None, carried  # a range that nobody asked for, and that is the whole file
    if request.range is None or match is None:
        raise NetworkError(f"{name}: a partial answer without the one Content-Range that explains it")
    start, stop = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if response.status == 200 and carried == total and (start, stop) != (0, total):
        return None, carried
    if start >= stop or (total is not None and not stop <= total <= _LONGEST):
        raise NetworkError(f"{name}: an impossible Content-Range {stated[0]!r}")
    if start != request.range.start or stop > request.range.stop:
        raise NetworkError(f"{name}: asked for bytes {request.range}, got {start}-{stop}")
    if carried is not None and carried != stop - start:
        raise NetworkError(f"{name}: Content-Length {carried} contradicts Content-Range {stated[0]!r}")
    return ByteRange(start, stop), total
