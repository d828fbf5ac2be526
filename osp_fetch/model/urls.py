"""Pure functions on URLs: the identity of the file behind a link, its expiry, and its secrets."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
# A link that `encoded` leaves as it is: most links of ten million rows match, at a tenth of the cost.
_ENCODED: Final = re.compile(
    r"https?://[a-z0-9.-]+(?::\d+)?(?:/[\w.~!$&'()*+,;=:@%/-]*)?"
    r"(?:\?[\w.~!$&'()*+,;=:@%/?|{}\[\]-]*)?",
    re.ASCII,
)
_SAFE_PATH: Final = "!$&'()*+,/:;=@[]|%~\\^"  # characters of a path that a browser sends as they are
_SAFE_QUERY: Final = _SAFE_PATH + "?`{}"


def encoded(link: str) -> str:
    """Return `link` as a browser sends it (WHATWG URL Standard, "URL parsing").

    Blanks, controls and non-ASCII characters are percent-encoded as UTF-8, a host with non-ASCII letters
    becomes its IDNA form, and scheme and host are lower-case. What is encoded already stays byte for byte.

    Args:
        link: an http(s) link, as a person or a table states it.

    Returns:
        The link; any other text is returned without the blanks around it.
    """
    if _ENCODED.fullmatch(link):
        return link
    link = re.sub(r"[\t\r\n]", "", link.strip("".join(map(chr, range(33)))))
    match = re.fullmatch(r"(?is)(https?)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", link)
    if match is None:
        return link
    scheme, authority, path, query, fragment = match.groups()
    made = f"{scheme.lower()}://{_encoded_authority(authority)}{_quoted(path, _SAFE_PATH)}"
    if query is not None:
        made += "?" + _quoted(query, _SAFE_QUERY)
    return made if fragment is None else f"{made}#{_quoted(fragment, _SAFE_QUERY)}"


def _quoted(text: str, safe: str) -> str:
    # a lone surrogate stands for a byte that is not UTF-8: that byte itself is encoded
    return quote(text, safe=safe, encoding="utf-8", errors="surrogateescape")


def _encoded_authority(authority: str) -> str:
    userinfo, at, place = authority.rpartition("@")
    if place.isascii():
        return f"{userinfo}{at}{place.lower()}"
    import idna

    name, colon, port = place.partition(":")
    try:
        return f"{userinfo}{at}{idna.encode(name, uts46=True).decode()}{colon}{port}"
    except idna.IDNAError:
        return authority  # refused later, as no valid host


# Parameters that sign a request or carry a credential. They change from one issue of a link to the next while
# the file stays the same. Each set applies only if the query contains all names of its first element, because
# a name such as `se` or `policy` alone may select the file.
_SIGNATURES: Final[tuple[tuple[frozenset[str], frozenset[str]], ...]] = tuple(
    (frozenset(marks.split()), frozenset(f"{marks} {others}".split()))
    for marks, others in (
        # Meta's CDN, also every name that begins with `_nc_` (docs/sources.md, "SA-1B link file")
        ("oh oe", "ccb"),
        # AWS Signature Version 4, and Google's V4
        ("x-amz-signature", "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders "
         "x-amz-security-token x-amz-content-sha256 x-amz-user-agent"),
        ("x-goog-signature", "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires "
         "x-goog-signedheaders"),
        # AWS V2, Google's V2, Alibaba's OSS, CloudFront
        ("signature expires", "awsaccesskeyid googleaccessid ossaccesskeyid security-token "
         "x-amz-security-token policy key-pair-id"),
        ("signature policy key-pair-id", ""),
        ("x-oss-signature", "x-oss-signature-version x-oss-credential x-oss-date x-oss-expires "
         "x-oss-security-token ossaccesskeyid"),
        # Tencent's COS
        ("q-signature", "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list "
         "x-cos-security-token"),
        # Azure's shared access signatures (service, account, user delegation)
        ("sig sv", "se st sp sr spr sip ss srt si sdd skoid sktid skt ske sks skv saoid suoid scid"),
        # names that are a signature or a credential by themselves
        *((name, "") for name in (
            "token", "access_token", "auth_token", "sas_token", "jwt", "auth_key", "api_key", "apikey",
            "sig", "hdnts", "hdnea", "hdntl", "signature", "x-amz-security-token", "x-amz-signature",
        )),
    )
)  # fmt: skip
_EXPIRY_BESIDE: Final = frozenset({"token", "access_token", "auth_token", "signature", "sig", "jwt"})


@lru_cache(maxsize=1024)
def _parts(url: str) -> tuple[str, str, str, str]:
    """Return scheme, authority without userinfo, path and query; 10× faster than `urlsplit`, once per row."""
    match = _PARTS.match(url)
    return (match[1].lower(), match[2].lower(), match[3], match[4] or "") if match else ("", "", url, "")


def source_key(url: str, *, exact: bool = False) -> str:
    """Return a key that identifies the file behind `url`.

    Links that are issued again for one file differ only in signing parameters, and share a key. All other
    parameters (`id`, `file`, `path`, unknown names) may select the file and belong to the key. They are
    stored as a hash, because an unknown parameter may be a secret.

    Args:
        url: the link.
        exact: whether signing parameters belong to the key, too.

    Returns:
        `HOST[:PORT]/PATH`, followed by `?` and 16 hex digits if a query remains.
    """
    place = _place(_root(url))
    if "?" not in url and "#" not in url:
        names = url.split("/", 3)
        if len(names) > 3 and names[0] in ("http:", "https:") and not names[1]:
            return f"{place}/{names[3]}"  # the common case: 4× faster than the regular expression
    _, _, path, query = _parts(url)
    kept = query if exact or not query else _unsigned(query)
    if not kept:
        return place + path
    return f"{place}{path}?{hashlib.sha256(kept.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _unsigned(query: str) -> str:
    """Return `query` without its signing parameters; the others stay unchanged and in order."""
    pairs = [(pair.partition("=")[0].lower(), pair) for pair in query.split("&")]
    names = {name for name, _ in pairs}
    signing: set[str] = set()
    for marks, members in _SIGNATURES:
        if marks <= names:
            signing |= members
    if {"oh", "oe"} <= names:
        signing |= {name for name in names if name.startswith("_nc_")}
    if signing & _EXPIRY_BESIDE:
        signing |= {"expires", "expiry"}
    return "&".join(pair for name, pair in pairs if name not in signing)


def _root(url: str) -> str:
    """Return the scheme and authority of `url`, or `url` itself if it has no path."""
    return "/".join(url.split("/", 3)[:3])


@lru_cache(maxsize=1024)
def _place(root: str) -> str:
    """Return the host of `root`, and its port unless that is 80 or 443."""
    _, name, port = origin(root)
    return name if port in (80, 443, None) else f"{name}:{port}"


def leads_to(url: str, key: str, *, exact: bool = False) -> bool:
    """Return whether `key` is the source key of `url`; see `source_key`.

    Args:
        url: the link.
        key: a stored source key.
        exact: whether the key was made with `exact`.
    """
    # Most keys equal the link without its scheme, and a run over a finished tree compares every row. A link
    # with a query is excluded, because a query that imitates a hash must not match.
    return (url.partition("://")[2] == key and "?" not in url) or source_key(url, exact=exact) == key


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the origin of `url`: scheme, host and port (RFC 6454). Credentials never leave an origin."""
    scheme, authority, _, _ = _parts(url)
    return _origin(scheme, authority)


