"""Lookups in tiered tables: by hand, then bit for bit against the stored field."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import saec
from saec.codecs.axes.codec import Axes
from saec.errors import ArtifactError, IdError, ModuleError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.torch import (
    CompressedEmbedding,
    decode_embeddings_,
    fields,
    finetune_on_unseen_rows,
    replace_embeddings_,
    sync_codebooks_,
)
from saec.torch.table.tiered import TieredTable

Make = Callable[..., Any]


def compressed(module: nn.Module, *parts: CompressedField) -> nn.Module:
    """The compressed module that replaces ``module``; several fields give a joint table."""
    model = nn.ModuleDict({"table": module})
    ranges, row = {}, 0
    for part in parts:
        ranges[part.name] = (row, row + part.vocab_size)
        row += part.vocab_size
    replace_embeddings_(model, Compressed(parts), {"table": ranges})
    return model["table"]


def decoded(*parts: CompressedField) -> Tensor:
    return torch.from_numpy(np.concatenate([part.decode() for part in parts]))


def hand_made() -> TieredField:
    """Three rows of a table code (10 or 20) and a grid code (1 + code / 2): 1 3, 0 2 and 1 0."""
    layout = Layout.parse(3, ["1 2g"])
    codes = np.zeros(9, dtype=np.uint8)
    codes[0] = 0b01_100_111
    values = np.array([10, 20, 1, 0.5], dtype=np.float16)
    axes = np.array([[1, 0], [0, 1], [100, 200]], dtype=np.float16)
    return TieredField("user", layout, codes, values, axes, None, "float32")


def test_a_lookup_by_hand() -> None:
    module = compressed(nn.Embedding(3, 2), hand_made())
    assert isinstance(module, CompressedEmbedding)
    assert module(torch.tensor([0, 1, 2])).tolist() == [[120, 202.5], [110, 202], [120, 201]]
    assert module(torch.tensor([[2], [1]], dtype=torch.int32)).tolist() == [
        [[120, 201]],
        [[110, 202]],
    ]
    assert module(torch.tensor(1)).tolist() == [110, 202]
    assert module(torch.empty(0, 5, dtype=torch.int64)).shape == (0, 5, 2)
    assert "tiers=1, axes=2, bytes=9" in repr(module)


def test_bags_by_hand() -> None:
    ids, offsets = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2])
    expected = {
        "sum": [[230, 404.5], [0, 0], [120, 201]],
        "mean": [[115, 202.25], [0, 0], [120, 201]],
        "max": [[120, 202.5], [0, 0], [120, 201]],
    }
    for mode, rows in expected.items():
        module = compressed(nn.EmbeddingBag(3, 2, mode=mode), hand_made())
        assert module(ids, offsets).tolist() == rows
        assert module(ids[:0], offsets[:1]).tolist() == [[0, 0]]


def test_gradients_by_hand() -> None:
    """Rows 0 and 2 use the value 20, and the codes 3 and 0 of a grid of 4 steps."""
    table = compressed(nn.Embedding(3, 2), hand_made()).table
    assert (table.values.tolist(), table.extents.tolist()) == ([10, 20, 1], [2])
    table(torch.tensor([0, 2])).sum().backward()
    assert table.values.grad.tolist() == [0, 2, 2]
    assert table.extents.grad.tolist() == [0.75]
    assert table.axes.grad.tolist() == [[40, 40], [3.5, 3.5]]
    assert table.mean.grad.tolist() == [2, 2]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 255, 600, 1023, 1500])
@pytest.mark.parametrize("axes_dtype", ["float16", "float32"])
def test_every_tier_equals_the_stored_field(
    tiered: Make, keep: bool, rows: int, axes_dtype: str
) -> None:
    field = tiered("user", rows, 5, keep=keep, axes_dtype=axes_dtype)
    module = compressed(nn.Embedding(rows, 5), field)
    ids = torch.randperm(rows).reshape(1, -1)
    assert torch.equal(module(ids), torch.from_numpy(field.lookup(ids.numpy())))
    assert torch.equal(module(ids[:, ::3]), module(ids)[:, ::3])  # strided ids
    assert torch.equal(module.decode(), decoded(field))


_PARTS = st.one_of(
    st.just("-"),
    st.integers(0, 12).map(str),
    st.integers(1, 16).map("{}g".format),
    st.tuples(st.integers(0, 8), st.integers(2, 4)).map(lambda pair: f"{pair[0]}j{pair[1]}"),
)


@pytest.mark.exhaustive
@given(
    texts=st.lists(st.lists(_PARTS, max_size=5).map(" ".join), min_size=3, max_size=3),
    keep=st.booleans(),
    dim=st.integers(1, 6),
)
def test_every_kind_of_part_equals_the_stored_field(
    tiered: Make, texts: list[str], keep: bool, dim: int
) -> None:
    field = tiered("user", 700, dim, tuple(texts), keep)
    table = TieredTable(field, {}, torch.zeros(1))
    ids = np.random.default_rng(dim).permutation(700)
    assert np.array_equal(table(torch.from_numpy(ids)).detach().numpy(), field.lookup(ids))
    assert table.tuned(field) is field


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("keep", [False, True])
def test_gradients_equal_finite_differences(tiered: Make, keep: bool) -> None:
    field = tiered("user", 300, 3, ("2g 2j2", "2 - 1", "1g"), keep)
    table = TieredTable(field, {}, torch.zeros(1, dtype=torch.float64))
    names, values = zip(*table.named_parameters(), strict=True)
    ids = torch.randperm(300)[:40]

    def rows(*parameters: Tensor) -> Tensor:
        held = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(table, held, (ids,))

    assert torch.autograd.gradcheck(
        rows, tuple(value.detach().requires_grad_() for value in values)
    )


@given(data=st.data())
def test_bags_equal_those_of_the_decoded_plain_module(
    tiered: Make, clustered: Make, data: st.DataObject
) -> None:
    dim = data.draw(st.sampled_from([1, 4, 16]))
    keep = data.draw(st.booleans())
    parts = [tiered("a", 70, dim, keep=keep)]
    if data.draw(st.booleans()):
        parts.append(clustered("b", 9, dim))
    rows = sum(part.vocab_size for part in parts)
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    padding = data.draw(st.none() | st.integers(0, rows - 1))
    last = data.draw(st.booleans())
    plain = nn.EmbeddingBag(rows, dim, mode=mode, padding_idx=padding, include_last_offset=last)
    with torch.no_grad():
        plain.weight.copy_(decoded(*parts))
    module = compressed(plain, *parts)
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=60)), dtype=dtype)
    if data.draw(st.booleans()) and not last:
        width = data.draw(st.integers(1, 5))
        ids = ids[: len(ids) // width * width].reshape(-1, width)
        arguments: list[Tensor | None] = [ids, None]
    else:
        cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
        starts = [0, *sorted(cuts), *([len(ids)] if last else [])]
        arguments = [ids, torch.tensor(starts, dtype=dtype)]
    if mode == "sum" and data.draw(st.booleans()):
        arguments.append(torch.linspace(-2, 2, ids.numel()).reshape(ids.shape))
    assert torch.equal(module(*arguments), plain(*arguments))


def test_the_row_at_padding_idx_is_exact_and_gets_no_gradient(tiered: Make) -> None:
    plain = nn.Embedding(70, 4, padding_idx=0)
    with torch.no_grad():
        plain.weight[0] = torch.tensor([0.125, 7.0, 1.0, 2.0])
    field = tiered("user", 70)
    module = compressed(plain, field)
    rows = module(torch.tensor([0, 3, 0]))
    assert torch.equal(rows[0], plain.weight[0])
    assert torch.equal(rows[1], decoded(field)[3])
    rows.sum().backward()
    assert module.table.mean.grad.tolist() == [1] * 4
    assert torch.equal(module.decode()[0], plain.weight[0])
    assert torch.equal(module.decode()[1:], decoded(field)[1:])


def test_entries_at_padding_idx_are_left_out_of_bags(tiered: Make) -> None:
    field = tiered("user", 70)
    module = compressed(nn.EmbeddingBag(70, 4, mode="sum", padding_idx=0), field)
    bags = module(torch.tensor([[0, 1], [0, 0], [3, 2]]))
    rows = decoded(field)
    assert torch.equal(bags, torch.stack([rows[1], torch.zeros(4), rows[3] + rows[2]]))
    bags.sum().backward()
    assert module.table.mean.grad.tolist() == [3] * 4


@pytest.mark.parametrize("bad", [-1, 600, 2**40])
@pytest.mark.parametrize("joint", [False, True])
def test_ids_out_of_range_are_named(tiered: Make, bad: int, joint: bool) -> None:
    parts = [tiered("user", 300), tiered("item", 300)] if joint else [tiered("user", 600)]
    module = compressed(nn.Embedding(600, 4), *parts)
    place = "table user, item" if joint else "table user"
    with pytest.raises(IdError, match=rf"{place}: id {bad} at position 1 is outside \[0, 600\)"):
        module(torch.tensor([[3, bad]]))
    with pytest.raises(IdError, match=rf"{place}: ids must be int32 or int64, not torch\.float32"):
        module(torch.zeros(3))


def test_an_index_that_contradicts_itself_is_refused(tiered: Make) -> None:
    field = tiered("user", 300, keep=True)
    damaged = TierIndex(np.full_like(field.index.data, 255), 300, field.index.tiers)
    with pytest.raises(ArtifactError, match="the tier index contradicts itself"):
        TieredTable(
            TieredField(
                "user", field.layout, field.codes, field.values, field.axes, damaged, "float32"
            ),
            {},
            torch.zeros(1),
        )


@pytest.mark.parametrize("order", ["a t c r", "t t", "r t r", "c r t", "t c c t"])
def test_joint_tables_of_any_mix(tiered: Make, clustered: Make, raw: Make, order: str) -> None:
    makers = {"t": tiered, "c": clustered, "r": raw, "a": lambda *of: tiered(*of, keep=True)}
    parts = [makers[kind](f"{kind}{place}", 66 + place) for place, kind in enumerate(order.split())]
    table = decoded(*parts)
    module = compressed(nn.Embedding(len(table), 4, padding_idx=70), *parts)
    table[70] = module.table.pad_rows[0]
    ids = torch.randint(0, len(table), (9, 40))
    assert torch.equal(module(ids), table[ids])
    assert torch.equal(module.decode(), table)
    weight = table.clone().requires_grad_()
    factors = torch.randn(9, 40, 4)
    (module(ids) * factors).sum().backward()
    (weight[ids] * factors).sum().backward()
    means = [part.mean.grad for part in module.table.tables if isinstance(part, TieredTable)]
    first = 0
    for part in parts:
        last = first + part.vocab_size
        if isinstance(part, TieredField):
            rows = [row for row in range(first, last) if row != 70]
            torch.testing.assert_close(means.pop(0), weight.grad[rows].sum(dim=0))
        first = last
    assert not means


def test_state_dict_goes_into_a_freshly_replaced_model(tiered: Make) -> None:
    def made() -> nn.Module:
        return nn.ModuleDict(
            {"a": compressed(nn.Embedding(600, 4, padding_idx=1), tiered("a", 600, keep=True))}
        )

    model = made()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    parameters = {"values", "extents", "axes", "mean"}
    buffers = {"codes", "layout", "index", "pad_rows"}
    assert set(model.state_dict()) == {f"a.table.{name}" for name in parameters | buffers}
    buffer.seek(0)
    fresh = made()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    ids = torch.arange(600)
    assert torch.equal(fresh["a"](ids), model["a"](ids))
    assert torch.equal(copy.deepcopy(model)["a"](ids), model["a"](ids))


def test_a_state_dict_of_other_codes_is_refused(tiered: Make) -> None:
    # A grid of one bit and a table of one bit: codes and values take equally many bytes.
    one = compressed(nn.Embedding(60, 4), tiered("a", 60, tiers=("2 1",)))
    two = compressed(nn.Embedding(60, 4), tiered("a", 60, tiers=("1 2",)))
    with pytest.raises(RuntimeError, match="layout is of another compression than this table a"):
        one.load_state_dict(two.state_dict())


def test_half_rounds_once_at_the_end(tiered: Make) -> None:
    field = tiered("user", 600)
    module = compressed(nn.Embedding(600, 4), field).half()
    assert {value.dtype for value in module.parameters()} == {torch.float16}
    assert module.table.codes.dtype == torch.uint8
    assert torch.equal(module(torch.arange(600)), decoded(field).half())


@pytest.fixture
def mixed(tiered: Make, clustered: Make, raw: Make) -> nn.Module:
    """A tiered table, a padded joint one, and a bag with a tier index."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "single": nn.Embedding(300, 4),
            "joint": nn.Embedding(300, 4, padding_idx=3),
            "bag": nn.EmbeddingBag(300, 4, mode="sum"),
        }
    )
    parts = [
        tiered("single", 300),
        tiered("a", 180, keep=True),
        raw("b", 50),
        clustered("c", 70, bits=4),
        tiered("bag", 300, keep=True),
    ]
    ranges = {"joint": {"a": (0, 180), "b": (180, 230), "c": (230, 300)}}
    replace_embeddings_(model, Compressed(parts), ranges)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.tables["single"](ids) + self.tables["joint"](ids) + self.pooled(ids)

        def pooled(self, ids: Tensor) -> Tensor:
            return self.tables["bag"](ids).unsqueeze(1)

    return Sum()


