"""Small item tables of on-device recommenders: tensor trains, and compositional codes."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.bits.packing import packed_bytes
from saec.clustering.kmeans import kmeans
from saec.clustering.points import ArrayPoints
from saec.errors import BudgetError
from saec.reference.small.tables import HALF_BYTES, largest
from saec.reference.small.tensor_train import TrainRows, largest_divisor, train_numbers

__all__ = ["CodedItems", "ItemTable", "TrainItems"]

_MOST_RANK = 256
_FIT_STEPS, _FIT_RATE = 400, 0.01
_BOOK_BITS = (3, 4, 5, 6, 7, 8)
_ITERATIONS = 30  # of k-means


class ItemTable(nn.Module):
    """Ids (...) -> rows (..., dim); parameters are stored as float16."""

    nbytes: int
    """Bytes of all that is stored."""

    @abstractmethod
    def all_rows(self) -> Tensor:
        """(items, dim)."""

    def forward(self, ids: Tensor) -> Tensor:
        """See above."""
        return self.all_rows()[ids]

    @torch.no_grad()
    def round_(self) -> None:
        """Round the parameters as they are stored."""
        for parameter in self.parameters():
            parameter.copy_(parameter.half())

    def fit(self, rows: Tensor) -> None:
        """Bring all rows as near to ``rows`` (items, dim) as Adam does in some hundred steps."""
        optimiser = torch.optim.Adam(self.parameters(), lr=_FIT_RATE)
        for _ in range(_FIT_STEPS):
            optimiser.zero_grad()
            (self.all_rows() - rows).square().sum(1).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.round_()


class TrainItems(ItemTable):
    """A tensor train of semi-tensor products.

    Source: Xia et al., On-Device Next-Item Recommendation with Self-Supervised Knowledge
    Distillation, SIGIR 2022 (arXiv 2204.11091).

    Args:
        rows: (items, dim) of the uncompressed table, which the train is fitted to.
        nbytes: most bytes; the rank is the largest that they allow.
        factor: size of the identity matrices of the semi-tensor products; the largest divisor of
            ``dim`` up to it is taken.

    Raises:
        BudgetError: rank 1 takes more bytes.
    """

    def __init__(self, rows: Tensor, nbytes: int, factor: int = 2) -> None:
        super().__init__()
        count, dim = rows.shape
        factor = largest_divisor(dim, factor)

        def total(rank: int) -> int:
            return HALF_BYTES * train_numbers(count, dim, rank, factor)

        rank = largest(total, _MOST_RANK, nbytes, "a tensor train")
        self.nbytes = total(rank)
        self.train_rows = TrainRows(torch.arange(count), count, dim, rank, factor)
        for core in self.train_rows.cores:
            core.sparse = False  # type: ignore[assignment]  # all rows get gradients
        self.fit(rows.detach())

    def all_rows(self) -> Tensor:
        """See :class:`ItemTable`."""
        return self.train_rows.all_rows()


class CodedItems(ItemTable):
    """Sums of one row of each of several codebooks; codes are fixed, and codebooks are trained.

    Source: Xia et al., Efficient On-Device Session-Based Recommendation, ACM TOIS 2023 (arXiv
    2209.13422). There, codes are learned together with the codebooks; here, each codebook is a
    k-means of what those before it leave of the uncompressed table.

    Args:
        rows: (items, dim) of the uncompressed table.
        nbytes: most bytes; of the numbers and sizes of codebooks that they allow, those with the
            least squared error are taken.
        seed: of the clusterings.

    Raises:
        BudgetError: one codebook of eight rows takes more bytes.
    """

    codes: Tensor

    def __init__(self, rows: Tensor, nbytes: int, seed: int = 0) -> None:
        super().__init__()
        plain = np.ascontiguousarray(rows.detach().numpy(), np.float32)
        count, dim = plain.shape
        tried = []
        for bits in _BOOK_BITS:
            books = _most_books(count, dim, bits, nbytes)
            if books:
                tried.append(_residual_books(plain, books, 1 << bits, seed))
        if not tried:
            least = _coded_bytes(count, dim, 1, _BOOK_BITS[0])
            raise BudgetError(f"codes need at least {least} bytes; {nbytes} were allowed")
        codes, found, _ = min(tried, key=lambda one: one[2])
        self.register_buffer("codes", torch.from_numpy(codes))
        self.books = nn.Parameter(torch.from_numpy(found))
        books, size, _ = found.shape
        self.nbytes = _coded_bytes(count, dim, books, size.bit_length() - 1)
        self.round_()

    def all_rows(self) -> Tensor:
        """See :class:`ItemTable`."""
        books = torch.arange(len(self.books))[:, None]
        return self.books[books, self.codes].sum(0)


def _most_books(count: int, dim: int, bits: int, nbytes: int) -> int:
    """How many codebooks fit."""
    books = 0
    while _coded_bytes(count, dim, books + 1, bits) <= nbytes:
        books += 1
    return books


def _coded_bytes(count: int, dim: int, books: int, bits: int) -> int:
    return HALF_BYTES * books * (1 << bits) * dim + packed_bytes(count, books * bits)


def _residual_books(
    rows: NDArray[np.float32], books: int, size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
    """Codes (books, count), codebooks (books, size, dim), and the squared error that is left."""
    left = rows.copy()
    codes = np.zeros((books, len(rows)), np.int64)
    found = np.zeros((books, size, rows.shape[1]), np.float32)
    for book in range(books):
        points = ArrayPoints(left, threads=1)
        rng = np.random.default_rng([seed, book])
        centroids = kmeans(points, size, rng=rng, iterations=_ITERATIONS).centroids
        codes[book] = points.assign(centroids)
        found[book, : len(centroids)] = centroids
        left = left - centroids[codes[book]]
    return codes, found, float(np.square(left.astype(np.float64)).sum())
