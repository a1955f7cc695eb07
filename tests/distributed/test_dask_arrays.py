"""Fields of Dask arrays, whose blocks are on the workers already."""

from __future__ import annotations

import dask.array as da
import dask_tasks as tasks
import numpy as np
import pytest
from distributed import Client

import saec
from saec import distributed

ROWS = 2_003


@pytest.fixture
def arrays(rng: np.random.Generator, small_parts: None) -> tuple[np.ndarray, np.ndarray]:
    rows = rng.standard_normal((ROWS, 4), dtype=np.float32)
    return rows, rng.zipf(1.5, ROWS).clip(max=1000)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("counted", [False, True], ids=["counts here", "counts there"])
def test_blocks_of_any_size(
    arrays: tuple[np.ndarray, np.ndarray], client: Client, counted: bool
) -> None:
    """Blocks longer and shorter than parts, and of half the columns; the tree is the same."""
    rows, counts = arrays
    blocks = (800, 100, 1, 1102)
    there = distributed.field(
        "user",
        da.from_array(rows, chunks=(blocks, 2)),
        da.from_array(counts, chunks=1000) if counted else counts,
        client,
    )
    shards = np.cumsum((0, *blocks))
    assert there.rows.borders == tuple(shards)
    here = saec.Field("user", rows, counts)
    passes = distributed.DaskExecutor(client)(there.parts)
    there.take_census(passes)
    assert there.census.total == here.census.total
    np.testing.assert_array_equal(there.census.counts, here.census.counts)
    expected = [
        tasks.weighted(rows[first:last], counts[first:last])
        for first, last in ((part.start, part.stop) for part in there.parts)
    ]
    found = passes.run(tasks.Sums(), list)
    assert np.array_equal(tasks.flat(found), expected)


def test_rows_come_to_the_client_if_asked(
    arrays: tuple[np.ndarray, np.ndarray], client: Client
) -> None:
    rows, counts = arrays
    field = distributed.field("user", da.from_array(rows, chunks=(999, 4)), counts, client)
    np.testing.assert_array_equal(field.rows.read(990, 2002), rows[990:2002])
    np.testing.assert_array_equal(field.rows.part(990, 2002).part(8, 12).read(1, 3), rows[999:1001])
    assert field.rows.read(3, 3).shape == (0, 4)


def test_the_artifact_is_the_same_where_parts_are(
    arrays: tuple[np.ndarray, np.ndarray], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, counts = arrays
    here = saec.Field("user", rows, counts)
    there = distributed.field("user", da.from_array(rows, chunks=(250, 4)), counts, client)
    budget, codec = saec.Ratio(8), saec.Clusters(clusters=32, iterations=2)
    executors = (None, distributed.DaskExecutor(client))
    results = [
        saec.compress([field], budget, codec, progress=False, executor=executor)
        for field, executor in zip((here, there), executors, strict=True)
    ]
    np.testing.assert_array_equal(*(result["user"].decode() for result in results))


def test_errors_of_an_array_are_reported(client: Client) -> None:
    rows = da.ones((10, 2), chunks=(5, 2), dtype=np.float32)
    with pytest.raises(saec.FieldError, match="'user': blocks of unknown size; call compute"):
        distributed.field("user", rows[rows[:, 0] > 0], np.ones(10), client)
    with pytest.raises(saec.FieldError, match="weights have 10 rows, frequencies 9"):
        distributed.field("user", rows, da.ones(9, chunks=3), client)
    with pytest.raises(saec.FieldError, match="weights are float64"):
        distributed.field("user", rows.astype(np.float64), np.ones(10), client)
    bad = da.where(da.arange(10, chunks=5)[:, None] == 7, np.float32(np.nan), rows)
    field = distributed.field("user", bad, np.ones(10), client)
    with pytest.raises(saec.FieldError, match="'user': weights hold nan at row 7, column 0"):
        distributed.DaskExecutor(client)(field.parts).run(tasks.Sums(), tasks.add)
