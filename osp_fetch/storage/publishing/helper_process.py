"""A process of its own that gives small files their names: it hashes, writes, syncs and renames them.

In a thread each of these calls takes the interpreter's lock from the loop, which then waits for it to come
back: of many small files that was a third of the time. The bytes lie in memory that both processes see;
what they say to each other are pickled lists over a pair of sockets, and only we have the other end.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...model.errors import FetchError
from ...model.record import Placed, Published
from ..folder.disk import Disk
from ..folder.executors import Sharers
from ..folder.layout import Layout
from ..folder.space import Space
from .batch import BatchPublisher, ReadyFile
from .shared_memory import SharedBuffer, SharedPool
from .small_file import SmallFile

if TYPE_CHECKING:
    from ...model.settings import Storage

_POOL: Final = 16 << 20  # bytes of files on their way
_MESSAGE: Final = 1 << 20  # bytes that go in one call: with each the interpreter's lock has to be had again
_BEGINNING: Final = 10.0  # seconds
_ENDING: Final = 1.0


class HelperProcess:
    """The process, for its owner. `lock`: the descriptor of the run's lock, which it inherits, so that no
    other run begins while it still gives names. All methods block; they raise OSError."""

    def __init__(self, root: Path, state: Path, settings: Storage, lock: int) -> None:
        durable, overwrite = settings.durability == "full", settings.existing == "overwrite"
        self._setup = root, state, settings.min_free, durable, overwrite
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._end, theirs = socket.socketpair()
        try:
            with theirs:
                self.pool = SharedPool(_POOL)
                self._process = self._begun((theirs.fileno(), self.pool.descriptor, lock), path)
        except OSError:
            self._end.close()
            raise
        self._end.settimeout(_BEGINNING)
        self._there = False
        self._stream = self._end.makefile("rwb", _MESSAGE)

    def _begun(self, inherited: tuple[int, int, int], path: str) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *map(str, inherited[:2])],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        finally:
            self.pool.close()

    def begin(self) -> None:
        """Return when it is there; one that does not come is ended."""
        self._asked(self._setup)
        self._end.settimeout(None)
        self._there = True

    @staticmethod
    def possible() -> bool:
        """Whether it could be begun, and would have a core of its own."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # the interpreter of an application that has Python built in is not one that could be called
        plain = Path(sys.executable or "").name.startswith("py") and not getattr(sys, "frozen", False)
        return cores > 1 and plain

    def publish(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        """Give these files, small ones whose bytes lie in `pool`, their final names, all together."""
        smalls = [small for small in batch if isinstance(small, SmallFile)]
        answers = self._asked([small.described() for small in smalls])
        results = []
        for small, (result, digests) in zip(smalls, answers, strict=True):
            small.digests = digests
            results.append(Placed(Published(*result[:2]), result[2]) if isinstance(result, tuple) else result)
        return results

    def _asked(self, message: object) -> Any:
        """Its answer to `message`. Where there is none it has ended when this raises: whoever does its work
        again must not find it at the same files."""
        try:
            pickle.dump(message, self._stream, pickle.HIGHEST_PROTOCOL)
            self._stream.flush()
            return pickle.load(self._stream)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            self._process.kill()
            self._process.wait()
            raise OSError(f"the process that writes small files is gone ({error})") from None

    def close(self) -> None:
        """End it: by itself when it has finished what it was given, but soon."""
        with suppress(OSError):
            # also where a process that was forked off ours has this end, too
            self._end.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            if self._there:
                self._process.wait(_ENDING)
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # of what it has not read
            self._stream.close()
        self._end.close()


def main() -> None:
    """`python -m osp_fetch.storage.publishing.helper_process FD POOL`: begun by a HelperProcess."""
    # its owner is told by signals, and closes our end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = socket.socket(fileno=int(sys.argv[1]))
    stream = end.makefile("rwb", _MESSAGE)
    shared = memoryview(mmap.mmap(int(sys.argv[2]), 0, prot=mmap.PROT_READ))
    root, state, min_free, durable, overwrite = pickle.load(stream)
    places = Layout(root, state, Disk())
    placer = BatchPublisher(places, Sharers(), durable=durable, overwrite=overwrite)
    space = Space(places.disk, root, min_free)
    answer: object = None
    while True:
        try:
            pickle.dump(answer, stream, pickle.HIGHEST_PROTOCOL)
            stream.flush()
            described = pickle.load(stream)
        except (EOFError, OSError):
            os._exit(0)  # the run is over, or gone; an interpreter that tidies up would be waited for
        batch = [
            SmallFile(
                places,
                space,
                path,
                SharedBuffer(shared[at : at + count], offset=at),
                count,
                algorithms,
                wanted,
            )
            for path, at, count, algorithms, wanted in described
        ]
        results = placer.publish_all(batch)
        answer = [
            ((*result.published, result.kept) if isinstance(result, Placed) else result, small.digests)
            for small, result in zip(batch, results, strict=True)
        ]


if __name__ == "__main__":
    main()
