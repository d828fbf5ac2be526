"""What the processes of one run say to each other: pickled messages over a pair of sockets.

Only a process of ours, begun by us, has the other end.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any, Final

_LENGTH: Final = struct.Struct("!I")
_MOMENT: Final = 0.05  # seconds that a patient message waits for others


_Reduced = Callable[[Any], tuple[Any, tuple[Any, ...]]]


class _ByFields(dict[type, _Reduced]):
    """How our own dataclasses are pickled: as calls with their fields. By themselves they would ask
    `dataclasses.fields` for each object again, which takes longer than all the rest."""

    def __missing__(self, kind: type) -> _Reduced:
        # a caller's class may be made of one of ours, and be made otherwise
        ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
        if not ours or "__dataclass_fields__" not in vars(kind):
            raise KeyError(kind)
        names = [each.name for each in fields(kind)]

        def reduced(value: Any) -> tuple[Any, tuple[Any, ...]]:
            return kind, tuple([getattr(value, name) for name in names])

        self[kind] = reduced
        return reduced


class _Pickler(pickle.Pickler):
    dispatch_table = _ByFields()


class Channel:
    """One end. Messages that are sent in one turn of the loop, and patient ones of before, go out together,
    in one pickle."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting = io.BytesIO()
        self._pickler: _Pickler | None = None  # of what waits
        self._timer: asyncio.TimerHandle | None = None  # at its end it goes, also where all can wait
        self._hurry = False  # it goes in this turn of the loop

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """A wire over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=1 << 20))

    def send(self, message: object, *, patient: bool = False) -> None:
        """Send soon, `patient` within a moment, with or before what is sent later; what cannot be sent any
        more is dropped, for nobody is there. Raises what pickle does, here and not when all that waits is
        sent."""
        loop = asyncio.get_running_loop()
        if self._pickler is None:
            self._pickler = _Pickler(self._waiting, pickle.HIGHEST_PROTOCOL)
            self._timer = loop.call_later(_MOMENT, self._flush)
        if not patient and not self._hurry:
            self._hurry = True
            loop.call_soon(self._flush)
        sound = self._waiting.tell()
        try:
            self._pickler.dump(message)
        except BaseException:
            # what comes later must not refer to what was written of this one
            self._waiting.truncate(sound)
            self._flush()
            raise

    def _flush(self) -> None:
        data = self._waiting.getvalue()
        self._waiting, self._pickler, self._hurry = io.BytesIO(), None, False
        if self._timer is not None:
            self._timer.cancel()
        if data and not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> list[object]:
        """The next messages; none at the end, however it came. Raises what pickle does."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            data = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return []
        pickled = pickle.Unpickler(io.BytesIO(data))
        messages: list[object] = []
        with suppress(EOFError):
            while True:
                messages.append(pickled.load())
        return messages

    async def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._writer.close()
        with suppress(OSError):  # the other end went first
            await self._writer.wait_closed()
