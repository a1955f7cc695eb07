"""Centroids as they are stored: float32, float16, or int8 with a scale and an offset per axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saec.errors import ArtifactError

__all__ = ["Codebook", "CodebookDtype", "codebook_bytes"]

CodebookDtype = Literal["float32", "float16", "int8"]

_INT8_STEPS = 254  # -127 .. 127


def codebook_bytes(clusters: int, dim: int, dtype: CodebookDtype) -> int:
    """Bytes that a codebook of ``clusters`` x ``dim`` takes in an artifact."""
    scales = 8 * dim if dtype == "int8" else 0
    return clusters * dim * np.dtype(dtype).itemsize + scales


@dataclass(frozen=True, eq=False)
class Codebook:
    """``stored`` (k, dim) in its dtype; int8 has ``scale`` and ``offset``, each (dim,) float32."""

    stored: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.stored.ndim != 2 or 0 in self.stored.shape:
            raise ArtifactError(f"a codebook has shape (clusters, dim), not {self.stored.shape}")
        if self.stored.dtype.name not in get_args(CodebookDtype):
            raise ArtifactError(
                f"a codebook is {' or '.join(get_args(CodebookDtype))}, not {self.stored.dtype}"
            )
        for vector in (self.scale, self.offset):
            wanted = (self.stored.shape[1],) if self.stored.dtype == np.int8 else None
            shape = None if vector is None else vector.shape
            if shape != wanted:
                raise ArtifactError(f"scale and offset have shape {wanted}, not {shape}")

    @classmethod
    def round(cls, centroids: NDArray[np.float32], dtype: CodebookDtype) -> Codebook:
        """Round ``centroids`` (k, dim) float32 to ``dtype``.

        Values beyond float16's range are clipped to it. int8 spreads its 255 steps over the range
        of each axis: value = offset + scale * step.
        """
        if dtype == "int8":
            low, high = centroids.min(axis=0), centroids.max(axis=0)
            offset = (low.astype(np.float64) + high) / 2
            scale = (high.astype(np.float64) - low) / _INT8_STEPS
            # A constant axis, or one whose step underflows float32, is its offset alone.
            scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale).astype(np.float32)
            offset = offset.astype(np.float32)
            steps = np.rint((centroids - offset) / scale.astype(np.float64))
            return cls(np.clip(steps, -127, 127).astype(np.int8), scale, offset)
        limit = np.finfo(dtype).max
        return cls(np.clip(centroids, -limit, limit).astype(dtype))

    @property
    def clusters(self) -> int:
        """Number of centroids."""
        return self.stored.shape[0]

    @property
    def dim(self) -> int:
        """Width of a centroid."""
        return self.stored.shape[1]

    @property
    def dtype(self) -> CodebookDtype:
        """The stored dtype's name."""
        name: CodebookDtype = self.stored.dtype.name  # type: ignore[assignment]
        return name

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact."""
        return codebook_bytes(self.clusters, self.dim, self.dtype)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The centroids that decoding uses, (k, dim) float32. Encoding must use these, too."""
        if self.scale is None or self.offset is None:
            return np.ascontiguousarray(self.stored, dtype=np.float32)
        return self.stored.astype(np.float32) * self.scale + self.offset

    def keep(self, rows: NDArray[np.integer]) -> Codebook:
        """The codebook with the centroids ``rows`` only, in that order."""
        return Codebook(self.stored[rows], self.scale, self.offset)