@pytest.mark.exhaustive
def test_compile_captures_one_whole_graph(mixed: nn.Module) -> None:
    torch._dynamo.reset()
    fast = torch.compile(mixed, fullgraph=True, backend="aot_eager", dynamic=True)
    # A batch of one is compiled again, which takes seconds; test_torch_modules.py tests it.
    for shape in [(4, 3), (6, 5)]:
        ids = torch.randint(0, 300, shape)
        assert torch.equal(fast(ids), mixed(ids))
    fast(ids).sum().backward()
    expected = [parameter.grad.clone() for parameter in mixed.parameters()]
    mixed.zero_grad()
    mixed(ids).sum().backward()
    for parameter, gradient in zip(mixed.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.exhaustive
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_batches(mixed: nn.Module, strict: bool) -> None:
    # At least two bags: PyTorch exports nn.EmbeddingBag itself only under this condition.
    batch, width = torch.export.Dim("batch", min=2), torch.export.Dim("width", min=1)
    ids = torch.randint(0, 300, (4, 3))
    program = torch.export.export(
        mixed, (ids,), dynamic_shapes=({0: batch, 1: width},), strict=strict
    )
    for shape in [(4, 3), (9, 2), (2, 7)]:
        ids = torch.randint(0, 300, shape)
        assert torch.equal(program.module()(ids), mixed(ids))


@pytest.mark.exhaustive
def test_an_exported_program_refuses_ids_beyond_the_codes(mixed: nn.Module) -> None:
    program = torch.export.export(mixed, (torch.zeros(4, 3, dtype=torch.int64),))
    for bad in (-1, 10_000):
        with pytest.raises(IdError, match=rf"id {bad} at position 0 is outside"):
            program.module()(torch.full((4, 3), bad))


def test_decode_keeps_what_was_trained(tiered: Make) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(300, 4)})
    replace_embeddings_(model, Compressed([tiered("user", 300)]))
    with torch.no_grad():
        model["user"].table.mean.add_(1.0)
    expected = model["user"](torch.arange(300))
    decode_embeddings_(model)
    assert type(model["user"]) is nn.Embedding
    assert torch.equal(model["user"].weight, expected)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes_dtype", ["float16", "float32"])
