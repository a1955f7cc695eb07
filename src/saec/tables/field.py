"""A field's embedding table with its frequencies, validated once, in the constructor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError, array_of, check_plain
from saec.streaming.chunks import Chunk, check_finite, check_frequencies, check_total, chunks_of
from saec.streaming.frequency_histogram import Census, join_censuses, take_census
from saec.streaming.map_reduce import LocalPasses, Passes
from saec.streaming.rows import ArrayRows, Rows, rows_of
from saec.tables.field_keys import KEY_BYTES, FieldKeys, Unseen, field_keys

__all__ = ["Field", "check_fields"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)

# Number of values that are checked at a time.
BLOCK_VALUES = 1 << 20

_LEAST_KNOWN = 1e-3  # of all lookups


class Field:
    """One field: its embedding table and the frequency of each feature in the training log.

    Data in files, memory maps among them, are read and checked part by part when they are needed,
    and never held as a whole.

    Args:
        name: the field's name, not empty.
        weights: ``(vocab_size, dim)`` float32, float16 or bfloat16 (``ml_dtypes.bfloat16``) array
            or memory map with any strides, or :class:`~saec.streaming.rows.Rows` of files, all
            values finite. It is neither copied nor changed.
        frequencies: ``(vocab_size,)`` counts of any real dtype, finite, none negative and not all
            zero; an array, a memory map or rows of files.

        keys: (vocab_size,) the key of each row, if lookups take keys instead of ids: int64 or
            uint64, or strings, as in :func:`saec.hash_keys`. All keys are different.
        unseen: the row that the model uses for unknown keys: the number of a row, whose key and
            frequency are then ignored, or a vector (dim,). None if the model has no such row.
        unseen_share: the share of lookups whose key has no row, from 0 to 1, as measured on
            later rows; None for the Good-Turing estimate: features that occur once, divided by all
            occurrences.
        exact: False, True or a number of bits from 1 to 40 (True means 32). With b bits every key
            is stored, and an unknown key is taken for a known one with probability 2^-b. With False
            the budget determines this probability, and keys that do not justify their bits are
            treated as unknown.

    Raises:
        FieldError: an argument is invalid; the message names the field and, for a value, its row.
    """

    def __init__(
        self,
        name: str,
        weights: NDArray[Any] | Rows,
        frequencies: ArrayLike | Rows,
        *,
        keys: ArrayLike | None = None,
        unseen: int | ArrayLike | None = None,
        unseen_share: float | None = None,
        exact: bool | int = False,
    ) -> None:
        if not isinstance(name, str) or name == "":
            raise FieldError(f"a field's name must be a string that is not empty, not {name!r}")
        self.name = name
        self.weights = weights
        self.rows = _checked_rows(name, weights)
        self.counts = _checked_counts(name, frequencies, len(self.rows))
        self.keys: FieldKeys | None = None
        if keys is not None:
            default = _unseen(name, unseen, self.rows)
            self.counts = _without(name, self.counts, default.row)
            self.keys = field_keys(name, keys, self.counts, default, unseen_share, exact)
        elif unseen is not None or unseen_share is not None or exact is not False:
            raise FieldError(f"field {name!r}: unseen, unseen_share and exact go with keys")

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.vocab_size} x {self.dim} {self.dtype})"

    @property
    def vocab_size(self) -> int:
        """Number of features, the rows of the table."""
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Width of the table."""
        return self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the table."""
        return self.rows.dtype

    @property
    def nbytes(self) -> int:
        """Size of the table in bytes, in its own dtype, with 8 bytes for each key if it has
        keys."""
        return self.rows.nbytes + (0 if self.keys is None else KEY_BYTES * self.keys.count)

    @property
    def part_threads(self) -> int:
        """The most threads for work on :attr:`parts`: 1 if rows or frequencies are best read in
        order; 0 for :func:`~saec.util.in_threads.in_threads` to choose."""
        return 1 if self.rows.in_order or self.counts.in_order else 0

    @property
    def known_share(self) -> float:
        """The share of lookups whose key has a row, at least 0.001; 1 without keys."""
        return 1.0 if self.keys is None else max(1 - self.keys.unseen_share, _LEAST_KNOWN)

    @property
    def lookups(self) -> float:
        """The sum of all frequencies, and of lookups with unknown keys in proportion."""
        return self.census.total / self.known_share

    def nats_as_distortion(self, *, metric: bool) -> float:
        """What a nat per lookup is in the unit in which codecs state distortions.

        Without a metric, that unit is the squared error of all lookups together, of which half the
        mean counts as nats.
        """
        return 1.0 if metric else 2 * self.lookups

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """The frequencies of all features, (vocab_size,), in memory."""
        return self.counts.read(0, self.vocab_size).astype(np.float64, copy=False)

    @cached_property
    def parts(self) -> tuple[Chunk, ...]:
        """The rows in parts; one task works on one part."""
        return chunks_of(self.name, self.rows, self.counts)

    @cached_property
    def census(self) -> Census:
        """The histogram of frequencies. Its first use scans the frequencies in this process, unless
        :meth:`take_census` was called before.

        Raises:
            FieldError: a frequency is negative or not finite, or all are zero.
        """
        return self._counted(LocalPasses(self.parts))

    def take_census(self, passes: Passes) -> None:
        """Compute :attr:`census` by ``passes`` over :attr:`parts`, unless it exists; raises the
        same errors."""
        if "census" not in vars(self):
            self.census = self._counted(passes)

    def _counted(self, passes: Passes) -> Census:
        census = passes.run(take_census, join_censuses)
        check_total(self.name, census.total, census.rows)
        return census


def check_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return ``fields`` as a tuple: at least one, all of them ``Field``, with different names.

    Raises:
        FieldError: a condition fails; the message names a repeated name.
    """
    if not isinstance(fields, Iterable) or isinstance(fields, Mapping | str):
        raise FieldError(f"fields must be a list of Field, not {type(fields).__name__}")
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


