"""Credentials of a netrc file, chosen for each request by the host that it is sent to."""

from __future__ import annotations

import base64
import netrc
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from ..model import urls
from ..model.dataclasses import dataclass
from ..model.http import Request

_PUBLIC: Final = frozenset({"user-agent", "accept", "accept-language", "referer", "range"})
_SECRET: Final = 6  # bytes from which a word of a header may be a secret


@dataclass(frozen=True, slots=True)
class Credentials:
    """Values of the Authorization header (Basic, RFC 7617) by host.

    Args:
        hosts: `host` or `host:port` in lower case → value of the header. IPv6 addresses have no brackets.
        default: the value for every other host; None for none.
    """

    hosts: Mapping[str, str] = field(default_factory=dict, repr=False)
    default: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.hosts or self.default)

    def of(self, url: str, *, home: bool) -> str | None:
        """Return the value of the Authorization header for `url`, None for none.

        Args:
            url: an absolute URL. Credentials inside it take precedence, and the result is then None.
            home: whether the user named the URL's origin. `default` applies to no other: a redirect could
                lead to any host.
        """
        if "@" in url.split("/", 3)[2]:
            return None
        _, name, port = urls.origin(url)
        name = name.strip("[]")
        return self.hosts.get(f"{name}:{port}") or self.hosts.get(name) or (self.default if home else None)


def read_netrc(environment: Mapping[str, str]) -> tuple[Credentials, str | None]:
    """Return the credentials of the user's netrc file, and a sentence if it cannot be used.

    Args:
        environment: the environment variables; `NETRC` names a file in place of `~/.netrc`.

    Returns:
        The credentials, none if there is no file; and None, or why the file is ignored.
    """
    named = environment.get("NETRC")
    place = Path(named or "~/.netrc")
    try:
        read = netrc.netrc(str(place.expanduser()))
    except (FileNotFoundError, RuntimeError):  # the user may have no home
        if not named:
            return Credentials(), None
        return Credentials(), f"NETRC names {place}, which does not exist; no credentials are taken from it"
    except netrc.NetrcParseError as error:
        # the parser's own message may quote a password
        line = f" near line {error.lineno}" if error.lineno else ""
        return Credentials(), f"{place} is ignored: it is not a valid netrc file{line}; correct it there"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        return Credentials(), f"{place} is ignored: it cannot be read ({why})"
    # an entry without login and password only groups macros of ftp
    stated = {name: entry for name, entry in read.hosts.items() if entry[0] or entry[2]}
    made = {name.lower().strip("[]"): _basic(entry[0], entry[2]) for name, entry in stated.items()}
    default = made.pop("default", None)
    return Credentials(made, default), None


def without_userinfo(url: str) -> tuple[str, str]:
    """Return an absolute URL without the credentials in it, and these as they are written; empty for none."""
    match = re.match(r"([^/?#]+//)([^/?#]*)@", url)
    return (match[1] + url[match.end() :], match[2]) if match else (url, "")


def with_userinfo(url: str, userinfo: str) -> str:
    """Return an absolute URL with credentials as `without_userinfo` returns them."""
    scheme, _, rest = url.partition("//")
    return f"{scheme}//{userinfo}@{rest}"


def authorization(userinfo: str) -> str:
    """Return the Authorization header's value for the credentials of a URL: in UTF-8, as curl sends them."""
    login, _, password = userinfo.partition(":")
    return "Basic " + base64.b64encode(unquote_to_bytes(login) + b":" + unquote_to_bytes(password)).decode()


def without_secrets(head: bytes, request: Request) -> bytes:
    """Return the first bytes of a page with stars for the secrets of the request, which it may have copied.

    Args:
        head: The bytes.
        request: The request. Values of its headers are replaced, and the credentials in its URL.
    """
    secrets = [value.encode() for name, value in request.headers if name.lower() not in _PUBLIC]
    _, userinfo = without_userinfo(request.url)
    secrets += [unquote_to_bytes(part) for part in userinfo.split(":")]
    words = {word for value in secrets for word in (value, *re.split(rb"[\s;,=:]+", value))}
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= _SECRET:
            head = head.replace(word, b"*" * len(word))
    return head


def _basic(login: str, password: str | None) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password or ''}".encode()).decode()
