"""Config files of curl (`curl -K`), as far as they are lists: `url`, `output`, `header`."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ..model.errors import ManifestError
from .blocks import grouped
from .row_parser import Blocks, Numbered, read_row

# `option = value`, `option: value`, `--option value`, `-o value`; the value may be quoted
_LINE: Final = re.compile(r'\s*(?:--?)?([A-Za-z][\w-]*)(?:\s*[=:]\s*|\s+|$)(?:"((?:[^"\\]|\\.)*)"|(.*?))\s*')
_ALIASES: Final = {"o": "output", "H": "header", "O": "remote-name", "e": "referer", "A": "user-agent"}
_HEADERS: Final = {"referer": "Referer", "user-agent": "User-Agent"}
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_MARK: Final = re.compile(r'\s*(?:--)?url(?:\s*[=:]\s*|\s+)"?https?://', re.IGNORECASE)


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is a config file that names URLs."""
    lines = [line for line in head.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not any(map(_MARK.match, lines)) or lines[0].lower().startswith("url\t"):
        return False
    return all(_LINE.fullmatch(line.rstrip("\r")) for line in lines[:-1] or lines)


def rows(lines: Iterable[str], name: str) -> Blocks:
    """Read one row for each URL.

    The first `output` belongs to the first `url`, and so on, until `next`. A header belongs to the URLs that
    follow it, until `next`. Other options are ignored.

    Args:
        lines: the lines, with or without their ends.
        name: the file's name for messages.
    """
    return grouped(_rows(lines, name))


class _Pairing:
    """URLs and outputs that wait for their counterparts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._urls: deque[tuple[int, str, dict[str, str]]] = deque()
        self._outputs: deque[str | None] = deque()
        self._headers: dict[str, str] = {}

    def take(self, line: int, option: str, value: str) -> Iterator[Numbered]:
        """Take one option, and yield the row that it completes."""
        if option == "url":
            self._urls.append((line, value, dict(self._headers)))
        elif option in ("output", "remote-name"):
            self._outputs.append(value if option == "output" else None)
        elif option == "header":
            header, _, text = value.partition(":")
            self._headers[header.strip()] = text.strip()
        elif option in _HEADERS:
            self._headers[_HEADERS[option]] = value
        elif option == "next":
            yield from self.end()
            self._headers.clear()
        while self._urls and self._outputs:
            yield self._row(self._outputs.popleft())

    def end(self) -> Iterator[Numbered]:
        """Yield the URLs that no output belongs to; they are named after themselves."""
        while self._urls:
            yield self._row(None)
        self._outputs.clear()

    def _row(self, output: str | None) -> Numbered:
        line, url, headers = self._urls.popleft()
        values: dict[str, Any] = {"url": url, "path": output, "headers": headers}
        return line, read_row(values, self._name, line)


def _rows(lines: Iterable[str], name: str) -> Iterator[Numbered]:
    pairing = _Pairing(name)
    for line, text in enumerate(lines, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(text.rstrip("\r\n"))
        if match is None:
            yield line, ManifestError(f"{name}:{line}: not an option of curl; correct or remove the line")
            continue
        option = _ALIASES.get(match[1], match[1].lower())
        yield from pairing.take(line, option, _unescaped(match[2]) if match[2] is not None else match[3])
    yield from pairing.end()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text)
