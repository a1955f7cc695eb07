"""Tables that compression does not reach are refused or named, with their bytes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec import ModuleError, ModuleWarning
from saec.torch import compress_, decode_embeddings_, fields, loss_metrics, replace_embeddings_
from saec.torch.model.count_lookups import count_lookups
from saec.torch.model.find_tables import named_tables

Make = Callable[..., Any]
IDS = torch.arange(64)
ROWS = [((IDS,), torch.zeros(64))]
COUNTS = {"user": torch.ones(64)}


class Model(nn.Module):
    """A model with a table of 64 rows and what a test adds."""

    def __init__(self, add: Callable[[Any], None] = lambda _: None, call: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user = nn.Embedding(64, 16)
        self.add = call  # a plain function
        add(self)

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.user(ids)
        return (rows if self.add is None else rows + self.add(self, ids)).sum(-1)


def compressed(model: nn.Module, **options: Any) -> saec.Compressed:
    return compress_(model, ROWS, budget=saec.Ratio(1.5), progress=False, **options)


def add_table(model: Any) -> None:
    model.table = nn.Parameter(torch.randn(64, 16))


LOOKUPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "functional": lambda model, ids: functional.embedding(ids, model.table),
    "functional bag": lambda model, ids: functional.embedding_bag(ids[:, None], model.table),
    "operator": lambda model, ids: torch.embedding(model.table, ids),
    "index": lambda model, ids: model.table[ids],
    "index_select": lambda model, ids: model.table.index_select(0, ids),
    "torch.index_select": lambda model, ids: torch.index_select(model.table, 0, ids),
    "gather": lambda model, ids: model.table.gather(0, ids[:, None].expand(-1, 16)),
    "index_select by name": lambda model, ids: model.table.index_select(dim=0, index=ids),
    "torch.gather by name": lambda model, ids: torch.gather(
        input=model.table, dim=0, index=ids[:, None].expand(-1, 16)
    ),
    "take_along_dim": lambda model, ids: torch.take_along_dim(model.table, ids[:, None], 0),
    "index of some": lambda model, ids: model.table[ids, :],
    "view": lambda model, ids: model.table.view(2, 32, 16)[0][ids % 32],
    "two indices": lambda model, ids: model.table.view(2, 32, 16)[ids % 2, ids % 32],
}


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize("counted", [True, False])
def test_lookups_in_a_plain_parameter_are_warned_of(name: str, counted: bool) -> None:
    model = Model(add_table, LOOKUPS[name])
    expected = model(IDS)
    message = r"'table' \(4,096 bytes\) is a parameter of no embedding module.*from_pretrained"
    with pytest.warns(ModuleWarning, match=message):
        result = compressed(model, frequencies=COUNTS if counted else None)
    assert set(result) == {"user"}
    assert result.model_size is not None
    assert result.model_size.before == 2 * 4096
    assert result.model_size.after == 4096 + result.nbytes
    assert result.model_size.ratio < result.compression_ratio
    assert f"; the whole model {result.model_size.ratio:.1f}, " in repr(result)
    assert f"the whole model {result.model_size.ratio:.1f}, " in result._repr_html_()
    torch.testing.assert_close(model(IDS), expected, atol=1.0, rtol=0.1)


def test_lookups_in_a_buffer_are_warned_of() -> None:
    def add(model: Any) -> None:
        model.register_buffer("kept", torch.randn(64, 16))
        model.register_buffer("scale", torch.ones(16))

    model = Model(add, lambda model, ids: model.kept[ids] * model.scale)
    with pytest.warns(ModuleWarning, match=r"'kept' \(4,096 bytes\) is a buffer; look rows up by"):
        compressed(model)


def test_a_model_whose_tables_no_batch_calls() -> None:
    model = Model()
    model.forward = lambda ids: model.user.weight[ids].sum(-1)  # type: ignore[method-assign]
    message = "no batch calls 'user'; if the model uses weights or forward of these .* frequencies"
    with pytest.raises(ModuleError, match=message):
        compressed(model)
    assert set(compressed(model, frequencies=COUNTS)) == {"user"}


def test_slices_and_other_uses_of_parameters_are_no_lookups() -> None:
    def use(model: Any, ids: Tensor) -> Tensor:
        return model.table[:64] + model.table[0] @ model.table.T @ model.table

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compressed(Model(add_table, use))


def test_a_compiled_layer_is_watched_through() -> None:
    def add(model: Any) -> None:
        add_table(model)
        model.dense = torch.compile(nn.Linear(16, 16), fullgraph=True, backend="eager")

    model = Model(add, lambda model, ids: model.dense(model.table[ids]))
    with pytest.warns(ModuleWarning, match="'table'"):
        compressed(model)


def test_modules_in_plain_containers_are_warned_of() -> None:
    model = Model(
        lambda model: setattr(model, "more", {"a": [nn.Embedding(64, 16)]}),
        lambda model, ids: model.more["a"][0](ids),
    )
    message = r"\"more\['a'\]\[0\]\" \(4,096 bytes\) is in an attribute that PyTorch does not reg"
    with pytest.warns(ModuleWarning, match=message):
        result = compressed(model)
    assert result.model_size is not None
    assert result.model_size.before == 2 * 4096


HELD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "method": (lambda model: model.user.forward, "its method 'forward' in 'held'"),
    "partial": (lambda model: partial(model.user.forward), "its method 'forward' in 'held'"),
    "list": (lambda model: [model.user], r"it in 'held\[0\]'"),
    "mapping": (lambda model: {"u": (model.user,)}, r"it in \"held\['u'\]\[0\]\""),
    "in another": (lambda model: [nn.Sequential(model.user)], r"it in 'held\[0\]\.0'"),
}


@pytest.mark.parametrize("name", HELD)
def test_a_table_with_an_irreplaceable_reference_is_refused(name: str, clustered: Make) -> None:
    hold, message = HELD[name]
    model = nn.ModuleDict({"net": Model(lambda model: setattr(model, "held", hold(model)))})
    message = message.replace("held", "net.held")
    pattern = f"embedding 'net.user' cannot be compressed: the model keeps {message}"
    with pytest.raises(ModuleError, match=pattern):
        fields(model, {"net.user": torch.ones(64)})
    with pytest.raises(ModuleError, match=pattern):
        replace_embeddings_(model, saec.Compressed([clustered("net.user", 64, 16)]))


def test_a_weight_with_another_reference_is_warned_of() -> None:
    """A reference for a penalty on the weight, for example, keeps its bytes in memory."""
    model = Model(lambda model: setattr(model, "penalised", [("user", model.user.weight)]))
    message = r"weight of 'user' in 'penalised\[0\]\[1\]' as well: its 4,096 bytes stay in memory"
    with pytest.warns(ModuleWarning, match=message):
        assert len(fields(model, COUNTS)) == 1


def test_references_to_parents_and_other_modules_are_allowed() -> None:
    def add(model: Any) -> None:
        model.child = nn.Linear(16, 16)
        model.child.parent = [model]
        model.held = [model.child.forward, model.child]

    assert len(fields(Model(add), COUNTS)) == 1


def test_a_table_that_no_batch_calls() -> None:
    model = Model(lambda model: setattr(model, "idle", nn.Embedding(8, 16)))
    with pytest.warns(ModuleWarning, match=r"'idle' \(512 bytes\) stays as it is: no batch calls"):
        assert set(compressed(model)) == {"user"}


def test_a_weight_that_the_model_computes_with_is_compressed(clustered: Make) -> None:
    """The model uses it in a matrix product and in a lookup; both then read the decoded table."""
    model = Model(
        lambda _: None,
        lambda model, ids: (
            functional.embedding(ids, model.user.weight) @ model.user.weight.T @ model.user.weight
        ),
    )
    replace_embeddings_(model, saec.Compressed([clustered("user", 64, 16)]))
    compared = model(IDS)
    torch.testing.assert_close(decode_embeddings_(model)(IDS), compared)


def counts_of(model: nn.Module, batches: Any, progress: bool) -> Any:
    return count_lookups(model, named_tables(model, None, {}), batches, progress=progress)


@pytest.mark.parametrize("act", [counts_of, loss_metrics], ids=["count", "measure"])
def test_errors_for_models_without_plain_tables_name_what_they_have(
    act: Callable[..., Any], clustered: Make
) -> None:
    def message(model: nn.Module) -> str:
        with pytest.raises(ModuleError, match="no embedding tables to") as caught:
            act(model, ROWS, progress=False)
        return str(caught.value)

    done = replace_embeddings_(Model(), saec.Compressed([clustered("user", 64, 16)]))
    assert re.search(r"'user' \(\d+ bytes\) is compressed already; .*decode_embedd", message(done))
    bare = Model(add_table)
    del bare.user
    assert "'table' (4,096 bytes) is a parameter of no embedding module" in message(bare)
    listed = Model(lambda model: setattr(model, "held", [nn.Embedding(4, 2)]))
    del listed.user
    assert "'held[0]' (32 bytes) is in an attribute that PyTorch does not reg" in message(listed)
    assert message(nn.Linear(2, 2)).endswith(": it holds no nn.Embedding or nn.EmbeddingBag")
    many = nn.ModuleDict({f"m{i}": Model(add_table) for i in range(9)})
    for part in many.values():
        del part.user
    assert message(many).endswith("; and 4 more")


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_quantised_modules() -> None:
    from torch.ao.nn import quantized

    model = nn.ModuleDict({"user": quantized.Embedding(64, 16)})
    message = r"'user' \(1,\d+ bytes\) is a quantised module; compress the float model"
    with pytest.raises(ModuleError, match=message):
        counts_of(model, ROWS, progress=False)
    with pytest.raises(ModuleError, match=f"named 'user'; there are: none; {message}"):
        fields(model, COUNTS)
    with pytest.warns(ModuleWarning, match=message.replace("user", "more")):
        compressed(Model(lambda it: it.add_module("more", quantized.Embedding(64, 16))))


def test_a_field_that_is_a_plain_parameter_is_refused() -> None:
    with pytest.raises(ModuleError, match=r"there are: 'user'; 'table' \(4,096 bytes\) is a param"):
        fields(Model(add_table), {"table": torch.ones(64)})


def _with_weight(weight: Tensor) -> nn.Module:
    model = Model()
    model.user.weight = nn.Parameter(weight, requires_grad=False)
    return model


class Strange(Tensor):
    """A module of a library that stores weights in its own way."""


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:Sparse:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rows: rows.to_sparse(), r"a sparse weight \(torch\.sparse_coo\): call to_dense\("),
        (lambda rows: rows.to(torch.float8_e4m3fn), r"dtype torch\.float8_e4m3fn: convert it to"),
        (lambda rows: rows.to(torch.complex64), r"of dtype torch\.complex64: convert"),
        (
            lambda rows: torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8),
            r"a quantised weight: call dequantize\(\)",
        ),
        (lambda rows: rows.as_subclass(Strange), "a weight of type Strange: give it a plain ten"),
    ],
    ids=["sparse", "fp8", "complex", "quantised", "subclass"],
)
def test_weights_that_are_not_plain_tables_are_refused(make: Any, message: str) -> None:
    model = _with_weight(make(torch.randn(64, 16)))
    with pytest.raises(ModuleError, match=f"'user' cannot be compressed: it has .*{message}"):
        fields(model, COUNTS)


@pytest.mark.parametrize("ids", [IDS.numpy(), IDS.tolist()], ids=["array", "list"])
def test_ids_that_are_not_tensors_are_refused(clustered: Make, ids: Any) -> None:
    model = nn.ModuleDict({"user": nn.Embedding(64, 4), "bag": nn.EmbeddingBag(64, 4)})
    replace_embeddings_(model, saec.Compressed([clustered("user", 64), clustered("bag", 64)]))
    for call in (lambda: model["user"](ids), lambda: model["bag"](ids, IDS)):
        with torch.no_grad(), pytest.raises(saec.IdError, match=r"must be a tensor, not .*as_tens"):
            call()
        with pytest.raises(saec.IdError, match=r"must be a tensor, not .*as_tensor makes"):
            call()
