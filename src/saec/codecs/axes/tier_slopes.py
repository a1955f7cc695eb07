"""The first-order change of the loss on unseen rows when a tier's coordinates change.

Labels tell little of a single code. So the gradient of the loss along an axis is taken to be a
function of a row's coordinate on it that has three numbers to measure: a line with one slope near
the mean and another one far from it. docs/mathematics.md has the derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import passes_over
from saec.streaming.scratch import Workspace
from saec.streaming.strata import Placing
from saec.tables.field import Field
from saec.tables.unseen_gradients import UnseenGradients

__all__ = ["AxisFunctions", "Estimate", "JoinedMoves", "Moves", "plain_functions", "slopes_of"]

_LEAST_SQUARE = 1e-6  # of a function's mean square that those before it leave, or it is left out

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Several numbers, each estimated from two halves of the unseen rows.

    halves: (2, ...), their mean is the estimate; variance: (...), of that mean.
    """

    halves: Floats
    variance: Floats

    @classmethod
    def of(cls, parts: Floats) -> Estimate:
        """Of sums over features, from the ``parts`` (2, features, ...) of each in both halves.

        But for noise, a feature's parts are equal in both halves: their differences tell its
        variance.
        """
        variance = np.square(parts[0] - parts[1]).sum(axis=0) / 4
        return cls(parts.sum(axis=1), variance)

    @classmethod
    def side_by_side(cls, parts: Sequence[Estimate]) -> Estimate:
        """All numbers of ``parts``, next to each other in the last dimension."""
        halves = np.concatenate([part.halves for part in parts], axis=-1)
        return cls(halves, np.concatenate([part.variance for part in parts], axis=-1))

    @property
    def value(self) -> Floats:
        """The estimate from both halves."""
        mean: Floats = self.halves.mean(axis=0)
        return mean

    def believed(self, half: int | None = None) -> Floats:
        """The estimate, from one half or both, times the share of its square that is not noise."""
        value = self.value if half is None else self.halves[half]
        noise = self.variance * (1 if half is None else 2)
        square = np.square(value)
        kept = np.maximum(square - noise, 0.0)
        result: Floats = value * np.divide(kept, square, out=np.zeros_like(kept), where=square > 0)
        return result


@dataclass(frozen=True, eq=False)
class AxisFunctions:
    """Three functions of the coordinates on each axis, orthonormal under a tier's rows: linear,
    constant, and linear up to one root mean square.

    widths: (rank,) root mean squares; combined: (rank, 3, 3) makes the functions of the plain ones;
    each is made of those up to its own.
    """

    widths: Floats
    combined: Floats

    @classmethod
    def of(cls, coordinates: NDArray[np.float32], weights: Floats) -> AxisFunctions:
        """For rows at ``coordinates`` (m, rank) with ``weights`` (m,) whose sum is 1."""
        widths = np.sqrt(weights @ np.square(coordinates, dtype=np.float64))
        plain = plain_functions(coordinates, widths)
        combined = [
            _orthonormal((own * weights[:, None]).T @ own) for own in plain.transpose(1, 0, 2)
        ]
        return cls(widths, np.array(combined).reshape(-1, 3, 3))

    def at(self, coordinates: NDArray[np.float32]) -> Floats:
        """The functions of ``coordinates`` (m, rank), (m, rank, 3)."""
        values: Floats = np.einsum(
            "maj,ajk->mak", plain_functions(coordinates, self.widths), self.combined
        )
        return values


def plain_functions(coordinates: NDArray[np.float32], widths: Floats) -> Floats:
    """Functions of coordinates (m, axes) of these ``widths`` (axes,), (m, axes, 3): the coordinate
    over its width, 1, and the first one clipped to -1 to 1."""
    scaled = coordinates / np.where(widths > 0, widths, 1.0)
    return np.stack([scaled, np.ones_like(scaled), scaled.clip(-1, 1)], axis=-1)


def _orthonormal(products: Floats) -> Floats:
    """Columns that combine functions of these mean ``products`` into orthonormal ones (Gram and
    Schmidt); zero where a function is a combination of those before it."""
    result = np.zeros_like(products)
    for own in range(len(products)):
        column = np.eye(len(products))[own]
        column -= result @ (result.T @ products[:, own])
        square = float(column @ products @ column)
        if square > _LEAST_SQUARE * products[own, own]:
            result[:, own] = column / np.sqrt(square)
    return result


