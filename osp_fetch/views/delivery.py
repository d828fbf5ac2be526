"""Delivery of notices: commands that read JSON on stdin, and services that apprise knows.

Each channel has a thread and a short queue, and each delivery is a process of its own that is ended after a
time limit. A channel that hangs, fails or is slow costs the run nothing, and delays no other channel.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from ..model.dataclasses import dataclass
from .notice import Notice

# Notices that wait for one channel. Beyond, the oldest ones are dropped: the latest says what matters now.
_WAITING: Final = 20
# Seconds between two looks whether the channel is being closed while a delivery goes on.
_LOOK: Final = 0.1
# Seconds for which the end of a run waits for notices on their way.
PATIENCE: Final = 10.0
_ENDED: Final = "the run ended before"
# What the child process runs. `-P` keeps modules of the current folder out of it.
_CHILD: Final = "import sys; sys.path.append({!r}); from osp_fetch.views.apprise_child import main; main()"


@dataclass(frozen=True, slots=True)
class Target:
    """Where notices go.

    Attributes:
        name: the target in words, without secrets.
        words: the program and its arguments.
        url: the address of apprise, which the program reads; empty for a command.
    """

    name: str
    words: tuple[str, ...]
    url: str = ""

    @classmethod
    def of_command(cls, command: str) -> Target:
        """Return the target of `--on-event`: a shell command that reads the notice as JSON."""
        return cls("the command of --on-event", ("/bin/sh", "-c", command))

    @classmethod
    def of_url(cls, url: str) -> Target:
        """Return the target of `--notify`: an address of apprise. It may hold a token, so it is not shown."""
        scheme = re.match(r"[a-z][a-z0-9+-]{0,15}://", url)
        return cls(f"{scheme[0] if scheme else ''}…", _child(), url)

    def input(self, row: Mapping[str, Any]) -> bytes:
        """Return what the program reads on stdin. Its arguments would show the address to other users."""
        return json.dumps({"url": self.url, "notice": row} if self.url else row).encode() + b"\n"


def _child() -> tuple[str, ...]:
    """Return the command of the process that uses apprise."""
    return sys.executable, "-P", "-c", _CHILD.format(str(Path(__file__).parents[2]))


def unknown_addresses(urls: Sequence[str], limit: float) -> list[int]:
    """Return the positions of the addresses that apprise does not know. Blocks.

    Args:
        urls: addresses of apprise.
        limit: seconds. If the check takes longer or fails, no address counts as unknown.
    """
    given = json.dumps({"check": list(urls)}).encode()
    try:
        done = subprocess.run(_child(), input=given, capture_output=True, timeout=limit, check=True)
        known: list[bool] = json.loads(done.stdout)["known"]
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return []
    return [number for number, each in enumerate(known) if not each]


def deliver(
    target: Target,
    row: Mapping[str, Any],
    limit: float,
    *,
    closing: threading.Event | None = None,
    out: IO[bytes] | None = None,
) -> str | None:
    """Deliver one notice. Blocks.

    Args:
        target: where it goes.
        row: the notice as plain values.
        limit: seconds after which the process and its children are killed.
        closing: if it is set, they are killed at once.
        out: file for what the process prints; None discards it.

    Returns:
        None if it was delivered, else why not.
    """
    try:
        process = subprocess.Popen(
            target.words, stdin=subprocess.PIPE, stdout=out or subprocess.DEVNULL,
            stderr=out or subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return f"it cannot be started ({error})"
    until = time.monotonic() + limit
    data: bytes | None = target.input(row)
    while True:
        try:
            process.communicate(data, timeout=min(_LOOK, limit))
        except subprocess.TimeoutExpired:
            data = None  # it is on its way; passing it again is an error
            if closing is not None and closing.is_set():
                _kill(process)
                return _ENDED
            if time.monotonic() > until:
                _kill(process)
                return f"it took longer than {limit:.0f} s and was ended"
        else:
            return None if process.returncode == 0 else f"exit status {process.returncode}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children, which may hold the pipe, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


class Channel:
    """Delivers notices to one target, in a thread.

    Args:
        target: where they go.
        limit: seconds for one delivery.

    Attributes:
        sent: notices that were delivered.
        lost: notices that were not.
        why: why the last one was not.
    """

    def __init__(self, target: Target, limit: float) -> None:
        self.target, self._limit = target, limit
        self.sent, self.lost, self.why = 0, 0, ""
        self._queue: queue.Queue[Notice | None] = queue.Queue(_WAITING)
        self._closing, self._counting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="osp-notify", daemon=True)
        self._thread.start()

    def put(self, notice: Notice) -> None:
        """Queue a notice. Never blocks."""
        self._push(notice, "too many notices waited")

    def _push(self, item: Notice | None, why: str) -> None:
        """Queue an item; what waits longest is dropped where the queue is full."""
        while True:
            try:
                self._queue.put_nowait(item)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                    self._lose(why)

    def _run(self) -> None:
        while (notice := self._queue.get()) is not None:
            if self._closing.is_set():
                self._lose(_ENDED)
                continue
            why = deliver(self.target, notice.row(), self._limit, closing=self._closing)
            if why is None:
                self.sent += 1
            else:
                self._lose(why)

    def _lose(self, why: str) -> None:
        with self._counting:  # both threads count
            self.lost += 1
            self.why = why

    def close(self, until: float) -> None:
        """Wait for the notices that are queued, until `until` (monotonic clock); then drop them. Blocks."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=max(0.0, until - time.monotonic()))
        self._thread.join(max(0.0, until - time.monotonic()))
        self._closing.set()
        self._push(None, _ENDED)
        self._thread.join(PATIENCE)

    @property
    def note(self) -> str | None:
        """What the user should know at the end of the run, None if every notice was delivered."""
        if not self.lost:
            return None
        return (
            f"{self.lost} of {self.lost + self.sent} notices could not be delivered to {self.target.name}: "
            f"{self.why}; try osp-fetch notify --test"
        )


def close_all(channels: Sequence[Channel], patience: float) -> list[str]:
    """Close all channels within `patience` seconds. Blocks. Return notes for the user."""
    until = time.monotonic() + patience
    for channel in channels:
        channel.close(until)
    return [note for channel in channels if (note := channel.note)]
