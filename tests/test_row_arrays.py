"""Values of rows in arrays: some of the rows, and the rows of several parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.util.row_arrays import RowArrays


@dataclass(frozen=True, eq=False)
class Coded(RowArrays):
    tier: int
    ids: NDArray[np.int64]
    symbols: list[NDArray[np.int64]]
    both: tuple[NDArray[Any], NDArray[Any]]


def coded(*ids: int) -> Coded:
    own = np.array(ids)
    return Coded(7, own, [own * 2, own * 3], (own * 4, np.stack([own, own], axis=1)))


def listed(found: Coded) -> tuple[object, ...]:
    symbols, both = [own.tolist() for own in found.symbols], [own.tolist() for own in found.both]
    return found.tier, found.ids.tolist(), symbols, both


def test_rows_by_mask_position_and_slice() -> None:
    expected = (7, [3, 5], [[6, 10], [9, 15]], [[12, 20], [[3, 3], [5, 5]]])
    rows = coded(3, 4, 5)
    assert listed(rows.only(np.array([True, False, True]))) == expected
    assert listed(rows.only(np.array([0, 2]))) == expected
    assert listed(rows.only(slice(0, 3, 2))) == expected
    assert isinstance(rows.only(slice(0)).both, tuple)


def test_rows_of_all_parts_in_order() -> None:
    found = Coded.join([coded(5), coded(), coded(3, 4)])
    assert listed(found) == listed(coded(5, 3, 4))
