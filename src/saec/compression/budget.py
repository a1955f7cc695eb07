"""Limits of a compression: bytes, bits per feature, or nats of loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from saec.errors import BudgetError
from saec.util.sizes import parse_size

__all__ = [
    "BitsPerFeature",
    "Budget",
    "LossIncrease",
    "MaxBytes",
    "Ratio",
    "SizeBudget",
    "check_budget",
]

_MOST_BITS = 1e100  # per feature, all that count; products of larger numbers may be infinite


@dataclass(frozen=True)
class Ratio:
    """A compression ratio: the artifact takes at most ``1 / value`` of the tables' bytes.

    Raises:
        BudgetError: ``value`` is not a finite number of at least 1.
    """

    value: float

    def __post_init__(self) -> None:
        if not is_finite_number(self.value) or self.value < 1:
            raise BudgetError(f"a ratio must be a number of at least 1, not {self.value!r}")

    def max_bytes(self, original_bytes: int, features: int) -> int:
        """Bytes allowed for tables of ``original_bytes`` with ``features`` rows in total."""
        return math.floor(original_bytes / self.value)


@dataclass(frozen=True)
class MaxBytes:
    """A size: a number of bytes, or text like ``"161MB"`` (decimal) or ``"2GiB"`` (binary).

    Raises:
        BudgetError: the size is below 1 byte or cannot be read.
    """

    value: int | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", parse_size(self.value))

    def max_bytes(self, original_bytes: int, features: int) -> int:
        """Bytes allowed; the same for all tables."""
        return int(self.value)


@dataclass(frozen=True)
class BitsPerFeature:
    """Average bits per feature, including everything that decoding needs.

    Raises:
        BudgetError: ``value`` is not a finite number above 0.
    """

    value: float

    def __post_init__(self) -> None:
        if not is_finite_number(self.value) or self.value <= 0:
            raise BudgetError(f"bits per feature must be a number above 0, not {self.value!r}")

    def max_bytes(self, original_bytes: int, features: int) -> int:
        """Bytes allowed for ``features`` rows in total."""
        return math.floor(features * min(self.value, _MOST_BITS) / 8)


@dataclass(frozen=True)
class LossIncrease:
    """A limit of the loss: compression gives the smallest artifact whose predicted increase of the
    mean log loss, in nats, is at most ``value``. Needs the loss metric.

    :func:`saec.compress` uses a second-order prediction, which is not a guarantee: on rows that the
    tables have not seen, the increase may be several times smaller or, especially if it is small,
    larger. :func:`saec.torch.compress_` with ``calibration`` rows measures it on these rows.

    Raises:
        BudgetError: ``value`` is not a finite number above 0.
    """

    value: float

    def __post_init__(self) -> None:
        if not is_finite_number(self.value) or self.value <= 0:
            raise BudgetError(f"a loss increase must be a number above 0, not {self.value!r}")


SizeBudget = Ratio | MaxBytes | BitsPerFeature
Budget = SizeBudget | LossIncrease


def check_budget(budget: object) -> None:
    """Reject everything but a budget and None.

    Raises:
        BudgetError: in that case; the message suggests what may have been meant.
    """
    if budget is None or isinstance(budget, Budget):
        return
    if isinstance(budget, str):
        meant = f"saec.MaxBytes({budget!r})"
    elif is_finite_number(budget):
        meant = f"saec.Ratio({budget})"
    else:
        meant = "saec.Ratio(27) or saec.MaxBytes('161MB')"
    raise BudgetError(f"{budget!r} is no budget; write {meant}")


def is_finite_number(value: object) -> bool:
    """Whether it is a finite number of any type, NumPy's included, and no boolean."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False
