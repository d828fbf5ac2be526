"""The client of a run's control socket, for `osp-fetch ctl`. It blocks."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..storage.folder.run_lock import owner_of
from .commands import CommandError
from .endpoint import SOCKET

# Seconds to wait for the reply of a run. One that hashes with every core may take a while.
_PATIENCE: Final = 60.0


class NoRunError(CommandError):
    """No run can be reached."""

    cause = "no run"


class SilentRunError(NoRunError):
    """A run is there and does not answer: it may obey later."""

    cause = "no answer"


def ask(state: Path, words: Sequence[str], patience: float = _PATIENCE) -> dict[str, Any]:
    """Send a command to the run that works in a state folder.

    Args:
        state: The state folder of the run or shard.
        words: The command and its arguments.
        patience: Seconds to wait for the reply.

    Returns:
        What `Steering` returns.

    Raises:
        NoRunError: No run works there, or it does not answer (SilentRunError).
        CommandError: The run refuses the command.
    """
    place = state / SOCKET
    with suppress(OSError):
        place = place.resolve()  # the path of a link may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience)
            connection.connect(os.fspath(place))
            connection.sendall(json.dumps({"command": list(words)}).encode() + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline()
    except TimeoutError:
        raise SilentRunError(
            f"the run has not answered for {patience:g} s; it may be stopped (SIGSTOP)"
        ) from None
    except OSError as error:
        raise _unreachable(state, error) from None
    if not line:
        raise NoRunError("the run has ended before it answered")
    reply = json.loads(line)
    if not reply.pop("ok"):
        raise CommandError(reply["error"])
    found: dict[str, Any] = reply
    return found


def _unreachable(state: Path, error: OSError) -> NoRunError:
    """Return why the socket of a state folder cannot be reached."""
    folder, owner = state.parent if state.name == ".osp-fetch" else state, owner_of(state)
    if owner is not None:
        return NoRunError(
            f"{folder}: the run ({owner}) cannot be reached ({error.strerror}): it has no socket, has just "
            "begun, or works on another machine"
        )
    if isinstance(error, ConnectionRefusedError):
        return NoRunError(f"{folder}: no run works here; the last one was killed, and get continues it")
    return NoRunError(f"{folder}: no run works here; osp-fetch get starts one")
