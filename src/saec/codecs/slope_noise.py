"""How far an option's first-order loss may be off, because slopes on unseen rows are noisy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

__all__ = ["SlopeNoise", "squared_error_between"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlopeNoise:
    """The errors of an option, one for each slope that was measured.

    Args:
        slopes: the measurement. Errors of options that share it come from the same errors of
            slopes, so what two options have in common is no error of their difference.
        parts: makes the errors (k,), in nats: the standard error of a slope times what the option
            does along it, with its sign. The slopes' errors are independent.
    """

    slopes: object
    parts: Callable[[], Floats]

    @classmethod
    def of(cls, slopes: object, parts: Floats) -> SlopeNoise:
        """From errors (k,) that are known already."""
        return cls(slopes, partial(np.asarray, parts))

    @property
    def error(self) -> float:
        """The standard error of the option's first-order loss, in nats."""
        return float(np.linalg.norm(self.parts()))


def squared_error_between(one: SlopeNoise | None, other: SlopeNoise | None) -> float:
    """The squared standard error of the difference of two options' first-order losses.

    None stands for an option that moves nothing along slopes. Errors of different measurements are
    taken to be independent.
    """
    if one is not None and other is not None and one.slopes is other.slopes:
        return float(np.square(one.parts() - other.parts()).sum())
    return sum(own.error**2 for own in (one, other) if own is not None)
