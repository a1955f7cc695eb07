"""A static function from a stream of keys that does not fit in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import KeysError
from saec.keys.building import (
    RANGES,
    KeyedValues,
    SolvedBlocks,
    blocks_for,
    checked_fingerprint,
    checked_values,
    solve_in_memory,
)
from saec.keys.layout import LengthCensus
from saec.keys.static_function import StaticFunction

__all__ = ["FunctionBuilder"]


class FunctionBuilder:
    """Takes keys chunk by chunk and builds what :func:`build_function` builds of all of them.

    Keys wait in files, one for each 256th of the hashes; memory holds a chunk, one file's keys, and
    the finished function. Use it as a context manager, or call :meth:`close`.

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
        borders = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=RANGES))])
        for number in np.flatnonzero(np.diff(borders)):
            with self._path(int(number)).open("ab") as file:
                records[borders[number] : borders[number + 1]].tofile(file)

    def finish(self) -> StaticFunction:
        """The function of all keys.

        Raises:
            KeysError: two hashes are equal; names both positions, counted over all chunks.
        """
        blocks = blocks_for(self._keys, self._string_bits, self._bits is None)
        if blocks % RANGES or not blocks:
            records = np.concatenate([self._part(number) for number in range(RANGES)])
            order = np.argsort(records["position"])
            return solve_in_memory(
                self._keyed(records[order]), self._fingerprint_bits, self._threads
            )
        census = LengthCensus(blocks, self._fingerprint_bits, self._longest)
        run = blocks // RANGES
        for number in range(RANGES):
            keyed = self._keyed(self._part(number))
            census.add(keyed.hashes, keyed.lengths, number * run, run)
        parts = SolvedBlocks(census, self._threads)
        for number in range(RANGES):
            records = self._part(number)
            parts.add(self._keyed(records), number * run, run, records["position"])
        return parts.function(self._keys)

    def _keyed(self, records: NDArray[Any]) -> KeyedValues:
        hashes, values = records["hash"].copy(), records["value"].copy()
        lengths = records["length"].copy() if self._bits is None else None
        return KeyedValues(hashes, values, lengths, self._longest)

    def _part(self, number: int) -> NDArray[Any]:
        path = self._path(number)
        return np.fromfile(path, self._record) if path.exists() else np.empty(0, self._record)

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number:02x}"
