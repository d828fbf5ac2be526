"""The library's functions: fetch a manifest into a folder, async, as an iterator of outcomes, or blocking."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from .assembly import again_of
from .concurrency import stop as stop_tasks
from .joint import Joint
from .launch import RUN_NAME, launch, stopping_after
from .model.engines import Folder
from .model.errors import SettingsError
from .model.report import Outcome, Report
from .model.settings import Settings
from .options import FetchOptions, PlainOptions, StopToken, plain
from .storage.destination import Destination, destination
from .storage.folder.permissions import Permissions
from .views.board import Board
from .views.fanout import Fanout, Ticking
from .workers.reach import descriptors

if TYPE_CHECKING:
    from .assembly import AnyManifest
    from .views.notebook import Notebook
    from .views.screen import Live, Plain

_DESCRIPTORS = 256  # file descriptors that a run over shares needs beside those of the shares
_OF_SHARE = 64  # file descriptors that have to be left for each share that is fetched at once


async def fetch_all(
    manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]
) -> Report:
    """Fetch every entry of `manifest` into `folder`; finished files are not fetched again.

    When the call is cancelled, held bytes stay on the disk, and the same call resumes from there.

    Args:
        manifest: a SOURCE string, a path, a list of these, a DataFrame, or an (async) iterable of Entry.
        folder: the output folder, created if it does not exist; or `s3://BUCKET/PREFIX`.
        **options: see `FetchOptions`.

    Returns:
        A report of all files, also if some failed; see `Report.raise_for_failures`.

    Raises:
        ManifestError: the manifest cannot be read, or has no usable row.
        SettingsError: a setting is unknown or has an invalid value.
        CredentialsError: a source cannot be listed with the given credentials.
        NetworkError: a source cannot be listed.
        FolderBusyError: another run owns `folder`.
        DiskFullError: the disk is full.
        StorageError: `folder` cannot be written.
        TypeError: an option does not exist or has an invalid value.
    """
    return await _fetch(manifest, folder, plain(options), lambda _: None)


async def _fetch(
    manifest: AnyManifest, folder: str | Path, options: PlainOptions, deliver: Callable[[Outcome], None]
) -> Report:
    """Fetch with the engine of the options, and show progress if it is wanted."""
    run = _fetch_shares if isinstance(options.get("engine"), Folder) else launch
    given, board = [options["observer"]] if "observer" in options else [], Board()
    view = _view(board, options.get("progress"), is_observed=bool(given))
    if view is None:
        return await run(manifest, folder, options, deliver)
    observe = Fanout([board, view, *given])
    try:
        async with Ticking(view, at_end=False):
            report = await run(manifest, folder, {**options, "observer": observe}, deliver)
    finally:
        view.close()
    report.notes += observe.failures
    return report


def _view(board: Board, wanted: bool | None, *, is_observed: bool) -> Notebook | Live | Plain | None:
    """Return the view of a run that a program has begun; see `views.notebook.progress_view`."""
    if wanted or (wanted is None and "IPython" in sys.modules):
        from .views.notebook import progress_view  # a run of the command line has its own views

        return progress_view(board, wanted, is_observed=is_observed)
    return None


async def _fetch_shares(
    manifest: AnyManifest, folder: str | Path, options: PlainOptions, deliver: Callable[[Outcome], None]
) -> Report:
    """Fetch shares of the manifest, each in a run of its own, until all are done here or elsewhere.

    Raises:
        SettingsError: an option or the manifest belongs to a single run.
    """
    from .cluster.shares import OneRun, SharedRun, contents, fetch_shares  # few runs need it

    place = destination(folder, options.get("state"))
    given = check_shares(manifest, place, options)
    chosen = {
        name: options.get(name)
        for name in ("include", "exclude", "names", "fan_out", "columns", "checksums", "digests", "depth")
    }
    sources = [*map(str, given), *(f"{name}={value}" for name, value in chosen.items() if value)]
    stop = options.get("stop") or StopToken()
    each: PlainOptions = {**options, "stop": stop}
    if (settings := options.get("settings")) and settings.limits.processes == "auto":
        # each share would start its processes anew, and could not share its connections with others
        each["settings"] = replace(settings, limits=replace(settings.limits, processes=1))
    views = Fanout([options["observer"]] if "observer" in options else [])
    seen = OneRun(views)
    if "observer" in options:
        each["observer"] = seen
    stop.begun = True
    content = await asyncio.to_thread(contents, [*map(str, given), *options.get("checksums", ())])
    session, again = SharedRun(place.root, sources, content), again_of(options)
    async with AsyncExitStack() as stack:
        stack.enter_context(stopping_after(stop, each.pop("max_duration", None)))
        stack.enter_context(Permissions((settings or Settings()).storage.mode).applied())
        joint = Joint(stack, session, again)

        async def share(which: tuple[int, int]) -> Report:
            return await launch(manifest, folder, {**each, "shard": which}, deliver, joint=joint)

        report = await fetch_shares(
            session, share, joint.divide, joint.has_room, stopping=stop, most=_shares_at_once(settings)
        )
    report.notes += [] if report.stopped else again.notes()
    seen.end(report)
    report.notes += views.failures
    return report


def _shares_at_once(settings: Settings | None) -> int:
    """Return how many shares of a manifest a run may fetch at once: each needs files of its own."""
    from .cluster.shares import AT_ONCE

    if settings and settings.links.command:
        return 1  # each would run the command for fresh links
    return max(1, min(AT_ONCE, (descriptors() - _DESCRIPTORS) // _OF_SHARE))


def check_shares(manifest: AnyManifest, place: Destination, options: PlainOptions) -> list[str | Path]:
    """Check that runs that share a folder can fetch a manifest, and return its sources.

    Args:
        manifest: as in `fetch_all`.
        place: the destination.
        options: the options of such a run.

    Raises:
        SettingsError: an option, the manifest or the destination belongs to a single run.
    """
    from .sources.opening import is_pipe  # few runs need it

    given = list(manifest) if isinstance(manifest, (list, tuple)) else [manifest]
    sources = [each for each in given if isinstance(each, str | Path)]
    single = [name for name in ("shard", "failed", "name", "page") if name in options]
    once = next((str(source) for source in sources if is_pipe(source)), None)
    if place.bucket or single or len(sources) < len(given) or once:
        what = single[0] if single else "a bucket" if place.bucket else once or "a manifest in memory"
        raise SettingsError(
            f"{what} does not go with runs that share a folder: each share of the manifest is a run of its "
            "own, on any machine; " + ("write the list to a file" if once else "leave it out, or use Ray")
        )
    return sources


def fetch_iter(
    manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]
) -> AsyncGenerator[Outcome, None]:
    """Fetch as `fetch_all` does, and yield the outcome of each entry when it ends.

    Leaving the loop stops the run.

    Args:
        manifest: as in `fetch_all`.
        folder: the output folder.
        **options: see `FetchOptions`.

    Yields:
        One outcome per entry, in the order in which they end.

    Raises:
        FetchError: as `fetch_all`, from the iteration.
        TypeError: an option does not exist or has an invalid value.
    """
    return _outcomes(manifest, folder, plain(options))


async def _outcomes(
    manifest: AnyManifest, folder: str | Path, options: PlainOptions
) -> AsyncGenerator[Outcome, None]:
    outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
    work = asyncio.create_task(_fetch(manifest, folder, options, outcomes.put_nowait), name=RUN_NAME)
    work.add_done_callback(lambda _: outcomes.put_nowait(None))
    try:
        while (outcome := await outcomes.get()) is not None:
            yield outcome
        await work
    finally:
        await stop_tasks({work})


def fetch(manifest: AnyManifest, folder: str | Path = ".", **options: Unpack[FetchOptions]) -> Report:
    """Fetch as `fetch_all` does, blocking; runs its own event loop (uvloop).

    Args:
        manifest: as in `fetch_all`.
        folder: the output folder.
        **options: see `FetchOptions`.

    Returns:
        A report of all files, also if some failed.

    Raises:
        SettingsError: the caller already runs in an event loop, or as in `fetch_all`.
        FetchError: as `fetch_all`.
    """
    import uvloop

    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise SettingsError(
            "fetch() cannot run in a running event loop, such as that of a notebook; write `await "
            "fetch_all(...)` with the same arguments"
        )
    return uvloop.run(fetch_all(manifest, folder, **options))
