"""benchmarks/bit_price.py: how runs are identified, and a share of the users is whole."""

from __future__ import annotations

import argparse

import bit_price
import numpy as np

from saec.reference.simulated import simulate


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
