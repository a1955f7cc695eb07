"""Schedules of training rows: which rows form batches, and which are skipped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saec.errors import OptionError
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.schedules import hot_counts, schedule_of
from saec.reference.simulated import simulate
from saec.reference.small import SMALL
from saec.reference.small.training import SmallTraining
from saec.reference.train import train
from saec.reference.training_settings import HotBatches, SkipStale, Training
from saec.reference.training_steps import TrainingSteps
from saec.util.progress import bar


def log_of(ids: list[list[int]], **frequencies: list[float]) -> Log:
    rows = len(ids)
    return Log(
        name="made",
        field_names=tuple(frequencies),
        ids=np.array(ids, np.int32),
        labels=(np.arange(rows) % 2).astype(np.float32),
        split=np.zeros(rows, np.int8),
        frequencies={name: np.array([0.0, *own]) for name, own in frequencies.items()},
    )


# Of 8 rows in two tables, a quarter is hot: ids 1 of both.
LOG = log_of(
    [[1, 1], [1, 1], [1, 2], [1, 1], [2, 3], [2, 2], [1, 1], [1, 1], [1, 1]],
    a=[9.0, 2.0, 1.0],
    b=[8.0, 3.0, 2.0, 1.0, 1.0],
)


def batches_of(
    training: Training, log: Log, model: ClickModel, moves: list[dict[str, list[float]]]
) -> tuple[list[list[int]], int]:
    """The batches of all rows, after each of which the rows of some fields move."""
    schedule = schedule_of(training, log, model, 0)
    found = []
    rows: NDArray[np.intp] = np.arange(len(log.labels))
    for number, batch in enumerate(schedule.batches(rows)):
        found.append(batch.tolist())
        for name, by in (moves[number] if number < len(moves) else {}).items():
            with torch.no_grad():
                model.embeddings[name].weight += torch.tensor(by)[:, None]
    return found, schedule.skipped


def model_of(log: Log) -> ClickModel:
    return build("deepfm", log.vocab_sizes, 1)


def test_hot_rows_are_the_most_frequent_of_all_tables() -> None:
    assert hot_counts(LOG, 0.25).tolist() == [1, 1]
    assert hot_counts(LOG, 0.38).tolist() == [1, 2]  # three rows: 9, 8 and 3
    assert hot_counts(LOG, 0.5).tolist() == [1, 2]  # two rows have count 2, for one place
    assert hot_counts(LOG, 0.1).tolist() == [0, 0]


def test_plain_batches_are_rows_in_their_order() -> None:
    found, skipped = batches_of(Training(batch_size=4), LOG, model_of(LOG), [])
    assert (found, skipped) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8]], 0)


def test_hot_inputs_have_batches_of_their_own() -> None:
    """Rows 0, 1, 6, 7 and 8 touch only hot rows; row 3 does, but its neighbour does not."""
    training = Training(batch_size=2, hot_batches=HotBatches(0.25))
    found, skipped = batches_of(training, LOG, model_of(LOG), [])
    assert sorted(map(tuple, found)) == [(0, 1), (2, 3), (4, 5), (6, 7), (8,)]
    assert found == [[0, 1], [2, 3], [6, 7], [4, 5], [8]]
    assert skipped == 0
    singly = Training(batch_size=2, hot_batches=HotBatches(0.25, pairs=False))
    found, _ = batches_of(singly, LOG, model_of(LOG), [])
    assert found == [[0, 1], [2, 4], [3, 6], [5], [7, 8]]


# Batches of two rows, a snapshot after each. Ids 1 of both fields are hot; the others are not.
PAIRS = {"a": [9.0, 1.0], "b": [8.0, 1.0]}
MOVES = [{}, {"a": [0.0, 0.1, 0.0], "b": [0.0, 1.0, 0.0]}]  # after the second batch


def training_of(**options: Any) -> Training:
    settings = {"share": 0.5, "every": 1, "skipped": 0.45, "sample": 100} | options
    return Training(batch_size=2, skip_stale=SkipStale(**settings))


def test_inputs_whose_hot_rows_all_stand_still_are_skipped() -> None:
    """Movements of the 12 inputs: 0 of two without hot rows, 0.1 of three, 1 of seven."""
    ids = [[1, 1]] * 4 + [[1, 1], [1, 2], [2, 2], [2, 2], [2, 1], [2, 1], [1, 2], [1, 2]]
    log = log_of(ids, **PAIRS)
    found, skipped = batches_of(training_of(), log, model_of(log), MOVES)
    # The threshold is 1. Row 5 stands still, but its neighbour 4 does not; 6 and 7 have no hot row.
    assert (found, skipped) == ([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], 2)
    found, skipped = batches_of(training_of(skipped=0.3), log, model_of(log), MOVES)
    assert (len(found), skipped) == (6, 0)  # the threshold is 0.1
    found, skipped = batches_of(training_of(pairs=False), log, model_of(log), MOVES)
    assert (found, skipped) == ([[0, 1], [2, 3], [4, 6], [7, 8], [9]], 3)


def test_rows_that_are_skipped_keep_their_movement_until_others_move_less() -> None:
    log = log_of([[1, 1]] * 4 + [[1, 2]] * 2 + [[1, 1]] * 2 + [[1, 2]] * 4, **PAIRS)
    training = training_of(skipped=0.5)  # of 12 inputs six move by 0.1, and six by 1
    found, skipped = batches_of(training, log, model_of(log), MOVES)
    assert (found, skipped) == ([[0, 1], [2, 3], [6, 7]], 6)
    slower = [*MOVES, {"b": [0.0, 0.01, 0.0]}]  # now 0.1 is the largest movement of all inputs
    found, skipped = batches_of(training, log, model_of(log), slower)
    assert (found, skipped) == ([[0, 1], [2, 3], [6, 7], [8, 9], [10, 11]], 2)


def test_inputs_with_rare_rows_can_be_spared() -> None:
    still = log_of([[1, 1]] * 4 + [[1, 2], [1, 2], [1, 1], [1, 1]], **PAIRS)
    moves = [{}, {"b": [0.0, 0.0, 5.0]}]  # of hot rows nothing is known
    found, skipped = batches_of(training_of(skipped=0.7), still, model_of(still), moves)
    assert (len(found), skipped) == (4, 0)
    spared = training_of(skipped=0.99, spare_rare=True)
    found, skipped = batches_of(spared, still, model_of(still), MOVES)
    # The threshold is that of inputs with rare rows, which is infinite: all others are skipped.
    assert (found, skipped) == ([[0, 1], [2, 3], [4, 5]], 2)


@pytest.mark.parametrize("schedule", ["hot_batches", "skip_stale"])
def test_models_learn_by_schedules(schedule: str) -> None:
    log = simulate(3000, seed=3)
    options = {
        "hot_batches": HotBatches(0.2),
        "skip_stale": SkipStale(0.3, every=4, skipped=0.8, sample=500),
    }
    training = Training(batch_size=128, max_epochs=4, **{schedule: options[schedule]})  # type: ignore[arg-type]
    model = build("deepfm", log.vocab_sizes, 4, 0)
    result = train(model, log, training, progress=False)
    assert (result.skipped > 0) == (schedule == "skip_stale")
    assert result.skipped < result.examples
    assert result.best.score.auc > 0.55
    again = build("deepfm", log.vocab_sizes, 4, 0)
    assert train(again, log, training, progress=False).skipped == result.skipped
    assert all(
        torch.equal(one, two)
        for one, two in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_optimisers_go_on_where_they_were() -> None:
    log = simulate(2000, seed=3)
    rows = log.rows("train")
    one, two = (build("deepfm", log.vocab_sizes, 4, 0) for _ in range(2))
    with bar("training", None, False) as shown:
        steps = TrainingSteps(one, log, Training(batch_size=100), 0, shown)
        steps.run(rows[:500])
        state = {name: own.clone() for name, own in one.state_dict().items()}
        optimisers = copy.deepcopy(steps.state_dict())
        two.load_state_dict(state)
        others = TrainingSteps(two, log, Training(batch_size=100), 0, shown)
        others.load_state_dict(optimisers)
        for own in (steps, others):
            own.run(rows[500:])
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_small_tables_have_no_rows_that_could_be_stale() -> None:
    log = simulate(1000, seed=1, keys=True)
    small, stale = SmallTraining.of(log, "deepfm", 4, 0), Training(skip_stale=SkipStale())
    with pytest.raises(OptionError, match="needs a plain table for each field, not Quantised"):
        small.trained(SMALL["dqrm"](), 2000, stale)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("share is 1; it must be between 0 and 1", lambda: HotBatches(1)),
        ("share is 0; it must be", lambda: SkipStale(0)),
        ("skipped is 1.5; it must be", lambda: SkipStale(skipped=1.5)),
        ("every is 0; it must be positive", lambda: SkipStale(every=0)),
        ("sample is 0; it must be positive", lambda: SkipStale(sample=0)),
        ("not both", lambda: Training(hot_batches=HotBatches(), skip_stale=SkipStale())),
    ],
)
def test_settings_are_checked(message: str, make: Any) -> None:
    with pytest.raises(OptionError, match=message):
        make()
