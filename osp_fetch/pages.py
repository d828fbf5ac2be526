"""Gets the pages and small documents that listings read, over exchanges like those that fetch the files."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, TypeVar, cast

from .concurrency import stop as stop_tasks
from .connections.exchange import Exchange
from .connections.pool import ConnectionPool
from .connections.totals import most_connections
from .engine.retry import persist
from .model import events
from .model.errors import (
    BorrowedLinkSpentError,
    FetchError,
    HostDownError,
    HostPausedError,
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
from .model.settings import Retry, Settings
from .model.urls import host, shown
from .sources.pages import DOCUMENT, HEAD, Judge, Page
from .workers.reach import Reach, transport_of

_IN_MEMORY: Final = 1 << 20  # bytes of a document that are held in memory; the rest is a temporary file
_READ: Final = 64 << 10  # bytes of one read
_TOGETHER: Final = 4  # documents that are received at the same time; listings are small requests
_UNREACHABLE: Final = 4  # attempts at a host that never answers; most often its name is misspelt
_ASKED: Final = 16  # links whose names are asked for at the same time
_SILENT: Final = 2  # attempts at a host that does not answer when asked for a name
_PROBED: Final = 0.5  # seconds between two looks at a host that another request probes
_END: Final = 1 << 40  # past the end of every document
_FIRST_ORDER: Final = -1 << 40  # before the files of a manifest: pages tell which files there are


T = TypeVar("T")


class WebPages:
    """The `sources.pages.Pages` of a run.

    A document is received completely before it is read: a run reads rows only as fast as it fetches files,
    and no server keeps a connection open for that long.

    Before the run begins, each call has an event loop and connections of its own, and calls from several
    threads wait for each other. The connection pool outlives the calls, so that the rates of requests and
    bytes, and the pauses that hosts ask for, hold from one call to the next. During the run, in `over`, calls
    are made in its event loop, over its connections.

    Args:
        settings: the settings of the run; limits, timeouts and retries apply.
        reach: how servers are reached.
        headers: sent with each request, and dropped where a redirect leads to another origin. A request's own
            header replaces the one of the same name.
    """

    def __init__(self, settings: Settings, reach: Reach, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._settings, self._reach, self._headers = settings, reach, tuple(headers)
        connections = min(_ASKED, most_connections(settings.limits))
        self._pool = ConnectionPool(replace(settings.limits, connections=connections), hosts=settings.hosts)
        self._orders = itertools.count(_FIRST_ORDER)
        self._turn = threading.Lock()
        self._stopped = False
        self._active: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}
        self._run_loop: asyncio.AbstractEventLoop | None = None
        self._run_pool: ConnectionPool
        self._run_client: Callable[[], _Client]

    @asynccontextmanager
    async def over(
        self, pool: ConnectionPool, transport: Transport, observe: events.Observer
    ) -> AsyncIterator[None]:
        """Make all calls in this event loop while the context is open. At its end, requests end.

        Args:
            pool: the connection pool of a run, so that its limits hold for pages and files together.
            transport: sends the requests.
            observe: receives the pauses that servers ask for, because they hold for files, too.
        """
        retry, self._run_pool = self._settings.retry, pool
        # a client for each call: that a host was silent in one call says nothing about the next
        self._run_client = lambda: _Client(pool, transport, retry, self._orders, observe)
        self._run_loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._stopped = True
            await stop_tasks([task for task, loop in self._active.items() if loop is self._run_loop])

    def get(
        self,
        request: Request,
        *,
        passing: Collection[int] = (),
        judge: Judge | None = None,
        most: int = DOCUMENT,
    ) -> Page:
        """Get one document; see `sources.pages.Pages`. Blocks."""
        (page,) = self._run(lambda client: self._all(client, [request], passing, judge, most))
        if isinstance(page, FetchError):
            raise page
        return page

    def get_all(self, requests: Sequence[Request], *, judge: Judge | None = None) -> list[Page | FetchError]:
        """Get several documents; see `sources.pages.Pages`. Blocks."""
        return self._run(lambda client: self._all(client, requests, (), judge, DOCUMENT))

    def names(self, links: Sequence[tuple[str, tuple[tuple[str, str], ...]]]) -> list[str | ManifestError]:
        """Return the file name that the server of each link states, empty if it states none. Blocks.

        Args:
            links: pairs of a link and the headers of its row.

        Returns:
            A name per link, unchecked, or a ManifestError if the server cannot be asked.
        """
        return self._run(lambda client: self._names(client, links))

    def stop(self) -> None:
        """End every request that another thread waits for, and refuse further ones."""
        self._stopped = True
        for task, loop in list(self._active.items()):
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)

    def _run(self, work: Callable[[_Client], Awaitable[list[T]]]) -> list[T]:
        """Do `work` in an event loop while this thread waits; raise TransferError if `stop` ends it."""
        try:
            if self._stopped:
                raise CancelledError
            # while the run is paused, its pool grants nothing: what a command adds is read all the same
            if self._run_loop is not None and self._run_pool.total:
                doing = self._until_stopped(lambda: work(self._run_client()))
                return asyncio.run_coroutine_threadsafe(doing, self._run_loop).result()
            with self._turn:
                return asyncio.run(self._until_stopped(lambda: self._alone(work)))
        except (asyncio.CancelledError, CancelledError):
            if not self._stopped:
                raise
            raise TransferError(
                "the run was stopped while a list was read; run the same command again"
            ) from None

    async def _alone(self, work: Callable[[_Client], Awaitable[list[T]]]) -> list[T]:
        """Do `work` over connections of its own."""
        async with transport_of(self._settings, self._reach) as transport:
            return await work(_Client(self._pool, transport, self._settings.retry, self._orders))

    async def _until_stopped(self, work: Callable[[], Awaitable[list[T]]]) -> list[T]:
        task = asyncio.current_task()
        assert task is not None
        self._active[task] = asyncio.get_running_loop()
        try:
            if self._stopped:
                task.cancel()
            return await work()
        finally:
            del self._active[task]

    async def _all(
        self,
        client: _Client,
        requests: Sequence[Request],
        passing: Collection[int],
        judge: Judge | None,
        most: int,
    ) -> list[Page | FetchError]:
        slots = asyncio.Semaphore(_TOGETHER)

        async def one(request: Request) -> Page | FetchError:
            async with slots:
                document = _Document(self._with_headers(request), passing, judge, most)
                unused.callback(document.file.close)
                try:
                    await client.persist(request, document.receive, document.received, _UNREACHABLE)
                except FetchError as error:
                    document.file.close()
                    return error
                return document.page()

        with ExitStack() as unused:
            pages = await asyncio.gather(*map(one, requests))
            unused.pop_all()  # from here on the caller closes them
            return pages

    async def _names(
        self, client: _Client, links: Sequence[tuple[str, tuple[tuple[str, str], ...]]]
    ) -> list[str | ManifestError]:
        slots = asyncio.Semaphore(_ASKED)

        async def one(link: str, headers: tuple[tuple[str, str], ...]) -> str | ManifestError:
            # `sure`: a page in place of the file still has its name
            request = Request(link, ByteRange(0, 1), headers=headers, name=host(link), sure=True)
            names: list[str] = []

            async def ask(exchange: Exchange) -> None:
                reply = await exchange.send(self._with_headers(request))
                names.append(reply.name)

            async with slots:
                try:
                    await client.persist(request, ask, lambda: 0, _SILENT)
                except FetchError as error:
                    return ManifestError(
                        f"the link has no file name, and its server cannot be asked ({error}); give the "
                        "row a path, or run again"
                    )
            return names[0]

        return await asyncio.gather(*(one(link, headers) for link, headers in links))

    def _with_headers(self, request: Request) -> Request:
        own = {name.lower() for name, _ in request.headers}
        more = [pair for pair in self._headers if pair[0].lower() not in own]
        return replace(request, headers=(*more, *request.headers))


class _Client:
    """Makes the requests of one call over exchanges, and repeats those that fail.

    Args:
        pool: grants the slots.
        transport: sends the requests.
        retry: number of attempts, and waiting times.
        orders: yields the order of each request; earlier ones get slots first.
        observe: receives the pauses that servers ask for.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        transport: Transport,
        retry: Retry,
        orders: Iterator[int],
        observe: events.Observer = lambda _: None,
    ) -> None:
        self._pool, self._transport, self._retry, self._orders = pool, transport, retry, orders
        self._observe = observe
        # host → attempts in a row without an answer; those that were made at the same time count as one
        self._silences: Counter[str] = Counter()
        self._silent: dict[str, str] = {}  # host → the error of the last of these

    async def persist(
        self,
        request: Request,
        work: Callable[[Exchange], Awaitable[None]],
        received: Callable[[], int],
        silences: int,
    ) -> None:
        """Do `work` over an exchange until it succeeds, again after each failure that a retry may pass.

        Args:
            request: its URL and name are used; `work` sends it.
            work: takes the reply.
            received: returns the number of bytes that were received.
            silences: attempts in a row that the host leaves without an answer, whichever request makes them,
                after which a request that has received nothing fails.

        Raises:
            FetchError: the error of the last attempt.
        """
        place, order = host(request.url), next(self._orders)

        async def attempt() -> None:
            before = self._silences[place]
            if (
                not received() and before >= silences
            ):  # others have found out; one more attempt each would add up
                raise TransferError(self._silent[place])
            try:
                async with self._exchange(place, order, request.name) as exchange:
                    await work(exchange)
                self._silences[place] = 0
            except UnreachableError as error:
                if not isinstance(error, HostDownError) or error.tried or not error.is_own:
                    self._silences[place] = max(self._silences[place], before + 1)
                    self._silent[place] = str(error)
                if not received() and self._silences[place] >= silences:
                    raise TransferError(str(error)) from None
                raise

        await persist(lambda: self._until_open(attempt), self._retry, received, _ignore_retry)

    def _exchange(self, place: str, order: int, name: str) -> Exchange:
        return Exchange(self._pool, self._transport, self._pauses, place, order, name)

    def _pauses(self, event: events.Event) -> None:
        """Pass on a pause. The other events of an exchange are about the files of a run."""
        if isinstance(event, events.Cooling):
            self._observe(event)

    async def _until_open(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Make an attempt, after the pause of its host and while no other request probes the host."""
        while True:
            try:
                return await attempt()
            except (HostPausedError, HostDownError) as error:
                if error.remedy is not Remedy.WAIT:
                    raise
                if isinstance(error, HostDownError) and error.tried:
                    raise NetworkError(str(error)) from None
                await self._pool.host(error.host).until_back(_PROBED)


def _ignore_retry(error: FetchError, seconds: float) -> None:
    """Observe no retry."""


class _Document:
    """A document while it is received."""

    def __init__(self, request: Request, passing: Collection[int], judge: Judge | None, most: int) -> None:
        self._request, self._passing, self._judge, self._most = request, passing, judge, most
        self._found: Representation | None = None
        self.file = cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115

    def page(self) -> Page:
        assert self._found is not None
        return Page(self._found.url, self.file)

    def received(self) -> int:
        return self.file.tell()

    async def receive(self, exchange: Exchange) -> None:
        """Receive the document, or the rest of it, over one exchange."""
        try:
            reply = await exchange.send(self._next())
            with exchange.streaming():
                await self._take(reply, exchange)
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

    async def _take(self, reply: Reply, exchange: Exchange) -> None:
        last = self._found
        if reply.range is None:
            self._clear()
        elif last is None or reply.representation.validator.strong != last.validator.strong:
            self._clear()
            raise NetworkError(f"{shown(self._request.url)}: the document changed while it was received")
        self._found = reply.representation
        view = memoryview(bytearray(_READ))
        while count := await exchange.readinto(view):
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
