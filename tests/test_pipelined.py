"""Lookups ahead of scores: order, bounds, errors and early ends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import saec
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField

SECONDS = 60


def test_scores_equal_those_of_one_stage(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5000, 16)).astype(np.float32)
    Compressed([RawField("item", weights)]).save(tmp_path / "a.saec")
    field = saec.load(tmp_path / "a.saec", memory="150kB")["item"]
    batches = [rng.integers(0, 5000, 200) for _ in range(20)]
    found = list(saec.pipelined(batches, field.lookup, lambda rows: rows.sum(axis=0)))
    assert np.array_equal(found, [weights[ids].sum(axis=0) for ids in batches])


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_lookups_ahead_and_no_more(ahead: int) -> None:
    """While the first score is computed, `ahead` further batches are looked up."""
    done: list[int] = []
    reached = threading.Event()

    def lookup(batch: int) -> int:
        done.append(batch)
        if len(done) == 1 + ahead:
            reached.set()
        return 10 * batch

    def score(rows: int) -> int:
        if rows == 0:
            assert reached.wait(SECONDS)
            assert not threading.Event().wait(0.05)  # time for one too many
            assert len(done) == 1 + ahead
        return rows + 1

    found = saec.pipelined(range(8), lookup, score, ahead)
    assert list(found) == [1, 11, 21, 31, 41, 51, 61, 71]
    assert done == list(range(8))


def test_lookup_and_score_go_on_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=SECONDS)

    def meet(batch: int) -> int:
        if batch in (1, 2):
            both.wait()  # with the score of the batch before
        return batch

    def score(rows: int) -> int:
        if rows in (0, 1):
            both.wait()
        return rows

    assert list(saec.pipelined(range(3), meet, score)) == [0, 1, 2]


def test_a_result_does_not_wait_for_later_batches() -> None:
    more = threading.Event()

    def batches() -> Iterator[int]:
        yield 0
        assert more.wait(SECONDS)
        yield 1

    found = saec.pipelined(batches(), lambda batch: batch, lambda rows: rows)
    assert next(found) == 0
    more.set()
    assert list(found) == [1]


def test_errors_come_in_their_place() -> None:
    def fail(batch: int) -> int:
        if batch == 2:
            raise saec.ArtifactError("a read failed")
        return batch

    found = saec.pipelined(range(5), fail, lambda rows: rows)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(saec.ArtifactError, match="a read failed"):
        next(found)
    with pytest.raises(ZeroDivisionError):
        list(saec.pipelined([1, 0], lambda batch: batch, lambda rows: 1 // rows))


def test_an_early_end_leaves_no_thread_and_draws_no_more() -> None:
    drawn = itertools.count()
    before = set(threading.enumerate())
    found = saec.pipelined(drawn, lambda batch: batch, lambda rows: rows)
    assert [next(found), next(found)] == [0, 1]
    found.close()  # type: ignore[attr-defined]
    assert not set(threading.enumerate()) - before
    assert next(drawn) <= 5


def test_no_lookups_ahead_are_no_pipeline() -> None:
    with pytest.raises(saec.OptionError, match="at least 1 batch is looked up ahead, not 0"):
        saec.pipelined([], len, len, 0)
