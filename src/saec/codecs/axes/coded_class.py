"""A class of rows of a field with keys, and what it costs as it is coded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.candidates import TierRows
from saec.codecs.axes.keyed_choice import FUNCTION_FACTOR, mean_harm
from saec.codecs.axes.keyed_class import ClassCoder, CodedRows
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowLosses, RowNats
from saec.codecs.axes.symbols import table_coder
from saec.codecs.moments_and_samples import Sample
from saec.codecs.protocol import LEAST_COST

__all__ = ["CodedClass", "KeyedClass", "keyed_class"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class KeyedClass:
    """A class of rows, known by a sample of m rows.

    each: rows of the class for each row of the sample; nats: computes the loss of rows; unstored:
    what each row loses if it is not stored, by its share of all occurrences; spread: (rank,) the
    nats that are lost on each axis if no row is stored.
    """

    rows: TierRows
    each: float
    nats: RowNats
    unstored: RowLosses
    spread: Floats


def keyed_class(
    sample: Sample, frame: Frame, count: int, total: float, nats: RowNats
) -> KeyedClass:
    """A class of ``count`` rows, known by ``sample``.

    total: the number of all lookups of the field.
    """
    rows = TierRows.of(sample, frame, count, total)
    default = np.zeros(rows.coordinates.shape)
    spread = rows.shares @ np.square(rows.coordinates, dtype=np.float64)
    return KeyedClass(
        rows,
        count / len(rows.shares),
        nats,
        nats.losses(rows.coordinates, default).times(rows.shares),
        spread * nats.of_codes,
    )


@dataclass(frozen=True, eq=False)
class CodedClass:
    """A class as coded, and which rows (m,) of its sample are stored.

    coder and coded are None if no row of the class is stored.
    """

    own: KeyedClass
    coder: ClassCoder | None
    coded: CodedRows | None
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, coder: ClassCoder | None, own: KeyedClass, price: float) -> CodedClass:
        coded = None if coder is None else coder.code(own.rows.coordinates, own.nats, price)
        return cls(own, coder, coded, np.zeros(len(own.rows.shares), dtype=bool))

    def coded_again(self, price: float) -> CodedClass:
        """With symbols of the first part that suit its codeword lengths, and all rows left out."""
        if self.coder is None or self.coded is None:
            return self
        coded = self.coder.code(self.own.rows.coordinates, self.own.nats, price, self.coded.later)
        return CodedClass(self.own, self.coder, coded, np.zeros_like(self.kept))

    def keeping(self, least_gain: float | None) -> CodedClass:
        """The class with the rows that save ``least_gain`` nats per bit; None: with all rows."""
        if self.coded is None:
            return self
        if least_gain is None:
            return replace(self, kept=np.ones(len(self.kept), dtype=bool))
        kept = self._saved > least_gain * FUNCTION_FACTOR * self.own.each * self._row_bits
        if not kept.any():
            return CodedClass(self.own, None, None, kept)
        return replace(self, kept=kept)

    @property
    def root_lengths(self) -> NDArray[np.int64]:
        """The codeword length of each first symbol, (symbols,) in bits."""
        assert self.coder is not None
        return self.coder.coders[0].lengths

    @cached_property
    def _saved(self) -> Floats:
        """Nats that storing each row saves, (m,)."""
        assert self.coded is not None
        return self.own.unstored.lost - self.own.rows.shares * self.coded.losses.lost

    @cached_property
    def _row_bits(self) -> NDArray[np.int64]:
        assert self.coded is not None
        return self.root_lengths[self.coded.first] + self.coded.later.bits

    @property
    def bits(self) -> float:
        """Bits of the strings of all stored rows of the class."""
        return self.own.each * float(self._row_bits[self.kept].sum())

    @property
    def nats(self) -> float:
        """The loss in nats of all rows: at least a share of its second-order part."""
        return max(self._sum(lambda losses: losses.lost), LEAST_COST * self.second)

    @property
    def second(self) -> float:
        """The second-order nats of all rows."""
        return self._sum(lambda losses: losses.second)

    @property
    def in_first_order(self) -> float:
        """The expected first-order nats of all rows."""
        return self._sum(lambda losses: losses.in_first_order)

    @property
    def doubt(self) -> float:
        """The standard error of :attr:`in_first_order`, at most: axes may err in the same way."""
        return self._sum(lambda losses: losses.doubt)

    def _sum(self, part: Callable[[RowLosses], Floats]) -> float:
        """Sum over all rows of a part of their losses."""
        unstored = part(self.own.unstored)
        if self.coded is None:
            return float(unstored.sum())
        stored = self.own.rows.shares * part(self.coded.losses)
        return float(np.where(self.kept, stored, unstored).sum())

    @property
    def unstored_share(self) -> float:
        """The share of all occurrences that belongs to rows that are not stored."""
        return float(self.own.rows.shares[~self.kept].sum())

    @cached_property
    def _used(self) -> NDArray[np.int64]:
        """The number of stored rows of the sample with each first symbol, (symbols,)."""
        assert self.coded is not None
        return np.bincount(self.coded.first[self.kept], minlength=len(self.root_lengths))

    @cached_property
    def counts(self) -> Floats:
        """The number of stored rows of the class with each used first symbol, (used,)."""
        used = self._used[self._used > 0].astype(np.float64)
        return self.own.each * used

    def harms(self, nats: Floats) -> Floats:
        """The mean harm of each used first symbol, (used,); see :func:`mean_harm`."""
        assert self.coder is not None, "a class that is stored has a coder"
        assert self.coded is not None, "and is coded"
        first, symbols = self.coded.first[self.kept], len(self.root_lengths)
        harm: Floats = np.bincount(first, self.coded.harm[self.kept], symbols).astype(np.float64)
        return mean_harm(self.coder, self._used, harm, nats)[self._used > 0]

    def with_roots(self, lengths: NDArray[np.int64]) -> CodedClass:
        """The class without unused first symbols; ``lengths`` (used,) are those of the others."""
        assert self.coder is not None, "a class that is stored has a coder"
        assert self.coded is not None, "and is coded"
        used = self._used > 0
        numbers = np.cumsum(used) - 1
        first = np.where(used[self.coded.first], numbers[self.coded.first], 0)
        first_coder = self.coder.coders[0]
        table = table_coder(first_coder.coordinates[used].astype(np.float64), lengths)
        coder = replace(self.coder, coders=(table, *self.coder.coders[1:]))
        return replace(self, coder=coder, coded=replace(self.coded, first=first))
