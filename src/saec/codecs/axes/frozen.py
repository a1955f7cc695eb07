"""Codes rows with the axes, values and codewords of an existing keyed field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.keyed_class import ClassCoder
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.symbols import SymbolCoder
from saec.format.keyed_field import KeyedField
from saec.tables.loss_metric import Metric
from saec.util.few_values import values_of
from saec.util.in_threads import in_threads
from saec.util.row_arrays import RowArrays
from saec.util.row_blocks import row_blocks

__all__ = ["FrozenCoder", "FrozenRows", "bands_of"]

Floats = NDArray[np.float64]

_BAND = 4.0  # ratio of the largest to the smallest frequency of a band
_FAR_BITS = 24  # a row within reach loses less nats than so many bits cost, by all its coordinates


def bands_of(frequencies: Floats) -> NDArray[np.int64]:
    """The band (m,) int64 of each of ``frequencies`` (m,), all positive: rows of similar
    frequency are in one band."""
    # A product of tiny frequencies may have become 0, whose logarithm is no band.
    positive = np.maximum(frequencies, np.finfo(np.float64).tiny)
    bands: NDArray[np.int64] = np.floor(np.log(positive) / np.log(_BAND) + 1e-9).astype(np.int64)
    return bands


@dataclass(frozen=True, eq=False)
class FrozenRows(RowArrays):
    """Rows coded by one class.

    number: of the class; symbols: (m,) for each part; later_bits: (m,) codeword bits of all parts
    after the first; lost: (m,) loss in nats per occurrence; coordinates: (m, axes) decoded.
    """

    number: int
    symbols: list[NDArray[np.int64]]
    later_bits: NDArray[np.int64]
    lost: Floats
    coordinates: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrozenCoder:
    """Codes rows of a later table, with its metric, by the codes of an existing keyed field.

    One class codes the rows of a frequency band: the one with the least nats + price x bits on a
    sample of these rows. At a higher price that is a class of rarer rows, with shorter codes. Rows
    that are out of the reach of its values get the class that is best for each of them.
    """

    base: KeyedField
    metric: Metric

    @cached_property
    def frame(self) -> Frame:
        """The stored axes in the present metric."""
        return Frame.of_stored(self.base.axes, self.metric)

    @cached_property
    def coders(self) -> tuple[ClassCoder, ...]:
        """The coder of each class of the base; it has none if all rows are the default row."""
        if not self.base.layout.classes:
            return ()
        root, values = self.base.strings.root.lengths, np.asarray(self.base.values)
        result = []
        for number, parts in enumerate(self.base.layout.classes):
            first, last = self.base.layout.first_roots[number : number + 2]
            at = self.base.layout.first_parts[number]
            own = []
            for place, part in enumerate(parts, at):
                start, stop = self.base.layout.first_values[place : place + 2]
                lengths = self.base.layout.part_lengths(place, part, self.base.lengths)
                wide = root[first:last] if place == at else lengths.astype(np.int64)
                own.append(SymbolCoder(part, values[start:stop], wide))
            result.append(ClassCoder(tuple(own), 0.0))
        return tuple(result)

    def code(self, number: int, rows: NDArray[Any], weight: float, price: float) -> FrozenRows:
        """Code ``rows`` (m, dim) by class ``number``; ``weight``: each row's share of all
        occurrences; ``price``: nats per bit."""
        coder = replace(self.coders[number], weight=weight)
        coordinates = self.frame.coordinates_in_blocks(rows, coder.axes)
        symbols = list(coder.symbols(coordinates, self.frame.nats, price))
        later = coder.decode(symbols, coordinates) - coder.coders[0].lengths[symbols[0]]
        return FrozenRows(number, symbols, later, self._lost(rows, coordinates), coordinates)

    def _lost(self, rows: NDArray[Any], coordinates: NDArray[np.float32]) -> Floats:
        """Nats per occurrence (m,) that ``rows`` (m, dim) lose if they are decoded from these
        ``coordinates`` (m, axes)."""
        lost = np.empty(len(rows))
        for block in row_blocks(len(rows)):
            error = self.metric.mapped(rows[block].astype(np.float64))
            error -= self.decoded(coordinates[block])
            lost[block] = np.einsum("nd,nd->n", error, error) / 2
        return lost

    def decoded(self, coordinates: NDArray[np.float32]) -> Floats:
        """Decoded rows (m, dim), mapped to the metric, from their leading coordinates (m, axes)."""
        axes = self._axes[: coordinates.shape[1]]
        return self.metric.mapped(self._axes[-1] + coordinates.astype(np.float64) @ axes)

    @cached_property
    def _axes(self) -> Floats:
        """The stored axes and the mean (rank + 1, dim)."""
        return self.frame.stored.astype(np.float64)

    def by_class(
        self, number: int, rows: NDArray[Any], shares: Floats, price: float
    ) -> Iterator[tuple[NDArray[np.int64], FrozenRows]]:
        """Code ``rows`` (m, dim) with these ``shares`` (m,) of all occurrences by class ``number``,
        and those out of its reach by other classes: the places of each class's rows, and these as
        coded."""
        coded = self.code(number, rows, float(shares.mean()), price)
        best = np.full(len(rows), number)
        far = np.flatnonzero(shares * coded.lost > _FAR_BITS * price)
        if len(far):
            costs = [self._costs(each, rows[far], shares[far], price) for each in self._numbers]
            best[far] = np.argmin(costs, axis=0)
        for each in values_of(best):
            own = np.flatnonzero(best == each)
            if each != number or len(own) < len(rows):
                coded = self.code(each, rows[own], float(shares[own].mean()), price)
            yield own, coded

    def classes_for(
        self, samples: Mapping[int, tuple[NDArray[Any], Floats]], price: float
    ) -> dict[int, int]:
        """The class of each band at a price, from a sample of its rows (m, dim) and their shares
        (m,)."""
        best = in_threads(partial(self._best, price), list(samples.values()))
        return dict(zip(samples, best, strict=True))

    def _best(self, price: float, sample: tuple[NDArray[Any], Floats]) -> int:
        rows, shares = sample
        costs = [float(self._costs(each, rows, shares, price).sum()) for each in self._numbers]
        return int(np.argmin(costs))

    @property
    def _numbers(self) -> range:
        return range(len(self.coders))

    def _costs(self, number: int, rows: NDArray[Any], shares: Floats, price: float) -> Floats:
        """Nats and bits (m,) of each row by a class."""
        coded = self.code(number, rows, float(shares.mean()), price)
        root = self.coders[number].coders[0].lengths[coded.symbols[0]]
        costs: Floats = shares * coded.lost + price * (coded.later_bits + root)
        return costs
