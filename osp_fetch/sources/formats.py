"""Recognises the format of a manifest file by its content, and returns its rows."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from ..model.urls import shown
from . import bagit, other_tools, sa1b, table
from .dialect import Dialect, detect
from .json_lines import is_json_lines, json_lines, json_values, url_list
from .opening import DAMAGED, STDIN, TABLES, ManifestFile, open_files, suffix_of
from .reading import Reading
from .row_parser import Blocks, broken
from .select import Selection

_PARQUET: Final = b"PAR1"
# suffixes of the files of a folder that are read as parts of a manifest
_PARTS: Final = TABLES | {".txt"}
_LINK: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MARKUP: Final = re.compile(r"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def part_files(source: str | Path) -> list[str | Path]:
    """Return the files of a SOURCE: itself, the tables of a folder, or the matches of a glob, sorted.

    Raises:
        ManifestError: the folder contains no table, or the glob matches nothing.
    """
    path = Path(source)
    if bagit.is_bag(path):
        return [path / bagit.FETCH]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and suffix_of(p.name) in _PARTS)
        hidden = [p for p in files if any(part.startswith((".", "_")) for part in p.relative_to(path).parts)]
        found = [p for p in files if p not in set(hidden)]
        if not found:
            raise broken(
                f"{shown(str(path))} is not a file, and a folder without tables; name a manifest, a folder "
                "of tables, a URL, an address or a dataset"
            )
        return list(found)
    if isinstance(source, str) and not path.exists() and glob.has_magic(source):
        places = glob.glob(source, recursive=True)  # noqa: PTH207
        matched = sorted(place for place in places if Path(place).is_file())
        if not matched:
            raise broken(f"{shown(source)}: the glob matches no file; check the folder")
        return list(matched)
    return [source]


def rows_of_file(
    source: str | Path, selection: Selection, reading: Reading
) -> list[tuple[ManifestFile, Callable[[], Blocks]]]:
    """Return each file of a manifest, and a function that reads its rows, which can be called several times.

    Args:
        source: a path, or `-` for standard input.
        selection: rows that do not belong to SA-1B are kept only if its globs ask for them.
        reading: shared by all readers.

    Raises:
        ManifestError: a file cannot be read, or is no manifest.
    """
    place = None if source == STDIN else Path(source)
    files = open_files(source)
    return [(file, partial(_checked, file, _reader(file, place, selection, reading))) for file in files]


def _checked(file: ManifestFile, read: Callable[[], Blocks]) -> Blocks:
    """Yield the rows of `read`; a file that cannot be read to its end is one sentence."""
    try:
        yield from read()
    except (OSError, UnicodeError, *DAMAGED) as error:
        raise broken(f"{file.name}: cannot be read to its end ({error}); fetch the manifest again") from None


def _reader(
    file: ManifestFile, place: Path | None, selection: Selection, reading: Reading
) -> Callable[[], Blocks]:
    with file.binary() as opened:
        magic = opened.read(512)
    if magic.startswith(_PARQUET) or file.suffix == ".parquet":
        return partial(table.parquet, file, reading)
    head = file.head()
    if "\0" in head:
        raise broken(
            f"{file.name}: not UTF-8 text, because it holds NUL bytes; a manifest is a table, JSON lines, or "
            "a list of URLs"
        )
    first = head.partition("\n")[0]
    if sa1b.is_link_file(first):
        tabs = Dialect("\t", quoted=False)
        return lambda: sa1b.without_foreign(table.delimited(file, tabs, reading), selection)
    if file.suffix in (".meta4", ".metalink") or "<metalink" in head[:2048]:
        from . import metalink  # importing the XML parser takes 1 % of the start-up time

        return partial(metalink.files, file)
    if _MARKUP.match(head):
        raise broken(
            f"{file.name}: an HTML page, and no manifest; download the list itself, or name the page's URL"
        )
    other = other_tools.reader(head.replace("\r\n", "\n"), place)
    if other is not None:
        return partial(_lines_read, file, other)
    text = head.lstrip("\ufeff \t\r\n")
    if (text.startswith("{") and is_json_lines(text)) or (
        file.suffix in (".jsonl", ".ndjson") and text[:1] != "["
    ):
        return partial(json_lines, file, reading)
    if text.startswith(("[", "{")):
        return partial(json_values, file, reading)
    dialect = detect(head.lstrip("\ufeff"), file.suffix)
    if dialect is not None:
        return partial(table.delimited, file, dialect, reading)
    _check_links(head, file.name)
    return partial(url_list, file)


def _lines_read(file: ManifestFile, read: other_tools.Reader) -> Blocks:
    with file.text() as lines:
        yield from read(lines, file.name)


def _check_links(head: str, name: str) -> None:
    """Check that one of the first lines is a link.

    Raises:
        ManifestError: none is, so that a sentence for each line would say the same.
    """
    lines = [line.strip("\"'<> \t") for line in head.splitlines()]
    given = [line for line in lines if line and not line.startswith("#")]
    if given and not any(_LINK.match(line) for line in given):
        raise broken(
            f"{name}: neither a table with a column of links, nor a list with one http(s) link per line; its "
            f"first line is {given[0][:60]!r}"
        )
