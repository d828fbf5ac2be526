"""Pickled messages between the processes of one run, over a pair of connected sockets.

Unpickling is safe here: only a process that this run has started has the other end.
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
_MOMENT: Final = 0.05  # longest wait in seconds of a patient message, so that others go out with it


_Reduced = Callable[[Any], tuple[Any, tuple[Any, ...]]]


class _ByFields(dict[type, _Reduced]):
    """A dispatch table that pickles the package's dataclasses as calls with their fields.

    A frozen dataclass with slots would call `dataclasses.fields` for each object, which takes longer than the
    rest of the pickling.
    """

    def __missing__(self, kind: type) -> _Reduced:
        # a caller's class may derive from one of the package, and have another constructor
        ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
        if not ours or "__dataclass_fields__" not in vars(kind):
            raise KeyError(kind)
        names = [each.name for each in fields(kind)]

        def reduced(value: Any) -> tuple[Any, tuple[Any, ...]]:
            return kind, tuple([getattr(value, name) for name in names])

        self[kind] = reduced
        return reduced


class _Pickler(pickle.Pickler):
    """A pickler with this dispatch table."""

    dispatch_table = _ByFields()


class Channel:
    """One end of the connection between two processes.

    The messages of one turn of the event loop, and the patient messages before them, go out together in one
    pickle stream.

    Args:
        reader: The stream of messages from the other process.
        writer: The stream of messages to it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting = io.BytesIO()
        self._pickler: _Pickler | None = None  # of the waiting messages
        self._timer: asyncio.TimerHandle | None = None  # sends the patient messages
        self._hurry = False  # the messages go out in this turn of the event loop

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Return a channel over one end of a socket pair.

        Args:
            end: A connected Unix socket, which the channel owns from now on.
        """
        return cls(*await asyncio.open_unix_connection(sock=end, limit=1 << 20))

    def send(self, message: object, *, patient: bool = False) -> None:
        """Send a message in this turn of the event loop.

        The order of the messages is kept. A message to a process that has ended is dropped. A message that
        cannot be pickled raises here, and does not affect the messages that wait.

        Args:
            message: An object that can be pickled.
            patient: Whether the message may wait up to 0.05 seconds for others.

        Raises:
            pickle.PicklingError: The message cannot be pickled. Objects of some types raise AttributeError
                or TypeError instead.
        """
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
            # later messages must not refer to objects of which only a part was written
            self._waiting.truncate(sound)
            self._flush()
            raise

    def _flush(self) -> None:
        """Send the waiting messages."""
        data = self._waiting.getvalue()
        self._waiting, self._pickler, self._hurry = io.BytesIO(), None, False
        if self._timer is not None:
            self._timer.cancel()
        if data and not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> list[object]:
        """Return the next messages.

        Returns:
            At least one message; none where the other process has closed its end or died.

        Raises:
            Exception: The messages cannot be unpickled. The type depends on the content.
        """
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

    async def abort(self) -> None:
        """Close this end at once; what the other end has not read is lost."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def close(self) -> None:
        """Send the waiting messages, and close this end. It waits until the other end has read them."""
        self._flush()
        self._writer.close()
        with suppress(OSError):  # the other process has ended already
            await self._writer.wait_closed()
