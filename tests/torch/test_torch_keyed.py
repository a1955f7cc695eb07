"""Modules that take keys: the rows of the field, in every mode of PyTorch."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.errors import IdError, KeysError, ModuleError
from saec.format.bags import Mode
from saec.format.keyed_field import KeyedField
from saec.torch import KeyedEmbedding, KeyedEmbeddingBag
from saec.torch.lookup.keyed_plain import PlainKeys, hashed_integers

pytestmark = pytest.mark.usefixtures("coarse_prices")

ROWS, DIM = 3000, 6


def weights_and_counts() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    counts = np.floor(1e5 / np.arange(1, ROWS + 1) ** 1.1) + 1
    scale = np.log1p(counts)[:, None] * np.linspace(1, 0.2, DIM)
    return (rng.standard_normal((ROWS, DIM)) * scale).astype(np.float32), counts


def field_of(keys: object, **options: object) -> KeyedField:
    given = {"unseen_share": 0.2} | options
    own = saec.Field("user", *weights_and_counts(), keys=keys, **given)  # type: ignore[arg-type]
    result = saec.compress([own], saec.Ratio(12), progress=False)["user"]
    assert isinstance(result, KeyedField)
    return result


@pytest.fixture(scope="module")
def keys() -> NDArray[np.int64]:
    return np.random.default_rng(6).integers(-(1 << 62), 1 << 62, ROWS)


@pytest.fixture(scope="module")
def field(keys: NDArray[np.int64]) -> KeyedField:
    return field_of(keys)


@pytest.fixture(scope="module")
def asked(keys: NDArray[np.int64]) -> Tensor:
    """Known and unknown keys, (40, 20)."""
    rng = np.random.default_rng(8)
    some = np.concatenate([rng.choice(keys, 600), rng.integers(-(1 << 62), 1 << 62, 200)])
    return torch.from_numpy(rng.permutation(some).reshape(40, 20))


def test_rows_are_those_of_the_field(field: KeyedField, asked: Tensor) -> None:
    module = KeyedEmbedding(field)
    rows = field.lookup(asked.numpy().reshape(-1)).reshape(40, 20, DIM)
    assert np.array_equal(module(asked).numpy(), rows)
    assert module(asked[:0]).shape == (0, 20, DIM)
    assert np.array_equal(
        module(torch.tensor([3, -1], dtype=torch.int32)).numpy(), field.lookup([3, -1])
    )
    assert not list(module.parameters())
    assert "keys=integers" in repr(module)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_those_of_the_field(field: KeyedField, asked: Tensor, mode: str) -> None:
    module = KeyedEmbeddingBag(field, mode)
    flat, offsets = asked.reshape(-1), torch.tensor([0, 3, 3, 40, 799])
    pooled = field.pool(flat.numpy(), offsets.numpy(), mode=mode)
    np.testing.assert_allclose(module(flat, offsets).numpy(), pooled, rtol=1e-5, atol=1e-5)
    ends = KeyedEmbeddingBag(field, mode, include_last_offset=True)
    every = torch.cat([offsets, torch.tensor([800])])
    assert torch.equal(ends(flat, every), module(flat, offsets))
    matrix = functional.embedding_bag(
        torch.arange(800).reshape(40, 20), KeyedEmbedding(field)(flat), mode=mode
    )
    twenties = module(asked)
    assert np.array_equal(
        twenties.numpy(), field.pool(flat.numpy(), np.arange(0, 800, 20), mode=mode)
    )
    torch.testing.assert_close(twenties, matrix)
    assert mode != "max" or torch.equal(twenties, matrix)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_pooled_natively(
    field: KeyedField, asked: Tensor, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single rows are computed, and sums equal those of the field to the last bit."""
    module, flat = KeyedEmbeddingBag(field, mode), asked.reshape(-1)
    monkeypatch.delattr(KeyedField, "rows_of_hashes")
    offsets = torch.tensor([0, 3, 3, 40, 799])
    pooled = field.pool(flat.numpy(), offsets.numpy(), mode=mode)
    assert np.array_equal(module(flat, offsets).numpy(), pooled)
    if mode == "sum":
        weights = torch.linspace(-1, 1, 800)
        pooled = field.pool(flat.numpy(), offsets.numpy(), weights.numpy())
        assert np.array_equal(module(flat, offsets, weights).numpy(), pooled)
    with pytest.raises(IdError, match="offset"):
        module(flat, torch.tensor([0, 900]))


