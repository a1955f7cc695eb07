"""The option that allocation chose for a field with keys, and the size of its result."""

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
    "keyed_least",
    "planned_bytes",
    "stored_bytes",
    "stored_field",
]

# Bits that a bit of a stored string takes in a static function. And bytes of it for each block,
# each bit of the longest string in each block, each such bit, each of the first few keys, and for
# all.
FUNCTION_FACTOR, _BLOCK_BYTES, _COLUMN_BYTES, _STEP_BYTES = 1.03, 3, 0.45, 3
_FEW_KEYS, _FEW_BYTES, _FUNCTION_BYTES = 200, 1.3, 40
_SMALL_BYTES = 1 << 12  # that do not matter, of a field that may take more than its rows
_NUMBERS = 48  # bytes that numbers of a function and its tensors take in a record, at most

_NOTHING = build_function(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0)


@dataclass(frozen=True, eq=False)
class KeyedChoice:
    """The option that allocation chose, with everything that coding needs.

    coders: of each stratum of ``placing``, None if its rows are left out. nats: that
    rows of each stratum lose. least_gain: nats per bit
    that a stored row saves; None if every row is stored. string_bits: see KeyedLayout.
    function_bytes: that the static function may take. by_slopes: nats that slopes on unseen rows
    were planned to add.
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
    by_slopes: float = 0.0

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
        """The lengths of codewords that are stored."""
        tables = [c.lengths for coder in self.stored for c in coder.coders if c.part.rice is None]
        return np.concatenate([np.zeros(0, np.int64), *tables]).astype(np.uint8)

    @property
    def values(self) -> NDArray[np.float16]:
        """What symbols stand for, as stored."""
        values = [c.values for coder in self.stored for c in coder.coders]
        return np.concatenate([np.zeros(0, np.float16), *values])

    @property
    def strings(self) -> KeyStrings:
        """The codewords."""
        return KeyStrings(self.layout, self.lengths)


def stored_field(field: Field, choice: KeyedChoice, function: StaticFunction) -> KeyedField:
    """The field of a function and of all that is small."""
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
    """Bytes by which the field as stored makes an artifact grow, at most."""
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
    """Bytes of a static function, expected: of so many strings with so many bits together."""
    shape = window_shape(keys, bits, varied=True)
    if shape is not None:
        return shape.most_bytes(bits, longest)
    blocks = blocks_for(keys, bits, varied=True)
    each_block = _BLOCK_BYTES + _COLUMN_BYTES * longest
    few = min(keys, _FEW_KEYS)
    fixed = _STEP_BYTES * longest + _FEW_BYTES * few + _FUNCTION_BYTES
    return round(FUNCTION_FACTOR * bits / 8 + blocks * each_block + fixed)


def keyed_least(field: Field) -> KeyedField:
    """Every key at the default row."""
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
