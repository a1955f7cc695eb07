"""A field's embedding table with its frequencies, checked once, where it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError

__all__ = ["Field", "check_fields"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)

# Values checked at a time: a mapped table passes through a few megabytes of memory.
BLOCK_VALUES = 1 << 20


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """One field: its embedding table and how often each feature occurs in the training log.

    Args:
        name: the field's name, not empty.
        weights: ``(vocab_size, dim)`` float32, float16 or bfloat16 (``ml_dtypes.bfloat16``) array
            or memory map with any strides, all values finite. It is neither copied nor changed.
        frequencies: ``(vocab_size,)`` counts of any real dtype, finite, none negative and not all
            zero; kept as float64.

    Raises:
        FieldError: something is wrong with one of them; the message names the field and, for a
            value, its row.
    """

    name: str
    weights: NDArray[Any]
    frequencies: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name == "":
            raise FieldError(
                f"a field's name must be a string that is not empty, not {self.name!r}"
            )
        _check_weights(self.name, self.weights)
        frequencies = _checked_frequencies(self.name, self.frequencies, len(self.weights))
        object.__setattr__(self, "frequencies", frequencies)

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.vocab_size} x {self.dim} {self.weights.dtype})"

    @property
    def vocab_size(self) -> int:
        """Number of features, the rows of the table."""
        return int(self.weights.shape[0])

    @property
    def dim(self) -> int:
        """Width of the table."""
        return int(self.weights.shape[1])

    @property
    def nbytes(self) -> int:
        """Size of the table in bytes, in its own dtype."""
        return int(self.weights.nbytes)


def check_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return ``fields`` as a tuple: at least one, all of them ``Field``, no name twice.

    Raises:
        FieldError: one of these fails; a repeated name is given.
    """
    result = tuple(fields)
    if not result:
        raise FieldError("no fields were given")
    names = set()
    for field in result:
        if not isinstance(field, Field):
            raise FieldError(f"expected a Field, got {type(field).__name__}")
        if field.name in names:
            raise FieldError(f"two fields are named {field.name!r}; names must differ")
        names.add(field.name)
    return result


def _check_weights(name: str, weights: NDArray[Any]) -> None:
    if not isinstance(weights, np.ndarray):
        raise FieldError(
            f"field {name!r}: weights must be a numpy array or memory map, "
            f"not {type(weights).__name__}"
        )
    if weights.dtype not in WEIGHT_DTYPES:
        allowed = ", ".join(str(dtype) for dtype in WEIGHT_DTYPES)
        raise FieldError(f"field {name!r}: weights are {weights.dtype}; allowed are {allowed}")
    if weights.ndim != 2:
        raise FieldError(f"field {name!r}: weights must have 2 dimensions, not {weights.ndim}")
    if 0 in weights.shape:
        rows, columns = weights.shape
        raise FieldError(f"field {name!r}: weights are {rows} x {columns}, an empty table")
    _check_finite(name, weights)


def _check_finite(name: str, weights: NDArray[Any]) -> None:
    for start, block in _blocks(weights):
        finite = np.isfinite(block)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise FieldError(
                f"field {name!r}: weights hold {float(block[row, column])} "
                f"at row {start + row}, column {column}"
            )


def _blocks(weights: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    rows = max(1, BLOCK_VALUES // weights.shape[1])
    for start in range(0, len(weights), rows):
        yield start, weights[start : start + rows]


def _checked_frequencies(name: str, values: ArrayLike, rows: int) -> NDArray[np.float64]:
    array = np.asanyarray(values)
    if array.dtype.kind not in "biuf" and array.dtype != BFLOAT16:
        raise FieldError(f"field {name!r}: frequencies are {array.dtype}, not real numbers")
    if array.ndim != 1:
        raise FieldError(f"field {name!r}: frequencies must have 1 dimension, not {array.ndim}")
    if len(array) != rows:
        raise FieldError(f"field {name!r}: weights have {rows} rows, frequencies {len(array)}")
    frequencies = array.astype(np.float64, copy=False)
    good = np.isfinite(frequencies) & (frequencies >= 0)
    if not good.all():
        first = int(np.argmin(good))
        raise FieldError(
            f"field {name!r}: the frequency of id {first} is {float(frequencies[first])}; "
            "it must be finite and not negative"
        )
    if not frequencies.any():
        raise FieldError(f"field {name!r}: all {rows} frequencies are zero")
    return frequencies
