"""Counting of lookups: by hand, and compared with numpy.bincount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saec.errors import DataError, ModuleError, ModuleWarning
from saec.torch.model.count_lookups import count_lookups, more_frequent, with_unseen
from saec.torch.model.find_tables import named_tables

Make = Callable[..., Any]


class Lambda(nn.Module):
    """A model in one line: embedding modules by name, and its forward function."""

    def __init__(self, call: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.call = call

    def forward(self, *arguments: Any) -> Any:
        return self.call(self, *arguments)


def counts_of(model: nn.Module, batches: Any, ranges: Any = None) -> dict[str, np.ndarray]:
    tables = named_tables(model, None, ranges or {})
    return count_lookups(model, tables, batches, progress=False)


def counted(model: nn.Module, *inputs: Any, **options: Any) -> dict[str, list[float]]:
    counts = counts_of(model, [(inputs, None)], **options)
    assert all(values.dtype == np.float64 for values in counts.values())
    return {name: values.tolist() for name, values in counts.items()}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_by_hand(dtype: torch.dtype) -> None:
    model = Lambda(lambda self, ids: self.user(ids).sum(-1), user=nn.Embedding(4, 2))
    assert counted(model, torch.tensor([2, 0, 2], dtype=dtype)) == {"user": [1, 0, 2, 0]}
    assert counted(model, torch.tensor([[3, 3], [3, 1]], dtype=dtype)) == {"user": [0, 1, 0, 3]}


def test_batches_add_up_as_numpy_counts(click_model: Make, click_inputs: Make) -> None:
    batches = [(click_inputs(rows, seed), None) for seed, rows in enumerate((16, 16, 5))]
    counts = counts_of(click_model(), batches)
    assert list(counts) == ["user", "tags"]
    for place, (name, rows) in enumerate({"user": 30, "tags": 12}.items()):
        ids = np.concatenate([inputs[place].numpy().ravel() for inputs, _ in batches])
        assert np.array_equal(counts[name], np.bincount(ids, minlength=rows))


def test_an_iterator_of_batches_is_enough(click_model: Make, click_inputs: Make) -> None:
    batches = [(click_inputs(4, seed), None) for seed in range(3)]
    whole = counts_of(click_model(), batches)
    once = counts_of(click_model(), iter(batches))
    assert all(np.array_equal(once[name], whole[name]) for name in whole)


def test_keywords_positions_and_offsets() -> None:
    def call(self: Any, ids: Tensor, offsets: Tensor) -> Tensor:
        one = self.tags(input=ids, offsets=offsets)
        return one.sum(1) + self.tags(ids, offsets).sum(1) + self.user(input=ids[:2]).sum(1)

    model = Lambda(call, tags=nn.EmbeddingBag(3, 2), user=nn.Embedding(3, 2))
    # Bags of 2, 0 and 1 ids; the empty one counts nothing.
    found = counted(model, torch.tensor([2, 2, 0]), torch.tensor([0, 2]))
    assert found == {"tags": [2, 0, 4], "user": [0, 0, 2]}


def test_padding_is_not_counted() -> None:
    model = Lambda(
        lambda self, ids: self.user(ids).sum((1, 2)) + self.tags(ids).sum(1),
        user=nn.Embedding(4, 2, padding_idx=0),
        tags=nn.EmbeddingBag(4, 2, mode="sum", padding_idx=3),
    )
    ids = torch.tensor([[0, 1, 3], [0, 0, 3]])
    assert counted(model, ids) == {"user": [0, 1, 0, 2], "tags": [3, 1, 0, 0]}


def test_shared_modules_and_weights_are_one_table() -> None:
    user = nn.Embedding(3, 2, padding_idx=0)
    tied = nn.EmbeddingBag(3, 2, mode="sum")
    tied.weight = user.weight
    model = Lambda(
        lambda self, ids: self.user(ids) + self.again(ids) + self.tied(ids[:, None]),
        user=user,
        again=user,
        tied=tied,
    )
    # Two lookups without the padding, one with it.
    assert counted(model, torch.tensor([0, 0, 1])) == {"user": [2, 3, 0]}


RANGES = {"joint": {"right": (2, 5), "left": (0, 2)}}


def test_joint_tables_by_their_ranges() -> None:
    model = Lambda(lambda self, ids: self.joint(ids).sum(1), joint=nn.Embedding(5, 2))
    ids = torch.tensor([0, 0, 2, 4, 4, 4])
    assert counted(model, ids, ranges=RANGES) == {"left": [2, 0], "right": [1, 0, 3]}
    assert counted(model, ids) == {"joint": [2, 0, 1, 0, 3]}


def test_tables_without_lookups_are_left_out_but_no_part_of_a_joint_one() -> None:
    model = Lambda(
        lambda self, ids: self.joint(ids).sum(1), joint=nn.Embedding(5, 2), other=nn.Embedding(5, 2)
    )
    with pytest.warns(ModuleWarning, match=r"'other' \(40 bytes\) stays as it is: no batch calls"):
        counts = counted(model, torch.tensor([1]), ranges=RANGES)
    assert counts == {"left": [0, 1], "right": [0, 0, 0]}


def test_the_model_is_as_before(click_model: Make, click_inputs: Make) -> None:
    model = click_model().train()
    model.hidden.eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    counts_of(model, [(click_inputs(), None)])
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(IndexError):
        counts_of(model, [((torch.tensor([30]), torch.tensor([[0]])), None)])
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_cannot_be_counted(click_model: Make, click_inputs: Make) -> None:
    with pytest.raises(DataError, match="batches are empty"):
        counts_of(click_model(), [])
    with pytest.raises(ModuleError, match="no embedding tables to count"):
        counts_of(nn.Linear(1, 1), [(torch.zeros(1, 1), None)])
    model = click_model(max_norm=1.0)
    with pytest.raises(ModuleError, match="embedding 'user' cannot be compressed: it has max_norm"):
        counts_of(model, [(click_inputs(), None)])


def test_features_unseen_in_training_get_their_share_of_later_lookups() -> None:
    model = Lambda(lambda self, ids: self.user(ids).sum(-1), user=nn.Embedding(4, 2))
    later = [(torch.tensor([0, 0, 0, 2]), None), (torch.tensor([1, 1, 1, 1]), None)]
    counts = {"user": torch.tensor([0, 10, 30, 0]), "other": np.ones(3)}
    found = with_unseen(counts, model, named_tables(model, None, {}), later)
    # Id 0 is 3 of 8 later lookups, so 15 of 40; id 3 is not looked up at all.
    assert np.asarray(found["user"]).tolist() == [15, 10, 30, 0]
    assert found["other"] is counts["other"]
    assert counts["user"].tolist() == [0, 10, 30, 0]


def test_features_clearly_more_frequent_later_are_counted_by_later_lookups() -> None:
    """Id 0 is for missing values in training and for unseen values later: 8 and 400 times."""
    model = Lambda(lambda self, ids: self.user(ids).sum(-1), user=nn.Embedding(4, 2))
    ids = torch.tensor([0] * 400 + [1] * 147 + [2] * 450 + [3] * 3)
    counts = {"user": np.array([8, 10_000, 29_991, 1])}
    found = with_unseen(counts, model, named_tables(model, None, {}), [(ids, None)])
    # 1,000 lookups represent 40,000. Three lookups of id 3 in place of 0.025 may be chance.
    assert np.asarray(found["user"]).tolist() == [16_000, 10_000, 29_991, 1]
    assert more_frequent(counts, found)["user"].tolist() == [True, False, False, False]
    assert more_frequent(counts, dict(counts)) == {}
