"""The library: fetch a manifest into a folder. The only place that knows the concrete classes."""

from __future__ import annotations

import asyncio
import difflib
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from .concurrency import stop as stop_tasks
from .connections.buffers import Buffers
from .connections.pool import ConnectionPool
from .datasets.catalogue import expand_all
from .engine.context import Context
from .engine.run import Run
from .model import events
from .model.errors import SettingsError
from .model.profile import Profile
from .model.protocols import Manifest, Renewal, Row
from .model.report import Outcome, Report
from .model.settings import Settings
from .model.urls import shown
from .sources.checksums import Checksums
from .sources.huggingface import DownloadMetadata
from .sources.join import FileList
from .sources.link_files import LinkFileRenewal
from .sources.resolve import Options, Resolved, resolve
from .sources.second_source import SecondSource
from .sources.select import Selection
from .storage.folder.disk import Disk
from .storage.folder.run_lock import RunLock, state_folder, state_folders
from .storage.folder.store import FolderStore
from .storage.ledger.sqlite import SqliteLedger
from .views.board import Board
from .views.event_log import EventLog, StatusFile
from .views.fanout import Ticking, telling
from .workers.reach import Reach, transport_of

if TYPE_CHECKING:
    import pandas

    AnyManifest = str | Path | Sequence[str] | pandas.DataFrame | Manifest

_OWN_DESCRIPTORS = 64  # the interpreter's, the ledger's, logs and pipes


class StopToken:
    """Asks a run to end early and keep what it holds. The first reason is the one that counts."""

    def __init__(self) -> None:
        self.why: str | None = None
        self._asked = asyncio.Event()

    def ask(self, why: str) -> None:
        """End the run soon; `why` stands in the report."""
        self.why = self.why or why
        self._asked.set()

    async def wait(self) -> None:
        """Return when somebody asks."""
        await self._asked.wait()


class FetchOptions(TypedDict, total=False):
    """What `fetch_all`, `fetch_iter` and `fetch` take by name.

    `settings`: limits, timeouts and the rest. `observer`: called with every event. `include` and `exclude`:
    globs, or one as a string. `checksums`: an md5sum or sha256sum list to join. `digests`: a SOURCE that
    lists sizes and digests of the same files; `mirror`: one whose links are mirrors, too. `headers`: sent
    with every request to the links' own origins. `shard`: (i, n), the i-th of n from 0. `strict`: a bad row,
    or a row whose name is ambiguous in a list, ends the run. `max_duration`: seconds. `stop`: ends the run on
    demand. `connect_to`, `cafile`: as in curl. `links`: the link file of a dataset that needs one
    (`sam-11m`). `proxies`: scheme → proxy, as `urllib.request.getproxies()` gives them. `profiles`:
    `host:port` → what was learnt of a host, where auto begins. `recheck`: finished files are hashed again,
    not just looked at. `again`: globs of files that are fetched anew even if they are finished, or were
    unpacked and deleted.
    """

    settings: Settings
    observer: events.Observer
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    checksums: str | Path
    digests: str
    mirror: str
    headers: Mapping[str, str]
    shard: tuple[int, int]
    strict: bool
    max_duration: float
    stop: StopToken
    connect_to: Sequence[str]
    links: str | Path
    cafile: str
    proxies: Mapping[str, str]
    profiles: Mapping[str, Profile]
    recheck: bool
    again: str | Sequence[str]


def check_options(options: Mapping[str, object]) -> None:
    """Raise TypeError for an option that does not exist, naming the nearest one."""
    known = FetchOptions.__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}"
            raise TypeError(f"{name!r} is no option of fetch; {meant}")


