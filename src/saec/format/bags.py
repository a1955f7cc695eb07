"""Bags of ids: groups whose rows are reduced to one. Everything but the range of ids is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.bits.packing import whole_ids
from saec.errors import IdError

__all__ = ["MODES", "Bags", "Mode", "bags_of"]

Mode = Literal["sum", "mean", "max"]
MODES = get_args(Mode)


@dataclass(frozen=True, eq=False)
class Bags:
    """Ids of one field, checked except for their range, and the reduction of their rows.

    ids: (m,) int32 or int64; offsets: (bags,) int64, None if each id is a bag of its own; weights:
    (m,) float32 or None.
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    mode: Mode = "sum"

    @property
    def count(self) -> int:
        """Number of rows of the result."""
        return len(self.ids if self.offsets is None else self.offsets)


def bags_of(
    ids: ArrayLike,
    offsets: ArrayLike,
    per_sample_weights: ArrayLike | None,
    mode: Mode,
    place: str,
) -> Bags:
    """Check everything except ranges of ids and offsets; see :meth:`CompressedField.pool`."""
    if mode not in MODES:
        raise ValueError(f"mode is sum, mean or max, not {mode!r}")
    flat = whole_ids(ids, place).reshape(-1)
    starts = _checked_offsets(offsets, len(flat), place)
    weights = None
    if per_sample_weights is not None:
        weights = _checked_weights(per_sample_weights, len(flat), mode)
    return Bags(flat, starts, weights, mode)


def _checked_offsets(offsets: ArrayLike, count: int, place: str) -> NDArray[np.int64]:
    starts = np.asarray(offsets)
    if starts.ndim != 1 or (starts.size and starts.dtype.kind not in "iu"):
        raise IdError(f"{place}: offsets must be a vector of integers")
    starts = np.require(starts, np.int64, ["C", "A"])
    if not starts.size and count:
        raise IdError(f"{place}: {count} ids, but no bags")
    return starts


def _checked_weights(weights: ArrayLike, count: int, mode: Mode) -> NDArray[np.float32]:
    factors = np.require(np.asarray(weights), np.float32, ["C", "A"])
    if mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum', not {mode!r}")
    if factors.shape != (count,):
        raise ValueError(f"{count} ids, but per_sample_weights of shape {factors.shape}")
    return factors
