"""One pass over a field that tells all of what its codes are learned from: moments and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.parts import Part
from saec.placing import Placing, sampled
from saec.table import Field
from saec.workspace import Workspace

__all__ = ["Moments", "Sample", "Survey", "moments_of", "survey_of"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Weight, mean (dim,) and scatter about it (dim, dim) of weighted rows, float64."""

    weight: float
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Weighted covariance (dim, dim)."""
        return self.scatter / self.weight

    @classmethod
    def of(cls, rows: NDArray[Any], weights: NDArray[np.float64]) -> Moments:
        """Of ``rows`` (m, dim) with ``weights`` (m,)."""
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
        """Of all the rows of ``parts`` (Chan, Golub and LeVeque 1983)."""
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
    """Rows of a stratum that stand for all of them.

    blocks: of rows (m, dim) float32 and their frequencies (m,); weight: sum of the frequencies of
    all rows of the stratum.
    """

    blocks: tuple[tuple[NDArray[np.float32], NDArray[np.float64]], ...] = ()
    weight: float = 0.0

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """All rows of the sample (m, dim)."""
        return np.concatenate([rows for rows, _ in self.blocks])

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Their frequencies (m,)."""
        return np.concatenate([frequencies for _, frequencies in self.blocks])

    @property
    def standing_for_all(self) -> NDArray[np.float64]:
        """Frequencies scaled so that they sum up to those of the stratum."""
        kept = float(self.frequencies.sum())
        if not kept:  # of those that occur none was drawn
            return np.full(len(self.frequencies), self.weight / len(self.frequencies))
        return self.frequencies / kept * self.weight

    @classmethod
    def join(cls, parts: Sequence[Sample]) -> Sample:
        """The samples of neighbours, one after the other."""
        blocks = tuple(block for part in parts for block in part.blocks)
        return cls(blocks, sum(part.weight for part in parts))


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a field after one pass: its moments, and a sample of each stratum."""

    moments: Moments
    samples: tuple[Sample, ...]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, to be kept in a file."""
        arrays: dict[str, NDArray[Any]] = {
            "weight": np.array(self.moments.weight),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            "weights": np.array([sample.weight for sample in self.samples]),
        }
        for stratum, sample in enumerate(self.samples):
            arrays[f"rows {stratum}"] = sample.rows
            arrays[f"frequencies {stratum}"] = sample.frequencies
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Survey:
        """The survey that has these :attr:`arrays`."""
        samples = tuple(
            Sample(((arrays[f"rows {stratum}"], arrays[f"frequencies {stratum}"]),), float(weight))
            for stratum, weight in enumerate(arrays["weights"])
        )
        moments = Moments(float(arrays["weight"]), arrays["mean"], arrays["scatter"])
        return cls(moments, samples)


@dataclass(frozen=True, eq=False)
class _Surveying:
    """A task that surveys a part. ``size``: rows of a sample; ``seed``: draws them."""

    placing: Placing
    size: int
    seed: int

    def __call__(self, part: Part, before: NDArray[np.int64]) -> Survey:
        weights, frequencies = part.weights(), part.frequencies()
        samples = [Sample()] * (len(self.placing.bounds) - 1)
        counts = np.diff(self.placing.bounds)
        for group in self.placing.groups(part, before):
            chosen = sampled(group, int(counts[group.stratum]), self.size, self.seed)
            # In order of their ids, so that the sample does not tell how the field was cut.
            rows = np.sort(np.arange(len(part))[group.rows][chosen])
            block = (weights[rows].astype(np.float32), frequencies[rows])
            weight = float(frequencies[group.rows].sum())
            samples[group.stratum] = Sample((block,) if len(chosen) else (), weight)
        return Survey(Moments.of(weights, frequencies), tuple(samples))


def survey_of(field: Field, placing: Placing, size: int, seed: int, space: Workspace) -> Survey:
    """Survey ``field`` in one pass, with up to ``size`` rows of each stratum of ``placing``."""

    def surveyed() -> dict[str, NDArray[Any]]:
        task = _Surveying(placing, size, seed)
        return field.passes.run(task, _joined, counter=placing).arrays

    return Survey.of_arrays(space.recalled("survey", field.name, surveyed))


def moments_of(field: Field) -> Moments:
    """Moments of the rows, weighted by frequency, from one pass."""
    return field.passes.run(_take_moments, Moments.join)


def _take_moments(part: Part, before: NDArray[np.int64]) -> Moments:
    return Moments.of(part.weights(), part.frequencies())


def _joined(parts: Sequence[Survey]) -> Survey:
    strata = zip(*(part.samples for part in parts), strict=True)
    return Survey(
        Moments.join([part.moments for part in parts]),
        tuple(Sample.join(samples) for samples in strata),
    )
