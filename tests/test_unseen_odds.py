"""Whole fields in patches: unknown keys have their share of all lookups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from daily_tables import DIM, METRIC, METRICS, Day
from keyed_example import random_keys

import saec
from saec.compression.unseen_odds import with_unseen_odds

DAY = Day.first(600)


@pytest.mark.parametrize(("share", "odds"), [(0.0, 0.0), (0.5, 1.0), (0.9, 9.0), (1.0, 1000.0)])
def test_odds_by_hand(share: float, odds: float) -> None:
    # With a share of 1, known keys still have a thousandth of all lookups.
    field = DAY.field(unseen_share=share)
    weighed = with_unseen_odds(field)
    assert weighed.keys is not None
    assert weighed.keys.unseen_share == pytest.approx(odds)
    assert field.keys is not None
    assert field.keys.unseen_share == share


def test_fields_without_keys_stay() -> None:
    field = saec.Field("user", DAY.weights, DAY.frequencies)
    assert with_unseen_odds(field) is field


@pytest.mark.exhaustive
def test_a_whole_field_states_what_lookups_lose_and_is_better_than_no_update(
    tmp_path: Path, coarse_prices: None
) -> None:
    share = 0.9
    path, patch = tmp_path / "base.saec", tmp_path / "1.patch"
    base = [DAY.field(unseen_share=share)]
    saec.compress(base, saec.Ratio(8), metrics=METRICS, progress=False, out=path)
    turned = Day(-DAY.weights[:, ::-1], DAY.frequencies, DAY.keys)
    done = saec.update(
        path, [turned.field(unseen_share=share)], out=patch, metrics=METRICS, compare=False
    )
    assert done.whole == ("user",)
    now = saec.load(path, patches=[patch])["user"]
    unknown = now.lookup(random_keys(100_000)).astype(np.float64)
    assert unknown.shape[1] == DIM
    harm = float(np.einsum("nd,de,ne->n", unknown, METRIC, unknown).mean() / 2)
    lost = 0.1 * turned.nats(now) + 0.9 * harm
    assert done.loss == pytest.approx(lost, rel=0.06)
    assert lost < 0.5 * done.stale_loss
