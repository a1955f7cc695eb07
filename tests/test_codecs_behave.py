"""What every codec, ours and each baseline, must do on every kind of table."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import saec
from saec import Clusters, Field, Ratio
from saec.artifact import entry_bytes
from saec.baselines import BASELINES
from saec.budget import Budget
from saec.codecs.codec import Codec
from saec.compressed import ClusteredField

CODECS: dict[str, Codec] = {
    "clusters": Clusters(),
    "clusters-full": Clusters(
        clusters=0.01, head_share=1.0, weighting=0.0, codebook="float32", radius_share=1.0
    ),
    "clusters-half": Clusters(clusters=30, codebook="float16", seeding="random"),
    **{name: make() for name, make in BASELINES.items()},
}

# These find the nearest of all centroids; the others may take a near one.
EXACT = [name for name in CODECS if name not in ("clusters", "clusters-half")]


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

pytestmark = pytest.mark.parametrize("name", CODECS)
every_table = pytest.mark.parametrize("kind", WEIGHTS)


def budget_for(codec: Codec, ratio: float) -> Budget | None:
    """None for a codec that has one size only."""
    offers = codec.options(field("f", WEIGHTS["ordinary"]), np.random.default_rng(0))
    return None if len(offers) == 1 else Ratio(ratio)


def compress(name: str, kind: str, seed: int = 0) -> saec.Compressed:
    """An ordinary table, which pays for the header, and one of the given kind."""
    fields = [field("ordinary", WEIGHTS["ordinary"]), field("odd", WEIGHTS[kind])]
    codec = CODECS[name]
    return saec.compress(fields, budget_for(codec, 6), codec, seed=seed, progress=False)


@every_table
def test_the_file_is_as_large_as_said_and_decodes_to_the_same(
    name: str, kind: str, tmp_path: Path
) -> None:
    result = compress(name, kind)
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == result.nbytes == loaded.nbytes
    for key, before in result.items():
        decoded = loaded[key].decode()
        assert decoded.shape == (before.vocab_size, before.dim)
        assert np.array_equal(decoded, before.decode())
        ids = np.array([0, before.vocab_size - 1, 0])
        assert np.array_equal(loaded[key].lookup(ids), decoded[ids])


@every_table
def test_the_result_is_of_the_table(name: str, kind: str) -> None:
    weights = WEIGHTS[kind]
    odd = compress(name, kind)["odd"]
    assert (odd.vocab_size, odd.dim) == weights.shape
    assert odd.dtype == weights.dtype.name
    assert odd.original_nbytes == weights.nbytes


@every_table
def test_the_budget_is_kept_or_at_least_no_table_grows(name: str, kind: str) -> None:
    result = compress(name, kind)
    if budget_for(CODECS[name], 6) is None:
        assert all(coded.nbytes <= coded.original_nbytes for coded in result.values())
    else:
        assert result.compression_ratio >= 6


@every_table
def test_the_same_seed_gives_the_same_file(name: str, kind: str, tmp_path: Path) -> None:
    for copy in ("a", "b"):
        compress(name, kind, seed=3).save(tmp_path / copy)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@every_table
def test_inputs_are_not_changed(name: str, kind: str) -> None:
    weights, frequencies = WEIGHTS[kind].copy(order="K"), np.arange(1.0, len(WEIGHTS[kind]) + 1)
    weights.flags.writeable = frequencies.flags.writeable = False
    codec, rng = CODECS[name], np.random.default_rng(0)
    one = Field("f", weights, frequencies)
    codec.encode(one, codec.options(one, rng)[-1].choice, rng, lambda _: None)
    assert weights.tobytes() == WEIGHTS[kind].tobytes()
    assert np.array_equal(frequencies, np.arange(1.0, len(weights) + 1))


@every_table
def test_what_is_on_offer_costs_no_more_than_its_price(name: str, kind: str) -> None:
    codec, one = CODECS[name], field("f", WEIGHTS[kind])
    offers = codec.options(one, np.random.default_rng(0))
    for option in {0: offers[0], 1: offers[len(offers) // 2], 2: offers[-1]}.values():
        done: list[float] = []
        coded = codec.encode(one, option.choice, np.random.default_rng(0), done.append)
        assert 8 * entry_bytes(coded.entry) <= option.bits
        assert 0 < sum(done) <= 1 + 1e-9


@every_table
def test_rows_are_near_their_centroids(name: str, kind: str) -> None:
    codec, one = CODECS[name], field("f", WEIGHTS[kind])
    offers = codec.options(one, np.random.default_rng(0))
    coded = codec.encode(one, offers[-1].choice, np.random.default_rng(0), lambda _: None)
    assert isinstance(coded, ClusteredField)
    rows, decoded = one.weights.astype(np.float64), coded.decode().astype(np.float64)
    squares = ((rows[:, None] - coded.codebook.values.astype(np.float64)) ** 2).sum(axis=2)
    error = ((rows - decoded) ** 2).sum(axis=1)
    least = squares.min(axis=1)
    rounding = 1e-5 * (rows**2).sum(axis=1) + 1e-12
    if name in EXACT:
        assert np.all(error <= least + rounding)
    assert error.sum() <= 1.5 * (least + rounding).sum()


def test_other_fields_change_nothing(name: str) -> None:
    if budget_for(CODECS[name], 6) is not None:
        pytest.skip("fields compete for this codec's budget")
    alone = saec.compress([field("a", WEIGHTS["ordinary"])], None, CODECS[name], progress=False)
    both = saec.compress(
        [field("b", WEIGHTS["dim 1"]), field("a", WEIGHTS["ordinary"])],
        None,
        CODECS[name],
        progress=False,
    )
    assert np.array_equal(alone["a"].decode(), both["a"].decode())