@dataclass(frozen=True, eq=False)
class Moves:
    """What codes do to a tier's rows, as told by some of these.

    coordinates: (rank, m) float32; weighted: (rank, 3, m), functions times the rows' weights.
    """

    coordinates: NDArray[np.float32]
    weighted: Floats

    @classmethod
    def of(cls, shapes: AxisFunctions, coordinates: NDArray[np.float32], weights: Floats) -> Moves:
        """Of rows at ``coordinates`` (m, rank) with ``weights`` (m,) whose sum is 1."""
        weighted = shapes.at(coordinates) * weights[:, None, None]
        # An axis at a time is asked for.
        return cls(
            np.ascontiguousarray(coordinates.T), np.ascontiguousarray(weighted.transpose(1, 2, 0))
        )

    def by(self, coder: Coder, scale: Floats, first: int) -> Floats:
        """Mean products of the functions and what ``coder``, of the axes from ``first`` on, adds to
        the coordinates; (axes, 3).

        scale: (axes,), as of :meth:`.quantizer.Coder.assign`.
        """
        axes = slice(first, first + coder.part.axes)
        own = np.ascontiguousarray(self.coordinates[axes].T)
        added = coder.decode(coder.assign(own, scale)).astype(np.float64) - own
        products: Floats = np.einsum(
            "am,akm->ak", np.ascontiguousarray(added.T), self.weighted[axes]
        )
        return products


@dataclass(frozen=True, eq=False)
class JoinedMoves:
    """What codes do to several tiers that are coded as one: to each, by its own functions."""

    tiers: tuple[Moves, ...]

    def by(self, coder: Coder, scale: Floats, first: int) -> Floats:
        """(axes, 3 x tiers), those of :meth:`Moves.by` of all tiers next to each other."""
        return np.concatenate([tier.by(coder, scale, first) for tier in self.tiers], axis=-1)


def slopes_of(
    field: Field,
    unseen: UnseenGradients,
    frame: Frame,
    placing: Placing,
    row_map: RowMap,
    shapes: Sequence[AxisFunctions],
    space: Workspace,
) -> list[Estimate]:
    """For each tier the mean products (rank, 3) of gradients on unseen rows and functions, in nats
    per unit of the coordinates; in one pass over the field's rows.

    A code of :meth:`Moves.by` changes the loss by the sum of its products with these.
    """
    task = _TakeSlopes(unseen, frame, placing, row_map, tuple(shapes))
    return passes_over(field.parts, space).run(task, _added, counter=placing)


@dataclass(frozen=True, eq=False)
class _TakeSlopes:
    """A task: the estimates from a part's rows, by tier."""

    unseen: UnseenGradients
    frame: Frame
    placing: Placing
    row_map: RowMap
    shapes: tuple[AxisFunctions, ...]

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> list[Estimate]:
        halves = [half.between(part.start, part.stop) for half in self.unseen.halves]
        ids = np.union1d(halves[0].ids, halves[1].ids)
        rows = ids - part.start
        counts = part.frequencies()[rows]
        near = self.row_map.near(part.weights()[rows], counts)
        coordinates = self.frame.coordinates(near, self.frame.rank)
        axes = self.frame.stored[:-1].astype(np.float64) * (2 / self.unseen.examples)
        gradients = np.zeros((2, *coordinates.shape))
        for half, own in enumerate(halves):
            gradients[half, np.searchsorted(ids, own.ids)] = own.sums.astype(np.float64) @ axes.T
        tiers = np.empty(len(part), dtype=np.int64)
        for group in self.placing.groups(part, before):
            tiers[group.rows] = group.stratum
        # Functions are of rows by their frequencies. One that never occurred in training, as that
        # of unknown keys, may have most of the lookups, and would be taken for its whole tier.
        chosen = [(tiers[rows] == tier) & (counts > 0) for tier in range(len(self.shapes))]
        return [
            Estimate.of(gradients[:, mine, :, None] * shapes.at(coordinates[mine]))
            for mine, shapes in zip(chosen, self.shapes, strict=True)
        ]


def _added(parts: Sequence[list[Estimate]]) -> list[Estimate]:
    return [
        Estimate(sum(part.halves for part in tier), sum(part.variance for part in tier))
        for tier in zip(*parts, strict=True)
    ]