@lru_cache(maxsize=1024)
def _origin(scheme: str, authority: str) -> tuple[str, str, int | None]:
    name, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        name, port = authority.rstrip(":"), ""
    return scheme, name, int(port) if port else _DEFAULT_PORTS.get(scheme)


def host(url: str) -> str:
    """Return `host:port` of `url`, the unit to which the concurrency limit applies."""
    return _host(_root(url))


def name_of(host: str) -> str:
    """Return the name of `host:port`."""
    return host.rpartition(":")[0]


@lru_cache(maxsize=1024)
def _host(root: str) -> str:
    _, name, port = origin(root)
    return f"{name}:{port}"


_EXPIRIES: Final = range(946_684_800, 7_258_118_400)  # Unix seconds from the year 2000 to the year 2200
# Parameters beside which `expires` is the time at which a link expires. Some may select the file, too.
_SIGNING: Final = frozenset({"signature", "sig", "token", "hmac", "key-pair-id", "hash", "md5", "sign"})


def expiry(url: str) -> float | None:
    """Return the time at which a signed link expires.

    Known forms: fbcdn `oe` (hexadecimal), AWS `X-Amz-Date` + `X-Amz-Expires`, Google `X-Goog-Date` +
    `X-Goog-Expires`, CloudFront and old S3 `Expires`, Azure `se`.

    Returns:
        Unix seconds before the year 2200, or None if the link does not state such a time. Without a
        signature, `expires` may mean something else, so that a time before the year 2000 counts as none.
    """
    stated = _stated_expiry(url)
    if stated is None:
        return None
    when, is_signed = stated
    when = when / 1000 if when >= 1000 * _EXPIRIES.start else when  # some count milliseconds
    return when if (0 if is_signed else _EXPIRIES.start) < when < _EXPIRIES.stop else None


def _stated_expiry(url: str) -> tuple[float, bool] | None:
    """Return the time at which a link expires as it states it, and whether it has a signature."""
    try:
        query = {k.lower(): v for k, v in parse_qsl(urlsplit(url).query)}
        if "oe" in query and "oh" in query:
            return float(int(query["oe"], 16)), True
        for prefix in ("x-amz-", "x-goog-"):
            if prefix + "date" in query and prefix + "expires" in query:
                begun = datetime.strptime(query[prefix + "date"], "%Y%m%dT%H%M%SZ")
                return begun.replace(tzinfo=UTC).timestamp() + int(query[prefix + "expires"]), True
        if "expires" in query:
            return float(int(query["expires"])), not _SIGNING.isdisjoint(query)
        if "se" in query and "sig" in query:
            ends = datetime.fromisoformat(query["se"])
            return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp(), True
    except (ValueError, OverflowError):
        return None
    return None