def test_sync_rounds_and_model_and_artifact_agree(
    tiered: Make, keep: bool, axes_dtype: str, tmp_path: Any
) -> None:
    result = Compressed([tiered("user", 300, keep=keep, axes_dtype=axes_dtype)])
    model = nn.ModuleDict({"user": nn.Embedding(300, 4)})
    replace_embeddings_(model, result)
    assert sync_codebooks_(model, result)["user"] is result["user"]
    before = result["user"].decode()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    synced = sync_codebooks_(model, result)
    assert synced["user"].axes.dtype == axes_dtype
    assert synced["user"].codes is result["user"].codes
    np.testing.assert_array_equal(result["user"].decode(), before)
    assert not np.array_equal(synced["user"].decode(), before)
    synced.save(tmp_path / "tuned.saec")
    loaded = saec.load(tmp_path / "tuned.saec")
    rows = model["user"](torch.arange(300)).detach().numpy()
    np.testing.assert_array_equal(loaded["user"].lookup(np.arange(300)), rows)
    assert sync_codebooks_(model, loaded)["user"] is loaded["user"]


def test_sync_with_a_result_that_does_not_fit(tiered: Make, clustered: Make) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(300, 4)})
    result = Compressed([tiered("user", 300)])
    replace_embeddings_(model, result)
    for other in (
        tiered("user", 300, seed=1),
        tiered("user", 300, keep=True),
        tiered("user", 300, tiers=("9g 6j2 2", "3 2g", "-")),
        tiered("user", 300, axes_dtype="float32"),
        clustered("user", 300),
    ):
        with pytest.raises(ModuleError, match="field 'user' has other codes in the model than"):
            sync_codebooks_(model, Compressed([other]))
    with torch.no_grad():
        model["user"].table.axes[0, 0] = torch.inf
    with pytest.raises(ModuleError, match="field 'user': the table holds values that are not fin"):
        sync_codebooks_(model, result)


