"""The composition root: builds transport, store, ledger and connection pool for a run, and the rows it reads.

Only this module and `workers.worker` know the concrete classes behind the protocols of `model.protocols`.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .connections.buffers import Buffers
from .connections.pool import ConnectionPool
from .datasets.catalogue import expand_all
from .engine.context import Context
from .model import events
from .model.protocols import Manifest, Renewal, Row
from .model.settings import Settings
from .model.urls import shown
from .options import PlainOptions
from .sources.checksums import Checksums
from .sources.join import FileList
from .sources.link_files import LinkFileRenewal
from .sources.resolve import Options, Resolved, resolve
from .sources.second_source import SecondSource
from .sources.select import Selection
from .storage.folder.run_lock import state_folders
from .storage.folder.store import FolderStore
from .storage.ledger.sqlite import SqliteLedger
from .workers.reach import Reach, transport_of

if TYPE_CHECKING:
    import pandas

    AnyManifest = str | Path | Sequence[str] | pandas.DataFrame | Manifest

_OWN_DESCRIPTORS = 64  # the interpreter's, the ledger's, logs and pipes


def rows_of(manifest: AnyManifest, options: PlainOptions) -> Resolved:
    """Return the rows that a run over `manifest` with these options goes through."""
    return resolve(_sources(manifest, options) or manifest, _row_options(options))


def _sources(manifest: AnyManifest, options: PlainOptions) -> list[str | Path]:
    """The SOURCEs that `manifest` consists of; none where it is an iterable or a DataFrame."""
    several = isinstance(manifest, (list, tuple)) and all(isinstance(s, (str, Path)) for s in manifest)
    each = cast("list[str | Path]", manifest) if several else [manifest]
    return expand_all([s for s in each if isinstance(s, (str, Path))], options.get("links"))


def again_of(options: PlainOptions) -> Callable[[str], bool]:
    """Return whether a file is to be fetched anew although it is finished."""
    again = options.get("again", ())
    return Selection(again).wants if again else lambda _: False


def renewal_of(
    manifest: AnyManifest, options: PlainOptions, settings: Settings, observe: events.Observer
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


def _row_options(options: PlainOptions) -> Options:
    return Options(
        selection=_selection(options),
        lists=_lists(options),
        headers=_headers(options),
        shard=options.get("shard"),
        strict=options.get("strict", False),
    )


def _selection(options: PlainOptions) -> Selection:
    return Selection(options.get("include", ()), options.get("exclude", ()))


def _headers(options: PlainOptions) -> tuple[tuple[str, str], ...]:
    return tuple(options.get("headers", {}).items())


def _lists(options: PlainOptions) -> tuple[FileList, ...]:
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


async def build_context(
    stack: AsyncExitStack,
    root: Path,
    state: Path,
    settings: Settings,
    options: PlainOptions,
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


def reach_of(options: PlainOptions) -> Reach:
    """How servers are reached with these options."""
    proxies = dict(options.get("proxies") or {})
    return Reach(tuple(options.get("connect_to", ())), options.get("cafile"), proxies)


def _most_connections() -> int:
    """How many connections this process may open files for.

    A connection takes a socket and a partial, and as many files again, twice, may be being finished.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - _OWN_DESCRIPTORS) // 4)
