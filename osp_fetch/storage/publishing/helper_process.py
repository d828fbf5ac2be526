"""A helper process that publishes small files: it hashes, writes, syncs and renames them.

In a thread each of these calls takes the interpreter's lock from the event loop, which then waits to get it
back. With many small files that wait was a third of the loop's time. The bytes are in memory that both
processes share. The messages are pickled lists over a socket pair; the run holds the only other end, so that
unpickling is safe.
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

# Bytes of shared memory for small files that are received or wait to be published.
_POOL: Final = 16 << 20
# Bytes of the buffer of a message. A message should be one system call, because the thread has to reacquire
# the interpreter's lock after each.
_MESSAGE: Final = 1 << 20
# Seconds within which the process must have started and answered.
_BEGINNING: Final = 10.0
# Seconds that the process has to end by itself before it is killed.
_ENDING: Final = 1.0


class HelperProcess:
    """The helper process, as the run that owns it sees it. All methods block.

    Args:
        root: the output folder.
        state: the state folder.
        settings: storage settings of the run.
        lock: descriptor of the run's lock. The process inherits it, so that no other run can begin while the
            process still publishes files.

    Attributes:
        pool: shared memory that small files are received into.

    Raises:
        OSError: the process cannot be started, or shared memory is not available.
    """

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
        """Wait until the process has started.

        Raises:
            OSError: the process did not answer within 10 seconds; it has been killed.
        """
        self._asked(self._setup)
        self._end.settimeout(None)
        self._there = True

    @staticmethod
    def possible() -> bool:
        """Return whether a helper process can be started here, and would have a core of its own."""
        from ...concurrency import cores  # this imports asyncio in 40 ms

        # `sys.executable` of an application that embeds Python cannot run a module
        plain = Path(sys.executable or "").name.startswith("py") and not getattr(sys, "frozen", False)
        return cores() > 1 and plain

    def publish(self, batch: Sequence[ReadyFile]) -> list[Placed | FetchError]:
        """Publish `batch`, as `BatchPublisher.publish_all` does.

        Args:
            batch: `SmallFile` objects whose bytes are in `pool`. Their `digests` are set.

        Returns:
            One result for each file, in order: how it was published, or the error.

        Raises:
            OSError: the process does not answer; it has been killed, and its work may be repeated.
        """
        smalls = [small for small in batch if isinstance(small, SmallFile)]
        answers = self._asked([small.described() for small in smalls])
        results = []
        for small, (result, digests) in zip(smalls, answers, strict=True):
            small.digests = digests
            results.append(Placed(Published(*result[:2]), result[2]) if isinstance(result, tuple) else result)
        return results

    def _asked(self, message: object) -> Any:
        """Return the answer to `message`; if there is none, kill the process and raise OSError.

        The process must have ended before another thread repeats its work on the same files.
        """
        try:
            pickle.dump(message, self._stream, pickle.HIGHEST_PROTOCOL)
            self._stream.flush()
            return pickle.load(self._stream)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            self._process.kill()
            self._process.wait()
            raise OSError(f"the helper process for small files has ended ({error})") from None

    def close(self) -> None:
        """End the process.

        It has one second to finish its current batch, and is killed then. A process that has not started
        completely is killed at once.
        """
        with suppress(OSError):
            # `shutdown` and not only `close`: a process forked from this one may hold a copy of this end
            self._end.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            if self._there:
                self._process.wait(_ENDING)
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # the buffer may hold bytes that the process has not read
            self._stream.close()
        self._end.close()


def main() -> None:
    """Run the helper process until its owner closes the socket.

    A `HelperProcess` starts `python -m osp_fetch.storage.publishing.helper_process FD POOL`, where FD is the
    descriptor of the socket and POOL that of the shared memory.
    """
    # signals go to the owner, which then closes the socket
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
            os._exit(0)  # the run has ended; the owner would have to wait for an orderly shutdown of Python
        batch = [
            SmallFile(
                places,
                space,
                path,
                SharedBuffer(shared[at : at + count], offset=at),
                count,
                algorithms,
                wanted,
                modified,
            )
            for path, at, count, algorithms, wanted, modified in described
        ]
        results = placer.publish_all(batch)
        answer = [
            ((*result.published, result.kept) if isinstance(result, Placed) else result, small.digests)
            for small, result in zip(batch, results, strict=True)
        ]


if __name__ == "__main__":
    main()
