"""Candidates for coding each axis of each tier, with the bits that each takes and its loss in
nats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saec.bits.elias_fano import starts_bytes
from saec.clustering.kmeans import kmeans
from saec.clustering.points import ArrayPoints
from saec.clustering.scalar import measure_columns
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import (
    Coder,
    ColumnOffers,
    Offer,
    OfferNumbers,
    TierOffers,
    no_moves,
    sizes_of,
)
from saec.codecs.axes.tier_slopes import JoinedMoves, Moves
from saec.codecs.moments_and_samples import Sample
from saec.format.code_part import CodePart

__all__ = ["TierRows", "measure_tier", "sampled_shares"]

_TABLE_BITS = range(1, 9)
_GRID_BITS = range(3, 13)
_GRID_ROWS = 1 << 12  # in tiers of more rows, the bytes of a table of values hardly count
# Where grids are candidates, a table with more values than this takes more bits than a finer grid,
# and in wide tables most of the time is spent on finding it.
_ROWS_PER_VALUE = 16
_JOINT_AXES = (2, 3, 4, 6, 8)
_JOINT_BITS = range(2, 11)
_JOINT_ROWS = 8  # rows per joint cluster at least
# The same for tiers whose rows are sorted by their codes: a row then stores nothing for these, so
# wider ones pay. The most bits of all ordered codes together, and the most codes per row.
_ORDERED_BITS, _ORDERED_ROWS = range(2, 13), 4
_MOST_ORDERED_BITS, _MOST_ORDERED_SHARE = 14, 2
_JOINT_ITERATIONS = 6
_JOINT_LEARNED = 1 << 15  # rows from which joint clusters are learned
_JOINT_SHARE = 0.02  # the least share of a tier's nats on the last axis of a joint code
_CLIP = float(np.finfo(np.float16).max)
_HASHING = np.uint64(0x9E3779B97F4A7C15)  # a row's hash is the sum of its numbers times its powers


@dataclass(frozen=True, eq=False)
class TierRows:
    """A tier's rows, or a sample of them.

    coordinates: (m, rank) float32; shares: (m,) of each row in all occurrences of the field, scaled
    in a sample so that their sum is the tier's share; count: number of rows in the tier.
    """

    coordinates: NDArray[np.float32]
    shares: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, sample: Sample, frame: Frame, count: int, total: float) -> TierRows:
        """A tier of ``count`` rows, from a ``sample``; ``total``: of all lookups."""
        shares = sample.standing_for_all / total
        return cls(frame.coordinates(sample.rows, frame.rank), shares, count)


def sampled_shares(shares: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares (k,) of the ``chosen`` (k,) rows, scaled so that they have the sum of all ``shares``
    (m,)."""
    kept: NDArray[np.float64] = shares[chosen]
    return kept * (float(shares.sum()) / max(float(kept.sum()), np.finfo(np.float64).tiny))


def measure_tier(
    rows: TierRows,
    nats: NDArray[np.float64],
    rng: np.random.Generator,
    ordered: bool = False,
    judged: Moves | JoinedMoves | None = None,
) -> TierOffers:
    """Measure the candidates for coding the axes of a tier.

    Args:
        rows: of the tier.
        nats: (rank,) nats per squared error of each coordinate.
        rng: seeds the joint clusters.
        ordered: whether rows may be sorted by their first codes.
        judged: measures the mean changes that candidates make to rows, if slopes on unseen rows
            are to be added to the loss.
    """
    judge = partial(_judged, judged)
    scalar: list[Sequence[Offer]] = list(_scalar_offers(rows, nats))
    if judged is not None:
        scalar = [
            [judge(offer, np.ones(1), axis) for offer in offers]
            for axis, offers in enumerate(scalar)
        ]
    clusters = {
        axes: [judge(lead, np.sqrt(nats[:axes] / nats[0]), 0) for lead in leads]
        for axes, leads in _joint_coders(rows, nats, scalar, rng, ordered)
    }
    joint = {axes: list(_coded(found, rows)) for axes, found in clusters.items()}
    if ordered and scalar:
        alone = [
            [_Lead(offer.nats, offer.coders, offer.moves) for offer in offers] for offers in scalar
        ]
        first = list(scalar[0])
        for lead in _leads(alone, clusters, rows.count):
            (first if lead.axes == 1 else joint.setdefault(lead.axes, [])).append(
                lead.offer(rows.count)
            )
        scalar[0] = first
    return TierOffers(tuple(scalar), {axes: tuple(offers) for axes, offers in joint.items()})


@dataclass(frozen=True, eq=False)
class _Lead:
    """Coders of the leading axes by which rows may be sorted, and their loss in nats."""

    nats: float
    coders: tuple[Coder, ...]
    moves: NDArray[np.float64] = field(default_factory=no_moves)

    def __add__(self, other: _Lead) -> _Lead:
        moves = np.concatenate([self.moves, other.moves])
        return _Lead(self.nats + other.nats, self.coders + other.coders, moves)

    @property
    def axes(self) -> int:
        return sum(coder.part.axes for coder in self.coders)

    @property
    def bits(self) -> int:
        return sum(coder.part.bits for coder in self.coders)

    def offer(self, rows: int) -> Offer:
        """A candidate with rows sorted by the codes of all coders."""
        coders = tuple(coder.ordered for coder in self.coders)
        starts = starts_bytes((1 << self.bits) - 1, rows)
        bits = 8 * starts + sum(coder.bits for coder in coders)
        return Offer(bits, self.nats, coders, self.moves)


_Judged = TypeVar("_Judged", Offer, _Lead)


