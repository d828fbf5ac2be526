"""Detection of replies that are not the file, and the error for each of them.

Servers refuse a request in many forms (docs/sources.md, "SA-1B link file", "Hugging Face Hub", "Google Drive"
and "How servers misbehave"). These functions judge a reply by its status, headers and first bytes. They do no
I/O and return or raise an error of `model.errors`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from ..model import urls
from ..model.errors import (
    BorrowedLinkSpentError,
    LinkExpiredError,
    NetworkError,
    NotThePayloadError,
    RangeNotSatisfiableError,
    Remedy,
    StatusError,
    TransferError,
)
from ..model.http import Request
from . import sniffing

PEEK: Final = 512  # first bytes of a body that are judged: the size of a tar's first header block
REFUSAL_READ: Final = 4096  # bytes of an error reply's body that are read, to find its reason

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529})
_LINK_STATUSES: Final = frozenset({401, 403, 404, 410})
# Google Cloud Storage answers an expired link with 400 ExpiredToken, as S3 does for one of a session.
_DEAD_STATUSES: Final = _LINK_STATUSES | {400}
_DEAD_LINK: Final = (
    rb"(?i)URL signature (expired|mismatch)|Request has expired|ExpiredToken|Signature expired|"
    rb"token (is|has) expired|<Code>AccessDenied</Code>\s*<Message>Request has expired"
)
_MARKUP_NAMES: Final = frozenset(
    "html htm xhtml xml svg rss atom php asp aspx jsp meta4 metalink xsd kml xsl xslt plist vue svelte "
    "urdf xacro sdf dae gpx tcx osm eaf musicxml".split()
)
_BINARY_NAMES: Final = frozenset(
    "tar gz tgz bz2 tbz xz txz zst lz4 zip 7z rar jpg jpeg png gif webp bmp tif tiff avif heic mp4 m4v mkv "
    "webm mov avi mp3 wav flac ogg opus m4a npy npz parquet arrow feather safetensors gguf pt pth ckpt h5 "
    "hdf5 onnx tfrecord tfrecords pkl pickle mdb bin pdf nc fits fit iso img dmg exe msi deb rpm apk whl jar "
    "egg mat rds las laz dcm nii tflite pb db sqlite woff woff2 ttf otf ico psd jp2 jxl aac wma wmv flv mpg "
    "mpeg doc docx xls xlsx ppt pptx epub".split()
)


# values of Content-Encoding that change no byte, as servers and upload tools write them
_NO_CODINGS: Final = frozenset({"identity", "none", "binary", "utf-8", "utf8", "us-ascii", "aws-chunked"})
_OWN_FORMATS: Final = {
    **dict.fromkeys(("gz", "tgz", "gzip", "svgz", "wgz", "warc"), ("gzip", "x-gzip")),
    **dict.fromkeys(("bz2", "tbz", "tbz2"), ("bzip2", "x-bzip2")),
    **dict.fromkeys(("zst", "tzst"), ("zstd",)),
    **dict.fromkeys(("z", "taz"), ("compress", "x-compress")),
    **dict.fromkeys(("xz", "txz"), ("xz", "x-xz")),
    "br": ("br",),
}
_MISMATCH: Final = rb"(?i)URL signature mismatch"
_FRESH: Final = (
    "get a fresh link file and run the same command with it: the download resumes at the same byte"
)
_EXPIRED: Final = f"the link has expired; {_FRESH}"
_ALTERED: Final = f"the link does not fit its signature: it was altered or cut off; {_FRESH}"
# words by which a refusal with status 403 says that it is meant for these credentials, or for this file
_REASON: Final = (
    rb"(?i)authori[sz]ed|authenticat|access ?denied|permission|credential|log ?in|sign ?in|restricted|gated|"
    rb"private|token|signature|expired|subscri|not allowed"
)
_PAGE_KINDS: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXT_KINDS: Final = _PAGE_KINDS | {"text/plain", "application/json", "text/xml", "application/xml"}
_LONGEST_WAIT: Final = 1e9  # seconds; a server that asks for more asks for ever
_PROBLEM: Final = "application/problem+json"  # RFC 9457
_NO_KINDS: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
# words of a message in place of a file
_MESSAGE: Final = (
    rb"(?i)\b(?:access ?denied|forbidden|unauthori[sz]ed|not authori[sz]ed|permission denied|log ?in|"
    rb"sign ?in|quota|rate limit|too many requests|not found|no such (?:file|key|bucket)|expired|error|"
    rb"exception|temporarily unavailable|internal server|bad request|"
    rb"invalid (?:token|request|signature|link))\b"
)
# ModelScope's API answers each request with status 200 and an object (docs/sources.md, "ModelScope")
_REPO_FILE: Final = r"/api/v1/(?:datasets|models)/.+/repo\?"
_FAILURE: Final = rb'"Success"\s*:\s*false'
# Git LFS specification, "The Pointer": what a repository holds in place of a large file
_POINTER: Final = (
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.+\n)*oid \w+:[0-9a-f]+\nsize (\d{1,18})\n"
)
_LONGEST_MESSAGE: Final = 64 << 10  # bytes; a longer text is no error message


def _suffix(name: str) -> str:
    """Return the last extension of a file name in lower case, without its dot; empty where it has none."""
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[-1].lower() if "." in last else ""


def check_page(
    name: str,
    content_type: str,
    head: bytes | None,
    length: int | None = None,
    size: int | None = None,
    inner: str = "",
) -> None:
    """Check that a reply is the file, and not a page in its place.

    What a reply is follows from its bytes, as browsers decide, and from its label only where there are none.

    Args:
        name: The file's name; its extension states which content is plausible.
        content_type: The value of the Content-Type header.
        head: The first bytes of the file; None where the reply starts at a later byte.
        length: Bytes of the complete file as the server states them, None if it does not.
        size: Bytes of the complete file as they are known from elsewhere, None if they are not.
        inner: The name without a compression that was removed from `head`; empty where none was.

    Raises:
        NotThePayloadError: The reply is a page, or a pointer of Git LFS.
    """
    suffix = _suffix(inner or name)
    if head is None or (size is not None and size == length):
        return
    if pointer := re.match(_POINTER, head):
        raise NotThePayloadError(
            f"{name}: the server sent a Git LFS pointer instead of the file of {int(pointer[1])} bytes; take "
            "the link by which the repository offers the file itself; if the pointer is what you want, state "
            "its size or digest in the manifest"
        )
    if suffix in _MARKUP_NAMES:
        return
    kind = content_type.partition(";")[0].strip().lower()
    if not _is_page(suffix, kind, head, length) or sniffing.is_known_format(head):
        return
    title = re.search(rb"<title>([^<]{1,80})", head, re.IGNORECASE)
    said = title[1] if title else head[:80]
    quote = f", beginning with {said.decode('utf-8', 'replace').strip()!r}" if said else ""
    raise NotThePayloadError(
        f"{name}: the server sent a page ({kind or 'no content type'}) instead of the file{quote}; open the "
        "link in a browser to see the reason (a login, a quota, a captive portal); if the page is what you "
        "want, pass --accept-pages, or state its size or digest in the manifest"
    )


def _is_page(suffix: str, kind: str, head: bytes, length: int | None) -> bool:
    """Return whether bytes of no known format stand in place of a file with this suffix."""
    is_tag = kind in _PAGE_KINDS and sniffing.is_tag(head)
    if is_tag or sniffing.is_markup(head) or (kind == _PROBLEM and suffix != "json"):
        return True
    # without a label, or with one that says nothing, the text itself must read like a message
    says = kind in _NO_KINDS and re.search(_MESSAGE, head) is not None
    if suffix not in _BINARY_NAMES or not (kind in _TEXT_KINDS or says or sniffing.is_json(head)):
        return False  # text with a name that promises nothing else is data
    small = length is None or length <= _LONGEST_MESSAGE
    return small and sniffing.is_text(head) and (bool(head) or kind in _PAGE_KINDS)


def check_envelope(request: Request, head: bytes | None) -> None:
    """Check that a reply of ModelScope is the file, and not an error that it sends with status 200.

    Args:
        request: The request that was sent.
        head: The first bytes of its body, None where it starts at a later byte.

    Raises:
        NotThePayloadError: The reply is an error.
    """
    if head and head[:1] == b"{" and re.search(_REPO_FILE, request.url) and re.search(_FAILURE, head):
        raise NotThePayloadError(
            f"{_shown(request)} sent an error instead of the file: {head[:200].decode('utf-8', 'replace')}"
        )


def uncoded(name: str, headers: Mapping[str, str], head: bytes | None) -> tuple[str, bytes | None]:
    """Return the name and the first bytes that a page has without the coding that its headers state.

    A server may compress the page that it sends in place of `a.tar.gz`: it then begins as the file does.

    Args:
        name: The file's name.
        headers: The header fields of the reply.
        head: The first bytes of its body, None where it starts at a later byte.

    Returns:
        `a.tar` and the decompressed bytes for a page; an empty name and `head` for every other reply.
    """
    if not head or not head.startswith(b"\x1f\x8b") or "Content-Encoding" not in headers:
        return "", head
    try:
        inner = zlib.decompressobj(wbits=31).decompress(head, PEEK)
    except zlib.error:
        return "", head
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _PAGE_KINDS or kind == _PROBLEM or sniffing.is_markup(inner):
        stem, _, suffix = name.rpartition(".")
        return {"tgz": f"{stem}.tar", "svgz": f"{stem}.svg"}.get(suffix.lower(), stem), inner
    return "", head


def content_coding(request: Request, headers: Mapping[str, str]) -> str:
    """Return the coding of a reply's body that can be removed, `gzip` or `deflate`; empty for none.

    A coding that the file's own name states, such as gzip for `a.tar.gz`, is no coding: the server has
    labelled the file's format with it.

    Args:
        request: The request that was sent; it accepts only the identity coding.
        headers: The header fields of the reply.

    Raises:
        NotThePayloadError: The reply has a coding that is not supported.
        NetworkError: The reply contains several ranges (multipart/byteranges).
    """
    if headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        raise NetworkError(f"{_shown(request)} sent several ranges in reply to a request for one")
    foreign = [word for word in _words(headers, "Transfer-Encoding") if word not in ("identity", "chunked")]
    content = [word for word in _words(headers, "Content-Encoding") if word not in _NO_CODINGS]
    if content and content[-1] in _OWN_FORMATS.get(_suffix(request.name), ()):
        content.pop()
    if not foreign and len(content) == 1 and content[0] in ("gzip", "x-gzip", "deflate"):
        return content[0].removeprefix("x-")
    if foreign or content:
        raise NotThePayloadError(
            f"{_shown(request)} sent the file encoded ({', '.join(foreign + content)}), although the request "
            "accepts only the unencoded file; check whether a proxy on the way does this"
        )
    return ""


def _words(headers: Mapping[str, str], name: str) -> list[str]:
    """Return the words of a list header in lower case."""
    return (
        [word.strip().lower() for word in headers[name].split(",") if word.strip()] if name in headers else []
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return how long the server asks the client to wait.

    The sources are `Retry-After`, as seconds or as a date that is counted from the server's own `Date` (RFC
    9110 section 10.2.3), and the Hugging Face Hub's `RateLimit: "resolvers";r=0;t=55`, which means a wait of
    t + 1 seconds (docs/sources.md, "Hugging Face Hub").

    Args:
        headers: The header fields of the reply.
        now: The local time in Unix seconds, used where the reply has no `Date`.

    Returns:
        The longest wait in seconds, None where the server states none.
    """
    waits: list[float] = []
    stated = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,300}(\.\d{1,9})?", stated):
        waits.append(min(float(stated), _LONGEST_WAIT))
    elif stated and (then := _date(stated)) is not None:
        waits.append(max(0.0, then - (_date(headers.get("Date", "")) or now)))
    if (left := quota_pause(headers)) is not None:
        waits.append(left)
    return max(waits, default=None)