def test_gradients_reach_the_weights_of_samples(field: KeyedField, asked: Tensor) -> None:
    module = KeyedEmbeddingBag(field, "sum")
    weights = torch.rand(40, 20, requires_grad=True)
    module(asked, per_sample_weights=weights).sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, KeyedEmbedding(field)(asked).sum(dim=2))


def test_the_key_of_padding_is_zeros_and_in_no_bag(
    field: KeyedField, keys: NDArray[np.int64]
) -> None:
    first, second = int(keys[0]), int(keys[1])
    pair = torch.tensor([[first, second]])
    rows = KeyedEmbedding(field, padding_key=first)(pair)[0]
    assert not rows[0].any()
    assert torch.equal(rows[1], KeyedEmbedding(field)(pair)[0, 1])
    assert torch.equal(KeyedEmbeddingBag(field, "mean", padding_key=first)(pair)[0], rows[1])


class Scores(nn.Module):
    """Bags and a linear layer."""

    def __init__(self, field: KeyedField) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = KeyedEmbeddingBag(field, "mean")
        self.out = nn.Linear(DIM, 1)

    def forward(self, keys: Tensor) -> Tensor:
        scores: Tensor = self.out(self.bag(keys)).squeeze(1)
        return scores


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_compiled_exported_and_saved(field: KeyedField, asked: Tensor, tmp_path: Path) -> None:
    model = Scores(field).eval()
    expected = model(asked).detach()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(asked).detach(), expected)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(model, (asked,), dynamic_shapes=({0: rows},))
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(again(asked[:7]).detach(), expected[:7])
    assert torch.equal(pickle.loads(pickle.dumps(model))(asked), expected)
    assert torch.equal(copy.deepcopy(model)(asked), expected)
    with pytest.raises(ModuleError, match="does not know compressed"):
        torch.jit.script(model)


@pytest.mark.exhaustive
def test_state_goes_into_the_same_model_alone(
    field: KeyedField, keys: NDArray[np.int64], asked: Tensor
) -> None:
    stream = io.BytesIO()
    torch.save(Scores(field).state_dict(), stream)
    state = torch.load(io.BytesIO(stream.getvalue()))
    empty = Scores(field).to("meta").to_empty(device="cpu")
    empty.load_state_dict(state)
    assert torch.equal(empty(asked), Scores(field)(asked))
    other = Scores(field_of(keys, unseen_share=0.6))
    with pytest.raises(RuntimeError, match="layout is of another compression than this table user"):
        other.load_state_dict(state)


def test_rows_in_half_precision_are_those_in_full_rounded(field: KeyedField, asked: Tensor) -> None:
    rows = KeyedEmbedding(field)(asked)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        module = KeyedEmbedding(field).to(dtype)
        assert torch.equal(module(asked), rows.to(dtype))


