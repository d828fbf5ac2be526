"""The option `failed`: the files that were not fetched, as a manifest of JSON lines for the next run."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from ..model import events
from ..model.entry import Entry
from ..model.report import Status
from ..model.urls import redact

# Names of headers that carry credentials.
_SECRET: Final = re.compile(r"auth|cookie|token|secret|session|signature|credential|key|pass", re.IGNORECASE)


def is_failed_file(place: Path) -> bool:
    """Return whether a file may be replaced by a list of failures: it is one, or empty."""
    try:
        with place.open("rb") as file:
            first = file.readline(1 << 20)
        row = json.loads(first) if first.strip() else {"path": "", "url": ""}
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and "path" in row and ("url" in row or "urls" in row)


class FailedFile:
    """Collects the rows that failed or are parked, and writes them to a file when the run ends.

    Rows are collected in the state folder, because there may be millions of them. `close` replaces the file
    atomically. Links may be signed, so that only its owner can read the file (mode 0600).

    Args:
        place: The file to write.
        beside: Where rows are collected, in the state folder.
        given: Headers that the caller gives to all rows. They are not written.
    """

    passes_over: Final = frozenset({events.Wrote, events.Opened, events.Closed, events.Progress})

    def __init__(self, place: Path, beside: Path, given: Collection[tuple[str, str]] = ()) -> None:
        self._place, self._beside, self._given = place, beside, frozenset(given)
        self._file: TextIO | None = None
        self._repeated: Counter[str] = Counter()  # path → rows of it that do not count any more
        self._without: set[str] = set()  # names of headers that were left out

    def __call__(self, event: events.Event) -> None:
        """Collect the row of a `Finished` event if it failed or is parked."""
        if isinstance(event, events.Repeating):
            self._repeated.update(outcome.path for outcome in event.outcomes)
        if not isinstance(event, events.Finished):
            return
        outcome = event.outcome
        if outcome.entry is not None and outcome.status in (Status.FAILED, Status.PARKED):
            if self._file is None:
                fd = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                self._file = os.fdopen(fd, "w+", encoding="utf-8")
            self._file.write(json.dumps(self._row(outcome.entry)) + "\n")

    def _row(self, entry: Entry) -> dict[str, Any]:
        """Return the row as the JSON lines of a manifest state it."""
        link = {"url": entry.urls[0]} if len(entry.urls) == 1 else {"urls": list(entry.urls)}
        row: dict[str, Any] = {"path": entry.path, **link}
        if entry.size is not None:
            row["size"] = entry.size
        if entry.digest is not None:
            row["digest"] = str(entry.digest)
        own = [pair for pair in entry.headers if pair not in self._given]
        kept = {name: value for name, value in own if not _is_secret(name, value)}
        self._without.update(name for name, _ in own if name not in kept)
        return {**row, "headers": kept} if kept else row

    def close(self) -> list[str]:
        """Write the file, an empty one if no row failed. Return notes for the user."""
        try:
            self._write()
        except OSError as error:
            return [f"{self._place} cannot be written ({error.strerror}); the failures are in the report"]
        finally:
            with suppress(OSError):
                if self._file is not None:
                    self._file.close()
                    self._beside.unlink()
        if not self._without:
            return []
        names = ", ".join(sorted(self._without))
        return [f"{self._place} does not contain the headers {names}, which may be secret; give them again"]

    def _copy(self, collected: TextIO, file: TextIO) -> None:
        """Write the rows that were collected, without those of files that were fetched again later."""
        collected.seek(0)
        if not self._repeated:
            shutil.copyfileobj(collected, file)
            return
        for line in collected:
            path = json.loads(line)["path"]
            if self._repeated[path] > 0:
                self._repeated[path] -= 1
            else:
                file.write(line)

    def _write(self) -> None:
        fd, beside = tempfile.mkstemp(prefix=f".{self._place.name[:100]}.", dir=self._place.parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                if self._file is not None:
                    self._copy(self._file, file)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(self._place)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name)) or redact(value) != value
