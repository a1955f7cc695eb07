"""The fuzz program finds no violation in two seconds, and notices planted ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz_spoil

PROGRAM = Path(__file__).with_name("fuzz.py")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *options], capture_output=True, text=True, timeout=300
    )


@pytest.mark.exhaustive
def test_two_seconds_without_violation(tmp_path: Path) -> None:
    done = run("--seed", "5", "--seconds", "2", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 violations" in done.stdout
    assert list(tmp_path.iterdir()) == []


# By the number of the case: what it does in place of its work, and what is said about it.
VIOLATIONS = {
    1: ("raise KeyError('odd')", "KeyError: 'odd'"),
    2: ("os.abort()", "ended with -6"),
    3: ("bytearray(b'x') * (300 << 20)", "MB more"),
    4: ("bytearray(8 << 30)", "MemoryError"),
}


@pytest.mark.exhaustive
def test_violations_are_noticed_and_the_next_cases_done(tmp_path: Path) -> None:
    """Children import cases of which 1 to 4 of six fail; they start in a fraction of the time."""
    lines = [
        f"            if number == {number}: {code}\n" for number, (code, _) in VIOLATIONS.items()
    ]
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, types\n"
        "if '--child' in sys.argv:\n"
        "    class Cases:\n"
        "        def __init__(self, *given): pass\n"
        "        def run(self, number):\n"
        f"{''.join(lines)}"
        "            return 'fine'\n"
        "    sys.modules['fuzz_cases'] = types.ModuleType('fuzz_cases')\n"
        "    sys.modules['fuzz_cases'].Cases = Cases\n"
    )
    done = subprocess.run(
        [sys.executable, PROGRAM, "--cases", "6", "--keep", tmp_path / "kept", "--kinds", "numpy"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    reports = done.stdout.split("VIOLATION in case ")[1:]
    assert [int(report.partition(":")[0]) for report in reports] == list(VIOLATIONS)
    for report, (_, message) in zip(reports, VIOLATIONS.values(), strict=True):
        assert message in report
    assert "6 cases" in done.stdout
    assert "4 violations" in done.stdout
    assert {folder.name for folder in (tmp_path / "kept").iterdir()} == {"1-1", "1-2", "1-3", "1-4"}


def test_damage_depends_on_the_generator_alone() -> None:
    data = bytes(range(100))
    first = [fuzz_spoil.spoiled(Random(seed), data) for seed in range(50)]
    assert first == [fuzz_spoil.spoiled(Random(seed), data) for seed in range(50)]
    assert len(set(first)) > 40
