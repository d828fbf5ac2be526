"""Where connections go: name resolution, and curl's --connect-to."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult


@dataclass(frozen=True, slots=True)
class ConnectTo:
    """Connect to `to_host:to_port` where a URL says `host:port`, like curl's --connect-to.

    The URL, the Host header and the certificate's name stay the URL's. Empty or 0 matches any, and
    keeps the URL's own where it stands on the right.
    """

    host: str
    port: int
    to_host: str
    to_port: int

    @classmethod
    def parse(cls, text: str) -> ConnectTo:
        """Read `HOST:PORT:HOST:PORT`; raises ValueError for anything else."""
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]*):(\d*):(\[[^\]]+\]|[^:]*):(\d*)", text)
        if match is None:
            raise ValueError(f"{text!r} is not HOST:PORT:HOST:PORT")
        host, port, to_host, to_port = match.groups()
        return cls(host.strip("[]").lower(), int(port or 0), to_host.strip("[]"), int(to_port or 0))


class Resolver(AbstractResolver):
    def __init__(self, rules: Sequence[ConnectTo]) -> None:
        self._rules = rules
        self._real = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        for rule in self._rules:
            if rule.host in ("", host.lower()) and rule.port in (0, port):
                return await self._real.resolve(rule.to_host or host, rule.to_port or port, family)
        return await self._real.resolve(host, port, family)

    async def close(self) -> None:
        await self._real.close()
