"""Settings: the only place where defaults stand, each defended where it stands.

`Settings.load` lays layers over the defaults; a layer is what a TOML file, the environment or
`--set` gives. Sizes are bytes and also read as `"64MiB"`, times are seconds and also `"30s"`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from .errors import SettingsError

Auto = Literal["auto"]
Layer = Mapping[str, Mapping[str, Any]]

_SIZE_UNITS: Final = {"": 1, "b": 1} | {
    unit + suffix: (1024 if suffix != "b" else 1000) ** power
    for power, unit in enumerate("kmgt", start=1)
    for suffix in ("", "ib", "b")
}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*(?:/s)?\s*")


def _quantity(value: object, units: Mapping[str, float], what: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{value!r} is not {what}")
    return float(match[1]) * units[match[2].lower()]


def size(value: object) -> int:
    """Bytes from `67108864`, `"64MiB"`, `"64M"` (both binary) or `"64MB"` (decimal)."""
    return int(_quantity(value, _SIZE_UNITS, 'a size; write bytes, or such as "64MiB"'))


def seconds(value: object) -> float:
    """Seconds from `90`, `"90s"`, `"1.5m"`, `"2h"` or `"1d"`."""
    return _quantity(value, _TIME_UNITS, 'a time; write seconds, or such as "30s"')


def count(value: object) -> int:
    """A whole number of at least one."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"{value!r} is not a whole number of at least 1")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not text")


def _or_auto(read: Callable[[object], int]) -> Callable[[object], int | Auto]:
    def read_or_auto(value: object) -> int | Auto:
        if value == "auto":
            return "auto"
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "auto"') from None

    return read_or_auto


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value in words:
            return str(value)
        raise ValueError(f"{value!r} is none of {', '.join(words)}")

    return read


def _part(value: object) -> int:
    if (read := size(value)) < 64 << 10:
        raise ValueError(f"{value!r} is too small for a part; the least is 64KiB")
    return read


def _setting(default: Any, read: Callable[[object], Any]) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything. 0 means no limit for rates."""

    # all hosts together; auto finds what pays for each host, up to 128 in all, or as many as fit in the
    # memory; a number is kept
    connections: int | Auto = _setting("auto", _or_auto(count))
    # never more than this to one host; auto: as many as in all
    per_host: int | Auto = _setting("auto", _or_auto(count))
    # auto is four seconds at the measured rate of a connection, in 4 to 64 MiB: long enough that a
    # request's round trip is lost in it, short enough that no part is the last for long
    part_size: int | Auto = _setting("auto", _or_auto(_part))
    rate: int = _setting(0, size)
    requests_per_second: float = _setting(0.0, lambda v: _quantity(v, {"": 1.0}, "a rate"))
    # what all connections' buffers may take together
    memory: int = _setting(128 << 20, size)
    redirects: int = _setting(20, count)
    # event loops, in processes of their own: one is enough until a core is busy with small files, or with
    # more than about half a gigabyte a second; auto: one for each two cores, up to four
    processes: int | Auto = _setting(1, _or_auto(count))


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to be patient. Attempts count only while a file gets no further."""

    attempts: int = _setting(8, count)
    initial: float = _setting(0.5, seconds)
    longest: float = _setting(60.0, seconds)
    # a server may ask for a pause of up to this; a longer one is a refusal in other words
    retry_after: float = _setting(900.0, seconds)
    # a host that has answered may fall silent for so long; meanwhile it is probed, and nothing fails
    outage: float = _setting(3600.0, seconds)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When silence is a failure, in seconds."""

    connect: float = _setting(20.0, seconds)
    head: float = _setting(30.0, seconds)  # a reply's whole head, so that endless 1xx end too
    idle: float = _setting(20.0, seconds)  # no byte of a body
    slowest: int = _setting(1 << 10, size)  # bytes per second of reading, over `slow_for`
    slow_for: float = _setting(60.0, seconds)


@dataclass(frozen=True, slots=True)
class Storage:
    """How files reach the disk."""

    min_free: int = _setting(1 << 30, size)
    durability: str = _setting("full", _one_of("full", "none"))
    # a file in the way that no run of this tool wrote: keep it in .osp-fetch/replaced/, or not
    existing: str = _setting("keep", _one_of("keep", "overwrite"))
    disk_patience: float = _setting(600.0, seconds)


@dataclass(frozen=True, slots=True)
class Links:
    """What to do when links die."""

    on_expired: str = _setting("exit", _one_of("exit", "wait"))
    # a redirect from https to plain http: anyone on the way could put other bytes there
    downgrade: str = _setting("refuse", _one_of("refuse", "allow"))
    command: str = _setting("", _text)
    # a command that takes longer hangs; a browser login takes a minute
    command_time: float = _setting(120.0, seconds)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be tuned, by sections as in the TOML files under `configs/`."""

    limits: Limits = field(default_factory=Limits)
    retry: Retry = field(default_factory=Retry)
    timeouts: Timeouts = field(default_factory=Timeouts)
    storage: Storage = field(default_factory=Storage)
    links: Links = field(default_factory=Links)

    @classmethod
    def load(cls, *layers: tuple[str, Layer]) -> Settings:
        """Lay `(name, {section: {key: value}})` layers over the defaults, later ones on top.

        Raises SettingsError that names the layer, the key and the nearest known one.
        """
        made = cls()
        for name, layer in layers:
            for section, values in layer.items():
                made = made._with(name, section, values)
        return made

    def _with(self, layer: str, section: str, values: object) -> Settings:
        known = [f.name for f in fields(self)]
        if section not in known:
            raise SettingsError(f"{layer}: unknown section [{section}]{_nearest(section, known)}")
        if not isinstance(values, Mapping):
            raise SettingsError(f"{layer}: [{section}] must hold keys, not {values!r}")
        room = getattr(self, section)
        readers = {f.name: f.metadata["read"] for f in fields(room)}
        read: dict[str, Any] = {}
        for key, value in values.items():
            if key not in readers:
                near = _nearest(key, list(readers))
                raise SettingsError(f"{layer}: unknown key {section}.{key}{near}")
            try:
                read[key] = readers[key](value)
            except ValueError as error:
                raise SettingsError(f"{layer}: {section}.{key}: {error}") from None
        return replace(self, **{section: replace(room, **read)})

    def items(self) -> list[tuple[str, str, Any]]:
        """Every (section, key, value), in order."""
        return [
            (section.name, key.name, getattr(getattr(self, section.name), key.name))
            for section in fields(self)
            for key in fields(getattr(self, section.name))
        ]


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
