"""Putting compressed tables into models, and restoring plain tables."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import saec
from saec.errors import ModuleError
from saec.format.clustered_field import ClusteredField
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.torch import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    decode_embeddings_,
    fields,
    replace_embeddings_,
    sync_codebooks_,
)

Make = Callable[..., Any]


def test_compress_save_load_and_replace_in_a_new_model(
    click_inputs: Make, click_model: Make, tmp_path: Path
) -> None:
    model = click_model(64).eval()  # wide enough for codes to be smaller
    counts = {"user": np.arange(30, 0, -1), "tags": np.ones(12)}
    result = saec.compress(fields(model, counts), codec=saec.Clusters(clusters=4), progress=False)
    assert replace_embeddings_(model, result) is model
    assert isinstance(model.user, CompressedEmbedding)
    assert isinstance(model.tags, CompressedEmbeddingBag)
    result.save(tmp_path / "model.saec")
    fresh = click_model(64).eval()
    replace_embeddings_(fresh, saec.load(tmp_path / "model.saec"))
    inputs = click_inputs()
    assert torch.equal(fresh(*inputs), model(*inputs))


def test_the_compressed_model_equals_the_decoded_one(
    click_inputs: Make, click_model: Make, click_result: Make
) -> None:
    model = replace_embeddings_(click_model(), click_result()).eval()
    inputs = click_inputs()
    expected = model(*inputs)
    assert decode_embeddings_(model) is model
    assert type(model.user) is nn.Embedding
    assert type(model.tags) is nn.EmbeddingBag
    assert torch.equal(model(*inputs), expected)
    result = click_result()
    np.testing.assert_array_equal(model.user.weight.detach().numpy(), result["user"].decode())


def test_no_table_is_decoded_whole(clustered: Make) -> None:
    """Codes are checked in blocks: a server that has no room for the plain table makes no copy."""
    field = clustered("user", 300_000, dim=32, bits=13)  # 38 MB, with codes that have no centroid
    with torch.device("meta"):
        model = nn.ModuleDict({"user": nn.Embedding(300_000, 32)})
    tracemalloc.start()
    replace_embeddings_(model, Compressed([field]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_names_of_wrappers_do_not_count(click_model: Make, clustered: Make, prefix: str) -> None:
    result = Compressed([clustered(f"{prefix}user", 30)])
    model = replace_embeddings_(click_model(), result)
    assert isinstance(model.user, CompressedEmbedding)
    assert list(sync_codebooks_(model, result)) == [f"{prefix}user"]
    wrapped = nn.ModuleDict({"module": click_model()})
    replace_embeddings_(wrapped, Compressed([clustered("user", 30)]))
    assert isinstance(wrapped["module"].user, CompressedEmbedding)


def test_fields_with_other_names_than_their_modules(click_model: Make, clustered: Make) -> None:
    result = Compressed([clustered("visitor", 30), clustered("tags", 12)])
    model = replace_embeddings_(click_model(), result, names={"visitor": "user"})
    expected = result["visitor"].lookup([3, 5])
    np.testing.assert_array_equal(model.user(torch.tensor([3, 5])).detach().numpy(), expected)
    assert isinstance(model.tags, CompressedEmbeddingBag)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"visitor": "usr"}, "no embedding table is named 'usr'; there are: 'user', 'tags'"),
        ({"user": "user"}, "names has 'user', which is no field; there are: 'visitor'"),
        ({}, "no embedding field is named 'visitor'; there are: 'user', 'tags'"),
    ],
)
def test_names_that_are_unknown(
    click_model: Make, clustered: Make, names: dict[str, str], message: str
) -> None:
    with pytest.raises(ModuleError, match=message):
        replace_embeddings_(click_model(), Compressed([clustered("visitor", 30)]), names=names)


def test_only_the_named_tables_change(click_model: Make, clustered: Make) -> None:
    model = click_model()
    tags, parameters = model.tags, dict(model.hidden.named_parameters())
    replace_embeddings_(model, Compressed([clustered("user", 30)]))
    assert model.tags is tags
    for name, parameter in model.hidden.named_parameters():
        assert parameter is parameters[name]


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_options_are_kept_by_replacing_and_decoding(
    click_result: Make, learns: bool, training: bool
) -> None:
    model = nn.ModuleDict(
        {
            "user": nn.Embedding(30, 4, padding_idx=-1, sparse=True, dtype=torch.float64),
            "tags": nn.EmbeddingBag(
                12, 4, mode="max", padding_idx=2, include_last_offset=True, dtype=torch.float16
            ),
        }
    )
    model.requires_grad_(learns).train(training)
    pad = model["user"].weight[-1].detach().clone()
    replace_embeddings_(model, click_result())
    assert model["user"].table.codebook.dtype == torch.float64
    for module in model.children():
        assert module.table.codebook.requires_grad is learns
        assert all(part.training is training for part in module.modules())
    assert model["user"].padding_idx == 29
    decode_embeddings_(model)
    user, tags = model["user"], model["tags"]
    assert (user.padding_idx, user.sparse, user.training) == (29, True, training)
    assert (user.weight.dtype, user.weight.requires_grad) == (torch.float64, learns)
    assert torch.equal(user.weight[-1], pad)
    assert (tags.mode, tags.padding_idx, tags.include_last_offset) == ("max", 2, True)
    assert (tags.sparse, tags.weight.dtype, tags.training) == (False, torch.float16, training)
    assert isinstance(user.weight, nn.Parameter)


def test_decode_keeps_what_was_trained(click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with torch.no_grad():
        model.user.table.codebook.mul_(2.0)
    decode_embeddings_(model)
    expected = 2 * click_result()["user"].decode()
    np.testing.assert_array_equal(model.user.weight.detach().numpy(), expected)


def test_a_shared_module_is_replaced_everywhere_by_the_same(clustered: Make) -> None:
    shared = nn.Embedding(30, 4)
    model = nn.ModuleDict({"user": shared, "list": nn.ModuleList([shared, nn.Linear(1, 1)])})
    replace_embeddings_(model, Compressed([clustered("user", 30)]))
    assert model["user"] is model["list"][0]
    assert isinstance(model["user"], CompressedEmbedding)
    decode_embeddings_(model)
    assert model["user"] is model["list"][0]
    assert type(model["user"]) is nn.Embedding


def test_sparse_gradients_become_dense_ones(clustered: Make) -> None:
    """SparseAdam's error names Adam; docs/pytorch.md gives the reason."""
    model = nn.ModuleDict({"user": nn.Embedding(30, 4, sparse=True)})
    replace_embeddings_(model, Compressed([clustered("user", 30)]))
    before = model["user"].decode()
    model["user"](torch.tensor([3])).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not support dense gradients, .* consider Adam"):
        torch.optim.SparseAdam(model.parameters()).step()
    torch.optim.Adam(model.parameters()).step()
    assert not torch.equal(model["user"].decode(), before)


