"""Sums of vectors by feature, over two halves of the examples, for the features that occur."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from saec.tables.unseen_gradients import RowSums

__all__ = ["HalfSums", "half_sums"]

# Lookups that wait until they are added to the sums: at least so many, and as large a share of the
# sums, so that both memory and time are in proportion to these.
_LEAST_WAITING, _WAITING_SHARE = 1 << 15, 1 / 8

_MOVED = 1 << 14  # rows that are moved at once


class HalfSums(Protocol):
    """Sums of vectors, by feature and half."""

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        """Add ``vectors`` (m, dim) to the sums of ``ids`` (m,) in the ``halves`` (m,), 0 or 1."""

    def result(self) -> tuple[RowSums, RowSums]:
        """The sums of both halves."""


def half_sums(features: int, dim: int) -> HalfSums:
    """No sums yet, of vectors of width ``dim`` for up to ``features`` features."""
    few = 2 * features <= _LEAST_WAITING
    return _FewSums(features, dim) if few else _ManySums(features, dim)


def _numbered(ids: Tensor, halves: Tensor, features: int) -> Tensor:
    """A number (m,) for each id and half, those of half 1 after all of half 0."""
    return torch.add(ids, halves, alpha=features).cpu()


class _FewSums:
    """Sums for all features, whether they occur or not."""

    def __init__(self, features: int, dim: int) -> None:
        self._features = features
        self._sums = torch.zeros(2 * features, dim)
        self._seen = torch.zeros(2 * features, dtype=torch.bool)

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        places = _numbered(ids, halves, self._features)
        self._sums.index_add_(0, places, vectors.float().cpu())
        self._seen.index_fill_(0, places, True)

    def result(self) -> tuple[RowSums, RowSums]:
        return self._of(0), self._of(1)

    def _of(self, half: int) -> RowSums:
        own = slice(half * self._features, (half + 1) * self._features)
        seen = self._seen[own]
        return RowSums(seen.nonzero()[:, 0].numpy(), self._sums[own][seen].numpy())


class _ManySums:
    """Sums for the features that occur."""

    def __init__(self, features: int, dim: int) -> None:
        self._features = features
        self._halves = (_GrowingSums(dim), _GrowingSums(dim))
        # Lookups are copied into memory that stays: new memory for each batch takes longer.
        self._places = torch.zeros(0, dtype=torch.int64)
        self._vectors = torch.zeros(0, dim)
        self._count = 0  # of lookups that wait there

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        after = self._count + len(ids)
        known = sum(len(half.ids) for half in self._halves)
        most = max(_LEAST_WAITING, int(_WAITING_SHARE * known))
        if after > len(self._places):
            self._grow(max(after, most + len(ids)))
        self._places[self._count : after] = _numbered(ids, halves, self._features)
        self._vectors[self._count : after] = vectors
        self._count = after
        if after > most:
            self._merge()

    def result(self) -> tuple[RowSums, RowSums]:
        self._merge()
        one, other = (RowSums(half.ids, half.sums) for half in self._halves)
        return one, other

    def _grow(self, size: int) -> None:
        places = self._places.new_empty(size)
        vectors = self._vectors.new_empty(size, self._vectors.shape[1])
        places[: self._count] = self._places[: self._count]
        vectors[: self._count] = self._vectors[: self._count]
        self._places, self._vectors = places, vectors

    def _merge(self) -> None:
        if not self._count:
            return
        places, sums = _summed(self._places[: self._count], self._vectors[: self._count])
        self._count = 0
        cut = int(torch.searchsorted(places, self._features))
        self._halves[0].add(places[:cut].numpy(), sums[:cut])
        self._halves[1].add((places[cut:] - self._features).numpy(), sums[cut:])


class _GrowingSums:
    """Sums by feature, in ascending order of ids (n,); they grow in place, for they may be most of
    the memory."""

    def __init__(self, dim: int) -> None:
        self.ids = np.zeros(0, np.int64)
        self.sums = np.zeros((0, dim), np.float32)

    def add(self, ids: NDArray[np.int64], vectors: Tensor) -> None:
        """Add ``vectors`` (m, dim) of ``ids`` (m,), ascending."""
        places = np.searchsorted(self.ids, ids)
        inside = places < len(self.ids)
        new = np.ones(len(ids), np.bool_)
        new[inside] = self.ids[places[inside]] != ids[inside]
        places += np.cumsum(new) - new  # new ones before each
        if new.any():
            at = places[new]
            known = np.ones(len(self.ids) + len(at), np.bool_)
            known[at] = False
            kept = np.flatnonzero(known)
            for values in (self.ids, self.sums):
                _move_apart(values, kept, len(known))
            self.ids[at], self.sums[at] = ids[new], 0
        torch.from_numpy(self.sums).index_add_(0, torch.from_numpy(places), vectors)


def _move_apart(values: NDArray[Any], places: NDArray[np.int64], size: int) -> None:
    """Make ``values`` (n, ...) ``size`` long, and move each to its place of ``places`` (n,), which
    ascend. What is left between is undefined."""
    count = len(values)
    values.resize((size, *values.shape[1:]), refcheck=False)
    for start in reversed(range(0, count, _MOVED)):
        part = slice(start, min(start + _MOVED, count))
        values[places[part]] = values[part].copy()


def _summed(keys: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The different keys, ascending, and the sums of the ``vectors`` of each, in their order."""
    # NumPy sorts numbers several times faster than PyTorch, if no order goes with them.
    shift = len(keys).bit_length()
    numbered = np.sort(keys.numpy() << shift | np.arange(len(keys)))
    order = torch.from_numpy(numbered & ((1 << shift) - 1))
    keys = torch.from_numpy(numbered >> shift)
    first = torch.ones(len(keys), dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    starts = first.nonzero()[:, 0]
    return keys[starts], embedding_bag(order, vectors, starts, mode="sum")
