"""Which keys a patch has: the first bits of their hashes, as an ascending list.

A key that is not among them has the same first bits as one of them with a probability that each
further bit halves. With a list, the patches of a chain can be put into one table when they are
loaded, so that a lookup takes one look at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from saec.bits.elias_fano import pack_starts, starts_bytes, unpack_starts
from saec.errors import ArtifactError

__all__ = ["MOST_PREFIX", "KeyPrefixes"]

MOST_PREFIX = 56  # bits of a hash

_MORE_BITS, _MOST_BITS = 3, 22  # of the table of first bits: up to 4 MB


@dataclass(frozen=True, eq=False)
class KeyPrefixes:
    """The first ``bits`` bits of hashes, (k,) uint64 ascending, each once."""

    bits: int
    prefixes: NDArray[np.uint64]

    @classmethod
    def of(cls, hashes: NDArray[np.uint64], bits: int) -> Self:
        """Those of ``hashes`` (m,), of which some may begin alike."""
        return cls(bits, np.unique(hashes >> np.uint64(64 - bits)))

    def contain(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which hashes (m,) begin like one of them, (m,) bool."""
        if not len(self.prefixes):
            return np.zeros(len(hashes), np.bool_)
        bits, starts = self._starts
        known: NDArray[np.bool_] = starts[hashes >> np.uint64(64 - bits)]
        near = np.flatnonzero(known)
        wanted = hashes[near] >> np.uint64(64 - self.bits)
        places = np.minimum(np.searchsorted(self.prefixes, wanted), len(self.prefixes) - 1)
        known[near] = self.prefixes[places] == wanted
        return known

    def __getstate__(self) -> dict[str, Any]:
        """The state without the table of first bits, which is made anew."""
        return {"bits": self.bits, "prefixes": self.prefixes}

    @cached_property
    def _starts(self) -> tuple[int, NDArray[np.bool_]]:
        """A number of bits b, and a table (2**b,) that says for each b bits whether a prefix begins
        with them. It rules out most hashes that are not among the prefixes, and unlike these it
        fits into the processor's caches."""
        bits = min(len(self.prefixes).bit_length() + _MORE_BITS, _MOST_BITS, self.bits)
        starts = np.zeros(1 << bits, np.bool_)
        starts[self.prefixes >> np.uint64(self.bits - bits)] = True
        return bits, starts

    @property
    def share(self) -> float:
        """The share of all hashes that begin like one of them."""
        return float(len(self.prefixes)) * 0.5**self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of :attr:`packed`."""
        return starts_bytes(len(self.prefixes), 1 << self.bits) if len(self.prefixes) else 0

    @property
    def packed(self) -> NDArray[np.uint8]:
        """As bytes, for :meth:`unpacked`."""
        if not len(self.prefixes):
            return np.zeros(0, np.uint8)
        return pack_starts(self.prefixes.astype(np.int64), 1 << self.bits)

    @classmethod
    def unpacked(cls, data: NDArray[np.uint8], count: int, bits: int) -> Self:
        """Take what :attr:`packed` gave.

        Raises:
            ArtifactError: there are no such prefixes.
        """
        if not 1 <= bits <= MOST_PREFIX or count > 1 << bits:
            raise ArtifactError(
                f"it has {count} prefixes of {bits} bits; at most {MOST_PREFIX} bits are read"
            )
        size = starts_bytes(count, 1 << bits) if count else 0
        if data.shape != (size,) or data.dtype != np.uint8:
            raise ArtifactError(f"prefixes take {size} bytes, not {data.dtype} {data.shape}")
        if not count:
            return cls(bits, np.zeros(0, np.uint64))
        found = unpack_starts(data, count, 1 << bits)
        if found[-1] >= 1 << bits or (np.diff(found) == 0).any():
            raise ArtifactError(f"prefixes of {bits} bits do not ascend")
        return cls(bits, found.astype(np.uint64))
