"""Next-item prediction: sequences, ranking and losses by hand, and compressed item tables."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from saec.errors import BudgetError, DataError, OptionError
from saec.reference.next_item import item_tables
from saec.reference.next_item.compressions import (
    NEXT_ITEM_METHODS,
    NextItemModel,
    NextItemRun,
    tuning_of,
)
from saec.reference.next_item.item_tables import CodedItems, TrainItems
from saec.reference.next_item.recoded_items import RecodedItems
from saec.reference.next_item.self_attentive import SelfAttention, rank_all
from saec.reference.next_item.sequences import ItemSequences, load_sequences
from saec.reference.next_item.training import NextItemTraining, contrasted, train_next_item

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 8


@pytest.fixture(autouse=True, scope="module")
def short_fits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_tables, "_FIT_STEPS", 80)
        yield


SHORT = NextItemTraining(learning_rate=1e-2, batch=32, places=256, epochs=4, patience=4)


@pytest.fixture(scope="module")
def walks() -> ItemSequences:
    """Users who mostly go from item i to item i + 1, of 40."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random((120, 12)) < 0.9, 1, 7)
    items = (rng.integers(40, size=(120, 1)) + steps.cumsum(axis=1)) % 40
    return ItemSequences.of(np.repeat(np.arange(120), 12), items.ravel(), length=6)


@pytest.fixture(scope="module")
def trained(walks: ItemSequences) -> NextItemModel:
    model = NextItemModel.untrained(walks, DIM, 0)
    train_next_item(model, walks, SHORT, seed=0)
    return NextItemModel(model, walks, tuning_of(SHORT, epochs=1, rate=5e-3), 0)


def by_hand() -> ItemSequences:
    """User 5 has 7, 8, 7, 9, 8 and user 6 has 7, 9, 9, 8, in turn."""
    users = np.array([5, 6, 5, 6, 5, 6, 5, 6, 5])
    items = np.array([7, 7, 8, 9, 7, 9, 9, 8, 8])
    return ItemSequences.of(users, items, length=3)


def test_the_last_two_items_of_a_user_are_held_out() -> None:
    data = by_hand()
    # Training has 7, 8, 7 and 7, 9: ids are 7 -> 1, and 8 -> 2, 9 -> 3, which are equally frequent.
    assert data.items.tolist() == [1, 2, 1, 3, 2, 1, 3, 3, 2]
    assert data.frequencies.tolist() == [0, 3, 1, 1]
    ((seen, wanted),) = data.held_out("test", 9)
    assert seen.tolist() == [[2, 1, 3], [1, 3, 3]]
    assert wanted.tolist() == [2, 2]
    ((seen, wanted),) = data.held_out("validation", 9)
    assert seen.tolist() == [[1, 2, 1], [0, 1, 3]]
    assert wanted.tolist() == [3, 3]
    ((seen, wanted),) = data.training(9, None)
    assert seen.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert wanted.tolist() == [[0, 2, 1], [0, 0, 3]]


def test_users_may_be_hashes_and_names() -> None:
    hashes = np.array([2**60, 2**60 + 1], np.uint64)  # one number as float64
    for users in (hashes, np.array(["ann", "bob"])):
        data = ItemSequences.of(np.repeat(users, 4), np.arange(8), length=3)
        assert data.starts.tolist() == [0, 4, 8]


def test_drawn_windows_stay_in_the_training_part() -> None:
    items = np.tile(np.arange(10), 3)
    data = ItemSequences.of(np.repeat([0, 1, 2], 10), items, length=3)
    held = {int(data.items[9]), int(data.items[8])}
    rng, ends = np.random.default_rng(0), set()
    for _ in range(20):
        for seen, wanted in data.training(2, rng):
            assert torch.equal(seen[:, 1:], wanted[:, :-1])
            assert not held & set(wanted.flatten().tolist())
            ends |= set(wanted[:, -1].tolist())
    assert ends == {int(data.items[place]) for place in range(3, 8)}


def test_users_with_too_few_items_are_refused() -> None:
    with pytest.raises(DataError, match="user 1 has 3 items; next-item prediction needs 4"):
        ItemSequences.of(np.array([0, 0, 0, 0, 1, 1, 1]), np.arange(7), length=3)