def _checked_rows(name: str, weights: NDArray[Any] | Rows) -> Rows:
    check_plain(weights, f"field {name!r}: weights", FieldError)
    if not isinstance(weights, np.ndarray | Rows):
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
    found = rows_of(weights)
    if isinstance(found, ArrayRows):
        for start, block in _blocks(found.array):
            check_finite(name, block, start)
    return found


def _blocks(weights: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    rows = max(1, BLOCK_VALUES // weights.shape[1])
    for start in range(0, len(weights), rows):
        yield start, weights[start : start + rows]


def _checked_counts(name: str, values: ArrayLike | Rows, rows: int) -> Rows:
    if not isinstance(values, Rows):
        values = array_of(values, f"field {name!r}: frequencies", FieldError)
    counts = rows_of(values)
    if counts.dtype.kind not in "biuf" and counts.dtype != BFLOAT16:
        raise FieldError(f"field {name!r}: frequencies are {counts.dtype}, not real numbers")
    if counts.ndim != 1:
        raise FieldError(f"field {name!r}: frequencies must have 1 dimension, not {counts.ndim}")
    if len(counts) != rows:
        raise FieldError(f"field {name!r}: weights have {rows} rows, frequencies {len(counts)}")
    if not isinstance(counts, ArrayRows):
        return counts
    frequencies = counts.array.astype(np.float64, copy=False)
    check_frequencies(name, frequencies, 0)
    check_total(name, float(frequencies.sum()), rows)
    return ArrayRows(frequencies)


def _unseen(name: str, given: int | ArrayLike | None, rows: Rows) -> Unseen:
    """The row of unknown keys, which is given by its number or as a vector."""
    count, dim = rows.shape
    if given is None:
        return Unseen()
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        if not 0 <= given < count:
            raise FieldError(f"field {name!r}: unseen is row {given}, outside [0, {count})")
        own = rows.read(int(given), int(given) + 1)
        check_finite(name, own, int(given))
        return Unseen(own[0].astype(np.float64), int(given))
    row = array_of(given, f"field {name!r}: unseen", FieldError)
    if row.shape != (dim,) or (row.dtype.kind not in "iuf" and row.dtype != BFLOAT16):
        raise FieldError(
            f"field {name!r}: unseen is the number of a row or {dim} values, not {row.dtype} of "
            f"shape {row.shape}"
        )
    wide = row.astype(np.float64)
    if not np.isfinite(wide).all():
        raise FieldError(f"field {name!r}: unseen holds {float(wide[~np.isfinite(wide)][0])}")
    return Unseen(wide)


def _without(name: str, counts: Rows, row: int | None) -> Rows:
    """The counts without that of the row of unknown keys, whose share of lookups is given
    separately."""
    if row is None:
        return counts
    frequencies = counts.read(0, len(counts)).astype(np.float64)
    frequencies[row] = 0.0
    check_total(name, float(frequencies.sum()), len(frequencies))
    return ArrayRows(frequencies)
