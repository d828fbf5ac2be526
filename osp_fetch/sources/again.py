"""Paths that are fetched again although they are finished."""

from __future__ import annotations

from .select import Selection


class Again:
    """States whether a path has to be fetched again although it is finished.

    Args:
        globs: the option `again`; empty for no path.
    """

    def __init__(self, globs: tuple[str, ...]) -> None:
        self._globs, self._selection = globs, Selection(globs)
        self._matched = False

    def __call__(self, path: str) -> bool:
        """Return whether one of the globs matches `path`."""
        found = bool(self._globs) and self._selection.wants(path)
        self._matched = self._matched or found
        return found

    def notes(self) -> list[str]:
        """Return a sentence for the report if the globs matched none of the paths that were asked for."""
        if not self._globs or self._matched:
            return []
        return [f"--again {' '.join(self._globs)} matches no file of the manifest; nothing was fetched again"]
