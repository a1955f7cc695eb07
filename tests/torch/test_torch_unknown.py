"""What a change of the row for unknown keys costs in their own lookups, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
import saec.torch
from saec.torch import loss_metrics

G = np.outer([3.0, 4.0], [3.0, 4.0])
# Logits of the rows are 0, log 4, log 9 and 0; p (1 - p) is 0.25, 0.16, 0.09 and 0.25.
ROWS = torch.tensor([1.0, 4.0, 9.0, 1.0]).log()[:, None] * torch.tensor([1 / 3, 0.0])
MORE = 64  # lookups that count as the field's own metric


class Linear(nn.Module):
    """The logit is the dot product of what is looked up and (3, 4)."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.user = table

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.user(ids) @ torch.tensor([3.0, 4.0])
        return logits


def measured(table: nn.Module, ids: list[Any], unknown: dict[str, int], **options: Any) -> Any:
    """Trained on row 1 alone; ``ids`` are those of unseen rows."""
    model, seen = Linear(table), [[1, 1]] if isinstance(ids[0], list) else [1]
    batches = [(torch.tensor(seen), torch.ones(1))]
    unseen = [(torch.tensor(ids), torch.ones(len(ids)))]
    return loss_metrics(model, batches, unseen=unseen, unknown=unknown, progress=False, **options)


def test_rows_of_unknown_keys_by_hand() -> None:
    found = measured(nn.Embedding(4, 2, _weight=ROWS), [0, 2, 0, 3, 0], {"user": 0})
    np.testing.assert_allclose(found["user"], 0.16 * G, rtol=1e-6)
    expected = (3 * 0.25 + MORE * 0.16) / (3 + MORE) * G
    np.testing.assert_allclose(found.unknown["user"], expected, rtol=1e-6)


def test_many_unknown_keys_outweigh_the_fields_own_metric() -> None:
    found = measured(nn.Embedding(4, 2, _weight=ROWS), [2, 0] * 32_000, {"user": 2})
    expected = (32_000 * 0.09 + MORE * 0.16) / (32_000 + MORE) * G
    np.testing.assert_allclose(found.unknown["user"], expected, rtol=1e-6)


@pytest.mark.parametrize(("ids", "padding"), [([1, 3], None), ([0, 3], 0)])
def test_no_unknown_key_gives_the_fields_own_metric(
    ids: list[int], padding: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the row is that of padding, whose lookups are not seen."""
    with caplog.at_level("INFO", logger="saec"):
        found = measured(nn.Embedding(4, 2, padding, _weight=ROWS), ids, {"user": 0})
    np.testing.assert_allclose(found.unknown["user"], found["user"], rtol=1e-12)
    assert "field 'user': none of 2 unseen examples looked up the row of unknown" in caplog.text


def test_bags_count_all_lookups_of_an_example() -> None:
    table = nn.EmbeddingBag(4, 2, mode="sum", _weight=ROWS)
    found = measured(table, [[0, 3], [0, 0], [3, 3]], {"user": 0})
    # Rows 1 and 1 give a logit of log 16: p (1 - p) is 16 / 289, twice for two lookups.
    own = 2 * 16 / 289
    np.testing.assert_allclose(found["user"], own * G, rtol=1e-6)
    # As if all lookups, two in an example, were like these three.
    expected = (3 * 2 * 0.25 + MORE * own) / (3 + MORE) * G
    np.testing.assert_allclose(found.unknown["user"], expected, rtol=1e-6)


def test_a_row_of_a_part_of_a_joint_table() -> None:
    ranges = {"user": {"first": (0, 2), "second": (2, 4)}}
    table = nn.Embedding(4, 2, _weight=ROWS)
    found = measured(table, [0, 2, 2, 3], {"second": 0}, ranges=ranges)
    # No training row looked the second part up, so its own metric is 0.
    expected = 2 * 0.09 * (3 / 4) / (2 + MORE) * G
    np.testing.assert_allclose(found.unknown["second"], expected, rtol=1e-6)
    assert list(found.unknown) == ["second"]


@pytest.mark.parametrize(
    ("unknown", "error", "message"),
    [
        ({"item": 0}, saec.ModuleError, "unknown: no field 'item'; there are .'user'."),
        ({"user": 4}, saec.ModuleError, r"unknown: row 4 of .user. is outside \[0, 4\)"),
        ({"user": -1}, saec.ModuleError, "row -1 of .user."),
        ({"user": 0.0}, saec.OptionError, "'user' needs the number of a row, not 0.0"),
        ({"user": True}, saec.OptionError, "'user' needs the number of a row, not True"),
    ],
)
def test_rows_that_do_not_fit(unknown: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measured(nn.Embedding(4, 2, _weight=ROWS), [0], unknown)


def test_unknown_keys_need_batches_that_can_be_gone_through_twice() -> None:
    model = Linear(nn.Embedding(4, 2, _weight=ROWS))
    batches = [(torch.tensor([1]), torch.ones(1))]
    options: Any = {"unknown": {"user": 0}, "progress": False}
    with pytest.raises(saec.OptionError, match="measured on the unseen batches"):
        loss_metrics(model, batches, **options)
    with pytest.raises(saec.DataError, match="unseen must be iterable more than once"):
        loss_metrics(model, batches, unseen=iter(batches), **options)
