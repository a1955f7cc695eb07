"""Axes from end to end: stated bits and nats are right, and results do not depend on parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from coding_calls import encode as encode_checked
from coding_calls import lost_nats, offers
from numpy.typing import NDArray

import saec
from saec import BitsPerFeature, Field, MaxBytes, Ratio
from saec.artifact import entry_bytes
from saec.codecs.axes.codec import Axes
from saec.codecs.protocol import Option
from saec.compression.budget import Budget
from saec.errors import OptionError
from saec.format.tier_index import Order, TierIndex
from saec.format.tier_layout import tier_bounds
from saec.format.tiered_field import TieredField
from saec.tables.loss_metric import Metric


def table(rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """A table with most variance along a few rotated directions, and some heavy tails."""
    rng = np.random.default_rng([seed, rows, dim])
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    spread = 0.1 * np.logspace(0, -1.5, dim)
    return (rng.standard_t(5, (rows, dim)) * spread @ turn + 0.05).astype(np.float32)


def metric_of(dim: int, seed: int = 0) -> NDArray[np.float64]:
    turn, _ = np.linalg.qr(np.random.default_rng([seed, dim]).standard_normal((dim, dim)))
    return (turn * np.logspace(0, -2, dim)) @ turn.T


def zipf(rows: int) -> NDArray[np.float64]:
    return 1e4 / np.arange(1, rows + 1)


def field(rows: int, dim: int, name: str = "f", *, shuffled: bool = True) -> Field:
    frequencies = zipf(rows)
    if shuffled:
        frequencies = np.random.default_rng(rows).permutation(frequencies)
    return Field(name, table(rows, dim), frequencies)


def options(one: Field, metric: Metric | None, codec: Axes | None = None) -> Sequence[Option]:
    return offers(codec or Axes(), one, metric)


def encode(one: Field, option: Option, codec: Axes | None = None) -> TieredField:
    done: list[float] = []
    metric = option.choice.frame.metric  # type: ignore[attr-defined]
    coded = encode_checked(codec or Axes(), one, option.choice, metric, advance=done.append)
    assert isinstance(coded, TieredField)
    assert sum(done) == pytest.approx(1)
    assert 8 * entry_bytes(coded.entry) == option.bits
    return coded


def compress(
    fields: Sequence[Field], budget: Budget, codec: Axes | None = None, seed: int = 0
) -> saec.Compressed:
    metrics = {one.name: metric_of(one.dim) for one in fields}
    return saec.compress(fields, budget, codec, metrics=metrics, seed=seed, progress=False)


def test_order_is_checked() -> None:
    with pytest.raises(OptionError, match="order cannot be 'rank'; it is one of keep, frequency"):
        Axes(order="rank")  # type: ignore[arg-type]


@pytest.mark.parametrize("shuffled", [False, True])
def test_options_state_bytes_and_loss_of_the_coded_field(shuffled: bool) -> None:
    one = field(1400, 8, shuffled=shuffled)
    metric = Metric.of(metric_of(8), "f", 8)
    offered = options(one, metric)
    assert len(offered) > 60
    for option in offered[::12]:
        coded = encode(one, option)
        assert (coded.index is not None) == (shuffled and len(coded.layout.tiers) > 1)
        assert lost_nats(one, coded, metric) == pytest.approx(option.distortion, rel=0.05)
    bits = [option.bits for option in offered]
    lost = [option.distortion for option in offered]
    assert lost == sorted(lost, reverse=True)
    assert bits[-1] > 10 * bits[0]
    assert lost[-1] < 1e-4 * lost[0]


def test_without_a_metric_distortion_is_the_squared_error() -> None:
    one = field(700, 6)
    offered = options(one, None)
    assert len(offered) > 60
    for option in offered[::10]:
        error = encode(one, option).decode().astype(np.float64) - one.weights
        squared = float(one.frequencies @ np.square(error).sum(axis=1))
        assert option.distortion == pytest.approx(squared, rel=0.05)


def test_a_large_tier_is_measured_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    one, metric = field(3000, 5, shuffled=False), Metric.of(metric_of(5), "f", 5)
    monkeypatch.setattr("saec.codecs.axes.codec._SAMPLED_ROWS", 1000)
    monkeypatch.setattr("saec.codecs.axes.candidates._JOINT_LEARNED", 600)
    offered = options(one, metric)
    # The finest tables are overfitted to the few sampled rows.
    coarse = [option for option in offered if option.distortion > 0.01 * offered[0].distortion]
    assert len(coarse) > 40
    for option in coarse[::10]:
        lost = lost_nats(one, encode(one, option), metric)
        assert lost == pytest.approx(option.distortion, rel=0.25)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("order", ["keep", "frequency"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_results_do_not_depend_on_the_parts(
    shuffled: bool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, one = Axes(order), field(1400, 8, shuffled=shuffled)
    offered = options(one, Metric.of(metric_of(8), "f", 8), codec)
    for chosen in offered[::30]:
        whole = encode(one, chosen, codec)
        with monkeypatch.context() as patch:
            patch.setattr("saec.streaming.chunks._PART_VALUES", 8 * 150)
            other = field(1400, 8, shuffled=shuffled)
            assert len(other.parts) == 10
            parted = encode(other, chosen, codec)
        assert parted.tensors.keys() == whole.tensors.keys()
        for role, tensor in whole.tensors.items():
            assert np.array_equal(parted.tensors[role], tensor), role
        assert (parted.permutation is None) == (whole.permutation is None)
        if whole.permutation is not None:
            assert np.array_equal(parted.permutation, whole.permutation)


BUDGETS: list[Budget] = [Ratio(20), MaxBytes(9000), BitsPerFeature(6)]


@pytest.fixture(scope="module", params=["keep", "frequency"])
def measured(request: pytest.FixtureRequest) -> saec.Priced:
    """Three fields, measured once for all budgets."""
    fields = [field(1500, 16, "user"), field(400, 16, "item"), field(5, 16, "age")]
    metrics = {one.name: metric_of(one.dim) for one in fields}
    return saec.measure(fields, Axes(request.param), metrics=metrics, progress=False)


@pytest.mark.parametrize("budget", BUDGETS, ids=repr)
def test_budgets_are_met_and_used(measured: saec.Priced, budget: Budget, tmp_path: Path) -> None:
    fields = measured.fields
    result = saec.compress(measured, budget)
    limit = budget.max_bytes(result.original_nbytes, 1905)
    result.save(tmp_path / "a.saec")
    assert 0.9 * limit < (tmp_path / "a.saec").stat().st_size == result.nbytes <= limit
    lost = sum(
        lost_nats(one, result[one.name], Metric.of(metric_of(16), one.name, 16)) for one in fields
    )
    assert result.predicted_loss_increase == pytest.approx(lost)
    loaded = saec.load(tmp_path / "a.saec")
    assert loaded.predicted_loss_increase == result.predicted_loss_increase
    for name, coded in result.items():
        assert np.array_equal(loaded[name].decode(), coded.decode())


def test_a_larger_budget_never_predicts_more_loss() -> None:
    fields = [field(1500, 8, "user"), field(400, 8, "item")]
    metrics = {one.name: metric_of(8) for one in fields}
    measured = saec.measure(fields, metrics=metrics, progress=False)
    ratios = (50, 40, 30, 20, 12, 8, 5)
    lost = [saec.compress(measured, Ratio(r)).predicted_loss_increase for r in ratios]
    assert None not in lost
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < 0.1 * lost[0]


def saved(result: saec.Compressed, path: Path) -> bytes:
    result.save(path / "a.saec")
    return (path / "a.saec").read_bytes()


@pytest.mark.exhaustive
def test_equal_seeds_give_equal_results(tmp_path: Path) -> None:
    fields = [field(1500, 8)]
    first = saved(compress(fields, Ratio(20), seed=3), tmp_path)
    assert saved(compress(fields, Ratio(20), seed=3), tmp_path) == first


def dealt(rows: int, dim: int) -> tuple[Field, Field, NDArray[np.int64]]:
    """A sorted field; the same field with ids assigned to tiers at random; the sorted id of each.

    Within a tier rows keep their order, since sums and samples of rows depend on it.
    """
    bounds = tier_bounds(rows)
    tiers = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    tiers = np.random.default_rng(1).permutation(tiers)
    old = np.empty(rows, dtype=np.int64)
    old[np.argsort(tiers, kind="stable")] = np.arange(rows)
    ordered = field(rows, dim, shuffled=False)
    return ordered, Field("f", ordered.weights[old], ordered.frequencies[old]), old


@pytest.mark.exhaustive
def test_shuffled_ids_change_only_the_index() -> None:
    ordered, shuffled, old = dealt(1400, 8)
    metric = Metric.of(metric_of(8), "f", 8)
    plain, kept = options(ordered, metric), options(shuffled, metric)
    renumbered = options(shuffled, metric, Axes("frequency"))
    assert len(plain) == len(renumbered)
    # Layouts with kept ids may have fewer tiers. With all tiers, only the index is added.
    most = len(tier_bounds(1400)) - 1
    whole = [option for option in kept if len(option.choice.layered.ways) == most]
    for b in whole[::20]:
        a = min(plain, key=lambda option: abs(option.distortion - b.distortion))
        assert a.distortion == pytest.approx(b.distortion, rel=1e-6)
        index = TierIndex.planned_bytes(1400, most)
        assert b.bits - a.bits == pytest.approx(8 * index, abs=800)
        table, other = encode(ordered, a).decode(), encode(shuffled, b)
        assert other.decode() == pytest.approx(table[old], abs=1e-4)
        assert other.permutation is None
    # Means of the rows differ by float64 rounding, since rows are added in another order.
    for a, c in list(zip(plain, renumbered, strict=True))[::20]:
        assert a.bits == c.bits
        assert a.distortion == pytest.approx(c.distortion, rel=1e-6)
        table = encode(ordered, a).decode()
        coded = encode(shuffled, c, Axes("frequency"))
        assert coded.index is None
        assert coded.renumbered
        assert coded.permutation is not None
        assert np.array_equal(old[coded.permutation], np.arange(1400))
        assert coded.decode() == pytest.approx(table, abs=1e-4)
        assert np.array_equal(coded.lookup([0, 1399]), coded.decode()[[0, 1399]])


def test_sorted_ids_are_not_renumbered() -> None:
    one = field(300, 4, shuffled=False)
    coded = encode(one, options(one, None, Axes("frequency"))[-1], Axes("frequency"))
    assert not coded.renumbered
    assert coded.permutation is None


@pytest.mark.exhaustive
def test_frequent_rows_get_more_bits() -> None:
    one = field(3000, 8)
    offered = options(one, Metric.of(metric_of(8), "f", 8))
    assert len(offered) > 100
    for option in offered[10:-60:30]:
        layout = encode(one, option).layout
        widths = [sum(layout.widths(tier)) for tier in range(len(layout.tiers))]
        assert all(a + 4 >= b for a, b in pairwise(widths))
        assert widths[0] > widths[-1]


def test_directions_of_large_metric_get_more_bits() -> None:
    weights = np.random.default_rng(0).standard_normal((900, 6)).astype(np.float32)
    one = Field("f", weights, np.ones(900))
    direction = np.array([3, 0, 0, 4, 0, 0]) / 5
    metric = Metric.of(np.outer(direction, direction), "f", 6)
    for option in options(one, metric):
        coded = encode(one, option)
        error = coded.decode() - weights
        along = np.square(error @ direction).mean()
        across = np.square(error - np.outer(error @ direction, direction)).sum(axis=1).mean() / 5
        if along < 0.05:
            break
    assert along < 0.05
    assert across > 0.9
    first = coded.axes[0] / np.linalg.norm(coded.axes[0].astype(np.float64))
    assert abs(first @ direction) > 0.99


KINDS: dict[str, Field] = {
    "one row": Field("f", table(1, 8), np.ones(1)),
    "two rows": Field("f", table(2, 8), [3, 1]),
    "constant rows": Field("f", np.full((400, 8), 0.1, np.float32), zipf(400)),
    "few distinct rows": Field("f", np.repeat(table(5, 8), 200, axis=0), zipf(1000)),
    "dim 1": Field("f", table(900, 1), zipf(900)),
    "dim 512": Field("f", table(90, 512), zipf(90)),
    "tail never seen": Field("f", table(900, 8), np.where(np.arange(900) < 256, zipf(900), 0)),
    "one row seen": Field("f", table(300, 8), np.eye(300)[17]),
    "far row never seen": Field(
        "f", np.concatenate([table(299, 8), np.full((1, 8), 1e6, np.float32)]), [*zipf(299), 0]
    ),
    "far row hardly seen": Field(
        "f", np.concatenate([table(299, 8), np.full((1, 8), 1e6, np.float32)]), [*zipf(299), 1e-9]
    ),
    "float16": Field("f", table(900, 8).astype(np.float16), zipf(900)),
    "bfloat16": Field("f", table(900, 8).astype(ml_dtypes.bfloat16), zipf(900)),
    "huge": Field("f", (table(300, 8) * 1e15).astype(np.float32), zipf(300)),
    "tiny": Field("f", (table(300, 8) * 1e-15).astype(np.float32), zipf(300)),
}


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_every_kind(
    kind: str, with_metric: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = KINDS[kind]
    metric = Metric.of(metric_of(one.dim), "f", one.dim) if with_metric else None
    offered = options(one, metric)
    assert offered
    unit = 1.0 if with_metric else 2 * float(one.frequencies.sum())
    rounding = 1e-9 * float(np.square(one.weights.astype(np.float64)).max())
    for option in {0: offered[0], 1: offered[len(offered) // 2], 2: offered[-1]}.values():
        coded = encode(one, option)
        assert np.isfinite(coded.decode()).all()
        lost = lost_nats(one, coded, metric or Metric.euclidean(one.dim)) * unit
        assert lost == pytest.approx(option.distortion, rel=0.05, abs=rounding * unit)
    assert not caplog.records


def test_rows_of_frequency_zero_decode_to_the_mean() -> None:
    one = KINDS["tail never seen"]
    coded = encode(one, options(one, None)[-1])
    mean = (one.frequencies / one.frequencies.sum()) @ one.weights
    assert coded.layout.tiers[-1] == ()
    assert coded.decode()[256:] == pytest.approx(np.tile(mean, (644, 1)), rel=1e-3)


def test_memory_maps_equal_arrays(tmp_path: Path) -> None:
    one = field(900, 8)
    one.weights.tofile(tmp_path / "weights")
    mapped = np.memmap(tmp_path / "weights", np.float32, "r", shape=(900, 8))
    other = Field("f", mapped, one.frequencies)
    for a, b in list(zip(options(one, None), options(other, None), strict=True))[::50]:
        assert np.array_equal(encode(one, a).codes, encode(other, b).codes)


THREADS = """
import hashlib
import numpy as np
from saec import Field
from saec.codecs.axes.codec import Axes
from saec.tables.loss_metric import Metric
from saec.streaming.map_reduce import silent
from saec.streaming.scratch import IN_MEMORY

for rows, dim in ((3000, 16), (80, 120)):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, dim)) * np.linspace(1, 0.1, dim)
    field = Field("f", weights.astype(np.float32), rng.permutation(1e4 / np.arange(1, rows + 1)))
    metric = Metric(np.diag(np.linspace(1, 0.01, dim)))
    options = Axes().options(field, metric, np.random.default_rng(0), IN_MEMORY)
    print([option.bits for option in options])
    for option in options[::100]:
        coded = Axes().encode(field, option.choice, np.random.default_rng(0), silent, IN_MEMORY)
        print(coded.lost)
        print(*(hashlib.md5(t.tobytes()).hexdigest() for t in coded.field.tensors.values()))
"""


@pytest.mark.exhaustive
def test_threads_change_nothing() -> None:
    outputs = []
    for threads in ("1", "2"):
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        outputs.append(
            subprocess.run(
                [sys.executable, "-c", THREADS],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(outputs[0].splitlines()) > 8
    assert outputs[0] == outputs[1]
