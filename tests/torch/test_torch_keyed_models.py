"""Models whose tables take ids before compression, and keys afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click_model import ClickModel
from numpy.typing import NDArray
from torch import Tensor, nn

import saec
from saec.errors import FieldError, ModuleError
from saec.format.keyed_field import KeyedField
from saec.torch import (
    CompressedEmbeddingBag,
    KeyedEmbedding,
    KeyedEmbeddingBag,
    TableKeys,
    compress_,
    decode_embeddings_,
    fields,
    forecast,
    loss_metrics,
    measure_loss_increase,
    replace_embeddings_,
    sync_codebooks_,
)
from saec.torch.model.table_keys import harm_of_unknown_keys

USERS = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, 30)
TAGS = [f"tag {number}" for number in range(12)]
COUNTS = {"user": 100 / np.arange(1, 31), "tags": 100 / np.arange(1, 13)}
Batch = tuple[tuple[Tensor, Tensor], Tensor]


def batches(count: int = 6, seed: int = 0) -> list[Batch]:
    """Batches of (user, tags) ids."""
    generator = torch.Generator().manual_seed(seed)

    def ids(size: int, *shape: int) -> Tensor:
        return torch.randint(size, shape, generator=generator)

    return [
        ((ids(30, 64), ids(12, 64, 3)), torch.rand(64, generator=generator).round())
        for _ in range(count)
    ]


def in_keys(batch: Batch) -> tuple[Tensor, Tensor]:
    """The same rows by keys; tags by their hashes."""
    (user, tags), _ = batch
    hashes = torch.from_numpy(saec.hash_keys(TAGS).view(np.int64))
    return torch.from_numpy(USERS)[user], hashes[tags]


def keyed(result: saec.Compressed, name: str) -> KeyedField:
    field = result[name]
    assert isinstance(field, KeyedField)
    return field


def test_a_model_takes_keys_after_compression_in_one_call(tmp_path: Path) -> None:
    model = ClickModel().eval()
    original = copy.deepcopy(model)
    result = compress_(
        model,
        batches(),
        budget=saec.MaxBytes(4000),
        keys={"user": torch.from_numpy(USERS), "tags": TAGS},
        progress=False,
    )
    assert type(model.user) is KeyedEmbedding
    assert type(model.tags) is KeyedEmbeddingBag
    assert not list(model.user.parameters())
    batch = batches(1, seed=3)[0]
    expected = copy.deepcopy(original)
    with torch.no_grad():
        expected.user.weight.copy_(torch.from_numpy(result["user"].lookup(USERS)))
        expected.tags.weight.copy_(torch.from_numpy(result["tags"].lookup(TAGS)))
        torch.testing.assert_close(model(*in_keys(batch)), expected(*batch[0]))
    size = result.model_size
    assert size is not None
    assert size.before - size.after == 42 * 4 * 4 - result.nbytes

    result.save(tmp_path / "model.saec")
    loaded = saec.load(tmp_path / "model.saec")
    fresh = replace_embeddings_(copy.deepcopy(original), loaded)
    with torch.no_grad():
        assert torch.equal(fresh(*in_keys(batch)), model(*in_keys(batch)))
    assert sync_codebooks_(model, result)["user"] is result["user"]
    with pytest.raises(ModuleError, match="table user does not store its keys, so cannot list"):
        decode_embeddings_(model)


def test_tables_without_keys_keep_their_ids() -> None:
    model = ClickModel().eval()
    compress_(model, batches(), budget=saec.Ratio(2), keys={"user": USERS}, progress=False)
    assert type(model.user) is KeyedEmbedding
    assert type(model.tags) in (nn.EmbeddingBag, CompressedEmbeddingBag)
    (_, tags), _ = batch = batches(1)[0]
    assert model(in_keys(batch)[0], tags).shape == (64,)


def test_the_row_of_padding_is_that_of_its_key() -> None:
    model = ClickModel(padding_idx=4).eval()
    plain = copy.deepcopy(model)
    result = compress_(model, batches(), budget=saec.Ratio(2), keys={"user": USERS}, progress=False)
    assert isinstance(model.user, KeyedEmbedding)
    assert model.user.padding_key == USERS[4]
    assert torch.equal(model.user(torch.tensor([USERS[4]])), plain.user.weight[4:5])
    with pytest.raises(ModuleError, match=r"field 'user' has padding_idx=4.* give its keys"):
        replace_embeddings_(plain, result)
    short = TableKeys(USERS[:3], rows=[0, 1, 2])
    with pytest.raises(ModuleError, match="row 4, at padding_idx, has no key"):
        replace_embeddings_(plain, result, keys={"user": short})


def test_the_increase_is_measured_with_the_rows_of_keys_and_what_unknown_ones_lose() -> None:
    model = ClickModel().eval()
    keys = {"user": TableKeys(USERS, unseen_share=0.4)}
    metrics = loss_metrics(model, batches(), progress=False)
    own = fields(model, COUNTS, keys=keys)
    result = saec.compress(own, saec.MaxBytes(900), metrics=metrics, progress=False)
    assert keyed(result, "user").contains(USERS).any()
    found = measure_loss_increase(model, result, batches(), labelled=False, keys=keys)
    held = copy.deepcopy(model)
    with torch.no_grad():
        held.user.weight.copy_(torch.from_numpy(result["user"].lookup(USERS)))
        replace_embeddings_(held, saec.Compressed([result["tags"]]))
        pairs = [(model(*ids), held(*ids)) for ids, _ in batches()]
    before, after = (torch.cat(own).double() for own in zip(*pairs, strict=True))
    kl = torch.sigmoid(before) * (before - after) + nn.functional.softplus(after)
    expected = (kl - nn.functional.softplus(before)).mean()
    assert found.value == pytest.approx(float(expected), abs=1e-7)
    with pytest.raises(ModuleError, match="field 'user' has keys, and the model's table has ids"):
        measure_loss_increase(model, result, batches(), labelled=False)


def test_harm_of_unknown_keys_by_hand() -> None:
    """One key with a codeword of 0 bits: every unknown key gets its row, two steps away."""
    rows = np.array([[3.0, 1.0]], np.float32)
    own = saec.Field("f", rows, [1], keys=[7], unseen=[1.0, 1.0], unseen_share=0.5)
    metric = np.diag([0.5, 1.0])
    result = saec.compress([own], saec.MaxBytes(424), metrics={"f": 100 * metric}, progress=False)
    field = keyed(result, "f")
    assert field.false_positive_rate == 1 / 64
    harm = 0.5 / 2 * 4 * 0.5 * field.false_positive_rate
    assert harm_of_unknown_keys(field, 0.5, metric) == pytest.approx(harm, rel=0.1, abs=1e-9)


@pytest.mark.exhaustive
def test_a_loss_budget_is_met_with_keys() -> None:
    model = ClickModel().eval()
    result = compress_(
        model,
        batches(20),
        budget=saec.LossIncrease(3e-3),
        keys={"user": TableKeys(USERS, unseen_share=0.2)},
        progress=False,
    )
    assert result.predicted_loss_increase is not None
    assert result.predicted_loss_increase <= 3e-3 * 1.05
    assert result.compression_ratio > 1


def test_a_curve_with_keys() -> None:
    model = ClickModel().eval()
    curve = forecast(
        model, batches(20), calibration=batches(9, seed=7), keys={"user": USERS}, progress=False
    )
    assert np.isfinite(curve.loss_increases).all()


def test_rows_without_keys_and_the_row_of_unknown_ones() -> None:
    model = ClickModel().eval()
    counts = {"user": np.arange(1.0, 31)}
    own = TableKeys(USERS[:28], rows=np.arange(29, 1, -1), unseen=0)
    (field,) = fields(model, counts, keys={"user": own})
    assert field.vocab_size == 28
    assert np.array_equal(field.weights[0], model.user.weight[29].detach().numpy())
    assert field.keys is not None
    assert field.keys.unseen_share == pytest.approx(1 / 465)
    result = saec.compress([field], saec.MaxBytes(1500), progress=False)
    default = keyed(result, "user").axes[-1]
    np.testing.assert_allclose(default, model.user.weight[0].detach().numpy(), atol=2e-3)
    replace_embeddings_(model, result)
    asked = torch.tensor([USERS[0], USERS[27]])
    assert np.array_equal(model.user(asked).numpy(), result["user"].lookup(asked.numpy()))


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"users": USERS}, ModuleError, "keys are given for 'users', which is no table"),
        ({"user": USERS[:9]}, FieldError, "field 'user': weights have 30 rows, keys 9"),
        ({"user": USERS + 0.5}, FieldError, "keys must be integers or strings, not float64"),
        ({"user": TableKeys(USERS, rows=[0, 1])}, FieldError, "30 keys for 2 rows"),
        ({"user": TableKeys([1], rows=[30])}, FieldError, r"key 0 is of row 30, outside \[0, 30\)"),
        ({"user": TableKeys([1, 2], rows=[3, 3])}, FieldError, "a row has two keys"),
        ({"user": TableKeys([1], rows=[0.5])}, FieldError, "rows of keys are integers"),
        ({"user": TableKeys([1], rows=[0], unseen=99)}, FieldError, "unseen is row 99, outside"),
        ({"user": TableKeys(USERS, unseen=99)}, FieldError, "unseen is row 99, outside"),
    ],
)
def test_keys_that_do_not_fit(
    keys: dict[str, NDArray[np.int64] | TableKeys], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fields(ClickModel(), COUNTS, keys=keys)


@pytest.mark.parametrize("unseen", [1.5, True, "1", np.zeros(4), torch.tensor(1)])
def test_unseen_that_is_no_number_of_a_row(unseen: Any) -> None:
    with pytest.raises(FieldError, match="unseen is the number of a row, not "):
        TableKeys(USERS, unseen=unseen)


def test_tied_and_joint_tables_take_no_keys() -> None:
    model = ClickModel(dim=8)
    model.out = nn.Linear(8, 30, bias=False)
    model.out.weight = model.user.weight
    with pytest.raises(ModuleError, match=r"'user', whose weight 'out' has, too: it needs all"):
        fields(model, COUNTS, keys={"user": USERS})
    halves = {"user": {"a": (0, 10), "b": (10, 30)}}
    counts = {"a": np.ones(10), "b": np.ones(20)}
    with pytest.raises(ModuleError, match="keys are given for 'a', which is no table"):
        fields(ClickModel(), counts, halves, keys={"a": USERS[:10]})
    own = saec.Field("b", np.ones((20, 4), np.float32), np.ones(20), keys=np.arange(20))
    other = saec.Field("a", np.ones((10, 4), np.float32), np.ones(10))
    result = saec.compress([other, own], saec.MaxBytes(3000), progress=False)
    with pytest.raises(ModuleError, match="field 'b' has keys, and cannot be a part"):
        replace_embeddings_(ClickModel(), result, halves)
