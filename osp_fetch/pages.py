"""Gets the pages and small documents that listings read, over the transport that also fetches the files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, TypeVar, cast

from .engine.retry import persist
from .model.errors import (
    BorrowedLinkSpentError,
    FetchError,
    ManifestError,
    NetworkError,
    Remedy,
    StatusError,
    TransferError,
    UnreachableError,
)
from .model.http import Representation, Request
from .model.protocols import Reply, Transport
from .model.ranges import ByteRange
from .model.settings import Settings
from .model.urls import host, shown
from .sources.pages import DOCUMENT, HEAD, Judge, Page
from .workers.reach import Reach, transport_of

_IN_MEMORY: Final = 1 << 20  # bytes of a document that are held in memory; the rest is a temporary file
_READ: Final = 64 << 10  # bytes of one read
_CONNECTIONS: Final = 4  # to one host, while a folder is walked; listings are small requests
_UNREACHABLE: Final = 4  # attempts at a host that never answers; most often its name is misspelt
_ASKED: Final = 16  # links whose names are asked for at the same time
_SILENT: Final = 2  # attempts at a host that does not answer when asked for a name
_END: Final = 1 << 40  # past the end of every document


T = TypeVar("T")


class WebPages:
    """The `sources.pages.Pages` of a run.

    A document is received completely before it is read: a run reads rows only as fast as it fetches files,
    and no server keeps a connection open for that long.

    Args:
        settings: the settings of the run; limits, timeouts and retries apply.
        reach: how servers are reached.
        headers: sent with each request, and dropped where a redirect leads to another origin. A request's own
            header replaces the one of the same name.
    """

    def __init__(self, settings: Settings, reach: Reach, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._settings, self._reach, self._headers = settings, reach, tuple(headers)
        self._stopped = False
        self._active: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = set()

    def get(
        self,
        request: Request,
        *,
        passing: Collection[int] = (),
        judge: Judge | None = None,
        most: int = DOCUMENT,
    ) -> Page:
        """Get one document; see `sources.pages.Pages`. Blocks."""
        (page,) = self._run(self._all([request], passing, judge, most))
        if isinstance(page, FetchError):
            raise page
        return page

    def get_all(self, requests: Sequence[Request], *, judge: Judge | None = None) -> list[Page | FetchError]:
        """Get several documents; see `sources.pages.Pages`. Blocks."""
        return self._run(self._all(requests, (), judge, DOCUMENT))

    def names(self, links: Sequence[tuple[str, tuple[tuple[str, str], ...]]]) -> list[str | ManifestError]:
        """Return the file name that the server of each link states, empty if it states none. Blocks.

        Args:
            links: pairs of a link and the headers of its row.

        Returns:
            A name per link, unchecked, or a ManifestError if the server cannot be asked.
        """
        return self._run(self._names(links))

    async def _names(
        self, links: Sequence[tuple[str, tuple[tuple[str, str], ...]]]
    ) -> list[str | ManifestError]:
        slots = asyncio.Semaphore(_ASKED)
        async with transport_of(self._settings, self._reach) as transport:

            async def one(link: str, headers: tuple[tuple[str, str], ...]) -> str | ManifestError:
                request = Request(link, ByteRange(0, 1), headers=headers, name=host(link))
                found: list[str] = []
                silent = 0

                async def ask() -> None:
                    nonlocal silent
                    try:
                        found.append(await transport.name_of(self._with_headers(request)))
                    except UnreachableError as error:
                        silent += 1
                        if silent == _SILENT:
                            raise TransferError(str(error)) from None
                        raise

                async with slots:
                    try:
                        await persist(ask, self._settings.retry, lambda: 0, _ignore)
                    except FetchError as error:
                        return ManifestError(
                            f"the link has no file name, and its server cannot be asked ({error}); give the "
                            "row a path, or run again"
                        )
                return found[0]

            return await asyncio.gather(*(one(link, headers) for link, headers in links))

    def stop(self) -> None:
        """End every request that another thread waits for, and refuse further ones."""
        self._stopped = True
        for loop, task in list(self._active):
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)

    def _run(self, work: Coroutine[Any, Any, list[T]]) -> list[T]:
        """Run `work` in an event loop of this thread; raise TransferError if `stop` ends it."""
        try:
            return asyncio.run(self._until_stopped(work))
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            raise TransferError(
                "the run was stopped while a list was read; run the same command again"
            ) from None

    async def _until_stopped(self, work: Coroutine[Any, Any, list[T]]) -> list[T]:
        task = asyncio.current_task()
        assert task is not None
        active = asyncio.get_running_loop(), task
        self._active.add(active)
        try:
            if self._stopped:
                task.cancel()
            return await work
        finally:
            self._active.discard(active)

    async def _all(
        self, requests: Sequence[Request], passing: Collection[int], judge: Judge | None, most: int
    ) -> list[Page | FetchError]:
        per_host = self._settings.limits.per_host
        slots = asyncio.Semaphore(min(_CONNECTIONS, per_host) if isinstance(per_host, int) else _CONNECTIONS)

        async def one(request: Request) -> Page | FetchError:
            async with slots:
                document = _Document(transport, self._with_headers(request), passing, judge, most)
                unused.callback(document.file.close)
                try:
                    await persist(document.receive, self._settings.retry, document.received, _ignore)
                except FetchError as error:
                    document.file.close()
                    return error
                return document.page()

        with ExitStack() as unused:
            async with transport_of(self._settings, self._reach) as transport:
                pages = await asyncio.gather(*map(one, requests))
            unused.pop_all()  # from here on the caller closes them
            return pages

    def _with_headers(self, request: Request) -> Request:
        own = {name.lower() for name, _ in request.headers}
        more = [pair for pair in self._headers if pair[0].lower() not in own]
        return replace(request, headers=(*more, *request.headers))


def _ignore(error: FetchError, seconds: float) -> None:
    """Observe no retry."""


class _Document:
    """A document while it is received."""

    def __init__(
        self,
        transport: Transport,
        request: Request,
        passing: Collection[int],
        judge: Judge | None,
        most: int,
    ) -> None:
        self._transport, self._request = transport, request
        self._passing, self._judge, self._most = passing, judge, most
        self._found: Representation | None = None
        self._unreachable = 0  # attempts without any answer
        self.file = cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115

    def page(self) -> Page:
        assert self._found is not None
        return Page(self._found.url, self.file)

    def received(self) -> int:
        return self.file.tell()

    async def receive(self) -> None:
        """Receive the document, or the rest of it, once."""
        try:
            async with self._transport.send(self._next()) as reply:
                await self._take(reply)
        except UnreachableError as error:
            self._unreachable += 1
            if self._found is None and self._unreachable >= _UNREACHABLE:
                raise TransferError(str(error)) from None
            raise
        except StatusError as error:
            if error.status in self._passing:
                raise StatusError(
                    str(error), status=error.status, remedy=Remedy.RETRY, retry_after=error.retry_after
                ) from None
            raise
        except BorrowedLinkSpentError as error:  # asking for the original link again would lead there again
            raise TransferError(str(error)) from None

    def _next(self) -> Request:
        """Return the request for the rest, where the server can prove that the rest fits; else for all."""
        tag = self._found.validator.strong if self._found else None
        if tag is None or not self.received():
            return self._request
        return replace(self._request, range=ByteRange(self.received(), _END), if_range=tag)

    async def _take(self, reply: Reply) -> None:
        last = self._found
        if reply.range is None:
            self._clear()
        elif last is None or reply.representation.validator.strong != last.validator.strong:
            self._clear()
            raise NetworkError(f"{shown(self._request.url)}: the document changed while it was received")
        self._found = reply.representation
        view = memoryview(bytearray(_READ))
        while count := await reply.readinto(view):
            self.file.write(view[:count])
            if self._judge is not None and self.received() >= HEAD:
                if not self._judge(self.page().head()):
                    return
                self._judge = None
                self.file.seek(0, os.SEEK_END)
            self._check()

    def _clear(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def _check(self) -> None:
        if self.received() > self._most:
            raise ManifestError(
                f"{shown(self._request.url)}: larger than {self._most >> 20} MiB; this is no list of files",
                remedy=Remedy.ABORT,
            )
