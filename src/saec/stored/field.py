"""What all stored fields share: lookup, pooling, decoding, and what the artifact says of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec import artifact
from saec.codes import check_ids
from saec.errors import ArtifactError, IdError
from saec.table import WEIGHT_DTYPES

__all__ = ["CompressedField", "Mode"]

Mode = Literal["sum", "mean", "max"]

_DECODE_ROWS = 1 << 16


class CompressedField(ABC):
    """A field's table in its compressed form; ids are row numbers in [0, vocab_size)."""

    codec: ClassVar[str]

    # Whether ids are new ones, and, until it is saved, the old id of each, (vocab_size,).
    renumbered: bool = False
    permutation: NDArray[np.int64] | None = None

    def __init__(self, name: str, vocab_size: int, dim: int, dtype: str) -> None:
        if not isinstance(name, str) or not name:
            raise ArtifactError(f"a field's name is a string that is not empty, not {name!r}")
        if vocab_size < 1:
            raise ArtifactError(f"vocab_size {vocab_size} is below 1")
        if dtype not in tuple(allowed.name for allowed in WEIGHT_DTYPES):
            raise ArtifactError(f"a table cannot have been {dtype!r}")
        self.name = name
        self.vocab_size = vocab_size
        self.dim = dim
        self.dtype = dtype

    @property
    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is stored, by role; see docs/format.md."""

    @abstractmethod
    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of checked ids (m,), as (m, dim)."""

    @classmethod
    @abstractmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        """The field of a file's entry; raises KeyError, TypeError or ArtifactError."""

    @property
    def description(self) -> dict[str, Any]:
        """What the artifact's metadata say about the field."""
        return {
            "name": self.name,
            "codec": self.codec,
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "dtype": self.dtype,
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def entry(self) -> artifact.Entry:
        """What the artifact holds of the field."""
        return artifact.Entry(self.description, self.tensors)

    @property
    def original_nbytes(self) -> int:
        """Bytes of the table that was compressed, in its own dtype."""
        return self.vocab_size * self.dim * np.dtype(self.dtype).itemsize

    def lookup(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Rows of ``ids``, any shape of integers, as ``ids.shape + (dim,)`` float32.

        Raises:
            IdError: an id lies outside [0, vocab_size).
        """
        checked = check_ids(ids, self.vocab_size, f"field {self.name!r}")
        return self._rows(checked.reshape(-1)).reshape(*checked.shape, self.dim)

    def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None = None,
        mode: Mode = "sum",
    ) -> NDArray[np.float32]:
        """Reduce bags of rows, as ``torch.nn.EmbeddingBag`` does: (bags, dim) float32.

        Args:
            ids: (m,) integers, bag after bag.
            offsets: (bags,) start of each bag, ascending from 0; an empty bag gives zeros.
            per_sample_weights: (m,) factors, for ``sum`` only.
            mode: ``sum``, ``mean`` or ``max``.

        Raises:
            IdError: an id or an offset is out of range.
            ValueError: weights with another mode than sum, or of another length.
        """
        rows = self.lookup(np.asarray(ids).reshape(-1))
        starts = _checked_offsets(offsets, len(rows), self.name)
        if per_sample_weights is not None:
            rows = rows * _checked_weights(per_sample_weights, len(rows), mode)[:, None]
        return _reduce_bags(rows, starts, mode)

    def decode(self) -> NDArray[np.float32]:
        """The whole table, (vocab_size, dim) float32."""
        table = np.empty((self.vocab_size, self.dim), dtype=np.float32)
        for start in range(0, self.vocab_size, _DECODE_ROWS):
            stop = min(start + _DECODE_ROWS, self.vocab_size)
            table[start:stop] = self._rows(np.arange(start, stop, dtype=np.int64))
        return table

    def __repr__(self) -> str:
        ratio = self.original_nbytes / self.nbytes
        return (
            f"{type(self).__name__}({self.name!r}, {self.vocab_size} x {self.dim}, "
            f"{self.nbytes} bytes, ratio {ratio:.1f})"
        )


def _checked_offsets(offsets: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    starts = np.asarray(offsets)
    if starts.ndim != 1 or (starts.size and starts.dtype.kind not in "iu"):
        raise IdError(f"field {name!r}: offsets must be a vector of integers")
    starts = starts.astype(np.int64)
    if starts.size and (starts[0] != 0 or np.any(np.diff(starts) < 0) or starts[-1] > count):
        raise IdError(f"field {name!r}: offsets must ascend from 0 to at most {count}")
    if not starts.size and count:
        raise IdError(f"field {name!r}: {count} ids, but no bags")
    return starts


def _checked_weights(weights: ArrayLike, count: int, mode: Mode) -> NDArray[np.float32]:
    factors = np.asarray(weights, dtype=np.float32)
    if mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum', not {mode!r}")
    if factors.shape != (count,):
        raise ValueError(f"{count} ids, but per_sample_weights of shape {factors.shape}")
    return factors


def _reduce_bags(
    rows: NDArray[np.float32], starts: NDArray[np.int64], mode: Mode
) -> NDArray[np.float32]:
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode is sum, mean or max, not {mode!r}")
    pooled = np.zeros((len(starts), rows.shape[1]), dtype=np.float32)
    lengths = np.diff(starts, append=len(rows))
    full = lengths > 0  # reduceat would give an empty bag its neighbour's first row
    if full.any():
        reduce = np.maximum if mode == "max" else np.add
        pooled[full] = reduce.reduceat(rows, starts[full], axis=0)
    if mode == "mean":
        pooled[full] /= lengths[full, None].astype(np.float32)
    return pooled
