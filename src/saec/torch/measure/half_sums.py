"""Sums of vectors by feature, over two halves of the examples, for the features that occur."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saec.tables.unseen_gradients import RowSums

__all__ = ["HalfSums", "half_sums"]

# Lookups that wait until they are added to the sums: at least so many, and as large a share of the
# sums, so that both memory and time are in proportion to these.
_LEAST_WAITING, _WAITING_SHARE = 1 << 15, 1 / 4


class HalfSums(Protocol):
    """Sums of vectors, by feature and half."""

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        """Add ``vectors`` (m, dim) to the sums of ``ids`` (m,) in the ``halves`` (m,), 0 or 1."""

    def result(self) -> tuple[RowSums, RowSums]:
        """The sums of both halves."""


def half_sums(features: int, dim: int) -> HalfSums:
    """No sums yet, of vectors of width ``dim`` for up to ``features`` features."""
    return _FewSums(features, dim) if 2 * features <= _LEAST_WAITING else _ManySums(dim)


class _FewSums:
    """Sums for all features, whether they occur or not."""

    def __init__(self, features: int, dim: int) -> None:
        self._sums = torch.zeros(2 * features, dim)
        self._seen = torch.zeros(2 * features, dtype=torch.bool)

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        keys = (2 * ids.long() + halves).cpu()
        self._sums.index_add_(0, keys, vectors.float().cpu())
        self._seen[keys] = True

    def result(self) -> tuple[RowSums, RowSums]:
        return self._of(0), self._of(1)

    def _of(self, half: int) -> RowSums:
        seen = self._seen[half::2]
        return RowSums(seen.nonzero()[:, 0].numpy(), self._sums[half::2][seen].numpy())


class _ManySums:
    """Sums for the features that occur, each half in ascending order of ids."""

    def __init__(self, dim: int) -> None:
        none = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dim)
        self._halves = [none, none]
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._count = 0  # of vectors that wait

    def add(self, ids: Tensor, halves: Tensor, vectors: Tensor) -> None:
        self._waiting.append(((2 * ids.long() + halves).cpu(), vectors.float().cpu()))
        self._count += len(ids)
        known = sum(len(ids) for ids, _ in self._halves)
        if self._count > max(_LEAST_WAITING, int(_WAITING_SHARE * known)):
            self._merge()

    def result(self) -> tuple[RowSums, RowSums]:
        self._merge()
        one, other = (RowSums(ids.numpy(), sums.numpy()) for ids, sums in self._halves)
        return one, other

    def _merge(self) -> None:
        if not self._waiting:
            return
        keys, vectors = map(torch.cat, zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        keys, sums = _summed(keys, vectors)
        for half, known in enumerate(self._halves):
            mine = (keys & 1) == half
            self._halves[half] = _added(*known, keys[mine] >> 1, sums[mine])


def _added(ids: Tensor, sums: Tensor, more: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending ``ids`` (n,) and their ``sums`` (n, dim) with those of ``more`` ids (m,), ascending
    as well, and their ``vectors`` (m, dim)."""
    places = torch.searchsorted(ids, more)
    new = torch.ones(len(more), dtype=torch.bool)
    inside = places < len(ids)
    new[inside] = ids[places[inside]] != more[inside]
    if new.any():
        known = torch.ones(len(ids) + int(new.sum()), dtype=torch.bool)
        known[places[new] + torch.arange(int(new.sum()))] = False
        every, larger = ids.new_zeros(len(known)), sums.new_zeros(len(known), sums.shape[1])
        every[known], every[~known] = ids, more[new]
        larger[known] = sums
        ids, sums = every, larger
    sums.index_add_(0, torch.searchsorted(ids, more), vectors)
    return ids, sums


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
