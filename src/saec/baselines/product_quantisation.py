"""Product quantisation by faiss, with and without a learned rotation.

Sources: Jégou, Douze, Schmid, Product quantization for nearest neighbor search, 2011; Ge, He, Ke,
Sun, Optimized product quantization, 2013. The rotation is learned as there, without faiss's
OPQMatrix: training one with a quantiser of few bits crashed twice in faiss 1.15.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.baselines.rival import Choice, Table, as_half
from saec.bits.packing import PackedRows, packed_bytes
from saec.errors import require
from saec.util.absent_arrays import absent

__all__ = ["ProductQuantisation"]

_SAMPLE = 2048  # rows to learn from, and to measure on, where choices are compared
_SAMPLE_ITERATIONS = 8  # of k-means there; 25 are faiss's own
_TYPICAL_BITS = 4
_ROTATION_ROWS = 16_384  # to learn rotations from
_ROTATION_ITERATIONS = 20
_ROTATION_KMEANS = 4  # iterations of k-means in each


@dataclass(frozen=True)
class ProductQuantisation:
    """Pieces of rows by their nearest centroids; see :class:`~saec.baselines.rival.Rival`.

    A choice is the number of pieces and the bits of each. Codebooks and rotations are float16, and
    codes are packed without gaps. Rows count alike in learning, as in faiss.

    Args:
        rotated: learn a rotation first (OPQ).

    Raises:
        OptionalDependencyError: faiss is not installed.
    """

    has_one_size = False

    rotated: bool = False

    def __post_init__(self) -> None:
        require("faiss", "bench")  # now, not after an hour of training

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """One piece of 0 to 8 bits; several of 2, 4, 6 or 8; no more centroids than rows."""
        several = [pieces for pieces in (2, 4, 8, 16, 32) if dim % pieces == 0]
        sizes = [(1, bits) for bits in range(9)]
        sizes += [(pieces, bits) for pieces in several for bits in (2, 4, 6, 8)]
        return [(pieces, bits) for pieces, bits in sizes if 2**bits <= count]

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """``codes``, packed; ``codebook``, (pieces x 2^bits, dim / pieces) float16; ``axes``, the
        rotation (dim, dim) float16, where it is learned and there are pieces."""
        pieces, bits = choice
        found: dict[str, NDArray[Any]] = {
            "codebook": absent(np.float16, pieces * 2**bits, dim // pieces)
        }
        if bits:
            nbytes = packed_bytes(count, pieces * bits)
            found["codes"] = absent(np.uint8, nbytes)
        if self._rotates(pieces):
            found["axes"] = absent(np.float16, dim, dim)
        return found

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """Learned on some rows, measured on others that are drawn by frequency."""
        count = len(table.rows)
        seen = table.rows[np.sort(rng.permutation(count)[:_SAMPLE])]
        share = table.frequencies / table.frequencies.sum()
        asked = table.rows[rng.choice(count, _SAMPLE, p=share)]
        learned = Table(table.name, seen, np.ones(len(seen)))
        found = []
        # One for each number of pieces, for whatever bits: learning one takes seconds.
        typical = {pieces: bits for pieces, bits in choices if bits <= _TYPICAL_BITS}
        rotations = {each: self._rotation(learned, each, typical[each], rng) for each in typical}
        for choice in choices:
            rotation = rotations.get(choice[0])
            quantiser = _learned(learned, choice, rotation, rng, _SAMPLE_ITERATIONS)
            rows = quantiser.decoded(quantiser.codes(asked))
            mean = float(np.square(rows - asked).sum(axis=1).mean())
            found.append(mean * float(table.frequencies.sum()))
        return found

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Learn from rows that faiss samples, and code all."""
        pieces, bits = choice
        rotation = self._rotation(table, pieces, bits, rng)
        quantiser = _learned(table, choice, rotation, rng)
        found: dict[str, NDArray[Any]] = {
            "codebook": quantiser.codebook.reshape(pieces * 2**bits, -1)
        }
        if bits:
            codes = quantiser.codes(table.rows)
            found["codes"] = PackedRows.pack(list(codes.T), [bits] * pieces).data
        if quantiser.rotation is not None:
            found["axes"] = quantiser.rotation
        return found

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """The pieces side by side, and rotated back."""
        pieces, bits = choice
        codebook = tensors["codebook"].reshape(pieces, 2**bits, shape[1] // pieces)
        if bits:
            codes = PackedRows(tensors["codes"], 0, shape[0], (bits,) * pieces).gather(ids)
        else:
            codes = np.zeros((len(ids), pieces), np.uint32)
        return _Quantiser(codebook, tensors.get("axes")).decoded(codes)

    def _rotates(self, pieces: int) -> bool:
        return self.rotated and pieces > 1

    def _rotation(
        self, table: Table, pieces: int, bits: int, rng: np.random.Generator
    ) -> NDArray[np.float16] | None:
        """The rotation (dim, dim) for such codes, if any: codes and rotation improve in turn."""
        if not self._rotates(pieces):
            return None
        picked = np.sort(rng.permutation(len(table.rows))[:_ROTATION_ROWS])
        rows = table.rows[picked]
        rotation = np.eye(rows.shape[1], dtype=np.float32)
        for _ in range(_ROTATION_ITERATIONS):
            turned = Table(table.name, rows @ rotation.T, np.ones(len(rows)))
            quantiser = _learned(turned, (pieces, bits), None, rng, _ROTATION_KMEANS)
            coded = quantiser.decoded(quantiser.codes(turned.rows))
            # The rotation that brings rows nearest to their codes' rows (orthogonal Procrustes).
            left, _, right = np.linalg.svd(coded.T.astype(np.float64) @ rows)
            rotation = (left @ right).astype(np.float32)
        return as_half(rotation, table.name)


@dataclass(frozen=True, eq=False)
class _Quantiser:
    """What was learned: ``codebook`` (pieces, 2^bits, width) and ``rotation`` (dim, dim), float16.

    Rows of the rotation are the new directions.
    """

    codebook: NDArray[np.float16]
    rotation: NDArray[np.float16] | None

    def codes(self, rows: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The nearest centroid of each piece of each row, (n, pieces)."""
        if self.codebook.shape[1] == 1:
            return np.zeros((len(rows), len(self.codebook)), np.uint32)
        faiss = require("faiss", "bench")
        if self.rotation is not None:
            rows = rows @ self.rotation.astype(np.float32).T
        codes = np.empty((len(rows), len(self.codebook)), np.uint32)
        width = self.codebook.shape[2]
        for piece, centroids in enumerate(self.codebook.astype(np.float32)):
            part = np.ascontiguousarray(rows[:, piece * width : (piece + 1) * width])
            codes[:, piece] = faiss.knn(part, np.ascontiguousarray(centroids), 1)[1][:, 0]
        return codes

    def decoded(self, codes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """The rows of codes (n, pieces)."""
        pieces = [centroids[codes[:, j]] for j, centroids in enumerate(self.codebook)]
        rows = np.concatenate(pieces, axis=1).astype(np.float32)
        return rows if self.rotation is None else rows @ self.rotation.astype(np.float32)


def _learned(
    table: Table,
    choice: Choice,
    rotation: NDArray[np.float16] | None,
    rng: np.random.Generator,
    iterations: int = 25,
) -> _Quantiser:
    """Codebooks for the rows as ``rotation`` turns them."""
    pieces, bits = choice
    rows, dim = table.rows, table.rows.shape[1]
    if bits == 0:
        mean = rows.mean(axis=0, dtype=np.float64)
        return _Quantiser(as_half(mean.reshape(1, 1, dim), table.name), None)
    quantiser = _product_quantiser(dim, choice, rng)
    quantiser.cp.niter = iterations
    quantiser.train(rows if rotation is None else rows @ rotation.astype(np.float32).T)
    centroids = require("faiss", "bench").vector_to_array(quantiser.centroids)
    shape = pieces, 2**bits, dim // pieces
    return _Quantiser(as_half(centroids.reshape(shape), table.name), rotation)


def _product_quantiser(dim: int, choice: Choice, rng: np.random.Generator) -> Any:
    quantiser = require("faiss", "bench").ProductQuantizer(dim, *choice)
    quantiser.cp.seed = int(rng.integers(2**31))
    quantiser.cp.min_points_per_centroid = 1  # by default, fewer than 39 print a warning
    return quantiser
