"""BagIt (RFC 8493): the files that a bag's `fetch.txt` names, with the digests of its manifests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ..model.digest import HEX_LENGTHS, STRENGTH
from ..model.errors import ManifestError
from .blocks import grouped
from .row_parser import Blocks, Numbered, broken, read_row

FETCH: Final = "fetch.txt"
_LINE: Final = re.compile(r"(\S+)[ \t]+(\d+|-)[ \t]+(\S.*)")
_LISTED: Final = re.compile(r"([0-9a-fA-F]+)[ \t]+\*?(\S.*)")
_ENCODED: Final = re.compile(r"%(0[Dd]|0[Aa]|25)")


def is_bag(folder: Path) -> bool:
    """Return whether `folder` is a bag with files to fetch."""
    if not (folder / FETCH).is_file():
        return False
    return (folder / "bagit.txt").is_file() or any(folder.glob("manifest-*.txt"))


def is_fetch_file(path: Path, head: str) -> bool:
    """Return whether `path`, a file that begins with `head`, is the `fetch.txt` of a bag.

    A table of links, widths and captions has the same form. So its name, or the bag around it, counts, too.
    """
    return looks_like(head) and (path.name == FETCH or (path.parent / "bagit.txt").is_file())


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is a `fetch.txt`: URL, length or `-`, path."""
    whole, _, last = head.rpartition("\n")
    lines = [line for line in (whole or last).split("\n") if line.strip()]
    return bool(lines) and all((match := _LINE.match(line)) and "://" in match[1] for line in lines)


def rows(lines: Iterable[str], name: str, folder: Path) -> Blocks:
    """Read one row for each line of a `fetch.txt`. Paths are relative to the bag.

    Args:
        lines: the lines, with or without their ends.
        name: the file's name for messages.
        folder: the bag, whose `manifest-ALGORITHM.txt` state the digests.

    Raises:
        ManifestError: a manifest cannot be read, or a line of it is not `VALUE PATH`.
    """
    return grouped(_rows(lines, name, folder))


def _rows(lines: Iterable[str], name: str, folder: Path) -> Iterator[Numbered]:
    algorithm, digests = _digests(folder)
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        match = _LINE.fullmatch(text.rstrip("\r\n"))
        if match is None:
            yield (
                line,
                ManifestError(f"{name}:{line}: not of the form 'URL LENGTH PATH'; correct or remove the row"),
            )
            continue
        path = _decoded(match[3])
        values = {"url": match[1], "size": None if match[2] == "-" else match[2], "path": path}
        if digest := digests.get(path):
            values[algorithm] = digest.hex()
        yield line, read_row(values, name, line)


def _digests(folder: Path) -> tuple[str, dict[str, bytes]]:
    """Return the algorithm of the strongest manifest, and path → digest; both empty if there is none."""
    for algorithm in STRENGTH:
        place = folder / f"manifest-{algorithm}.txt"
        if place.is_file():
            return algorithm, _manifest(place, HEX_LENGTHS[algorithm])
    return "", {}


def _manifest(place: Path, digits: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with place.open(encoding="utf-8-sig") as lines:
            for line, text in enumerate(lines, 1):
                if not text.strip():
                    continue
                match = _LISTED.fullmatch(text.rstrip("\r\n"))
                if match is None or len(match[1]) != digits:
                    raise broken(f"{place}:{line}: not of the form 'VALUE PATH'; correct the bag's manifest")
                found[_decoded(match[2])] = bytes.fromhex(match[1])
    except (OSError, UnicodeDecodeError) as error:
        raise broken(f"{place}: the bag's manifest cannot be read ({error})") from None
    return found


def _decoded(path: str) -> str:
    """Return a path without the encoding of CR, LF and % (RFC 8493 section 2.1.3)."""
    decoded = _ENCODED.sub(lambda match: bytes.fromhex(match[1]).decode(), path)
    return decoded.removeprefix("./")
