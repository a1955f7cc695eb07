"""Tables that are refused because lookups would read outside of their arrays."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saec import _native
from saec.format.native_lookup import LookupTable


def ints(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def floats(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def table_of_runs(**changes: Any) -> LookupTable:
    """Ten rows: four with codes of two bits, six uncoded."""
    given: dict[str, Any] = {
        "rows": 10,
        "codes": np.zeros(8, np.uint8),
        "runs": ints([0, 2, 0, 0, 0], [4, 0, 0, 2, 1]),
        "stored": np.zeros((8, 12), np.uint8),
        "element": 0,
        "grid": floats(0, 3),
        "axes": np.zeros((0, 1)),
        "pads": np.zeros(0, np.int64),
        "pad_rows": np.zeros(0, np.int64),
    }
    return _native.table_of_runs(**(given | changes))


LONGER = {"codes": np.zeros(10, np.uint8)}
INT8 = {"element": 3, "grid": floats(2, 12)}


def test_valid_runs_are_accepted() -> None:
    table = table_of_runs()
    assert (table.rows, table.dim, table.stored_rows) == (10, 3, 8)
    assert table_of_runs(element=1).dim == 6
    assert table_of_runs(**INT8).dim == 12
    assert table_of_runs(**INT8, axes=np.zeros((13, 20))).dim == 20
    assert table_of_runs(pads=np.array([3]), pad_rows=np.array([7])).rows == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": np.zeros((1, 4), np.int64)}, "and 5 columns, not 1 and 4"),
        ({"runs": np.zeros((0, 5), np.int64)}, "and 5 columns, not 0 and 5"),
        ({"element": 4}, "the element type is a number from 0 to 3, not 4"),
        ({"element": -1}, "from 0 to 3, not -1"),
        ({"rows": -1}, "a count or place is negative: -1"),
        ({"rows": 0}, "runs must ascend from 0"),
        ({"rows": 4}, "runs must ascend from 0"),
        ({"runs": ints([1, 2, 0, 0, 0])}, "runs must ascend from 0"),
        ({"runs": ints([0, 2, 0, 0, 0], [0, 2, 0, 0, 0])}, "runs must ascend from 0"),
        ({"runs": ints([0, 33, 0, 0, 0])}, "run 0 has codes of 33 bits"),
        ({"runs": ints([0, 2, 3, 0, 0])}, "run 0 has codes of 2 bits from bit 3 on"),
        (LONGER | {"runs": ints([0, 2, 0, 0, 1])}, "run 0 stores each row, and has codes of 2"),
        ({"runs": ints([0, -1, 0, 0, 0])}, "a count or place is negative"),
        ({"runs": ints([0, 2, -8, 0, 0])}, "a count or place is negative"),
        (LONGER | {"runs": ints([0, 2, 0, -1, 0])}, "a count or place is negative"),
        ({"codes": np.zeros(7, np.uint8)}, "codes are too short"),
        ({"runs": ints([0, 2, 8, 0, 0], [4, 0, 0, 2, 1])}, "codes are too short"),
        ({"runs": ints([0, 2, 2**62, 0, 0])}, "codes are too short"),
        ({"rows": 2**62, "runs": ints([0, 32, 0, 0, 0])}, "are too many to be addressed"),
        ({"stored": np.zeros((8, 11), np.uint8)}, "stored rows of 11 bytes do not hold"),
        ({"stored": np.zeros((8, 0), np.uint8)}, "stored rows of 0 bytes do not hold"),
        ({"element": 3}, "int8 rows, and no others, have a grid"),
        ({"grid": floats(2, 3)}, "int8 rows, and no others, have a grid"),
        ({"element": 3, "grid": floats(2, 11)}, "grid and stored rows differ in width: 11 and 12"),
        ({"axes": np.zeros((4, 9))}, "int8 rows, and no others, have axes"),
        (INT8 | {"axes": np.zeros((12, 9))}, "axes of shape (12, 9) do not fit rows of 12"),
        (INT8 | {"axes": np.zeros((13, 0))}, "axes of shape (13, 0) do not fit rows of 12"),
        ({"pads": np.array([1])}, "pads and their rows differ in length"),
        ({"pads": np.array([1]), "pad_rows": np.array([8])}, "pad 0 has stored row 8 of 8"),
        ({"pads": np.array([1]), "pad_rows": np.array([-1])}, "a count or place is negative"),
        ({"pads": np.array([-1]), "pad_rows": np.array([0])}, "a count or place is negative"),
    ],
)
def test_invalid_runs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        table_of_runs(**changes)


TABLE, GRID = 1, 2


def table_of_tiers(**changes: Any) -> LookupTable:
    """70 rows: 64 with a grid and a table of two axes, six that share one value."""
    given: dict[str, Any] = {
        "rows": 70,
        "codes": np.zeros(64 * 5 // 8 + 7, np.uint8),
        "tiers": ints([0, 0], [64, 40]),
        "parts": ints([0, GRID, 3, 1, 0], [0, TABLE, 2, 2, 2], [1, TABLE, 0, 1, 10]),
        "values": floats(11),
        "axes": floats(4, 5),
        "index": np.zeros(0, np.uint8),
        "starts": np.zeros(0, np.int64),
        "pads": np.zeros(0, np.int64),
        "pad_rows": floats(0, 5),
    }
    return _native.table_of_tiers(**(given | changes))


INDEX = {"index": np.zeros(75, np.uint8)}


def test_valid_tiers_are_accepted() -> None:
    table = table_of_tiers()
    assert (table.rows, table.dim) == (70, 5)
    assert table_of_tiers(**INDEX).rows == 70
    padded = table_of_tiers(pads=np.array([1, 2]), pad_rows=floats(2, 5))
    assert padded.stored_rows == table.stored_rows + 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiers": np.zeros((2, 3), np.int64)}, "tiers have 2 columns and parts 5, not"),
        ({"parts": np.zeros((2, 4), np.int64)}, "tiers have 2 columns and parts 5, not"),
        ({"tiers": np.zeros((0, 2), np.int64)}, "there are no tiers"),
        ({"axes": floats(0, 5)}, "axes of shape (0, 5) have no mean"),
        ({"axes": floats(4, 0)}, "axes of shape (4, 0) have no mean"),
        ({"rows": -1}, "a count or place is negative: -1"),
        ({"rows": 64}, "tier 1 from rank 64 on has no rows: there are 64"),
        ({"rows": 1 << 43}, "2 tiers of 8796093022208 rows are too many"),
        ({"tiers": ints([0, 0], [65, 40])}, "tier 1 starts at rank 65, not at 64"),
        ({"tiers": ints([64, 0], [256, 40])}, "tier 0 starts at rank 64, not at 0"),
        ({"tiers": ints([0, 0], [64, -1])}, "a count or place is negative"),
        ({"parts": ints([1, 0, 0, 1, 0], [0, 0, 0, 1, 0])}, "parts are out of order"),
        ({"parts": ints([2, 0, 0, 1, 0])}, "parts are out of order"),
        ({"parts": ints([-1, 0, 0, 1, 0])}, "parts are out of order"),
        ({"parts": ints([0, 0, 17, 1, 0])}, "part 0 has 17 bits, 1 axes and kind 0"),
        ({"parts": ints([0, 5, 1, 1, 0])}, "and kind 5; at most 16, 65535 and 4"),
        ({"parts": ints([0, 4, 1, 2, 0])}, "part 0 "),
        ({"parts": ints([0, TABLE, 1, 1, 0], [0, 3, 1, 1, 0])}, "ordered parts come first"),
        ({"parts": ints([0, 3, 0, 1, 0])}, "part 0 is ordered, but has no bits"),
        (
            {"parts": ints([0, 4, 9, 1, 0], [0, 4, 8, 1, 0])},
            "has 17 ordered bits, at most 16",
        ),
        ({"parts": ints([0, 4, 2, 1, 0])}, "starts are missing"),
        ({"starts": np.zeros(1, np.int64)}, "starts and codes differ in number: 1 and 0"),
        ({"parts": ints([0, 4, 1, 1, 0]), "starts": np.array([-1])}, "is negative"),
        ({"parts": ints([0, 4, 1, 1, 0]), "starts": np.array([65])}, "do not ascend within tier"),
        ({"parts": ints([1, 4, 1, 1, 0]), "starts": np.array([63])}, "do not ascend within tier"),
        (
            {"parts": ints([0, 4, 2, 1, 0]), "starts": np.array([5, 4, 6])},
            "do not ascend within tier",
        ),
        ({"parts": ints([0, 0, 1, 1 << 16, 0])}, "65536 axes"),
        ({"parts": ints([0, 0, -1, 1, 0])}, "part 0 has 4294967295 bits"),
        ({"parts": ints([0, GRID, 3, 2, 0])}, "part 0 is a grid of 2 axes"),  # of two values
        ({"values": floats(10)}, "values are too short"),
        ({"parts": ints([0, TABLE, 2, 3, 0])}, "values are too short"),
        ({"parts": ints([0, GRID, 2, 1, 10])}, "values are too short"),
        ({"parts": ints([0, TABLE, 0, 1, -1])}, "a count or place is negative"),
        ({"axes": floats(3, 5)}, "parts of tier 0 cover 3 axes of 2"),
        ({"parts": ints([0, 0, 0, 4, 0])}, "parts of tier 0 cover 4 axes of 3"),
        ({"codes": np.zeros(46, np.uint8)}, "codes are too short"),
        ({"tiers": ints([0, 1], [64, 40])}, "codes are too short"),
        ({"index": np.zeros(74, np.uint8)}, "bytes of the index"),
        ({"index": np.zeros(76, np.uint8)}, "tiers need differ: 76 and 75"),
        ({"pads": np.array([1])}, "pads and their rows differ in length"),
        (
            {"pads": np.array([1]), "pad_rows": floats(1, 4)},
            "and table differ in dim: 4 and 5",
        ),
        ({"pads": np.array([-1]), "pad_rows": floats(1, 5)}, "a count or place is negative"),
    ],
)
def test_invalid_tiers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        table_of_tiers(**changes)
