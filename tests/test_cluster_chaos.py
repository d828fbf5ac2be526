"""The short form of `benchmarks/cluster_chaos.py`: a run over a Ray cluster while everything fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_published_twice_in_chaos() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    script = str(ROOT / "benchmarks/cluster_chaos.py")
    words = [sys.executable, script, "--minutes", "1", "--seed", "3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("wrong or missing", "published twice", "partials left"):
        assert found[name] == 0, found
    assert found["bytes sent, of those of the files"] <= 1.1
    assert found["node killed"] + found["worker frozen"] > 0, "there was no chaos"
