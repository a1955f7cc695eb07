"""The option that was chosen for a field with keys, and the size of the field that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact import Entry, entry_bytes
from saec.clustering.rowmap import RowMap
from saec.codecs.axes.keyed_class import ClassCoder
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowNats
from saec.format.key_strings import KeyStrings
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import KeyedLayout, keyed_details
from saec.keys.building import blocks_for, build_function
from saec.keys.static_function import StaticFunction
from saec.keys.windows import window_shape
from saec.streaming.strata import Placing
from saec.tables.field import Field

__all__ = [
    "FUNCTION_FACTOR",
    "KeyedChoice",
    "PricedKeys",
    "keyed_least",
    "mean_harm",
    "planned_bytes",
    "stored_bytes",
    "stored_field",
]

# Expected size of a static function.
FUNCTION_FACTOR = 1.03  # bits for each bit of a stored string
_BLOCK_BYTES = 3  # bytes for each block
_COLUMN_BYTES = 0.45  # bytes for each block and bit of the longest string
_STEP_BYTES = 3  # bytes for each bit of the longest string
_FEW_KEYS, _FEW_BYTES = 200, 1.3  # additional bytes for each of the first 200 keys
_FUNCTION_BYTES = 40  # bytes that every function takes

_NUMBERS = 48  # the most bytes of a record for the numbers of a function and its tensors

Floats = NDArray[np.float64]

_NOTHING = build_function(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0)


@dataclass(frozen=True, eq=False)
class KeyedChoice:
    """The option that was chosen, with everything that coding needs.

    Attributes:
        frame: the axes.
        placing: assigns rows to strata, one for each class.
        row_map: clips far rows.
        coders: the coder of each stratum; None if none of its rows is stored.
        nats: computes the loss of rows, for each stratum.
        price: nats per bit.
        least_gain: the nats per bit that storing a row must save; None if every row is stored.
        string_bits: the most bits of a string; see KeyedLayout.
        function_bytes: the most bytes of the static function.
        unknown: the weighted share of lookups whose key was never seen.
        by_slopes: the nats that slopes on unseen rows were planned to add.
    """

    frame: Frame
    placing: Placing
    row_map: RowMap
    coders: tuple[ClassCoder | None, ...]
    nats: tuple[RowNats, ...]
    price: float
    least_gain: float | None
    string_bits: int
    function_bytes: int
    unknown: float
    by_slopes: float

    @property
    def layout(self) -> KeyedLayout:
        """The parts of the classes that are stored."""
        classes = tuple(tuple(c.part for c in coder.coders) for coder in self.stored)
        return KeyedLayout(classes, self.string_bits)

    @property
    def stored(self) -> tuple[ClassCoder, ...]:
        """The coders of the classes that are stored, in the order of their numbers."""
        return tuple(coder for coder in self.coders if coder is not None)

    @property
    def lengths(self) -> NDArray[np.uint8]:
        """The codeword lengths that are stored, (lengths,) uint8: those of tables, in bits."""
        tables = [c.lengths for coder in self.stored for c in coder.coders if c.part.rice is None]
        return np.concatenate([np.zeros(0, np.int64), *tables]).astype(np.uint8)

    @property
    def values(self) -> NDArray[np.float16]:
        """The values of all symbols, (values,) float16, as stored."""
        values = [c.values for coder in self.stored for c in coder.coders]
        return np.concatenate([np.zeros(0, np.float16), *values])

    @property
    def strings(self) -> KeyStrings:
        """Writes symbols as strings of codewords."""
        return KeyStrings(self.layout, self.lengths)


@dataclass(frozen=True, eq=False)
class PricedKeys:
    """A choice of what is stored, and the nats that it leaves.

    nats: by which choices are made; by_slopes: the part of them that slopes on unseen rows make;
    first_order: what these are expected to add; doubts: its standard errors by class, (classes,).
    """

    nats: float
    by_slopes: float
    first_order: float
    doubts: Floats
    choice: KeyedChoice


def stored_field(field: Field, choice: KeyedChoice, function: StaticFunction) -> KeyedField:
    """The field with the strings of ``function`` and the axes, values and lengths of ``choice``."""
    assert field.keys is not None, "a keyed field has keys"
    layout, stored = choice.layout, choice.frame.stored
    return KeyedField(
        field.name,
        field.vocab_size,
        layout,
        choice.lengths,
        choice.values,
        np.concatenate([stored[: layout.rank], stored[-1:]]),
        function,
        field.dtype.name,
        field.keys.kind,
        field.keys.seed,
        float(np.float32(choice.price)),
    )


def stored_bytes(field: Field, choice: KeyedChoice) -> int:
    """The most bytes that the stored field takes in an artifact."""
    assert field.keys is not None, "a keyed field has keys"
    layout, axes = choice.layout, choice.frame.stored
    tensors: dict[str, NDArray[Any]] = {
        "lengths": choice.lengths,
        "values": choice.values,
        "axes": axes[: layout.rank + 1],
    }
    entry = Entry(
        field.name,
        KeyedField.kind,
        field.dtype,
        field.vocab_size,
        field.dim,
        keyed_details(field.keys.kind, field.keys.seed, _NOTHING, layout, choice.price),
        tensors,
    )
    return entry_bytes(entry) + _NUMBERS + choice.function_bytes


def planned_bytes(keys: int, bits: int, longest: int) -> int:
    """The expected bytes of a static function.

    Args:
        keys: number of strings.
        bits: bits of all strings together.
        longest: bits of the longest string.
    """
    shape = window_shape(keys, bits, varied=True)
    if shape is not None:
        return shape.most_bytes(bits, longest)
    blocks = blocks_for(keys, bits, varied=True)
    each_block = _BLOCK_BYTES + _COLUMN_BYTES * longest
    few = min(keys, _FEW_KEYS)
    fixed = _STEP_BYTES * longest + _FEW_BYTES * few + _FUNCTION_BYTES
    return round(FUNCTION_FACTOR * bits / 8 + blocks * each_block + fixed)


def keyed_least(field: Field) -> KeyedField:
    """The smallest field: every key has the default row."""
    assert field.keys is not None, "a keyed field has keys"
    frame = np.zeros((1, field.dim), np.float16)
    return KeyedField(
        field.name,
        field.vocab_size,
        KeyedLayout(()),
        np.zeros(0, np.uint8),
        np.zeros(0, np.float16),
        frame,
        _NOTHING,
        field.dtype.name,
        field.keys.kind,
        field.keys.seed,
    )


def mean_harm(coder: ClassCoder, rows: NDArray[np.int64], harm: Floats, nats: Floats) -> Floats:
    """The mean distance in nats between the default row and the rows with each first symbol.

    Args:
        coder: of the class.
        rows: (symbols,) number of rows with each first symbol.
        harm: (symbols,) the sum of the distances of these rows.
        nats: (rank,) nats per squared error of each coordinate.

    Returns:
        (symbols,); for a symbol without rows, the distance of the symbol itself.
    """
    symbols = coder.coders[0].coordinates.astype(np.float64)
    alone = np.square(symbols) @ nats[: symbols.shape[1]]
    result: Floats = np.where(rows > 0, harm / np.maximum(rows, 1), alone)
    return result
