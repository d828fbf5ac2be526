"""Is this answer the file, or a page that stands where the file should be?

Servers say "no" in many dresses (FACTS sections 2, 3, 6 and 7). This module reads a reply's status,
headers and first bytes, opens nothing, and names what it saw as one of our errors.
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

PEEK: Final = 512  # first bytes that decide; a tar's first header block
REFUSAL_READ: Final = 4096  # bytes of an error's body that are read, for its reason

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
    last = name.rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[-1].lower() if "." in last else ""


def check_page(name: str, content_type: str, head: bytes, *, sure: bool, fits: bool = False) -> None:
    """Raise NotThePayloadError where a page answers for the file `name`.

    `head`: the file's first bytes, empty where the reply starts further on. `sure`: a digest will
    judge the bytes, so that only what contradicts the name is refused. `fits`: the file that is offered has
    the size that the manifest states.
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
        quote = f", which begins {said.decode('utf-8', 'replace').strip()!r}" if said else ""
        raise NotThePayloadError(
            f"{name}: a page ({kind or 'no content type'}) came instead of the file{quote}; "
            "open the link in a browser to see what the server wants (a login, a quota, a captive portal); "
            "if that is the file, state its size and digest in the manifest"
        )


def check_coding(request: Request, headers: Mapping[str, str]) -> None:
    """Raise NotThePayloadError for a coding that was not asked for: its bytes are not the file's."""
    for name in ("Content-Encoding", "Transfer-Encoding"):
        words = [word.strip().lower() for word in headers[name].split(",")] if name in headers else ()
        if foreign := [word for word in words if word not in ("", "identity", "chunked")]:
            raise NotThePayloadError(
                f"{_shown(request)} sent the file coded ({', '.join(foreign)}) though identity was "
                "asked for; a proxy on the way may do that"
            )
    if headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        raise NetworkError(f"{_shown(request)} sent several ranges in answer to one")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to be left alone, or None.

    `Retry-After` as seconds or as a date, counted from the server's own `Date` (RFC 9110 section
    10.2.3), and the hub's `RateLimit: "resolvers";r=0;t=55` (FACTS section 3): wait t + 1.
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
    """Seconds until a used-up quota is filled again, None while some of it is left."""
    stated = headers.get("RateLimit")
    quota = re.search(r"\br=0\s*;\s*t=(\d{1,6})", stated) if stated else None
    return float(quota[1]) + 1 if quota else None


def _date(text: str) -> float | None:
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
    """The error that an answer with another status than 200 or 206 amounts to.

    `body`: its first bytes. `now`: our clock in Unix seconds, used where the server shows none.
    """
    shown = _shown(request)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
    if status == 416:
        total = re.fullmatch(r"bytes \*/(\d{1,19})", headers.get("Content-Range", "").strip())
        return RangeNotSatisfiableError(
            f"{shown} has nothing at byte {request.range.start if request.range else 0}",
            length=int(total[1]) if total else None,
        )
    wait = retry_after(headers, now)
    if status in _PASSING or status >= 520:
        if wait is not None and wait > longest_wait:
            return StatusError(
                f"{shown} answered {status} {phrase} and asks to wait {wait:.0f} s, longer than "
                f"retry.retry_after allows ({longest_wait:.0f} s); run again later",
                status=status,
                remedy=Remedy.FAIL,
            )
        return StatusError(
            f"{shown} answered {status} {phrase}", status=status, remedy=Remedy.RETRY, retry_after=wait
        )
    if status in _LINK_STATUSES and borrowed:
        return BorrowedLinkSpentError(f"{shown}: the link that it redirected to is refused ({status})")
    if status in _LINK_STATUSES and _is_dead(request.url, headers, body, now):
        return LinkExpiredError(
            f"{shown} answered {status}, the link has expired; get a fresh link file and run the "
            "same command with it: the work goes on at the same byte"
        )
    return StatusError(
        f"{shown} answered {status} {phrase}{_advice(status)}", status=status, remedy=Remedy.FAIL
    )


def _is_dead(url: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    if _DEAD_LINK.search(body):
        return True
    dies = urls.expiry(url)
    return dies is not None and dies < (_date(headers.get("Date", "")) or now)


def _advice(status: int) -> str:
    match status:
        case 401:
            return "; the server wants credentials: set a token (HF_TOKEN) or pass --header"
        case 403:
            return "; the server refuses this link to these credentials"
        case 404 | 410:
            return "; nothing is there: check the URL in the manifest"
        case 451:
            return "; withheld for legal reasons"
        case _:
            return ""


def _shown(request: Request) -> str:
    parts = urlsplit(request.url)
    return f"{request.name or parts.path.rsplit('/', 1)[-1] or '/'}: {parts.hostname}"
