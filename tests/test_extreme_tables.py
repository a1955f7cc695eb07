"""Tables with a row far from all others, and tables, frequencies and metrics of any scale."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import saec
from saec import Axes, Clusters, Field, FieldError, MetricError, Ratio

pytestmark = pytest.mark.usefixtures("coarse_prices")

FAR = 1500
RATIOS = (8.0, 25.0)


def zipf(rows: int) -> NDArray[np.float64]:
    return rows / np.arange(1, rows + 1)


def spread(kind: str) -> NDArray[np.float32]:
    """A table of 2,000 x 16 with equal or falling variances along its directions."""
    widths = {"equal": np.ones(16), "falling": 0.7 ** np.arange(16)}[kind]
    rows = np.random.default_rng(0).standard_normal((2000, 16)) * widths
    return rows.astype(np.float32)


def decoded(
    weights: NDArray[np.float32],
    codec: Axes | Clusters,
    ratio: float,
    frequencies: NDArray[np.float64] | None = None,
    metric: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    field = Field("u", weights, zipf(len(weights)) if frequencies is None else frequencies)
    metrics = None if metric is None else {"u": metric}
    result = saec.compress([field], Ratio(ratio), codec, metrics=metrics, progress=False)
    assert result.compression_ratio >= ratio
    return result["u"].decode()


def errors_of_others(weights: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    others = np.arange(len(weights)) != FAR
    error = np.linalg.norm((found - weights)[others], axis=1)
    return float((error / np.linalg.norm(weights[others], axis=1)).mean())


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("kind", ["equal", "falling"])
@pytest.mark.parametrize("codec", [Clusters(), Axes()], ids=["clusters", "axes"])
def test_one_far_row_does_not_increase_the_error_of_others(
    kind: str, codec: Axes | Clusters
) -> None:
    def errors(weights: NDArray[np.float32]) -> list[float]:
        field = Field("u", weights, zipf(len(weights)))
        measured = saec.measure([field], codec, progress=False)
        results = [saec.compress(measured, Ratio(ratio)) for ratio in RATIOS]
        return [errors_of_others(weights, result["u"].decode()) for result in results]

    weights = spread(kind)
    expected = errors(weights)
    for scale in (100, 1000):
        far = weights.copy()
        far[FAR] *= scale
        for found, known in zip(errors(far), expected, strict=True):
            assert found <= 1.05 * known


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("codec", [Clusters(), Axes()], ids=["clusters", "axes"])
@pytest.mark.parametrize(
    ("frequencies", "metric"),
    [(np.ones(2000), None), (None, np.diag(np.linspace(1, 0.1, 16)))],
    ids=["equal frequencies", "metric"],
)
def test_one_far_row_costs_nothing_without_frequencies_or_with_a_metric(
    codec: Axes | Clusters,
    frequencies: NDArray[np.float64] | None,
    metric: NDArray[np.float64] | None,
) -> None:
    weights = spread("equal")
    expected = errors_of_others(weights, decoded(weights, codec, 8, frequencies, metric))
    weights[FAR] *= 1000
    found = decoded(weights, codec, 8, frequencies, metric)
    assert errors_of_others(weights, found) <= 1.05 * expected


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("times", [1, 6])
def test_rows_somewhat_far_do_not_keep_a_table_uncompressed(times: int, keyed: bool) -> None:
    """Clipping 4 rows of length 24 to 6 would lose 4 x 18^2 of 2000 x 16, 4 % of all variance,
    and the budget is a thousandth of it."""
    weights = spread("equal")
    weights[200:204] *= times
    counts = np.ones(2000)
    worth = 0.5 * float(np.square(weights - weights.mean(axis=0)).sum(axis=1).mean())
    keys = 7 * np.arange(2000) if keyed else None
    field = Field("u", weights, counts, keys=keys, unseen_share=0.0 if keyed else None)
    result = saec.compress(
        [field], saec.LossIncrease(worth / 1000), metrics={"u": np.eye(16)}, progress=False
    )
    rows = result["u"].lookup(np.arange(2000) if keys is None else keys)
    lost = 0.5 * float(np.square(rows - weights).sum(axis=1).mean())
    assert lost <= 1.05 * worth / 1000
    # 5 bits a value are enough for an error of a thousandth of the variance (Max, 1960: -24.6 dB
    # at 4 bits, -30.3 at 5); a row of 6 times the length has wider steps at its end.
    assert result.compression_ratio > 4.5


def test_a_far_row_keeps_its_direction() -> None:
    weights = spread("falling")
    weights[FAR] *= 1000
    found = decoded(weights, Clusters(), 8)[FAR]
    cosine = found @ weights[FAR] / np.linalg.norm(found) / np.linalg.norm(weights[FAR])
    assert cosine > 0.95
    assert np.linalg.norm(found) > 2 * np.linalg.norm(np.delete(weights, FAR, 0), axis=1).mean()


def test_a_few_far_rows_hardly_increase_the_error_of_others() -> None:
    weights = spread("equal")
    for codec, most in ((Clusters(), 1.05), (Axes(), 1.2)):
        expected = errors_of_others(weights, decoded(weights, codec, 8))
        far = weights.copy()
        far[FAR - 9 : FAR + 1] *= 300
        assert errors_of_others(far, decoded(far, codec, 8)) <= most * expected + 0.005


def test_codebooks_of_floats_keep_a_far_row() -> None:
    weights = spread("falling")
    weights[FAR] *= 1000
    found = decoded(weights, Clusters(codebook="float32"), 8)[FAR]
    np.testing.assert_allclose(found, weights[FAR], rtol=0.02, atol=1)


def test_inspect_names_far_rows() -> None:
    weights = spread("equal")
    assert saec.inspect([Field("u", weights, zipf(2000))], progress=False).remarks == ()
    weights[FAR] *= 300
    weights[1200] *= 100
    for metrics in (None, {"u": np.diag(np.logspace(0, -3, 16))}):
        field = Field("u", weights, zipf(2000))
        looked = saec.inspect([field], metrics, ratio=10, progress=False)
        first, second = looked.fields[0].far_rows
        assert (first.row, second.row) == (FAR, 1200)
        assert first.times > 100
        norms = np.linalg.norm(weights, axis=1)
        assert first.norm == pytest.approx(norms[FAR] / np.median(norms), rel=1e-3)
        assert first.share == pytest.approx(zipf(2000)[FAR] / zipf(2000).sum())
        (remark,) = looked.remarks
        assert remark.startswith("field 'u': rows far from nearly all others: 1500 (norm ")
        assert "1500 (" in looked._repr_html_()


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("codec", [Clusters(), Clusters(codebook="float32"), Axes()], ids=repr)
@pytest.mark.parametrize("in_nats", [False, True])
def test_scaling_a_table_scales_its_result(
    codec: Axes | Clusters, in_nats: bool, rng: np.random.Generator
) -> None:
    weights = (rng.standard_normal((400, 8)) * 0.6 ** np.arange(8) + 0.3).astype(np.float32)
    counts = rng.permutation(np.ceil(zipf(400)))
    metrics = {"u": np.diag(np.logspace(-3, -5, 8))} if in_nats else None

    def compressed(exponent: int) -> tuple[NDArray[np.float64], float]:
        field = Field("u", np.ldexp(weights, exponent), counts)
        result = saec.compress([field], Ratio(4), codec, metrics=metrics, progress=False)
        rows = np.ldexp(result["u"].decode().astype(np.float64), -exponent)
        return rows, float(counts @ np.square(rows - weights).sum(axis=1))

    rows, error = compressed(0)
    # A row half way between two codes may take the other one.
    same = np.isclose(compressed(3)[0], rows, rtol=1e-3, atol=1e-4).all(axis=1)
    assert same.mean() >= 0.99
    for exponent in (-137, -80, 30, 125):
        # Where float16 holds no axes, some bytes more go to them, or an axis is kept more.
        assert compressed(exponent)[1] <= 6 * error, exponent


@pytest.mark.parametrize("exponent", [-100, -20, 20, 100])
def test_a_fixed_number_of_clusters_at_any_scale(exponent: int, rng: np.random.Generator) -> None:
    weights, codec = rng.standard_normal((300, 4)).astype(np.float32), Clusters(clusters=32)
    rows = [
        saec.compress([Field("u", table, zipf(300))], None, codec, progress=False)["u"].decode()
        for table in (weights, np.ldexp(weights, exponent))
    ]
    assert np.array_equal(np.ldexp(rows[0], exponent), rows[1])


@pytest.mark.parametrize("value", [1e-8, 1e6])
def test_float16_codebooks_out_of_range_are_refused(value: float) -> None:
    field = Field("user", np.full((300, 4), value, np.float32), zipf(300))
    with pytest.raises(
        FieldError, match=r"field 'user': the largest value is 1e.*6\.1e-05 to 65504"
    ):
        saec.compress([field], Ratio(4), Clusters(codebook="float16"), progress=False)


@pytest.mark.parametrize("codec", [Clusters(), Axes()], ids=["clusters", "axes"])
@pytest.mark.parametrize("scale", [1e-190, 1e-30, 1e30, 1e190])
def test_frequencies_of_any_scale(
    codec: Axes | Clusters, scale: float, rng: np.random.Generator
) -> None:
    weights = rng.standard_normal((300, 4)).astype(np.float32)
    exponent = float(2.0 ** np.round(np.log2(scale)))
    rows = [
        saec.compress([Field("u", weights, counts)], Ratio(4), codec, progress=False)["u"].decode()
        for counts in (zipf(300), zipf(300) * exponent)
    ]
    assert np.array_equal(*rows)


def test_frequencies_out_of_range_are_refused() -> None:
    weights = np.ones((3, 2), np.float32)
    with pytest.raises(FieldError, match=r"of id 1 is 1e\+308; it must be at most 1e\+200"):
        Field("user", weights, [1, 1e308, 1])
    with pytest.raises(FieldError, match=r"'user': all 3 frequencies together .*at least 1e-200"):
        Field("user", weights, np.full(3, 1e-310))


@pytest.mark.parametrize("codec", [Clusters(), Axes()], ids=["clusters", "axes"])
@pytest.mark.parametrize("scale", [1e-95, 1e95])
def test_metrics_of_any_scale(
    codec: Axes | Clusters, scale: float, rng: np.random.Generator
) -> None:
    field = Field("u", rng.standard_normal((300, 4)).astype(np.float32), zipf(300))
    one, other = (
        saec.compress([field], Ratio(4), codec, metrics={"u": np.eye(4) * s}, progress=False)
        for s in (1.0, scale)
    )
    assert other.predicted_loss_increase == pytest.approx(
        one.predicted_loss_increase * scale, rel=0.02
    )


@pytest.mark.parametrize("entry", [1e308, 1e-310])
def test_metrics_out_of_range_are_refused(entry: float) -> None:
    field = Field("user", np.ones((3, 2), np.float32), [1, 1, 1])
    with pytest.raises(MetricError, match=r"'user': the largest entry of the metric .*1e-100 to"):
        saec.compress([field], Ratio(1), metrics={"user": np.eye(2) * entry}, progress=False)
