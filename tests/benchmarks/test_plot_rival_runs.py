"""The picture and tables of ``saec bench --rivals``, from runs made by hand."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

import plot_rival_runs as plot


def run(method: str, seed: int, trial: int, validation: float, auc: float) -> dict[str, Any]:
    sizes = {"nbytes": 100, "bytes_all_in": 180, "ratio": 10.0, "ratio_all_in": 7.0}
    return {
        "task": "t",
        "method": method,
        "target_ratio": 10.0,
        "seed": seed,
        "trial": trial,
        "validation_logloss": validation,
        "auc": auc,
        "logloss": 0.5,
        "train_seconds": 9.0,
        **sizes,
    }


ROWS = [
    run("hash", 0, 0, 0.52, 0.9),  # the better AUC on test rows does not count
    run("hash", 0, 1, 0.51, 0.8),
    run("hash", 1, 1, 0.53, 0.7),
    run("axes", 0, 0, 0.5, 0.81),
    {"method": "qr", "target_ratio": 10.0, "seed": 0, "trial": 0, "impossible": "too large"},
]


def test_validation_rows_choose_and_seeds_are_averaged() -> None:
    axes, hashed = plot.points(ROWS)
    assert (axes.method, hashed.method) == ("axes", "hash")
    assert (hashed.mean("auc"), hashed.spread("auc")) == pytest.approx((0.75, 0.05))
    assert (hashed.trials, axes.trials) == (2, 1)


def test_tables_have_a_heading_for_each_class() -> None:
    text = plot.tables(plot.points(ROWS), ROWS)
    heads = ("After training", "Low precision", "Mixed dimension", "Weight sharing")
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == list(heads)
    assert "| `hash` | 10 | 10.0 | 7.0 | 0.18 | 0.7500 | 0.5000 | 2 | 2 | 9 |" in text
    assert "| `axes` | 10 | 10.0 | 7.0 | 0.18 | 0.8100 | 0.5000 | - | 1 | 9 |" in text
    assert "* `qr` at 10: too large" in text


def test_every_method_is_drawn() -> None:
    left, right = plot.draw(plot.points(ROWS), "t").axes
    assert left.get_xscale() == right.get_xscale() == "log"
    names = [plot.METHODS[name][0] for name in ("axes", "hash")]
    assert left.get_legend_handles_labels()[1] == names
    assert set(plot.SMALL) < set(plot.ORDER)
