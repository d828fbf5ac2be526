"""Detection of replies that are not the file, and the error for each of them.

Servers refuse a request in many forms (docs/sources.md, "SA-1B link file", "Hugging Face Hub", "Google Drive"
and "How servers misbehave"). These functions judge a reply by its status, headers and first bytes. They do no
I/O and return or raise an error of `model.errors`.
"""

from __future__ import annotations

import re
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

PEEK: Final = 512  # first bytes of a body that are judged: the size of a tar's first header block
REFUSAL_READ: Final = 4096  # bytes of an error reply's body that are read, to find its reason

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529})
_LINK_STATUSES: Final = frozenset({401, 403, 404, 410})
_DEAD_LINK: Final = re.compile(
    rb"URL signature (expired|mismatch)|Request has expired|ExpiredToken|Signature expired|"
    rb"token (is|has) expired|<Code>AccessDenied</Code>\s*<Message>Request has expired",
    re.IGNORECASE,
)
_PAGE: Final = re.compile(
    rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml|error|script)\b", re.IGNORECASE
)
_MARKUP_NAMES: Final = frozenset(
    "html htm xhtml xml svg rss atom php asp aspx jsp meta4 metalink xsd kml xsl xslt plist vue svelte "
    "urdf xacro sdf dae gpx tcx osm eaf musicxml".split()
)
_TEXT_NAMES: Final = _MARKUP_NAMES | frozenset(
    "txt csv tsv json jsonl ndjson md rst yaml yml toml ini cfg log py js css srt vtt ass lst list sh c h "
    "cpp tex bib gitattributes gitignore sha256 md5 sums sql ipynb bpe vocab names ann conll conllu textgrid "
    "pbtxt prototxt proto arff geojson gltf obj mtl ply off xyz pdb fasta fa fastq vcf bed "
    "ts go rs java lua r jl".split()
)
_BINARY_NAMES: Final = frozenset(
    "tar gz tgz bz2 tbz xz txz zst lz4 zip 7z rar jpg jpeg png gif webp bmp tif tiff avif heic mp4 m4v mkv "
    "webm mov avi mp3 wav flac ogg opus m4a npy npz parquet arrow feather safetensors gguf pt pth ckpt h5 "
    "hdf5 onnx tfrecord pkl mdb bin pdf".split()
)


def _suffix(name: str) -> str:
    """Return the last extension of a file name in lower case, without its dot; empty where it has none."""
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[-1].lower() if "." in last else ""


def check_page(name: str, content_type: str, head: bytes, *, sure: bool, fits: bool = False) -> None:
    """Check that a reply is the file, and not a page in its place.

    Args:
        name: The file's name; its extension states which content is plausible.
        content_type: The value of the Content-Type header.
        head: The first bytes of the file; empty where the reply starts at a later byte.
        sure: Whether a digest will verify the bytes. Only a contradiction to the name is an error then.
        fits: Whether the length of the file equals the size that the manifest states.

    Raises:
        NotThePayloadError: The reply is a page.
    """
    suffix = _suffix(name)
    kind = content_type.partition(";")[0].strip().lower()
    sure = sure and suffix not in _BINARY_NAMES
    if suffix in _MARKUP_NAMES or (sure and (fits or suffix in ("", *_TEXT_NAMES))):
        return
    page = kind in ("text/html", "application/xhtml+xml") or bool(_PAGE.match(head))
    texty = kind in (
        "text/plain",
        "application/json",
        "text/xml",
        "application/xml",
        "application/problem+json",
    )
    if not (page or sure) and texty and suffix not in _TEXT_NAMES and suffix and head:
        page = not re.search(rb"[\x00-\x08\x0e-\x1a\x80-\xff]", head)
    if page:
        title = re.search(rb"<title>([^<]{1,80})", head, re.IGNORECASE)
        said = title[1] if title else head[:80]
        quote = f", beginning with {said.decode('utf-8', 'replace').strip()!r}" if said else ""
        raise NotThePayloadError(
            f"{name}: the server sent a page ({kind or 'no content type'}) instead of the file{quote}; "
            "open the link in a browser to see the reason (a login, a quota, a captive portal); "
            "if the page is the file, state its size and digest in the manifest"
        )


