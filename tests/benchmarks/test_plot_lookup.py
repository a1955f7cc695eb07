"""Plots show every method asked for, and the same numbers give the same file."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import plot_lookup
from plot_lookup import BAG, KEPT

ROWS = [
    {"rows": rows, "ids": ids, "method": method, "ns_per_id": time * rows / 1e6}
    for rows, ids, (method, time) in product(
        (1_000_000, 10_000_000),
        ("uniform", "zipf"),
        ((BAG, 4.25), ("axes", 1.5), (BAG + KEPT, 77.0)),
    )
]


def test_bars_carry_times_and_leave_out_kept_ids(tmp_path: Path) -> None:
    plot_lookup.save(plot_lookup.methods(ROWS[:6]), tmp_path / "a.svg", 4)
    text = (tmp_path / "a.svg").read_text()
    assert text.count(">4.2<") == text.count(">1.5<") == 2
    assert text.count(f">{BAG}<") == 1
    assert KEPT not in text
    assert ">77.0<" not in text


def test_lines_of_methods_that_were_measured(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot_lookup.save(plot_lookup.sizes(ROWS), tmp_path / name, 4)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert ">10 M<" in text
    assert f">{BAG}<" in text
    assert "fbgemm" not in text