def test_modules_that_share_a_weight_share_one_codebook(clustered: Make) -> None:
    padded, plain = nn.Embedding(30, 4, padding_idx=5), nn.Embedding(30, 4)
    bag = nn.EmbeddingBag(30, 4, padding_idx=7)
    plain.weight = bag.weight = padded.weight
    model = nn.ModuleDict({"user": padded, "again": plain, "bag": bag})
    exact = padded.weight.detach().clone()
    replace_embeddings_(model, Compressed([clustered("user", 30)]))
    assert model["user"].table is model["again"].table is model["bag"].table
    assert len(list(model.parameters())) == 1
    assert torch.equal(model["user"](torch.tensor([5, 7])), exact[[5, 7]])
    model["again"](torch.tensor([5])).sum().backward()
    assert model["user"].table.codebook.grad.sum() == 4  # as when a plain weight is shared
    model.zero_grad()
    model["user"](torch.tensor([5])).sum().backward()
    assert not model["user"].table.codebook.grad.any()
    model.half()
    assert model["user"].table.codebook is model["bag"].table.codebook
    decode_embeddings_(model)
    assert model["user"].weight is model["again"].weight is model["bag"].weight
    assert model["bag"].padding_idx == 7


def test_a_joint_table_with_a_raw_part(clustered: Make, raw: Make) -> None:
    parts = [clustered("a", 8), raw("b", 5), clustered("c", 7)]
    ranges = {"joint": {"a": (0, 8), "b": (8, 13), "c": (13, 20)}}
    model = nn.ModuleDict({"joint": nn.Embedding(20, 4)})
    replace_embeddings_(model, Compressed(parts), ranges)
    expected = np.concatenate([part.decode() for part in parts])
    np.testing.assert_array_equal(model["joint"](torch.arange(20)).detach().numpy(), expected)


