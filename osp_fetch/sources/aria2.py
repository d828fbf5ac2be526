"""Input files of aria2 (`aria2c -i`): mirrors on one line, separated by tabs, then its options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ..model.entry import is_link
from ..model.errors import ManifestError
from ..model.urls import shown
from .blocks import grouped
from .names import last_name
from .row_parser import Blocks, Numbered, read_row

_OPTION: Final = re.compile(r"[ \t]+([a-z][a-z0-9-]*)[ \t]*=(.*)")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_DRIVE: Final = re.compile(r"[A-Za-z]:(?=[\\/])")
_HEADERS: Final = {"referer": "Referer", "user-agent": "User-Agent"}  # options that state a header


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is an input file of aria2.

    A line with a URL is followed by an option, or each line holds mirrors: several URLs of one file name. A
    plain list of URLs is an input file, too, but needs no reader of its own.
    """
    lines = [line for line in head.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if not lines or not _URI.match(lines[0]):
        return False
    if any(_OPTION.match(line) for line in lines[1:]):
        return all(_URI.match(line) or line[0] in " \t" for line in lines[:-1])
    return any("\t" in line for line in lines) and all(map(_is_mirrors, lines[:-1] or lines))


def _is_mirrors(line: str) -> bool:
    """Return whether a line holds URLs only, all of the same file name."""
    urls = line.strip().split("\t")
    return all(map(is_link, urls)) and len({url.rsplit("/", 1)[-1] for url in urls}) == 1


def rows(lines: Iterable[str], name: str) -> Blocks:
    """Read one row for each line of URLs.

    `out`, `dir`, `checksum`, `header`, `referer` and `user-agent` are taken; other options are ignored.

    Args:
        lines: the lines, with or without their ends.
        name: the file's name for messages.
    """
    return grouped(_rows(lines, name))


def _rows(lines: Iterable[str], name: str) -> Iterator[Numbered]:
    number, urls, options = 0, "", dict[str, list[str]]()
    for line, raw in enumerate(lines, 1):
        text = raw.rstrip("\r\n")
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        if text[0] not in " \t":
            if urls:
                yield number, _row(urls, options, name, number)
            number, urls, options = line, text, {}
        elif (option := _OPTION.match(text)) and urls:
            options.setdefault(option[1], []).append(option[2].strip())
        else:
            yield (
                line,
                ManifestError(
                    f"{name}:{line}: not an option ' NAME=VALUE' below a URL; correct or remove the line"
                ),
            )
    if urls:
        yield number, _row(urls, options, name, number)


def _row(urls: str, options: dict[str, list[str]], name: str, line: int) -> Any:
    try:
        values = _values(urls, options)
    except ManifestError as error:
        return ManifestError(f"{name}:{line}: {error}; correct or remove the row")
    return read_row(values, name, line)


def _values(urls: str, options: dict[str, list[str]]) -> dict[str, Any]:
    given = [url.strip() for url in urls.split("\t") if url.strip()]
    # a torrent or an FTP server among the mirrors; a row without any http(s) URL is refused with its own
    links = [url for url in given if url.lower().startswith(("http://", "https://"))] or given
    values: dict[str, Any] = {"url": links}
    # the session file of aria2 states where it saved; here all files lie below the output folder
    folder, out = _DRIVE.sub("", _last(options, "dir")).replace("\\", "/").strip("/"), _last(options, "out")
    if folder or out:
        name = out or last_name(links[0])
        if not name:
            raise ManifestError(f"{shown(links[0])} contains no file name; add an option out=NAME")
        values["path"] = "/".join(filter(None, (folder, name)))
    if checksum := _last(options, "checksum"):
        values["digest"] = checksum
    if headers := _headers(options):
        values["headers"] = headers
    return values


def _last(options: dict[str, list[str]], name: str) -> str:
    """Return the value of an option; where it is repeated, aria2 takes the last one."""
    return options.get(name, [""])[-1]


def _headers(options: dict[str, list[str]]) -> dict[str, str]:
    found = {header: _last(options, option) for option, header in _HEADERS.items() if option in options}
    for text in options.get("header", []):
        header, _, value = text.partition(":")
        name, value = header.strip(), value.strip()
        if name.lower() == "cookie" and name in found:
            value = f"{found[name]}; {value}"  # cookies of several lines go into one field (RFC 6265)
        found[name] = value
    return found
