"""Documents about one dataset that list its files inside, as repositories of data give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .columns import holds_link

# Zenodo, figshare and InvenioRDM; the Hub's Parquet files; CKAN and data packages; DCAT and Croissant; STAC.
_LISTS: Final = ("files", "parquet_files", "resources", "distribution", "assets")
_DEEPEST: Final = 3  # objects around the list


def files_of(document: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]] | None:
    """Return the name of the list of files in a document, and its objects; None if it has none.

    Args:
        document: the only object of a JSON file.
    """
    for name, value in _inner(document, _DEEPEST):
        each = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(each, list) and each and all(isinstance(item, Mapping) for item in each):
            files = [_named(item) for item in each if _has_link(item)]
            if files:
                return name, files
    return None


def _inner(document: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the values that may be lists of files, those of outer objects first."""
    for name, value in document.items():
        if name.rpartition(":")[2] in _LISTS:
            yield name, value
    for name, value in document.items():
        if depth > 1 and isinstance(value, Mapping):
            for inner, each in _inner(value, depth - 1):
                yield f"{name}.{inner}", each


def _has_link(item: Mapping[str, Any]) -> bool:
    return any(
        holds_link(value) or (isinstance(value, Mapping) and any(map(holds_link, value.values())))
        for value in item.values()
    )


def _named(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with the name of the file, which Zenodo calls its key."""
    return {**item, "name": item["key"]} if isinstance(item.get("key"), str) else dict(item)
