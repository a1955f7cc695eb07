"""Tests that every codec and baseline must pass on every kind of table, in any metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from coding_calls import encode, offers
from covering import covering
from numpy.typing import NDArray

import saec
from saec import Axes, Clusters, Field, Ratio
from saec.artifact import entry_bytes
from saec.baselines import BASELINES
from saec.codecs.protocol import Codec, Option
from saec.compression.budget import Budget
from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.tables.loss_metric import Metric

CODECS: dict[str, Codec] = {
    "clusters": Clusters(),
    "clusters-full": Clusters(
        clusters=0.01, head_share=1.0, weighting=0.0, codebook="float32", radius_share=1.0
    ),
    "clusters-half": Clusters(clusters=30, codebook="float16", seeding="random"),
    **{name: make() for name, make in BASELINES.items()},
}

CLUSTERED = list(CODECS)

CODECS["axes"] = Axes()

# These find nearest centroids by Euclidean distance, whatever the metric.
EUCLIDEAN = list(BASELINES)


def table(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows in groups, with noise."""
    rng = np.random.default_rng([seed, rows, dim])
    centres = rng.standard_normal((20, dim))
    noise = 0.3 * rng.standard_normal((rows, dim))
    return (centres[rng.integers(20, size=rows)] + noise).astype(np.float32)


def heavy_tail(rows: int) -> NDArray[np.float64]:
    """Frequencies of ``rows`` features; if there are many, the last ones are unseen."""
    return np.floor(600 / np.arange(1, rows + 1))


def field(name: str, weights: NDArray[np.generic]) -> Field:
    return Field(name, weights, heavy_tail(len(weights)))


WEIGHTS: dict[str, NDArray[np.generic]] = {
    "ordinary": table(1000, 16),
    "one row": table(1, 16),
    "two rows": table(2, 16),
    "dim 1": table(900, 1),
    "dim 512": table(80, 512),
    "not contiguous": table(1200, 24)[::2, 1::3],
    "columns first": np.asfortranarray(table(700, 8)),
    "few distinct rows": np.repeat(table(5, 16), 200, axis=0),
    "all rows equal": np.full((400, 8), 0.5, np.float32),
    "float16": table(700, 16).astype(np.float16),
    "bfloat16": table(700, 16).astype(ml_dtypes.bfloat16),
    "huge and tiny": table(600, 8) * np.logspace(-12, 12, 600, dtype=np.float32)[:, None],
}

# Codebooks of float16 cannot hold such values, and say so.
REFUSED = ("clusters-half", "huge and tiny")


