"""Passes by the workers of a cluster: the same results as in one process, bit by bit."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import dask_tasks as tasks
import numpy as np
import pytest
from dask.sizeof import sizeof
from dask_killing import KILLS, Killer, wait_until
from distributed import Client

import saec
from saec import distributed
from saec.artifact import ShardedTensor
from saec.artifact.shards import map_shards
from saec.clustering.points import StepSums
from saec.codecs.moments_and_samples import Moments, Sample, Survey
from saec.distributed.map_reduce import DaskPasses
from saec.distributed.output_windows import cut
from saec.streaming.frequency_histogram import Census
from saec.streaming.map_reduce import LocalPasses
from saec.streaming.scratch import IN_MEMORY, ShardNames, Workspace
from saec.streaming.strata import ByRank

RUN = "0123456789abcdef"
ROWS = 20_001


@pytest.fixture
def field(tmp_path: Path, rng: np.random.Generator, small_parts: None) -> saec.Field:
    """A field in two files, of 81 parts: more than a group of groups, and a ragged last one."""
    np.save(tmp_path / "rows.npy", rng.standard_normal((ROWS, 4), dtype=np.float32))
    np.save(tmp_path / "counts.npy", rng.zipf(1.5, ROWS).clip(max=1000))
    return saec.Field(
        "user",
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
        np.load(tmp_path / "counts.npy", mmap_mode="r"),
    )


@pytest.fixture
def spread(field: saec.Field, client: Client) -> DaskPasses:
    return distributed.DaskExecutor(client)(field.parts)


def tasks_of(client: Client) -> int:
    """Tasks that the scheduler knows."""
    gc.collect()  # errors of other tests refer to some in a circle
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def by_rank(census: Census, order: str) -> ByRank:
    return ByRank.of(census, np.array([0, 64, 2000, ROWS]), order)


def tensor(found: object, folder: Path) -> np.ndarray:
    return map_shards(folder, found) if isinstance(found, ShardedTensor) else np.asarray(found)


def test_a_field_is_cut_as_in_one_process(field: saec.Field, spread: DaskPasses) -> None:
    assert len(spread.parts) == len(field.parts) == 81


def test_the_workers_do_the_work_each_on_its_own_parts(spread: DaskPasses, client: Client) -> None:
    workers = set(client.run(os.getpid).values())
    first, second = (spread.run(tasks.processes, tasks.union) for _ in range(2))
    assert set(first) == workers
    assert os.getpid() not in workers
    # Idle workers help out with some parts; by far the most are where they were.
    same = [len(first[pid] & second[pid]) for pid in workers]
    assert sum(same) > 60


@pytest.mark.exhaustive
def test_censuses_are_those_of_one_process(field: saec.Field, spread: DaskPasses) -> None:
    there = saec.Field("user", field.weights, field.counts)
    there.take_census(spread)
    np.testing.assert_array_equal(there.census.values, field.census.values)
    np.testing.assert_array_equal(there.census.counts, field.census.counts)
    assert there.census.total == field.census.total


def test_sums_have_the_same_last_digits(field: saec.Field, spread: DaskPasses) -> None:
    local = LocalPasses(field.parts).run(tasks.Sums(), tasks.add)
    assert spread.run(tasks.Sums(), tasks.add).tobytes() == local.tobytes()
    # Which says something: one sum over all rows has others.
    whole = (field.weights * field.frequencies.astype(np.float32)[:, None]).sum(axis=0)
    assert whole.tobytes() != local.tobytes()


@pytest.mark.exhaustive
def test_results_of_each_part_come_in_order(
    field: saec.Field, spread: DaskPasses, client: Client
) -> None:
    shares: list[float] = []
    found = list(spread.each(tasks.Sums(), advance=shares.append))
    local = list(LocalPasses(field.parts).each(tasks.Sums()))
    np.testing.assert_array_equal(found, local)
    assert sum(shares) == pytest.approx(1)
    some = spread.each(tasks.Sums())
    next(some)
    some.close()  # after an error of the caller
    wait_until(lambda: tasks_of(client) == 0)


def test_few_parts_are_under_way_while_no_result_is_taken(
    spread: DaskPasses, client: Client, tmp_path: Path
) -> None:
    results = spread.each(tasks.Copy(begun=tmp_path))
    next(results)
    for taken in range(3):
        begun = 8 + taken  # four for each of two threads
        wait_until(lambda: len(numbers(tmp_path)) >= begun and not busy(client))  # noqa: B023
        assert numbers(tmp_path) == set(range(begun))
        next(results)
    assert len(list(results)) == 81 - 4
    assert numbers(tmp_path) == set(range(81))


def numbers(folder: Path) -> set[int]:
    return {int(file.name) for file in folder.iterdir() if file.suffix != ".npy"}


def busy(client: Client) -> bool:
    """Whether a worker has something to do."""
    return client.run_on_scheduler(
        lambda dask_scheduler: any(own.processing for own in dask_scheduler.workers.values())
    )


@pytest.mark.exhaustive
def test_held_arrays_give_the_same_sums(field: saec.Field, spread: DaskPasses) -> None:
    local = LocalPasses(field.parts).hold(tasks.arrays).run(tasks.held_sums, tasks.add)
    held = spread.hold(tasks.arrays)
    for _ in range(2):
        assert held.run(tasks.held_sums, tasks.add).tobytes() == local.tobytes()


@pytest.mark.exhaustive
def test_nothing_is_left_on_the_workers(spread: DaskPasses, client: Client) -> None:
    held = spread.hold(tasks.arrays)
    spread.run(tasks.Sums(), tasks.add)
    # What the arrays were made with is known still, so that they can be made again.
    wait_until(lambda: tasks_of(client) == 82)
    del held
    wait_until(lambda: tasks_of(client) == 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shards", [False, True])
def test_pieces_are_laid_as_in_one_process(
    field: saec.Field,
    spread: DaskPasses,
    shards: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 16)
    sizes = {"run": ROWS, "scattered": 7 * ROWS + 1, "none": 0, "untouched": 200_000}
    names = ShardNames(tmp_path / "a.saec", RUN, 7)
    space = Workspace(shards=names) if shards else IN_MEMORY
    local_rows, local = LocalPasses(field.parts).lay(tasks.Copy(), sum, sizes)
    rows, tensors = spread.lay(tasks.Copy(), sum, sizes, space=space)
    assert rows == local_rows == ROWS
    for role in sizes:
        np.testing.assert_array_equal(tensor(tensors[role], tmp_path), local[role])
    if shards:
        assert [len(tensors[role].shards) for role in ("scattered", "untouched")] == [2, 2]
        assert isinstance(tensors["run"], np.ndarray), "less than a shard is worth"
        # The tensor that is small has a window, too, and so a number that is not used.
        assert [file.name[-5:] for file in sorted(tmp_path.glob("a.saec.*"))] == [
            "00008", "00009", "00010", "00011",
        ]  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", ["keep", "frequency"])
def test_rows_are_ranked_as_in_one_process(
    field: saec.Field, spread: DaskPasses, order: str
) -> None:
    placing = by_rank(field.census, order)
    sizes = {"ranks": 5 * ROWS // 8 + 8}
    local = LocalPasses(field.parts).lay(tasks.Ranks(placing), sum, sizes, counter=placing)
    found = spread.lay(tasks.Ranks(placing), sum, sizes, counter=placing)
    assert found[0] == local[0] > 0
    np.testing.assert_array_equal(found[1]["ranks"], local[1]["ranks"])


@pytest.mark.exhaustive
def test_progress_adds_up(spread: DaskPasses) -> None:
    shares: list[float] = []
    spread.run(tasks.Sums(), tasks.add, advance=shares.append)
    assert len(shares) == 81
    assert sum(shares) == pytest.approx(1)


@pytest.mark.alone
def test_a_failed_task_raises_its_error_and_cancels_the_others(
    spread: DaskPasses, client: Client, tmp_path: Path
) -> None:
    copy = tasks.Copy(2, fails=0, begun=tmp_path)
    with pytest.raises(ArithmeticError, match="no such sum"):
        spread.lay(copy, sum, {"run": ROWS, "scattered": 7 * ROWS + 1})
    wait_until(lambda: tasks_of(client) == 0)
    assert len(list(tmp_path.iterdir())) < 81  # all of them would take more than a minute


@pytest.mark.exhaustive
def test_an_interrupt_ends_the_tasks(spread: DaskPasses, client: Client) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spread.run(tasks.Sums(0.2), tasks.add, advance=interrupt)
    wait_until(lambda: tasks_of(client) == 0)


def test_a_value_that_is_not_finite_is_named(
    tmp_path: Path, client: Client, small_parts: None
) -> None:
    rows = np.ones((2000, 4), dtype=np.float32)
    rows[1999, 3] = np.inf
    np.save(tmp_path / "rows.npy", rows)
    field = saec.Field("user", np.load(tmp_path / "rows.npy", mmap_mode="r"), np.ones(2000))
    spread = distributed.DaskExecutor(client)(field.parts)
    with pytest.raises(saec.FieldError, match="'user': weights hold inf at row 1999, column 3"):
        spread.run(tasks.Sums(), tasks.add)


@pytest.mark.exhaustive
def test_rows_in_memory_are_sent_once(
    client: Client, small_parts: None, rng: np.random.Generator
) -> None:
    field = saec.Field("user", rng.standard_normal((2001, 4), dtype=np.float32), np.ones(2001))
    spread = distributed.DaskExecutor(client)(field.parts)
    local = LocalPasses(field.parts).run(tasks.Sums(), tasks.add)
    for _ in range(2):
        assert spread.run(tasks.Sums(), tasks.add).tobytes() == local.tobytes()
        wait_until(lambda: tasks_of(client) == len(field.parts))  # the parts


def test_too_many_rows_in_memory_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.distributed.map_reduce._MOST_SENT", 100)
    field = saec.Field("user", np.ones((10, 2), np.float32), np.ones(10))
    with pytest.raises(saec.FieldError, match=r"'user': 160 bytes are in memory .* at most 100"):
        distributed.DaskExecutor(client)(field.parts)


def test_files_are_read_where_they_are(field: saec.Field, client: Client) -> None:
    address, pid = min(client.run(os.getpid).items())
    path = str(field.rows.path)
    spread = distributed.DaskExecutor(client, {path: [address]})(field.parts)
    assert set(spread.run(tasks.processes, tasks.union)) == {pid}


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("held", [False, True])
def test_a_worker_may_die_in_a_pass(
    field: saec.Field, spread: DaskPasses, client: Client, rng: np.random.Generator, held: bool
) -> None:
    sums = LocalPasses(field.parts).run(tasks.Sums(), tasks.add)
    for killed_at in rng.integers(1, 81, KILLS):
        with Killer(client, killed_at) as killer:
            if held:
                arrays = spread.hold(tasks.arrays)
                killer.kill()
                found = arrays.run(tasks.held_sums, tasks.add)
            else:
                found = spread.run(tasks.Sums(0.01), tasks.add, advance=killer.advance)
        assert found.tobytes() == sums.tobytes()


@pytest.mark.exhaustive
def test_a_worker_may_die_while_it_lays(
    field: saec.Field,
    spread: DaskPasses,
    client: Client,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker dies at the last call, while pieces are put together."""
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 16)
    sizes = {"run": ROWS, "scattered": 7 * ROWS + 1}
    _, local = LocalPasses(field.parts).lay(tasks.Copy(), sum, sizes)
    space = Workspace(shards=ShardNames(tmp_path / "a.saec", RUN))
    for killed_at in [*rng.integers(1, 81, KILLS - 1), 81]:
        with Killer(client, killed_at) as killer:
            rows, tensors = spread.lay(
                tasks.Copy(0.01), sum, sizes, space=space, advance=killer.advance
            )
        assert rows == ROWS
        for role in sizes:
            np.testing.assert_array_equal(tensor(tensors[role], tmp_path), local[role])


def test_workers_know_the_size_of_results() -> None:
    """Without sizes, workers would not spill, and samples would be moved between workers."""
    sample = Sample(((np.zeros((1000, 4), np.float32), np.zeros(1000)),), 1.0)
    survey = Survey(Moments(1.0, np.zeros(4), np.zeros((4, 4))), (sample, sample))
    assert sizeof(survey) == pytest.approx(2 * 24_000, rel=0.05)
    census = Census(np.zeros(5000), np.zeros(5000, np.int64), 0, True, 1.0, 1.0, 1.0)
    assert sizeof(census) == pytest.approx(80_000, rel=0.05)
    assert sizeof(StepSums.zeros(1000, 4)) == pytest.approx(48_000, rel=0.05)


def test_windows_are_as_many_as_workers_unless_too_small_or_too_large() -> None:
    megabyte = 1 << 20
    assert [window.stop for window in cut("a", 7 * megabyte, 2)] == [4 * megabyte, 7 * megabyte]
    assert [window.stop for window in cut("a", 3 * megabyte, 2)] == [3 * megabyte]
    assert len(cut("a", 1025 * megabyte, 2)) == 5
    assert cut("a", 0, 2) == ()
