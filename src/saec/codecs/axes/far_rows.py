"""The loss of rows that are clipped before coding, measured from their true positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.lagrangian import Layered, Way
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import Coder
from saec.codecs.moments_and_samples import Sample

__all__ = ["FarCosts", "FarRows"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FarRows:
    """The coordinates of a tier's far rows.

    A row at f that is clipped to c and decoded to d has the squared error |f - d|^2 = |c - d|^2 +
    |f - c|^2 + 2 (f - c)(c - d). Coders are chosen by the first term. The second does not depend
    on the coder. The third is measured here.

    near: (k, rank) float32, coordinates of the clipped rows c; moved: (k, rank) float64,
    coordinates of f - c times the row's share of all occurrences and the nats of each axis.
    """

    near: NDArray[np.float32]
    moved: Floats

    @classmethod
    def of(cls, sample: Sample, row_map: RowMap, frame: Frame, total: float) -> FarRows | None:
        """The far rows of a tier, from a ``sample`` of its unclipped rows; None if there are none.

        total: the sum of the field's frequencies.
        """
        far, _ = row_map.far(sample.rows, sample.frequencies)
        if not len(far):
            return None
        rows, frequencies = sample.rows[far], sample.frequencies[far]
        near = frame.coordinates(row_map.near(rows, frequencies), frame.rank)
        moved = frame.coordinates(rows, frame.rank).astype(np.float64) - near
        shares = sample.standing_for_all[far] / total
        return cls(near, moved * shares[:, None] * frame.nats)

    @classmethod
    def join(cls, tiers: Sequence[FarRows | None]) -> FarRows | None:
        """The far rows of all ``tiers`` together; None if there are none."""
        some = [rows for rows in tiers if rows is not None]
        if not some:
            return None
        return cls(
            np.concatenate([rows.near for rows in some]),
            np.concatenate([rows.moved for rows in some]),
        )

    def nats(self, coders: Sequence[Coder], first: int, scales: Floats) -> float:
        """The third term, in nats, on the axes that ``coders`` code, from axis ``first`` on.

        scales: (rank,) nats per squared error of each coordinate.
        """
        total = 0.0
        for coder in coders:
            span = slice(first, first + coder.part.axes)
            near = self.near[:, span]
            decoded = coder.decode(coder.assign(near, np.sqrt(scales[span] / scales[first])))
            total += float((self.moved[:, span] * (near - decoded)).sum())
            first = span.stop
        return 2 * total

    def uncoded(self, first: int) -> float:
        """The third term, in nats, on the axes from ``first`` on if they are not coded."""
        return 2 * float((self.moved[:, first:] * self.near[:, first:]).sum())


class FarCosts:
    """The third term of :class:`FarRows` for whole layouts.

    far: the far rows of each tier; scales: (rank,) nats per squared error of each coordinate.
    """

    def __init__(self, far: Sequence[FarRows | None], scales: Floats) -> None:
        self._far, self._scales = far, scales
        self._joined: dict[int, FarRows | None] = {}
        # Most candidates occur in many layouts. Key: number of tiers, tier, axis, candidate.
        self._known: dict[tuple[int, int, int, int], float] = {}

    def of(self, layered: Layered) -> float:
        """The third term of a layout, in nats; its last tier may join several of ``far``."""
        if not any(self._far):
            return 0.0
        last = len(layered.ways) - 1
        if last not in self._joined:
            self._joined[last] = FarRows.join(self._far[last:])
        own = [*self._far[:last], self._joined[last]]
        pairs = enumerate(zip(own, layered.ways, strict=True))
        return sum(self._of_way(rows, way, (last, tier)) for tier, (rows, way) in pairs if rows)

    def _of_way(self, rows: FarRows, way: Way, place: tuple[int, int]) -> float:
        first = way.axes - len(way.picks)
        total = rows.uncoded(way.axes)
        if way.joint is not None:
            total += rows.nats(way.joint.coders, 0, self._scales)
        for axis, pick in enumerate(way.picks.tolist(), first):
            key = (*place, axis, pick)
            if key not in self._known:
                coders = way.tier.scalar[axis][pick].coders
                self._known[key] = rows.nats(coders, axis, self._scales)
            total += self._known[key]
        return total
