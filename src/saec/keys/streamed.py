"""A static function from a stream of keys that does not fit in memory."""

from __future__ import annotations

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
from saec.util.records import Records

__all__ = ["FunctionBuilder"]

_RANGES = 256  # of hashes, by which each chunk is sorted
_AT_ONCE = 4  # buckets that are in memory together, so that threads share them
_RECORD = np.dtype([("hash", "<u8"), ("value", "<u8"), ("position", "<u8"), ("length", "u1")])


class FunctionBuilder:
    """Takes keys chunk by chunk and builds what :func:`build_function` builds of all of them.

    Keys wait in a file, in which each chunk is sorted by the 256th of the hashes; memory holds a
    chunk, the keys of four buckets, and the finished function. Use it as a context manager, or call
    :meth:`close`.

    Args:
        bits: of every value, or None if :meth:`add` gives the bits of each.
        fingerprint_bits: see :func:`build_function`.
        folder: of the file, 25 bytes for each key; None to keep these in memory.
        threads: 0 for as many as there are.

    Raises:
        KeysError: bits are outside 0..64.
        ArtifactError: the folder cannot be written.
    """

    def __init__(
        self,
        bits: int | None,
        *,
        fingerprint_bits: int = 0,
        folder: Path | None = None,
        threads: int = 0,
    ) -> None:
        if bits is not None:
            checked_fingerprint(bits, "bits")
        self._bits, self._threads = bits, threads
        self._fingerprint_bits = checked_fingerprint(fingerprint_bits)
        self._borders: list[NDArray[np.int64]] = []  # of the ranges, of each chunk
        self._records = Records(_RECORD, folder)

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
        """Remove the file."""
        self._records.close()

    def add(
        self,
        hashes: ArrayLike,
        values: ArrayLike,
        bits: ArrayLike | None = None,
        positions: NDArray[np.integer] | None = None,
    ) -> None:
        """Take the next keys.

        Args:
            hashes: (n,) uint64.
            values: (n,) integers of at least 0.
            bits: (n,) of each value, if the builder was made without.
            positions: (n,) of the keys, for errors and for :meth:`finish`; None to go on counting.

        Raises:
            KeysError: as :func:`build_function`; equal hashes are found by :meth:`finish`.
            ArtifactError: the disk is full.
        """
        width = self._bits if bits is None else bits
        if width is None or (bits is not None and self._bits is not None):
            raise KeysError("bits must be given either to the builder or with each chunk")
        keyed = checked_values(hashes, values, width)
        first = len(self._records)
        part = (keyed.hashes >> np.uint64(56)).astype(np.uint8)
        order = np.argsort(part, kind="stable")
        records = np.empty(len(keyed), _RECORD)
        records["hash"], records["value"] = keyed.hashes[order], keyed.values[order]
        records["position"] = first + order if positions is None else positions[order]
        records["length"] = keyed.value_bits if keyed.lengths is None else keyed.lengths[order]
        self._records.append(records)
        counts = np.bincount(part, minlength=_RANGES)
        self._borders.append(first + np.concatenate([[0], np.cumsum(counts)]))

    def finish(self, kept: NDArray[np.bool_] | None = None) -> StaticFunction:
        """The function of all keys, or of those whose positions are ``kept``.

        Raises:
            KeysError: two hashes are equal; names both positions.
            ArtifactError: the disk fails.
        """
        keys, longest, bits = self._totals(kept)
        shape = window_shape(keys, bits, self._bits is None)
        if shape is None:
            keyed = self._keyed(range(_RANGES), kept, longest)
            return solve_in_memory(keyed, self._fingerprint_bits, self._threads)
        runs = min(max(shape.buckets // _AT_ONCE, 1), _RANGES)
        solved = SolvedBuckets(shape, self._fingerprint_bits, longest, self._threads)
        buckets, ranges = shape.buckets // runs, _RANGES // runs
        for number in range(runs):
            own = range(number * ranges, (number + 1) * ranges)
            solved.add(self._keyed(own, kept, longest), number * buckets, buckets)
        return solved.function(keys)

    def _totals(self, kept: NDArray[np.bool_] | None) -> tuple[int, int, int]:
        """How many keys there are, the bits of the longest value, and those of all strings."""
        keys, longest, bits = 0, self._bits or 0, 0
        for block in self._records.blocks():
            lengths = _only(block, kept)["length"]
            keys += len(lengths)
            longest = max(longest, int(lengths.max(initial=0)))
            bits += int(lengths.sum(dtype=np.int64))
        return keys, longest, bits + keys * self._fingerprint_bits

    def _keyed(self, ranges: range, kept: NDArray[np.bool_] | None, longest: int) -> KeyedValues:
        """The keys of neighbouring ranges of hashes."""
        spans = [(int(own[ranges.start]), int(own[ranges.stop])) for own in self._borders]
        records = _only(self._records.read(spans), kept)
        hashes, values, positions = (
            np.ascontiguousarray(records[name]) for name in ("hash", "value", "position")
        )
        lengths = None if self._bits is not None else np.ascontiguousarray(records["length"])
        return KeyedValues(hashes, values, lengths, longest, positions)


def _only(records: NDArray[Any], kept: NDArray[np.bool_] | None) -> NDArray[Any]:
    return records if kept is None else records[kept[records["position"]]]
