"""benchmarks/next_item.py: which runs there are, and their table, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import next_item
from recorded_runs import RecordedRuns


def line(
    method: str, ratio: float | None, seed: int, ndcg: float, validation: float = 0.1
) -> dict[str, Any]:
    return {
        "task": "ml-1m-next",
        "seed": seed,
        "method": method,
        "target_ratio": ratio,
        "ratio": ratio or 1.0,
        "nbytes": 1000,
        "hr": 0.2,
        "ndcg": ndcg,
        "validation_ndcg": validation,
        "epochs": 3 if "+" in method else None,
    }


def test_each_run_is_done_once(tmp_path: Path) -> None:
    runs = RecordedRuns(tmp_path / "runs.jsonl")
    methods, ratios = ("uncompressed", "axes"), (30.0, 10.0)
    key = {"task": "ml-1m-next", "seed": 4}
    settings = {"seed": 4}
    every = [
        {**key, "method": "uncompressed", "target_ratio": None},
        {**key, "method": "axes", "target_ratio": 30.0},
        {**key, "method": "axes", "target_ratio": 10.0},
    ]
    assert next_item.missing(runs, methods, ratios, settings) == every
    runs.add(line("axes", 30.0, 4, 0.1))
    runs.add(line("uncompressed", None, 3, 0.1))
    assert next_item.missing(runs, methods, ratios, settings) == [every[0], every[2]]


def test_the_table_has_means_over_seeds_of_what_validation_chose() -> None:
    lines = [
        line("codes+distilled", 30.0, 0, 0.1),
        line("uncompressed", None, 0, 0.2),
        line("codes+distilled", 30.0, 1, 0.2),
        line("codes+distilled", 30.0, 1, 0.3, validation=0.05),  # other settings
    ]
    _, _, first, second = next_item.table(lines).splitlines()
    assert first == "| `uncompressed` | - | 1.0 | 1 | 0.2000 | 0.2000 | 100.0 % | - | 1 |"
    assert second == "| `codes+distilled` | 30 | 30.0 | 1 | 0.2000 | 0.1500 | 75.0 % | 3 | 2 |"


def test_a_table_without_the_uncompressed_model_has_no_share_of_it() -> None:
    *_, row = next_item.table([line("axes", 30.0, 0, 0.1)]).splitlines()
    assert row == "| `axes` | 30 | 30.0 | 1 | 0.2000 | 0.1000 | - | - | 1 |"
