"""Initialisers of tables with codes of whole bytes, and the nodes that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto

from saec.onnx.byte_codes import Whole
from saec.onnx.initializers import Store, firsts
from saec.onnx.node_builder import Builder

__all__ = ["WholeStore"]


class WholeStore(Store):
    """Tables with codes of one integer dtype, see :class:`~saec.onnx.byte_codes.Whole`.

    Args:
        builder: the arrays are added to it.
        plans: by table; a plan may have ``places`` only if it is the only one.
        dtype: of the stored rows.
    """

    def __init__(self, builder: Builder, plans: Mapping[str, Whole], dtype: DTypeLike) -> None:
        super().__init__(list(plans), [plan.count for plan in plans.values()])
        each = list(plans.values())
        codes = np.concatenate([plan.codes for plan in each])
        arrays = {"rows": np.concatenate([plan.rows for plan in each]).astype(dtype)}
        if len(codes) > len(each):
            arrays["codes"] = codes
        if each[0].places is not None:
            arrays["places"] = each[0].places
        self._paired = any(len(plan.pairs) for plan in each)
        if self._paired:
            arrays |= _entries(each, dtype)
        self._first_row = firsts(len(plan.rows) for plan in each)
        self._first_code = firsts(len(plan.codes) for plan in each)
        before_tail = [plan.cut + len(plan.pairs) for plan in each]
        self._first_entry = firsts(count + 1 for count in before_tail)
        self._tail_entry = [
            first + count for first, count in zip(self._first_entry, before_tail, strict=True)
        ]
        self._cut = [plan.cut for plan in each]
        self._arrays = {role: builder.array(role, array) for role, array in arrays.items()}
        self._bytes = sum(array.nbytes for array in arrays.values())

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return self._bytes

    def rows(self, builder: Builder, ids: str, names: Sequence[str], rank_after: int) -> str:
        """See :class:`Store`."""
        if "places" in self._arrays:
            ids = self._codes(builder, "places", ids, ids)
        alone = len(self.slot) == 1
        if alone and self._cut == [0] and not self._paired:  # reading the codes checks the ids
            return self._rows_at(builder, self._codes(builder, "codes", ids, ids))
        if alone and "codes" not in self._arrays:
            return self._rows_at(builder, ids)
        second = None
        if self._paired:
            index, second = self._pair(builder, ids, names, rank_after)
        else:
            index = self._index(builder, ids, names, rank_after)
        if "places" not in self._arrays:  # with places, reading them has checked the ids
            counts = self._of(names, self.counts, rank_after)
            index = self._checked(builder, ids, index, counts)
        rows = self._rows_at(builder, index)
        return rows if second is None else builder.op("Add", rows, second)

    def _rows_at(self, builder: Builder, index: str) -> str:
        return builder.op("Gather", self._arrays["rows"], index)

    def _codes(
        self, builder: Builder, role: str, index: str, ids: str, to: int = TensorProto.INT64
    ) -> str:
        return builder.cast(self._numbers(builder, self._arrays[role], index, ids), to)

    def _index(self, builder: Builder, ids: str, names: Sequence[str], rank_after: int) -> str:
        """The index of each id's row: ids before the cut are indices themselves; for ids from the
        cut on, it is the cut plus the code."""
        first = self._of(names, self._first_row, rank_after)
        row = builder.plus(ids, first)
        if "codes" not in self._arrays:
            return row
        until = builder.op(
            "Min", row, builder.number(first + self._of(names, self._cut, rank_after))
        )
        beyond = builder.op("Sub", row, until)
        at = builder.plus(beyond, self._of(names, self._first_code, rank_after))
        return builder.op("Add", until, self._codes(builder, "codes", at, ids))

    def _pair(
        self, builder: Builder, ids: str, names: Sequence[str], rank_after: int
    ) -> tuple[str, str | None]:
        """As :meth:`_index`, for tables with pairs, and the second rows of pairs (None if no table
        has any).

        Each id before the tail has an entry: the index of its row, and the code of its second row.
        One more entry is for the tail: the index of its first row.
        """
        entry = builder.plus(ids, self._of(names, self._first_entry, rank_after))
        last = builder.number(self._of(names, self._tail_entry, rank_after))
        at = builder.op("Min", entry, last)
        index = self._codes(builder, "firsts", at, ids)
        if "codes" in self._arrays:
            rest = builder.op("Sub", entry, at)
            rest = builder.plus(rest, self._of(names, self._first_code, rank_after))
            index = builder.op("Add", index, self._codes(builder, "codes", rest, ids))
        if "seconds" not in self._arrays:
            return index, None
        code = self._codes(builder, "second_codes", at, ids, TensorProto.INT32)
        return index, builder.op("Gather", self._arrays["seconds"], code)


def _entries(plans: Sequence[Whole], dtype: DTypeLike) -> dict[str, NDArray[Any]]:
    """The entries of the ids before the tails, and of the tails, as arrays by role.

    ``firsts``: index of the row; ``second_codes``: index in ``seconds``, whose row 0 is zeros, for
    ids without a second row. The last two are left out if no id has a second row.
    """
    dim = plans[0].rows.shape[1]
    seconds = [np.zeros((1, dim), np.float32)]
    first_rows, second_codes = [], []
    for plan, start in zip(plans, firsts(len(plan.rows) for plan in plans), strict=True):
        before = sum(map(len, seconds)) - 1
        first, second = plan.pairs.T
        first_rows.append(
            start + np.concatenate([np.arange(plan.cut), plan.cut + first, [plan.cut]])
        )
        none = np.zeros(plan.cut, np.int64)
        second_codes.append(np.concatenate([none, np.where(second > 0, second + before, 0), [0]]))
        if plan.seconds is not None:
            seconds.append(plan.seconds)
    arrays = {"firsts": _narrow(np.concatenate(first_rows))}
    if not any(codes.any() for codes in second_codes):
        return arrays
    return arrays | {
        "second_codes": _narrow(np.concatenate(second_codes)),
        "seconds": np.concatenate(seconds).astype(dtype),
    }


def _narrow(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """``numbers``, none of them negative, in the smallest unsigned dtype that holds them."""
    return numbers.astype(np.min_scalar_type(numbers.max()))
