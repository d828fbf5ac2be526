"""The proxy of each URL: which one the environment names for it, and whether it can be used."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from ..model.urls import origin, shown

# Schemes of SOCKS proxies → whether the proxy resolves names, as in curl. Desktops write `socks`.
SOCKS: Final[Mapping[str, bool]] = {
    "socks4": False,
    "socks5": False,
    "socks4a": True,
    "socks5h": True,
    "socks": True,
}
_HTTP: Final = ("http", "https")


class Proxies:
    """The proxy of each URL.

    aiohttp can read proxies from the environment itself. It then reads the environment and netrc again for
    each request, which takes longer than a small file.

    Args:
        proxies: Scheme → URL of the proxy, as `urllib.request.getproxies` returns them; a proxy without a
            scheme is an http proxy. `all` is the proxy of every other scheme, `no` a list of hosts that
            need none.

    Raises:
        ValueError: A proxy that http or https URLs would use is not valid, has an unknown scheme, or needs a
            package that is not installed.
    """

    def __init__(self, proxies: Mapping[str, str]) -> None:
        self._proxies = dict(proxies)
        if "no" in self._proxies:  # separated by commas or blanks, and a name may end with a dot, as in curl
            entries = re.split(r"[,\s]+", self._proxies["no"])
            self._proxies["no"] = ",".join(entry.rstrip(".") for entry in entries)
        # Where http and https have proxies of their own, `all` is never used, and may have any form.
        self._of_scheme = {
            scheme: _checked(name, self._proxies[name])
            for scheme in _HTTP
            for name in [scheme if self._proxies.get(scheme) else "all"]
            if self._proxies.get(name) and self._proxies.get("no", "").strip() != "*"
        }
        self._without = _networks(self._proxies.get("no", "")) if self._of_scheme else []
        self._known: dict[tuple[str, str, int | None], str | None] = {}

    def of(self, url: str) -> str | None:
        """Return the URL of the proxy for `url`, None where no proxy is used."""
        if not self._of_scheme:
            return None
        where = origin(url)
        if where not in self._known:
            scheme, name, port = where
            # typeshed declares this function only for macOS and Windows
            bypass = urllib.request.proxy_bypass_environment(f"{name}:{port}", self._proxies)  # type: ignore[attr-defined]
            direct = bypass or _is_within(name, self._without)
            self._known[where] = None if direct else self._of_scheme.get(scheme)
        return self._known[where]

    def socks(self) -> set[str]:
        """Return the URLs of all SOCKS proxies that `of` may return."""
        return {proxy for proxy in self._of_scheme.values() if is_socks(proxy)}


def _networks(text: str) -> list[IPv4Network | IPv6Network]:
    """Return the addresses, and ranges such as `10.0.0.0/8`, in a list of hosts that need no proxy."""
    found = []
    for each in text.split(","):
        with suppress(ValueError):
            found.append(ip_network(each.strip("[]"), strict=False))
    return found


def _is_within(name: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether a host is an address in one of `networks`; names are not looked up, as in curl."""
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return False
    return any(address in network for network in networks)


def is_socks(proxy: str) -> bool:
    """Return whether the URL of a proxy, as `Proxies.of` returns it, is that of a SOCKS proxy."""
    return proxy.partition(":")[0] in SOCKS


def _checked(name: str, text: str) -> str:
    """Return the URL of a proxy, with its scheme in lower case."""
    scheme, found, rest = text.strip().partition("://")
    scheme, rest = (scheme.lower(), rest) if found else ("http", scheme)
    proxy, what = f"{scheme}://{rest}", f"{name}_proxy: {shown(text)}"
    if scheme not in (*_HTTP, *SOCKS):
        known = ", ".join((*_HTTP, *SOCKS))
        raise ValueError(f"{what}: the scheme {scheme}: is not that of a proxy; use one of {known}")
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{what} is not the address of a proxy; write it as {scheme}://HOST:PORT")
    if scheme in SOCKS and find_spec("aiohttp_socks") is None:
        raise ValueError(
            f"{what}: a SOCKS proxy needs aiohttp-socks, which is not installed; run: "
            "pip install 'osp-fetch[socks]'"
        )
    return proxy
