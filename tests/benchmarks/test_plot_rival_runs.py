"""The picture and tables of ``saec bench --rivals``, from runs made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

import plot_rival_runs as plot
from comparison_runs import RUNS as ROWS
from comparison_runs import run

from saec.report.comparison import Point, points, with_changes
from saec.report.comparison_chart import MARKS


def points_of(rows: list[dict[str, Any]]) -> list[Point]:
    return points(list(with_changes(rows)))


def test_tables_have_a_heading_for_each_class_with_runs() -> None:
    text = plot.tables(points_of(ROWS), ROWS)
    heads = ("After training", "Weight sharing", "Ours beside the best rival")
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == list(heads)
    start = "| 10 | 10.0 | 10.0 | 0.18 |"
    assert f"| `hash` {start} 0.7500 | -0.0400 | 0.0200 | +0.0000 | 2 | 2 | 9 | 1,234 |" in text
    assert f"| `axes` {start} 0.8100 | -0.0100 | - | +0.0000 | - | 1 | 9 | 1,234 |" in text
    assert "* qr at 10: big & <wide>" in text
    assert (
        "| 10 | 0.18 | `axes` at 10, one seed | -0.0100 | `hash` at 10 | -0.0400 | +0.0300 |"
        in text
    )


def test_results_of_both_commands_are_read(tmp_path: Path) -> None:
    """Rows of ``saec bench`` have their own uncompressed model: 0.81 - 0.83 = -0.02."""
    plain = {
        **run("axes", 3, 0, 0.5, 0.81),
        "base_auc": 0.83,
        "base_logloss": 0.5,
        "base_validation_auc": 0.8,
        "base_validation_logloss": 0.5,
        "original_nbytes": 800,
        "features": 125,
    }
    keyed = {**plain, "keyed": True, "target_ratio": 25.0, "auc": 0.82}
    tuned = {**plain, "finetuned": True}
    bench = tmp_path / "rivals_t.json"
    bench.write_text(json.dumps({"rows": [plain, keyed, tuned]}))
    runs = tmp_path / "rivals-t.jsonl"
    runs.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = plot.rows_by_task([bench, runs])
    assert list(rows) == ["t"]
    found = {(point.method, point.ratio): point for point in points(rows["t"])}
    assert found["float32", None].mean("bytes_all_in") == 800 + 8 * 125
    assert len(found["float32", 10.0].runs) == 2
    assert [one["seed"] for one in found["axes", 10.0].runs] == [3, 0]
    assert found["axes", 10.0].mean("d_auc") == pytest.approx((-0.02 - 0.01) / 2)
    assert found["axes-keyed", 25.0].mean("d_auc") == pytest.approx(-0.01)


def test_lookups_are_those_that_were_measured_in_turn() -> None:
    """Whatever the runs say; of a priced model those of the same method without a price."""
    priced = run("axes+priced", 0, 0, 0.5, 0.8)
    known = [
        {"task": task, "method": "axes", "target_ratio": ratio, "lookup_ns": ns}
        for task, ratio, ns in (("t", 10.0, 3.0), ("t", 30.0, 4.0), ("u", 10.0, 5.0))
    ]
    found = plot.with_lookups([ROWS[5], priced, ROWS[2]], known)
    assert [row["lookup_ns"] for row in found[:2]] == [3.0, 3.0]
    assert math.isnan(found[2]["lookup_ns"])


def test_every_method_is_drawn() -> None:
    left, right = plot.draw(points_of(ROWS), "t").axes
    assert left.get_xscale() == right.get_xscale() == "log"
    names = [*(MARKS[name][0] for name in ("axes", "hash")), "float32"]
    assert sorted(left.get_legend_handles_labels()[1]) == sorted(names)


def test_tasks_stand_side_by_side_with_one_legend() -> None:
    ours = [*ROWS, run("axes+priced", 0, 0, 0.5, 0.83), run("robe", 0, 0, 0.5, 0.8)]
    figure = plot.draw_tasks({"a": points_of(ROWS), "b": points_of(ours)})
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "float32",
        "axes",
        "hashing trick",
        "ROBE",
    ]
