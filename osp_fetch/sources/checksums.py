"""Checksum lists of the files of a manifest: digests by path; see `join.FileList`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..model.digest import Digest, stronger
from ..model.entry import Entry
from ..model.errors import FetchError, ManifestError
from ..model.protocols import Row
from ..model.urls import shown
from .checksum_lines import Listed, parsed, single_name
from .encoding import encoding_of
from .pages import HEAD, LIST, Pages, document, refused
from .row_parser import broken


class Checksums:
    """A checksum list; see `join.FileList`.

    Args:
        digests: name → digest.
        name: the list's name for messages.
        alone: the digest of a list that is one value without a name.

    Attributes:
        passed_over: digests of the list that are not checked, because a stronger one of the file is.
    """

    def __init__(
        self, digests: Mapping[str, Digest], name: str = "checksums", alone: Digest | None = None
    ) -> None:
        self.digests = digests
        self.name = name
        self.passed_over = 0
        self._alone = alone

    @classmethod
    def read(cls, path: Path) -> Checksums:
        """Read a checksum list in a file.

        Args:
            path: the file to read, in UTF-8 or with a byte order mark.

        Raises:
            ManifestError: the file cannot be read, or as `of`.
        """
        try:
            with path.open("rb") as file:
                encoding = encoding_of(file.read(HEAD))
            with path.open(encoding=encoding) as lines:
                return cls.of(lines, path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise broken(f"{path}: the checksum list cannot be read ({error})") from None

    @classmethod
    def fetch(cls, url: str, pages: Pages) -> Checksums:
        """Read a checksum list on a server. Blocks.

        Args:
            url: its URL.
            pages: gets the list.

        Raises:
            ManifestError: the server has no such list, or as `of`.
            CredentialsError: the server refuses to show the list.
            NetworkError: the list cannot be read.
        """
        where = shown(url)
        try:
            page = pages.get(document(url), most=LIST)
        except FetchError as error:
            raise refused(error, f"the checksum list {where}") from None
        with page:
            return cls.of(page.lines(), unquote(urlsplit(url).path.rpartition("/")[2]) or where)

    @classmethod
    def of(cls, lines: Iterable[str], name: str) -> Checksums:
        """Return the checksum list that `lines` state.

        A name that is listed with several algorithms keeps the strongest. A list that is a single value
        without a name belongs to the file that it is named after, `x.tar` for `x.tar.sha256`, else to the
        only file of the manifest.

        Args:
            lines: the lines, with or without their ends.
            name: the list's name.

        Raises:
            ManifestError: the list is empty or is no checksum list, it states two values for one name (the
                message then gives both lines), or it has several values without names.
        """
        digests: dict[str, Digest] = {}
        seen: dict[tuple[str, str], Listed] = {}
        bare: Listed | None = None
        try:
            for each in parsed(lines, name):
                if each.name is None or bare is not None:
                    _check_single(bare or each, each, name, others=bool(digests or bare))
                    bare = each
                    continue
                before = seen.setdefault((each.name, each.digest.algorithm), each)
                if before.digest != each.digest:
                    raise _contradiction(name, before, each)
                digests[each.name] = stronger(digests.get(each.name), each.digest)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise broken(f"{name}:{error}; pass a list in the format of md5sum or sha256sum") from None
        if bare is not None:
            stem = single_name(name)
            return cls({stem: bare.digest} if stem else {}, name, None if stem else bare.digest)
        if not digests:
            raise broken(f"{name}: the checksum list is empty")
        return cls(digests, name)

    @property
    def alone(self) -> bool:
        """Whether the list is one value, and belongs to the only file of the manifest."""
        return self._alone is not None

    def named(self, only: str | None) -> Mapping[str, Digest]:
        """Return name → digest; a value without a name is that of the file `only`, if there is one file."""
        return {only: self._alone} if self._alone is not None and only is not None else self.digests

    def paths(self) -> Iterable[str]:
        """Return the listed names."""
        return self.digests

    def combine(self, entry: Entry, path: str) -> Row:
        """Add the digest of the listed name `path` to `entry`; see `join.FileList`."""
        listed = self._alone or self.digests[path]
        if entry.digest is None:
            return replace(entry, digest=listed)
        if entry.digest.algorithm == listed.algorithm and entry.digest != listed:
            return ManifestError(
                f"{entry.path}: the manifest and {self.name} state different {listed.algorithm} values; "
                "find out which is right and remove the other"
            )
        self.passed_over += stronger(entry.digest, listed) != listed
        return replace(entry, digest=stronger(entry.digest, listed))


def _contradiction(name: str, before: Listed, now: Listed) -> ManifestError:
    return broken(
        f"{name}:{before.line} and {name}:{now.line} state different {now.digest.algorithm} values for "
        f"{now.name}; find out which is right and remove the other"
    )


def _check_single(bare: Listed, now: Listed, name: str, *, others: bool) -> None:
    """Raise ManifestError if a value without a name is not the only line of its list."""
    if others:
        line = bare.line if bare.name is None else now.line
        raise broken(
            f"{name}:{line}: a value without a name, in a list of several; write its file's name after it"
        )
