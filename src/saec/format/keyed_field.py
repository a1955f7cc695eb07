"""A table with keys: strings of bits in a static function, and the rows that they stand for."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import saec.artifact as artifact
from saec.errors import ArtifactError, KeysError
from saec.format.bags import Bags, Mode, bags_of
from saec.format.compressed_field import CompressedField
from saec.format.key_strings import KeyStrings
from saec.format.keyed_layout import KeyedLayout, keyed_details, read_details
from saec.format.keyed_rows import KeyedRows
from saec.format.lookup_errors import offsets_error
from saec.format.native_lookup import LookupTable, RowRun, run_table
from saec.keys.hashing import hash_keys
from saec.keys.kinds import KeyKind, check_kind
from saec.keys.static_function import StaticFunction
from saec.tables.field_keys import KEY_BYTES

__all__ = ["FUNCTION_ROLES", "KeyKind", "KeyedField"]

_AXES_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
# Roles in a file of the function's tensors.
FUNCTION_ROLES = {"bits": "codes", "directory": "directory", "steps": "steps"}


class KeyedField(CompressedField):
    """e(key) = default + sum_a value_a[symbol_a(key)] * axis_a, with symbols by class of rows.

    Keys themselves are not stored. A key that is not known gets the default row, but for a share of
    them (:attr:`false_positive_rate`), which get some other row.

    Args:
        name: the field's.
        vocab_size: rows of the table that was compressed.
        layout: the parts of each class.
        lengths: (stored lengths,) uint8, bits of codewords.
        values: (values,) float16, what symbols stand for.
        axes: (rank + 1, dim) float16 or float32, the axes and, last, the default row.
        function: from the hashes of keys to their strings.
        dtype: of the table that was compressed.
        key_kind, seed: of the keys, and of their hashes.
        price: of a bit, in nats or half the mean squared error, at which patches code rows, too; 0
            if unknown.

    Raises:
        ArtifactError: sizes do not fit each other, values are not finite, or there are no codewords
            of these lengths.
    """

    codec = "keyed"
    kind = 3

    def __init__(
        self,
        name: str,
        vocab_size: int,
        layout: KeyedLayout,
        lengths: NDArray[np.uint8],
        values: NDArray[np.float16],
        axes: NDArray[np.floating[Any]],
        function: StaticFunction,
        dtype: str,
        key_kind: KeyKind,
        seed: int,
        price: float = 0.0,
    ) -> None:
        if axes.ndim != 2 or axes.dtype not in _AXES_DTYPES or 0 in axes.shape:
            raise ArtifactError(
                f"axes are (rank + 1, dim) float16 or float32, not {axes.dtype} {axes.shape}"
            )
        super().__init__(name, vocab_size, axes.shape[1], dtype)
        self.layout = layout
        self.lengths = lengths
        self.values = values
        self.axes = axes
        self.function = function
        self.key_kind = key_kind
        self.seed = seed
        self.price = price
        self._check()
        self.strings = KeyStrings(layout, lengths)
        if layout.classes:
            assert self.strings.plans, "codes are made, and so checked, here"

    def _check(self) -> None:
        wanted: dict[str, tuple[NDArray[Any], tuple[int, ...], DTypeLike]] = {
            "lengths": (self.lengths, self.layout.first_lengths[-1:], np.uint8),
            "values": (self.values, self.layout.first_values[-1:], np.float16),
            "axes": (self.axes, (self.layout.rank + 1, self.dim), self.axes.dtype),
        }
        for role, (tensor, shape, dtype) in wanted.items():
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ArtifactError(
                    f"{role} are {np.dtype(dtype)} {shape}, not {tensor.dtype} {tensor.shape}"
                )
        if self.function.fingerprint_bits:
            raise ArtifactError("its static function has fingerprints, beside its codewords")
        if not 0 <= self.price < math.inf:
            raise ArtifactError(f"the price of a bit cannot be {self.price}")
        for role, tensor in (("values", self.values), ("axes", self.axes)):
            if not np.isfinite(tensor).all():
                raise ArtifactError(f"{role} hold numbers that are not finite")

    @property
    def original_nbytes(self) -> int:
        """Bytes of the table that was compressed, in its own dtype, and 8 for each key."""
        return super().original_nbytes + KEY_BYTES * self.vocab_size

    @property
    def uncompressed_nbytes(self) -> int:
        """Bytes of float32 rows and 8-byte keys."""
        return self.vocab_size * (4 * self.dim + KEY_BYTES)

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the static function; ``lengths``, ``values`` and ``axes``."""
        return {
            **{FUNCTION_ROLES[role]: tensor for role, tensor in self.function.tensors.items()},
            "lengths": self.lengths,
            "values": self.values,
            "axes": self.axes,
        }

    @property
    def description(self) -> dict[str, Any]:
        """See :class:`CompressedField`; with what is known of the keys, and the bill."""
        return super().description | {
            "keys": str(self.key_kind),
            "strings": self.function.keys,
            "false_positive_rate": self.false_positive_rate,
            "bill": self.bill,
        }

    @property
    def details(self) -> bytes:
        """The kind of the keys, the seed of their hashes, the function's numbers, the parts of
        every class and the price of a bit."""
        return keyed_details(self.key_kind, self.seed, self.function, self.layout, self.price)

    @property
    def false_positive_rate(self) -> float:
        """The share of unknown keys that are taken for known ones."""
        return self.strings.root.known_share if self.layout.classes else 0.0

    @property
    def bill(self) -> dict[str, int]:
        """Bytes by what they are for: the static function's ``codes`` of rows and its
        ``fingerprints``; ``symbols`` (lengths of codewords, and values); ``axes``.

        The code space that codewords leave unused tells unknown keys from known ones. It costs
        log2(1 / used share) bits a string, which are the fingerprints.
        """
        bits = -math.log2(self.false_positive_rate or 1.0) * self.function.keys
        fingerprints = min(round(bits / 8), self.function.nbytes)
        return {
            "codes": self.function.nbytes - fingerprints,
            "fingerprints": fingerprints,
            "symbols": self.lengths.nbytes + self.values.nbytes,
            "axes": self.axes.nbytes,
        }

    def contains(self, keys: ArrayLike) -> NDArray[np.bool_]:
        """Which keys (m,) are stored: (m,) bool.

        True for every stored key, and for :attr:`false_positive_rate` of all others. Keys that were
        not worth their bits are not stored, unless the field was made with ``exact``.

        Raises:
            KeysError: keys are of another kind than the field's, or missing.
        """
        return self.classes_of_hashes(self.hashes_of(keys)) >= 0

    def classes_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.integer[Any]]:
        """The class (m,) of the row of each key with these hashes (m,); -1 for unknown keys."""
        return self._rows.classes(hashes)

    def asked(self, ids: ArrayLike, threads: int = 0) -> tuple[LookupTable, NDArray[np.integer]]:
        """The rows of keys, in their order, and where they are; see :class:`CompressedField`.

        Raises:
            KeysError: keys are of another kind than the field's, or missing.
        """
        flat = ids.reshape(-1) if isinstance(ids, np.ndarray) else ids
        rows = self.rows_of_hashes(self.hashes_of(flat), threads)
        shape = ids.shape if isinstance(ids, np.ndarray) else (len(rows),)
        return self._table_of(rows), np.arange(len(rows)).reshape(shape)

    def _table_of(self, rows: NDArray[np.float32]) -> LookupTable:
        stored = rows if len(rows) else self.axes[-1:].astype(np.float32)
        return run_table(len(stored), [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored)

    def asked_bags(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None,
        mode: Mode,
        threads: int = 0,
    ) -> tuple[LookupTable, Bags]:
        """Rows of bags, in their order, and where they are; see :class:`CompressedField`.

        Sums and means add up coordinates on the axes, in float32 and in the order of the keys, and
        multiply them by the axes once for each bag. They differ from sums of rows by rounding; a
        bag of one key is its row.

        Raises:
            KeysError: keys are of another kind than the field's, or missing.
            IdError: an offset is out of range.
        """
        if mode == "max":
            return super().asked_bags(ids, offsets, per_sample_weights, mode, threads)
        flat = ids.reshape(-1) if isinstance(ids, np.ndarray) else ids
        hashes = self.hashes_of(flat)
        rows = self.bags_of_hashes(hashes, offsets, per_sample_weights, mode, threads)
        return self._table_of(rows), Bags(np.arange(len(rows)))

    def decode(self) -> NDArray[np.float32]:
        """Refused: which keys there are is not stored.

        Raises:
            KeysError: always.
        """
        raise KeysError(f"{self.place} does not store its keys: look up those that you have")

    def _lookup_table(self) -> LookupTable:
        raise KeysError(f"{self.place} has keys in place of ids")

    def rows_of_hashes(
        self, hashes: NDArray[np.uint64], threads: int = 0, *, in_pytorch: bool = False
    ) -> NDArray[np.float32]:
        """The rows (m, dim) of keys with these hashes (m,); see :meth:`KeyedRows.rows`."""
        return self._rows.rows(hashes, threads, in_pytorch=in_pytorch)

    def bags_of_hashes(
        self,
        hashes: NDArray[np.uint64],
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None,
        mode: Mode,
        threads: int = 0,
        in_pytorch: bool = False,  # see rows_of_hashes
    ) -> NDArray[np.float32]:
        """Sums or means (bags, dim) of rows of keys with these hashes (m,); see :meth:`pool`.

        Raises:
            IdError: an offset is out of range.
        """
        bags = bags_of(hashes.view(np.int64), offsets, per_sample_weights, mode, self.place)
        rows = self._rows.pooled(hashes, bags, threads, in_pytorch=in_pytorch)
        if rows is not None:
            return rows
        raise offsets_error(self.place, len(hashes))

    @cached_property
    def _rows(self) -> KeyedRows:
        """What the native core reads strings and rows from."""
        return KeyedRows(
            self.layout, self.strings, self.lengths, self.values, self.axes, self.function
        )

    def hashes_of(self, keys: ArrayLike) -> NDArray[np.uint64]:
        """Hashes (m,) of keys (m,).

        Raises:
            KeysError: keys are of another kind than the field's, or missing.
        """
        try:
            hashes = hash_keys(keys, seed=self.seed)
        except KeysError as error:
            raise KeysError(f"{self.place}: {error}") from error
        check_kind(keys, self.key_kind, self.place)
        return hashes

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        kind, seed, numbers, layout, price = read_details(entry.details)
        tensors = entry.tensors
        function = StaticFunction.from_tensors(
            numbers, {own: tensors[role] for own, role in FUNCTION_ROLES.items()}
        )
        return cls(
            entry.name,
            entry.vocab_size,
            layout,
            tensors["lengths"],
            tensors["values"],
            tensors["axes"],
            function,
            entry.dtype.name,
            kind,
            seed,
            price,
        )
