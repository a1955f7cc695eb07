"""Axes in the loss metric, tiers of rows by frequency, and one Lagrangian over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.allocation import Option
from saec.artifact import entry_bytes
from saec.codecs.codec import Advance
from saec.codecs.coder import Coder
from saec.codecs.frame import Frame
from saec.codecs.offers import TierOffers, TierRows, measure_tier, sampled_shares
from saec.codecs.sweep import Layered, sweep
from saec.codes import PackedRows
from saec.errors import OptionError
from saec.metric import Metric
from saec.order import ORDERS, Arrangement, Order, arrange
from saec.stored.field import CompressedField
from saec.stored.tiered import TieredField
from saec.table import Field
from saec.tiers import Layout

__all__ = ["Axes"]

_MEASURED_ROWS = 1 << 17  # of a tier, from which its tables are learned and judged
_CODED_ROWS = 1 << 20


@dataclass(frozen=True, eq=False)
class Choice:
    """What allocation chose for a field, with all that coding it needs."""

    frame: Frame
    arrangement: Arrangement
    layered: Layered


@dataclass(frozen=True)
class Axes:
    """Coordinates on a field's principal axes in the loss metric, more bits for frequent rows.

    A row is mean + sum of coordinate x axis. Every tier of rows of similar frequency has its own
    way to code each axis, from a fine grid to nothing at all, or a few joint clusters over the
    leading axes; see docs/design.md.

    Args:
        order: ``"keep"`` keeps the ids; what finds a row's tier is stored, about 1.4 bits a
            feature, unless ids are in order of frequency already. ``"frequency"`` renumbers
            features by frequency: lookups of the result take the new ids, and its fields'
            ``permutation`` gives the old id of each.

    Raises:
        OptionError: an option lies outside its range.
    """

    order: Order = "keep"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise OptionError(f"order cannot be {self.order!r}; it is one of {', '.join(ORDERS)}")

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator
    ) -> Sequence[Option]:
        """Layouts on offer; see :class:`~saec.codecs.codec.Codec`."""
        frame = Frame.of(field, Metric.euclidean(field.dim) if metric is None else metric)
        arrangement = arrange(field.frequencies, self.order)
        tiers = [_measured(field, frame, rows, rng) for rows in arrangement.tiers]
        axis_bits = 8 * field.dim * frame.stored.itemsize
        choices = [
            Choice(frame, arrangement, layered) for layered in sweep(tiers, axis_bits, frame.rest)
        ]
        # Without a metric, in the unit of the other codecs.
        unit = 1.0 if metric is not None else 2 * float(field.frequencies.sum())
        return [
            Option(
                8 * entry_bytes(self.plan(field, choice).entry), choice.layered.nats * unit, choice
            )
            for choice in choices
        ]

    def plan(self, field: Field, choice: object) -> TieredField:
        """The field with codes that take no memory; see :class:`~saec.codecs.codec.Codec`."""
        assert isinstance(choice, Choice)
        coders = choice.layered.tiers
        parts = tuple(tuple(coder.part for coder in tier) for tier in coders)
        layout = Layout(field.vocab_size, parts)
        values = [coder.values for tier in coders for coder in tier]
        stored = choice.frame.stored
        return TieredField(
            field.name,
            layout,
            np.broadcast_to(np.uint8(0), layout.code_bytes),
            np.concatenate([np.zeros(0, np.float16), *values]),
            np.concatenate([stored[: layout.rank], stored[-1:]]),
            choice.arrangement.vectors,
            field.weights.dtype.name,
            renumbered=choice.arrangement.permutation is not None,
            permutation=choice.arrangement.permutation,
        )

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
    ) -> CompressedField:
        """Code every row by the tables of a :class:`Choice`."""
        assert isinstance(choice, Choice)
        planned = self.plan(field, choice)
        data = np.zeros(planned.layout.code_bytes, dtype=np.uint8)
        for tier, rows in enumerate(choice.arrangement.tiers):
            codes = _coded(field, choice.frame, choice.layered.tiers[tier], rows)
            PackedRows.pack_into(
                data, planned.layout.first_bytes[tier], codes, planned.layout.widths(tier)
            )
            advance(_count(rows) / field.vocab_size)
        return planned.filled(data)


def _measured(
    field: Field, frame: Frame, rows: NDArray[np.int64] | slice, rng: np.random.Generator
) -> TierOffers:
    """The offers of a tier, from all of its rows or a sample that stands for them."""
    count = _count(rows)
    shares = field.frequencies[rows] / field.frequencies.sum()
    if count > _MEASURED_ROWS:
        chosen = np.sort(rng.choice(count, _MEASURED_ROWS, replace=False, shuffle=False))
        shares = sampled_shares(shares, chosen)
        rows = chosen + rows.start if isinstance(rows, slice) else rows[chosen]
    coordinates = frame.coordinates(field.weights, rows, slice(0, frame.rank))
    return measure_tier(TierRows(coordinates, shares, count), frame.nats, rng)


def _coded(
    field: Field, frame: Frame, coders: Sequence[Coder], rows: NDArray[np.int64] | slice
) -> list[NDArray[np.uint32]]:
    """Codes of the tier's rows, (rows,) for each coder."""
    codes = [np.zeros(_count(rows), dtype=np.uint32) for _ in coders]
    ends = np.cumsum([coder.part.axes for coder in coders]).tolist()
    spans = [slice(end - coder.part.axes, end) for coder, end in zip(coders, ends, strict=True)]
    if not any(coder.part.bits for coder in coders):
        return codes
    used = slice(0, spans[-1].stop)
    for start in range(0, _count(rows), _CODED_ROWS):
        stop = min(start + _CODED_ROWS, _count(rows))
        coordinates = frame.coordinates(field.weights, _part(rows, start, stop), used)
        for coder, span, column in zip(coders, spans, codes, strict=True):
            scale = np.sqrt(frame.nats[span] / frame.nats[span.start])
            column[start:stop] = coder.assign(coordinates[:, span], scale)
    return codes


def _part(rows: NDArray[np.int64] | slice, start: int, stop: int) -> NDArray[np.int64] | slice:
    """The rows from the ``start``-th on and before the ``stop``-th."""
    if isinstance(rows, slice):
        return slice(rows.start + start, rows.start + stop)
    return rows[start:stop]


def _count(rows: NDArray[np.int64] | slice) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)
