"""Who may see the page: a token, and the name by which the browser asks. No I/O."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from ...model.dataclasses import dataclass
from ...model.errors import SettingsError

_LOCAL: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page listens.

    Attributes:
        host: An address, or a name of this machine.
        port: The port; 0 for the one of the last run in the folder, or a free one.
    """

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, port: int, token: str) -> str:
        """Return the link to the page.

        Args:
            port: The port that was taken.
            token: The token.
        """
        # an address that means every interface is no address to connect to
        host = _LOCAL if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"


def address(text: str) -> Address:
    """Parse `[HOST:]PORT`.

    Raises:
        SettingsError: It is anything else.
    """
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[^:\s/]+):)?(\d{1,5})", text.strip())
    if match is None or int(match[2]) > 65535:
        raise SettingsError(f"--page {text}: expected [HOST:]PORT, such as 8080 or 127.0.0.1:8080")
    return Address((match[1] or _LOCAL).strip("[]"), int(match[2]))


class Access:
    """Decides whether a request may be answered.

    A page of another site can make a browser send requests here. It knows no token, and the cookie is not
    sent along. If its name is made to resolve to this machine (DNS rebinding), the request states that name
    as its Host, which is refused: an address, `localhost` and the names of this machine are taken.

    Args:
        token: The token of the page.
        names: Names of this machine, and the host that the user stated.
        cookie: Name of the cookie that holds the token. It has the port in it, because cookies of a host are
            sent to all of its ports.
    """

    def __init__(self, token: str, names: frozenset[str], cookie: str) -> None:
        self.token, self._names, self.cookie = token, names, cookie

    def knows_host(self, host: str | None) -> bool:
        """Return whether the Host header of a request may name this server."""
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]+)(?::\d+)?", host or "")
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self._names
        return True

    def admits(self, query: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Return whether a request states the token."""
        given = [query.get("token"), cookies.get(self.cookie)]
        return any(each is not None and self._is(each) for each in given)

    def admits_command(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Return whether a request may carry a command: it comes from the page itself.

        A page of another site may send the header and JSON only if this server allows it, which it does not.
        """
        own = (
            headers.get("X-Osp-Fetch") == "1"
            and headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        )
        is_json = headers.get("Content-Type", "").partition(";")[0].strip() == "application/json"
        return own and is_json and self.admits({}, cookies)

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())
