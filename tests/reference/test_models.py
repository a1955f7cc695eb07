"""The click models against explicit loops over pairs, layers and fields."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError
from saec.reference.models import MODELS, build
from saec.reference.models.base import FieldLinear
from saec.reference.models.dcnv2 import CrossLayer, DCNv2
from saec.reference.models.deepfm import DeepFM, pairwise_dots
from saec.reference.models.dlrm import DLRM
from saec.reference.models.wide_deep import WideDeep

SIZES = {"user": 5, "user|genres": 7, "user_id|article//200": 3}
IDS = torch.tensor([[1, 2, 1], [4, 6, 2], [0, 3, 0], [4, 6, 2]])


def array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def affine(layer: nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
    assert isinstance(layer, nn.Linear)
    return array(layer.weight) @ x + array(layer.bias)


def dense(layers: nn.Sequential, x: NDArray[np.float64]) -> NDArray[np.float64]:
    for layer in layers:
        x = np.maximum(x, 0) if isinstance(layer, nn.ReLU) else affine(layer, x)
    return x


def rows_of(model: nn.Module, ids: Tensor) -> list[NDArray[np.float64]]:
    """The example's vectors, one per field, read from the tables directly."""
    tables = [array(table.weight) for table in model.embeddings.values()]
    return [table[int(i)] for table, i in zip(tables, ids, strict=True)]


def large(name: str, dim: int = 4) -> nn.Module:
    """A model with vectors of length about 1, so that no term is lost in rounding."""
    model = build(name, SIZES, dim=dim, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for table in model.embeddings.values():
            table.weight.copy_(torch.randn(table.weight.shape, generator=generator))
    return model


def test_pairwise_dots_of_three_vectors_by_hand() -> None:
    # <(1,2),(3,4)> + <(1,2),(5,-6)> + <(3,4),(5,-6)> = 11 - 7 - 9
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]]])
    assert pairwise_dots(vectors).tolist() == [-5.0]


