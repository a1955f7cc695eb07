"""A static function from a stream of keys that does not fit in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import KeysError
from saec.keys.building import solve_in_memory
from saec.keys.keyed_values import KeyedValues, checked_fingerprint, checked_values
from saec.keys.static_function import StaticFunction
from saec.keys.windows import SolvedBuckets, window_shape

__all__ = ["FunctionBuilder"]

_RANGES = 256  # of hashes, each in a file
_AT_ONCE = 4  # buckets that are in memory together, so that threads share them


class FunctionBuilder:
    """Takes keys chunk by chunk and builds what :func:`build_function` builds of all of them.

    Keys wait in files, one for each 256th of the hashes; memory holds a chunk, the keys of four
    buckets, and the finished function. Use it as a context manager, or call :meth:`close`.

    Args:
        bits: of every value, or None if :meth:`add` gives the bits of each.
        fingerprint_bits: see :func:`build_function`.
        directory: for the files, 25 bytes for each key; the system's temporary directory if None.
        threads: 0 for as many as there are.

    Raises:
        KeysError: bits are outside 0..64.
    """

    def __init__(
        self,
        bits: int | None,
        *,
        fingerprint_bits: int = 0,
        directory: str | Path | None = None,
        threads: int = 0,
    ) -> None:
        if bits is not None:
            checked_fingerprint(bits, "bits")
        self._bits, self._threads = bits, threads
        self._fingerprint_bits = checked_fingerprint(fingerprint_bits)
        self._keys, self._string_bits, self._longest = 0, 0, bits or 0
        fields: list[tuple[str, str]] = [("hash", "<u8"), ("value", "<u8"), ("position", "<u8")]
        self._record = np.dtype([*fields, ("length", "u1")])
        self._folder = tempfile.TemporaryDirectory(prefix="saec-keys-", dir=directory)

    def __enter__(self) -> FunctionBuilder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def add(self, hashes: ArrayLike, values: ArrayLike, bits: ArrayLike | None = None) -> None:
        """Take the next keys.

        Args:
            hashes: (n,) uint64.
            values: (n,) integers of at least 0.
            bits: (n,) of each value, if the builder was made without.

        Raises:
            KeysError: as :func:`build_function`; equal hashes are found by :meth:`finish`.
        """
        width = self._bits if bits is None else bits
        if width is None or (bits is not None and self._bits is not None):
            raise KeysError("bits must be given either to the builder or with each chunk")
        keyed = checked_values(hashes, values, width)
        records = np.empty(len(keyed), self._record)
        records["hash"], records["value"] = keyed.hashes, keyed.values
        records["position"] = np.arange(self._keys, self._keys + len(keyed))
        records["length"] = keyed.value_bits if keyed.lengths is None else keyed.lengths
        self._keys += len(keyed)
        self._string_bits += int(records["length"].sum(dtype=np.int64))
        self._string_bits += len(keyed) * self._fingerprint_bits
        self._longest = max(self._longest, keyed.value_bits)
        part = (keyed.hashes >> np.uint64(56)).astype(np.uint8)
        records = records[np.argsort(part, kind="stable")]
        borders = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=_RANGES))])
        for number in np.flatnonzero(np.diff(borders)):
            with self._path(int(number)).open("ab") as file:
                records[borders[number] : borders[number + 1]].tofile(file)

    def finish(self) -> StaticFunction:
        """The function of all keys.

        Raises:
            KeysError: two hashes are equal; names both positions, counted over all chunks.
        """
        shape = window_shape(self._keys, self._string_bits, self._bits is None)
        if shape is None:
            records = self._parts(range(_RANGES))
            records = records[np.argsort(records["position"])]
            return solve_in_memory(self._keyed(records), self._fingerprint_bits, self._threads)
        runs = min(max(shape.buckets // _AT_ONCE, 1), _RANGES)
        solved = SolvedBuckets(shape, self._fingerprint_bits, self._longest, self._threads)
        buckets, files = shape.buckets // runs, _RANGES // runs
        for number in range(runs):
            records = self._parts(range(number * files, (number + 1) * files))
            keyed = self._keyed(records)
            solved.add(keyed, number * buckets, buckets, records["position"])
        return solved.function(self._keys)

    def _keyed(self, records: NDArray[Any]) -> KeyedValues:
        hashes, values = records["hash"].copy(), records["value"].copy()
        lengths = records["length"].copy() if self._bits is None else None
        return KeyedValues(hashes, values, lengths, self._longest)

    def _parts(self, numbers: range) -> NDArray[Any]:
        paths = [path for number in numbers if (path := self._path(number)).exists()]
        return np.concatenate(
            [np.empty(0, self._record), *(np.fromfile(path, self._record) for path in paths)]
        )

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number:02x}"
