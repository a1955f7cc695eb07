"""AUC, log loss and predictions, by hand first."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError, IdError
from saec.reference.evaluate import evaluate, predict, score
from saec.reference.log import Log
from saec.reference.models import build


class FirstColumn(nn.Module):
    """The logit is the first id - 2, so that a prediction identifies its row."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.frozen(self.dropout(ids[:, 0].float())) - 2
        return logits


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def numbers(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def test_score_by_hand() -> None:
    # Pairs of a click and a non-click: .4 > .1, .35 > .1, but .4 < .8 and .35 < .8.
    result = score(numbers(0, 1, 1, 0), np.array([0.1, 0.4, 0.35, 0.8]))
    assert result.auc == 0.5
    by_hand = -(math.log(0.9) + math.log(0.4) + math.log(0.35) + math.log(0.2)) / 4
    assert result.logloss == pytest.approx(by_hand, rel=1e-12)


def test_a_tie_counts_half() -> None:
    assert score(numbers(0, 1, 1), np.array([0.5, 0.5, 0.7])).auc == 0.75


def test_certainty_is_clipped_to_the_float64_epsilon() -> None:
    result = score(numbers(0, 1), numbers(1.0, 0.5))
    assert result.logloss == pytest.approx((-math.log(2.0**-52) - math.log(0.5)) / 2, rel=1e-6)


def test_score_takes_any_integer_or_boolean_labels() -> None:
    probabilities = np.array([0.2, 0.9, 0.4])
    expected = score(numbers(0, 1, 0), probabilities)
    assert score(np.array([0, 1, 0]), probabilities) == expected
    assert score(np.array([False, True, False]), probabilities) == expected


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], [], "the rows to score: there are none"),
        ([1, 1], [0.1, 0.2], "all 2 labels are 1; AUC needs both classes"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "all 3 labels are 0"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "the label of row 2 is 2.0; it must be 0 or 1"),
        ([0, math.nan], [0.1, 0.2], "the label of row 1 is nan"),
        ([0, 1], [0.1, math.nan], "the probability of row 1 is nan"),
        ([0, 1], [1.5, 0.5], "the probability of row 0 is 1.5"),
        ([0, 1], [0.1], r"labels have shape \(2,\), probabilities have shape \(1,\)"),
    ],
)
def test_score_refuses(labels: list[float], probabilities: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(numbers(*labels), numbers(*probabilities))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_predict_is_the_same_in_blocks(dtype: type[np.integer]) -> None:
    ids = np.array([[i % 5, 9] for i in range(14)], dtype=dtype)
    ids.setflags(write=False)  # a memory-mapped log is read-only
    expected = sigmoid(ids[:, 0].astype(np.float64) - 2)
    for batch_size in (1, 4, 14, 100):  # 4: three blocks and a ragged last one
        out = predict(FirstColumn(), ids, batch_size=batch_size, progress=False)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_predict_restores_every_module_s_mode_and_keeps_no_gradients() -> None:
    model = FirstColumn()
    ids = np.array([[3]])
    # Dropout would give -2 or 4.
    assert predict(model, ids, progress=False)[0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    model.eval()
    predict(model, ids, progress=False)
    assert not model.dropout.training


def test_predict_restores_the_mode_after_an_error() -> None:
    class Fails(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            assert not self.training
            raise RuntimeError("no memory")

    model = Fails()
    with pytest.raises(RuntimeError, match="no memory"):
        predict(model, np.array([[1]]), progress=False)
    assert model.training


def test_predict_names_the_row_of_a_nan() -> None:
    model = build("wide_deep", {"user": 4}, dim=2)
    with torch.no_grad():
        model.embeddings["user"].weight[3, 1] = torch.nan
    ids = np.array([[1], [2], [0], [1], [3], [3]])
    with pytest.raises(DataError, match="the prediction for row 4 is NaN"):
        predict(model, ids, batch_size=2, progress=False)


def test_predict_names_ids_outside_the_vocabulary() -> None:
    model = build("deepfm", {"user": 4, "item|hour": 3}, dim=2)
    assert predict(model, np.array([[3, 2], [0, 0]]), progress=False).shape == (2,)
    with pytest.raises(IdError, match=r"id 3 of field 'item\|hour' is outside its vocabulary of 3"):
        predict(model, np.array([[3, 2], [0, 3]]), progress=False)
    with pytest.raises(IdError, match="id -1 of field 'user' is outside its vocabulary of 4"):
        predict(model, np.array([[-1, 2]]), progress=False)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((0, 2), np.int32), r"they are int32 of shape \(0, 2\)"),
        (np.zeros(2, np.int32), r"they are int32 of shape \(2,\)"),
        (np.zeros((1, 2), np.float32), r"they are float32 of shape \(1, 2\)"),
        (np.zeros((1, 3), np.int32), "ids have 3 columns, the model 2 fields"),
    ],
)
def test_predict_refuses(ids: NDArray[np.generic], message: str) -> None:
    model = build("deepfm", {"user": 4, "item": 3}, dim=2)
    with pytest.raises(DataError, match=message):
        predict(model, ids, progress=False)


def test_predict_refuses_a_batch_size_of_zero() -> None:
    with pytest.raises(DataError, match="batch_size is 0; it must be at least 1"):
        predict(FirstColumn(), np.array([[1]]), batch_size=0)


def small_log(labels: list[float]) -> Log:
    return Log(
        name="small",
        field_names=("x",),
        ids=np.array([[1], [2], [3], [1], [4], [0]], dtype=np.int32),
        labels=numbers(*labels),
        split=np.array([0, 0, 0, 1, 2, 2], dtype=np.int8),
        frequencies={"x": np.array([0, 1, 1, 1, 0], dtype=np.int64)},
        vocabularies=None,
        truth=None,
    )


def test_evaluate_scores_the_rows_of_one_part() -> None:
    log = small_log([1, 0, 1, 1, 1, 0])
    # Training rows have logits -1, 0, 1 and labels 1, 0, 1; test rows 2, -2 and 1, 0.
    assert evaluate(FirstColumn(), log, "train", progress=False).auc == 0.5
    test = evaluate(FirstColumn(), log, progress=False)
    assert test.auc == 1.0
    assert test.logloss == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_evaluate_names_the_part_that_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="the validation rows of 'small': all 1 labels are 1"):
        evaluate(FirstColumn(), small_log([1, 0, 1, 1, 1, 0]), "validation", progress=False)