def test_field_linear_by_hand() -> None:
    linear = FieldLinear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.5], [-2.0, 3.0]]))
    # 1*1 + 0.5*2 - 2*3 + 3*4
    assert linear(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [8.0]


def test_cross_layer_by_hand() -> None:
    layer = CrossLayer(2)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        layer.linear.bias.copy_(torch.tensor([0.5, 1.0]))
    # W x + b = (5, -1) + (0.5, 1); times x0 = (2, 7) is (11, 0); plus x
    out = layer(torch.tensor([[2.0, 7.0]]), torch.tensor([[3.0, 1.0]]))
    assert out.tolist() == [[14.0, 1.0]]


def test_deepfm_equals_a_double_loop() -> None:
    model = large("deepfm")
    assert isinstance(model, DeepFM)
    for ids, logit in zip(IDS, model(IDS), strict=True):
        vectors = rows_of(model, ids)
        first = sum(v @ w for v, w in zip(vectors, array(model.linear.weight), strict=True))
        pairs = sum(a @ b for a, b in itertools.combinations(vectors, 2))
        deep = dense(model.deep, np.concatenate(vectors))[0]
        assert logit.item() == pytest.approx(first + pairs + deep, abs=1e-5)


def test_wide_deep_equals_a_loop_over_fields() -> None:
    model = large("wide_deep")
    assert isinstance(model, WideDeep)
    for ids, logit in zip(IDS, model(IDS), strict=True):
        vectors = rows_of(model, ids)
        wide = sum(v @ w for v, w in zip(vectors, array(model.wide.weight), strict=True))
        deep = dense(model.deep, np.concatenate(vectors))[0]
        assert logit.item() == pytest.approx(wide + deep, abs=1e-5)


def test_dlrm_equals_a_loop_over_pairs() -> None:
    model = large("dlrm")
    assert isinstance(model, DLRM)
    for ids, logit in zip(IDS, model(IDS), strict=True):
        vectors = [array(model.constant), *rows_of(model, ids)]
        dots = np.array([a @ b for a, b in itertools.combinations(vectors, 2)])
        assert len(dots) == 6  # three fields and the constant
        assert logit.item() == pytest.approx(dense(model.top, dots)[0], abs=1e-5)


def test_dcnv2_equals_a_loop_over_layers() -> None:
    model = large("dcnv2")
    assert isinstance(model, DCNv2)
    assert len(model.cross) == 2
    for ids, logit in zip(IDS, model(IDS), strict=True):
        x0 = x = np.concatenate(rows_of(model, ids))
        for layer in model.cross:
            x = x0 * affine(layer.linear, x) + x
        expected = affine(model.last, np.concatenate([x, dense(model.deep, x0)]))[0]
        assert logit.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_logits_are_per_example_and_of_either_integer_type(self, name: str) -> None:
        model = large(name)
        logits = model(IDS)
        assert logits.shape == (4,)
        assert logits[1] == logits[3]  # the same ids
        assert torch.equal(model(IDS.int()), logits)
        torch.testing.assert_close(model(IDS.flip(0)), logits.flip(0))

    def test_a_single_field_and_dim_one_work(self, name: str) -> None:
        model = build(name, {"only": 3}, dim=1)
        assert torch.isfinite(model(torch.tensor([[0], [2]]))).all()

    def test_gradients_reach_every_parameter_and_are_sparse_in_the_tables(self, name: str) -> None:
        model = large(name)
        model(IDS).square().sum().backward()
        for table in model.embeddings.values():
            assert table.weight.grad.is_sparse
        user = model.embeddings["user"].weight.grad.coalesce()
        assert user.indices().tolist() == [[0, 1, 4]]
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum().to_dense() > 0, key

    def test_an_embedding_may_be_replaced_by_any_module_with_the_same_call(self, name: str) -> None:
        class Decoded(nn.Module):
            """A module without ``weight``, like a compressed table."""

            def __init__(self, values: Tensor) -> None:
                super().__init__()
                self.register_buffer("values", values)

            def forward(self, ids: Tensor) -> Tensor:
                return self.values[ids.long()]

        model = large(name)
        expected = model(IDS)
        for field in SIZES:
            model.embeddings[field] = Decoded(model.embeddings[field].weight.detach().clone())
        assert torch.equal(model(IDS), expected)
        model.embeddings["user"] = Decoded(torch.zeros(5, 4))
        assert not torch.equal(model(IDS), expected)

    def test_only_the_tables_grow_with_the_vocabulary(self, name: str) -> None:
        def outside(sizes: dict[str, int]) -> int:
            model = build(name, sizes, dim=4)
            inside = sum(p.numel() for p in model.embeddings.parameters())
            assert inside == sum(sizes.values()) * 4
            return sum(p.numel() for p in model.parameters()) - inside

        assert outside(SIZES) == outside({field: size + 100 for field, size in SIZES.items()})

    def test_the_seed_alone_decides_the_weights(self, name: str) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        one = build(name, SIZES, seed=3).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(6)
        two, other = build(name, SIZES, seed=3).state_dict(), build(name, SIZES, seed=4)
        assert all(torch.equal(one[key], two[key]) for key in one)
        key = "embeddings.user.weight"
        assert not torch.equal(one[key], other.state_dict()[key])


def test_row_zero_starts_at_zero_and_the_others_small() -> None:
    weights = build("deepfm", {"user": 1001}, dim=16).embeddings["user"].weight
    assert weights.shape == (1001, 16)
    assert not weights[0].any()
    assert weights[1:].std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(weights[1:].mean().item()) < 0.001


def test_ids_with_the_wrong_number_of_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter than argument 1"):
        build("deepfm", SIZES)(IDS[:, :2])


@pytest.mark.parametrize("name", ["a.b", "", "keys", "type"])
def test_a_field_name_that_pytorch_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"field name '{name}' cannot name a PyTorch module"):
        build("dlrm", {name: 3})


def test_bad_arguments_are_named() -> None:
    with pytest.raises(
        DataError, match="no model is called 'fm'; there are dcnv2, deepfm, dlrm, w"
    ):
        build("fm", SIZES)
    with pytest.raises(DataError, match="at least one field"):
        build("deepfm", {})
    with pytest.raises(DataError, match="dim is 0; it must be at least 1"):
        build("deepfm", SIZES, dim=0)
    with pytest.raises(DataError, match="field 'user' has a vocabulary of 0"):
        build("deepfm", {"user": 0})
