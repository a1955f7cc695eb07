"""Moments and samples of a field from one pass over its rows; codes are learned from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import Reach, RowMap, exponent_of
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import passes_over
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.streaming.strata import Placing, sampled
from saec.tables.field import Field

__all__ = [
    "Moments",
    "Sample",
    "Survey",
    "lost_by_far_rows",
    "median_norm",
    "moments_of",
    "nats_of_far_rows",
    "near_survey",
    "row_map_of",
    "survey_of",
]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of weighted rows, float64: total weight, mean (dim,), and scatter matrix (dim, dim)
    about the mean."""

    weight: float
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The weighted covariance (dim, dim)."""
        return self.scatter / self.weight

    @classmethod
    def of(cls, rows: NDArray[Any], weights: NDArray[np.float64]) -> Moments:
        """The moments of ``rows`` (m, dim) with ``weights`` (m,)."""
        wide = rows.astype(np.float64)
        weight = float(weights.sum())
        if weight == 0.0:
            dim = rows.shape[1]
            return cls(0.0, np.zeros(dim), np.zeros((dim, dim)))
        mean = (weights / weight) @ wide
        wide -= mean
        return cls(weight, mean, (wide * weights[:, None]).T @ wide)

    @classmethod
    def join(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of the rows of all ``parts`` together (Chan, Golub and LeVeque 1983)."""
        weight = sum(part.weight for part in parts)
        if weight == 0.0:
            return parts[0]
        mean = np.add.reduce([part.mean * (part.weight / weight) for part in parts])
        away = [part.mean - mean for part in parts]
        scatter = np.add.reduce(
            [
                part.scatter + part.weight * np.outer(gap, gap)
                for part, gap in zip(parts, away, strict=True)
            ]
        )
        return cls(weight, mean, scatter)


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of the rows of a stratum.

    blocks: pairs of rows (m, dim) float32 and their frequencies (m,) float64; weight: the sum of
    the frequencies of all rows of the stratum.
    """

    blocks: tuple[tuple[NDArray[np.float32], NDArray[np.float64]], ...] = ()
    weight: float = 0.0

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """All rows of the sample, (m, dim)."""
        return np.concatenate([rows for rows, _ in self.blocks])

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """The frequencies of :attr:`rows`, (m,)."""
        return np.concatenate([frequencies for _, frequencies in self.blocks])

    @property
    def standing_for_all(self) -> NDArray[np.float64]:
        """Frequencies (m,), scaled so that their sum is that of the stratum."""
        kept = float(self.frequencies.sum())
        if not kept:  # no row that occurs was drawn
            return np.full(len(self.frequencies), self.weight / len(self.frequencies))
        return self.frequencies / kept * self.weight

    @classmethod
    def join(cls, parts: Sequence[Sample]) -> Sample:
        """One sample with the blocks of all ``parts``, in their order."""
        blocks = tuple(block for part in parts for block in part.blocks)
        return cls(blocks, sum(part.weight for part in parts))


@dataclass(frozen=True, eq=False)
class Survey:
    """Results of one pass over a field.

    moments: of all rows; samples: one of each stratum; largest: the largest absolute value;
    longest: the largest norm of a row.
    """

    moments: Moments
    samples: tuple[Sample, ...]
    largest: float = 0.0
    longest: float = 0.0

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays by name, to be stored in a file."""
        arrays: dict[str, NDArray[Any]] = {
            "weight": np.array(self.moments.weight),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            "largest": np.array(self.largest),
            "longest": np.array(self.longest),
            "weights": np.array([sample.weight for sample in self.samples]),
        }
        for stratum, sample in enumerate(self.samples):
            arrays[f"rows {stratum}"] = sample.rows
            arrays[f"frequencies {stratum}"] = sample.frequencies
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Survey:
        """The survey of these :attr:`arrays`."""
        samples = tuple(
            Sample(((arrays[f"rows {stratum}"], arrays[f"frequencies {stratum}"]),), float(weight))
            for stratum, weight in enumerate(arrays["weights"])
        )
        moments = Moments(float(arrays["weight"]), arrays["mean"], arrays["scatter"])
        return cls(moments, samples, float(arrays["largest"]), float(arrays["longest"]))


@dataclass(frozen=True, eq=False)
class _Surveying:
    """A task that surveys a part.

    placing: of rows into strata; size: the most rows of a sample; seed: random seed of the draw.
    """

    placing: Placing
    size: int
    seed: int

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> Survey:
        weights, frequencies = part.weights(), part.frequencies()
        samples = [Sample()] * (len(self.placing.bounds) - 1)
        counts = np.diff(self.placing.bounds)
        for group in self.placing.groups(part, before):
            chosen = sampled(group, int(counts[group.stratum]), self.size, self.seed)
            # In order of ids, so that the sample does not depend on how the field is cut.
            rows = np.sort(np.arange(len(part))[group.rows][chosen])
            block = (weights[rows].astype(np.float32), frequencies[rows])
            weight = float(frequencies[group.rows].sum())
            samples[group.stratum] = Sample((block,) if len(chosen) else (), weight)
        largest = float(np.abs(weights).max())
        longest = _longest(weights, largest)
        return Survey(Moments.of(weights, frequencies), tuple(samples), largest, longest)


