"""Lookups return rows of the present tensors, however these were changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
import saec.torch
from saec.errors import ModuleError
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.torch import CompressedEmbedding, FieldEmbeddings
from saec.torch.lookup.reader import plain
from saec.torch.table.joint import compressed_table
from saec.torch.table.learned import LearnedTable
from saec.torch.table.tiered import TieredTable

ROWS, DIM = 1500, 8

CODECS = {
    "int8": saec.Clusters(clusters=64),
    "float16": saec.Clusters(clusters=64, codebook="float16"),
    "float32": saec.Clusters(clusters=64, codebook="float32"),
    "large": saec.Clusters(clusters=512, codebook="float16"),
    "frequency": saec.Axes(order="frequency"),
    "keep": saec.Axes(order="keep"),
    "code": saec.Axes(order="code"),
    "pads": saec.Axes(order="frequency"),
    "joint": saec.Axes(order="frequency"),
}


def compressed(kind: str) -> CompressedEmbedding:
    rng = np.random.default_rng(0)
    widths = [3, 2, 1, 1, 0.5, 0.2, 0.2, 0.2]
    rows = (rng.standard_normal((ROWS, DIM)) * widths).astype(np.float32)
    counts = 1000 / np.arange(1, ROWS + 1)
    if kind == "keep":
        counts = rng.permutation(counts)
    padding = 3 if kind == "pads" else None
    names = ["a.0", "a.1"] if kind == "joint" else ["a"]
    fields = [saec.Field(name, rows, counts) for name in names]
    if kind == "joint":  # one table of two fields, a clustered and a tiered one
        parts = [saec.compress(fields[:1], saec.Ratio(4), saec.Clusters(clusters=64))["a.0"]]
        parts.append(saec.compress(fields[1:], saec.Ratio(8), CODECS[kind])["a.1"])
        table = compressed_table(parts, {}, torch.empty(0))
        return CompressedEmbedding(table)
    result = saec.compress(fields, saec.Ratio(4), CODECS[kind])
    model = nn.ModuleDict({"a": nn.Embedding(ROWS, DIM, padding_idx=padding)})
    saec.torch.replace_embeddings_(model, result, renumbered=True)
    module = model["a"]
    assert isinstance(module, CompressedEmbedding)
    return module


@pytest.fixture(scope="module", params=CODECS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def made(kind: str) -> CompressedEmbedding:
    return compressed(kind)


@pytest.fixture
def module(made: CompressedEmbedding) -> CompressedEmbedding:
    """A module after lookups by the usual path and by the shortcut."""
    module = copy.deepcopy(made)
    for _ in range(2):
        look_up(module)
    return module


def all_ids(module: CompressedEmbedding) -> Tensor:
    return torch.arange(module.num_embeddings)


@torch.no_grad()
def look_up(module: CompressedEmbedding) -> Tensor:
    return module(all_ids(module))


def some_ids(before: Tensor, after: Tensor) -> list[Tensor]:
    """Ids of changed and unchanged rows, singly and several together.

    Few rows are read in another way than many: from the present tensors, or after a check of
    their own codes only.
    """
    changed = (before != after).reshape(len(before), -1).any(dim=1).nonzero()[:, 0]
    ids = torch.cat([changed[:2], changed[-2:], torch.arange(0, len(before), 131)])
    return [part for size in (1, 12) for part in torch.split(ids, size)]


@torch.no_grad()
def plainly(module: CompressedEmbedding) -> Tensor:
    """Rows by plain operations, which store nothing."""
    if isinstance(module.table, LearnedTable):
        ids = all_ids(module)
        return plain(module.table.reader, ids, None, None, module.table.tensors, "sum", -1)
    return copy.deepcopy(module)(all_ids(module))


@dataclass(frozen=True)
class Held:
    """A parameter or buffer where it is held."""

    owner: nn.Module
    path: str
    name: str

    @property
    def tensor(self) -> Tensor:
        found = getattr(self.owner, self.name)
        assert isinstance(found, Tensor)
        return found

    def changed(self, whole: bool = False) -> Tensor:
        """A copy with other elements, one or all; codes and positions stay valid."""
        tensor = self.tensor.detach().clone()
        flat = tensor.view(-1)
        at = slice(None) if whole else slice(len(flat) // 2, len(flat) // 2 + 3)
        if self.name == "starts":  # still ascending
            flat[len(flat) // 2] = flat[len(flat) // 2 - 1]
        elif self.name in ("index", "layout"):
            flat[at] = flat[at]
        elif self.name == "codes":
            flat[at] ^= 1
        else:
            flat[at] += 1
        return tensor


def held(module: nn.Module) -> Iterator[Held]:
    for path, owner in module.named_modules():
        for name in [*owner._parameters, *owner._buffers]:
            if getattr(owner, name) is not None:
                yield Held(owner, f"{path}.{name}".lstrip("."), name)


def by_data(entry: Held, new: Tensor, module: nn.Module) -> None:
    entry.tensor.data.copy_(new)


def by_numpy(entry: Held, new: Tensor, module: nn.Module) -> None:
    entry.tensor.detach().numpy()[...] = new.numpy()


def by_detached_view(entry: Held, new: Tensor, module: nn.Module) -> None:
    entry.tensor.detach().view(-1).copy_(new.view(-1))


def by_copying(entry: Held, new: Tensor, module: nn.Module) -> None:
    with torch.no_grad():
        entry.tensor.copy_(new)


def in_inference_mode(entry: Held, new: Tensor, module: nn.Module) -> None:
    with torch.inference_mode():
        entry.tensor.copy_(new)


def by_index_add(entry: Held, new: Tensor, module: nn.Module) -> None:
    middle = torch.tensor([len(new) // 2])
    change = new[middle] - entry.tensor.data[middle]
    entry.tensor.data.index_add_(0, middle, change)


def by_foreach(entry: Held, new: Tensor, module: nn.Module) -> None:
    torch._foreach_copy_([entry.tensor.data], [new])


def by_loading(entry: Held, new: Tensor, module: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(state | {entry.path: new})


def by_assigning_a_state(entry: Held, new: Tensor, module: nn.Module) -> None:
    module.load_state_dict(module.state_dict() | {entry.path: new}, assign=True)


def by_attribute(entry: Held, new: Tensor, module: nn.Module) -> None:
    is_parameter = isinstance(entry.tensor, nn.Parameter)
    setattr(entry.owner, entry.name, nn.Parameter(new) if is_parameter else new)


def by_new_data(entry: Held, new: Tensor, module: nn.Module) -> None:
    entry.tensor.data = new


def by_new_data_twice(entry: Held, new: Tensor, module: nn.Module) -> None:
    for _ in range(3):  # freed memory may be used again
        entry.tensor.data = torch.zeros_like(new)
        entry.tensor.data = new.clone()


def by_setting_storage(entry: Held, new: Tensor, module: nn.Module) -> None:
    with torch.no_grad():
        entry.tensor.set_(new)


def by_swapping(entry: Held, new: Tensor, module: nn.Module) -> None:
    is_parameter = isinstance(entry.tensor, nn.Parameter)
    torch.utils.swap_tensors(entry.tensor, nn.Parameter(new) if is_parameter else new)


@torch.no_grad()
def by_order_in_memory(entry: Held, new: Tensor, module: nn.Module) -> None:
    """The same elements and shape with other strides."""
    spread = torch.stack([new, torch.zeros_like(new)], dim=-1)
    entry.tensor.data = spread[..., 0]
    module(torch.zeros(5, 2 if isinstance(module, FieldEmbeddings) else 1, dtype=torch.int64))
    spread[..., 0] = new


def in_shared_memory(entry: Held, new: Tensor, module: nn.Module) -> None:
    module.share_memory()
    entry.tensor.data.copy_(new)


WRITES: list[Callable[[Held, Tensor, nn.Module], None]] = [
    by_data,
    by_numpy,
    by_detached_view,
    by_copying,
    in_inference_mode,
    by_index_add,
    by_foreach,
    by_loading,
    by_assigning_a_state,
    by_attribute,
    by_new_data,
    by_new_data_twice,
    by_setting_storage,
    by_swapping,
    by_order_in_memory,
    in_shared_memory,
]


@pytest.mark.exhaustive(keep=8)
@pytest.mark.parametrize("write", WRITES)
def test_writes_are_seen(
    made: CompressedEmbedding, kind: str, write: Callable[[Held, Tensor, nn.Module], None]
) -> None:
    """Writes to a few elements and to all: each way of writing and each kind of table in both."""
    whole = (WRITES.index(write) + list(CODECS).index(kind)) % 2 == 1
    for entry in held(made):
        module = copy.deepcopy(made)
        look_up(module)
        before = look_up(module)
        own = next(other for other in held(module) if other.path == entry.path)
        write(own, own.changed(whole), module)
        expected = plainly(module)
        for ids in some_ids(before, expected):
            with torch.no_grad():
                assert torch.equal(module(ids), expected[ids]), entry.path
        after = look_up(module)
        assert torch.equal(after, expected), entry.path
        assert torch.equal(look_up(module), after), entry.path
        if entry.name not in ("layout", "index", "starts"):
            assert not torch.equal(before, after), entry.path


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", ["codes", "starts"])
def test_writes_to_single_rows_are_seen(in_order: Callable[..., Any], name: str) -> None:
    """This table keeps so many bytes that for a few rows only their own bytes are compared."""
    texts = ("9g 8g 8g", "o8 6g 6g 6g", "o9 8g", "7g 7g 7g", "o11", "o3 2g")
    field = in_order("a", 20_000, DIM, texts)
    module = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    assert isinstance(module.table, TieredTable)
    written = getattr(module.table, name)
    look_up(module)
    for number, at in enumerate(torch.linspace(1, len(written) - 9, 60).long().tolist()):
        before = look_up(module)
        if name == "codes":
            written.data[at] ^= 0xFF
        else:
            neighbour = at + (
                1 if number % 2 else -1
            )  # whose code gets this one's rows, or gives its own
            written.data[at] = written.data[neighbour]
        expected = plainly(module)
        for ids in some_ids(before, expected):
            with torch.no_grad():
                assert torch.equal(module(ids), expected[ids])


def ids_kept(rows: int, seed: int) -> TieredField:
    """Three tiers with random ids; only these depend on the seed."""
    rng = np.random.default_rng(1)
    layout = Layout.parse(rows, ("8g 8g", "6g 2", "5"))
    tiers = np.repeat(np.arange(3), np.diff(layout.bounds))
    return TieredField(
        "a",
        layout,
        rng.integers(0, 256, layout.code_bytes).astype(np.uint8),
        rng.standard_normal(layout.value_count).astype(np.float16),
        rng.standard_normal((layout.rank + 1, DIM)).astype(np.float16),
        TierIndex.of(np.random.default_rng(seed).permutation(tiers), 3),
        "float32",
    )


# Ranks are kept of all ids, or only of those that the first level of the index leaves.
@pytest.mark.parametrize("rows", [5_000, 70_000])
def test_a_changed_index_is_seen(rows: int) -> None:
    first, second = ids_kept(rows, 0), ids_kept(rows, 2)
    module = CompressedEmbedding(compressed_table([first], {}, torch.empty(0)))
    assert np.array_equal(look_up(module).numpy(), first.decode())
    assert np.array_equal(look_up(module).numpy(), first.decode())
    assert isinstance(module.table, TieredTable)
    assert module.table.index is not None
    assert second.index is not None
    module.table.index.data.copy_(torch.from_numpy(second.index.data))
    expected = torch.from_numpy(second.decode())
    for ids in some_ids(torch.from_numpy(first.decode()), expected):
        with torch.no_grad():
            assert torch.equal(module(ids), expected[ids])
    assert torch.equal(look_up(module), expected)


def test_a_layout_that_was_overwritten_is_refused(module: CompressedEmbedding) -> None:
    if not isinstance(module.table, LearnedTable):
        pytest.skip("its tables have layouts of their own")
    expected = look_up(module)
    module.table.layout.data.zero_()
    assert torch.equal(look_up(module), expected)  # nothing was prepared from it
    next(iter(module.parameters())).data += 1
    module.table.codes.data = module.table.codes.data.clone()
    with pytest.raises(ModuleError, match="'layout' of a compressed table was overwritten"):
        look_up(module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_changed_dtypes_are_seen(module: CompressedEmbedding, dtype: torch.dtype) -> None:
    single = look_up(module)
    module.to(dtype)
    rows = look_up(module)
    assert rows.dtype == dtype
    assert (rows.float() - single).abs().max() <= 0.05 * single.abs().max()
    for parameter in module.parameters():
        parameter.data.view(-1)[-1] += 3
    tolerance = 4 * torch.finfo(dtype).eps * single.abs().max().item()
    torch.testing.assert_close(look_up(module), plainly(module), rtol=0, atol=tolerance)


def test_optimizer_steps_are_seen(module: CompressedEmbedding) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.5, foreach=True)
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.arange(50)).square().sum().backward()
        optimizer.step()
        assert torch.equal(look_up(module), plainly(module))


def test_meta_and_back(module: CompressedEmbedding) -> None:
    expected, state = look_up(module), copy.deepcopy(module.state_dict())
    module.to("meta")
    with pytest.raises(ModuleError, match=r"on the meta device and holds no numbers: load a state"):
        look_up(module)
    with torch.no_grad():
        assert module(torch.arange(5, device="meta")).shape == (5, DIM)
    assigned = copy.deepcopy(module)
    assigned.load_state_dict(state, assign=True)
    assert torch.equal(look_up(assigned), expected)
    module.to_empty(device="cpu")
    module.load_state_dict(state)
    assert torch.equal(look_up(module), expected)
    assert torch.equal(plainly(module), expected)


def fields_of(made: CompressedEmbedding) -> FieldEmbeddings:
    """A compressed field and a plain one, looked up together."""
    plain_module = nn.Embedding(made.num_embeddings, DIM)
    embeddings = FieldEmbeddings({"a": copy.deepcopy(made), "plain": plain_module})
    for _ in range(2):
        together(embeddings)
    return embeddings


@torch.no_grad()
def together(embeddings: FieldEmbeddings) -> Tensor:
    return embeddings(torch.arange(ROWS)[:, None].repeat(1, 2))


@torch.no_grad()
def apart(embeddings: FieldEmbeddings) -> Tensor:
    fresh = copy.deepcopy(embeddings)
    return torch.stack([module(torch.arange(ROWS)) for module in fresh.values()], dim=1)


@pytest.mark.exhaustive(keep=24)
@pytest.mark.parametrize("write", WRITES)
def test_writes_are_seen_by_lookups_of_several_fields(
    made: CompressedEmbedding, write: Callable[[Held, Tensor, nn.Module], None]
) -> None:
    embeddings = fields_of(made)
    for entry in held(embeddings):
        if entry.name != "layout":
            before = together(embeddings)
            write(entry, entry.changed(), embeddings)
            expected = apart(embeddings)
            for ids in some_ids(before, expected):
                with torch.no_grad():
                    rows = embeddings(ids[:, None].repeat(1, 2))
                assert torch.equal(rows, expected[ids]), entry.path
            assert torch.equal(together(embeddings), expected), entry.path


def test_replaced_modules_are_seen_by_lookups_of_several_fields(made: CompressedEmbedding) -> None:
    embeddings = fields_of(made)
    plain_module, module = embeddings["plain"], embeddings["a"]
    assert isinstance(module, CompressedEmbedding)
    other = copy.deepcopy(module.table)
    for parameter in other.parameters():
        parameter.data += 1
    module.table = other
    assert torch.equal(together(embeddings), apart(embeddings))
    plain_module.max_norm = 0.1
    assert together(embeddings)[:, 1].norm(dim=1).max() <= 0.1001
    plain_module.max_norm = None
    together(embeddings)
    plain_module.forward = lambda ids: torch.zeros(*ids.shape, DIM)  # type: ignore[method-assign]
    assert together(embeddings)[:, 1].abs().max() == 0
