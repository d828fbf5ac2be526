"""The lines of checksum lists, in the forms of md5sum, shasum, BSD's md5, openssl dgst and by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ..model.digest import Digest

# Hexadecimal digits of an md5, sha1, sha224, sha256, sha384 or sha512 value.
_HEX: Final = "(?:" + "|".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (32, 40, 56, 64, 96, 128)) + ")"
# Base64 of an md5, sha1, sha256 or sha512 value: those that end in `=`, which no name should be taken for.
_BASE64: Final = r"(?:[\w+/]{22}==|[\w+/]{27}=|[\w+/]{43}=|[\w+/]{86}==)"
_VALUE: Final = rf"(?:[A-Za-z][\w-]{{1,9}}[:=])?(?:{_HEX}|{_BASE64})"
_GNU: Final = re.compile(rf"(\\?)({_VALUE})(?: [ *]|[ \t]+\*?)(.+)")
_BSD: Final = re.compile(r"(\\?)([A-Za-z][\w/-]*) ?\((.+)\) ?= ?([0-9a-fA-F]+)")
# Lines that state no digest: sizes and times in the lists of BSD's ports, digests of algorithms that are not
# supported, what md5sum and its kin say of a file that they cannot read, and the header of a table.
_OTHER: Final = re.compile(
    r"(?:SIZE|RMD160|RIPEMD160|MD2|MD4|SHA512/2\d\d|WHIRLPOOL|TIGER|SKEIN\d*|SM3|CRC32) ?\(.+\) ?=.+"
    r"|TIMESTAMP ?= ?\d+|(?:md5|sha\d+|b2|ck|xxh?\d*)sum: .+"
    r'|"?(?:file_?name|file|name|path)"?[,;\t]"?(?:md5|sha-?\d+|hash|digest|checksum)(?:sum)?"?',
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(rf'"(.+)"[,;]"?({_VALUE})"?')
_REVERSED: Final = re.compile(rf"(\S.*?)(?:[ \t]*[:=,][ \t]*|[ \t]+)({_VALUE})")
_BARE: Final = re.compile(_VALUE)
_BASE64_ALGORITHMS: Final = {24: "md5", 28: "sha1", 44: "sha256", 88: "sha512"}
_ESCAPES: Final = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
LIST_NAME: Final = re.compile(
    r"(?:(?P<stem>.+)(?P<mark>[._-]))?(?P<algorithm>md5|sha-?(?:1|224|256|384|512)|b2|blake2b|checksums?|shasums?|hash(?:es)?)"
    r"(?:[._-]?(?:sums?|checksums?))?(?:\.(?:txt|asc|sig))?",
    re.IGNORECASE,
)
LIST_PREFIX: Final = re.compile(r"(?:(?:md5|sha\d{1,3}|b2|sha)-?sums?|checksums?)[._-]", re.IGNORECASE)
_CLEARSIGNED: Final = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = "-----BEGIN PGP SIGNATURE-----"


class Listed(NamedTuple):
    """One line of a checksum list.

    Attributes:
        line: its number, from 1.
        name: the file's name as the list states it, without a leading `./`; None for a value alone.
        digest: the digest.
    """

    line: int
    name: str | None
    digest: Digest


def is_list_name(name: str) -> bool:
    """Return whether a file is named as checksum lists are: `SHA256SUMS`, `x.tar.md5`, `x-CHECKSUM`."""
    return LIST_NAME.fullmatch(name) is not None or LIST_PREFIX.match(name) is not None


def single_name(name: str) -> str | None:
    """Return the name of the file that a list belongs to, such as `x.tar` of `x.tar.sha256`, else None."""
    match = LIST_NAME.fullmatch(name)
    return match["stem"] if match and match["mark"] == "." else None


def looks_like(head: str) -> bool:
    """Return whether a text that begins with `head` is a checksum list."""
    whole, _, last = head.rpartition("\n")
    try:
        names = [each.name or "" for each in parsed((whole or last).split("\n"), "")]
    except ValueError:
        return False
    return bool(names) and not any("://" in name for name in names)


def parsed(lines: Iterable[str], name: str) -> Iterator[Listed]:
    """Yield what each line of a checksum list states; skip blank lines, comments and a PGP signature.

    Lines that are known to state no digest are skipped, too: a file that has no other line is one that the
    list does not cover, which is said.

    Args:
        lines: the lines, with or without their ends.
        name: the list's name. `B2SUMS` says that 128 digits are blake2b.

    Raises:
        ValueError: a line is of no known form. The message begins with its number.
    """
    match = LIST_NAME.fullmatch(name)
    blake = bool(match) and match["algorithm"].lower() in ("b2", "blake2b")  # type: ignore[index]
    for number, line in _content(lines):
        try:
            named, digest = _one(line)
        except ValueError as error:
            if _OTHER.fullmatch(line):
                continue
            raise ValueError(f"{number}: {error}") from None
        if blake and digest.algorithm == "sha512":
            digest = Digest("blake2b", digest.hex)
        yield Listed(number, named, digest)


def _content(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is neither blank, a comment, nor part of a PGP signature."""
    in_header = False
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip("\r\n")
        if line.startswith(_SIGNATURE):
            return
        if line.startswith(_CLEARSIGNED):
            in_header = True  # up to the first blank line (RFC 9580 section 7)
        elif not line.strip():
            in_header = False
        elif not in_header and not line.startswith(("#", ";", "//")):
            yield number, line.removeprefix("- ")


def _one(line: str) -> tuple[str | None, Digest]:
    """Return the name, if any, and the digest of one line, or raise ValueError."""
    if gnu := _GNU.fullmatch(line):
        return _named(gnu[1], gnu[3]), _digest(gnu[2])
    if bsd := _BSD.fullmatch(line):
        algorithm = bsd[2].lower().removeprefix("sha2-") if "-" in bsd[2] else bsd[2].lower()
        return _named(bsd[1], bsd[3]), Digest.parse(bsd[4], _BSD_NAMES.get(algorithm, algorithm))
    if quoted := _QUOTED.fullmatch(line):
        return _named("", quoted[1].replace('""', '"')), _digest(quoted[2])
    if turned := _REVERSED.fullmatch(line.rstrip()):
        return _named("", turned[1]), _digest(turned[2])
    if _BARE.fullmatch(line.strip()):
        return None, _digest(line.strip())
    raise ValueError("not of the form 'HEX  NAME'")


_BSD_NAMES: Final = {
    "224": "sha224", "256": "sha256", "384": "sha384", "512": "sha512", "blake2b-512": "blake2b",
    "sha-1": "sha1", "sha-256": "sha256", "sha-512": "sha512",
}  # fmt: skip


def _named(escaped: str, name: str) -> str:
    """Return a file's name; md5sum escapes a line break or a backslash, and then begins the line with one.

    So a backslash in another line is the separator of Windows.
    """
    unescaped = re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)
    return (unescaped if escaped else name.replace("\\", "/")).removeprefix("./")


def _digest(value: str) -> Digest:
    algorithm = _BASE64_ALGORITHMS.get(len(value)) if value.endswith("=") else None
    return Digest.parse(value, algorithm)
