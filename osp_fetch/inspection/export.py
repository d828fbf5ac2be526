"""Export: the rows of a manifest as a list that another tool reads."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final
from xml.sax.saxutils import escape, quoteattr

from ..model.digest import Digest
from ..model.entry import Entry
from ..model.errors import StorageError
from ..model.protocols import Row
from ..sources.names import last_name

# Names of the algorithms in aria2 and in the IANA registry that Metalink refers to.
_HASH_NAMES: Final = {
    "md5": "md5", "sha1": "sha-1", "sha224": "sha-224", "sha256": "sha-256", "sha384": "sha-384",
    "sha512": "sha-512",
}  # fmt: skip
# Parts of names of headers that carry credentials. A list is passed on, so they are not written into it.
_CREDENTIALS: Final = ("auth", "cookie", "token", "secret", "key", "password", "signature", "session")

# What was left out, as a sentence about `{}` files → number of files.
Lost = Counter[str]


class Export:
    """Writes the entries that pass it as a list.

    Args:
        kind: a key of `FORMATS`.
        file: receives the list, in UTF-8.
    """

    def __init__(self, kind: str, file: IO[bytes]) -> None:
        self._kind, self._file = kind, file
        self._lost: Lost = Counter()

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield `rows`, and write each entry among them.

        Raises:
            OSError: the list cannot be written.
        """
        first, write, last = FORMATS[self._kind]
        self._file.write(first.encode())
        for row in rows:
            if isinstance(row, Entry):
                self._file.write(write(row, self._lost).encode("utf-8"))
            yield row
        self._file.write(last.encode())

    def notes(self) -> list[str]:
        """Return a sentence for each kind of value that the format cannot express."""
        return [f"{self._kind}: {said.format(count)}" for said, count in self._lost.items() if count]


@contextmanager
def opened(place: str, stdout: IO[bytes], *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open the file of an export; a regular file appears under its name when it is complete.

    Args:
        place: its path, or `-` for the standard output.
        stdout: the standard output.
        overwrite: whether an existing file is replaced.

    Raises:
        StorageError: the file exists, or cannot be written.
    """
    if place == "-":
        yield stdout
        stdout.flush()
        return
    target = Path(place)
    if target.is_file() and not overwrite:
        raise StorageError(
            f"--export: {place} exists; name another file after the format, or pass --overwrite"
        )
    try:
        if target.exists() and not target.is_file():  # a pipe or a device
            with target.open("wb") as file:
                yield file
            return
        written = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with written.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            written.replace(target)
        finally:
            with suppress(FileNotFoundError):
                written.unlink()
    except OSError as error:
        raise StorageError(
            f"--export: {place} cannot be written ({error.strerror or error}); choose another place"
        ) from None


def _aria2(entry: Entry, lost: Lost) -> str:
    if entry.path != entry.path.strip():
        lost["{} files are left out: aria2 drops the blanks at the ends of their names"] += 1
        return ""
    lines = ["\t".join(entry.urls), f"  out={entry.path}"]
    if digest := _named_digest(entry.digest, lost):
        lines.append(f"  checksum={digest[0]}={digest[1]}")
    lines += [f"  header={name}: {value}" for name, value in _headers(entry, lost)]
    lost["the sizes of {} files are not written: the format has none"] += entry.size is not None
    return "\n".join([*lines, ""])


def _metalink(entry: Entry, lost: Lost) -> str:
    if any("\ufffe" in text or "\uffff" in text for text in (entry.path, *entry.urls)):
        lost["{} files are left out: XML does not allow a character of their names"] += 1
        return ""
    lines = [f"  <file name={quoteattr(entry.path)}>"]
    if entry.size is not None:
        lines.append(f"    <size>{entry.size}</size>")
    if digest := _named_digest(entry.digest, lost):
        lines.append(f'    <hash type="{digest[0]}">{digest[1]}</hash>')
    for priority, url in enumerate(entry.urls, 1):
        lines.append(f'    <url priority="{priority}">{escape(url)}</url>')
    lost["the headers of {} files are not written: the format has none"] += bool(entry.headers)
    return "\n".join([*lines, "  </file>", ""])


def _tsvhttp(entry: Entry, lost: Lost) -> str:
    md5 = entry.digest if entry.digest and entry.digest.algorithm == "md5" else None
    size = "" if entry.size is None else str(entry.size)
    checksum = base64.b64encode(bytes.fromhex(md5.hex)).decode() if md5 else ""
    lost["the digests of {} files are not written: the format takes MD5 only"] += (
        bool(entry.digest) and not md5
    )
    lost["the mirrors of {} files are not written: the format has none"] += len(entry.urls) > 1
    lost["the headers of {} files are not written: the format has none"] += bool(entry.headers)
    lost["the paths of {} files are not written: the format has none, and names files after links"] += (
        last_name(entry.urls[0]) != entry.path
    )
    return "\t".join((entry.urls[0], size, checksum)).rstrip("\t") + "\n"


def _sha256sums(entry: Entry, lost: Lost) -> str:
    if entry.digest is None or entry.digest.algorithm != "sha256":
        lost["{} files are left out: the manifest states no SHA-256 of them"] += 1
        return ""
    # GNU coreutils: a name with a backslash or a line break is escaped, and the line begins with a backslash
    escaped = entry.path.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "\\" if escaped != entry.path else ""
    return f"{mark}{entry.digest.hex}  {escaped}\n"


def _named_digest(digest: Digest | None, lost: Lost) -> tuple[str, str] | None:
    """Return the algorithm's name and the value of a digest that aria2 and Metalink know."""
    if digest is not None and digest.algorithm in _HASH_NAMES:
        return _HASH_NAMES[digest.algorithm], digest.hex
    lost["the digests of {} files are not written: the format does not know their algorithms"] += bool(digest)
    return None


def _headers(entry: Entry, lost: Lost) -> list[tuple[str, str]]:
    """Return the headers of an entry without credentials."""
    kept = [pair for pair in entry.headers if not any(word in pair[0].lower() for word in _CREDENTIALS)]
    lost["the credentials of {} files are not written: pass them to aria2 with --header"] += len(kept) < len(
        entry.headers
    )
    return kept


FORMATS: Final[dict[str, tuple[str, Callable[[Entry, Lost], str], str]]] = {
    "aria2": ("", _aria2, ""),
    "metalink": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n',
        _metalink,
        "</metalink>\n",
    ),
    "tsvhttp": ("TsvHttpData-1.0\n", _tsvhttp, ""),
    "sha256sums": ("", _sha256sums, ""),
}
"""Name of a format → its first lines, the lines of one entry, and its last lines."""
