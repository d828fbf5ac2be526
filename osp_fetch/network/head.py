"""Interpretation of a reply's head: the bytes that its body supplies, its validators, its redirect target.

These functions do no I/O. A range is accepted only with exactly one Content-Range header of the right start.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from yarl import URL

from ..model import urls
from ..model.errors import NetworkError, Remedy, StatusError
from ..model.http import Request, Validator
from ..model.ranges import ByteRange
from .connection import PlainReply
from .fallback import Response

_LONGEST: Final = 1 << 60  # bytes; a length above this is an error of the server: no file system holds it
_OVERLAP: Final = 1 << 20  # bytes by which a range may begin too early; they are received in vain
_EXTENDED_NAME: Final = r"(?i)filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]+)"
_NAME: Final = r'(?i)filename\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^;]+))'
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def redirected(name: str, url: str, location: str, *, status: int, downgrade: bool) -> str:
    """Return the absolute URL that a redirect leads to; its query stays byte for byte.

    Args:
        name: The path of the file, for messages.
        url: The URL that was requested.
        location: The value of the Location header, which may be relative; empty if there is none.
        status: The status of the redirect.
        downgrade: Whether a redirect from https to http is allowed.

    Returns:
        The target without its fragment.

    Raises:
        StatusError: The target is no http or https URL, or a forbidden downgrade.
    """
    where = URL(url, encoded=True)
    try:
        # blanks and letters that are not ASCII are encoded as a browser encodes them
        target = URL(urls.encoded(str(where.join(URL(location.strip(), encoded=True)))), encoded=True)
        _, is_valid = (target.host, target.port), True
    except ValueError:
        is_valid = False
    if not location.strip():
        raise StatusError(
            f"{name}: {where.host}: the redirect leads to no http(s) URL: the reply has status {status} and "
            "no Location header",
            status=status,
            remedy=Remedy.FAIL,
        )
    if not is_valid or target.scheme not in ("http", "https") or not target.host:
        raise StatusError(
            f"{name}: {where.host}: the redirect leads to no http(s) URL", status=status, remedy=Remedy.FAIL
        )
    if where.scheme == "https" and target.scheme == "http" and not downgrade:
        raise StatusError(
            f"{name}: {where.host}: the redirect leads from https to plain http at {target.host}, where the "
            'file could be altered on its way; set links.downgrade = "allow" to accept this',
            status=status,
            remedy=Remedy.FAIL,
        )
    return str(target.with_fragment(None)) if "#" in location else str(target)


def stated_name(disposition: str) -> str:
    """Return the file name that a Content-Disposition field states (RFC 6266), empty if it states none.

    Args:
        disposition: The value of the field. `filename*` comes before `filename`.
    """
    if extended := re.search(_EXTENDED_NAME, disposition):
        try:
            return unquote(extended[2], encoding=extended[1] or "utf-8", errors="replace")
        except LookupError:
            return unquote(extended[2], errors="replace")
    match = re.search(_NAME, disposition)
    if match is None:
        return ""
    name = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2].strip()
    try:
        name.encode()
    except UnicodeEncodeError:
        # not UTF-8: what RFC 6266 allows is ISO 8859-1, which browsers read as Windows-1252
        return name.encode("utf-8", "surrogateescape").decode("windows-1252", "replace")
    return name


def validator(response: Response | PlainReply) -> Validator:
    """Return the validators of a reply.

    Args:
        response: A reply whose head was received.

    Returns:
        ETag and Last-Modified; None in place of one that is not ASCII, or is 1024 characters or longer.
    """
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return Validator(_tag(etag), _tag(modified))


def _tag(text: str | None) -> str | None:
    return text if text and text.isascii() and len(text) < 1024 else None


def extent(request: Request, response: Response | PlainReply) -> tuple[ByteRange | None, int | None]:
    """Return which bytes of the file the body supplies.

    A range with status 200 is accepted where Content-Length agrees with Content-Range, as ModelScope sends it
    (docs/sources.md, "ModelScope").

    Args:
        request: The request that was sent.
        response: Its reply, with status 200 or 206.

    Returns:
        The byte range, None for the complete file; and the length of the complete file in bytes, None where
        the server does not state it.

    Raises:
        NetworkError: The headers are contradictory, impossible, or state another range than was requested.
    """
    stated = response.headers.getall("Content-Range", [])
    carried = response.content_length
    if carried is not None and carried > _LONGEST:
        raise NetworkError(f"{request.name}: the server sent an impossible Content-Length, {carried}")
    if response.status == 200 and (not stated or request.range is None or _is_odd_whole(stated, carried)):
        return None, carried
    name = request.name
    match = _CONTENT_RANGE.fullmatch(stated[0].strip()) if len(stated) == 1 else None
    whole = (0, carried, str(carried))
    if request.range is None and match and (int(match[1]), int(match[2]) + 1, match[3]) == whole:
        return None, carried  # an unrequested range that is the complete file
    if request.range is None or match is None:
        raise NetworkError(f"{name}: the partial reply does not have exactly one valid Content-Range")
    start, stop = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if response.status == 200 and carried is not None and carried == total and (start, stop) != (0, total):
        return None, carried
    if start >= stop or (total is not None and not stop <= total <= _LONGEST):
        raise NetworkError(f"{name}: the server sent an impossible Content-Range {stated[0]!r}")
    if (start, stop) == (0, total) and stop > request.range.stop and carried in (None, total):
        return None, total  # the complete file, whatever range was requested
    early = request.range.start - start  # bytes by which the range begins too early; the rest is cut off
    overlaps = 0 < early <= _OVERLAP and request.range.start < stop
    if not overlaps and (early or stop > request.range.stop):
        raise NetworkError(f"{name}: asked for bytes {request.range}, received {start}-{stop}")
    if carried is not None and carried != stop - start:
        raise NetworkError(f"{name}: Content-Length {carried} contradicts Content-Range {stated[0]!r}")
    return ByteRange(start, stop), total


def _is_odd_whole(stated: Sequence[str], carried: int | None) -> bool:
    """Return whether Content-Range means the complete file in a form that is not valid, as `bytes=0-9/9`."""
    return len(stated) == 1 and re.fullmatch(rf"bytes *[= ] *0-\d+/{carried}", stated[0].strip()) is not None
