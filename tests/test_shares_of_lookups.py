"""Rows of fields with keys weigh by their share of all lookups, those of unknown keys included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from daily_tables import DIM, METRIC, METRICS, Day
from keyed_example import random_keys
from numpy.typing import NDArray

import saec

DAY = Day.first(600)


@pytest.mark.parametrize(("share", "known"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.001)])
def test_lookups_by_hand(share: float, known: float) -> None:
    # With a share of 1, known keys still have a thousandth of all lookups.
    field = DAY.field(unseen_share=share)
    assert field.lookups == pytest.approx(DAY.frequencies.sum() / known)
    assert saec.Field("user", DAY.weights, DAY.frequencies).lookups == DAY.frequencies.sum()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("metrics", [METRICS, None])
def test_without_bits_a_field_loses_its_rows_where_lookups_have_one(
    share: float, metrics: dict[str, NDArray[np.float64]] | None, coarse_prices: None
) -> None:
    field = DAY.field(unseen_share=share)
    priced = saec.measure([field], saec.Axes(), metrics=metrics, progress=False)
    distance = np.eye(DIM) if metrics is None else METRIC
    nats = np.einsum("nd,de,ne->n", DAY.weights, distance, DAY.weights) / 2
    known = DAY.frequencies / DAY.frequencies.sum()
    # Without a metric, the loss is the squared error of all occurrences in training.
    unit = 1 - share if metrics else 2 * DAY.frequencies.sum()
    assert priced.options[0][0].loss == pytest.approx(unit * float(known @ nats), rel=2e-3)


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
