"""The lines of src/saec that tests reach, with the tests, for all workers of pytest-xdist.

    .venv/bin/python -m pip install coverage
    PYTHONPATH=tools .venv/bin/python -m pytest -p reached_lines --cases first --numprocesses 3
    .venv/bin/coverage combine build/reached && .venv/bin/coverage report

What processes reach that tests start is left out, as is what PyTorch compiles.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "build" / "reached"

FILES.mkdir(parents=True, exist_ok=True)
reached = coverage.Coverage(
    source=[str(ROOT / "src" / "saec")],
    data_file=str(FILES / f".coverage.{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"),
    config_file=False,
)
reached.start()  # before the first import of the package


def pytest_runtest_logstart(nodeid: str) -> None:
    reached.switch_context(nodeid)


def pytest_unconfigure() -> None:
    reached.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the process that leads workers reaches nothing
        reached.save()
