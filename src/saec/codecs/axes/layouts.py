"""Ways to cut a field's rows into tiers, and the layouts of these tiers.

If ids stay, an index lists the ids of all tiers but the last. A larger last tier makes the index
smaller, but all its rows are then coded in the same way, whatever their frequency. So layouts are
also made with the last tiers joined into one.

The layouts of the sweep lie on the lower convex hull of loss against bits. Two neighbours can
differ by one bit for each row of the largest tier. Layouts between them spend a part of this step
on other tiers, so that budgets between the two are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.candidates import TierRows, measure_tier, sampled_shares
from saec.codecs.axes.encode import CODES, INDEX, STARTS, keeps_ids
from saec.codecs.axes.lagrangian import Layered, Way, sweep
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.quantizer import TierOffers
from saec.codecs.axes.slope_costs import FieldSlopes
from saec.format.tier_index import Order, TierIndex
from saec.format.tier_layout import Layout, code_bytes, layout_bytes, tier_bounds, tier_bytes
from saec.format.tiered_field import TieredField
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import passes_over
from saec.streaming.scratch import Workspace
from saec.streaming.strata import ByRank, InOrder, Placing
from saec.tables.field import Field
from saec.util.absent_arrays import absent

__all__ = [
    "AxesChoice",
    "index_bytes",
    "joined_tails",
    "layouts",
    "mixed",
    "placing_of",
    "planned_bytes",
    "undominated",
    "with_tiers",
]

_Way = TypeVar("_Way")

# Ids count as sorted by frequency if rows that would be in too late a tier hold at most this share
# of all occurrences.
_MISPLACED = 0.01
_SAMPLED_ROWS = 1 << 15  # of a joined tail
_LONG = 1 / 64  # of a layout's bits: longer steps between layouts are divided
_MOST_BETWEEN = 16  # layouts
_FILLED_AT_ONCE = 64  # layouts; each takes some hundred bytes for each way to code a tier


def placing_of(field: Field, order: Order, space: Workspace) -> Placing:
    """The placing of a field's rows into tiers by frequency.

    If ids are in order of frequency, or nearly so, they are the ranks of rows.
    """
    bounds = tier_bounds(field.vocab_size)
    if field.census.descending:
        return InOrder(bounds)
    placing = ByRank.of(field.census, bounds, "keep" if order == "keep" else "frequency")
    if order == "keep":
        misplaced = passes_over(field.parts, space).run(_Misplaced(placing), sum, counter=placing)
        if misplaced <= _MISPLACED * field.census.total:
            return InOrder(bounds)
    return placing


@dataclass(frozen=True, eq=False)
class _Misplaced:
    """A task that counts the occurrences of a part's rows that would be in a later tier if ids
    were ranks."""

    placing: ByRank

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> float:
        frequencies = part.frequencies()
        own = np.searchsorted(
            self.placing.bounds[1:-1], np.arange(part.start, part.stop), side="right"
        )
        late = 0.0
        for group in self.placing.groups(part, before):
            late += float(frequencies[group.rows][own[group.rows] > group.stratum].sum())
        return late


def with_tiers(field: Field, placing: Placing, number: int) -> Placing:
    """``placing`` with ``number`` tiers; the last one has all further rows."""
    if number == len(placing.bounds) - 1:
        return placing
    return ByRank.of(field.census, tier_bounds(field.vocab_size, number), "keep")


def joined_tails(
    rows: Sequence[TierRows],
    offers: Sequence[TierOffers],
    nats: NDArray[np.float64],
    rng: np.random.Generator,
    slopes: FieldSlopes | None = None,
) -> Iterator[list[TierOffers]]:
    """The candidates of tiers with the last ones joined: the last two, the last three, and so on,
    up to a single tier of all rows.

    Args:
        rows: of each tier.
        offers: the candidates of each tier.
        nats: (rank,) nats per squared error of each coordinate.
        rng: draws the rows from which a joined tier is learned.
        slopes: on unseen rows, if there are any.
    """
    for first in range(len(rows) - 2, -1, -1):
        tail = _joined(rows[first:], rng)
        judged = None if slopes is None else slopes.of_tail(first)[1]
        yield [*offers[:first], measure_tier(tail, nats, rng, judged=judged)]


def _joined(tiers: Sequence[TierRows], rng: np.random.Generator) -> TierRows:
    """One sample of several tiers, with equally many rows of each tier that has so many."""
    most = _SAMPLED_ROWS // len(tiers)
    coordinates, shares = [], []
    for tier in tiers:
        if len(tier.shares) <= most:
            coordinates.append(tier.coordinates)
            shares.append(tier.shares)
            continue
        chosen = np.sort(rng.choice(len(tier.shares), most, replace=False))
        coordinates.append(tier.coordinates[chosen])
        shares.append(sampled_shares(tier.shares, chosen))
    count = sum(tier.count for tier in tiers)
    return TierRows(np.concatenate(coordinates), np.concatenate(shares), count)


def layouts(
    field: Field, ways: Sequence[Sequence[TierOffers]], frame: Frame, indexed: bool
) -> list[Layered]:
    """The useful layouts of all ``ways`` to cut rows into tiers.

    Args:
        field: the field.
        ways: for each way, the candidates of its tiers.
        frame: of the field.
        indexed: whether an index of the tiers is stored; its bytes count.
    """
    found: list[tuple[Layered, int]] = []
    table_bits = 8 * field.nbytes
    for tiers in ways:
        index_bits = 8 * TierIndex.planned_bytes(field.vocab_size, len(tiers)) if indexed else 0
        swept = sweep(tiers, 8 * field.dim * frame.stored.itemsize, frame.rest)
        # Layouts that take more than the table itself are useless.
        smaller = [layered for layered in swept if layered.bits < table_bits]
        found += [(layered, index_bits) for layered in mixed(smaller or swept[:1])]
    if len(ways) > 1:
        found = undominated(found, _size_and_nats)
    return [layered for layered, _ in found]


def undominated(
    found: Iterable[_Way], size_and_loss: Callable[[_Way], tuple[int, float]]
) -> list[_Way]:
    """The Pareto front of ``found``, smallest first: no other one is smaller and has less loss."""
    kept: list[_Way] = []
    for way in sorted(found, key=size_and_loss):
        if not kept or size_and_loss(way)[1] < size_and_loss(kept[-1])[1]:
            kept.append(way)
    return kept


def _size_and_nats(pair: tuple[Layered, int]) -> tuple[int, float]:
    return pair[0].bits + pair[1], pair[0].nats


def mixed(found: Sequence[Layered]) -> list[Layered]:
    """``found`` (smallest first, as from :func:`.lagrangian.sweep`) and layouts between neighbours
    whose sizes differ much.

    A layout between two is the smaller one with some tiers coded as in other layouts.
    """
    steps = [(small, large, _bits_between(small, large)) for small, large in pairwise(found)]
    asked = [(small, bits) for small, _, between in steps for bits in between]
    filled = _Ways(found).filled(asked)
    result = list(found[:1])
    for _, large, between in steps:
        for layout in islice(filled, len(between)):
            if layout.nats < result[-1].nats:
                result.append(layout)
        result.append(large)
    return result


def _bits_between(small: Layered, large: Layered) -> list[int]:
    """How many bits each layout between two may spend beyond the smaller one, ascending."""
    step = large.bits - small.bits
    parts = min(int(step / (_LONG * large.bits)), _MOST_BETWEEN)
    return [step * part // parts for part in range(1, parts)]


class _Ways:
    """All ways to code each tier that occur in ``layouts``."""

    def __init__(self, layouts: Sequence[Layered]) -> None:
        pairs = {pair: None for layered in layouts for pair in enumerate(layered.ways)}
        self._ways: list[tuple[int, Way]] = list(pairs)
        self._tiers = np.array([tier for tier, _ in pairs], np.int64)
        self._bits = np.array([way.bits for _, way in pairs], np.int64)
        self._nats = np.array([way.nats for _, way in pairs])
        self._axes = np.array([way.axes for _, way in pairs], np.int64)

    def filled(self, asked: Sequence[tuple[Layered, int]]) -> Iterator[Layered]:
        """Of each layout and number of bits that is asked for: the layout with up to so many bits
        spent on other ways, greedily, each time on the one that saves most per bit."""
        for start in range(0, len(asked), _FILLED_AT_ONCE):
            layouts, left = zip(*asked[start : start + _FILLED_AT_ONCE], strict=True)
            yield from self._filled(layouts, np.array(left, np.int64))

    def _filled(self, layouts: Sequence[Layered], left: NDArray[np.int64]) -> Iterator[Layered]:
        """The same at once for layouts that may spend ``left`` (layouts,) bits; changes this."""
        chosen = [list(layout.ways) for layout in layouts]
        axis_bits = layouts[0].axis_bits
        # Of each layout's ways, by tier.
        bits = np.array([[way.bits for way in ways] for ways in chosen], np.int64)
        nats = np.array([[way.nats for way in ways] for ways in chosen])
        axes = np.array([layout.axes for layout in layouts], np.int64)
        going = np.arange(len(layouts))
        while len(going):
            more = np.maximum(self._axes - axes[going, None], 0)
            step = self._bits - bits[going][:, self._tiers] + axis_bits * more
            saved = nats[going][:, self._tiers] - self._nats
            usable = (step <= left[going, None]) & (saved > 0)
            slope = np.where(usable, saved / np.maximum(step, 1), -np.inf)
            further = usable.any(axis=1)
            going, step, best = going[further], step[further], slope[further].argmax(axis=1)
            left[going] -= step[np.arange(len(going)), best]
            bits[going, self._tiers[best]] = self._bits[best]
            nats[going, self._tiers[best]] = self._nats[best]
            for place, number in zip(going.tolist(), best.tolist(), strict=True):
                tier, way = self._ways[number]
                chosen[place][tier] = way
                axes[place] = max(way.axes for way in chosen[place])
        for layout, ways in zip(layouts, chosen, strict=True):
            yield Layered(tuple(ways), axis_bits, layout.rest)


@dataclass(frozen=True, eq=False)
class AxesChoice:
    """The choice of an option, with everything that coding needs."""

    frame: Frame
    placing: Placing
    layered: Layered
    row_map: RowMap
    _layouts: dict[int, Layout] = dataclass_field(default_factory=dict)

    def layout(self, count: int) -> Layout:
        """The layout of ``count`` rows."""
        if count not in self._layouts:  # checks of a wide table's layout take milliseconds
            tiers = tuple(tuple(coder.part for coder in tier) for tier in self.layered.tiers)
            self._layouts[count] = Layout(count, tiers)
        return self._layouts[count]


def index_bytes(choice: AxesChoice, count: int, tiers: int) -> int:
    """Bytes of the index of the tiers of ``count`` rows; 0 if there is none."""
    return TierIndex.planned_bytes(count, tiers) if keeps_ids(choice.placing) else 0


def planned_bytes(field: Field, choice: AxesChoice) -> int:
    """Bytes that coding ``field`` as chosen takes in an artifact, without making its layout."""
    ways, stored = choice.layered.ways, choice.frame.stored
    rows = np.diff(choice.placing.bounds).tolist()
    codes = tier_bytes(rows, [way.width for way in ways])
    # A way's bits are those of codes, values and starts.
    values = sum(way.values for way in ways)
    rest = sum(way.bits - count * way.width for way, count in zip(ways, rows, strict=True))
    sizes = {
        CODES: code_bytes(codes),
        "values": 2 * values,
        STARTS: rest // 8 - 2 * values,
        INDEX: index_bytes(choice, field.vocab_size, len(ways)),
    }
    axes = absent(stored.dtype, choice.layered.axes + 1, field.dim)
    layout = layout_bytes((way.parts, way.named) for way in ways)
    return TieredField.planned_bytes(field, layout, axes, sizes)
