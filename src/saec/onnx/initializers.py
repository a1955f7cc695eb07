"""Arrays that several tables share, and the base class of the nodes that read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from saec.onnx.node_builder import Builder, spread

__all__ = ["Store", "firsts"]


_NOWHERE = np.iinfo(np.int64).min  # no row has this index, so the runtime rejects it


class Store(ABC):
    """Arrays of several tables, which the same nodes can look up.

    A lookup takes int64 ids of any shape. With several tables, the ids of the tables are next to
    each other along one axis, one position (slot) for each table; ``rank_after`` axes follow it.
    """

    def __init__(self, names: Sequence[str], counts: Sequence[int]) -> None:
        self.slot = {name: number for number, name in enumerate(names)}
        self.counts = list(counts)

    @abstractmethod
    def rows(self, builder: Builder, ids: str, names: Sequence[str], rank_after: int) -> str:
        """Add the nodes of a lookup; returns the name of its rows, of shape ids.shape + (dim,)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all arrays."""

    def _of(
        self, names: Sequence[str], values: Sequence[int], rank_after: int
    ) -> NDArray[np.int64]:
        return spread([values[self.slot[name]] for name in names], rank_after)

    def _numbers(self, builder: Builder, numbers: str, index: str, ids: str) -> str:
        """``numbers[index]`` of a vector, for an index of the shape of ``ids``.

        In onnxruntime, GatherElements is six times as fast as Gather for single numbers, since
        Gather copies each as a row. But its data and its indices must have the same number of axes,
        hence the two Reshapes.
        """
        flat = builder.op("Reshape", index, builder.number([-1]))
        found = builder.op("GatherElements", numbers, flat, axis=0)
        return builder.op("Reshape", found, builder.op("Shape", ids))

    def _checked(self, builder: Builder, ids: str, index: str, counts: NDArray[np.int64]) -> str:
        """``index`` for ids from 0 to ``counts`` - 1; for other ids, an index that the runtime
        rejects."""
        last = builder.op("Min", ids, builder.number(counts - 1))
        near = builder.op("Max", last, builder.number(0))
        right = builder.op("Equal", ids, near)
        return builder.op("Where", right, index, builder.number(_NOWHERE))


def firsts(sizes: Iterable[int]) -> list[int]:
    """The start of each array in their concatenation."""
    return list(accumulate(sizes, initial=0))[:-1]
