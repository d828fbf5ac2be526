"""Finished files and samples of an output folder in order of publication, also while a run adds more.

Each ledger has a log of publications, and each machine a log of the archives that it has unpacked. Logs are
read, not the ledgers: SQLite must not be opened on a network file system while another machine writes to it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, overload

from ..archives.extractor import UNPACKING
from ..archives.marks import MarkFile, UnpackedFile, UnpackedOrder
from ..archives.webdataset import key_of
from ..model.dataclasses import dataclass
from ..model.entry import RelativePath
from ..model.errors import SettingsError, StorageError
from ..model.quantities import seconds
from ..model.record import Published
from ..s3.address import BucketAddress
from ..storage.destination import destination
from ..storage.folder.disk import Disk, read_json
from ..storage.folder.heartbeat import Pulse
from ..storage.folder.run_lock import LockWatch, state_folder, state_folders
from ..storage.ledger.placement import has_placement
from ..storage.ledger.sqlite import PUBLICATIONS
from .publication_logs import PublicationLogs, Publications

_PAGE: Final = 1000  # files that are looked up at a time
_LEAST_INTERVAL: Final = 0.05  # seconds between two looks; a network file system is asked at each of them


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """A published file, which stood under its final name, unchanged, when it was yielded.

    Attributes:
        path: path below the output folder.
        place: where it is: the output folder and `path`.
        size: bytes.
        digests: algorithm → hexadecimal digest of the file.
        position: pass it as `after` to continue behind this file.
    """

    path: RelativePath
    place: Path
    size: int
    digests: Mapping[str, str]
    position: str


@dataclass(frozen=True, slots=True)
class FinishedObject:
    """An object of a bucket that was published.

    Attributes:
        path: path of the file below the prefix.
        url: address of the object, such as `s3://bucket/prefix/a.tar`.
        size: bytes.
        digests: algorithm → hexadecimal digest of the object's content.
        position: pass it as `after` to continue behind this object.
    """

    path: RelativePath
    url: str
    size: int
    digests: Mapping[str, str]
    position: str


@dataclass(frozen=True, slots=True)
class FinishedSample:
    """The unpacked files of one archive that have the same key, as WebDataset defines it.

    Attributes:
        key: path of the files below the output folder, up to the first dot of their name.
        files: the rest of the name, such as `jpg` or `seg.png` → where the file is.
        archive: name of the archive.
        position: pass it as `after` to continue behind this sample.
    """

    key: str
    files: Mapping[str, Path]
    archive: str
    position: str


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_Positions = dict[str, Any]


class _Source(Protocol[T_co]):
    """Yields what is finished, from a position on."""

    def look(self) -> Iterator[T_co]:
        """Yield what was finished since the last call. Blocks."""
        ...


@overload
def finished(
    folder: str | Path, *, follow: bool = ..., samples: Literal[False] = ..., after: str | None = ...,
    interval: float | str = ..., wait: float | str = ...,
) -> FinishedItems[FinishedFile]: ...  # fmt: skip


@overload
def finished(
    folder: str | Path, *, follow: bool = ..., samples: Literal[True], after: str | None = ...,
    interval: float | str = ..., wait: float | str = ...,
) -> FinishedItems[FinishedSample]: ...  # fmt: skip


def finished(
    folder: str | Path,
    *,
    follow: bool = False,
    samples: bool = False,
    after: str | None = None,
    interval: float | str = 1.0,
    wait: float | str = 60.0,
) -> FinishedItems[FinishedFile] | FinishedItems[FinishedSample]:
    """Iterate over the finished files of an output folder in order of publication.

    Any process on any machine that sees the folder can do this while runs fetch into it. Use `for` or `async
    for`. Each publication comes once: a file that is fetched again, as by `--update`, comes again. What was
    changed or removed since its publication is left out.

    Args:
        folder: the output folder. It need not exist yet. For a bucket, see `finished_objects`.
        follow: whether to wait for further files until the run ends. If it has ended by itself, or all shards
            have, the iteration ends at once, with `samples` within some seconds. If it was stopped or killed,
            or none has begun, the iteration waits for the next one. Without `follow`, what is published after
            the start is left out.
        samples: whether to yield the samples of archives that `--unpack` has unpacked, instead of files.
            Each comes after its archive was read to its end and all of its members were published. With
            `--format webdataset`, the tars come, each as a sample with the only file `tar`.
        after: the `position` of the last file or sample that was processed. None begins with the first.
        interval: seconds between two looks at the folder while nothing comes, or a text such as `"10s"`.
        wait: seconds to wait for a run while none works in the folder, or a text such as `"1h"`.

    Returns:
        An iterable and async iterable. Each iteration over it begins behind `after`.

    Raises:
        SettingsError: `folder` is a bucket, or an argument has an invalid value.
        StorageError: from the iteration: the state of the folder cannot be read, or is of an earlier version.
    """
    root = _root_of(folder)
    kind = "samples" if samples else "files"
    begin = _positions(after, kind)
    every, patience = _seconds("interval", interval, _LEAST_INTERVAL), _seconds("wait", wait, 0.0)
    pace = _Pace(follow, every, patience, samples)
    if samples:
        return FinishedItems(root, partial(_Samples, root, begin, follow=follow), pace)
    return FinishedItems(root, partial(_Files, root, begin, follow=follow), pace)


def finished_objects(
    bucket: str,
    *,
    state: str | Path | None = None,
    follow: bool = False,
    after: str | None = None,
    interval: float | str = 1.0,
    wait: float | str = 60.0,
) -> FinishedItems[FinishedObject]:
    """Iterate over the finished objects of a bucket in order of publication.

    This reads the records of runs on this machine, and sends no request: an object that was removed since its
    publication comes, too. Everything else is as for `finished`.

    Args:
        bucket: the destination, `s3://BUCKET/PREFIX`.
        state: the local folder with the state of the runs, if they have one of their own.
        follow: whether to wait for further objects until the run ends.
        after: the `position` of the last object that was processed. None begins with the first.
        interval: seconds between two looks while nothing comes, or a text such as `"10s"`.
        wait: seconds to wait for a run while none works, or a text such as `"1h"`.

    Returns:
        An iterable and async iterable. Each iteration over it begins behind `after`.

    Raises:
        SettingsError: `bucket` is no address of a bucket, or an argument has an invalid value.
        StorageError: from the iteration: the state cannot be read.
    """
    place = destination(bucket, state)
    if place.bucket is None:
        raise SettingsError(f"{bucket}: this is no bucket; write s3://BUCKET/PREFIX, or use finished()")
    every, patience = _seconds("interval", interval, _LEAST_INTERVAL), _seconds("wait", wait, 0.0)
    source = partial(_Objects, place.root, place.bucket, _positions(after, "files"), follow=follow)
    return FinishedItems(place.root, source, _Pace(follow, every, patience, unpacking=False))


def _root_of(folder: str | Path) -> Path:
    """Return the output folder. Raises SettingsError if its files cannot be read from here."""
    place = destination(folder)
    if place.bucket is not None:
        raise SettingsError(f"{folder}: finished() reads folders; for a bucket, use finished_objects()")
    if has_placement(state_folder(place.root)):
        raise SettingsError(
            f"{folder}: its files lie on the disks of nodes; finished() reads files of this machine only"
        )
    return place.root


def _seconds(name: str, value: float | str, least: float) -> float:
    try:
        given = seconds(value)
    except ValueError:
        given = -1.0
    if given < least:
        raise SettingsError(f"{name}={value!r}: pass at least {least:g} seconds, or a time such as '10s'")
    return given


def _positions(after: str | None, kind: str) -> _Positions:
    if after is None:
        return {}
    try:
        read = dict(json.loads(after)[kind])
    except (ValueError, KeyError, TypeError):
        read = {"": None}
    if not all(_is_position(each, kind) for each in read.values()):
        raise SettingsError(f"after={after!r}: this is not the position of one of the {kind}")
    return read


def _is_position(value: Any, kind: str) -> bool:
    """Return whether `value` is a position: a number, or for samples the archive and the sample in it."""
    if kind == "files":
        return type(value) is int
    return isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)


@dataclass(frozen=True, slots=True)
class _Pace:
    """Arguments of `finished`; `unpacking` is whether a process that unpacks counts as a run."""

    follow: bool
    interval: float
    wait: float
    unpacking: bool


class FinishedItems(Generic[T]):
    """What `finished` returns: an iterable and async iterable."""

    def __init__(self, root: Path, source: Callable[[], _Source[T]], pace: _Pace) -> None:
        self._root, self._source, self._pace = root, source, pace

    def __iter__(self) -> Iterator[T]:
        looks = self._looks()
        while (found := next(looks, None)) is not None:
            yield from found
            if not found:
                time.sleep(self._pace.interval)

    async def __aiter__(self) -> AsyncIterator[T]:
        looks = self._looks()
        while (found := await asyncio.to_thread(next, looks, None)) is not None:
            for each in found:
                yield each
            if not found:
                await asyncio.sleep(self._pace.interval)

    def _looks(self) -> Iterator[list[T]]:
        """Yield what is new, up to a page of it, or an empty list if nothing is, until the end. Blocks."""
        source, runs = self._source(), _Runs(self._root, self._pace)
        while True:
            # in this order: what was published before the end of the run is found afterwards
            is_last, is_empty = runs.are_over(), True
            new = source.look()
            while page := list(itertools.islice(new, _PAGE)):
                is_empty = False
                yield page
            if is_last and (is_empty or not self._pace.follow):
                runs.check_logs()
                return
            if is_empty:
                yield []


class _Runs:
    """The runs of an output folder: does one work, or have they ended?

    Args:
        root: the output folder.
        pace: whether and how long to wait for them.
    """

    def __init__(self, root: Path, pace: _Pace) -> None:
        self._root, self._state, self._pace = root, state_folder(root), pace
        self._unpacking = Pulse(self._state / UNPACKING)
        self._watches: dict[Path, LockWatch] = {}
        self._idle_since: float | None = None

    def are_over(self) -> bool:
        """Return whether nothing more is to be expected. Call it at each look."""
        if not self._pace.follow:
            return True
        locks = [*self._state.glob("lock"), *self._state.glob("shards/*/lock")]
        for lock in locks:
            self._watches.setdefault(lock.parent, LockWatch(lock.parent))
        looks = {state: watch.look() for state, watch in self._watches.items()}
        if "held" in looks.values() or (self._pace.unpacking and self._unpacking.beats()):
            self._idle_since = None
            return False
        has_waited, now = self._idle_since is not None, time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        if self._have_ended({state for state, look in looks.items() if look == "left"}):
            # between the end of a run and the unpacking of archives that several shards fetched is a moment
            return has_waited or not self._pace.unpacking
        return now - self._idle_since >= self._pace.wait

    def _have_ended(self, left: set[Path]) -> bool:
        """Return whether the last run, or the last one of each shard, has ended by itself.

        Args:
            left: state folders of runs that were killed.
        """
        states = state_folders(self._root)
        if not states or (self._state / "join" / "session.json").exists():
            return False
        if max(states, key=_last_change) == self._state:
            # an unsharded run fetches all files, also those of shards that were given up
            states, left = [self._state], left & {self._state}
        last = [read_json(state / "status.json") or {} for state in states]
        shards = {state.name for state in states if state.parent.name == "shards"}
        counts = {name.rpartition("-of-")[2] for name in shards}
        return (
            not left
            and all(each.get("ended") and each.get("stopped") is None for each in last)
            and all(f"{number}-of-{count}" in shards for count in counts for number in range(int(count)))
        )

    def check_logs(self) -> None:
        """Raise StorageError if a ledger has no log, unless a run works, which may be about to create it."""
        for state in state_folders(self._root):
            if not (state / PUBLICATIONS).exists() and LockWatch(state).look() != "held":
                raise StorageError(
                    f"{self._root}: the records are without a log of publications, as those of an earlier "
                    "version of osp-fetch; run the same get again"
                )


def _last_change(state: Path) -> int:
    """Return when a run last wrote its lock or its status, in Unix nanoseconds; 0 if none has."""
    seen = [Disk().look(state / name) for name in ("lock", "status.json")]
    return max(each.mtime_ns if each else 0 for each in seen)


class _Files:
    """The published files of an output folder."""

    def __init__(self, root: Path, begin: _Positions, *, follow: bool) -> None:
        self._root, self._disk = root, Disk()
        self._publications = Publications(root, begin, follow=follow)

    def look(self) -> Iterator[FinishedFile]:
        """Yield the files that were published since the last call."""
        for path, published, digests, position in self._publications.look():
            place = self._root / path
            if self._disk.look(place) == published:
                yield FinishedFile(path, place, published.size, digests, position)


class _Objects:
    """The published objects of a bucket, by the local records of the runs that wrote them."""

    def __init__(self, root: Path, address: BucketAddress, begin: _Positions, *, follow: bool) -> None:
        self._address, self._publications = address, Publications(root, begin, follow=follow)

    def look(self) -> Iterator[FinishedObject]:
        """Yield the objects that were published since the last call."""
        for path, published, digests, position in self._publications.look():
            yield FinishedObject(path, self._address.url(path), published.size, digests, position)


class _Samples:
    """The samples of the archives of an output folder that were unpacked."""

    def __init__(self, root: Path, begin: _Positions, *, follow: bool) -> None:
        self._root, self._done, self._disk = root, dict(begin), Disk()
        self._logs = PublicationLogs(dict(begin), follow)

    def look(self) -> Iterator[FinishedSample]:
        """Yield the samples of the archives that were unpacked since the last call."""
        places = {place.stem: place for place in UnpackedOrder(self._root).logs()}
        rows = list(self._logs.look(places))
        last = dict[str, int]()  # the position at which each archive was unpacked for the last time
        for _, (position, archive, _, _) in rows:
            last[archive] = max(position, last.get(archive, 0))
        for name, (position, archive, target, _) in rows:
            before, yielded = self._done.get(name, [0, 0])
            samples = self._grouped(archive, target) if position == last[archive] else ()
            for number, (key, files) in enumerate(samples, 1):
                self._done[name] = [before, number]
                if number > yielded and files:
                    yield FinishedSample(key, files, archive, json.dumps({"samples": self._done}))
            self._done[name] = [position, 0]

    def _grouped(self, archive: str, target: str) -> Iterator[tuple[str, dict[str, Path]]]:
        """Yield each key of an archive with its files, none if one of these is gone or was changed."""
        base = RelativePath(f"{target}/" if target else "")
        members = sorted(
            MarkFile(self._root, archive).members(), key=lambda each: (key_of(each.path), each.path)
        )
        for key, same in itertools.groupby(members, key=lambda each: key_of(each.path)):
            listed = list(same)
            files = {each.path[len(key) + 1 :]: self._root / (base + each.path) for each in listed}
            yield base + key, files if all(map(self._is_here, files.values(), listed)) else {}

    def _is_here(self, place: Path, member: UnpackedFile) -> bool:
        return self._disk.look(place) == Published(member.size, member.mtime_ns)
