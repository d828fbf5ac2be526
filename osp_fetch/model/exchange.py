"""One request and its reply, in the terms of RFC 9110."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `range` of `url`; all of it where None. `stop` of the range may lie past the end.

    `borrowed`: the URL came out of a redirect, so a refusal means that it has to be minted again.
    """

    url: str
    range: ByteRange | None = None
    if_range: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    borrowed: bool = False
    name: str = ""  # what the payload promises to be, for the guard against error pages
    sure: bool = False  # a digest will judge the bytes
    size: int | None = None  # of the whole file, as the manifest states it
