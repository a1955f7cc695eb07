"""Coding rows by the codes of a keyed field that exists: its axes, values and codewords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.keyed_class import ClassCoder
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.symbols import SymbolCoder
from saec.format.keyed_field import KeyedField
from saec.tables.loss_metric import Metric

__all__ = ["FrozenCoder", "FrozenRows", "bands_of"]

Floats = NDArray[np.float64]

_BAND = 4.0  # rows whose frequencies differ by less share a class


def bands_of(frequencies: Floats) -> NDArray[np.int64]:
    """A number (m,) for rows of similar frequencies (m,), which are positive."""
    bands: NDArray[np.int64] = np.floor(np.log(frequencies) / np.log(_BAND) + 1e-9).astype(np.int64)
    return bands


@dataclass(frozen=True, eq=False)
class FrozenRows:
    """Rows (m,) of one class as coded: its number, the symbols of each part, bits of all parts
    after the first, nats per occurrence that remain, and decoded rows (m, dim) in the metric."""

    number: int
    symbols: list[NDArray[np.int64]]
    later_bits: NDArray[np.int64]
    lost: Floats
    decoded: Floats


@dataclass(frozen=True, eq=False)
class FrozenCoder:
    """A keyed field's codes, for rows of a later table and its metric.

    Rows of a band of frequencies are all coded by one class, the one that costs a sample of them
    least: nats + price x bits.
    """

    base: KeyedField
    metric: Metric

    @cached_property
    def frame(self) -> Frame:
        """The axes as stored, in today's metric."""
        return Frame.of_stored(self.base.axes, self.metric)

    @cached_property
    def coders(self) -> tuple[ClassCoder, ...]:
        """Of each class of the base."""
        root = self.base.strings.root.lengths
        result = []
        for number, parts in enumerate(self.base.layout.classes):
            first, last = self.base.layout.first_roots[number : number + 2]
            at = self.base.layout.first_parts[number]
            own = []
            for place, part in enumerate(parts, at):
                start, stop = self.base.layout.first_values[place : place + 2]
                lengths = self.base.layout.part_lengths(place, part, self.base.lengths)
                wide = root[first:last] if place == at else lengths.astype(np.int64)
                own.append(SymbolCoder(part, self.base.values[start:stop], wide))
            result.append(ClassCoder(tuple(own), 0.0))
        return tuple(result)

    def code(self, number: int, rows: NDArray[Any], weight: float) -> FrozenRows:
        """Code ``rows`` (m, dim), each of which occurs with share ``weight``, by a class."""
        coder = replace(self.coders[number], weight=weight)
        coordinates = self.frame.coordinates(rows, coder.axes)
        symbols = list(coder.symbols(coordinates, self.frame.nats, self.base.price))
        pairs = list(zip(coder.coders, symbols, strict=True))
        decoded = [each.coordinates[own] for each, own in pairs]
        later = [each.lengths[own] for each, own in pairs[1:]]
        found = self._rows(np.concatenate(decoded, axis=1))
        error = self.metric.mapped(rows.astype(np.float64)) - found
        lost = np.einsum("nd,nd->n", error, error) / 2
        return FrozenRows(
            number,
            symbols,
            np.sum(later, axis=0, initial=0) + np.zeros(len(rows), int),
            lost,
            found,
        )

    def _rows(self, coordinates: NDArray[np.float32]) -> Floats:
        """Rows in the metric (m, dim) of coordinates (m, some axes)."""
        stored = self.base.axes.astype(np.float64)
        axes = stored[: coordinates.shape[1]]
        return self.metric.mapped(stored[-1] + coordinates.astype(np.float64) @ axes)

    def classes_for(self, samples: Mapping[int, tuple[NDArray[Any], Floats]]) -> dict[int, int]:
        """The class of each band, from a sample of its rows (m, dim) and their shares (m,)."""
        return {band: self._best(rows, shares) for band, (rows, shares) in samples.items()}

    def _best(self, rows: NDArray[Any], shares: Floats) -> int:
        costs = []
        for number in range(len(self.coders)):
            coded = self.code(number, rows, float(shares.mean()))
            root = self.coders[number].coders[0].lengths[coded.symbols[0]]
            bits = coded.later_bits + root
            costs.append(float(shares @ coded.lost + self.base.price * bits.sum()))
        return int(np.argmin(costs))
