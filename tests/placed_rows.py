"""Fields that are cut into small parts, and the positions of their rows by a placing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from saec.streaming.chunks import Chunk
from saec.streaming.strata import Placing
from saec.tables.field import Field


def counted(frequencies: ArrayLike) -> Field:
    """A field with one column of zeros, for tests that depend only on frequencies."""
    counts = np.asanyarray(frequencies)  # a map stays one
    return Field("f", np.zeros((len(counts), 1), np.float32), counts)


@contextmanager
def parts_of_values(values: int) -> Iterator[None]:
    """Fields first used within this context are cut into parts of so many values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saec.streaming.chunks._PART_VALUES", values)
        yield


def in_parts(field: Field, rows: int) -> Field:
    """The same field, in parts of so many ``rows``."""
    other = Field(field.name, field.weights, field.counts)
    with parts_of_values(rows * field.dim):
        assert max(len(part) for part in other.parts) <= rows
    return other


def befores(parts: Sequence[Chunk], placing: Placing) -> list[NDArray[np.int64]]:
    """The counts before each part, as sums over all earlier parts."""
    counts = [np.asarray(placing(part)) for part in parts]
    zero = np.zeros(placing.size, dtype=np.int64)
    return [np.sum([zero, *counts[:number]], axis=0) for number in range(len(parts))]


def placed(field: Field, placing: Placing) -> list[list[int]]:
    """For each stratum the ids of its rows by position; checks that each position occurs once."""
    sizes = np.diff(placing.bounds)
    found = [np.full(size, -1, dtype=np.int64) for size in sizes]
    parts = field.parts
    for part, before in zip(parts, befores(parts, placing), strict=True):
        seen = np.zeros(len(part), dtype=np.int64)
        strata = []
        for group in placing.groups(part, before):
            ids = np.arange(part.start, part.stop)[group.rows]
            assert len(ids) == len(group.places) > 0
            assert np.all(np.diff(group.places) > 0)
            assert group.first == group.places[0]
            assert group.contiguous == bool(np.all(np.diff(group.places) == 1))
            assert np.all(found[group.stratum][group.places] == -1)
            found[group.stratum][group.places] = ids
            seen[group.rows] += 1
            strata.append(group.stratum)
        assert strata == sorted(set(strata))
        assert np.all(seen == 1)
    assert all(np.all(ids >= 0) for ids in found)
    return [ids.tolist() for ids in found]
