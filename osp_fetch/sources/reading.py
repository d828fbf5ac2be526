"""What the readers of all formats share: columns named by the user, and what is found while reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.errors import ManifestError
from .columns import ByHand, Columns, choose
from .row_parser import Blocks, Numbered, RawRow, broken, read_row, read_rows

BLOCK: Final = 1000  # rows per block
_KNOWN: Final = 1000  # different sets of names that are remembered
# Names of objects that mean something as they are.
_WHOLE: Final = frozenset({"headers", "digest", "digests", "checksum", "checksums", "hash", "hashes"})
_NOTES: Final = 50  # notes that are kept
_PLAIN: Final = (str, int, float, bytes, type(None))
Values = dict[str, Any]


@dataclass(slots=True)
class Reading:
    """How manifests of one run are read, and what was found in them.

    Attributes:
        by_hand: the columns that the user named.
        columns: manifest → meaning → column, as `plan` shows them.
        notes: sentences for the user, each once.
    """

    by_hand: ByHand = field(default_factory=ByHand)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Add a sentence for the user, unless it is there already."""
        if sentence not in self.notes and len(self.notes) < _NOTES:
            self.notes.append(sentence)

    def choose(
        self, names: Sequence[str], rows: Sequence[Sequence[Any]], where: str, manifest: str
    ) -> Columns:
        """Return the meaning of each column, and remember it; see `columns.choose`.

        Args:
            names: the column names.
            rows: the first rows.
            where: the place for messages.
            manifest: the manifest's name, under which `plan` shows the columns.

        Raises:
            ManifestError: as `columns.choose`.
        """
        found = choose(names, rows, where, self.by_hand)
        shown = {meaning: names[place] or f"column {place + 1}" for meaning, place in found.places.items()}
        self.columns.setdefault(manifest, {}).update(shown)
        for sentence in found.notes:
            self.note(sentence)
        return found


class Objects:
    """Reads rows that are objects, each with names of its own: JSON lines, dicts, records.

    Rows are read a block at a time, so that columns are judged by the values of several rows.

    Args:
        reading: shared by all readers.
        manifest: the manifest's name for messages.
        one_by_one: objects come one at a time, so that each is judged by its own values.
    """

    def __init__(self, reading: Reading, manifest: str, *, one_by_one: bool = False) -> None:
        self._reading, self._manifest, self._one_by_one = reading, manifest, one_by_one
        self._checked = False
        self._known: dict[tuple[str, ...], dict[str, str] | ManifestError] = {}  # names → meaning → name

    def rows(self, block: Sequence[tuple[int, Any]]) -> list[Numbered]:
        """Return the rows of `block`: pairs of a line and an object, or a ManifestError that is passed on."""
        flat = [(line, _flat(item) if isinstance(item, (dict, Mapping)) else item) for line, item in block]
        if self._one_by_one or len(self._known) > _KNOWN:
            self._known.clear()
        named = [(line, item, tuple(item) if isinstance(item, dict) else None) for line, item in flat]
        alike: dict[tuple[str, ...], list[tuple[int, list[Any]]]] = {}
        for line, item, names in named:
            if names is not None and names not in self._known:
                alike.setdefault(names, []).append((line, list(item.values())))
        for names, rows in alike.items():
            self._known[names] = self._meanings(list(names), [values for _, values in rows], rows[0][0])
        self._check(block)
        return [(line, row) for line, item, names in named for row in self._rows(line, item, names)]

    def _check(self, block: Sequence[tuple[int, Any]]) -> None:
        """Check that some object of the first block has a link, so that one sentence says it for all."""
        other = [item for _, item in block if not isinstance(item, (dict, str, Mapping, ManifestError))]
        if not self._checked and len(other) == len(block) > 1:
            raise broken(
                f"{self._manifest}: holds no objects with links, but {type(other[0]).__name__} values"
            )
        errors = [error for error in self._known.values() if isinstance(error, ManifestError)]
        if not self._checked and errors and len(errors) == len(self._known) and len(block) > 1:
            raise broken(str(errors[0]))
        self._checked = True

    def _meanings(self, names: list[str], rows: list[list[Any]], line: int) -> dict[str, str] | ManifestError:
        try:
            found = self._reading.choose(names, rows, f"{self._manifest}:{line}", self._manifest)
        except ManifestError as error:
            return ManifestError(str(error))
        return {meaning: names[place] for meaning, place in found.places.items()}

    def _rows(self, line: int, item: Any, names: tuple[str, ...] | None) -> list[RawRow]:
        """Return the rows of an object with the fields `names`, or of something else."""
        if isinstance(item, ManifestError):
            return [item]
        if isinstance(item, str):
            return [read_row({"url": item}, self._manifest, line)]
        if names is None:
            kind = type(item).__name__
            return [
                ManifestError(
                    f"{self._manifest}:{line}: not a JSON object ({kind}); correct or remove the row"
                )
            ]
        meant = self._known[names]
        if isinstance(meant, ManifestError):
            return [meant]
        return read_rows({meaning: item[name] for meaning, name in meant.items()}, self._manifest, line)


def _flat(item: Mapping[Any, Any]) -> Values:
    """Return `item` with the fields of nested objects added under dotted names, such as `image.url`."""
    # most objects are flat, most values plain, and a test for an abstract class takes ten times as long
    if type(item) is dict and all(type(v) in _PLAIN and type(n) is str for n, v in item.items()):
        return item
    found: Values = {str(name): value for name, value in item.items()}
    nested = {n: v for n, v in found.items() if not isinstance(v, _PLAIN) and isinstance(v, Mapping)}
    for name, value in nested.items():
        if name.lower().rpartition(":")[2] not in _WHOLE:
            found.update({f"{name}.{inner}": each for inner, each in _flat(value).items()})
    return found


def columned(
    reading: Reading, names: Sequence[str], rows: Iterator[list[tuple[int, Any]]], manifest: str
) -> Blocks:
    """Yield the rows of a table whose columns are the same in every row.

    Args:
        reading: shared by all readers.
        names: the column names.
        rows: blocks of pairs of a line, and a row of values or a ManifestError that is passed on.
        manifest: the manifest's name for messages.

    Raises:
        ManifestError: no column holds links.
    """
    places: dict[str, int] | None = None
    for block in rows:
        if places is None:
            sample = [values for _, values in block if not isinstance(values, ManifestError)]
            places = reading.choose(names, sample, manifest, manifest).places
        yield placed(places, block, manifest)
    if places is None:
        reading.choose(names, [], manifest, manifest)


def placed(places: Mapping[str, int], block: Sequence[tuple[int, Any]], manifest: str) -> list[Numbered]:
    """Return the rows of a block.

    Args:
        places: meaning → index in each row of values.
        block: pairs of a line, and a row of values or a ManifestError that is passed on.
        manifest: the manifest's name for messages.
    """
    return [(line, row) for line, values in block for row in _of_columns(values, places, manifest, line)]


def _of_columns(values: Any, places: Mapping[str, int], where: str, line: int) -> list[RawRow]:
    if isinstance(values, ManifestError):
        return [values]
    width = len(values)
    row = {m: values[place] if place < width else None for m, place in places.items()}
    return read_rows(row, where, line)
