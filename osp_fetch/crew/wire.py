"""What the processes of one run say to each other: pickled messages over a pair of sockets.

Only a process of ours, begun by us, has the other end.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..engine.bring import Wanted
from ..engine.steering import HostReport
from ..model import events
from ..model.entry import RelativePath
from ..model.errors import FetchError
from ..model.profile import Profile
from ..model.record import Record
from ..model.report import Status
from ..model.settings import Settings

_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached; as in `api.FetchOptions`."""

    connect_to: tuple[str, ...] = ()
    cafile: str | None = None
    proxies: dict[str, str] = field(default_factory=dict)


# to a worker


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message. `settings` are this worker's share; `share`: connections to a host to begin with."""

    root: Path
    state: Path
    settings: Settings
    reach: Reach
    profiles: dict[str, Profile]
    share: int


@dataclass(frozen=True, slots=True)
class Bring:
    number: int
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Looked:
    number: int
    records: list[Record | None] | FetchError


@dataclass(frozen=True, slots=True)
class Kept:
    """A record survives a power loss, or does not."""

    number: int
    error: FetchError | None


@dataclass(frozen=True, slots=True)
class Assign:
    """From now on `host` gets so many connections; `shed`: those above are let go at once. `number`: which
    one for this host it is."""

    host: str
    connections: int
    shed: bool
    number: int


@dataclass(frozen=True, slots=True)
class Cool:
    host: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Claim what is held, and end."""


# from a worker


@dataclass(frozen=True, slots=True)
class Brought:
    number: int
    result: tuple[Status, Record] | Exception


@dataclass(frozen=True, slots=True)
class Told:
    event: events.Event


@dataclass(frozen=True, slots=True)
class Look:
    number: int
    paths: Sequence[RelativePath]


@dataclass(frozen=True, slots=True)
class Put:
    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class Reported:
    hosts: list[HostReport]


class Wire:
    """One end. Messages that are sent in one turn of the loop go out together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: list[bytes] = []

    @classmethod
    async def over(cls, end: socket.socket) -> Wire:
        """A wire over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=1 << 20))

    def send(self, message: object) -> None:
        """Send soon; what cannot be sent any more is dropped, for nobody is there. Raises what pickle does,
        here and not when all that waits is sent."""
        pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(pickled)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not self._writer.is_closing():
            data = pickle.dumps(waiting, pickle.HIGHEST_PROTOCOL)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> list[object]:
        """The next messages; none at the end, however it came. Raises what pickle does."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return []
        return [pickle.loads(each) for each in pickle.loads(data)]

    async def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._writer.close()
        with suppress(OSError):  # the other end went first
            await self._writer.wait_closed()