def test_files_are_in_order_of_time_if_they_have_times(tmp_path: Path) -> None:
    columns = {"user": [1] * 4, "movie": [50, 60, 70, 80], "timestamp": [9, 10, 8, 7]}
    dated, plain = tmp_path / "dated.parquet", tmp_path / "plain.parquet"
    pl.DataFrame(columns).write_parquet(dated)
    pl.DataFrame(columns).drop("timestamp").write_parquet(plain)
    lines = zip(*columns.values(), strict=True)
    text = "\n".join(f"{user}::{movie}::5::{time}" for user, movie, time in lines)
    (tmp_path / "ratings.dat").write_text(text)
    orders = [load_sequences(path, 3).items.tolist() for path in (dated, plain, tmp_path)]
    # Movies 80 and 70 are trained on with times, 50 and 60 without.
    assert orders == [[2, 1, 3, 4], [1, 2, 3, 4], [2, 1, 3, 4]]


class Fixed(SelfAttention):
    """Gives the same scores to all users."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__(len(scores), 2, 3, layers=1)
        self.fixed = torch.tensor(scores)

    def hidden(self, seen: Tensor) -> Tensor:
        return self.fixed.expand(*seen.shape, -1)


def test_ranks_by_hand() -> None:
    """Padding has the highest score and does not count; two items of one score share a rank."""
    model = Fixed([99.0, 3.0, 2.0, 2.0, 1.0])
    model.scores = torch.nn.Identity()
    ranking = rank_all(model, [(torch.ones(3, 3, dtype=torch.long), torch.tensor([1, 2, 4]))])
    ranks = [0.0, 1.5, 3.0]
    assert ranking.hr == 1
    assert ranking.ndcg == pytest.approx(sum(1 / math.log2(rank + 2) for rank in ranks) / 3)
    total = math.log(sum(math.exp(score) for score in (3, 2, 2, 1)))
    assert ranking.loss == pytest.approx(total - (3 + 2 + 1) / 3, abs=1e-6)
    long = Fixed([0.0, *range(20, 0, -1)])
    long.scores = torch.nn.Identity()
    ranking = rank_all(long, [(torch.ones(2, 3, dtype=torch.long), torch.tensor([10, 11]))])
    assert (ranking.hr, ranking.ndcg) == (0.5, pytest.approx(1 / math.log2(11) / 2))


def test_a_model_that_diverged_ranks_no_item() -> None:
    model = Fixed([math.nan] * 4)
    model.scores = torch.nn.Identity()
    ranking = rank_all(model, [(torch.ones(1, 3, dtype=torch.long), torch.tensor([2]))])
    assert (ranking.hr, ranking.ndcg) == (0, 0)
    assert math.isnan(ranking.loss)


def test_the_contrast_by_hand() -> None:
    own = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    taught = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # Cosines are 1 with the own state and 0 with the other.
    expected = -math.log(math.exp(5) / (math.exp(5) + 1))
    assert float(contrasted(own, taught, 0.2)) == pytest.approx(expected)
    assert float(contrasted(own, taught.flip(0), 0.2)) == pytest.approx(expected + 5)


def test_states_do_not_depend_on_later_items(walks: ItemSequences) -> None:
    model = NextItemModel.untrained(walks, DIM, 0).eval()
    seen = torch.tensor([[0, 1, 2, 3, 4, 5]])
    other = torch.tensor([[0, 1, 2, 3, 9, 9]])
    assert torch.allclose(model.hidden(seen)[:, :4], model.hidden(other)[:, :4], atol=1e-6)


def test_training_learns_and_repeats(walks: ItemSequences, trained: NextItemModel) -> None:
    before = rank_all(NextItemModel.untrained(walks, DIM, 0), walks.held_out("test", 32))
    after = rank_all(trained.base, walks.held_out("test", 32))
    assert after.ndcg > before.ndcg + 0.1
    again = NextItemModel.untrained(walks, DIM, 0)
    train_next_item(again, walks, SHORT, seed=0)
    assert all(
        torch.equal(value, again.state_dict()[name])
        for name, value in trained.base.state_dict().items()
    )


def test_the_learning_rate_falls_evenly(trained: NextItemModel) -> None:
    """120 users make 4 steps of 32; two passes bring the rate from 0.08 to a quarter of it, by
    0.06 / 8 a step."""
    rates: list[float] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"])
    )
    settings = NextItemTraining(0.08, last_rate=0.25, batch=32, places=8, epochs=2)
    try:
        train_next_item(copy.deepcopy(trained.base), trained.data, settings, seed=0)
    finally:
        handle.remove()
    assert rates == pytest.approx([0.08 - 0.0075 * step for step in range(8)])


def test_training_never_ends_worse_than_it_began(trained: NextItemModel) -> None:
    model = copy.deepcopy(trained.base)
    before = rank_all(model, trained.data.held_out("validation", 32))
    wild = NextItemTraining(learning_rate=1.0, batch=32, epochs=1)
    found = train_next_item(model, trained.data, wild, seed=0)
    assert found.best.ndcg >= before.ndcg
    assert rank_all(model, trained.data.held_out("validation", 32)) == found.best


@pytest.mark.parametrize("kind", [TrainItems, CodedItems])
def test_small_tables_keep_their_bytes_and_approximate_rows(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 3, generator=generator) @ torch.randn(3, DIM, generator=generator)
    torch.manual_seed(0)
    errors = []
    for nbytes in (600, 1600):
        table = kind(rows, nbytes)
        assert table.nbytes <= nbytes
        found = table.all_rows().detach()
        assert torch.equal(table(torch.tensor([[3, 199]])), found[[3, 199]][None])
        errors.append(float((found - rows).square().sum() / rows.square().sum()))
        stored = sum(parameter.numel() for parameter in table.parameters()) * 2
        bits = 0 if kind is TrainItems else len(table.books) * int(math.log2(table.books.shape[1]))
        assert table.nbytes == stored + (-(-200 * bits // 8) + 7 if bits else 0)
        assert all(torch.equal(one, one.half().float()) for one in table.parameters())
    assert errors[1] < errors[0] < 0.9
    with pytest.raises(BudgetError, match=r"needs? at least \d+ bytes.*; 9 were allowed"):
        kind(rows, 9)


@pytest.mark.parametrize("method", NEXT_ITEM_METHODS)
def test_every_method_is_measured(method: str, trained: NextItemModel) -> None:
    run = NextItemRun(method, None if method.startswith("uncompressed") else 2.0)
    before = copy.deepcopy(trained.base.state_dict())
    row = trained.measured(run)
    assert row["ratio"] == 4 * DIM * 41 / row["nbytes"]
    assert row["ratio"] >= (run.ratio or 1.0)
    assert row["bytes_all_in"] - row["nbytes"] in (8 * 41, 12 * 41)
    assert (row["epochs"] is None) == (run.tuning == "")
    assert 0 <= row["ndcg"] <= row["hr"] <= 1
    assert all(
        torch.equal(trained.base.state_dict()[name], value) for name, value in before.items()
    )
    plain = trained.measured(NextItemRun(run.table, run.ratio))
    assert row["validation_ndcg"] >= plain["validation_ndcg"]


def test_the_bytes_of_axes_are_logged(
    trained: NextItemModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="saec.reference.next_item.compressions"):
        model, _, _ = trained.compressed(NextItemRun("axes+recoded", 2.0))
    assert isinstance(model.item, RecodedItems)
    field = model.item.stored()
    told = f"codes {field.codes.size}, values {2 * field.values.size}, axes {field.axes.nbytes}"
    assert [record.getMessage() for record in caplog.records] == [
        f"bytes of the item table: {told}"
    ]


def test_tuning_trains_the_values_of_axes(trained: NextItemModel) -> None:
    model, _, _ = trained.compressed(NextItemRun("axes", 2.0))
    parameters = dict(model.named_parameters())
    own = [name for name in parameters if name.startswith(("item.", "scores."))]
    before = {name: parameters[name].detach().clone() for name in own}
    train_next_item(model, trained.data, SHORT, teacher=trained.base, seed=0)
    changed = [name for name in own if not torch.equal(parameters[name], before[name])]
    assert changed


@pytest.mark.parametrize(
    ("method", "ratio", "message"),
    [
        ("axis", 2.0, "no method 'axis'.*did you mean 'axes'"),
        ("axes", None, "method 'axes' cannot have the ratio None"),
        ("uncompressed", 2.0, "method 'uncompressed' cannot have the ratio 2.0"),
        ("codes", 0.0, "ratio is 0.0; it must be positive"),
        ("codes", math.nan, "ratio is nan; it must be positive"),
    ],
)
def test_methods_that_do_not_exist(method: str, ratio: float | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        NextItemRun(method, ratio)
