"""Metalink 4 (RFC 5854): files with mirrors, sizes and digests."""

from __future__ import annotations

from typing import IO, Any, Final
from xml.etree import ElementTree

from .opening import ManifestFile
from .row_parser import Blocks, Numbered, broken, read_row

_NAMESPACE: Final = "{urn:ietf:params:xml:ns:metalink}"
_BLOCK: Final = 1000  # rows per block
_BEST: Final = (
    "sha-512",
    "sha-384",
    "sha-256",
    "sha-224",
    "sha-1",
    "md5",
)  # strongest first; IANA names of hash functions


def files(file: ManifestFile) -> Blocks:
    """Read one row per `file` element; mirrors in the order of `priority` (RFC 5854 section 4.2.16).

    Raises:
        ManifestError: the file is not XML, or contains no `file` element of Metalink 4.
    """
    with file.binary() as opened:
        yield from _blocks(opened, file.name)


def _blocks(opened: IO[bytes], name: str) -> Blocks:
    block: list[Numbered] = []
    number = 0
    try:
        for _, element in ElementTree.iterparse(opened):
            if element.tag != f"{_NAMESPACE}file":
                continue
            number += 1
            block.append((number, read_row(_values(element), name, number)))
            element.clear()
            if len(block) == _BLOCK:
                yield block
                block = []
    except ElementTree.ParseError as error:
        raise broken(f"{name}: cannot be read as Metalink ({error})") from None
    if not number:
        raise broken(f"{name}: lists no file; only Metalink 4 (RFC 5854) is supported")
    yield block


def _values(element: ElementTree.Element) -> dict[str, Any]:
    found = element.findall(f"{_NAMESPACE}url")
    found.sort(key=lambda url: int(url.get("priority", "999999")))
    hashes = {h.get("type", ""): (h.text or "").strip() for h in element.findall(f"{_NAMESPACE}hash")}
    best = next((name for name in _BEST if hashes.get(name)), None)
    return {
        "path": element.get("name"),
        "url": [(url.text or "").strip() for url in found],
        "size": element.findtext(f"{_NAMESPACE}size"),
        "digest": f"{best.replace('sha-', 'sha')}:{hashes[best]}" if best else None,
    }