def test_every_part_of_a_joint_table_learns_and_is_saved(
    tiered: Make, clustered: Make, raw: Make
) -> None:
    parts = [tiered("a", 70, 1), clustered("b", 9, 1), raw("c", 5, 1), tiered("d", 66, 1)]
    ranges = {"0": {"a": (0, 70), "b": (70, 79), "c": (79, 84), "d": (84, 150)}}
    result = Compressed(parts)
    model = nn.Sequential(nn.Embedding(150, 1, padding_idx=3), nn.Flatten(0))
    replace_embeddings_(model, result, ranges)
    batch = (torch.arange(150), torch.linspace(-1, 1, 150))
    mse = nn.functional.mse_loss
    tuned = finetune_on_unseen_rows(
        model, [batch] * 50, mse, validation=[batch], learning_rate=0.02, progress=False
    )
    assert tuned.improvement > 0
    rows = model(batch[0]).detach()
    saved = sync_codebooks_(model, result)
    assert torch.equal(model(batch[0]), rows)
    kept = torch.arange(150) != 3  # its row is the model's own
    assert torch.equal(decoded(*saved.values())[kept, 0], rows[kept])
    assert all(saved[part.name] is not part for part in parts)


@pytest.mark.parametrize("loaded", [False, True])
def test_renumbered_features_are_refused_by_default(loaded: bool, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).permutation(1000 / np.arange(1, 601))
    model = nn.ModuleDict({"user": nn.Embedding(600, 8)})
    found = fields(model, {"user": counts})
    result = saec.compress(found, saec.Ratio(8), Axes(order="frequency"), progress=False)
    if loaded:
        result.save(tmp_path / "new.saec")
        result = saec.load(tmp_path / "new.saec")
    with pytest.raises(ModuleError, match="features of field 'user' were renumbered, and"):
        replace_embeddings_(model, result)
    assert type(model["user"]) is nn.Embedding
    replace_embeddings_(model, result, renumbered=True)
    assert torch.equal(model["user"](torch.arange(600)), decoded(result["user"]))
    with torch.no_grad():
        next(model["user"].parameters()).mul_(2)
    assert sync_codebooks_(model, result)["user"].renumbered


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("sorted_ids", [False, True])
def test_compress_replace_and_save_with_the_codec(sorted_ids: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"user": nn.Embedding(3000, 8)})
    counts = 1000 / np.arange(1, 3001)
    if not sorted_ids:
        np.random.default_rng(0).shuffle(counts)
    result = saec.compress(
        fields(model, {"user": counts}), saec.Ratio(10), Axes(), metrics=None, progress=False
    )
    assert isinstance(result["user"], TieredField)
    assert (result["user"].index is None) == sorted_ids
    replace_embeddings_(model, result)
    ids = torch.randperm(3000)
    assert torch.equal(model["user"](ids), decoded(result["user"])[ids])


