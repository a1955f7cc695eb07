"""Codes the rows of a keyed field: which rows are stored, their strings, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.axes.keyed_choice import (
    FUNCTION_FACTOR,
    KeyedChoice,
    mean_harm,
    stored_field,
)
from saec.codecs.axes.keyed_rows import EVERY_ROW, GatheredRows, RowTotals, Selection, StoredRows
from saec.codecs.protocol import LEAST_COST, Coded
from saec.format.key_strings import KeyStrings
from saec.keys.static_function import StaticFunction
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import Advance, passes_over
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.field_keys import FieldKeys
from saec.util.row_arrays import RowArrays

__all__ = ["encode_keyed"]

Floats = NDArray[np.float64]

_CUTS = 20  # the most attempts to reach the size by storing fewer rows


@dataclass(frozen=True, eq=False)
class _EncodeKeys:
    """A task that codes one chunk of the field.

    total: the number of all lookups of the field.
    """

    choice: KeyedChoice
    keys: FieldKeys
    total: float

    @cached_property
    def _strings(self) -> KeyStrings:
        return self.choice.strings

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> StoredRows:
        frequencies = part.frequencies()
        rows, shares = part.weights(), frequencies / self.total
        near = self.choice.row_map.near(rows, frequencies)
        hashes = self.keys.hashes[part.start : part.stop]
        known = np.ones(len(part), dtype=bool)
        unseen = self.keys.unseen.row
        if unseen is not None and part.start <= unseen < part.stop:
            known[unseen - part.start] = False
        found = []
        for group in self.choice.placing.groups(part, before):
            own = np.arange(len(part))[group.rows]
            every = _ClassRows(near[own], rows[own], shares[own], hashes[own], group.stratum)
            unstored = self._lost(every, [])
            sums = (float(part.sum()) for part in (*unstored, shares[own]))
            found.append(_none(*sums))
            if self.choice.coders[group.stratum] is not None:
                kept = known[own]
                found.append(self._coded(every.only(kept), unstored[:, kept]))
        return StoredRows.join(found)

    def _lost(self, rows: _ClassRows, decoded: Sequence[NDArray[np.float32]]) -> Floats:
        """The loss in nats of rows that are decoded to ``decoded``, (2, m): first with the slopes
        on unseen rows, then without them."""
        frame = self.choice.frame
        lost: Floats = rows.shares * frame.squared_errors(rows.exact, decoded) / 2
        gradient = self.choice.nats[rows.stratum].gradient
        if not gradient.coefficients.any():
            return np.stack([lost, lost])
        coordinates = frame.coordinates(rows.near, frame.rank)
        moved = -coordinates.astype(np.float64)
        if decoded:
            beside = np.concatenate(decoded, axis=1)
            moved[:, : beside.shape[1]] += beside
        return np.stack([lost + rows.shares * gradient.added(coordinates, moved), lost])

    def _coded(self, rows: _ClassRows, unstored: Floats) -> StoredRows:
        """The rows of a class that are worth their bits.

        unstored: (2, m) the loss in nats of each row if it is not stored, as of :meth:`_lost`.
        """
        frame, price = self.choice.frame, self.choice.price
        coder = self.choice.coders[rows.stratum]
        assert coder is not None, "the class is stored"
        number = self.choice.stored.index(coder)
        coordinates = frame.coordinates(rows.near, coder.axes)
        symbols = list(coder.symbols(coordinates, self.choice.nats[rows.stratum].of_codes, price))
        decoded = np.empty((len(coordinates), coder.axes), np.float32)
        bits = coder.decode(symbols, decoded)
        lost = self._lost(rows, [decoded])
        saved, second = unstored - lost
        kept = np.ones(len(saved), dtype=bool)
        if self.choice.least_gain is not None:
            kept = saved > self.choice.least_gain * FUNCTION_FACTOR * bits
        nats = frame.nats[: coder.axes]
        harm = np.square(decoded, dtype=np.float64) @ nats
        strings = self._strings.strings(number, [own[kept] for own in symbols], rows.hashes[kept])
        count = int(kept.sum())
        return StoredRows(
            symbols[0][kept] + self.choice.layout.first_roots[number],
            saved[kept],
            second[kept],
            bits[kept],
            rows.shares[kept],
            harm[kept],
            np.tile(np.arange(count), len(strings)),
            np.concatenate([string.hashes for string in strings]),
            np.concatenate([string.values for string in strings]),
            np.concatenate([string.lengths for string in strings]),
        )


@dataclass(frozen=True, eq=False)
class _ClassRows(RowArrays):
    """Rows of a stratum.

    near: (m, dim) clipped rows; exact: (m, dim) the rows themselves; shares: (m,) of all
    occurrences; hashes: (m,) of the keys.
    """

    near: NDArray[Any]
    exact: NDArray[Any]
    shares: Floats
    hashes: NDArray[np.uint64]
    stratum: int


def _none(unstored: float, second: float, occurrences: float) -> StoredRows:
    """No stored rows; the arguments are sums over the rows that might have been stored."""
    floats, words = np.zeros(0), np.zeros(0, dtype=np.uint64)
    whole = np.zeros(0, dtype=np.int64)
    lengths = np.zeros(0, dtype=np.uint8)
    return StoredRows(
        *(whole, floats, floats, whole, floats, floats, whole, words, words, lengths),
        unstored,
        second,
        occurrences,
    )


def encode_keyed(field: Field, choice: KeyedChoice, advance: Advance, space: Workspace) -> Coded:
    """Code the rows that are worth their bits, within the bytes that ``choice`` allows."""
    assert field.keys is not None, "fields without keys are coded otherwise"
    task = _EncodeKeys(choice, field.keys, field.lookups)
    passes = passes_over(field.parts, space)
    with closing(GatheredRows(space)) as rows:
        for part in passes.each(task, counter=choice.placing, advance=advance):
            rows.add(part)
        kept, function = _within(rows, choice.function_bytes)
        totals = rows.totals(kept, choice.layout.first_roots[-1])
    return Coded(stored_field(field, choice, function), _lost(choice, totals))


def _within(rows: GatheredRows, limit: int) -> tuple[Selection, StaticFunction]:
    """The rows that save most per bit and fit into ``limit`` bytes, with their function."""
    kept = EVERY_ROW
    for _ in range(_CUTS):
        size, _ = rows.planned(kept)
        if size <= limit:
            break
        kept = rows.fewer(kept, 1 - limit / size)
    function = rows.function(kept)
    for _ in range(_CUTS):
        if function.nbytes <= limit:
            break
        kept = rows.fewer(kept, 1 - limit / function.nbytes + 1e-3)
        function = rows.function(kept)
    assert function.nbytes <= limit, f"the strings take {function.nbytes} bytes, planned {limit}"
    return kept, function


def _lost(choice: KeyedChoice, rows: RowTotals) -> float:
    """The second-order loss in nats of all rows, and what slopes add beyond the plan, since other
    rows than planned may be left out; with that of unknown keys that are decoded to a symbol."""
    second = rows.unstored_second - rows.second
    with_slopes = max(rows.unstored - rows.saved, LEAST_COST * second)
    lost = max(with_slopes - choice.by_slopes, LEAST_COST * second)
    if not choice.stored:
        return lost
    unknown = choice.unknown + max(rows.occurrences - rows.shares, 0.0)
    first = choice.layout.first_roots
    for number, coder in enumerate(choice.stored):
        own = slice(first[number], first[number + 1])
        means = mean_harm(coder, rows.counts[own], rows.harm[own], choice.frame.nats)
        lost += unknown * float(means @ 0.5 ** coder.coders[0].lengths)
    return lost
