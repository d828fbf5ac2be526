"""The files that have failed, kept so that a command can repeat them in the same run."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Final

from ..model.errors import ManifestError
from ..model.protocols import Spill
from ..model.report import Outcome
from .file import Job

# The queue of the spill. No host has this name.
_KEY: Final = ""


class FailedJobs:
    """The jobs that have failed in this run, on disk if there is a spill.

    Args:
        spill: Keeps rows on disk; None to keep them in memory.
    """

    def __init__(self, spill: Spill | None) -> None:
        self._spill, self._count = spill, 0
        self._here: list[bytes] = []

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job, outcome: Outcome) -> None:
        """Keep a job that has failed with `outcome`. A row that makes no sense would fail again."""
        if isinstance(outcome.error, ManifestError):
            return
        row = pickle.dumps((replace(job, error=None, tries=0), outcome), pickle.HIGHEST_PROTOCOL)
        self._count += 1
        if self._spill is None:
            self._here.append(row)
        else:
            self._spill.put(_KEY, row)

    def take(self, most: int) -> list[tuple[Job, Outcome]]:
        """Remove and return the first jobs, at most `most`, each with its outcome.

        Raises:
            StorageError: The disk cannot be read.
        """
        if self._spill is not None:
            rows = self._spill.take(_KEY, most)
        else:
            rows, self._here = self._here[:most], self._here[most:]
        self._count -= len(rows)
        return [pickle.loads(row) for row in rows]