def quota_pause(headers: Mapping[str, str]) -> float | None:
    """Return how long a used-up quota lasts.

    Args:
        headers: The header fields of the reply; `RateLimit` states the quota.

    Returns:
        Seconds until the quota is refilled, None where some of it is left or no quota is stated.
    """
    stated = headers.get("RateLimit")
    quota = re.search(r"\br=0\s*;\s*t=(\d{1,6})", stated) if stated else None
    return float(quota[1]) + 1 if quota else None


def _date(text: str) -> float | None:
    """Return an HTTP date in Unix seconds, None where it is not valid."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def refusal(
    request: Request,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    borrowed: bool,
    now: float,
    longest_wait: float,
    fresh: str = "",
) -> TransferError:
    """Return the error for a reply whose status is neither 200 nor 206.

    Args:
        request: The request that was sent.
        status: The status code.
        headers: The header fields of the reply.
        body: The first bytes of its body.
        borrowed: Whether the URL came out of a redirect.
        now: The local time in Unix seconds, used where the reply has no `Date`.
        longest_wait: The longest wait in seconds that the server may ask for (`retry.retry_after`).
        fresh: The host of the URL, if a redirect has led there just now; empty for any other URL. A file
            that is missing there is missing after another redirect, too.

    Returns:
        RangeNotSatisfiableError for 416, BorrowedLinkSpentError for a refused link that came out of a
        redirect, LinkExpiredError for an expired link, and StatusError for all others.
    """
    shown = _shown(request)
    if status == 416:
        return _no_such_range(request, headers)
    leads = f" redirects to {fresh}, which" if fresh and fresh != urls.host(request.url) else ""
    answered = f"{shown}{leads} answered {status} {_phrase(status)}"
    wait = retry_after(headers, now)
    if status in _PASSING or status >= 520 or (status == 202 and wait is not None):
        return _passing(answered, status, wait, longest_wait)
    is_dead = status in _DEAD_STATUSES and _is_dead(request.url, headers, body, now)
    if borrowed and (is_dead or status == 403 or (status in _LINK_STATUSES and not fresh)):
        return BorrowedLinkSpentError(f"{shown}: the link of its redirect was refused ({status})")
    if is_dead:
        why = _ALTERED if re.search(_MISMATCH, body) else _EXPIRED
        return LinkExpiredError(f"{shown} answered {status}, {why}")
    error = StatusError(f"{answered}{_advice(status, headers)}", status=status, remedy=Remedy.FAIL)
    error.unexplained = status == 403 and "WWW-Authenticate" not in headers and not re.search(_REASON, body)
    return error


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"


def _no_such_range(request: Request, headers: Mapping[str, str]) -> RangeNotSatisfiableError:
    """Return the error for status 416."""
    total = re.fullmatch(r"bytes \*/(\d{1,19})", headers.get("Content-Range", "").strip())
    return RangeNotSatisfiableError(
        f"{_shown(request)} answered 416, the file has no byte {request.range.start if request.range else 0}",
        length=int(total[1]) if total else None,
    )


def _passing(answered: str, status: int, wait: float | None, longest_wait: float) -> StatusError:
    """Return the error for a status that a later request may not get.

    Args:
        answered: What the server answered, for the message.
        status: The status code.
        wait: Seconds that the server asks to wait, None for none.
        longest_wait: The longest wait in seconds that it may ask for.
    """
    if wait is None or wait <= longest_wait:
        return StatusError(answered, status=status, remedy=Remedy.RETRY, retry_after=wait)
    return StatusError(
        f"{answered} and asks to wait {wait:.0f} s, longer than retry.retry_after allows "
        f"({longest_wait:.0f} s); run the same command again later",
        status=status,
        remedy=Remedy.FAIL,
    )


def _is_dead(url: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether the body, or the expiry in the URL's query, states that the link has expired."""
    if re.search(_DEAD_LINK, body):
        return True
    dies = urls.expiry(url)
    return dies is not None and dies < (_date(headers.get("Date", "")) or now)


def _advice(status: int, headers: Mapping[str, str]) -> str:
    """Return the end of the message for a permanent status: its likely reason, and what to do."""
    if headers.get("X-Error-Code") == "GatedRepo":  # of the Hugging Face Hub
        return "; the repository is gated: accept its terms on its page, then set HF_TOKEN"
    match status:
        case 202:
            return "; the server has not prepared the file yet: run the same command again later"
        case 401:
            return (
                "; the server requires credentials: pass --header, add the host to ~/.netrc, or, for the "
                "Hugging Face Hub, set HF_TOKEN and name the files with hf://, whose links carry it"
            )
        case 403:
            return "; the server does not allow this link with these credentials"
        case 407:
            return "; put USER:PASSWORD@ before the host of the proxy's address"
        case 404 | 410:
            return "; the server has no such file: check the URL in the manifest"
        case 412:
            return "; the file has changed since it was listed: run the same command again"
        case 451:
            return "; the server withholds the file for legal reasons"
        case _:
            return ""


def _shown(request: Request) -> str:
    """Return the file's name and the host, as error messages begin."""
    parts = urlsplit(request.url)
    return f"{request.name or parts.path.rsplit('/', 1)[-1] or '/'}: {parts.hostname}"
