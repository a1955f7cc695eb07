"""Triton's kernels, checked in separate processes, since its interpreter cannot be disabled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saec.torch.lookup.triton.launch import available

CHECKS = Path(__file__).with_name("triton_checks.py")
INSTALLED = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not INSTALLED, reason="triton is not installed")
@pytest.mark.parametrize(
    ("interpret", "cases"),
    [
        pytest.param(True, "first", id="interpreted"),
        pytest.param(True, "rest", id="interpreted-rest", marks=pytest.mark.exhaustive),
        pytest.param(False, "all", id="compiled", marks=pytest.mark.exhaustive),
    ],
)
def test_checks_pass_in_a_separate_process(interpret: bool, cases: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cases", cases, CHECKS],
        env=os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": tmp_path},
        cwd=CHECKS.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_on_a_cpu_only_the_interpreter_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not available(torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(torch.zeros(1)) == INSTALLED
    assert not available(torch.zeros(1, dtype=torch.float64))
