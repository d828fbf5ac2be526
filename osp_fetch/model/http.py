"""Values that describe a request and its reply, in the terms of RFC 9110."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import ClassVar

from .dataclasses import dataclass
from .ranges import ByteRange


@dataclass(frozen=True, slots=True)
class Validator:
    """The ETag and Last-Modified of a representation (RFC 9110 section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def strong(self) -> str | None:
        """The entity tag if it is strong, else None: only equal strong tags mean equal bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None

    @property
    def opaque(self) -> str | None:
        """The entity tag without its mark of weakness, for the weak comparison (RFC 9110 section 8.8.3.2)."""
        return self.etag.removeprefix("W/") if self.etag else None

    @property
    def exists(self) -> bool:
        """Whether there is any validator, also a weak entity tag, which a condition may use."""
        return bool(self.etag or self.last_modified)

    def __bool__(self) -> bool:
        return bool(self.strong or self.last_modified)


@dataclass(frozen=True, slots=True)
class Representation:
    """The file as the server states it now.

    Attributes:
        url: the final URL, after redirects.
        length: bytes, None if the server does not state it.
        validator: its ETag and Last-Modified.
    """

    url: str
    length: int | None
    validator: Validator


class Coding(Enum):
    """What became of the content coding of a reply (RFC 9110 section 8.4)."""

    NONE = "none"  # the server sent the file's own bytes
    KEPT = "kept"  # the body is coded
    DECODED = "decoded"  # the coding was removed


class Landing:
    """Memory into which a small reply, head and body, can be received directly.

    Attributes:
        view: the memory.
        start: the offset of the body in `view`.
        body: the part of `view` with the complete body; None if the body has to be read from the reply.
    """

    HEAD: ClassVar[int] = 4 << 10  # bytes reserved for the head

    __slots__ = ("body", "start", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.start = 0
        self.body: memoryview | None = None

    def begun(self) -> None:
        """Be notified that the head was received and the body follows; does nothing by default."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET request for a range of a file.

    Attributes:
        url: the link.
        range: the bytes to request, None for all. Its end may be past the end of the file.
        if_range: a validator for the If-Range header (RFC 9110 section 13.1.5).
        headers: additional headers.
        at_home: whether the user named the origin of `url`; False for the target of a redirect to another
            one.
        borrowed: whether `url` is the target of a redirect; a refusal then means that the original link has
            to be requested again.
        name: the file name, from which the guard against error pages derives the expected content.
        sure: whether a digest will verify the bytes.
        size: bytes of the complete file, as the manifest or an earlier reply states them.
        coding: what to do if the server codes the file although it was asked not to; None keeps the coding if
            the size is that of the coded bytes, and removes it otherwise.
        landing: memory for the reply if it is small.
        unless: the validator of the file that is here already. A server that still has this file answers 304
            (RFC 9110 section 13.1).
    """

    url: str
    range: ByteRange | None = None
    if_range: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    borrowed: bool = False
    name: str = ""
    sure: bool = False
    size: int | None = None
    coding: Coding | None = None
    landing: Landing | None = field(default=None, compare=False, repr=False)
    at_home: bool = True
    unless: Validator | None = None
