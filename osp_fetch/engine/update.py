"""Updates: ask whether the source of a finished file has changed, by a conditional request."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from ..model import urls
from ..model.entry import Entry
from ..model.errors import RangeNotSatisfiableError, StatusError
from ..model.http import Representation, Validator
from ..model.record import Record
from .context import Context
from .part_fetcher import First
from .retry import persist
from .small import first_request

_NOT_MODIFIED: Final = 304


class Update:
    """The question whether a finished file is still what its source has.

    Args:
        context: The shared objects of this process.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def changed(self, entry: Entry, record: Record, order: int) -> First | None:
        """Ask the first link of `entry` for its file, unless that is still the recorded one.

        Args:
            entry: The manifest entry, as `recorded_first` returns it.
            record: The record of the finished file.
            order: Position in the manifest. Smaller numbers get slots first.

        Returns:
            None if the file has not changed. Otherwise the open exchange, whose reply begins the new file.
            The caller closes it.

        Raises:
            FetchError: The source cannot be asked.
        """
        found: list[First | None] = []

        async def ask() -> None:
            found.append(await self._ask(entry, record, order))

        retrying = partial(self._context.retrying, entry.path)
        await persist(ask, self._context.settings.retry, lambda: 0, retrying)
        return found[0]

    async def _ask(self, entry: Entry, record: Record, order: int) -> First | None:
        link = entry.urls[0]
        # the validator belongs to the source that the bytes came from
        known = record.validator if entry.leads_to(link, record.source_key) else Validator()
        exchange = self._context.exchange(urls.host(link), order, entry.path)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exchange)
            part_size = self._context.part_size(urls.host(link), entry.size, order)
            if known.exists and not known.etag:
                # to If-Modified-Since, servers answer "not modified" for a file that went back to an older
                # version: the first byte tells the time and the length
                part_size, condition = 1, None
            else:
                condition = known
            try:
                reply = await exchange.send(replace(first_request(entry, part_size), unless=condition))
            except RangeNotSatisfiableError as error:
                if error.length != 0:
                    raise
                if record.length == 0:
                    return None
                stack.pop_all()
                return First(exchange, part_size)  # the source has become empty
            except StatusError as error:
                if known.exists and error.status == _NOT_MODIFIED:
                    return None
                raise
            if is_same(known, record.length, reply.representation):
                return None
            stack.pop_all()
            return First(exchange, part_size)


def recorded_first(entry: Entry, record: Record) -> Entry:
    """Return `entry` with the link first that the recorded bytes came from: its server knows the validator.

    Args:
        entry: The manifest entry.
        record: The record of the finished file.
    """
    known = [url for url in entry.urls if entry.leads_to(url, record.source_key)]
    return replace(entry, urls=(*known, *(url for url in entry.urls if url not in known)))


def is_same(known: Validator, length: int | None, found: Representation) -> bool:
    """Return whether a representation has the recorded validator, for servers that ignore conditions.

    An empty file is the same as any other one: where the list states that size, nothing was requested, and no
    validator is recorded.

    Args:
        known: The recorded validator.
        length: Length of the recorded file in bytes.
        found: What the server has now.
    """
    if found.length not in (None, length):
        return False
    if found.length == 0:
        return True
    if known.etag and found.validator.etag:
        return known.etag == found.validator.etag
    return known.last_modified is not None and known.last_modified == found.validator.last_modified
