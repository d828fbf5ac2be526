"""Standard streams whose loss costs nothing: a closed pipe or terminal, a daemon without descriptors."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

import click

from ..model.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Errors of a write to a stream that its reader has closed: a pipe, a descriptor, a terminal, a socket.
_CLOSED: Final = frozenset({errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET})


class _Stream(io.FileIO):
    """A descriptor whose writes are dropped once its reader has closed it.

    Args:
        fd: The descriptor; it stays open when this object is closed.
        optional: Whether every other error of a write, such as a full disk, is ignored as well. Otherwise
            the first one is raised as a StorageError, and later writes are dropped.
    """

    def __init__(self, fd: int, *, optional: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self._optional = optional

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._optional and error.errno not in _CLOSED:
                self._optional = True  # the interpreter flushes once more at its end
                raise StorageError(
                    f"stdout cannot be written ({error.strerror}); run the same command again with another "
                    "destination"
                ) from None
            return memoryview(data).nbytes


def say(text: str, *, err: bool = False) -> None:
    """Print a line. On a terminal it is broken between words, and its further lines are indented.

    Args:
        text: The line.
        err: Whether it goes to stderr.
    """
    from ..views.formatting import folded

    if (sys.stderr if err else sys.stdout).isatty():
        width, begin = shutil.get_terminal_size().columns, text[: len(text) - len(text.lstrip())]
        text = "\n".join(folded(text.lstrip(), width, begin, f"{begin}  "))
    click.echo(text, err=err)


def make_safe() -> None:
    """Prepare stdin, stdout and stderr of this process, once, before any file is opened.

    A descriptor that is closed (`2>&-`, some daemons) is opened on /dev/null. Otherwise the next file that is
    opened, such as the ledger, would get its number, and receive what is meant for the stream. Afterwards
    what is written to a pipe or terminal that has been closed is dropped. stderr carries only messages, so
    that a full disk is no reason to end a run either.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            with suppress(OSError):
                # gets the lowest free number, which is `fd`; workers and helpers inherit it
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # a program that replaced the streams knows what it does with them
    if sys.stdout is sys.__stdout__:
        sys.stdout = _safe(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _safe(sys.stderr, 2)


def _safe(stream: TextIO | None, fd: int) -> TextIO:
    raw = io.BufferedWriter(_Stream(fd, optional=fd == 2))
    if not isinstance(stream, io.TextIOWrapper):  # None: the descriptor was closed at the start
        return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
