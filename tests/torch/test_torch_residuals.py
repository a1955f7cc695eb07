"""Small increases of the loss, estimated from the mean errors of a model's predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
import saec.torch
from saec.torch import MeasuredIncrease
from saec.torch.measure.calibration import Shares
from saec.torch.measure.loss_increase import Comparison
from saec.torch.measure.residuals import Residuals
from saec.torch.model.find_tables import named_tables
from saec.torch.model.marked_rows import marked_rows


def test_a_constant_by_hand() -> None:
    """396 predictions of 1/2 and 248 clicks: 1 + 396 / 4 = 100, and the sum of p - y is -50."""
    labels = torch.tensor([1.0] * 248 + [0.0] * 148).double()
    logits, marks = torch.zeros(396).double(), torch.zeros((396, 0), dtype=torch.bool)
    residuals = Residuals.of(logits, labels, marks)
    assert residuals.coefficients.tolist() == pytest.approx([-0.5, 0])
    found = residuals.first_order(torch.full((396,), 0.2).double())
    assert found == pytest.approx((0.25 * 0.2 * -0.5, 0.25 * 0.2 / 10))


def test_marks_tell_rows_apart() -> None:
    """Half of the rows have a mark; only their predictions are wrong, by 1 / 4."""
    marks = (torch.arange(80_000) % 2 == 1)[:, None]
    labels = (torch.arange(80_000) % 8 < 4).double()  # these rows have half of the clicks
    labels[marks[:, 0]] = (torch.arange(40_000) % 4 == 0).double()
    residuals = Residuals.of(torch.zeros(80_000).double(), labels, marks)
    change = marks[:, 0].double() * 0.1
    mean, error = residuals.first_order(change)
    assert mean == pytest.approx(0.5 * 0.25 * 0.1, rel=1e-3)
    assert error == pytest.approx(0.1 * 0.5 * 0.5 / 40_000**0.5, rel=1e-3)
    assert residuals.first_order(0.1 - change)[0] == pytest.approx(0, abs=1e-5)


class Tables(nn.Module):
    """One id, a list of ids, and bags; and a table whose ids do not belong to single rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.list = nn.Embedding(4, 2), nn.Embedding(3, 2)
        self.bags = nn.EmbeddingBag(5, 2, mode="sum")
        self.other = nn.Embedding(2, 2)

    def forward(self, one: Tensor, ids: Tensor, bag: Tensor, offsets: Tensor) -> Tensor:
        rows = self.one(one) + self.list(ids).sum(dim=1) + self.bags(bag, offsets)
        logits: Tensor = (rows + self.other(torch.tensor([0]))).sum(dim=1)
        return logits


def test_rows_with_absent_features_are_marked() -> None:
    counts = {"one": [0, 3, 1, 0], "list": [0, 1, 1], "bags": [1, 0, 1, 1, 1], "other": [0, 1]}
    ids = torch.tensor([[1, 2], [2, 0]]), torch.tensor([1, 0, 2, 1]), torch.tensor([0, 2])
    batches = [
        ((torch.tensor([0, 1]), *ids), None),
        ((torch.tensor([2, 3]), *ids[:1], torch.tensor([2, 1]), torch.tensor([0, 0])), None),
    ]
    absent = {name: np.equal(own, 0) for name, own in counts.items()}
    model = Tables()
    tables = named_tables(model, None, {})
    marks = marked_rows(model, tables, batches, absent)
    assert marks.tolist() == [
        [True, False, True],
        [False, True, True],
        [False, False, False],
        [True, True, True],
    ]
    none = {name: np.zeros(len(own), bool) for name, own in counts.items()}
    assert marked_rows(model, tables, batches, none).shape == (4, 0)


class Clicks(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.user = nn.Embedding.from_pretrained(rows, freeze=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.user(ids).sum(dim=1)
        return logits


def test_most_of_an_increase_where_predictions_are_off_is_explained() -> None:
    """Half of the rows have id 0, which training did not have: its logit is 1 too high there.

    No bits go to it, and so its logit changes by much; the right increase is known.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 4)).astype(np.float32) * 0.2
    counts = np.concatenate([[0.0], 1000 / np.arange(1, 500)])
    model = Clicks(torch.from_numpy(rows))
    result = saec.compress([saec.Field("user", rows, counts)], saec.Ratio(8), progress=False)
    ids = torch.from_numpy(np.where(rng.random(40_000) < 0.5, 0, rng.integers(1, 500, 40_000)))
    with torch.no_grad():
        before = model(ids).double()
    right = torch.sigmoid(before - (ids == 0).double())
    labels = torch.from_numpy(rng.binomial(1, right.numpy())).double()
    batches = list(zip(ids.split(7000), labels.split(7000), strict=True))
    known = Comparison(model, named_tables(model, None, {}), batches, None, labelled=True)
    plain = known.of(result)
    known.explain({"user": counts == 0})
    found = known.of(result)
    decoded = torch.from_numpy(result["user"].decode())
    after = Clicks(decoded)(ids).detach().double()
    softplus = nn.functional.softplus
    truth = float((softplus(after) - softplus(before) - right * (after - before)).mean())
    assert (plain.value, plain.standard_error) == (found.value, found.standard_error)
    assert (plain.explained, plain.rest) == (0, plain.value)
    assert found.explained + found.rest == pytest.approx(found.value)
    assert abs(found.explained - truth) < 3 * found.explained_error + 0.02 * abs(truth)
    assert abs(truth) > 3 * found.standard_error
    assert found.explained_error < found.standard_error


def test_other_losses_and_other_orders_have_no_explained_part() -> None:
    rows = torch.ones(30, 4)
    model = Clicks(rows)
    fields = [saec.Field("user", rows.numpy(), np.ones(30))]
    result = saec.compress(fields, saec.Ratio(1), progress=False)
    data = torch.utils.data.TensorDataset(torch.arange(30), torch.ones(30))
    shuffled = torch.utils.data.DataLoader(data, 10, shuffle=True)
    fixed = torch.utils.data.DataLoader(data, 10)
    tables = named_tables(model, None, {})
    for batches, loss in ((shuffled, None), (fixed, nn.MSELoss())):
        known = Comparison(model, tables, batches, loss, labelled=True)
        known.explain({"user": np.ones(30, bool)})
        assert known.of(result).explained == 0


def test_shares_are_those_of_the_rest() -> None:
    shares = Shares()
    shares.add(0.001, MeasuredIncrease(0.0055, 0.0005, 1000, 0.005, 0.0003))
    shares.add(0.004, MeasuredIncrease(0.002, 0.0, 1000))
    found = shares.expected(0.001)
    assert found.value == pytest.approx(0.0055)  # half a forecast comes on top, as elsewhere
    weights = 1 / 0.4**2, 1 / 0.2**2  # of shares: 0.5^2 - 0.3^2 = 0.4^2, and two doublings away
    error = (0.001**2 / sum(weights) + 0.0003**2) ** 0.5
    assert found.standard_error == pytest.approx(error)
