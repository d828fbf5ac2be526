"""What a URL tells about itself: which file it means, when it dies, and what of it is secret."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


# a query with one of these is a signature: issued anew for the same file
_SIGNED: Final = re.compile(
    r"(?i)(?:^|&)(?:oh|sig|signature|policy|key-pair-id|expires|token|access_token|x-(?:amz|goog)-[a-z-]+)="
)


@lru_cache(maxsize=1024)
def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, authority without userinfo, path, query. `urlsplit` takes ten times as long, once a row."""
    match = _PARTS.match(url)
    return (match[1].lower(), match[2].lower(), match[3], match[4] or "") if match else ("", "", url, "")


def source_key(url: str) -> str:
    """The host and path of `url`, and its query where that is no signature: which file it means.

    What stays when a signed link is issued anew: six generations of SA-1B's link file differ in nothing
    but the query (FACTS section 2). Of another query only a hash is kept, for it might be secret.
    """
    place = _place(_root(url))
    if "?" not in url and "#" not in url:
        names = url.split("/", 3)
        if len(names) > 3 and names[0] in ("http:", "https:") and not names[1]:
            return f"{place}/{names[3]}"  # most links; a pattern takes four times as long
    _, _, path, query = _parts(url)
    if not query or _SIGNED.search(query):
        return place + path
    return f"{place}{path}?{hashlib.sha256(query.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _root(url: str) -> str:
    """`url` without its path, or with it where there is no more than that."""
    return "/".join(url.split("/", 3)[:3])


@lru_cache(maxsize=1024)
def _place(root: str) -> str:
    """Its host, and its port where that is no usual one."""
    _, name, port = origin(root)
    return name if port in (80, 443, None) else f"{name}:{port}"


def leads_to(url: str, key: str) -> bool:
    """Whether `key` is the source key of `url`."""
    # most are written alike, and a run over a finished tree asks for every row
    return url.partition("://")[2] == key or source_key(url) == key


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454), the border that credentials never cross."""
    scheme, authority, _, _ = _parts(url)
    return _origin(scheme, authority)


@lru_cache(maxsize=1024)
def _origin(scheme: str, authority: str) -> tuple[str, str, int | None]:
    name, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        name, port = authority.rstrip(":"), ""
    return scheme, name, int(port) if port else _DEFAULT_PORTS.get(scheme)


def host(url: str) -> str:
    """`host:port`, the unit by which connections are counted."""
    return _host(_root(url))


@lru_cache(maxsize=1024)
def _host(root: str) -> str:
    _, name, port = origin(root)
    return f"{name}:{port}"


def expiry(url: str) -> float | None:
    """When a signed link dies, in Unix seconds; None where the link does not say.

    Known forms: fbcdn `oe` (hex), AWS `X-Amz-Date` + `X-Amz-Expires`, Google `X-Goog-…` alike,
    CloudFront and old S3 `Expires`, Azure `se`.
    """
    try:
        query = {k.lower(): v for k, v in parse_qsl(urlsplit(url).query)}
        if "oe" in query and "oh" in query:
            return float(int(query["oe"], 16))
        for prefix in ("x-amz-", "x-goog-"):
            if prefix + "date" in query and prefix + "expires" in query:
                begun = datetime.strptime(query[prefix + "date"], "%Y%m%dT%H%M%SZ")
                return begun.replace(tzinfo=UTC).timestamp() + int(query[prefix + "expires"])
        if "expires" in query:
            return float(int(query["expires"]))
        if "se" in query and "sig" in query:
            return datetime.fromisoformat(query["se"]).timestamp()
    except (ValueError, OverflowError):
        return None
    return None


_URL: Final = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^/\s?#]*@)?(?P<rest>[^\s?#\"'<>]*)"
    r"(?P<query>\?[^\s\"'<>]*)?",
    re.IGNORECASE,
)
_PAIR: Final = re.compile(
    r"(?i)\b(oh|oe|sig|signature|policy|key-pair-id|token|access_token|api_key|x-(?:amz|goog)-[a-z-]+)=[^&\s\"'<>]+"
)
_TOKEN: Final = re.compile(r"(?i)\b(bearer\s+|basic\s+)[^\s\"',]+|\bhf_[A-Za-z0-9]{6,}")


def redact(text: str) -> str:
    """`text` without anything secret: no query, fragment or userinfo of a URL, no bearer token."""
    text = _URL.sub(lambda m: m["scheme"] + m["rest"] + ("?…" if m["query"] else ""), text)
    text = _PAIR.sub(lambda m: m[1] + "=…", text)
    return _TOKEN.sub(lambda m: (m[1] or "hf_") + "…", text)
