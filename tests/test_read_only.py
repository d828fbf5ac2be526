"""Tests of folders where nothing can be written: a read-only mount, or the folder of another user."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from osp_fetch import StorageError, fetch_all
from osp_fetch.inspection.verify import verify_folder
from osp_fetch.storage.ledger.rows import LedgerReader
from tests.conftest import quick
from tests.origin import Origin, noise


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user can reach, which is not true of pytest's."""
    with TemporaryDirectory(prefix="osp-test-") as name:
        yield Path(name)


@contextmanager
def read_only(base: Path) -> Iterator[None]:
    """Take from this process the right to write below `base`."""
    for place in (base, *base.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)  # root may write anywhere
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        for place in (base, *base.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)


def paths(ledger: Path) -> list[str]:
    with closing(LedgerReader(ledger)) as reader:
        return [record.path for record in reader.all()]


async def test_a_finished_folder_is_read_and_verified(origin: Origin, base: Path) -> None:
    folder = base / "out"
    assert (await fetch_all(origin.add("f", noise(1000)), folder, settings=quick())).ok
    ledger = folder / ".osp-fetch/ledger.sqlite3"
    assert not ledger.with_name("ledger.sqlite3-shm").exists()
    with read_only(base):
        assert paths(ledger) == ["f"]
        assert [(each.path, each.verdict) for each in verify_folder(folder)] == [("f", "ok")]


async def test_records_that_a_killed_run_left_in_the_log_of_the_database_are_read(
    origin: Origin, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copy = base / "out", base / "copy"
    urls = [origin.add(name, noise(1000)) for name in ("f", "g")]
    assert (await fetch_all(urls, folder, settings=quick())).ok
    with closing(sqlite3.connect(folder / ".osp-fetch/ledger.sqlite3")) as db:
        db.execute("DELETE FROM files WHERE path = 'g'")
        db.commit()
        shutil.copytree(folder / ".osp-fetch", copy)
    (copy / "ledger.sqlite3-shm").unlink()
    assert (copy / "ledger.sqlite3-wal").stat().st_size > 0
    with read_only(base):
        assert paths(copy / "ledger.sqlite3") == ["f"]
    with read_only(base):
        monkeypatch.setattr(tempfile, "tempdir", str(copy))
        with pytest.raises(StorageError, match=r"ledger\.sqlite3 cannot be read: .*denied"):
            paths(copy / "ledger.sqlite3")