def check_coding(request: Request, headers: Mapping[str, str]) -> None:
    """Check that a reply carries the file's own bytes, not an encoding of them.

    Args:
        request: The request that was sent; it accepts only the identity coding.
        headers: The header fields of the reply.

    Raises:
        NotThePayloadError: The reply has a content coding or transfer coding that was not requested.
        NetworkError: The reply contains several ranges (multipart/byteranges).
    """
    for name in ("Content-Encoding", "Transfer-Encoding"):
        words = [word.strip().lower() for word in headers[name].split(",")] if name in headers else ()
        if foreign := [word for word in words if word not in ("", "identity", "chunked")]:
            raise NotThePayloadError(
                f"{_shown(request)} sent the file encoded ({', '.join(foreign)}), although the request "
                "accepts only the unencoded file; check whether a proxy on the way does this"
            )
    if headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        raise NetworkError(f"{_shown(request)} sent several ranges in reply to a request for one")


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
    if re.fullmatch(r"\d{1,9}(\.\d+)?", stated):
        waits.append(float(stated))
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

    Returns:
        RangeNotSatisfiableError for 416, BorrowedLinkSpentError for a refused link that came out of a
        redirect, LinkExpiredError for an expired link, and StatusError for all others.
    """
    shown = _shown(request)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
    if status == 416:
        total = re.fullmatch(r"bytes \*/(\d{1,19})", headers.get("Content-Range", "").strip())
        return RangeNotSatisfiableError(
            f"{shown} answered 416, the file has no byte {request.range.start if request.range else 0}",
            length=int(total[1]) if total else None,
        )
    wait = retry_after(headers, now)
    if status in _PASSING or status >= 520:
        if wait is not None and wait > longest_wait:
            return StatusError(
                f"{shown} answered {status} {phrase} and asks to wait {wait:.0f} s, longer than "
                f"retry.retry_after allows ({longest_wait:.0f} s); run the same command again later",
                status=status,
                remedy=Remedy.FAIL,
            )
        return StatusError(
            f"{shown} answered {status} {phrase}", status=status, remedy=Remedy.RETRY, retry_after=wait
        )
    if status in _LINK_STATUSES and borrowed:
        return BorrowedLinkSpentError(f"{shown}: the link of its redirect was refused ({status})")
    if status in _LINK_STATUSES and _is_dead(request.url, headers, body, now):
        return LinkExpiredError(
            f"{shown} answered {status}, the link has expired; get a fresh link file and run the "
            "same command with it: the download resumes at the same byte"
        )
    return StatusError(
        f"{shown} answered {status} {phrase}{_advice(status)}", status=status, remedy=Remedy.FAIL
    )


def _is_dead(url: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether the body, or the expiry in the URL's query, states that the link has expired."""
    if _DEAD_LINK.search(body):
        return True
    dies = urls.expiry(url)
    return dies is not None and dies < (_date(headers.get("Date", "")) or now)


def _advice(status: int) -> str:
    """Return the end of the message for a permanent status: its likely reason, and what to do."""
    match status:
        case 401:
            return (
                "; the server requires credentials: set a token (HF_TOKEN), pass --header, or add the host "
                "to ~/.netrc"
            )
        case 403:
            return "; the server does not allow this link with these credentials"
        case 404 | 410:
            return "; the server has no such file: check the URL in the manifest"
        case 451:
            return "; the server withholds the file for legal reasons"
        case _:
            return ""


def _shown(request: Request) -> str:
    """Return the file's name and the host, as error messages begin."""
    parts = urlsplit(request.url)
    return f"{request.name or parts.path.rsplit('/', 1)[-1] or '/'}: {parts.hostname}"