def survey_of(field: Field, placing: Placing, size: int, seed: int, space: Workspace) -> Survey:
    """Survey ``field`` in one pass, with up to ``size`` rows of each stratum of ``placing``."""
    kept = space.recalled("survey", field.name)
    if kept is None:
        task = _Surveying(placing, size, seed)
        survey = passes_over(field.parts, space).run(task, _joined, counter=placing)
        kept = space.remembered("survey", field.name, survey.arrays)
    return Survey.of_arrays(kept)


def moments_of(
    field: Field, row_map: RowMap | None = None, space: Workspace = IN_MEMORY
) -> Moments:
    """Moments of the rows, clipped by ``row_map`` and weighted by frequency, from one pass."""
    return passes_over(field.parts, space).run(_TakeMoments(row_map or RowMap()), Moments.join)


@dataclass(frozen=True, eq=False)
class _TakeMoments:
    """A task that returns the moments of a part."""

    row_map: RowMap

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> Moments:
        frequencies = part.frequencies()
        return Moments.of(self.row_map.near(part.weights(), frequencies), frequencies)


def row_map_of(
    survey: Survey, bounds: NDArray[np.int64], root: NDArray[np.float64] | None
) -> RowMap:
    """The map from rows to points: it scales rows to size one and clips those far from nearly all
    others.

    Args:
        survey: of the field.
        bounds: (strata + 1,) int64, bounds of the strata of its samples.
        root: (dim, dim) square root of the metric, or None.
    """
    exponent = exponent_of(survey.largest)
    samples = [
        (sample, np.full(len(sample.rows), count / len(sample.rows)))
        for sample, count in zip(survey.samples, np.diff(bounds), strict=True)
        if sample.blocks
    ]
    rows = np.concatenate([sample.rows for sample, _ in samples])
    weights = np.concatenate([sample.standing_for_all for sample, _ in samples])
    counts = np.concatenate([each for _, each in samples])
    reach = Reach.of(np.ldexp(rows, -exponent), weights, counts, root)
    if reach is not None and reach.holds(float(np.ldexp(survey.longest, -exponent)), root):
        reach = None
    return RowMap(exponent, root, reach)


def median_norm(survey: Survey, bounds: NDArray[np.int64]) -> float:
    """The median norm of a field's rows, estimated from the samples of ``survey``.

    ``bounds`` (strata + 1,) int64 are those of the samples' strata.
    """
    samples = [
        (np.linalg.norm(sample.rows.astype(np.float64), axis=1), count / len(sample.rows))
        for sample, count in zip(survey.samples, np.diff(bounds), strict=True)
        if sample.blocks
    ]
    norms = np.concatenate([own for own, _ in samples])
    order = np.argsort(norms)
    covered = np.cumsum(np.concatenate([np.full(len(own), each) for own, each in samples])[order])
    return float(norms[order[np.searchsorted(covered, covered[-1] / 2)]])


def lost_by_far_rows(survey: Survey, row_map: RowMap) -> float:
    """The squared distance by which clipping moves far rows, weighted by frequency, in the unit of
    points; estimated from the samples of ``survey``."""
    return sum(
        float(sample.standing_for_all @ row_map.pulled(sample.rows, sample.frequencies))
        for sample in survey.samples
    )


def nats_of_far_rows(survey: Survey, row_map: RowMap, total: float) -> float:
    """:func:`lost_by_far_rows` in nats per occurrence; ``total`` is the number of all lookups."""
    return lost_by_far_rows(survey, row_map) * 4.0**row_map.exponent / (2 * total)


def near_survey(field: Field, survey: Survey, row_map: RowMap, space: Workspace) -> Survey:
    """``survey`` with rows clipped by ``row_map``; takes a pass over the field if any may be
    far."""
    if row_map.reach is None:
        return survey
    samples = tuple(
        replace(
            sample,
            blocks=tuple(
                (row_map.near(rows, frequencies), frequencies)
                for rows, frequencies in sample.blocks
            ),
        )
        for sample in survey.samples
    )
    return replace(survey, moments=moments_of(field, row_map, space), samples=samples)


def _longest(rows: NDArray[Any], largest: float) -> float:
    """The largest norm of ``rows`` (m, dim), whose largest absolute value is ``largest``."""
    if not largest:
        return 0.0
    scaled = np.ldexp(rows.astype(np.float32), -exponent_of(largest))
    return float(np.sqrt(np.einsum("nd,nd->n", scaled, scaled).max())) * 2.0 ** exponent_of(largest)


def _joined(parts: Sequence[Survey]) -> Survey:
    strata = zip(*(part.samples for part in parts), strict=True)
    return Survey(
        Moments.join([part.moments for part in parts]),
        tuple(Sample.join(samples) for samples in strata),
        max(part.largest for part in parts),
        max(part.longest for part in parts),
    )