# Redaction. The rules do not assume a well-formed address: mistyped addresses are printed, too. Messages
# quote what servers send: no rule may take more than linear time, so repeated parts have a largest length.
_SCHEME: Final = r"(?<![\w+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/+)"
# `scheme://user:password@` with any number of slashes, also with `@` inside the password; `host:port/path` is
# not userinfo
_USERINFO: Final = (
    _SCHEME + r"(?!(?:localhost|[^\s/:@.]{0,255}\.[^\s/:@]{0,255}|\[[0-9A-Fa-f:.]{0,64}\]):\d{1,5}[/?#])"
    r"(?:[^\s/:@\"'<>]*:[^\s\"'<>]*@|[^\s/:@\"'<>]*@)"
)
_BARE_USERINFO: Final = r"(?<![^\s\"'<>(=/])[^\s/:@\"'<>(=]+:(?!/)[^\s/\"'<>]+@(?=[\w\[])"
_QUOTED: Final = r"(?P<quote>['\"])(?P<text>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote)"
_QUERY: Final = r"(?:(?<=\S)[?#](?=[^\s?#\"'<>,;)\]])|[?#](?=[\w.~%-]+=))[^\s\"'<>]*"
_LOOSE_PAIR: Final = r"(?<=[\s&;])(?P<name>[\w.~%-]+)=[^\s\"'<>]*(?=&)|(?<=&)(?P<other>[\w.~%-]+)=[^\s\"'<>]*"
_SECRET_PAIR: Final = (
    r"(?i)(?<![A-Za-z0-9])(?P<name>oh|oe|sig|hmac|signature|policy|key-pair-id|pass|passwd|password|secret|credential|"
    r"(?:[\w-]{0,64}[_-])?(?:token|api[_-]?key|secret[_-]?key|access[_-]?key|auth[_-]?key|signature|credential)|apikey|"
    r"awsaccesskeyid|x-(?:amz|goog|oss)-[a-z-]{1,64})=[^&\s\"'<>]+"
)
_TOKEN: Final = r"(?i)\b(bearer\s+|basic\s+)[^\s\"',]+|\bhf_[A-Za-z0-9]{6,}"


def redact(text: str) -> str:
    """Return `text` without secrets: query, fragment and userinfo of addresses, bearer and hub tokens.

    In doubt it hides text. An address with blanks is recognised completely only between quotes; use `shown`
    for a value that is known to be an address.
    """
    text = re.sub(_QUOTED, _redacted_quote, text)
    text = re.sub(_USERINFO, lambda m: m["scheme"] + "…@", text)
    text = re.sub(_BARE_USERINFO, "…@", text)
    text = re.sub(_QUERY, lambda m: m[0][0] + "…", text)
    text = re.sub(_LOOSE_PAIR, lambda m: (m["name"] or m["other"]) + "=…", text)
    text = re.sub(_SECRET_PAIR, lambda m: m["name"] + "=…", text)
    return re.sub(_TOKEN, lambda m: (m[1] or "hf_") + "…", text)


def _redacted_quote(match: re.Match[str]) -> str:
    text = match["text"]
    return match["quote"] + (shown(text) if _ADDRESS.match(text) else text) + match["quote"]


_ADDRESS: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/|[^\s/]*:[^\s/]*@")


def shown(address: str) -> str:
    """Return a URL or SOURCE, as the user typed it, in a form that is safe to print.

    Text after the first `?` or `#` is dropped. Userinfo is dropped: the text between the scheme and the last
    `@` if it contains a colon, else up to the first `@` before a slash.
    """
    match = re.match(r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/+)?", address)
    scheme = (match["scheme"] or "") if match else ""
    rest = address.lstrip()[len(scheme) :]
    host = re.match(
        r"(?:localhost|[^\s/:@?#.]{0,255}\.[^\s/:@?#]{0,255}|\[[0-9A-Fa-f:.]{0,64}\]):\d{1,5}(?=[/?#]|$)",
        rest,
    )
    user = None if host else re.match(r"[^/@]*:.*@|[^/@]*@", rest, re.DOTALL)
    if user:
        rest = "…@" + rest[user.end() :]
    cut = re.search(r"[?#]", rest)
    if cut:
        rest = rest[: cut.start()] + f"{cut[0]}…"
    rest = re.sub(_SECRET_PAIR, lambda m: m["name"] + "=…", re.sub(_BARE_USERINFO, "…@", rest))
    return re.sub(_TOKEN, lambda m: (m[1] or "hf_") + "…", scheme + rest)
