"""benchmarks/bit_price.py: what was finished is kept, and a share of the users is whole."""

from __future__ import annotations

import argparse
from pathlib import Path

import bit_price
import numpy as np
import pytest

from saec.reference.simulated import simulate


def test_a_line_that_was_cut_off_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bit_price, "RECORDED", tmp_path / "lines.jsonl")
    assert bit_price.recorded() == []
    bit_price.record({"seed": 0})
    with bit_price.RECORDED.open("a") as file:
        file.write('{"seed": 1, "au')
    assert bit_price.recorded() == [{"seed": 0}]
    bit_price.record({"seed": 1, "auc": 0.5})
    assert bit_price.recorded() == [{"seed": 0}, {"seed": 1, "auc": 0.5}]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


def test_runs_are_identified_by_what_was_asked() -> None:
    options = argparse.Namespace(
        task="ml-1m", users=1.0, seeds=[0, 1], prices=[1e-7], choose=[55.0], share=0.25
    )
    same = {"task": "ml-1m", "users": 1.0}
    assert [*bit_price.asked(options)] == [
        {**same, "seed": seed, **what}
        for seed in (0, 1)
        for what in ({"ratio": 55.0, "share": 0.25}, {"price": 1e-7})
    ]


def test_users_are_kept_with_all_of_their_rows() -> None:
    log = simulate(6000, seed=0)
    part = bit_price.of_users(log, 0.25, seed=1)
    assert 0.15 < len(part.labels) / len(log.labels) < 0.35
    # By frequency in training, the counts of the users that are left are among those of all.
    name = log.field_names[0]
    whole, left = (np.sort(each.frequencies[name][1:]) for each in (log, part))
    kept, counts = np.unique(left, return_counts=True)
    assert all(
        np.count_nonzero(whole == value) >= count for value, count in zip(kept, counts, strict=True)
    )
