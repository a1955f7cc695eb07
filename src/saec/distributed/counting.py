"""Counting of features in a log of many files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future
from numpy.typing import NDArray

from saec.distributed.cluster import workers_of
from saec.distributed.map_reduce import collect
from saec.distributed.output_windows import Target, Window, cut, placed
from saec.distributed.shard_scratch import shards_for
from saec.distributed.task_graph import Submitting
from saec.errors import DataError
from saec.streaming.npy_writer import save_vector
from saec.streaming.scratch import Workspace
from saec.tables.counting import count_columns as count_here
from saec.tables.log_blocks import log_files
from saec.util.progress import bar

__all__ = ["count_columns"]

# Ids that occur, ascending (m,), and their counts (m,).
Occurrences = tuple[NDArray[np.int64], NDArray[np.int64]]
# Counts of one file by field, with the size of the vocabulary as far as the file contains it.
Counted = dict[str, tuple[int, Occurrences]]


def count_columns(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str],
    vocab_sizes: Mapping[str, int] | None,
    client: Client,
    out: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
) -> dict[str, NDArray[np.int64]]:
    """Count features as :func:`saec.count_columns` does, with one file at a time on each worker.

    While it counts, a worker needs 8 bytes for each feature of the fields; afterwards it keeps only
    the features that occur in the file.

    Args:
        paths: files that the workers see under the same paths.
        columns: see :func:`saec.count_columns`.
        vocab_sizes: see there.
        client: see :func:`~saec.distributed.connect`.
        out: a folder in which the workers can write: counts are written to ``<number>.npy`` there,
            in order of ``columns``. None for memory.
        progress: show a progress bar of files.

    Returns:
        ``{field: (vocab_size,) int64}``; maps of the files if ``out`` is given.

    Raises:
        DataError: no such file, an unreadable file, a missing column or one of another type; or
            ``out`` cannot be written.
        ArtifactError: a worker cannot write there.
        IdError: an id is out of range.
        OptionalDependencyError: pyarrow is not installed on a worker.
    """
    files = log_files([paths] if isinstance(paths, str | Path) else list(paths))
    if not columns:
        raise DataError("no columns were given to count")
    workers = len(workers_of(client))
    with (
        Submitting(client, (), ()) as counting,
        bar("counting ids", len(files), progress) as shown,
    ):
        counted = [counting.submit(_count, file.resolve(), columns, vocab_sizes) for file in files]
        root = counting.tree([counting.submit(_sizes, one, urgent=1) for one in counted], _largest)
        for _ in counting.finish(counted, [1.0] * len(files), shown.advance):
            pass
        sizes = root.result() if vocab_sizes is None else vocab_sizes
        return _joined(counting, counted, {name: sizes[name] for name in columns}, workers, out)


def _joined(
    counting: Submitting,
    counted: Sequence[Future[Counted]],
    sizes: Mapping[str, int],
    workers: int,
    out: str | os.PathLike[str] | None,
) -> dict[str, NDArray[np.int64]]:
    """Sum the counts, one range of ids at a time, and write each sum to its place."""
    results = {}
    for number, (name, size) in enumerate(sizes.items()):
        file = None if out is None else Path(out) / f"{number:05}.npy"
        with shards_for(file) as space:
            made = _added_up(counting, counted, name, 8 * size, workers, space)
            results[name] = made.view("<i8") if file is None else save_vector(file, made)
    return results


def _added_up(
    counting: Submitting,
    counted: Sequence[Future[Counted]],
    name: str,
    nbytes: int,
    workers: int,
    space: Workspace,
) -> Any:
    tensor = placed(nbytes, space, 1)
    waiting = {}
    for window in cut(name, nbytes, workers):
        picked = [counting.submit(_within, one, window, urgent=2) for one in counted]
        total = counting.tree(picked, _sum)
        waiting[counting.submit(_put, window, tensor.target, total, urgent=3)] = window
    collect(counting, waiting, {name: tensor})
    return tensor.tensor()


def _count(
    file: Path, columns: Mapping[str, str], vocab_sizes: Mapping[str, int] | None
) -> Counted:
    """Counts of the ids in a file."""
    counted = count_here(file, columns, vocab_sizes, progress=False)
    return {name: (len(counts), _occurrences(counts)) for name, counts in counted.items()}


def _occurrences(counts: NDArray[np.int64]) -> Occurrences:
    ids = np.flatnonzero(counts)
    return ids, counts[ids]


def _sizes(counted: Counted) -> dict[str, int]:
    return {name: size for name, (size, _) in counted.items()}


def _largest(sizes: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: max(size[name] for size in sizes) for name in sizes[0]}


def _within(counted: Counted, window: Window) -> Occurrences:
    """Counts of the ids in a window."""
    ids, counts = counted[window.role][1]
    first, last = np.searchsorted(ids, [window.start // 8, window.stop // 8])
    return ids[first:last], counts[first:last]


def _sum(parts: Sequence[Occurrences]) -> Occurrences:
    ids, places = np.unique(np.concatenate([ids for ids, _ in parts]), return_inverse=True)
    sums = np.zeros(len(ids), dtype=np.int64)
    np.add.at(sums, places, np.concatenate([counts for _, counts in parts]))
    return ids, sums


def _put(window: Window, target: Target, occurrences: Occurrences) -> Any:
    ids, counts = occurrences
    data = np.zeros((window.stop - window.start) // 8, dtype="<i8")
    data[ids - window.start // 8] = counts
    return target(window, data.view(np.uint8))
