"""Readers of the values of settings: sizes, durations, counts, choices, names. Each raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, Literal

Auto = Literal["auto"]

_SIZE_UNITS: Final = {"": 1, "b": 1} | {
    unit + suffix: (1024 if suffix != "b" else 1000) ** power
    for power, unit in enumerate("kmgt", start=1)
    for suffix in ("", "ib", "b")
}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*(?:/s)?\s*")


def quantity(value: object, units: Mapping[str, float], what: str) -> float:
    """Parse a number with a unit.

    Args:
        value: a number, or text such as `"64MiB"`.
        units: factor by unit in lower case; "" for a number without one.
        what: what is expected, for the message.

    Raises:
        ValueError: `value` is anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{value!r} is not {what}")
    return float(match[1]) * units[match[2].lower()]


def size(value: object) -> int:
    """Parse a size, or a rate such as `"20MiB/s"`.

    Args:
        value: `67108864`, `"64MiB"` or `"64M"` (both binary), or `"64MB"` (decimal).

    Returns:
        The number of bytes.

    Raises:
        ValueError: `value` is not a size.
    """
    return int(
        quantity(value, _SIZE_UNITS, 'a size; write a number of bytes, or a size with a unit such as "64MiB"')
    )


def seconds(value: object) -> float:
    """Parse a duration.

    Args:
        value: `90`, `"90s"`, `"1.5m"`, `"2h"`, `"1d"` or `"100ms"`.

    Returns:
        The number of seconds.

    Raises:
        ValueError: `value` is not a duration.
    """
    return quantity(
        value, _TIME_UNITS, 'a time; write a number of seconds, or a time with a unit such as "30s"'
    )


def count(value: object) -> int:
    """Parse a whole number of at least 1.

    Args:
        value: an integer, or its decimal digits as text.

    Raises:
        ValueError: `value` is anything else.
    """
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{value!r} is not a whole number of at least 1")


def plain_text(value: object) -> str:
    """Return text as it is."""
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not text")


def or_auto(read: Callable[[object], int]) -> Callable[[object], int | Auto]:
    """Return a reader that takes "auto" beside what `read` takes."""

    def read_or_auto(value: object) -> int | Auto:
        if value == "auto":
            return "auto"
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "auto"') from None

    return read_or_auto


def one_of(*words: str) -> Callable[[object], str]:
    """Return a reader that takes one of `words`."""

    def read(value: object) -> str:
        if value in words:
            return str(value)
        raise ValueError(f"{value!r} is not one of {', '.join(words)}")

    return read


def file_mode(value: object) -> str:
    """Parse the mode of a file: "umask", or octal digits such as "0664", which may come as the number 664."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if text == "umask":
        return text
    if re.fullmatch(r"0?6[046][046]", text):
        return text.rjust(4, "0")
    raise ValueError(
        f'{value!r} is not "umask" or the octal mode of files that their owner can read and write, such as '
        '"0664"'
    )


def part_bytes(value: object) -> int:
    """Parse the size of a part, at least 64 KiB."""
    if (read := size(value)) < 64 << 10:
        raise ValueError(f"{value!r} is too small for a part; the minimum is 64KiB")
    return read


def host_name(text: str) -> str:
    """Return the name of a host, or an IP address, as URLs have it.

    Args:
        text: The name or address as a user writes it.

    Raises:
        ValueError: `text` is anything else.
    """
    name = text.strip("[]").lower()
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    if not re.fullmatch(r"[^\s:/?#@\[\]]+", name):
        raise ValueError("not the name of a host; write it without scheme, port and path")
    return name if name.isascii() else name.encode("idna").decode()


def server_list(value: object) -> str:
    """Parse addresses of name servers: a list, or text with commas between them. Return such text."""
    each = [s.strip() for s in value.split(",") if s.strip()] if isinstance(value, str) else value
    if not isinstance(each, (list, tuple)):
        raise ValueError(f"{value!r} is not a list of addresses")
    for server in each:
        try:
            address, _, port = server.rpartition(":") if server.count(":") == 1 else (server, "", "")
            ip_address(address.strip("[]") if not server.startswith("[") else server[1:].partition("]")[0])
            if port and not 0 < int(port) < 1 << 16:
                raise ValueError
        except (ValueError, AttributeError):
            raise ValueError(
                f'{server!r} is not the address of a name server; write an IP address such as "9.9.9.9", or '
                'one with a port such as "127.0.0.1:5353"'
            ) from None
    return ",".join(each)
