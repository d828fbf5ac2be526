"""The options of `fetch`, `fetch_all` and `fetch_iter`, and their conversion to one internal form."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar, cast

from .concurrency import stop as stop_tasks
from .model import events
from .model.engines import Engine, Folder, Ray
from .model.profile import Profile
from .model.quantities import seconds
from .model.settings import Settings
from .model.spelling import nearest
from .sources.columns import MEANINGS
from .sources.names import NAMES

T = TypeVar("T")


class StopToken:
    """Stops a run early; held bytes stay, and the first reason given is reported.

    Attributes:
        why: the reason; None until the run is asked to stop.
        begun: whether the run has begun to use its folder. Before that, while lists are read, nothing has to
            be saved, and the process may end at once.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.begun = False
        self._is_asked = False
        self._waiting: list[asyncio.Future[None]] = []

    def ask(self, why: str) -> None:
        """Ask the run to stop. Any thread may call this.

        Args:
            why: the reason, reported as `Report.stopped`. Later calls do not change it.
        """
        self.why, self._is_asked = self.why or why, True
        for future in tuple(self._waiting):
            with suppress(RuntimeError):  # its event loop has ended
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self) -> None:
        """Wait until the run is asked to stop."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)  # first: a thread may ask now
        try:
            if not self._is_asked:
                await future
        finally:
            self._waiting.remove(future)

    async def unless_asked(
        self, work: Coroutine[Any, Any, T], stopping: Callable[[], None] = lambda: None
    ) -> T | None:
        """Return the result of `work`. When the run is asked to stop, cancel and await it, and return None.

        Args:
            work: the work.
            stopping: called before `work` is cancelled.
        """
        working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                stopping()
        finally:
            await stop_tasks({working, waiting})
        return None if self.why is not None and working.cancelled() else working.result()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class FetchOptions(TypedDict, total=False):
    """The options of `fetch`, `fetch_all` and `fetch_iter`.

    Attributes:
        settings: `Settings`, or sections of them as a dict: `{"limits": {"per_host": 8}}`.
        observer: called with every event, in the event loop's thread. It must not be async.
        include: globs of paths to fetch, or one as a string.
        exclude: globs of paths to leave out, or one as a string.
        checksums: path or URL of an md5sum or sha256sum list to join with the manifest, or several of them.
        depth: levels of folders to read below a SOURCE that is a folder of a web server;
            1 reads its own page only.
        digests: a SOURCE that lists sizes and digests of the same files, or several.
        mirror: a SOURCE whose links are mirrors of the same files, with their sizes and digests, or several.
        headers: sent with every request to the links' own origins; a dict or pairs.
        shard: `(i, n)` or `"i/n"`: fetch share i of n of the manifest, counted from 0.
        strict: a bad row, or a row whose name is ambiguous in a list, ends the run.
        max_duration: seconds after which the run stops and keeps the held bytes, or a text such as `"12h"`.
        stop: a token to stop the run.
        connect_to: rules `HOST:PORT:HOST:PORT` as in curl.
        links: the link file of a dataset that needs one (`sam-11m`).
        cafile: PEM file of certificate authorities to trust in addition.
        proxies: scheme → proxy, as `urllib.request.getproxies()` returns them.
        profiles: `host:port` → the host's profile as `bench` measured it; `-j auto` starts from it.
        recheck: hash finished files again, instead of comparing only size and modification time.
        again: globs of files to fetch again even if they are finished, or were unpacked and deleted.
        columns: meaning → column of a table, such as `{"url": "contentUrl", "md5": "OriginalMD5"}`, or the
            same as a string `"url=contentUrl,md5=OriginalMD5"`. Columns that are not named are found by their
            names and values.
        names: how rows without a path are named: `url` (default), `host`, `hash`, `index` or `server`.
        portable_names: refuse names that Windows forbids.
        fan_out: number of subfolders over which files without a folder in their path are spread.
        update: fetch finished files again if their source has changed, which a conditional request shows.
            Files with a digest in the manifest are not asked for.
        wait_lock: seconds to wait for a folder in which another run works, or a text such as `"1h"`.
        name: path of the only file of the manifest, in place of the one that its link suggests.
        failed: file to which the rows that failed or are parked are written, as a manifest of JSON lines. It
            is replaced when the run ends, also by an empty one.
        state: local folder for the state of a run to a bucket; by default one below `$XDG_STATE_HOME`.
        engine: where the files are fetched, if not in this process and its workers: `Ray` or `Folder`.
        page: `[HOST:]PORT` to serve a page about the run on; port 0 takes a free one. The event `PageOpened`
            has the link.
        page_control: whether the page may steer the run.
        progress: whether to show the run while it goes on: in a notebook as a bar, on a terminal as the panel
            of `osp-fetch get`, elsewhere as a line every 30 seconds on stderr. By default it is shown in a
            notebook, unless there is an `observer`, and nowhere else.
    """

    settings: Settings | Mapping[str, Mapping[str, Any]]
    observer: events.Observer
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    checksums: str | Path | Sequence[str | Path]
    depth: int
    digests: str | Sequence[str]
    mirror: str | Sequence[str]
    headers: Mapping[str, str] | Iterable[tuple[str, str]]
    shard: tuple[int, int] | str
    strict: bool
    max_duration: float | str
    stop: StopToken
    connect_to: Sequence[str]
    links: str | Path
    cafile: str
    proxies: Mapping[str, str]
    profiles: Mapping[str, Profile]
    recheck: bool
    again: str | Sequence[str]
    columns: Mapping[str, str] | str
    names: str
    portable_names: bool
    fan_out: int
    update: bool
    wait_lock: float | str
    name: str
    failed: str | Path
    state: str | Path
    engine: Engine
    page: str | int
    page_control: bool
    progress: bool


class PlainOptions(TypedDict, total=False):
    """Options in the form that the package uses internally; see `plain`."""

    settings: Settings
    observer: events.Observer
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    checksums: tuple[str, ...]
    depth: int
    digests: tuple[str, ...]
    mirror: tuple[str, ...]
    headers: dict[str, str]
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
    again: tuple[str, ...]
    columns: dict[str, str]
    names: str
    portable_names: bool
    fan_out: int
    update: bool
    wait_lock: float
    failed: Path
    name: str
    state: Path
    engine: Engine
    page: str
    page_control: bool
    progress: bool


def plain(options: Mapping[str, Any]) -> PlainOptions:
    """Convert options to their internal form; an option that is None counts as not given.

    Args:
        options: the options as `FetchOptions` describes them.

    Raises:
        TypeError: an option does not exist or has an invalid value. The message states the nearest option, or
            the expected form.
        SettingsError: a key of `settings` is unknown or has an invalid value.
    """
    made: dict[str, Any] = {}
    for name, value in options.items():
        if name not in FetchOptions.__annotations__:
            known = list(FetchOptions.__annotations__)
            near = nearest(name, known, 0.5)
            meant = f"did you mean {near}?" if near else f"options are {', '.join(known)}"
            raise TypeError(f"{name!r} is not an option of fetch; {meant}")
        if value is not None:
            made[name] = _READERS[name](value) if name in _READERS else value
    return cast("PlainOptions", made)


def _globs(name: str) -> Callable[[object], tuple[str, ...]]:
    def read(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, Iterable):
            given = list(value)
            if all(isinstance(glob, str) for glob in given):
                return tuple(given)
        raise TypeError(f"{name}={value!r}: pass globs as a list of strings, or one as a string")

    return read


def _sources(name: str) -> Callable[[object], tuple[str, ...]]:
    def read(value: object) -> tuple[str, ...]:
        given = [value] if isinstance(value, (str, Path)) else value
        if isinstance(given, Sequence) and all(isinstance(each, (str, Path)) for each in given):
            return tuple(str(each) for each in given)
        raise TypeError(f"{name}={value!r}: pass a path or URL, or a list of them")

    return read


def _settings(value: object) -> Settings:
    if isinstance(value, Settings):
        return value
    if isinstance(value, Mapping):
        return Settings.load(("settings", value))
    raise TypeError(f'settings={value!r}: pass Settings, or sections such as {{"limits": {{"per_host": 8}}}}')


def _observer(value: object) -> events.Observer:
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
        raise TypeError(
            "observer: it is async, and nothing would await it; pass a plain function, which may call "
            "asyncio.create_task or put events into a queue"
        )
    if callable(value):
        return cast("events.Observer", value)
    raise TypeError(f"observer={value!r}: pass a function that takes an event")


def _headers(value: object) -> dict[str, str]:
    try:
        headers = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise TypeError('headers: pass a dict or pairs, such as {"Authorization": "Bearer …"}') from None
    for name, text in headers.items():
        if not isinstance(name, str) or not isinstance(text, (str, int, float)):
            raise TypeError(f"headers: the value of {name!r} is {type(text).__name__}; pass a string")
        if set("\r\n\0") & {*name, *str(text)}:
            raise TypeError(f"headers: {name!r} or its value contains a line break; strip it")
    return {name: str(text) for name, text in headers.items()}


def _columns(value: object) -> dict[str, str]:
    pairs = value
    if isinstance(value, str):
        pairs = dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
        if len(pairs) != len(value.split(",")):  # a pair without "=", or a meaning twice
            raise TypeError(
                f"columns={value!r}: write MEANING=COLUMN, each meaning once, such as url=contentUrl,size=b"
            )
    if not isinstance(pairs, Mapping):
        raise TypeError(f'columns={value!r}: pass a dict, such as {{"url": "contentUrl", "size": "bytes"}}')
    named = {str(meaning).strip().lower().replace("-", ""): str(name) for meaning, name in pairs.items()}
    if unknown := [meaning for meaning in named if meaning not in MEANINGS]:
        raise TypeError(f"columns: {unknown[0]!r} is not one of {', '.join(MEANINGS)}")
    return named


def _names(value: object) -> str:
    if value not in NAMES:
        raise TypeError(f"names={value!r}: pass one of {', '.join(NAMES)}")
    return str(value)


def _fan_out(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise TypeError(f"fan_out={value!r}: pass a number of subfolders between 1 and 100000")
    return int(text)


def _path(name: str, what: str) -> Callable[[object], Path]:
    def read(value: object) -> Path:
        if isinstance(value, (str, Path)) and str(value):
            return Path(value)
        raise TypeError(f"{name}={value!r}: pass the path of a {what}")

    return read


def _shard(value: object) -> tuple[int, int]:
    parts = value.split("/") if isinstance(value, str) else value
    if isinstance(parts, Sequence) and len(parts) == 2 and all(str(part).strip().isdigit() for part in parts):
        index, total = (int(part) for part in parts)
        if index < total:
            return index, total
    raise TypeError(f"shard={value!r}: pass (i, n) or 'i/n' with 0 <= i < n")


def _duration(name: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        try:
            return seconds(value)
        except ValueError:
            raise TypeError(f"{name}={value!r}: pass seconds, or a time such as '12h'") from None

    return read


def _engine(value: object) -> Engine:
    if isinstance(value, Folder | Ray):
        return value
    raise TypeError(f"engine={value!r}: pass Ray(address=…) or Folder()")


def _depth(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise TypeError(f"depth={value!r}: pass a whole number of at least 1")


def _page(value: object) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"page={value!r}: pass a port, or 'HOST:PORT'")


def _kind(name: str, *kinds: type, form: str) -> Callable[[object], Any]:
    def read(value: object) -> object:
        if isinstance(value, kinds):
            return value
        raise TypeError(f"{name}={value!r}: pass {form}")

    return read


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    **{name: _sources(name) for name in ("checksums", "digests", "mirror")},
    "settings": _settings,
    "observer": _observer,
    "include": _globs("include"),
    "exclude": _globs("exclude"),
    "again": _globs("again"),
    "columns": _columns,
    "names": _names,
    "fan_out": _fan_out,
    "headers": _headers,
    "shard": _shard,
    "depth": _depth,
    "page": _page,
    "stop": _kind("stop", StopToken, form="a StopToken"),
    "name": _kind("name", str, form="a string"),
    "cafile": _kind("cafile", str, Path, form="the path of a file of certificates"),
    "links": _kind("links", str, Path, form="the path of a file of links, or its URL"),
    "proxies": _kind("proxies", Mapping, form='a dict, such as {"https": "http://proxy:3128"}'),
    "profiles": _kind("profiles", Mapping, form="a dict of host and Profile"),
    **{
        name: _kind(name, bool, form="True or False")
        for name in ("strict", "recheck", "update", "portable_names", "page_control", "progress")
    },
    "max_duration": _duration("max_duration"),
    "wait_lock": _duration("wait_lock"),
    "failed": _path("failed", "file"),
    "state": _path("state", "folder"),
    "engine": _engine,
}
