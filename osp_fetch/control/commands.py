"""The commands for a run, and how they are written. No I/O.

status · pause · resume · rate 20MiB · connections 8 · host H pause · host H resume · retry-failed ·
    add SOURCE · links FILE · stop
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from ..model.dataclasses import dataclass
from ..model.errors import FetchError
from ..model.quantities import count, host_name, size
from ..model.spelling import nearest
from ..model.timetable import rate_of

USAGE: Final = {
    "status": "",
    "pause": "",
    "resume": "",
    "rate": "RATE|TIMETABLE|off",
    "connections": "N|auto",
    "host": "HOST pause|resume",
    "retry-failed": "",
    "add": "SOURCE",
    "links": "FILE",
    "stop": "",
}
"""Command → its arguments."""


class CommandError(FetchError):
    """A command is not known, or cannot be carried out. The message is one sentence."""

    cause = "command"


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Return the state of the run."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Close all transfers, and send no request until `Resume`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after `Pause`. Hosts that were paused by `host NAME pause` stay paused."""


@dataclass(frozen=True, slots=True)
class SetRate:
    """Limit the byte rate.

    Attributes:
        rate: As `limits.rate` has it.
    """

    rate: int | str


@dataclass(frozen=True, slots=True)
class SetConnections:
    """Change the largest number of connections.

    Attributes:
        most: The number; None for that of the settings.
    """

    most: int | None


@dataclass(frozen=True, slots=True)
class PauseHost:
    """Close the transfers from a host, and send it no request; or go on with it.

    Attributes:
        host: `host` for all ports, or `host:port`.
        pauses: Whether to pause it.
    """

    host: str
    pauses: bool


@dataclass(frozen=True, slots=True)
class RetryFailed:
    """Fetch the files that have failed so far again."""


@dataclass(frozen=True, slots=True)
class Add:
    """Fetch the files of another SOURCE, too.

    Attributes:
        source: As `get` takes it; the path of a file is absolute.
    """

    source: str


@dataclass(frozen=True, slots=True)
class UseLinks:
    """Take fresh links of parked files from a link file.

    Attributes:
        file: Absolute path of the file.
    """

    file: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Save what is held, and end the run as SIGTERM does."""


Command = (
    ShowStatus | Pause | Resume | SetRate | SetConnections | PauseHost | RetryFailed | Add | UseLinks | Stop
)


def parse(words: Sequence[str]) -> Command:
    """Return the command that `words` state.

    Raises:
        CommandError: They state none. The message says what is known.
    """
    name, *rest = words or [""]
    if name not in USAGE:
        near = nearest(name, USAGE, 0.5)
        meant = f"did you mean {near}?" if near else f"known are {', '.join(USAGE)}"
        raise CommandError(f"{name!r} is not a command; {meant}")
    reader = _READERS[name]
    if isinstance(reader, _Plain):
        if rest:
            raise CommandError(f"{name} takes no argument, not {' '.join(rest)!r}")
        return reader.command
    try:
        return reader(rest)
    except ValueError as error:
        raise CommandError(f"{name}: {error}; write {name} {USAGE[name]}") from None


def _one(rest: Sequence[str]) -> str:
    if len(rest) != 1 or not rest[0]:
        raise ValueError("one argument is needed")
    return rest[0]


def _rate(rest: Sequence[str]) -> Command:
    if not rest:
        raise ValueError("a rate is needed")
    return SetRate(rate_of(" ".join(rest), size))  # a timetable may come as several words


def _connections(rest: Sequence[str]) -> Command:
    word = _one(rest)
    return SetConnections(None if word == "auto" else count(word))


def _host(rest: Sequence[str]) -> Command:
    if len(rest) != 2 or rest[1] not in ("pause", "resume"):
        raise ValueError("a host and pause or resume are needed")
    return PauseHost(_name_of(rest[0]), rest[1] == "pause")


def _name_of(text: str) -> str:
    """Return a host as the pool names it: `host`, or `host:port`. IPv6 addresses are in brackets there."""
    match = re.fullmatch(r"(?:https?://)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?/?", text)
    if match is None:
        raise ValueError(f"{text!r} is not the name of a host")
    name = host_name(match[1])
    name = f"[{name}]" if ":" in name else name
    return f"{name}:{match[2]}" if match[2] else name


@dataclass(frozen=True, slots=True)
class _Plain:
    """A command without arguments."""

    command: Command


_READERS: Final[dict[str, _Plain | Callable[[Sequence[str]], Command]]] = {
    "status": _Plain(ShowStatus()),
    "pause": _Plain(Pause()),
    "resume": _Plain(Resume()),
    "rate": _rate,
    "connections": _connections,
    "host": _host,
    "retry-failed": _Plain(RetryFailed()),
    "add": lambda rest: Add(_one(rest)),
    "links": lambda rest: UseLinks(_one(rest)),
    "stop": _Plain(Stop()),
}
