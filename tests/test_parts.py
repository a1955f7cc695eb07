"""Parts of a field: where they are cut, what they check, and the tree of merged results."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from placed_rows import parts_of_values

from saec.errors import FieldError
from saec.streaming.chunks import GROUP, Chunk, chunks_of, merged
from saec.streaming.rows import ArrayRows, FileRows, JoinedRows, Rows


def sharded(sizes: Sequence[int], dim: int = 2) -> JoinedRows:
    first = np.cumsum([0, *sizes])
    table = np.arange(first[-1] * dim, dtype=np.float32).reshape(-1, dim)
    return JoinedRows([ArrayRows(table[a:b]) for a, b in pairwise(first.tolist())])


def cut(rows: Rows, part_rows: int) -> tuple[Chunk, ...]:
    with parts_of_values(part_rows * rows.shape[1]):
        return chunks_of("f", rows, ArrayRows(np.arange(len(rows)) + 1))


def test_parts_by_hand() -> None:
    parts = cut(sharded([5, 2, 4]), 2)
    assert [(part.start, part.stop) for part in parts] == [
        *[(0, 2), (2, 4), (4, 5)],
        (5, 7),
        *[(7, 9), (9, 11)],
    ]
    assert [part.number for part in parts] == [0, 1, 2, 3, 4, 5]
    assert {part.name for part in parts} == {"f"}
    assert parts[3].weights().tolist() == [[10, 11], [12, 13]]
    assert parts[3].frequencies().tolist() == [6, 7]
    assert parts[3].frequencies().dtype == np.float64


def test_a_row_wider_than_a_part() -> None:
    rows = ArrayRows(np.zeros((3, 100), np.float32))
    with parts_of_values(7):
        parts = chunks_of("f", rows, ArrayRows(np.ones(3)))
    assert [len(part) for part in parts] == [1, 1, 1]


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(any),
    part_rows=st.integers(1, 12),
)
def test_parts_follow_each_other_and_cross_no_border(sizes: list[int], part_rows: int) -> None:
    rows = sharded(sizes)
    parts = cut(rows, part_rows)
    assert parts[0].start == 0
    assert parts[-1].stop == len(rows)
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert all(0 < len(part) <= part_rows for part in parts)
    assert set(rows.borders) <= {part.start for part in parts} | {len(rows)}
    # No more of them than needed.
    assert len(parts) == sum(-(-size // part_rows) for size in sizes)
    whole = np.concatenate([part.weights() for part in parts])
    assert np.array_equal(whole, rows.read(0, len(rows)))
    counts = np.concatenate([part.frequencies() for part in parts])
    assert np.array_equal(counts, np.arange(len(rows)) + 1)


def test_a_part_of_a_file_is_sent_as_its_place(tmp_path: Path) -> None:
    table = np.arange(6000, dtype=np.float32).reshape(3000, 2)
    table.tofile(tmp_path / "rows")
    counts = np.arange(3000.0)
    counts.tofile(tmp_path / "counts")
    with parts_of_values(2 * 1000):
        parts = chunks_of(
            "f",
            FileRows(tmp_path / "rows", 0, (3000, 2), np.float32),
            FileRows(tmp_path / "counts", 0, (3000,), np.float64),
        )
    sent = pickle.dumps(parts[1])
    assert len(sent) < 2000
    part = pickle.loads(sent)
    assert np.array_equal(part.weights(), table[1000:2000])
    assert np.array_equal(part.frequencies(), counts[1000:2000])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_row_in_the_field(
    dtype: object, bad: float
) -> None:
    table = np.zeros((9, 4), np.float32).astype(dtype)
    table[6, 3] = bad
    table[7, 0] = np.nan
    parts = cut(ArrayRows(table), 4)
    parts[0].weights()
    with pytest.raises(FieldError, match=f"field 'f': weights hold {bad} at row 6, column 3"):
        parts[1].weights()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_frequency_that_cannot_be_is_named_by_its_id(bad: float) -> None:
    counts = np.ones(9)
    counts[[6, 7]] = bad
    with parts_of_values(4):
        parts = chunks_of("f", ArrayRows(np.zeros((9, 1), np.float32)), ArrayRows(counts))
    parts[0].frequencies()
    message = f"field 'f': the frequency of id 6 is {bad}; it must be finite and not negative"
    with pytest.raises(FieldError, match=message):
        parts[1].frequencies()


def level_by_level(results: list[str]) -> str:
    while len(results) > 1:
        groups = [results[start : start + GROUP] for start in range(0, len(results), GROUP)]
        results = [joined(group) if len(group) > 1 else group[0] for group in groups]
    return results[0]


def joined(group: Sequence[str]) -> str:
    """Joins texts so that the result shows the tree."""
    assert 2 <= len(group) <= GROUP
    return f"({' '.join(group)})"


def test_the_tree_by_hand() -> None:
    assert merged("a", joined) == "a"
    assert merged("abc", joined) == "(a b c)"
    assert merged("abcdefgh", joined) == "(a b c d e f g h)"
    assert merged("abcdefghi", joined) == "((a b c d e f g h) i)"
    assert merged("abcdefghij", joined) == "((a b c d e f g h) (i j))"


def test_merging_in_order_of_arrival_gives_the_same_tree() -> None:
    for count in (*range(1, 201), 511, 512, 513, 520, 575, 576, 577, 4096, 4097):
        results = [str(number) for number in range(count)]
        assert merged(iter(results), joined) == level_by_level(results), count


def test_results_are_merged_before_the_next_is_made() -> None:
    alive = most = 0

    def results() -> Iterator[int]:
        nonlocal alive, most
        for number in range(3000):
            alive += 1
            most = max(most, alive)
            yield number

    def merge(group: Sequence[int]) -> int:
        nonlocal alive
        assert list(group) == sorted(group), "neighbours, in order"
        alive -= len(group) - 1
        return group[0]

    assert merged(results(), merge) == 0
    assert alive == 1
    assert most <= 4 * GROUP  # seven wait on each of the levels of 1, 8, 64 and 512
