"""The members of archives in a bucket that were deleted after unpacking: are they still there?"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from ..model.record import Published
from . import marks, splits
from .marks import MOST_NAMED, Mark

_PAGE: Final = 1000  # objects whose states are looked at together


class ObjectStates(Protocol):
    """The objects of a bucket as they are now; `inspection.place.BucketPlace` is one."""

    def note(self, name: str) -> bytes | None:
        """Return a small object of osp-fetch itself, None if there is none."""
        ...

    def prepare(self, paths: Sequence[str]) -> None:
        """Look at many objects together: `look` is called for these next."""
        ...

    def look(self, path: str) -> Published | None:
        """Return the state of an object, None if there is none."""
        ...


def lost_in_bucket(place: ObjectStates, paths: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each archive that has lost members since it was deleted, and those members.

    Args:
        place: the bucket.
        paths: the files that were deleted after unpacking.

    Raises:
        StorageError: the store does not answer.
    """
    for name in sorted({splits.base_of(path) for path in paths}):
        text = place.note(f"unpacked/{name}.json")
        mark = Mark.parse(text.decode("utf-8", "replace")) if text else None
        if mark is None:
            yield name, [f"(the list of its members, .osp-fetch/unpacked/{name}.json, is gone)"]
        elif lost := _missing(place, name, mark):
            yield name, lost


def _missing(place: ObjectStates, name: str, mark: Mark) -> list[str]:
    """Return the members of an archive that are gone or changed, as `MarkFile.missing` does in a folder."""
    members = marks.read_members(io.BytesIO(place.note(f"unpacked/{name}.members.gz") or b""))
    lost: list[str] = []
    listed = 0
    while page := list(islice(members, _PAGE)):
        listed += len(page)
        finals = [f"{mark.target}/{each.path}" if mark.target else each.path for each in page]
        place.prepare(finals)
        states = zip(page, finals, strict=True)
        lost += [path for each, path in states if place.look(path) != Published(each.size, each.mtime_ns)]
        if len(lost) >= MOST_NAMED:
            return lost[:MOST_NAMED]
    if listed < mark.files:
        lost.append(f"(the list of members .osp-fetch/unpacked/{name}.members.gz is torn)")
    return lost