def globs(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return several globs, also where one was given as a string."""
    return (value,) if isinstance(value, str) else tuple(value)


def again_of(options: FetchOptions) -> Callable[[str], bool]:
    """Return whether a file is to be fetched anew although it is finished."""
    again = globs(options.get("again", ()))
    return Selection(again).wants if again else lambda _: False


async def fetch_all(
    manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]
) -> Report:
    """Fetch every entry of `manifest` into `folder`; what is there already is not fetched again.

    `manifest`: a SOURCE string, a path, a DataFrame, or an (async) iterable of Entry. Returns a Report
    also where files failed (`raise_for_failures`). Raises ManifestError, SettingsError,
    CredentialsError, or StorageError (FolderBusyError, DiskFullError) where the run as a whole cannot go on.
    When cancelled, what is held stays held, and the same call goes on from there.
    """
    check_options(options)
    return await _fetch(manifest, Path(folder), options, lambda _: None)


def fetch_iter(
    manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]
) -> AsyncIterator[Outcome]:
    """The outcome of each entry as it ends; otherwise as `fetch_all`. Leaving the loop stops the run."""
    check_options(options)
    return _outcomes(manifest, Path(folder), options)


async def _outcomes(manifest: AnyManifest, folder: Path, options: FetchOptions) -> AsyncIterator[Outcome]:
    outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
    work = asyncio.create_task(_fetch(manifest, folder, options, outcomes.put_nowait))
    work.add_done_callback(lambda _: outcomes.put_nowait(None))
    try:
        while (outcome := await outcomes.get()) is not None:
            yield outcome
        await work
    finally:
        await stop_tasks({work})


def fetch(manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]) -> Report:
    """`fetch_all` for code that is not async; runs an event loop of uvloop's."""
    import uvloop

    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise SettingsError("fetch() cannot run inside an event loop; there, `await fetch_all(...)`")
    return uvloop.run(fetch_all(manifest, folder, **options))


async def _fetch(
    manifest: AnyManifest, root: Path, options: FetchOptions, deliver: Callable[[Outcome], None]
) -> Report:
    settings = options.get("settings") or Settings()
    resolved = await asyncio.to_thread(rows_of, manifest, options)
    state = state_folder(root, options.get("shard"))
    fresh = await asyncio.to_thread(_is_empty, root)  # before there is a state folder in it
    report, board = Report(shard=options.get("shard")), Board()
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(RunLock(state))
        fresh = fresh and not state_folders(root)  # another run may have come and gone meanwhile
        log = EventLog(state / "events.jsonl")
        stack.callback(log.close)
        own: list[events.Observer] = [board, log]
        observe = telling([*own, options["observer"]] if "observer" in options else own)
        metadata = stack.enter_context(ThreadPoolExecutor(1, "osp-metadata"))
        noted = DownloadMetadata(root)

        def finish(outcome: Outcome) -> None:
            report.add(outcome)
            if noted.concerns(outcome):
                metadata.submit(noted.note, outcome)
            deliver(outcome)

        context = await _context(stack, root, state, settings, options, observe, lock.descriptor)
        profiles = dict(options.get("profiles") or {})
        fetch_one = None
        if settings.limits.processes != 1:
            from .workers.make import worker_pool  # for most runs it would only be read

            if workers := worker_pool(context, root, state, reach_of(options), profiles, lock.descriptor):
                fetch_one = (await stack.enter_async_context(workers)).fetch
        await stack.enter_async_context(Ticking(StatusFile(state / "status.json", board)))
        observe(events.RunStarted(str(root)))
        try:
            recheck = options.get("recheck", False)
            renewal = _renewal(manifest, options, settings, observe)
            run = Run(
                context, finish, renewal, fetch_one=fetch_one, recheck=recheck, fresh=fresh,
                again=again_of(options),
            )  # fmt: skip
            await _until_stopped(run.fetch(resolved.rows), report, options, observe)
        finally:
            report.notes += [*resolved.notes(), *_kept_notes(board)]
            report.bytes, report.seconds = board.received, time.monotonic() - begun
            observe(events.RunEnded(report))
    return report


def _kept_notes(board: Board) -> list[str]:
    """Return what to tell of the user's own files that had to give way, a sentence."""
    if not board.set_aside_count:
        return []
    shown = ", ".join(f"{each.path} is now {each.kept}" for each in board.set_aside[:3])
    more = ", …" if board.set_aside_count > 3 else ""
    return [
        f"{board.set_aside_count} files that osp-fetch had not written had the names of fetched ones; they "
        "are kept: "
        f"{shown}{more} (--overwrite replaces them)"
    ]


def _is_empty(root: Path) -> bool:
    try:
        return Disk().is_empty(root)
    except OSError:
        return False  # whoever writes there will be told what is wrong with it


def rows_of(manifest: AnyManifest, options: FetchOptions) -> Resolved:
    """Return the rows that a run over `manifest` with these options goes through."""
    return resolve(_sources(manifest, options) or manifest, _row_options(options))


def _sources(manifest: AnyManifest, options: FetchOptions) -> list[str | Path]:
    """The SOURCEs that `manifest` consists of; none where it is an iterable or a DataFrame."""
    several = isinstance(manifest, (list, tuple)) and all(isinstance(s, (str, Path)) for s in manifest)
    each = cast("list[str | Path]", manifest) if several else [manifest]
    return expand_all([s for s in each if isinstance(s, (str, Path))], options.get("links"))


def _renewal(
    manifest: AnyManifest, options: FetchOptions, settings: Settings, observe: events.Observer
) -> Renewal | None:
    """Fresh links come from the manifest's files, where it has some."""
    named = _sources(manifest, options)
    files = [Path(s) for s in named if isinstance(s, Path) or ("://" not in s and Path(s).is_file())]
    if not files:
        return None

    selection = Options(selection=_selection(options), headers=_headers(options))

    def read(places: Sequence[Path]) -> Iterable[Row]:
        return cast("Iterable[Row]", resolve(list(places), selection).rows)

    wait = settings.links.on_expired == "wait"
    return LinkFileRenewal(
        files, read, wait=wait, command=settings.links.command, patience=settings.links.command_time,
        observe=observe,
    )  # fmt: skip


def _row_options(options: FetchOptions) -> Options:
    return Options(
        selection=_selection(options),
        lists=_lists(options),
        headers=_headers(options),
        shard=options.get("shard"),
        strict=options.get("strict", False),
    )


def _selection(options: FetchOptions) -> Selection:
    return Selection(globs(options.get("include", ())), globs(options.get("exclude", ())))


def _headers(options: FetchOptions) -> tuple[tuple[str, str], ...]:
    return tuple(options.get("headers", {}).items())


def _lists(options: FetchOptions) -> tuple[FileList, ...]:
    """Return the lists of the same files that rows are joined with. Raises ManifestError."""

    def second(option: str, source: str, *, mirror: bool) -> SecondSource:
        def read() -> Iterable[Row]:
            return cast("Iterable[Row]", resolve(source, Options()).rows)

        return SecondSource(f"{option} {shown(source)}", read, mirror=mirror)

    found: list[FileList] = []
    if "checksums" in options:
        found.append(Checksums.read(Path(options["checksums"])))
    if "digests" in options:
        found.append(second("--digests", options["digests"], mirror=False))
    if "mirror" in options:
        found.append(second("--mirror", options["mirror"], mirror=True))
    return tuple(found)


async def _context(
    stack: AsyncExitStack,
    root: Path,
    state: Path,
    settings: Settings,
    options: FetchOptions,
    observe: events.Observer,
    lock: int,
) -> Context:
    pool = ConnectionPool(
        settings.limits, settings.retry, observe, options.get("profiles"), most=_most_connections()
    )
    place = state / "ledger.sqlite3"
    others = [each / place.name for each in state_folders(root) if each != state]
    ledger = SqliteLedger(place, others, durable=settings.storage.durability == "full")
    transport = transport_of(settings, reach_of(options))
    return Context(
        transport=await stack.enter_async_context(transport),
        store=await stack.enter_async_context(FolderStore(root, state, settings.storage, lock=lock)),
        ledger=await stack.enter_async_context(ledger),
        pool=pool,
        buffers=Buffers(settings.limits),
        settings=settings,
        observe=observe,
    )


def reach_of(options: FetchOptions) -> Reach:
    """How servers are reached with these options."""
    proxies = dict(options.get("proxies") or {})
    return Reach(tuple(options.get("connect_to", ())), options.get("cafile"), proxies)


def _most_connections() -> int:
    """How many connections this process may open files for.

    A connection takes a socket and a partial, and as many files again, twice, may be being finished.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _OWN_DESCRIPTORS) // 4)


async def _until_stopped(work: Any, report: Report, options: FetchOptions, observe: events.Observer) -> None:
    """Await `work`, or cancel it when the run is asked to stop, and wait until it has let go."""
    stop = options.get("stop") or StopToken()
    loop = asyncio.get_running_loop()
    limit = options.get("max_duration")
    timer = loop.call_later(limit, stop.ask, "--max-duration") if limit else None
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            report.stopped = stop.why
            observe(events.Stopping(stop.why or ""))
    finally:
        if timer:
            timer.cancel()
        await stop_tasks({working, stopping})
    if report.stopped is None or not working.cancelled():
        working.result()