def test_uncompressed_tables_stay_plain_and_take_the_rows_of_the_result(raw: Make) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(30, 4), "joint": nn.Embedding(9, 4)})
    user, parts = model["user"], [raw("user", 30), raw("a", 4), raw("b", 5)]
    replace_embeddings_(model, Compressed(parts), {"joint": {"a": (0, 4), "b": (4, 9)}})
    assert model["user"] is user
    np.testing.assert_array_equal(user.weight.detach().numpy(), parts[0].weights)
    assert type(model["joint"]) is nn.Embedding
    expected = np.concatenate([parts[1].weights, parts[2].weights])
    np.testing.assert_array_equal(model["joint"].weight.detach().numpy(), expected)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("item", 12, 4), "no embedding field is named 'item'; there are: 'user', 'tags'"),
        (("tags", 11, 4), "field 'tags' is 12 x 4 in the model, but 11 x 4 in the compressed"),
        (("tags", 12, 3), "field 'tags' is 12 x 4 in the model, but 12 x 3 in the compressed"),
    ],
)
@pytest.mark.parametrize("kind", ["clustered", "raw"])
def test_nothing_is_replaced_after_an_error(
    click_model: Make,
    clustered: Make,
    raw: Make,
    kind: str,
    second: tuple[str, int, int],
    message: str,
) -> None:
    model = click_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    user = clustered("user", 30) if kind == "clustered" else raw("user", 30)
    with pytest.raises(ModuleError, match=message):
        replace_embeddings_(model, Compressed([user, clustered(*second)]))
    assert type(model.user) is nn.Embedding
    assert type(model.tags) is nn.EmbeddingBag
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_property_that_compression_cannot_honour_is_refused_here_too(
    click_model: Make, click_result: Make
) -> None:
    with pytest.raises(ModuleError, match="embedding 'user' cannot be compressed: it has max_norm"):
        replace_embeddings_(click_model(max_norm=1.0), click_result())


def test_a_compressed_model_is_not_replaced_again(click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with pytest.raises(ModuleError, match="no embedding field is named 'tags'; there are: none"):
        replace_embeddings_(model, click_result())


def test_decode_of_a_compressed_module_alone(click_model: Make, click_result: Make) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with pytest.raises(ModuleError, match="the model is itself a compressed module"):
        decode_embeddings_(model.user)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_sync_rounds_and_model_and_artifact_agree(
    click_model: Make, clustered: Make, raw: Make, dtype: str, tmp_path: Path
) -> None:
    result = Compressed([clustered("user", 30, dtype=dtype), raw("tags", 12)])
    model = replace_embeddings_(click_model(), result)
    with torch.no_grad():
        model.user.table.codebook.add_(torch.linspace(0, 0.1, 8)[:, None])
    before = result["user"].decode().copy()
    synced = sync_codebooks_(model, result)
    assert synced["user"].codebook.dtype == dtype
    assert synced["user"].codes is result["user"].codes
    assert not np.array_equal(synced["user"].decode(), before)
    np.testing.assert_array_equal(result["user"].decode(), before)
    synced.save(tmp_path / "tuned.saec")
    loaded = saec.load(tmp_path / "tuned.saec")
    rows = model.user(torch.arange(30)).detach().numpy()
    np.testing.assert_array_equal(loaded["user"].lookup(np.arange(30)), rows)
    again = sync_codebooks_(model, synced)
    assert again["user"] is synced["user"]


def test_sync_of_an_untouched_model_changes_nothing(click_model: Make, clustered: Make) -> None:
    result = Compressed([clustered("user", 30, dtype="int8")])
    model = replace_embeddings_(click_model(), result)
    assert sync_codebooks_(model, result)["user"] is result["user"]


def test_sync_takes_raw_parts_of_joint_tables_and_leaves_pads(clustered: Make, raw: Make) -> None:
    rows = raw("b", 5).weights.astype(ml_dtypes.bfloat16)
    result = Compressed([clustered("a", 8), RawField("b", rows)])
    model = nn.ModuleDict({"joint": nn.Embedding(13, 4, padding_idx=0)})
    pad = model["joint"].weight[0].detach().clone()
    replace_embeddings_(model, result, {"joint": {"a": (0, 8), "b": (8, 13)}})
    with torch.no_grad():
        model["joint"].table.codebook[:-1] += 1.0
    synced = sync_codebooks_(model, result)
    assert synced["b"].weights.dtype == ml_dtypes.bfloat16
    held = model["joint"](torch.arange(13)).detach().numpy()
    np.testing.assert_array_equal(held[8:], synced["b"].decode())
    np.testing.assert_array_equal(held[1:8], synced["a"].decode()[1:])
    np.testing.assert_array_equal(held[0], pad.numpy())


def test_sync_with_a_result_that_does_not_fit(
    click_model: Make, click_result: Make, clustered: Make, raw: Make
) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with pytest.raises(ModuleError, match="the model holds no compressed table of field 'item'"):
        sync_codebooks_(model, Compressed([clustered("item", 4)]))
    for other in (
        clustered("user", 30, seed=1),
        clustered("user", 30, bits=4),
        raw("user", 30),
        ClusteredField(
            "user",
            click_result()["user"].codes,
            clustered("user", 30, dim=3).codebook,
            "float32",
        ),
    ):
        with pytest.raises(ModuleError, match="field 'user' has other codes in the model than"):
            sync_codebooks_(model, Compressed([other]))
    with torch.no_grad():
        model.user.table.codebook[1, 1] = torch.nan
    tags = model.tags.table.codebook.detach().clone()
    with pytest.raises(ModuleError, match="field 'user': the codebook holds values that are not f"):
        sync_codebooks_(model, click_result())
    assert torch.equal(model.tags.table.codebook, tags)
