"""The control socket of a run: commands and replies as JSON lines over a Unix socket in the state folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from ..concurrency import stop
from ..model.errors import FetchError

SOCKET: Final = "control.sock"
"""Name of the socket in the state folder; where it cannot be there, of a symbolic link to it."""

# Bytes of the longest path that a socket can be bound to on every POSIX system: macOS allows 103.
_LONGEST_PATH: Final = 100
# Bytes of a request.
_LONGEST: Final = 64 << 10
# Clients that are served at a time; each takes a file descriptor.
_CLIENTS: Final = 16

Carry = Callable[[Sequence[str]], Awaitable[dict[str, Any]]]
"""Carries out a command; raises CommandError if that is impossible."""


class ControlSocket:
    """Serves the commands of one run while its context is open.

    A request is a line with a JSON object: `{"command": ["rate", "20MiB"]}`. The reply is a line, too:
    `{"ok": true, "said": …, "status": {…}}` or `{"ok": false, "error": …}`. A client may send any number of
    requests over a connection. Only the owner of the run can connect (mode 0600).

    A state folder whose path is too long for a socket, or whose file system has none, gets a symbolic link to
    a socket in a new folder for temporary files that only the owner can enter.

    Args:
        state: The state folder of the run. The run holds its lock.
        carry: Carries out commands.
        note: Receives a sentence if the socket cannot be made. The run goes on without it.
    """

    def __init__(self, state: Path, carry: Carry, note: Callable[[str], None]) -> None:
        self._place, self._carry, self._note = state / SOCKET, carry, note
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        try:
            remove(self._place)  # of a run that was killed: the lock is ours
            listening = _bound(self._place)
            self._server = await asyncio.start_unix_server(self._connected, sock=listening, limit=_LONGEST)
        except OSError as error:
            self._note(f"osp-fetch ctl cannot reach this run: no socket in {self._place.parent} ({error})")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                remove(self._place)
        await stop(self._clients)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > _CLIENTS:
                writer.write(_line({"ok": False, "error": f"{_CLIENTS} clients are connected already"}))
                await writer.drain()
                return
            while line := await reader.readline():
                writer.write(_line(await self._reply(line)))
                await writer.drain()
        except (OSError, ValueError):
            pass  # the client has gone, or sends a line that is too long
        except asyncio.CancelledError:
            pass  # the run ends; asyncio.streams of Python 3.11 would log a traceback of a cancelled task
        finally:
            self._clients.discard(task)
            writer.close()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            words = json.loads(line)["command"]
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            return {"ok": False, "error": 'a request is {"command": ["WORD", …]} on one line'}
        try:
            return {"ok": True, **await self._carry(words)}
        except FetchError as error:
            return {"ok": False, "error": str(error)}


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _bound(place: Path) -> socket.socket:
    """Return a socket that is bound to `place`, or to a path that `place` links to."""
    if len(os.fsencode(place.absolute())) <= _LONGEST_PATH:
        try:
            return _listening(place.absolute())
        except OSError:
            pass  # a network file system may have no sockets
    folder = Path(tempfile.mkdtemp(prefix="osp-fetch-"))
    try:
        made = _listening(folder / SOCKET)
        place.symlink_to(folder / SOCKET)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return made


def _listening(place: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # on Linux, the file gets the mode of the socket: there is no moment in which others may connect
        with suppress(OSError):
            os.fchmod(made.fileno(), 0o600)
        made.bind(str(place))
        place.chmod(0o600)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def remove(place: Path) -> None:
    """Remove the socket at `place`, and the folder of a socket that it links to."""
    with suppress(OSError):
        target = place.readlink()
        if target.name == SOCKET and target.parent.name.startswith("osp-fetch-"):
            target.unlink(missing_ok=True)
            target.parent.rmdir()
    place.unlink(missing_ok=True)
