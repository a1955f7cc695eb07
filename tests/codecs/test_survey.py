"""A survey of a field: moments by hand and against numpy, and samples of its rows."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from coding_calls import offers
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from placed_rows import in_parts, placed

from saec.clustering.headtail import ranked
from saec.codecs.axes.codec import Axes
from saec.codecs.moments_and_samples import Moments, Sample, Survey, moments_of, survey_of
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.streaming.strata import ByRank, InOrder, Placing
from saec.tables.field import Field


def test_moments_by_hand() -> None:
    # Mean (3 x 0 + 1 x 4) / 4 = 1; scatter 3 x 1 + 1 x 9 = 12, and twice that across.
    moments = Moments.of(np.array([[0, 0], [4, 8]], np.float32), np.array([3.0, 1]))
    assert moments.weight == 4
    assert moments.mean.tolist() == [1, 2]
    assert moments.scatter.tolist() == [[12, 24], [24, 48]]
    assert moments.covariance.tolist() == [[3, 6], [6, 12]]


def test_joined_moments_by_hand() -> None:
    one = Moments.of(np.array([[0, 0]], np.float32), np.array([3.0]))
    none = Moments.of(np.array([[99, 99]], np.float32), np.array([0.0]))
    two = Moments.of(np.array([[4, 8]], np.float32), np.array([1.0]))
    joined = Moments.join([none, one, none, two])
    assert joined.mean.tolist() == [1, 2]
    assert joined.scatter.tolist() == [[12, 24], [24, 48]]
    nothing = Moments.join([none, none])
    assert (nothing.weight, nothing.mean.tolist()) == (0, [0, 0])
    assert Moments.join([nothing, one]).weight == 3


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    part_rows=st.integers(1, 20),
    far=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_moments_of_any_parts_are_those_of_numpy(
    seed: int, count: int, part_rows: int, far: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((count, 3)) + far).astype(np.float32)
    frequencies = rng.integers(0, 4, count).astype(np.float64)
    frequencies[rng.integers(count)] = 2
    moments = moments_of(in_parts(Field("f", rows, frequencies), part_rows))
    wide = rows.astype(np.float64)
    assert moments.weight == frequencies.sum()
    assert moments.mean == pytest.approx(np.average(wide, axis=0, weights=frequencies))
    about = wide - np.average(wide, axis=0, weights=frequencies)
    expected = (about * frequencies[:, None]).T @ about
    assert moments.scatter == pytest.approx(expected, rel=1e-9, abs=1e-9)


def field_of(rng: np.random.Generator, count: int = 1000, dtype: object = np.float32) -> Field:
    rows = np.arange(2 * count).reshape(count, 2) % 251
    return Field("f", rows.astype(dtype), rng.permutation(np.ceil(900 / np.arange(1, count + 1))))


def placing_of(field: Field, kind: str) -> Placing:
    bounds = np.array([0, 64, 256, 1000])
    if kind == "in order":
        return InOrder(bounds)
    return ByRank.of(field.census, bounds, "keep" if kind == "keep" else "frequency")


def as_set(sample: Sample) -> set[tuple[float, ...]]:
    return {
        (*row, frequency)
        for row, frequency in zip(sample.rows.tolist(), sample.frequencies.tolist(), strict=True)
    }


@pytest.mark.parametrize("kind", ["in order", "keep", "frequency"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_samples_are_from_their_strata_for_any_parts(
    kind: str, dtype: object, rng: np.random.Generator
) -> None:
    field = field_of(rng, dtype=dtype)
    whole = survey_of(field, placing_of(field, kind), 100, 7, IN_MEMORY)
    strata = placed(field, placing_of(field, kind))
    for sample, ids in zip(whole.samples, strata, strict=True):
        assert len(sample.rows) == min(100, len(ids))
        assert sample.rows.dtype == np.float32
        assert sample.weight == field.frequencies[ids].sum()
        assert float(sample.standing_for_all.sum()) == pytest.approx(sample.weight)
        known = zip(field.weights[ids].tolist(), field.frequencies[ids].tolist(), strict=True)
        assert as_set(sample) <= {(*row, frequency) for row, frequency in known}
    for part_rows in (1, 77, 500):
        parted = in_parts(field, part_rows)
        found = survey_of(parted, placing_of(parted, kind), 100, 7, IN_MEMORY)
        assert found.moments.mean == pytest.approx(whole.moments.mean, rel=1e-12)
        for one, other in zip(found.samples, whole.samples, strict=True):
            assert one.weight == other.weight
            assert np.array_equal(one.rows, other.rows)
            assert np.array_equal(one.frequencies, other.frequencies)
    another = survey_of(field, placing_of(field, kind), 100, 8, IN_MEMORY)
    assert as_set(another.samples[2]) != as_set(whole.samples[2])


def test_a_sample_does_not_keep_its_part_in_memory(rng: np.random.Generator) -> None:
    field = field_of(rng)
    samples = survey_of(field, ranked(field, 500), 10, 0, IN_MEMORY).samples
    assert samples
    assert all(sample.blocks for sample in samples)
    for sample in samples:
        for rows, frequencies in sample.blocks:
            for array in (rows, frequencies):
                owner = array if array.base is None else array.base
                assert owner.nbytes <= 10 * 8


def test_scaled_frequencies_of_a_sample_by_hand() -> None:
    def sample(frequencies: list[float], weight: float) -> NDArray[np.float64]:
        rows = np.zeros((len(frequencies), 1), np.float32)
        return Sample(((rows, np.array(frequencies)),), weight).standing_for_all

    assert sample([1, 3, 0], 40).tolist() == [10, 30, 0]
    assert sample([0, 0], 0).tolist() == [0, 0]
    # No row that occurs was drawn: any of them may be one.
    assert sample([0, 0, 0, 0], 10).tolist() == [2.5] * 4
    assert sample([5e-324, 0], 1e300).tolist() == [1e300, 0]


def test_a_tier_whose_sampled_rows_never_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saec.codecs.axes.codec._SAMPLED_ROWS", 20)
    frequencies = np.zeros(1000)
    frequencies[:260] = np.arange(260, 0, -1)
    rng = np.random.default_rng(0)
    field = Field("f", rng.standard_normal((1000, 4)).astype(np.float32), frequencies)
    for seed in range(5):
        offered = offers(Axes(), field, seed=seed)
        assert np.all(np.isfinite([option.distortion for option in offered]))


def same(a: Survey, b: Survey) -> None:
    assert a.moments.weight == b.moments.weight
    assert np.array_equal(a.moments.mean, b.moments.mean)
    assert np.array_equal(a.moments.scatter, b.moments.scatter)
    for one, other in zip(a.samples, b.samples, strict=True):
        assert one.weight == other.weight
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.frequencies, other.frequencies)
        assert one.rows.dtype == other.rows.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_survey_is_stored_and_loaded(
    dtype: object, tmp_path: Path, rng: np.random.Generator
) -> None:
    field = in_parts(field_of(rng, dtype=dtype), 90)
    placing = ranked(field, 300)
    first = survey_of(field, placing, 50, 7, IN_MEMORY)
    same(survey_of(field, placing, 50, 7, Workspace(tmp_path)), first)
    kept = sorted(path.name for path in tmp_path.iterdir())
    same(survey_of(field, placing, 50, 7, Workspace(tmp_path)), first)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
