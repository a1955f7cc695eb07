"""benchmarks/plot_days.py: means over evenings by hand, and records that have just begun."""

from __future__ import annotations

import json
from pathlib import Path

import plot_days
import pytest

BASE = {"step": "afresh", "day": 9, "auc": 0.5, "logloss": 0.9, "nbytes": 1e6, "seconds": 1.0}
WHOLE = {"step": "uncompressed", "day": 10, "auc": 0.8, "logloss": 0.4, "nbytes": 9e6}


def record(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_means_are_over_the_evenings_that_all_methods_have(tmp_path: Path) -> None:
    patched = {"step": "patched", "nbytes": 2e6, "patch_bytes": 5e5, "seconds": 3.0}
    rows = [
        BASE,
        WHOLE,
        {**patched, "day": 10, "auc": 0.7, "logloss": 0.5},
        {**WHOLE, "day": 11, "auc": 0.6, "logloss": 0.6},
        {**patched, "day": 11, "auc": 0.6, "logloss": 0.7, "seconds": 5.0, "nbytes": 3e6},
        {**WHOLE, "day": 12, "auc": 0.1, "logloss": 0.1},
    ]
    found = plot_days.series_of(record(tmp_path / "days.jsonl", *rows))
    title, _, _, _, *lines = plot_days.means(found).splitlines()
    assert title == "Means over the evenings 10, 11:"
    assert lines == [
        "| uncompressed | 0.7000 | 0.5000 | 9 | 9 | 9 | - |",
        "| base + patches | 0.6500 | 0.6000 | 2.5 | 3 | 0.5 | 4 |",
    ]
    assert plot_days.evenings(found).endswith("| 12 | 0.1000 / 0.1000 | not run |")


def test_records_that_have_just_begun(tmp_path: Path) -> None:
    for rows in ([], [BASE], [WHOLE]):
        with pytest.raises(SystemExit, match="no evening after the base"):
            plot_days.series_of(record(tmp_path / "days.jsonl", *rows))
