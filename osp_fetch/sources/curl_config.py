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
_HELD: Final = 100_000  # URLs that wait for headers which follow them
_MARK: Final = re.compile(r'\s*(?:--)?url(?:\s*[=:]\s*|\s+)"?https?://', re.IGNORECASE)


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is a config file that names URLs."""
    lines = [line for line in head.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not any(map(_MARK.match, lines)) or lines[0].lower().startswith("url\t"):
        return False
    return all(_LINE.fullmatch(line.rstrip("\r")) for line in lines[:-1] or lines)


def rows(lines: Iterable[str], name: str) -> Blocks:
    """Read one row for each URL.

    The first `output` belongs to the first `url`, and so on, until `next`. A header belongs to all URLs until
    `next`, also to those before it. Other options are ignored.

    Args:
        lines: the lines, with or without their ends.
        name: the file's name for messages.
    """
    return grouped(_rows(lines, name))


class _Pairing:
    """URLs and outputs that wait for their counterparts, and for the headers that may follow them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._urls: deque[tuple[int, str]] = deque()
        self._outputs: deque[str | None] = deque()
        self._headers: dict[str, str] = {}
        self._begun = False  # whether rows were yielded with the headers so far

    def take(self, line: int, option: str, value: str) -> Iterator[Numbered]:
        """Take one option, and yield the rows that it completes."""
        if option == "url":
            self._urls.append((line, value))
        elif option in ("output", "remote-name"):
            self._outputs.append(value if option == "output" else None)
        elif option == "header" or option in _HEADERS:
            if self._begun:
                yield line, self._too_late(line, option)
            header, _, text = value.partition(":") if option == "header" else (_HEADERS[option], ":", value)
            self._headers[header.strip()] = text.strip()
        elif option == "next":
            yield from self.end()
        while self._urls and self._outputs and (self._begun or len(self._urls) > _HELD):
            self._begun = True
            yield self._row(self._outputs.popleft())

    def _too_late(self, line: int, option: str) -> ManifestError:
        return ManifestError(
            f"{self._name}:{line}: the {option} follows more than {_HELD} URLs, of which the first have been "
            "fetched without it; put it before them"
        )

    def end(self) -> Iterator[Numbered]:
        """Yield what is left before `next`. URLs that no output belongs to are named after themselves."""
        while self._urls:
            yield self._row(self._outputs.popleft() if self._outputs else None)
        self._outputs.clear()
        self._headers, self._begun = {}, False

    def _row(self, output: str | None) -> Numbered:
        line, url = self._urls.popleft()
        values: dict[str, Any] = {"url": url, "path": output, "headers": dict(self._headers)}
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
