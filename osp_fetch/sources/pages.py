"""Pages and small documents that a listing reads from a server: what the sources require of it.

`osp_fetch.pages` has the implementation. It sends each request over an exchange and the transport that also
fetches the files, so that every list obeys the same limits, proxies, certificates, timeouts and credential
rules.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

from ..model.dataclasses import dataclass
from ..model.errors import CredentialsError, FetchError, NetworkError, Remedy, StatusError
from ..model.http import Request
from ..model.urls import encoded, shown
from .encoding import encoding_of
from .row_parser import broken

HEAD: Final = 64 << 10  # bytes of a document by which its format is recognised
DOCUMENT: Final = 64 << 20  # most bytes of a document that is read at once, or of a folder page
LIST: Final = 1 << 30  # most bytes of a list that is read line by line
Judge = Callable[[str], bool]
"""Returns whether a document that begins with this text is what the caller is looking for."""
_LINE: Final = 64 << 10  # characters of a line; no line of a list is longer
DEPTH: Final = 10
"""Levels of folders that are read by default. A link to a parent folder on the server's disk makes a tree
without end."""


@dataclass(frozen=True, slots=True)
class Page:
    """A received document, a context manager that discards it.

    Attributes:
        url: the final URL, after redirects.
        file: the complete content, in memory or in a temporary file.
    """

    url: str
    file: IO[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def head(self) -> str:
        """Return the first 64 KiB as text."""
        self.file.seek(0)
        head = self.file.read(HEAD)
        return head.decode(encoding_of(head), "replace").removeprefix("\ufeff")

    def chunks(self) -> Iterator[str]:
        """Yield the content as text, in pieces of 64 Ki characters."""
        text = self._text("replace")
        while chunk := text.read(HEAD):
            yield chunk
        text.detach()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the content with their ends, as text.

        Raises:
            ManifestError: a line is longer than 64 Ki characters.
        """
        text = self._text("surrogateescape")
        while line := text.readline(_LINE):
            if len(line) == _LINE:
                raise broken(f"{shown(self.url)}: a line is longer than {_LINE} characters; this is no list")
            yield line
        text.detach()

    def json(self) -> Any:
        """Return the JSON value of the content.

        Raises:
            ValueError: the content is not JSON.
        """
        self.file.seek(0)
        return json.load(self.file)

    def _text(self, errors: str) -> io.TextIOWrapper:
        self.file.seek(0)
        encoding = encoding_of(self.file.read(HEAD))
        self.file.seek(0)
        # other encodings have no bytes to escape
        errors = errors if encoding == "utf-8-sig" else "replace"
        return io.TextIOWrapper(self.file, encoding=encoding, errors=errors)


class Pages(Protocol):
    """A client that gets documents; its methods block, and must not be called in an event loop's thread."""

    def get(
        self,
        request: Request,
        *,
        passing: Collection[int] = (),
        judge: Judge | None = None,
        most: int = DOCUMENT,
    ) -> Page:
        """Get one document.

        Args:
            request: the request; its `name` and `sure` have the same meaning as for a file.
            passing: status codes that a retry may pass, in addition to those that always count as such.
            judge: if it refuses the first 64 KiB, no more is received; a shorter document is not judged.
            most: largest number of bytes to receive.

        Returns:
            The complete document, or its beginning if `judge` refuses it.

        Raises:
            FetchError: the document cannot be had, after all retries; StatusError has the status.
            ManifestError: the document is larger than `most`.
        """
        ...

    def get_all(self, requests: Sequence[Request], *, judge: Judge | None = None) -> list[Page | FetchError]:
        """Get several documents over a few connections; an error stands in place of its document."""
        ...

    def stop(self) -> None:
        """End every request that another thread waits for, and refuse further ones."""
        ...


class NoPages:
    """The `Pages` of a caller that has no network."""

    def get(
        self,
        request: Request,
        *,
        passing: Collection[int] = (),
        judge: Judge | None = None,
        most: int = DOCUMENT,
    ) -> Page:
        """Raise ManifestError."""
        raise broken(f"{shown(request.url)}: lists on servers cannot be read here; pass a local file")

    def get_all(self, requests: Sequence[Request], *, judge: Judge | None = None) -> list[Page | FetchError]:
        """Raise ManifestError."""
        return [self.get(request) for request in requests]

    def stop(self) -> None:
        """Do nothing."""


def document(url: str) -> Request:
    """Return the request for a document whose content decides what it is; an HTML page is one, too."""
    return Request(encoded(url), name=shown(url), sure=True)


def refused(error: FetchError, what: str) -> FetchError:
    """Return the error that ends the run because a list cannot be read.

    Args:
        error: what `Pages.get` raised.
        what: the list for messages, such as `the checksum list http://host/SHA256SUMS`.

    Returns:
        CredentialsError for the statuses 401 and 403, ManifestError for 404 and 410 and for a list that is
        too large, else NetworkError.
    """
    status = error.status if isinstance(error, StatusError) else None
    if status in (401, 403):
        return CredentialsError(
            f"{what}: the server refuses to show it (HTTP {status}); pass the credentials with --header"
        )
    if status in (404, 410):
        return broken(f"{what}: the server has no such page (HTTP {status}); check the URL")
    if error.remedy is Remedy.ABORT:
        return error
    return NetworkError(
        f"{what}: cannot be read ({error}); check the URL, or run again later", remedy=Remedy.ABORT
    )
