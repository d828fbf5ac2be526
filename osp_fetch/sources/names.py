"""Names for rows that state no path: the same in every run, whatever the order of the rows.

A row gets the last component of its link, percent-decoded. Where several different links of a manifest end in
the same name, each of them gets a hash of its own link before the suffix: `large-1f0c9a2b3c4d5e6f.jpg`. In a
manifest that is too large to be read before fetching begins, every row gets the hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from itertools import count
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from ..model.dataclasses import dataclass
from ..model.entry import Entry, RelativePath, portability, relative_path
from ..model.errors import ManifestError
from ..model.protocols import Row
from ..model.text import CONTROLS
from ..model.urls import redact, source_key
from .row_parser import RawRow, Unnamed, broken
from .select import Seen

NAMES: Final = ("url", "host", "hash", "index", "server")
_LONGEST: Final = 255  # bytes of a name that file systems take
_HASH: Final = 16  # hexadecimal digits of a link's hash in a name
_SUFFIX: Final = r"\.[A-Za-z0-9]{1,10}(?:\.(?:gz|bz2|xz|zst))?$|\.tar\.[a-z0-9]{2,4}$"
_DERIVED: Final = r"(.+)-[0-9a-f]{16}(\.[^/]*)?"  # a name that looks as if it had the hash
_MEANINGLESS: Final = re.compile(r"\.+|\s*")
# Last components that are names as they are. Most links of ten million rows end in one: a tenth of the cost.
_PLAIN: Final = re.compile(r"\w[\w.+-]*", re.ASCII)
_LEAST: Final = len("https:/")  # what precedes the last slash of a link without a path is not longer

AskNames = Callable[[Sequence[Unnamed]], list[str | ManifestError]]
"""Asks the servers for the names of files; returns a name, empty if the server states none, or an error."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How rows without a path are named, and which names are accepted.

    Attributes:
        rule: one of `NAMES`; `url` is the rule above, `host` is host and path of the link, `hash` is a hash
            of the link, `index` is the number of the row, `server` is the name that the server states.
        fan_out: number of subfolders over which names without a folder are spread; 0 for none.
        portable: refuse names that Windows forbids.
        strict: a server that cannot be asked for a name ends the run, because shards have to agree on names.
        ask: asks the servers for names; None leaves links without a name to the rule.
    """

    rule: str = "url"
    fan_out: int = 0
    portable: bool = False
    strict: bool = False
    ask: AskNames | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Shared:
    """What several rows of a manifest have in common.

    Attributes:
        name: returns whether several different links end in this name, or one and a stated path.
        link: returns whether this link differs from another one only in what looks like a signature.
    """

    name: Callable[[str], bool]
    link: Callable[[str], bool] = lambda _: False


class Namer:
    """Names the rows of one manifest.

    Args:
        naming: the rules.
        shared: what rows have in common; None if it is not known, so that every name gets the hash.
        lazily: the rows are read block by block. A name that a server states gets the hash, because the
            server may state the same name for a row of a later block.
    """

    def __init__(self, naming: Naming, shared: Shared | None, *, lazily: bool = False) -> None:
        self._naming, self._shared, self._lazily = naming, shared, lazily
        self._numbers = count()

    def rows(self, rows: Sequence[RawRow]) -> list[Row]:
        """Return `rows` with a path for each, or a ManifestError in place of a row that cannot have one."""
        numbers = [next(self._numbers) for _ in rows]
        named = [
            self._named(row, number) if isinstance(row, Unnamed) else row
            for row, number in zip(rows, numbers, strict=True)
        ]
        if not (self._naming.fan_out or self._naming.portable):
            return named
        return [self._placed(row) if isinstance(row, Entry) else row for row in named]

    def _named(self, row: Unnamed, number: int) -> Row:
        url = row.urls[0]
        match self._naming.rule:
            case "host":
                return row.named(_by_host(url, self._hash(url, _HASH)))
            case "hash":
                return row.named(self._hash(url, 32) + suffix_of(last_name(url)))
            case "index":
                return row.named(f"{number:09}{suffix_of(last_name(url))}")
        name = own_name(row)
        if name and not self._is_taken(name) and not (row.stated and self._lazily):
            return row.named(shortened(name))
        return row.named(hashed(name or _fallback(url), self._hash(url, _HASH)))

    def _is_taken(self, name: str) -> bool:
        """Return whether another link may get `name`, as it is or with its hash."""
        if self._shared is None or self._shared.name(name):
            return True
        derived = re.fullmatch(_DERIVED, name)
        return derived is not None and self._shared.name(derived[1] + (derived[2] or ""))

    def _hash(self, url: str, digits: int) -> str:
        exact = self._shared is not None and self._shared.link(url)
        return link_hash(url, digits, exact=exact)

    def _placed(self, row: Entry) -> Row:
        """Return `row` in its subfolder, or a ManifestError if its name is not portable and has to be."""
        if self._naming.portable and (why := portability(row.path)):
            return ManifestError(
                f"the path {row.path[:200]!r} {why}; rename it, or run without --portable-names"
            )
        if self._naming.fan_out and "/" not in row.path:
            return replace(row, path=relative_path(spread(row.path, self._naming.fan_out)))
        return row


def with_stated_names(rows: Sequence[RawRow], naming: Naming) -> Sequence[RawRow]:
    """Return `rows` with the names that servers state for links without a name, or for all. Blocks.

    A row whose server cannot be asked becomes a ManifestError: with another name it would be fetched twice.
    """
    if naming.ask is None or naming.rule not in ("url", "server"):
        return rows
    every = naming.rule == "server"
    wanted = [
        n for n, row in enumerate(rows)
        if isinstance(row, Unnamed) and (every or not last_name(row.urls[0]))
    ]  # fmt: skip
    if not wanted:
        return rows
    asked: list[RawRow] = list(rows)
    unnamed = [row for n in wanted if isinstance(row := rows[n], Unnamed)]
    for n, row, stated in zip(wanted, unnamed, naming.ask(unnamed), strict=True):
        if isinstance(stated, ManifestError):
            said = f"{row.where}: {stated}"
            if naming.strict:
                raise broken(f"{said}; with --shard all shards have to know all names")
            asked[n] = ManifestError(said)
        else:
            asked[n] = replace(row, stated=clean_name(stated.replace("\\", "/")))
    return asked


class NameIndex:
    """Finds which names several different links of a manifest end in; takes 24 bytes per row.

    Attributes:
        shared: answers from the rows that were added so far.
    """

    def __init__(self) -> None:
        self._names, self._links, self._keys = Seen(), Seen(), Seen()
        self._shared_names, self._shared_keys = Seen(), Seen()
        self.shared = Shared(
            lambda name: self._shared_names.knows([name.casefold()])[0],
            lambda link: "?" in link and self._shared_keys.knows([source_key(link)])[0],
        )

    def add(self, rows: Sequence[RawRow]) -> None:
        """Add rows; a stated path counts as a name that is taken."""
        named = {
            (row.urls[0] if isinstance(row, Unnamed) else row.path): (
                own_name(row) if isinstance(row, Unnamed) else row.path
            ).casefold()
            for row in rows
            if isinstance(row, (Unnamed, Entry))
        }
        repeated = self._links.repeats(list(named))
        fresh = [link for link, known in zip(named, repeated, strict=True) if not known]
        _add_repeats([named[link] for link in fresh], self._names, self._shared_names)
        _add_repeats([source_key(link) for link in fresh if "?" in link], self._keys, self._shared_keys)


def _add_repeats(texts: list[str], seen: Seen, repeated: Seen) -> None:
    """Add `texts` to `seen`, and those that were there before to `repeated`."""
    repeated.repeats([text for text, known in zip(texts, seen.repeats(texts), strict=True) if known])


def last_name(url: str) -> str:
    """Return the file name that a link suggests: the last component of its path, percent-decoded.

    Returns:
        The name without characters that a file name cannot hold; empty if the link suggests none, or the name
        seems to hold a secret.
    """
    folder, _, last = url.partition("?")[0].rpartition("/")
    if _PLAIN.fullmatch(last) and len(folder) > _LEAST and "#" not in url and "hf_" not in last.lower():
        return last  # no secret has this form, but a token of the hub
    name = clean_name(unquote(urlsplit(url).path.rsplit("/", 1)[-1]))
    # a name such as `x&apikey=…` would be printed and logged
    return name if redact(name) == name else ""


def own_name(row: Unnamed) -> str:
    """Return the name of a row before others are considered: what the server states, or the link suggests."""
    return row.stated or last_name(row.urls[0])


def clean_name(text: str) -> str:
    """Return a file name made of `text`: its last component, without control characters.

    Returns:
        The name; empty if nothing that can be a name is left.
    """
    name = re.sub(f"[{CONTROLS}]", "_", text.rsplit("/", 1)[-1]).strip()
    name = name.encode("utf-8", "replace").decode()
    return "" if _MEANINGLESS.fullmatch(name) or name.lower().startswith(".osp-fe") else name


def suffix_of(name: str) -> str:
    """Return the suffix of a file name with its dot, `.tar.gz` included; empty if it has none."""
    match = re.search(_SUFFIX, name)
    return match[0] if match and match.start() else ""


def hashed(name: str, digits: str) -> str:
    """Return `name` with the digits of a hash before its suffix: `large-1f0c9a2b3c4d5e6f.jpg`."""
    suffix = suffix_of(name)
    return _fitted(name.removesuffix(suffix), f"-{digits}{suffix}")


def shortened(name: str) -> str:
    """Return `name`, shortened with a hash if file systems do not take its length; the suffix is kept."""
    if len(name) * 4 <= _LONGEST or len(name.encode()) <= _LONGEST:
        return name
    return hashed(name, hashlib.sha256(name.encode()).hexdigest()[:_HASH])


def _fitted(stem: str, end: str) -> str:
    """Return `stem` and `end`, with the stem cut so that both fit into a name."""
    return stem.encode()[: _LONGEST - len(end.encode())].decode(errors="ignore") + end


def link_hash(url: str, digits: int, *, exact: bool = False) -> str:
    """Return hexadecimal digits that depend on the file behind a link, but not on its signature.

    Args:
        url: the link.
        digits: number of digits, up to 64.
        exact: whether what looks like a signature tells files apart; see `urls.source_key`.
    """
    key = source_key(url, exact=exact)
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:digits]


def spread(path: str, folders: int) -> RelativePath:
    """Return `path` in one of `folders` subfolders, which depends on the name alone."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) % folders
    return RelativePath(f"{number:0{len(str(folders - 1))}}/{path}")


def _by_host(url: str, digits: str) -> str:
    """Return host and path of a link, and a hash of it where these do not tell it from every other link."""
    parts = urlsplit(url)
    host = (parts.hostname or "host") + (f"_{parts.port}" if parts.port else "")
    folders = [clean_name(unquote(part).replace("/", "_")) for part in parts.path.split("/")[:-1]]
    name = last_name(url)
    path = "/".join([*(folder for folder in folders if folder), name])
    is_whole = name and "?" not in url and "/" + path == unquote(parts.path)
    last = shortened(name) if is_whole else hashed(name or "index", digits)
    return "/".join([host, *(shortened(folder) for folder in folders if folder), last])


def _fallback(url: str) -> str:
    """Return a name for a link that suggests none: the last folder of its path, or its host."""
    parts = urlsplit(url)
    folders = [clean_name(unquote(part)) for part in parts.path.split("/")]
    named = [folder for folder in folders if folder and redact(folder) == folder]
    return PurePosixPath(named[-1] if named else parts.hostname or "file").name
