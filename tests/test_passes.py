"""Passes over the parts of a field: arguments of tasks, and merging of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from placed_rows import counted, in_parts

from saec.streaming.bit_writes import ByteRun, Piece, Scattered
from saec.streaming.chunks import Chunk, chunks_of
from saec.streaming.map_reduce import Arrays, LocalPasses
from saec.streaming.rows import ArrayRows
from saec.streaming.scratch import IN_MEMORY, Workspace


def passes_over(rows: int, part_rows: int) -> LocalPasses:
    """Over frequencies 1, 2, ..., in parts."""
    return LocalPasses(in_parts(counted(np.arange(1, rows + 1)), part_rows).parts)


class Rows:
    """Counts the rows of a part, and those of even ids."""

    size = 2

    def __call__(self, part: Chunk) -> NDArray[np.int64]:
        even = (np.arange(part.start, part.stop) % 2 == 0).sum()
        return np.array([len(part), even], dtype=np.int64)


def listed(groups: Sequence[list[object]]) -> list[object]:
    return [one for group in groups for one in group]


def test_run_by_hand() -> None:
    def task(part: Chunk, before: NDArray[np.int64]) -> list[object]:
        return [(part.number, part.frequencies().tolist(), before.tolist())]

    shares: list[float] = []
    found = passes_over(5, 2).run(task, listed, counter=Rows(), advance=shares.append)
    assert found == [(0, [1, 2], [0, 0]), (1, [3, 4], [2, 1]), (2, [5], [4, 2])]
    assert shares == pytest.approx([0.4, 0.4, 0.2])
    assert passes_over(5, 2).run(task, listed)[2] == (2, [5], [])
    each = passes_over(5, 2).each(task, counter=Rows(), advance=shares.append)
    assert next(each) == found[:1]
    assert len(shares) == 3  # the next part is worked on when it is asked for
    assert list(each) == [[found[1]], [found[2]]]
    assert shares[3:] == pytest.approx([0.4, 0.4, 0.2])


def test_nothing_is_counted_where_there_is_nothing_to_count() -> None:
    class Nothing:
        size = 0

        def __call__(self, part: Chunk) -> NDArray[np.int64]:
            raise AssertionError("not to be asked")

    found = passes_over(5, 2).run(lambda part, before: [len(before)], listed, counter=Nothing())
    assert found == [0, 0, 0]


@pytest.mark.parametrize("part_rows", [1, 3, 90])
def test_counts_before_a_part_are_the_sum_of_earlier_parts(part_rows: int) -> None:
    def task(part: Chunk, before: NDArray[np.int64]) -> list[object]:
        return [(part.start, before.tolist())]

    for start, before in passes_over(90, part_rows).run(task, listed, counter=Rows()):  # type: ignore[misc]
        assert before == [start, -(-start // 2)]


class Parted:
    """A task whose arrays show its arguments; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> Arrays:
        self.calls += 1
        return part.frequencies(), before.copy()


def total(arrays: Arrays) -> list[object]:
    frequencies, before = arrays
    return [(frequencies.sum(), before.tolist())]


# A part of ten rows and a count of two take 96 bytes.
@pytest.mark.parametrize(
    ("held", "made_again"), [(1 << 60, 0), (960, 0), (959, 1), (500, 5), (95, 10), (0, 10)]
)
def test_arrays_that_exceed_memory_are_computed_again(held: int, made_again: int) -> None:
    passes, task = passes_over(100, 10), Parted()
    kept = passes.hold(task, Rows(), Workspace(held=held))
    assert task.calls == 10
    expected = passes.hold(Parted(), Rows(), IN_MEMORY).run(total, listed)
    for number in (1, 2):
        assert kept.run(total, listed) == expected
        assert task.calls == 10 + number * made_again
    assert expected[3] == (sum(range(31, 41)), [30, 15])


def coded(part: Chunk, before: NDArray[np.int64]) -> tuple[float, list[Piece]]:
    """A byte for each row, and a word at the end for each part's first row."""
    frequencies = part.frequencies()
    place = np.array([int(before[0]) % 7])
    return float(frequencies.sum()), [
        ByteRun("rows", part.start, frequencies.astype(np.uint8)),
        Scattered("words", place, np.array([1 << part.number % 8], np.uint16)),
    ]


@pytest.mark.parametrize("part_rows", [1, 7, 50, 90])
@pytest.mark.parametrize("in_folder", [False, True])
def test_laid_tensors(part_rows: int, in_folder: bool, tmp_path: Path) -> None:
    space = Workspace(tmp_path) if in_folder else IN_MEMORY
    shares: list[float] = []
    lost, tensors = passes_over(90, part_rows).lay(
        coded,
        sum,
        {"rows": 97, "words": 9, "none": 0},
        counter=Rows(),
        advance=shares.append,
        space=space,
    )
    assert lost == sum(range(1, 91))
    assert sum(shares) == pytest.approx(1)
    assert set(tensors) == {"rows", "words", "none"}
    assert {tensor.dtype.name for tensor in tensors.values()} == {"uint8"}
    assert tensors["rows"].tolist() == [*range(1, 91), *[0] * 7]
    words = np.zeros(9, np.uint8)
    for number, start in enumerate(range(0, 90, part_rows)):
        words[start % 7] |= 1 << number % 8
    assert tensors["words"].tolist() == words.tolist()
    assert len(tensors["none"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_task_is_raised() -> None:
    counts = np.ones(9)
    counts[7] = np.nan
    rows = ArrayRows(np.zeros((9, 1), np.float32))
    passes = LocalPasses(chunks_of("f", rows, ArrayRows(counts)))
    with pytest.raises(ValueError, match="the frequency of id 7 is nan"):
        passes.run(lambda part, before: [part.frequencies()], listed)
