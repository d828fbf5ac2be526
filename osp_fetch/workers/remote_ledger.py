"""The run's ledger, and its ledger of unfinished uploads, as a worker reaches them: over its channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ..model.entry import RelativePath
from ..model.errors import StorageError
from ..model.record import Record
from ..storage.ledger.uploads import Upload, UploadedPart
from . import messages
from .channel import Channel


class RemoteLedger:
    """The run's ledger, as `model.protocols.Ledger`, at the other end of a channel.

    Args:
        wire: The channel to the run.
    """

    def __init__(self, wire: Channel) -> None:
        self._wire = wire
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self.lost = False

    async def get(self, paths: Sequence[RelativePath]) -> list[Record | None]:
        """Return the record of each path, None where there is none.

        Args:
            paths: Relative paths of files.

        Raises:
            StorageError: The run has ended, or its ledger failed.
        """
        return await self.ask(lambda number: messages.LookUp(number, list(paths))) or []

    async def put(self, record: Record) -> None:
        """Return when `record` survives a power loss.

        Args:
            record: The record to write.

        Raises:
            StorageError: The run has ended, or its ledger failed.
        """
        await self.ask(lambda number: messages.PutRecord(number, record))

    async def ask(self, message: Callable[[int], object]) -> Any:
        """Send the message for a new number, and return the run's reply to it.

        Args:
            message: Returns the message for a number.

        Raises:
            StorageError: The run has ended, or its ledger failed.
        """
        if self.lost:
            raise _gone()
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._wire.send(message(number))
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    def answered(
        self, message: messages.RecordsFound | messages.RecordKept | messages.UploadsReplied
    ) -> None:
        """Pass a reply of the run to the call that waits for it.

        Args:
            message: The reply.
        """
        answer = self._asked.get(message.number)
        if answer is None or answer.done():
            return
        result: object
        match message:
            case messages.RecordKept(_, error):
                result = error
            case messages.RecordsFound(_, records):
                result = records
            case messages.UploadsReplied(_, returned):
                result = returned
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def lose(self) -> None:
        """Fail every waiting and later call: the run has ended, and nothing is recorded any more."""
        self.lost = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_gone())
                answer.exception()


class RemoteUploads:
    """The run's ledger of unfinished uploads; implements `storage.bucket.uploads.Uploads`.

    Parts that a node has uploaded are recorded where the run is, so that another node continues the upload.

    Args:
        ledger: What asks the run. Every call raises its StorageError.
    """

    def __init__(self, ledger: RemoteLedger) -> None:
        self._ledger = ledger

    async def get(self, path: str) -> Upload | None:
        """Return the unfinished upload of the file `path`, None if there is none."""
        found: Upload | None = await self._call("get", path)
        return found

    async def begin(self, path: str, upload: Upload) -> None:
        """Record a new upload, in place of an earlier one."""
        await self._call("begin", path, upload)

    async def add(self, path: str, parts: Sequence[UploadedPart]) -> None:
        """Record further parts, which follow the recorded ones."""
        await self._call("add", path, parts)

    async def drop(self, path: str) -> None:
        """Forget the upload of the file `path`."""
        await self._call("drop", path)

    async def all(self) -> list[tuple[str, str]]:
        """Return path and upload id of every unfinished upload."""
        found: list[tuple[str, str]] = await self._call("all")
        return found

    async def _call(self, call: str, *arguments: object) -> Any:
        return await self._ledger.ask(lambda number: messages.AskUploads(number, call, arguments))


def _gone() -> StorageError:
    """Return the error of a call to the ledger of a run that has ended."""
    return StorageError("the run that started this worker has ended")
