"""Documents about one dataset that list its files inside, as repositories of data give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..model.urls import shown
from .columns import holds_link, is_link_name

# Zenodo, figshare and InvenioRDM; the Hub's Parquet files; CKAN and data packages; DCAT and Croissant; STAC.
_LISTS: Final = ("files", "parquet_files", "resources", "distribution", "assets")
_CATALOGUE: Final = "dataset"  # DCAT: a list of objects that have such a list each
_DEEPEST: Final = 3  # objects around the list
_JSON_LD: Final = ("@id", "@value")  # keys of an object that stands for its only value

File = dict[str, Any] | str
"""A file as its document states it; a text for one that cannot be fetched, which says why."""


def files_of(document: Mapping[str, Any]) -> tuple[str, list[File]] | None:
    """Return the name of the list of files in a document, and its items; None if it has none.

    Items without any link, such as the description of another item, are left out.

    Args:
        document: the only object of a JSON file.
    """
    catalogue = [found for each in _datasets(document) if (found := files_of(each)) is not None]
    if catalogue:
        return catalogue[0][0], _downloads([file for _, files in catalogue for file in files])
    for name, value in _inner(document, _DEEPEST):
        each = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(each, list) and each and all(isinstance(item, Mapping) for item in each):
            files = [file for item in each if (file := _file(item)) is not None]
            if any(isinstance(file, dict) for file in files) or (files and not _has_link(document)):
                return name, _downloads(files)
    return None


def _has_link(document: Mapping[str, Any]) -> bool:
    """Return whether the document itself is a row: its list then says what is inside of its file."""
    return any(is_link_name(name) and holds_link(value) for name, value in document.items())


def _datasets(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name, value in document.items():
        if _bare(name) == _CATALOGUE and isinstance(value, list):
            yield from (each for each in value if isinstance(each, Mapping))


def _inner(document: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the values that may be lists of files, those of outer objects first."""
    for name, value in document.items():
        if _bare(name) in _LISTS:
            yield name, value
    for name, value in document.items():
        if depth > 1 and isinstance(value, Mapping):
            for inner, each in _inner(value, depth - 1):
                yield f"{name}.{inner}", each


def _bare(name: str) -> str:
    """Return a key without the prefix of its vocabulary: `distribution` for `dcat:distribution`."""
    return name.rpartition(":")[2]


def _file(item: Mapping[str, Any]) -> File | None:
    """Return an item with the columns of a row, why its file cannot be fetched, or None if it is no file."""
    plain = {_bare(name): _value(value) for name, value in item.items()}
    if any(map(holds_link, _links(plain))):
        return _row(plain)
    if "containedIn" in plain:  # Croissant: a member of an archive in the same list
        return None
    for name, value in plain.items():
        if isinstance(value, str) and value.strip() and (name == "path" or is_link_name(name)):
            return (
                f"its {name} {shown(value)!r} is no http(s) link; if it is relative to the document, write "
                "the complete link"
            )
    return None


def _value(value: Any) -> Any:
    """Return the text of a JSON-LD object such as `{"@id": "https://…"}`; any other value as it is."""
    if isinstance(value, Mapping) and len(value) == 1:
        (key,) = value
        return value[key] if key in _JSON_LD else value
    return value


def _links(plain: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in plain.items():
        if not name.startswith("@"):
            yield from value.values() if isinstance(value, Mapping) else (value,)


def _row(plain: dict[str, Any]) -> dict[str, Any]:
    """Return an item with the names of columns that a table would have."""
    if isinstance(key := plain.get("key"), str):  # Zenodo: the name of the file
        plain["name"] = key
    if holds_link(plain.get("path")) and "url" not in plain:  # a data package
        plain["url"] = plain.pop("path")
    if all(
        isinstance(plain.get(name), str) for name in ("config", "split", "filename")
    ):  # Parquet of the Hub
        plain["path"] = f"{plain['config']}/{plain['split']}/{plain.pop('filename')}"
    if "computed_md5" in plain:  # figshare: that of the bytes it has, and often the only one
        plain["computed_md5"] = plain["computed_md5"] or plain.get("supplied_md5")
        plain.pop("supplied_md5", None)
    if "downloadURL" in plain:  # DCAT: the other one may be a page that leads to it
        plain.pop("accessURL", None)
    return plain


def _downloads(files: list[File]) -> list[File]:
    """Return the files of a list of DCAT without landing pages; every other list as it is."""
    rows = [file for file in files if isinstance(file, dict)]
    if not any("downloadURL" in row for row in rows):
        return files
    return [file for file in files if isinstance(file, str) or "accessURL" not in file]
