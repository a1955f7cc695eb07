"""Benchmarks compare the requested versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from timing import run_version

import saec


@pytest.mark.exhaustive
def test_each_version_is_the_one_asked_for(tmp_path: Path) -> None:
    other = tmp_path / "saec" / "__init__.py"
    other.parent.mkdir()
    other.write_text("")
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy, saec; print(saec.__file__, sys.argv[1])")
    assert run_version(tmp_path, str(script), ["7"]) == f"{other} 7\n"
    assert run_version(None, str(script), ["8"]) == f"{saec.__file__} 8\n"
