"""Functions that run on the workers: the tasks of passes, their merges, and writing of pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from numpy.typing import NDArray

from saec.clustering.points import StepSums
from saec.codecs.axes.keyed_rows import StoredRows
from saec.codecs.moments_and_samples import Moments, Sample, Survey
from saec.distributed.output_windows import Target, Window, touched
from saec.streaming.bit_writes import ByteRun, Piece, Scattered, lay, within
from saec.streaming.chunks import Chunk, RunningCounts, Task
from saec.streaming.frequency_histogram import Census
from saec.streaming.map_reduce import Arrays, Merge
from saec.streaming.rows import ArrayRows

__all__ = [
    "Laid",
    "MergeHeads",
    "Place",
    "add",
    "assemble",
    "called",
    "count",
    "give",
    "head",
    "lay_part",
    "merge_all",
    "nothing",
    "pick",
    "work",
]

Place = tuple[str, int]  # role and number of a window
Windows = dict[str, tuple[Window, ...]]


@dataclass(frozen=True, eq=False)
class Laid:
    """Output of a task for a part: its result, and its pieces by the windows that contain them."""

    result: Any
    pieces: dict[Place, list[Piece]]


def _laid_bytes(laid: Laid) -> int:
    return sum(sizeof(piece) for pieces in laid.pieces.values() for piece in pieces)


def _held_bytes(result: Any) -> int:
    return sum(sizeof(getattr(result, field.name)) for field in fields(result))


def _part_bytes(part: Chunk) -> int:
    return sum(rows.nbytes for rows in (part.rows, part.counts) if isinstance(rows, ArrayRows))


# Sizes by which workers spill and tasks are placed near their largest input; Dask's default for a
# dataclass is some fifty bytes.
for _kind in (Census, Moments, ByteRun, Sample, Scattered, StepSums, StoredRows, Survey):
    sizeof.register(_kind, _held_bytes)
sizeof.register(Laid, _laid_bytes)
sizeof.register(Chunk, _part_bytes)


def give(value: Any) -> Any:
    """A value that several tasks need, sent once."""
    return value


def work(task: Task[Any], part: Chunk, before: NDArray[np.int64]) -> Any:
    """A task of a pass on a part."""
    return task(part, before)


def called(task: Callable[[Arrays], Any], arrays: Arrays) -> Any:
    """A task on arrays that are held."""
    return task(arrays)


def merge_all(merge: Merge[Any], results: Sequence[Any]) -> Any:
    """Results of neighbours, merged."""
    return merge(results)


def count(counter: RunningCounts, part: Chunk) -> NDArray[np.int64]:
    """The count for a part."""
    return counter(part)


def nothing(size: int) -> NDArray[np.int64]:
    """The count before the first part, for a counter of this size."""
    return np.zeros(size, dtype=np.int64)


def add(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The sum of counts."""
    total: NDArray[np.int64] = np.add.reduce(counts)
    return total


def lay_part(
    task: Task[tuple[Any, list[Piece]]],
    part: Chunk,
    before: NDArray[np.int64],
    windows: Windows,
) -> Laid:
    """A task of a pass whose pieces are cut by windows."""
    result, pieces = task(part, before)
    found: dict[Place, list[Piece]] = {}
    for piece in pieces:
        for window in touched(piece, windows[piece.role]):
            inside = within(piece, window.start, window.stop)
            if inside is not None:
                found.setdefault((window.role, window.number), []).append(inside)
    return Laid(result, found)


def head(number: int, laid: Laid) -> tuple[Any, list[tuple[int, list[Place]]]]:
    """A part's result, and its number with the places of its pieces, for the client."""
    return laid.result, [(number, list(laid.pieces))]


@dataclass(frozen=True, eq=False)
class MergeHeads:
    """The merge function for results of :func:`head`, if results are merged by ``merge``."""

    merge: Merge[Any]

    def __call__(self, heads: Sequence[tuple[Any, list[Any]]]) -> tuple[Any, list[Any]]:
        places = [place for _, places in heads for place in places]
        return self.merge([result for result, _ in heads]), places


def pick(laid: Laid, place: Place) -> list[Piece]:
    """A part's pieces of one window."""
    return laid.pieces[place]


def assemble(window: Window, target: Target, groups: Sequence[list[Piece]]) -> Any:
    """Write all pieces of a window to its target; returns the target's result."""
    data = np.zeros(window.stop - window.start, dtype=np.uint8)
    for pieces in groups:
        lay(pieces, {window.role: data}, window.start)
    return target(window, data)
