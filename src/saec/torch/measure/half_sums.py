"""Sums of vectors by feature, over two halves of the examples, for the features that occur."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saec.tables.unseen_gradients import RowSums

__all__ = ["HalfSums"]

# Lookups that wait until they are added to the sums: at least so many, and as large a share of the
# sums, so that both memory and time are in proportion to these.
_LEAST_WAITING, _WAITING_SHARE = 1 << 14, 1 / 4


class HalfSums:
    """Sums of vectors of width ``dim``, by feature and half, for ``features`` features.

    A key is twice the feature's id, plus the half. Keys are kept in ascending order and sums in
    the order in which keys came first, because moving keys takes less time than moving vectors.
    If there are few features, all keys are there from the beginning.
    """

    def __init__(self, features: int, dim: int) -> None:
        self._all = 2 * features <= _LEAST_WAITING
        self._keys = torch.arange(2 * features if self._all else 0)
        self._rows = self._keys  # of each key, its row of the sums
        self._sums = torch.zeros(len(self._keys), dim)  # with room for more rows
        self._seen = torch.zeros(len(self._keys), dtype=torch.bool)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0  # of vectors that wait

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        """Add ``vectors`` (m, dim) to the sums of ``ids`` (m,) in the ``halves`` (m,), 0 or 1."""
        keys, vectors = (2 * ids.long() + halves).cpu(), vectors.float().cpu()
        if self._all:
            self._sums.index_add_(0, keys, vectors)
            self._seen[keys] = True
            return
        self._waiting.append((keys, vectors))
        self._count += len(ids)
        if self._count > max(_LEAST_WAITING, int(_WAITING_SHARE * len(self._keys))):
            self._merge()

    def result(self) -> tuple[RowSums, RowSums]:
        """The sums of both halves."""
        self._merge()
        seen = self._seen if self._all else torch.ones(len(self._keys), dtype=torch.bool)
        halves = []
        for half in range(2):
            mine = seen & ((self._keys & 1) == half)
            sums = self._sums[self._rows[mine]]
            halves.append(RowSums((self._keys[mine] >> 1).numpy(), sums.numpy()))
        return halves[0], halves[1]

    def _merge(self) -> None:
        if not self._waiting:
            return
        keys, sums = _summed(*map(torch.cat, zip(*self._waiting, strict=True)))
        self._waiting, self._count = [], 0
        places = torch.searchsorted(self._keys, keys)
        known = torch.zeros(len(keys), dtype=torch.bool)
        inside = places < len(self._keys)
        known[inside] = self._keys[places[inside]] == keys[inside]
        self._sums.index_add_(0, self._rows[places[known]], sums[known])
        self._append(keys[~known], places[~known], sums[~known])

    def _append(self, keys: Tensor, places: Tensor, sums: Tensor) -> None:
        """Add new ``keys`` (m,), each before the key that is at its place, and their ``sums``."""
        count, more = len(self._keys), len(keys)
        if not more:
            return
        if count + more > len(self._sums):
            room = torch.empty(max(count + more, len(self._sums) * 9 // 8), sums.shape[1])
            room[:count] = self._sums[:count]
            self._sums = room
        self._sums[count : count + more] = sums
        new = places + torch.arange(more)
        old = torch.ones(count + more, dtype=torch.bool)
        old[new] = False
        merged = torch.empty(2, count + more, dtype=torch.int64)
        merged[0, new], merged[1, new] = keys, torch.arange(count, count + more)
        merged[0, old], merged[1, old] = self._keys, self._rows
        self._keys, self._rows = merged[0], merged[1]


def _summed(keys: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The different keys, ascending, and the sums of the ``vectors`` of each, in their order."""
    # NumPy sorts numbers several times faster than PyTorch, if no order goes with them.
    shift = len(keys).bit_length()
    numbered = np.sort(keys.numpy() << shift | np.arange(len(keys)))
    keys, order = (torch.from_numpy(own) for own in (numbered >> shift, numbered % (1 << shift)))
    first = torch.ones(len(keys), dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    starts = first.nonzero()[:, 0]
    return keys[starts], embedding_bag(order, vectors, starts, mode="sum")
