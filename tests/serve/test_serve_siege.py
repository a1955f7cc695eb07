"""A short run of the benchmark with hostile clients beside good ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import serving

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_hostile.py"


@pytest.mark.exhaustive
@pytest.mark.alone
def test_valid_requests_succeed_beside_hostile_clients(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    small = ["--rows", "2000", "--clients", "2", "--batch", "64"]
    short = ["--seconds", "3", "--swap-every", "0.6", "--json", str(told)]
    words = [sys.executable, str(SCRIPT), *small, *short]
    done = subprocess.run(words, capture_output=True, text=True, timeout=2 * serving.SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(told.read_text())
    assert result["failures"] == 0
    assert result["requests"] > 2
    assert result["swaps"] >= 2
    assert len(result["hostile"]) == 13
    memory = result["memory"]
    assert memory["all"]["descriptors"] <= memory["new"]["descriptors"]
    # Code and buffers of a siege are first used here; repeated ones are measured by --sieges.
    assert memory["all"]["rss"] < memory["new"]["rss"] + (64 << 20)
