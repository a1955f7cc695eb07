"""What every codec, ours and each baseline, must do on every kind of table, in any metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from coding_calls import encode, offers
from numpy.typing import NDArray

import saec
from saec import Axes, Clusters, Field, Ratio
from saec.artifact import entry_bytes
from saec.baselines import BASELINES
from saec.codecs.protocol import Codec
from saec.compression.budget import Budget
from saec.format.clustered_field import ClusteredField
from saec.tables.loss_metric import Metric

CODECS: dict[str, Codec] = {
    "clusters": Clusters(),
    "clusters-full": Clusters(
        clusters=0.01, head_share=1.0, weighting=0.0, codebook="float32", radius_share=1.0
    ),
    "clusters-half": Clusters(clusters=30, codebook="float16", seeding="random"),
    "axes": Axes(),
    **{name: make() for name, make in BASELINES.items()},
}

CLUSTERED = [name for name in CODECS if name.startswith("clusters") or name in BASELINES]

# These find nearest centroids by Euclidean distance, whatever the metric.
EUCLIDEAN = list(BASELINES)


def table(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows in groups, with noise."""
    rng = np.random.default_rng([seed, rows, dim])
    centres = rng.standard_normal((20, dim))
    noise = 0.3 * rng.standard_normal((rows, dim))
    return (centres[rng.integers(20, size=rows)] + noise).astype(np.float32)


def field(name: str, weights: NDArray[np.generic]) -> Field:
    """With a heavy tail, its end unseen."""
    frequencies = np.floor(1000 / np.arange(1, len(weights) + 1))
    return Field(name, weights, frequencies)


WEIGHTS: dict[str, NDArray[np.generic]] = {
    "ordinary": table(1500, 16),
    "one row": table(1, 16),
    "two rows": table(2, 16),
    "dim 1": table(900, 1),
    "dim 512": table(300, 512),
    "not contiguous": table(1200, 24)[::2, 1::3],
    "columns first": np.asfortranarray(table(700, 8)),
    "few distinct rows": np.repeat(table(5, 16), 200, axis=0),
    "all rows equal": np.full((400, 8), 0.5, np.float32),
    "float16": table(1500, 16).astype(np.float16),
    "bfloat16": table(1500, 16).astype(ml_dtypes.bfloat16),
    "huge and tiny": table(600, 8) * np.logspace(-12, 12, 600, dtype=np.float32)[:, None],
}

# Codebooks of float16 cannot hold such values, and say so.
REFUSED = ("clusters-half", "huge and tiny")


def cases(codecs: Iterable[str]) -> list[tuple[str, str]]:
    """Codecs by name, each with every kind of table that it takes."""
    return [(name, kind) for name in codecs for kind in WEIGHTS if (name, kind) != REFUSED]


every_codec = pytest.mark.parametrize("name", CODECS)
every_case = pytest.mark.parametrize(("name", "kind"), cases(CODECS))
pytestmark = pytest.mark.parametrize("in_nats", [False, True])


