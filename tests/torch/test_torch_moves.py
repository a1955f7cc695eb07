"""What moves of rows were worth on later examples, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
from saec.torch import worth_of_moves


class Logits(nn.Module):
    """The logit is the row itself, so that losses can be computed by hand."""

    def __init__(self, *rows: float) -> None:
        super().__init__()
        weights = torch.tensor(rows, dtype=torch.float32).reshape(-1, 1)
        self.user = nn.Embedding(len(rows), 1, _weight=weights, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.user(ids)[:, 0]


def batches(ids: list[int], labels: list[float]) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(np.array_split(ids, 2), np.array_split(np.float32(labels), 2), strict=True)
    return [(torch.from_numpy(own), torch.from_numpy(truth)) for own, truth in pairs]


def log_loss(logit: float, label: float) -> float:
    return float(np.log1p(np.exp(-logit)) if label else np.log1p(np.exp(logit)))


def before(*rows: float) -> dict[str, np.ndarray]:
    return {"user": np.array(rows, np.float32).reshape(-1, 1)}


LOSS = nn.functional.binary_cross_entropy_with_logits
METRICS = {"user": np.array([[0.25]])}


def test_the_worth_is_what_was_saved_by_what_was_forecast() -> None:
    # Row 1 moved from 0 to 0.5, row 2 stayed. Of 600 lookups half are of each.
    ids, labels = [1, 2] * 300, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0] * 100
    model = Logits(0.0, 0.5, 1.0)
    saved = [log_loss(0, label) - log_loss(0.5, label) for label in (1, 0)]
    each = np.array([saved[0], 0, saved[0], 0, saved[1], 0] * 100)
    forecast = (0.25 * 0.5**2 / 2) / 2
    error = each.std(ddof=1) / np.sqrt(600) / forecast
    wanted = 1 + (each.mean() / forecast - 1) / (1 + error**2)
    found = worth_of_moves(model, before(0, 0, 1), batches(ids, labels), LOSS, metrics=METRICS)
    assert found == {"user": pytest.approx(wanted, rel=1e-5)}
    assert 1 < wanted < 4
    assert model.user.weight.detach()[:, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("label", "worth"), [(1.0, 4.0), (0.0, 0.25)])
def test_the_worth_has_limits(label: float, worth: float) -> None:
    pairs = batches([1] * 4000, [label] * 4000)
    assert worth_of_moves(Logits(0, 0.1), before(0, 0), pairs, LOSS, metrics=METRICS) == {
        "user": worth
    }


def test_rows_that_did_not_move_have_the_worth_of_their_forecast() -> None:
    pairs = batches([0, 1], [1.0, 0.0])
    assert worth_of_moves(Logits(0, 0.5), before(0, 0.5), pairs, LOSS, metrics=METRICS) == {
        "user": 1
    }


def test_lookups_of_padding_lower_the_metric_and_the_saving_alike() -> None:
    # A move of 0.5 saves 0.219 nats where the label is 1, and loses 0.281 where it is 0.
    labels = [1.0, 1.0, 0.0] * 1000
    alone = batches([1] * 3000, labels)
    worth = worth_of_moves(Logits(0, 0.5), before(0, 0), alone, LOSS, metrics=METRICS)["user"]
    assert worth == pytest.approx((2 * 0.219 - 0.281) / 3 / 0.03125, rel=0.05)
    half = {"user": METRICS["user"] / 2}
    padded = batches([1] * 3000 + [0] * 3000, labels * 2)
    found = worth_of_moves(Logits(0, 0.5), before(0, 0), padded, LOSS, metrics=half)["user"]
    assert found == pytest.approx(worth, rel=0.02)


def test_fields_of_a_joint_table_are_measured_apart() -> None:
    table = nn.Embedding(4, 1, _weight=torch.tensor([[0.0], [2], [0], [0.1]]))
    model = nn.Sequential(table, nn.Flatten(0))
    ranges = {"0": {"user": (0, 2), "item": (2, 4)}}
    rows = {"user": np.array([[0.0], [0.0]]), "item": np.array([[0.0], [0.0]])}
    metrics = dict.fromkeys(rows, np.array([[0.25]]))
    pairs = batches([1, 3] * 2000, [0.0, 1.0] * 2000)
    found = worth_of_moves(model, rows, pairs, LOSS, metrics=metrics, ranges=ranges)
    assert found == {"user": 0.25, "item": 4.0}
    assert table.weight.detach()[:, 0].tolist() == pytest.approx([0, 2, 0, 0.1])


def test_rows_before_may_be_a_parameter() -> None:
    pairs, rows = batches([1] * 40, [1.0, 0.0] * 20), Logits(0, 0).user.weight
    found = worth_of_moves(Logits(0, 1), {"user": rows}, pairs, LOSS, metrics=METRICS)
    assert found == worth_of_moves(Logits(0, 1), before(0, 0), pairs, LOSS, metrics=METRICS)


def test_bad_input_is_a_typed_error() -> None:
    pairs, model = batches([1, 1], [1.0, 0.0]), Logits(0, 1)
    with pytest.raises(saec.FieldError, match=r"rows before have shape \(3, 1\), its table \(2, 1"):
        worth_of_moves(model, before(0, 0, 0), pairs, LOSS, metrics=METRICS)
    with pytest.raises(saec.MetricError, match="field 'user' has no metric; there are \\['item'"):
        worth_of_moves(model, before(0, 0), pairs, LOSS, metrics={"item": np.eye(1)})
    with pytest.raises(saec.MetricError, match=r"the metric has shape \(2, 2\), not \(1, 1\)"):
        worth_of_moves(model, before(0, 0), pairs, LOSS, metrics={"user": np.eye(2)})
    with pytest.raises(saec.MetricError, match="the metric is not finite"):
        worth_of_moves(model, before(0, 0), pairs, LOSS, metrics={"user": np.array([[np.nan]])})
    with pytest.raises(saec.DataError, match="no batches"):
        worth_of_moves(model, before(0, 0), [], LOSS, metrics=METRICS)
    with pytest.raises(saec.ModuleError, match="movie"):
        worth_of_moves(model, {"movie": np.zeros((2, 1))}, pairs, LOSS, metrics=METRICS)
