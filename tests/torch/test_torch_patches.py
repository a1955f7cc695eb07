"""Patches of the tables of a model: rows of each day, errors, and the way back."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from daily_tables import METRIC, METRICS, Day
from torch import Tensor, nn

import saec
from saec.errors import ArtifactError, ModuleError, PatchError
from saec.format.keyed_field import KeyedField
from saec.format.raw_field import RawField
from saec.torch.lookup.plain_chain import PlainChain
from saec.torch.table.joint import compressed_table

ROWS = 1200
DAYS = [Day.first(ROWS)]
DAYS += [DAYS[0].next(1, 60, 80)]
DAYS += [DAYS[1].next(2, 60, 80)]


class Model(nn.Module):
    """A table with keys, one without, and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding.from_pretrained(torch.from_numpy(DAYS[0].weights))
        weights = torch.from_numpy(DAYS[0].weights)
        self.item = nn.EmbeddingBag.from_pretrained(weights, mode="sum", padding_idx=0)
        self.layer = nn.Linear(8, 8, bias=False)
        self.layer.weight = nn.Parameter(torch.eye(8), requires_grad=False)

    def forward(self, keys: Tensor, ids: Tensor) -> Tensor:
        rows: Tensor = self.layer(torch.cat([self.user(keys), self.item(ids[:, None])], dim=1))
        return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> Path:
    """base.saec, 1.patch and 2.patch of both fields; other.saec with other.patch."""
    folder = tmp_path_factory.mktemp("days")
    both = [[day.field(), saec.Field("item", day.weights, day.frequencies)] for day in DAYS]
    metrics = METRICS | {"item": METRIC}
    measured = saec.measure(both[0], metrics=metrics, progress=False)
    for name, ratio in (("base", 6), ("other", 12)):
        saec.compress(measured, saec.Ratio(ratio), progress=False).save(folder / f"{name}.saec")
    options: dict[str, Any] = {"metrics": metrics, "whole_rows": 0, "compare": False}
    saec.update(folder / "base.saec", both[1], out=folder / "1.patch", **options)
    one = [folder / "1.patch"]
    saec.update(folder / "base.saec", both[2], out=folder / "2.patch", patches=one, **options)
    saec.update(folder / "other.saec", both[1], out=folder / "other.patch", **options)
    return folder


def model_of(folder: Path) -> tuple[Model, saec.Compressed]:
    result = saec.load(folder / "base.saec")
    model = Model()
    saec.torch.replace_embeddings_(model, result)
    return model.eval(), result