def matrix_for(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """A metric as models have it: small, steep, and nothing at all in half of the directions."""
    dim = weights.shape[1]
    rng = np.random.default_rng([3, dim])
    steepness = np.logspace(-2, -4, max(1, dim // 2))
    directions = steepness[:, None] * rng.standard_normal((len(steepness), dim))
    return directions.T @ directions


def metric_for(weights: NDArray[np.generic], in_nats: bool) -> Metric | None:
    return Metric.of(matrix_for(weights), "f", weights.shape[1]) if in_nats else None


@cache
def budget_for(codec: Codec, ratio: float) -> Budget | None:
    """None for a codec that has one size only."""
    return None if len(offers(codec, field("f", WEIGHTS["ordinary"]))) == 1 else Ratio(ratio)


def compress_fields(
    fields: Sequence[Field], name: str, in_nats: bool, seed: int = 0
) -> saec.Compressed:
    codec = CODECS[name]
    metrics = {one.name: matrix_for(one.weights) for one in fields} if in_nats else None
    return saec.compress(
        fields, budget_for(codec, 6), codec, metrics=metrics, seed=seed, progress=False
    )


def compress(name: str, kind: str, in_nats: bool, seed: int = 0) -> saec.Compressed:
    """An ordinary table, which pays for the header, and one of the given kind."""
    fields = [field("ordinary", WEIGHTS["ordinary"]), field("odd", WEIGHTS[kind])]
    return compress_fields(fields, name, in_nats, seed)


@cache
def compressed_once(name: str, kind: str, in_nats: bool) -> saec.Compressed:
    return compress(name, kind, in_nats)


def test_values_beyond_float16_are_refused_by_name(in_nats: bool) -> None:
    with pytest.raises(saec.FieldError, match=r"'odd': the largest value is .*float16 hold"):
        compress(*REFUSED, in_nats)


@every_case
def test_the_file_is_as_large_as_said_and_decodes_to_the_same(
    name: str, kind: str, in_nats: bool, tmp_path: Path
) -> None:
    result = compressed_once(name, kind, in_nats)
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes == loaded.nbytes
    for key, before in result.items():
        decoded = loaded[key].decode()
        assert decoded.shape == (before.vocab_size, before.dim)
        assert np.array_equal(decoded, before.decode())
        ids = np.array([0, before.vocab_size - 1, 0])
        assert np.array_equal(loaded[key].lookup(ids), decoded[ids])


@every_case
def test_the_result_is_of_the_table(name: str, kind: str, in_nats: bool) -> None:
    weights = WEIGHTS[kind]
    odd = compressed_once(name, kind, in_nats)["odd"]
    assert (odd.vocab_size, odd.dim) == weights.shape
    assert odd.dtype == weights.dtype.name
    assert odd.original_nbytes == weights.nbytes


@every_case
def test_the_budget_is_kept_or_at_least_no_table_grows(name: str, kind: str, in_nats: bool) -> None:
    result = compressed_once(name, kind, in_nats)
    if budget_for(CODECS[name], 6) is None:
        assert all(coded.nbytes <= coded.original_nbytes for coded in result.values())
    else:
        assert result.compression_ratio >= 6


@every_case
def test_the_same_seed_gives_the_same_file(
    name: str, kind: str, in_nats: bool, tmp_path: Path
) -> None:
    for copy in ("a", "b"):
        compress(name, kind, in_nats, seed=3).save(tmp_path / copy)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@every_case
def test_inputs_are_not_changed(name: str, kind: str, in_nats: bool) -> None:
    weights, frequencies = WEIGHTS[kind].copy(order="K"), np.arange(1.0, len(WEIGHTS[kind]) + 1)
    weights.flags.writeable = frequencies.flags.writeable = False
    codec, one = CODECS[name], Field("f", weights, frequencies)
    metric = metric_for(weights, in_nats)
    encode(codec, one, offers(codec, one, metric)[-1].choice, metric)
    assert weights.tobytes() == WEIGHTS[kind].tobytes()
    assert np.array_equal(frequencies, np.arange(1.0, len(weights) + 1))


@every_case
def test_what_is_on_offer_costs_no_more_than_its_price_and_loses_what_it_says(
    name: str, kind: str, in_nats: bool
) -> None:
    codec, one = CODECS[name], field("f", WEIGHTS[kind])
    metric = metric_for(one.weights, in_nats)
    offered = offers(codec, one, metric)
    for option in {0: offered[0], 1: offered[len(offered) // 2], 2: offered[-1]}.values():
        done: list[float] = []
        coded = encode(codec, one, option.choice, metric, advance=done.append)
        assert 8 * entry_bytes(coded.entry) <= option.bits
        assert 0 < sum(done) <= 1 + 1e-9


@pytest.mark.parametrize(("name", "kind"), cases(CLUSTERED))
def test_rows_are_near_their_centroids(name: str, kind: str, in_nats: bool) -> None:
    codec, one = CODECS[name], field("f", WEIGHTS[kind])
    metric = metric_for(one.weights, in_nats)
    coded = encode(codec, one, offers(codec, one, metric)[-1].choice, metric)
    assert isinstance(coded, ClusteredField)
    root = np.eye(one.dim) if metric is None or name in EUCLIDEAN else metric.root
    rows, decoded = one.weights.astype(np.float64), coded.decode().astype(np.float64)
    centroids = coded.codebook.values.astype(np.float64) @ root
    least = (((rows @ root)[:, None] - centroids) ** 2).sum(axis=2).min(axis=1)
    error = (((rows - decoded) @ root) ** 2).sum(axis=1)
    rounding = np.linalg.norm(root, 2) ** 2 * (1e-5 * (rows**2).sum(axis=1) + 1e-12)
    assert np.all(error <= (1 + 1e-9) * least + rounding)


@every_codec
def test_other_fields_change_nothing(name: str, in_nats: bool) -> None:
    if budget_for(CODECS[name], 6) is not None:
        pytest.skip("fields compete for this codec's budget")
    fields = [field("b", WEIGHTS["dim 1"]), field("a", WEIGHTS["ordinary"])]
    alone, both = (compress_fields(some, name, in_nats) for some in (fields[1:], fields))
    assert np.array_equal(alone["a"].decode(), both["a"].decode())
