"""Settings of training with a price on bits, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from saec.errors import OptionError

__all__ = ["PriceSettings", "check_positive"]


@dataclass(frozen=True)
class PriceSettings:
    """See :class:`saec.torch.BitPrice`, also for the errors."""

    noise: float
    row_decay: float
    half_life: float

    def __post_init__(self) -> None:
        check_positive("noise", self.noise)
        check_positive("half_life", self.half_life)
        if not 0 <= self.row_decay < math.inf:
            raise OptionError(f"row_decay is {self.row_decay}; it must be finite and not negative")


def check_positive(name: str, value: float) -> None:
    """Raise OptionError for a value that is not positive and finite."""
    if not 0 < value < math.inf:
        raise OptionError(f"{name} is {value}; it must be positive")