def asked(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and ids of the first rows, and keys that are unknown on some days."""
    places = np.random.default_rng(seed).integers(1, rows, 300)
    return torch.from_numpy(DAYS[2].keys[places]), torch.from_numpy(places)


def expected(result: saec.Compressed, keys: Tensor, ids: Tensor) -> Tensor:
    rows = [result["user"].lookup(keys.numpy()), result["item"].lookup(ids.numpy())]
    return torch.from_numpy(np.concatenate(rows, axis=1))


def test_model_follows_the_days_and_goes_back(folder: Path) -> None:
    model, base = model_of(folder)
    modules = model.user, model.item
    ids = asked(ROWS)
    before = model(*ids)
    result = saec.torch.apply_patch_(model, base, folder / "1.patch")
    result = saec.torch.apply_patch_(model, result, folder / "2.patch")
    chain = saec.load(folder / "base.saec", patches=[folder / "1.patch", folder / "2.patch"])
    later = asked(ROWS + 160)
    assert torch.equal(model(*later), expected(chain, *later))
    assert not torch.equal(model(*ids), before)
    assert model.item(torch.tensor([[0]])).count_nonzero() == 0  # the row of the padding
    assert model.item.num_embeddings == ROWS + 160
    assert (model.user, model.item) == modules
    assert not any(module.training for module in model.modules())
    saec.torch.put_tables_(model, base)
    assert torch.equal(model(*ids), before)
    assert model.item.num_embeddings == ROWS


@pytest.mark.exhaustive
def test_compiled_model_has_the_rows_of_the_patch(folder: Path) -> None:
    model, base = model_of(folder)
    compiled = torch.compile(model, backend="eager")
    ids = asked(ROWS)
    with torch.no_grad():
        assert torch.equal(compiled(*ids), expected(base, *ids))
        result = saec.torch.apply_patch_(compiled, base, folder / "1.patch")
        assert torch.equal(compiled(*ids), expected(result, *ids))
        later = asked(ROWS + 80)
        assert torch.equal(compiled(*later), expected(result, *later))
        saec.torch.put_tables_(compiled, base)
        assert torch.equal(compiled(*ids), expected(base, *ids))


def test_single_modules_take_patches(folder: Path) -> None:
    base = saec.load(folder / "base.saec")
    module = saec.torch.KeyedEmbedding(base["user"])
    result = saec.torch.apply_patch_(module, base, folder / "1.patch")
    keys, _ = asked(ROWS + 80)
    assert np.array_equal(module(keys).numpy(), result["user"].lookup(keys.numpy()))


def test_wrong_patches_leave_the_model_as_it_was(folder: Path, tmp_path: Path) -> None:
    model, base = model_of(folder)
    ids = asked(ROWS)
    before, one = model(*ids), folder / "1.patch"
    for patch, message in [
        (folder / "2.patch", "patches before it are missing or out of order"),
        (folder / "other.patch", "is a patch of another artifact"),
    ]:
        with pytest.raises(PatchError, match=message):
            saec.torch.apply_patch_(model, base, patch)
    (tmp_path / "short.patch").write_bytes(one.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match=r"short\.patch"):
        saec.torch.apply_patch_(model, base, tmp_path / "short.patch")
    assert torch.equal(model(*ids), before)
    result = saec.torch.apply_patch_(model, base, one)
    after = model(*ids)
    with pytest.raises(PatchError, match="given twice"):
        saec.torch.apply_patch_(model, result, one)
    assert torch.equal(model(*ids), after)


def test_models_without_the_tables_are_refused(folder: Path) -> None:
    model, base = model_of(folder)
    with pytest.raises(ModuleError, match="no compressed module of field 'item'"):
        saec.torch.apply_patch_(nn.Linear(2, 2), base, folder / "1.patch")
    plain = saec.Compressed([base["user"], base["item"], RawField("hour", DAYS[0].weights)])
    with pytest.raises(ModuleError, match="no compressed module of field 'hour'"):
        saec.torch.put_tables_(model, plain)
    swapped = saec.Compressed([renamed(base["user"], "item"), renamed(base["item"], "user")])
    ids = asked(ROWS)
    before = model(*ids)
    with pytest.raises(ModuleError, match="field 'user' has keys and dim 4 in the model, but ids"):
        saec.torch.put_tables_(model, swapped)
    assert torch.equal(model(*ids), before)


def test_tables_that_cannot_grow_are_refused(folder: Path) -> None:
    base = saec.load(folder / "base.saec")
    table = compressed_table([base["item"]], {}, torch.zeros(1, 4))
    scores = saec.torch.CompressedLinear(table, nn.Parameter(torch.zeros(ROWS)))
    with pytest.raises(ModuleError, match="has 1200 values, and its table 1280 rows"):
        saec.torch.apply_patch_(scores, base, folder / "1.patch")
    free = saec.torch.CompressedLinear(table)
    result = saec.torch.apply_patch_(free, base, folder / "1.patch")
    assert free.out_features == ROWS + 80
    assert torch.equal(free(torch.eye(4)).T, torch.from_numpy(result["item"].decode()))
    both = [base["item"], RawField("hour", DAYS[0].weights[:5])]
    joint = saec.torch.CompressedEmbedding(compressed_table(both, {}, torch.zeros(1, 4)))
    message = "fields item, hour of one table have 1200, 5 rows, and in the result 1280, 5: ids"
    with pytest.raises(ModuleError, match=message):
        saec.torch.put_tables_(joint, saec.Compressed([result["item"], both[1]]))
    raw = [RawField("a", DAYS[0].weights[:5]), RawField("b", DAYS[0].weights[:7])]
    for fields in (raw, both):
        joint = saec.torch.CompressedEmbedding(compressed_table(fields, {}, torch.zeros(1, 4)))
        first, last = fields
        swapped = [RawField(first.name, last.decode()), RawField(last.name, first.decode())]
        with pytest.raises(ModuleError, match="ids would change"):  # as many rows together
            saec.torch.put_tables_(joint, saec.Compressed(swapped))
        saec.torch.put_tables_(joint, saec.Compressed(fields))


def renamed(field: saec.CompressedField, name: str) -> saec.CompressedField:
    other = copy.copy(field)
    other.name = name
    return other


def test_states_of_a_chain_are_saved_and_loaded(folder: Path) -> None:
    model, base = model_of(folder)
    result = saec.torch.apply_patch_(model, base, folder / "1.patch")
    keys, _ = ids = asked(ROWS + 80)
    again = copy.deepcopy(model)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saec.torch.put_tables_(again, base)
    with pytest.raises(RuntimeError, match="another compression than this table user"):
        again.load_state_dict(torch.load(io.BytesIO(saved.getvalue())))
    saec.torch.put_tables_(again, result)
    again.load_state_dict(torch.load(io.BytesIO(saved.getvalue())))
    assert torch.equal(again(*ids), model(*ids))
    field = result["user"]
    assert isinstance(field, KeyedField)
    other = PlainChain(field, torch.device("cpu")).rows(keys)  # as on other devices
    np.testing.assert_allclose(other.numpy(), field.lookup(keys.numpy()), rtol=1e-5, atol=1e-6)
