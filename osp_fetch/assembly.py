"""The composition root: builds the rows, transport, store, ledger and connection pool of a run.

Only this module and `workers.worker` know the concrete classes behind the protocols of `model.protocols`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .concurrency import Places
from .connections.buffers import Buffers
from .connections.pool import CONNECTING, ConnectionPool
from .datasets.catalogue import expand_all
from .engine.context import Connections, Context, files_in_progress
from .model import events
from .model.entry import Entry, is_link, relative_path
from .model.errors import ManifestError, Remedy, SettingsError
from .model.protocols import Ledger, Row, Store
from .model.settings import S3, Settings
from .model.urls import shown
from .options import PlainOptions
from .pages import WebPages
from .processor import processor_times
from .sources.again import Again
from .sources.join import FileList
from .sources.names import Naming
from .sources.pages import DEPTH
from .sources.resolve import Options, Resolved, resolve
from .sources.select import Selection
from .storage.destination import Destination
from .storage.folder.permissions import Permissions
from .storage.folder.run_lock import state_folders
from .storage.ledger.sqlite import SqliteLedger
from .workers.reach import IDLE_PART, Reach, checked_reach, descriptors, transport_of

if TYPE_CHECKING:
    import pandas

    from .sources.checksums import Checksums
    from .sources.link_files import LinkFileRenewal
    from .sources.second_source import SecondSource
    from .views.failed_file import FailedFile

    Item = Entry | ManifestError | str | Path | Mapping[str, Any]
    AnyManifest = str | Path | Iterable[Item] | AsyncIterable[Item] | pandas.DataFrame

# Suffixes by which a manifest is no text, whatever it contains.
_NO_LINES = frozenset({".parquet", ".meta4", ".metalink", ".gz", ".bz2", ".xz", ".zst", ".zip"})
_FAILED = "failed.jsonl"  # name of the file in the state folder that collects rows for the option `failed`
_KEPT = 4  # one file descriptor in four is kept for connections to hosts that have not answered
_OWN_DESCRIPTORS = 64  # file descriptors for the interpreter, the ledger, logs and pipes


def rows_of(manifest: AnyManifest, options: PlainOptions, pages: WebPages | None = None) -> Resolved:
    """Return the rows of `manifest`, selected, joined and sharded by `options`.

    Args:
        manifest: a SOURCE string, a path, a list of these, a DataFrame, or an (async) iterable of Entry.
        options: the options of the run.
        pages: gets the pages of listings; None makes one.

    Raises:
        ManifestError: the manifest or a list cannot be read, or a dataset needs a link file.
        CredentialsError: a server refuses to list a source.
        NetworkError: a source cannot be listed.
    """
    if isinstance(manifest, Mapping):
        raise ManifestError("the manifest is a dict, which could be one row or many; put rows in a list")
    pages = pages or pages_of(options)
    resolved = resolve(_sources(manifest, options) or manifest, _row_options(options, pages))
    name = options.get("name")
    return _renamed(resolved, manifest, name, options) if name else resolved


def _renamed(resolved: Resolved, manifest: AnyManifest, name: str, options: PlainOptions) -> Resolved:
    """Return the only row of `resolved` with the path `name`.

    The row is renamed last, so that checksum lists and globs refer to the name that the link suggests. A link
    that suggests none is no bad row here.

    Raises:
        ManifestError: there is not exactly one file, or `name` is no valid path.
    """
    path = relative_path(name)
    rows = [] if isinstance(resolved.rows, AsyncIterable) else list(islice(resolved.rows, 2))
    if len(rows) != 1:
        raise ManifestError(
            f"{name}: only a single file can have this name, and the manifest is not one row; give a folder "
            f"(-o {name}/ for one of that name)",
            remedy=Remedy.ABORT,
        )
    (row,), links = rows, _sources(manifest, options)
    if isinstance(row, Entry):
        row = replace(row, path=path)
    elif len(links) == 1 and is_link(str(links[0])):
        row = Entry(path, (str(links[0]),), headers=_headers(options))
    return replace(resolved, rows=[row])


def _sources(manifest: AnyManifest, options: PlainOptions) -> list[str | Path]:
    """Return the SOURCEs of which `manifest` consists; none if it is an iterable or a DataFrame."""
    several = isinstance(manifest, (list, tuple)) and all(isinstance(s, (str, Path)) for s in manifest)
    each = cast("list[str | Path]", manifest) if several else [manifest]
    return expand_all([s for s in each if isinstance(s, (str, Path))], options.get("links"))


def again_of(options: PlainOptions) -> Again:
    """Return the paths that have to be fetched again although they are finished."""
    return Again(options.get("again", ()))


def failed_file_of(manifest: AnyManifest, options: PlainOptions, state: Path) -> FailedFile | None:
    """Return the observer of the option `failed`, None without it.

    Args:
        manifest: as in `rows_of`.
        options: the options of the run.
        state: the state folder of this run or shard.

    Raises:
        SettingsError: the file cannot be written, is no text by its name, holds something else, or is a
            SOURCE. A run that is stopped would replace a SOURCE by the few rows that had failed.
    """
    place = options.get("failed")
    if place is None:
        return None
    from .views.failed_file import FailedFile, is_failed_file  # few runs need it

    if not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
        raise SettingsError(
            f"the file for failures, {place}, cannot be written; its folder must exist and be writable"
        )
    if place.suffix.lower() in _NO_LINES:
        raise SettingsError(
            f"the file for failures, {place}, is written as JSON lines; name it {place.stem}.jsonl"
        )
    if place.exists():
        if not place.is_file():
            raise SettingsError(
                f"the file for failures, {place}, is not a regular file; name a file to write"
            )
        sources = (Path(s) for s in _sources(manifest, options) if "://" not in str(s))
        if any(source.exists() and source.samefile(place) for source in sources):
            raise SettingsError(
                f"the file for failures, {place}, is also a SOURCE of this run; name another file"
            )
        if not is_failed_file(place):
            raise SettingsError(
                f"the file for failures, {place}, holds something else than an earlier list; name another"
            )
    return FailedFile(place.absolute(), state / _FAILED, _headers(options))


def forget_failed(state: Path) -> None:
    """Remove what a killed run collected for the option `failed`: it may contain signed links."""
    with suppress(OSError):
        (state / _FAILED).unlink()


def renewal_of(
    manifest: AnyManifest,
    options: PlainOptions,
    settings: Settings,
    observe: events.Observer,
    pages: WebPages,
) -> LinkFileRenewal | None:
    """Return the source of fresh links: the manifest's files, or None if it has no files.

    Args:
        manifest: as in `rows_of`.
        options: the options of the run.
        settings: `links` configures waiting and the command for fresh links.
        observe: receives events.
        pages: asks servers for the names of links.

    Raises:
        ManifestError: a dataset needs a link file and none is given.
    """
    named = _sources(manifest, options)
    files = [Path(s) for s in named if isinstance(s, Path) or ("://" not in s and Path(s).is_file())]
    if not files:
        return None

    selection = Options(
        selection=_selection(options),
        headers=_headers(options),
        naming=_naming(options, pages),
        columns=tuple(options.get("columns", {}).items()),
    )

    def read(places: Sequence[Path]) -> Iterable[Row]:
        return cast("Iterable[Row]", resolve(list(places), selection).rows)

    from .sources.link_files import LinkFileRenewal  # few runs need it

    wait = settings.links.on_expired == "wait"
    return LinkFileRenewal(
        files, read, wait=wait, command=settings.links.command, patience=settings.links.command_time,
        observe=observe,
    )  # fmt: skip


def _row_options(options: PlainOptions, pages: WebPages) -> Options:
    return Options(
        selection=_selection(options),
        lists=_lists(options, pages),
        headers=_headers(options),
        shard=options.get("shard"),
        naming=_naming(options, pages),
        columns=tuple(options.get("columns", {}).items()),
        strict=options.get("strict", False),
        pages=pages,
        depth=options.get("depth", DEPTH),
        s3=_s3(options),
    )


def _s3(options: PlainOptions) -> S3:
    return (options.get("settings") or Settings()).s3


def _naming(options: PlainOptions, pages: WebPages) -> Naming:
    return Naming(
        rule=options.get("names", "url"),
        fan_out=options.get("fan_out", 0),
        portable=options.get("portable_names", False),
        strict="shard" in options,
        ask=lambda rows: pages.names([(row.urls[0], row.headers) for row in rows]),
    )


def pages_of(options: PlainOptions) -> WebPages:
    """Return what gets the pages of listings. Raises as `reach_of` does."""
    settings = options.get("settings") or Settings()
    return WebPages(settings, reach_of(settings, options), _headers(options))


def _selection(options: PlainOptions) -> Selection:
    return Selection(options.get("include", ()), options.get("exclude", ()))


def _headers(options: PlainOptions) -> tuple[tuple[str, str], ...]:
    return tuple(options.get("headers", {}).items())


def _lists(options: PlainOptions, pages: WebPages) -> tuple[FileList, ...]:
    """Return the lists to join rows with. Raises ManifestError if a checksum list cannot be read."""

    def second(option: str, source: str, *, mirror: bool) -> SecondSource:
        def read() -> Iterable[Row]:
            further = Options(pages=pages, depth=options.get("depth", DEPTH), s3=_s3(options))
            return cast("Iterable[Row]", resolve(source, further).rows)

        from .sources.second_source import SecondSource  # few runs need it

        return SecondSource(f"{option} {shown(source)}", read, mirror=mirror)

    lists = (checksums_of(place, options, pages) for place in options.get("checksums", ()))
    digests = (second("--digests", source, mirror=False) for source in options.get("digests", ()))
    mirrors = (second("--mirror", source, mirror=True) for source in options.get("mirror", ()))
    return (*lists, *digests, *mirrors)


def checksums_of(place: str, options: PlainOptions, pages: WebPages | None = None) -> Checksums:
    """Return the checksum list at `place`, the path of a file or a URL. Blocks.

    Args:
        place: the path or URL.
        options: the options of the run.
        pages: gets the list from its server; None makes one.

    Raises:
        ManifestError: the list cannot be read, or is no checksum list.
        CredentialsError: the server refuses to show the list.
        NetworkError: the list cannot be read from its server.
    """
    from .sources.checksums import Checksums  # few runs need it

    if place.lower().startswith(("http://", "https://")):
        return Checksums.fetch(place, pages or pages_of(options))
    return Checksums.read(Path(place))


async def build_context(
    stack: AsyncExitStack,
    place: Destination,
    state: Path,
    settings: Settings,
    options: PlainOptions,
    reach: Reach,
    observe: events.Observer,
    lock: int,
    *,
    is_new: bool,
    working: Path | None = None,
    may_publish: Callable[[], None] = lambda: None,
    connect: Callable[[], Awaitable[Connections]] | None = None,
) -> Context:
    """Build the context of a run: its transport, store, ledger, connection pool and buffers.

    Args:
        stack: closes the transport, the store and the ledger.
        place: the destination.
        state: the state folder of this run or shard.
        settings: all settings.
        options: the options of the run.
        reach: how servers are reached.
        observe: receives events.
        lock: the descriptor of the run's lock.
        is_new: whether the output folder is known to have no file.
        working: folder of the partials, if it is not the state folder.
        may_publish: as in `Context`.
        connect: returns connections that runs share; None for connections of its own.

    Raises:
        CredentialsError: the bucket refuses the credentials.
        FolderBusyError: a run of another machine fetches to the same prefix of a bucket.
        StorageError: the destination or the ledger cannot be opened.
    """
    opening = place.store(
        working or state, settings, lock=lock, is_new=is_new, wait_lock=options.get("wait_lock", 0.0),
        stopped=options["stop"].wait if "stop" in options else None,
    )  # fmt: skip
    store = await stack.enter_async_context(opening)
    ledger = await stack.enter_async_context(_ledger(place, state, settings, observe))
    own = partial(open_connections, stack, settings, options, reach, observe, place)
    made = _context(store, ledger, settings, observe, await (connect or own)())
    return replace(made, may_publish=may_publish)


def _ledger(place: Destination, state: Path, settings: Settings, observe: events.Observer) -> SqliteLedger:
    """Return the ledger of a run, not yet open. It reads those of the other runs at `place`, too."""
    file, storage = state / "ledger.sqlite3", settings.storage
    others = [each / file.name for each in state_folders(place.root) if each != state]
    return SqliteLedger(
        file, others, durable=storage.durability == "full", permissions=Permissions(storage.mode),
        min_free=storage.min_free, observe=observe,
    )  # fmt: skip


async def context_over(
    stack: AsyncExitStack,
    store: Store,
    ledger: Ledger,
    settings: Settings,
    options: PlainOptions,
    reach: Reach,
    observe: events.Observer,
) -> Context:
    """Build the context of a run over a store and a ledger that are open; the arguments are as above."""
    return _context(
        store, ledger, settings, observe, await open_connections(stack, settings, options, reach, observe)
    )


def _context(
    store: Store, ledger: Ledger, settings: Settings, observe: events.Observer, connections: Connections
) -> Context:
    return Context(
        transport=connections.transport,
        store=store,
        ledger=ledger,
        pool=connections.pool,
        buffers=connections.buffers,
        settings=settings,
        observe=observe,
        places=Places(connections.files),
    )


async def open_connections(
    stack: AsyncExitStack,
    settings: Settings,
    options: PlainOptions,
    reach: Reach,
    observe: events.Observer,
    place: Destination | None = None,
) -> Connections:
    """Open what the requests of a process are sent with; the arguments are as above."""
    place = place or Destination(Path())
    limits = place.buffer_limits(settings.limits)
    pool = ConnectionPool(
        limits, observe, options.get("profiles"), hosts=settings.hosts, times=processor_times,
        most=place.most_connections(settings.limits, _most_connections()),
        connecting=descriptors() // _KEPT,
    )  # fmt: skip
    transport = await stack.enter_async_context(transport_of(settings, reach))
    return Connections(transport, pool, Buffers(limits, pool.rate), files_in_progress(pool.total))


def reach_of(settings: Settings, options: PlainOptions) -> Reach:
    """Return how servers are reached, and check it: `connect_to`, `cafile`, `proxies` and the netrc file.

    Raises:
        SettingsError: one of them cannot be used; a proxy may need a package that is not installed.
    """
    rules, proxies = tuple(options.get("connect_to", ())), options.get("proxies") or {}
    return checked_reach(settings, rules, options.get("cafile"), proxies, os.environ)


def _most_connections() -> int:
    """Return the number of connections for which this process has enough file descriptors."""
    return connections_of(descriptors())


def connections_of(count: int) -> int:
    """Return the number of connections for which `count` file descriptors are enough.

    Each connection needs four: a socket, its partial, and two files that are being finished. A quarter of all
    is kept for connections to hosts that have not answered yet, and an eighth for unused connections.
    """
    others = _OWN_DESCRIPTORS + min(CONNECTING, count // _KEPT) + count // IDLE_PART
    return max(1, (count - others) // 4)