def _judged(
    moves: Moves | JoinedMoves | None, code: _Judged, scale: NDArray[np.float64], first: int
) -> _Judged:
    """``code``, which has one coder of the axes from ``first`` on, with the mean changes that it
    makes to rows."""
    if moves is None:
        return code
    (coder,) = code.coders
    return replace(code, moves=moves.by(coder, scale, first))


def _leads(
    alone: Sequence[Sequence[_Lead]], clusters: Mapping[int, Sequence[_Lead]], rows: int
) -> Iterator[_Lead]:
    """All combinations of coders by which rows may be sorted.

    These are tables or grids of one to four leading axes each, or joint clusters over some leading
    axes, followed by tables or grids of up to two more.
    """
    most = min(_MOST_ORDERED_BITS, (_MOST_ORDERED_SHARE * rows).bit_length() - 1)
    single = [[lead for lead in each if lead.bits] for each in alone]

    def longer(leads: Iterable[_Lead]) -> list[_Lead]:
        return [
            lead + next_
            for lead in leads
            for next_ in (single[lead.axes] if lead.axes < len(single) else ())
            if lead.bits + next_.bits <= most
        ]

    def grown(leads: Sequence[_Lead], more: int) -> Iterator[_Lead]:
        yield from leads
        if more:
            yield from grown(longer(leads), more - 1)

    firsts = [lead for lead in single[0] if lead.bits <= most]
    joint = [lead for found in clusters.values() for lead in found if lead.bits <= most]
    yield from grown(firsts, 3)
    yield from grown(joint, 2)


def _scalar_offers(rows: TierRows, nats: NDArray[np.float64]) -> Iterator[ColumnOffers]:
    """The candidates that code one axis alone, for each axis."""
    small = rows.count <= _GRID_ROWS
    most = max(4, rows.count // _ROWS_PER_VALUE) if small else rows.count
    tables = [bits for bits in _TABLE_BITS if 1 << bits <= most]
    grids = _GRID_BITS if small else range(0)
    parts = [
        CodePart(),
        *(CodePart("table", bits) for bits in (0, *tables)),
        *(CodePart("grid", bits) for bits in grids),
    ]
    sizes = sizes_of([[part] for part in parts])
    bits = np.array([16 * part.values + rows.count * part.bits for part in parts], np.int64)
    columns = measure_columns(rows.coordinates, rows.shares, [1 << each for each in tables], grids)
    for column, each in zip(columns, nats, strict=True):
        left = np.array([column.nothing, column.mean_left, *column.table_left, *column.grid_left])
        usable = np.isfinite(left) if column.nothing else np.arange(len(left)) == 0
        kept = np.flatnonzero(usable)
        numbers = OfferNumbers(bits[kept], each * left[kept], sizes[kept])
        yield ColumnOffers(parts, kept, numbers, column)


def _joint_coders(
    rows: TierRows,
    nats: NDArray[np.float64],
    scalar: Sequence[Sequence[Offer]],
    rng: np.random.Generator,
    ordered: bool,
) -> Iterator[tuple[int, list[_Lead]]]:
    """Joint clusters over the leading axes; in a large tier, learned and measured on a sample."""
    if not rows.shares.any():
        return
    spread = np.array([OfferNumbers.of(offers).nats[0] for offers in scalar])
    if len(rows.coordinates) > _JOINT_LEARNED:
        chosen = np.sort(rng.choice(len(rows.coordinates), _JOINT_LEARNED, replace=False))
        shares = sampled_shares(rows.shares, chosen)
        rows = TierRows(rows.coordinates[chosen], shares, rows.count)
    for axes in _JOINT_AXES:
        if axes > len(nats) or spread[axes - 1] < _JOINT_SHARE * spread.sum():
            return
        yield axes, list(_clustered(rows, nats[:axes], rng, ordered))


def _clustered(
    rows: TierRows, nats: NDArray[np.float64], rng: np.random.Generator, ordered: bool
) -> Iterator[_Lead]:
    # Scaled so that the squared distance times nats[0] is the loss in nats.
    scale = np.sqrt(nats / nats[0])
    scaled = np.ascontiguousarray(rows.coordinates[:, : len(nats)] * scale, dtype=np.float32)
    points = ArrayPoints(scaled, rows.shares)
    different = _count_different(scaled[rows.shares > 0])
    least = _ORDERED_ROWS if ordered else _JOINT_ROWS
    for bits in _ORDERED_BITS if ordered else _JOINT_BITS:
        if least << bits > rows.count or 2 << bits > different:
            return
        found = kmeans(points, 1 << bits, rng=rng, iterations=_JOINT_ITERATIONS)
        coder = Coder.table(found.centroids / scale, bits)
        stored = coder.values.reshape(-1, len(scale)).astype(np.float64) * scale
        left = float(points.step(stored.astype(np.float32)).distortion.sum())
        yield _Lead(float(nats[0]) * left, (coder,))


def _coded(clusters: Sequence[_Lead], rows: TierRows) -> Iterator[Offer]:
    """Candidates from joint clusters, with a stored code for each row."""
    for lead in clusters:
        if lead.bits in _JOINT_BITS and _JOINT_ROWS << lead.bits <= rows.count:
            bits = lead.coders[0].bits + rows.count * lead.bits
            yield Offer(bits, lead.nats, lead.coders, lead.moves)


def _count_different(rows: NDArray[np.float32]) -> int:
    """The number of rows that differ by more than rounding: k-means cannot find more clusters.
    Rows are compared by hashes of 64 bits, which takes less time than sorting rows."""
    rounded = rows.clip(-_CLIP, _CLIP).astype(np.float16) + np.float16(0)  # makes -0 to 0
    factors = _HASHING ** np.arange(1, rows.shape[1] + 1, dtype=np.uint64)
    return len(np.unique(rounded.view(np.uint16) @ factors))