def cases(codecs: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Codecs by name, each with every kind of table that it takes.

    Every codec and every kind occurs both without a metric and in nats, in turn.
    """
    return [
        (name, kind, (row + column) % 2 == 1)
        for row, name in enumerate(codecs)
        for column, kind in enumerate(WEIGHTS)
        if (name, kind) != REFUSED
    ]


CASES = cases(CODECS)
in_every_metric = pytest.mark.parametrize("in_nats", [False, True])


def matrix_for(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """A metric as of a model: small, with very different eigenvalues, half of which are zero."""
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
    """Compress an ordinary table, which makes room for the header, and one of the given kind."""
    fields = [field("ordinary", WEIGHTS["ordinary"]), field("odd", WEIGHTS[kind])]
    return compress_fields(fields, name, in_nats, seed)


class Case:
    """A codec, a kind of table and a metric, with the results that several tests use."""

    def __init__(self, name: str, kind: str, in_nats: bool) -> None:
        self.name, self.kind, self.in_nats = name, kind, in_nats
        self.codec = CODECS[name]
        weights = WEIGHTS[kind].copy(order="K")
        # Ids in order of frequency, and in no such order.
        frequencies = heavy_tail(len(weights))[:: -1 if in_nats else 1].copy()
        # What writes into them raises an error.
        weights.flags.writeable = frequencies.flags.writeable = False
        self.weights, self.frequencies = weights, frequencies
        self.field = Field("f", weights, frequencies)
        self.metric = metric_for(weights, in_nats)

    @cached_property
    def result(self) -> saec.Compressed:
        """The result of :func:`compress`."""
        return compress(self.name, self.kind, self.in_nats)

    @cached_property
    def offered(self) -> Sequence[Option]:
        return offers(self.codec, self.field, self.metric)

    def encode(self, index: int) -> CompressedField:
        """The field coded by an option; checks the bits and the loss that the option states."""
        option = self.offered[index]
        done: list[float] = []
        coded = encode(self.codec, self.field, option.choice, self.metric, advance=done.append)
        assert 8 * entry_bytes(coded.entry) <= option.bits
        assert 0 < sum(done) <= 1 + 1e-9
        return coded

    @cached_property
    def finest(self) -> CompressedField:
        """The field coded by the last option."""
        return self.encode(-1)


def name_of(case: tuple[str, str, bool]) -> str:
    name, kind, in_nats = case
    return f"{name}, {kind}" + (", in nats" if in_nats else "")


FIRST = {CASES[place] for place in covering([case[:2] for case in CASES])}
MARKED = [
    pytest.param(one, marks=() if one in FIRST else pytest.mark.exhaustive, id=name_of(one))
    for one in CASES
]


# Tests of a case run one after another, and what they share is freed with it.
@pytest.fixture(scope="module", params=MARKED)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@in_every_metric
def test_values_beyond_float16_are_refused_by_name(in_nats: bool) -> None:
    with pytest.raises(saec.FieldError, match=r"'odd': the largest value is .*float16 hold"):
        compress(*REFUSED, in_nats)


def test_the_file_has_the_stated_size_and_the_same_rows(case: Case, tmp_path: Path) -> None:
    result = case.result
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes == loaded.nbytes
    assert list(loaded) == list(result) == ["ordinary", "odd"]
    for key, before in result.items():
        decoded = loaded[key].decode()
        assert decoded.shape == (before.vocab_size, before.dim)
        assert np.array_equal(decoded, before.decode())
        ids = np.array([0, before.vocab_size - 1, 0])
        assert np.array_equal(loaded[key].lookup(ids), decoded[ids])


def test_the_result_is_of_the_table(case: Case) -> None:
    weights = WEIGHTS[case.kind]
    odd = case.result["odd"]
    assert (odd.vocab_size, odd.dim) == weights.shape
    assert odd.dtype == weights.dtype.name
    assert odd.original_nbytes == weights.nbytes


def test_the_budget_is_kept_or_at_least_no_table_grows(case: Case) -> None:
    if budget_for(case.codec, 6) is None:
        assert all(coded.nbytes <= coded.original_nbytes for coded in case.result.values())
    else:
        assert case.result.compression_ratio >= 6


@in_every_metric
@pytest.mark.parametrize("name", CODECS)
def test_the_same_seed_gives_the_same_file(name: str, in_nats: bool, tmp_path: Path) -> None:
    for path in (tmp_path / "a", tmp_path / "b"):
        compress(name, "not contiguous", in_nats).save(path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_inputs_are_not_changed(case: Case) -> None:
    assert case.finest.vocab_size == len(WEIGHTS[case.kind])
    assert case.weights.tobytes() == WEIGHTS[case.kind].tobytes()
    tail = heavy_tail(len(case.weights))
    assert np.array_equal(case.frequencies, tail[::-1] if case.in_nats else tail)


def test_options_state_bytes_and_loss_of_the_coded_field(case: Case) -> None:
    last = len(case.offered) - 1
    assert case.finest.vocab_size == case.field.vocab_size
    for index in {0, last // 2} - {last}:
        case.encode(index)


# The same parameters as the fixture's, of which these are the first.
@pytest.mark.parametrize(
    "case", CASES[: len(cases(CLUSTERED))], ids=name_of, indirect=True, scope="module"
)
def test_rows_are_near_their_centroids(case: Case) -> None:
    one, metric, coded = case.field, case.metric, case.finest
    assert isinstance(coded, ClusteredField)
    root = np.eye(one.dim) if metric is None or case.name in EUCLIDEAN else metric.root
    rows, decoded = case.weights.astype(np.float64), coded.decode().astype(np.float64)
    centroids = coded.codebook.values.astype(np.float64) @ root
    least = (((rows @ root)[:, None] - centroids) ** 2).sum(axis=2).min(axis=1)
    error = (((rows - decoded) @ root) ** 2).sum(axis=1)
    rounding = np.linalg.norm(root, 2) ** 2 * (1e-5 * (rows**2).sum(axis=1) + 1e-12)
    assert np.all(error <= (1 + 1e-9) * least + rounding)


@in_every_metric
@pytest.mark.parametrize("name", CODECS)
def test_other_fields_change_nothing(name: str, in_nats: bool) -> None:
    if budget_for(CODECS[name], 6) is not None:
        pytest.skip("fields compete for this codec's budget")
    fields = [field("b", WEIGHTS["dim 1"]), field("a", WEIGHTS["ordinary"])]
    alone, both = (compress_fields(some, name, in_nats) for some in (fields[1:], fields))
    assert np.array_equal(alone["a"].decode(), both["a"].decode())
