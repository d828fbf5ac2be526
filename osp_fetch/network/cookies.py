"""Cookies within one chain of redirects: they go back to the origin that set them, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from ..model import urls
from ..model.dataclasses import dataclass

Origin = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True)
class _Cookie:
    """A cookie, the path below which it applies, and whether it goes over TLS only."""

    value: str
    path: str
    secure: bool


class Cookies:
    """The cookies of one request and its redirects.

    Some servers set a cookie in a redirect to the same link, and check it there.
    """

    def __init__(self, by_origin: Mapping[Origin, Mapping[str, _Cookie]] | None = None) -> None:
        self._by_origin = by_origin or {}

    def with_lines(self, url: str, lines: Iterable[str]) -> Cookies:
        """Return these cookies and those of a reply.

        Args:
            url: The URL that was requested.
            lines: The values of its Set-Cookie fields; those that are not valid are ignored.
        """
        kept = dict(self._by_origin.get(urls.origin(url), {}))
        for line in lines:
            try:
                parsed = SimpleCookie(line)
            except CookieError:
                continue
            for name, morsel in parsed.items():
                if morsel["max-age"] == "0":
                    kept.pop(name, None)
                    continue
                # without a path it applies to the folder of the link (RFC 6265 section 5.1.4)
                path = morsel["path"] if morsel["path"].startswith("/") else _path(url).rpartition("/")[0]
                kept[name] = _Cookie(morsel.coded_value, path.rstrip("/"), bool(morsel["secure"]))
        return Cookies({**self._by_origin, urls.origin(url): kept})

    def apply_to(self, url: str) -> bool:
        """Return whether a cookie goes to `url`."""
        return bool(self._by_origin and self._for(url))

    def _for(self, url: str) -> dict[str, str]:
        path, is_safe = _path(url), url.startswith("https:")
        return {
            name: cookie.value
            for name, cookie in self._by_origin.get(urls.origin(url), {}).items()
            if (path == cookie.path or path.startswith(cookie.path + "/")) and (is_safe or not cookie.secure)
        }

    def added(self, headers: dict[str, str], url: str) -> dict[str, str]:
        """Return `headers` with the cookies for `url`; a Cookie field of the user keeps its own."""
        if not self._by_origin or not (kept := self._for(url)):
            return headers
        own = next((value for name, value in headers.items() if name.lower() == "cookie"), "")
        text = "; ".join([*([own] if own else []), *(f"{name}={value}" for name, value in kept.items())])
        return {**{n: v for n, v in headers.items() if n.lower() != "cookie"}, "Cookie": text}


def _path(url: str) -> str:
    return urlsplit(url).path or "/"