def test_fine_tuning_moves_values_axes_and_mean_and_saves_what_it_judged(tiered: Make) -> None:
    result = Compressed([tiered("0", 300, 1)])
    model = nn.Sequential(nn.Embedding(300, 1), nn.Flatten(0))
    replace_embeddings_(model, result)
    start = copy.deepcopy(model.state_dict())
    ids = torch.arange(300)
    batch = (ids, torch.linspace(-1, 1, 300))
    mse = nn.functional.mse_loss
    tuned = finetune_on_unseen_rows(
        model, [batch] * 100, mse, validation=[batch], learning_rate=0.02, progress=False
    )
    assert tuned.losses[tuned.best] < 0.5 * tuned.losses[0]
    table = model[0].table
    for name, parameter in table.named_parameters():
        assert not torch.equal(parameter, start[f"0.table.{name}"]), name
    with torch.no_grad():
        assert float(mse(model(ids), batch[1])) == pytest.approx(tuned.losses[tuned.best])
    rows = model(ids).detach()
    saved = sync_codebooks_(model, result)
    assert torch.equal(model(ids), rows)
    assert torch.equal(torch.from_numpy(saved["0"].decode())[:, 0], rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("keep", [False, True])
def test_on_cuda(tiered: Make, keep: bool) -> None:
    field = tiered("user", 1500, keep=keep)
    module = compressed(nn.Embedding(1500, 4, padding_idx=1), field)
    ids = torch.randperm(1500)
    expected = module(ids)
    assert torch.equal(module.to("cuda")(ids.to("cuda")).cpu(), expected)
    there = compressed(nn.Embedding(1500, 4, device="cuda"), field)
    assert torch.equal(there(ids.to("cuda")).cpu(), decoded(field)[ids])


@pytest.mark.parametrize("count", [1, 300])
def test_another_index_written_in_place_is_seen(tiered: Make, count: int) -> None:
    field = tiered("user", 300, keep=True)
    module = compressed(nn.Embedding(300, 4), field)
    ids = torch.arange(300)[-count:]
    with torch.no_grad():
        before = module(ids)
        tiers, _ = field.index.locate(np.arange(300))
        other = TierIndex.of(tiers[::-1], field.index.tiers)
        module.table.index.copy_(torch.from_numpy(other.data))
        moved = TieredField(
            "user", field.layout, field.codes, field.values, field.axes, other, "float32"
        )
        assert torch.equal(module(ids), decoded(moved)[ids])
        assert not torch.equal(module(ids), before)
