"""A folder that an earlier version began is continued: its ledger, partials and marks keep their formats.

Commit 440d800 left `tests/data/state-of-440d800.tar.xz`. Its run was stopped by `--max-duration` in the
middle of two of four files, after it had published one file, and unpacked and deleted one archive.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.origin import Origin, sha256
from tests.test_cli import QUICK, get

STATE = Path(__file__).parent / "data" / "state-of-440d800.tar.xz"
LARGE = bytes(range(256)) * (6 << 12)


def archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for number in range(3):
            member, data = tarfile.TarInfo(f"m{number}.txt"), b"%d\n" % number * 50
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


OLD_ORIGIN = "127.0.0.1:38841"


@pytest.fixture
def folder(origin: Origin, tmp_path: Path) -> Path:
    """The old folder, with this origin's port in place of the old one's.

    Times of files are set as the ledger has them, because archives round nanoseconds.
    """
    out, here = tmp_path / "out", urlsplit(origin.url).netloc
    with tarfile.open(STATE) as tar:
        tar.extractall(out, filter="data")
    with closing(sqlite3.connect(out / ".osp-fetch/ledger.sqlite3")) as ledger, ledger:
        ledger.execute("UPDATE files SET source_key = replace(source_key, ?, ?)", (OLD_ORIGIN, here))
        for path, mtime in ledger.execute("SELECT path, mtime_ns FROM files WHERE mtime_ns").fetchall():
            if (out / path).exists():
                os.utime(out / path, ns=(mtime, mtime))
    for claim in (out / ".osp-fetch/claims").iterdir():
        claim.write_text(claim.read_text().replace(OLD_ORIGIN, here))
    return out


async def test_a_folder_of_an_earlier_version_is_continued(origin: Origin, folder: Path) -> None:
    files = {"small.bin": b"small" * 200, "large.bin": LARGE, "tagged.bin": LARGE[:-1], "a.tar": archive()}
    lines = []
    for name, data in files.items():
        line = {"path": name, "url": origin.add(name, data), "size": len(data)}
        lines.append(line if name == "tagged.bin" else {**line, "sha256": sha256(data)})
    (folder.parent / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["m.jsonl", "-o", "out", "--unpack", "--delete-after", *QUICK]

    _, before, _ = await get("status", "out", "--json", cwd=folder.parent)
    held = json.loads(before)["held_bytes"]
    assert held > 4 << 20
    code, out, said = await get("get", *words, "--json", cwd=folder.parent)
    assert code == 0, said
    assert json.loads(out)["counts"] == {"fetched": 2, "present": 2, "parked": 0, "failed": 0}
    asked = {exchange.path.strip("/") for exchange in origin.seen}
    assert asked == {"large.bin", "tagged.bin"}, "a finished or an unpacked file was asked for again"
    for name in ("small.bin", "large.bin", "tagged.bin"):
        assert (folder / name).read_bytes() == files[name]
    assert not (folder / "a.tar").exists()
    assert (folder / "a/m2.txt").read_bytes() == b"2\n" * 50
    assert json.loads(out)["bytes"] <= len(LARGE) * 2 - 1 - held + (1 << 20), "held bytes were fetched again"
    code, _, said = await get("verify", "out", cwd=folder.parent)
    assert code == 0, said
    _, out, _ = await get("plan", "m.jsonl", "-o", "out", "--json", cwd=folder.parent)
    plan = json.loads(out)
    assert (plan["present"], plan["missing_bytes"], plan["archives"]) == (4, 0, 0)
