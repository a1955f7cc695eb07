"""Reading embedding tables from models."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from saec.errors import FieldError, ModuleError
from saec.torch import fields


class Joint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 2)
        self.linear = nn.EmbeddingBag(10, 1, mode="sum")


class Scaled(nn.Embedding):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return 2 * super().forward(input)


class Renamed(nn.Embedding):
    """A subclass that looks up as its base does."""


def test_reads_the_named_tables_only_and_in_the_order_of_the_model() -> None:
    tables = nn.ModuleDict({"user": nn.Embedding(5, 3), "item": nn.EmbeddingBag(7, 3, mode="max")})
    model = nn.ModuleDict({"embeddings": tables, "other": nn.Embedding(4, 2, max_norm=1.0)})
    counts = {"embeddings.item": np.arange(7), "embeddings.user": torch.ones(5)}
    user, item = fields(model, counts)
    assert (user.name, item.name) == ("embeddings.user", "embeddings.item")
    assert (user.vocab_size, user.dim, item.vocab_size) == (5, 3, 7)
    np.testing.assert_array_equal(item.weights, tables["item"].weight.detach().numpy())
    np.testing.assert_array_equal(item.frequencies, np.arange(7.0))


def test_weights_are_not_copied() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(3, 2)})
    (field,) = fields(model, {"a": [1, 2, 3]})
    with torch.no_grad():
        model["a"].weight[1, 0] = 42.0
    assert field.weights[1, 0] == 42.0


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float16, np.dtype(np.float16)), (torch.bfloat16, np.dtype(ml_dtypes.bfloat16))],
)
def test_half_precision_is_kept_without_a_copy(dtype: torch.dtype, expected: np.dtype) -> None:
    model = nn.ModuleDict({"a": nn.Embedding(3, 2, dtype=dtype)})
    with torch.no_grad():
        model["a"].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.25], [3.0, 0.0]]))
    (field,) = fields(model, {"a": [1, 1, 1]})
    assert field.weights.dtype == expected
    assert field.weights.astype(np.float32).tolist() == [[1, -2], [0.5, 0.25], [3, 0]]
    assert field.weights.ctypes.data == model["a"].weight.data_ptr()


def test_float64_is_refused_by_the_field() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(3, 2, dtype=torch.float64)})
    with pytest.raises(FieldError, match="weights are float64"):
        fields(model, {"a": [1, 1, 1]})


def test_shared_modules_and_shared_weights_are_one_table() -> None:
    shared, second = nn.Embedding(4, 2), nn.Embedding(4, 2)
    second.weight = shared.weight
    model = nn.ModuleDict({"a": shared, "b": shared, "c": second})
    (field,) = fields(model, {"a": [1] * 4})
    assert field.name == "a"
    for alias in "bc":
        with pytest.raises(ModuleError, match=f"'{alias}' is the same table as 'a'"):
            fields(model, {alias: [1] * 4})


def test_an_unknown_name_lists_those_there_are() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(4, 2), "b": nn.EmbeddingBag(4, 2)})
    with pytest.raises(ModuleError, match="no embedding field is named 'user'; there are: 'a', 'b"):
        fields(model, {"user": [1] * 4})
    with pytest.raises(ModuleError, match="named 'fc'; there are: none"):
        fields(nn.ModuleDict({"fc": nn.Linear(2, 2)}), {"fc": [1, 1]})


def test_frequencies_of_another_length() -> None:
    with pytest.raises(FieldError, match="weights have 4 rows, frequencies 3"):
        fields(nn.ModuleDict({"a": nn.Embedding(4, 2)}), {"a": [1] * 3})


def test_ranges_cut_a_joint_table() -> None:
    model = Joint()
    ranges = {"embedding": {"movie": (6, 10), "user": (0, 6)}}
    user, movie = fields(model, {"movie": [1] * 4, "user": [1] * 6}, ranges)
    assert (user.name, user.vocab_size, movie.name, movie.vocab_size) == ("user", 6, "movie", 4)
    np.testing.assert_array_equal(movie.weights, model.embedding.weight.detach().numpy()[6:])
    (linear,) = fields(model, {"linear": [1] * 10}, ranges)
    assert (linear.name, linear.dim) == ("linear", 1)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"user": (0, 6), "movie": (8, 10)}, r"ranges of 'embedding' leave out rows 6\.\.7"),
        ({"user": (0, 6)}, r"leave out rows 6\.\.9"),
        ({"user": (2, 10)}, r"leave out rows 0\.\.1"),
        ({}, r"leave out rows 0\.\.9"),
        ({"user": (0, 6), "movie": (4, 10)}, r"'user' and 'movie' overlap in rows 4\.\.5"),
        ({"user": (0, 10), "movie": (4, 6)}, r"'user' and 'movie' overlap in rows 4\.\.5"),
        ({"user": (0, 6), "movie": (6, 11)}, r"'movie' is \(6, 11\).*rows in \[0, 10\)"),
        ({"user": (0, 0), "movie": (0, 10)}, r"'user' is \(0, 0\), which is no range"),
        ({"user": (-1, 10)}, r"'user' is \(-1, 10\), which is no range"),
    ],
)
def test_ranges_that_do_not_cover_the_table(
    ranges: dict[str, tuple[int, int]], message: str
) -> None:
    counts = {name: [1] * 10 for name in ranges} or {"linear": [1] * 10}
    with pytest.raises(ModuleError, match=message):
        fields(Joint(), counts, {"embedding": ranges})


def test_ranges_of_an_unknown_table_or_with_missing_fields_or_with_one_name_twice() -> None:
    model = Joint()
    halves = {"user": (0, 6), "movie": (6, 10)}
    with pytest.raises(ModuleError, match="no embedding table is named 'emb'; there are: 'embedd"):
        fields(model, {"user": [1] * 6}, {"emb": halves})
    with pytest.raises(ModuleError, match=r"'embedding' is compressed as a whole.*given: 'movie'"):
        fields(model, {"user": [1] * 6}, {"embedding": halves})
    with pytest.raises(ModuleError, match="'embedding' and 'linear' both have a field named 'user"):
        fields(model, {"user": [1] * 6}, {"embedding": halves, "linear": halves})
    with pytest.raises(
        ModuleError, match="no embedding field is named 'embedding'; there are: 'us"
    ):
        fields(model, {"embedding": [1] * 10}, {"embedding": halves})


def _hooked() -> nn.Embedding:
    module = nn.Embedding(4, 2)
    module.register_forward_hook(lambda *_: None)
    return module


def _parametrized() -> nn.Embedding:
    module = nn.Embedding(4, 2)
    parametrize.register_parametrization(module, "weight", nn.Identity())
    return module


def _patched() -> nn.Embedding:
    module = nn.Embedding(4, 2)
    module.forward = lambda ids: ids  # type: ignore[method-assign,assignment]
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Embedding(4, 2, max_norm=1.0), "max_norm"),
        (nn.EmbeddingBag(4, 2, max_norm=1.0), "max_norm"),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.EmbeddingBag(4, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (Scaled(4, 2), "a forward of its own"),
        (_patched(), "a forward of its own"),
        (_hooked(), "hooks"),
        (_parametrized(), "a parametrised weight"),
        (nn.Embedding(4, 2, device="meta"), "no data, .* on the meta device; load the weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refuses_by_name_what_it_cannot_honour(module: nn.Module, reason: str) -> None:
    model = nn.ModuleDict({"fine": nn.Embedding(4, 2), "bad": module})
    with pytest.raises(
        ModuleError, match=f"embedding 'bad' cannot be compressed: it has.*{reason}"
    ):
        fields(model, {"bad": [1] * 4})
    assert [field.name for field in fields(model, {"fine": [1] * 4})] == ["fine"]


def test_a_plain_subclass_and_sparse_gradients_are_fine() -> None:
    model = nn.ModuleDict({"a": Renamed(4, 2), "b": nn.Embedding(4, 2, sparse=True)})
    assert len(fields(model, {"a": [1] * 4, "b": [1] * 4})) == 2


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return 2 * super().forward(input)


@pytest.mark.parametrize("out", [Doubled(2, 4, bias=False), nn.Bilinear(2, 1, 4, bias=False)])
def test_a_weight_tied_to_an_unknown_layer_is_refused_with_both_names(out: nn.Module) -> None:
    model = nn.ModuleDict({"token": nn.Embedding(4, 2), "out": out})
    model["out"].weight = model["token"].weight
    with pytest.raises(ModuleError, match=r"'token' cannot be .* shares its weight with 'out.weig"):
        fields(model, {"token": [1] * 4})


def test_a_model_that_is_itself_an_embedding() -> None:
    with pytest.raises(ModuleError, match="the model is itself an embedding"):
        fields(nn.Embedding(4, 2), {"": [1] * 4})


def test_without_pytorch_the_pip_line_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; import saec.torch"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "OptionalDependencyError: torch is not installed; run: pip install 'saec[torch]'" in (
        run.stderr
    )
