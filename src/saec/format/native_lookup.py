"""Rows and sums of rows from packed codes: descriptions of tables for the native core.

No table is decoded as a whole. A table in tiers keeps its most frequent rows decoded: 256 kB, or
1/64 of the table in float32, but at most 1 MB, which at dim 16 are 4,096 to 16,384 rows. It also
keeps the decoded rows of groups of a tier's codes, at most 64 kB for each group, 256 kB for ordered
codes, and some 26 bytes for each ordered code that occurs, for the search. All decoded rows
take at most 256 kB plus 64 times the bytes that a field's codes, values, axes and starts
take in a file; further rows are decoded in each lookup. If ids are in no order, it also keeps the
ranks of all ids of a small table, or of those ids that are not in the last tiers: at most 128 kB.
Arrays must not change during a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

import saec._native as _native
from saec._native import LookupTable
from saec.format.bags import MODES, Bags
from saec.format.lookup_errors import fail, unread_error
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout

__all__ = [
    "LookupTable",
    "PoolRequest",
    "RowRun",
    "gather",
    "gather_apart",
    "pool_request",
    "run_table",
    "tier_table",
]

# The core's numbers for types of stored rows; results can have the first three.
ELEMENTS = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, np.int8)))
_OUTPUTS = ELEMENTS[:3]

_KINDS = {"none": 0, "table": 1, "grid": 2}
_ORDERED_KINDS = {"table": 3, "grid": 4}

_NO_BYTES = np.zeros(0, dtype=np.uint8)
_NO_IDS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class RowRun:
    """Consecutive rows from ``first_row`` on whose codes have the same form, up to the next run.

    Codes of ``code_bits`` bits start at byte ``first_byte``; code 0 is the stored row
    ``first_stored``. With ``code_bits`` 0 the rows themselves are stored, in order.
    """

    first_row: int
    code_bits: int
    first_byte: int
    first_stored: int

    @property
    def _numbers(self) -> list[int]:
        own = int(self.code_bits == 0)
        return [self.first_row, self.code_bits, 8 * self.first_byte, self.first_stored, own]


def run_table(
    rows: int,
    runs: Sequence[RowRun],
    codes: NDArray[np.uint8],
    stored: NDArray[Any],
    grid: NDArray[np.float32] | None = None,
    axes: NDArray[np.float64] | None = None,
    pads: Mapping[int, int] | None = None,
) -> LookupTable:
    """A table whose codes select one of the stored rows; arrays are used without a copy.

    Args:
        rows: number of rows of the table.
        runs: ascending from row 0.
        codes: (bytes,) packed codes.
        stored: (stored rows, width), contiguous, of a dtype among :data:`ELEMENTS`.
        grid: for int8, (2, width): a coordinate is grid[0] * stored + grid[1].
        axes: for int8, (width + 1, dim), the mean last; None if the coordinates are the row.
        pads: stored rows that replace the rows of some ids.
    """
    pads = pads or {}
    width = stored.shape[1]
    return _native.table_of_runs(
        rows,
        codes,
        np.array([run._numbers for run in runs], dtype=np.int64),
        stored.view(np.uint8).reshape(len(stored), -1),
        ELEMENTS.index(stored.dtype),
        np.empty((0, width), np.float32) if grid is None else grid,
        np.empty((0, 1)) if axes is None else axes,
        np.array(list(pads), dtype=np.int64),
        np.array(list(pads.values()), dtype=np.int64),
    )


def tier_table(
    layout: Layout,
    codes: NDArray[np.uint8],
    values: NDArray[np.float32],
    axes: NDArray[np.float32],
    index: TierIndex | None,
    pads: Mapping[int, NDArray[np.float32]] | None = None,
    starts: NDArray[np.int64] = _NO_IDS,
) -> LookupTable:
    """A table in tiers; codes and index are used without a copy, the rest is decoded once.

    Args:
        layout: the parts of each tier.
        codes: (layout.code_bytes,).
        values: (layout.value_count,) the values of the codes.
        axes: (rank + 1, dim) the axes and, last, the mean.
        index: maps ids to tiers and places; None if ids are ranks.
        pads: rows (dim,) that replace the rows of some ids.
        starts: first ranks of ordered codes, for tiers that are sorted by their codes.

    Raises:
        ArtifactError: the index is inconsistent.
    """
    pads = pads or {}
    if index is not None:
        index.check()
    parts = [
        [tier, (_ORDERED_KINDS if part.ordered else _KINDS)[part.kind], part.bits, part.axes, first]
        for tier, firsts in enumerate(layout.first_values)
        for part, first in zip(layout.tiers[tier], firsts, strict=True)
    ]
    return _native.table_of_tiers(
        layout.count,
        codes,
        np.stack([layout.bounds[:-1], np.array(layout.first_bytes)], axis=1),
        np.array(parts, dtype=np.int64).reshape(-1, 5),
        values,
        axes,
        _NO_BYTES if index is None else index.data,
        starts,
        np.array(list(pads), dtype=np.int64),
        np.array(list(pads.values()), dtype=np.float32).reshape(-1, axes.shape[1]),
    )


PoolRequest = tuple[LookupTable, int, bool, int, int, int, int, int, int, int, int, int]
"""One field's part of a native lookup, as :func:`pool_request` makes it for the core's struct."""


def pool_request(
    table: LookupTable,
    ids: int,
    id_bytes: int,
    count: int,
    offsets: int,
    bags: int,
    weights: int,
    mode: str,
    out: int,
    stride: int,
    skipped: int = -1,
) -> PoolRequest:
    """The arguments of a lookup, in the order of the core's ``RequestTuple``.

    Addresses are those of contiguous arrays that live until the lookup has ended; 0 for none. A
    plain tuple, because a named one takes longer to make than the lookup of an id.

    Args:
        table: table of the rows.
        ids: address of int64 or int32.
        id_bytes: bytes of an id.
        count: number of ids.
        offsets: address of int64.
        bags: number of rows of the result.
        weights: address of float32.
        mode: one of :data:`MODES`.
        out: address of the first row.
        stride: bytes from one row to the next.
        skipped: id that is left out, or -1.
    """
    wide, number = id_bytes == 8, MODES.index(mode)
    return (table, ids, wide, 1, count, offsets, bags, weights, number, skipped, out, stride)


def gather(
    tables: Sequence[LookupTable],
    bags: Sequence[Bags],
    places: Sequence[str],
    out: NDArray[Any],
    threads: int = 0,
) -> None:
    """Fill ``out`` with the reduced rows of all fields, in one call.

    Args:
        tables: of the fields.
        bags: one for each field, all with the same number of rows.
        places: names of the fields for errors.
        out: (bags, sum of dims) float32, float16 or bfloat16, contiguous; columns in order of the
            fields.
        threads: largest number of threads; 0 for the number of cores, or OMP_NUM_THREADS.

    Raises:
        IdError: an id is out of range; the contents of ``out`` are then undefined, as after the
            other errors.
        ArtifactError: a file is damaged, or cannot be read.
        BudgetError: a bag needs more memory than tables opened with a limit may take.
    """
    address, stride, requests = _address(out), out.strides[0], []
    for table, field in zip(tables, bags, strict=True):
        requests.append(_request(table, field, address, stride))
        address += table.dim * out.itemsize
    _run(requests, bags, places, out.dtype, threads)


def gather_apart(
    tables: Sequence[LookupTable],
    bags: Sequence[Bags],
    places: Sequence[str],
    outs: Sequence[NDArray[Any]],
    threads: int = 0,
) -> None:
    """As :func:`gather`, but each field has an array of its own, and its own number of rows.

    ``outs``: (bags of the field, dim) for each field, contiguous, all of one dtype.
    """
    requests = [
        _request(table, field, _address(out), out.strides[0])
        for table, field, out in zip(tables, bags, outs, strict=True)
    ]
    _run(requests, bags, places, outs[0].dtype, threads)


def _request(table: LookupTable, field: Bags, address: int, stride: int) -> PoolRequest:
    """A field's part of a lookup, with its rows from ``address`` on."""
    ids = field.ids
    return pool_request(
        table,
        _address(ids),
        ids.itemsize,
        len(ids),
        _address(field.offsets),
        field.count,
        _address(field.weights),
        field.mode,
        address,
        stride,
    )


def _run(
    requests: Sequence[PoolRequest],
    bags: Sequence[Bags],
    places: Sequence[str],
    dtype: np.dtype[Any],
    threads: int,
) -> None:
    try:
        failure = _native.pool(requests, ELEMENTS.index(dtype), threads)
    except OSError as error:
        raise unread_error(error, places) from error
    if failure[0]:
        number = failure[1]
        fail(failure, bags[number].ids, requests[number][0], places[number])


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])


def output_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """A dtype of result rows; raises ValueError for others."""
    wanted = np.dtype(dtype)
    if wanted not in _OUTPUTS:
        raise ValueError(f"rows are float32, float16 or bfloat16, not {wanted}")
    return wanted
