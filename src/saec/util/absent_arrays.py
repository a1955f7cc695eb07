"""Arrays that have a shape and a dtype but take no memory: for sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["absent"]


def absent(dtype: DTypeLike, *shape: int) -> NDArray[Any]:
    """Zeros of a shape that take no memory and cannot be written.

    Quicker than ``np.broadcast_to``, as sizes are planned for thousands of layouts.
    """
    dtype = np.dtype(dtype)
    return np.ndarray(shape, dtype, bytes(dtype.itemsize), strides=(0,) * len(shape))
