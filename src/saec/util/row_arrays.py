"""Values of some rows, in arrays with an entry for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowArrays"]


@dataclass(frozen=True, eq=False)
class RowArrays:
    """Base class of frozen dataclasses with values of k rows.

    Fields are arrays (k, ...), lists or tuples of these, or what all rows have in common.
    """

    def only(self, kept: NDArray[Any] | slice) -> Self:
        """The rows ``kept``: a mask (k,), positions, or a slice."""
        return replace(
            self, **{own.name: _only(getattr(self, own.name), kept) for own in fields(self)}
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The rows of all ``parts``, in their order; these have the same in common."""
        joined = {
            own.name: _join([getattr(part, own.name) for part in parts]) for own in fields(cls)
        }
        return replace(parts[0], **joined)


def _only(value: Any, kept: NDArray[Any] | slice) -> Any:
    if isinstance(value, np.ndarray):
        return value[kept]
    if isinstance(value, list | tuple):
        return type(value)(own[kept] for own in value)
    return value


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, list | tuple):
        return type(first)(np.concatenate(own) for own in zip(*values, strict=True))
    return first
