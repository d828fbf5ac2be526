"""The numbers of connections that the settings and the memory allow."""

from __future__ import annotations

from typing import Final

from ..model.settings import Limits

# Upper bound of the total number of connections when `limits.connections` is "auto".
_AUTO: Final = 128
# Bytes that one connection may hold at full speed, in this process and in the libraries below.
_MEMORY: Final = 3 << 19


def most_connections(limits: Limits) -> int:
    """Return the largest total number of connections.

    Args:
        limits: Settings. With `connections` = "auto", the number is what fits into `memory` bytes.
    """
    if limits.connections == "auto":
        return max(1, min(_AUTO, limits.buffer_memory // _MEMORY))
    return limits.connections


def per_host(limits: Limits, total: int, parts: int = 1) -> int:
    """Return the largest number of connections to one host.

    Args:
        limits: Settings.
        total: Largest number of connections to all hosts.
        parts: Number of runs that share the number in the settings. Each has at least one connection.
    """
    return total if limits.per_host == "auto" else min(total, max(1, limits.per_host // parts))