def test_plain_operations_give_the_same_bits(field: KeyedField, asked: Tensor) -> None:
    plain = PlainKeys(field, torch.device("cpu"))
    flat = asked.reshape(-1)
    assert np.array_equal(plain.rows(flat).numpy(), field.lookup(flat.numpy()))
    assert plain.rows(flat[:0]).shape == (0, DIM)
    for seed in (0, 1, (1 << 63) + 77):
        hashes = saec.hash_keys(flat.numpy(), seed=seed)
        assert np.array_equal(hashed_integers(flat, seed).numpy().view(np.uint64), hashes)
    many = torch.arange(40_000)  # over several chunks
    assert np.array_equal(plain.rows(many).numpy(), field.lookup(many.numpy()))


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("bucket_keys", [1 << 16, 1 << 8])
def test_plain_operations_read_windows(
    bucket_keys: int, keys: NDArray[np.int64], asked: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions with one bucket and with several."""
    for limit, value in (("_MANY_VARIED", 1), ("_LEAST_KEYS", bucket_keys)):
        monkeypatch.setattr(f"saec.keys.windows.{limit}", value)
    monkeypatch.setattr("saec.keys.windows._BUCKET_BITS", 1 << 12)
    field, flat = field_of(keys), asked.reshape(-1)
    _, buckets, *_, spread = field.function.description
    assert spread > 0
    assert (buckets > 1) == (bucket_keys < ROWS)
    plain = PlainKeys(field, torch.device("cpu"))
    known = torch.from_numpy(keys)
    assert np.array_equal(plain.rows(flat).numpy(), field.lookup(flat.numpy()))
    assert np.array_equal(plain.rows(known).numpy(), field.lookup(keys))


def test_fields_that_store_nothing_by_plain_operations() -> None:
    own = saec.Field("user", np.ones((9, 2), np.float32), np.ones(9), keys=np.arange(9))
    field = saec.compress([own], saec.MaxBytes(700), progress=False)["user"]
    assert isinstance(field, KeyedField)
    rows = PlainKeys(field, torch.device("cpu")).rows(torch.arange(20))
    assert np.array_equal(rows.numpy(), field.lookup(np.arange(20)))


def test_strings_are_asked_by_their_hashes() -> None:
    names = [f"user {number}" for number in range(ROWS)]
    field = field_of(names)
    hashes = saec.hash_keys(names, seed=field.seed).view(np.int64)
    module = KeyedEmbedding(field)
    assert np.array_equal(module(torch.from_numpy(hashes)).numpy(), field.lookup(names))


def test_keys_without_sign(keys: NDArray[np.int64], field: KeyedField) -> None:
    unsigned = keys.view(np.uint64)
    module = KeyedEmbedding(field_of(unsigned))
    found = module(torch.from_numpy(unsigned[:50]))
    assert np.array_equal(found.numpy(), field_of(unsigned).lookup(unsigned[:50]))
    with pytest.raises(KeysError, match=r"field 'user': keys are unsigned integers .* -1 at pos"):
        module(torch.tensor([3, -1]))
    with pytest.raises(KeysError, match="9223372036854775808 at position 1 is none"):
        KeyedEmbedding(field)(torch.from_numpy(np.array([1, 1 << 63], np.uint64)))


def test_invalid_keys_are_refused(field: KeyedField) -> None:
    module = KeyedEmbedding(field)
    with pytest.raises(KeysError, match=r"table user: keys must be int64 or uint64, not torch\.fl"):
        module(torch.ones(3))
    with pytest.raises(KeysError, match="keys must be a tensor, not ndarray"):
        module(np.arange(3))
    with pytest.raises(ModuleError, match="table user does not store its keys, so cannot list"):
        module.table.decode()
    plain = saec.compress(
        [saec.Field("ids", *weights_and_counts())], saec.Ratio(12), progress=False
    )["ids"]
    with pytest.raises(ModuleError, match="field 'ids' has ids, and no keys"):
        KeyedEmbedding(plain)


@pytest.mark.parametrize("buffer", ["axes", "values"])
@pytest.mark.parametrize("write", ["by_data", "by_numpy"])
def test_writes_that_pytorch_does_not_count_are_seen(
    field: KeyedField, asked: Tensor, buffer: str, write: str
) -> None:
    module = KeyedEmbedding(field)
    before, held = module(asked), module.table.get_buffer(buffer)
    other = held.view(torch.float16).roll(1).view(torch.uint8).clone()
    if write == "by_data":
        held.data.copy_(other)
    else:
        held.numpy()[:] = other.numpy()
    written = module(asked)
    assert not torch.equal(written, before)
    assert torch.equal(written, copy.deepcopy(module)(asked))


def test_damaged_buffers_are_refused(field: KeyedField) -> None:
    module = KeyedEmbedding(field)
    module(torch.arange(3))
    module.table.lengths.fill_(1)
    with pytest.raises(saec.ArtifactError, match="no prefix code has codewords"):
        module(torch.arange(3))
