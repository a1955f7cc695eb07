"""Rows far from all others: their loss is forecast, and other rows lose hardly more."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import saec
from saec.clustering.rowmap import Limit
from saec.codecs.protocol import Codec
from saec.streaming.map_reduce import silent
from saec.streaming.scratch import IN_MEMORY
from saec.tables.loss_metric import Metric

ROWS, DIM, FAR = 2000, 16, 1500
CODECS = [saec.Clusters(), saec.Axes()]


def table(times: float, seed: int = 0) -> NDArray[np.float32]:
    """Normal rows of variances 0.8 ** k; row 1500 (0.008 % of occurrences) is scaled."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((ROWS, DIM)) * 0.8 ** (np.arange(DIM) / 2)
    rows[FAR] *= times
    return rows.astype(np.float32)


def field(times: float, seed: int = 0) -> saec.Field:
    return saec.Field("f", table(times, seed), 1e5 / np.arange(1, ROWS + 1))


def test_limits_by_hand() -> None:
    # Nearly all rows are within 1, so rows beyond 3 are far, unless frequency x squared distance is
    # at most 64.
    limit = Limit(3.0, 64.0)
    squared = np.array([4.0, 9.0, 16.0, 16.0, 100.0, 1e6])
    shares = limit.shares(squared, np.array([1e3, 1e3, 1e3, 4.0, 1e3, 0.0]))
    assert shares.tolist() == [1.0, 1.0, 0.25, 1.0, 0.1, 1.0]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("times", [6.0, 100.0])
@pytest.mark.parametrize("with_metric", [False, True])
def test_options_state_the_loss_with_far_rows(
    codec: Codec, times: float, with_metric: bool
) -> None:
    one = field(times)
    metric = Metric(np.diag(np.linspace(1, 0.1, DIM))) if with_metric else None
    offered = codec.options(one, metric, np.random.default_rng(0), IN_MEMORY)
    root = np.eye(DIM) if metric is None else metric.root
    unit = 1.0 if metric is None else 1 / (2 * float(one.frequencies.sum()))
    for option in offered[:: len(offered) // 6]:
        coded = codec.encode(one, option.choice, np.random.default_rng(0), silent, IN_MEMORY)
        error = (coded.field.decode() - np.asarray(one.weights, np.float64)) @ root
        lost = float(one.frequencies @ np.square(error).sum(axis=1)) * unit
        # Curves are measured at only a few numbers of clusters.
        rel = 0.02 if isinstance(codec, saec.Axes) else 0.35
        assert option.loss == pytest.approx(lost, rel=rel)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_far_row_hardly_increases_the_error_of_other_rows(codec: Codec, seed: int) -> None:
    def relative_errors(times: float) -> NDArray[np.float64]:
        result = saec.compress([field(times, seed)], saec.Ratio(8), codec, progress=False)
        error = np.linalg.norm(result["f"].decode() - table(times, seed), axis=1)
        return np.delete(error / np.linalg.norm(table(times, seed), axis=1), FAR)

    without = relative_errors(1.0).mean()
    for times in (100.0, 300.0, 1000.0):
        assert relative_errors(times).mean() < 1.05 * without
