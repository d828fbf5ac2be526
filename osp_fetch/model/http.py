"""One request and its reply, in the terms of RFC 9110."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from .ranges import ByteRange


@dataclass(frozen=True, slots=True)
class Validator:
    """What tells one state of a resource from another (RFC 9110 section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def strong(self) -> str | None:
        """The entity tag, where it is a strong one: only then do equal tags mean equal bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None

    def __bool__(self) -> bool:
        return bool(self.strong or self.last_modified)


@dataclass(frozen=True, slots=True)
class Representation:
    """What the server holds now: where it was found, its length in bytes if told, its validator."""

    url: str
    length: int | None
    validator: Validator


class Landing:
    """Memory that a small reply may be received into, head and all, instead of being read.

    `body`: the part of `view` that holds all of its body, from `start` on; None where that has to be read.
    """

    HEAD: ClassVar[int] = 4 << 10  # bytes that a head has room in

    __slots__ = ("body", "start", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.start = 0
        self.body: memoryview | None = None

    def begun(self) -> None:
        """The head is here, and the body comes."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `range` of `url`; all of it where None. `stop` of the range may lie past the end.

    `borrowed`: the URL came out of a redirect, so a refusal means that it has to be minted again.
    `landing`: where the reply may be received, if it is small.
    """

    url: str
    range: ByteRange | None = None
    if_range: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    borrowed: bool = False
    name: str = ""  # what the payload promises to be, for the guard against error pages
    sure: bool = False  # a digest will judge the bytes
    size: int | None = None  # of the whole file, as the manifest states it
    landing: Landing | None = field(default=None, compare=False, repr=False)
