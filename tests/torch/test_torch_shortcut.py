"""The shortcut to rows: when it is used, and that changed parameters are seen."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from saec import _native
from saec.format.clustered_field import ClusteredField
from saec.format.tiered_field import TieredField
from saec.torch.model.modules import CompressedEmbedding
from saec.torch.table.joint import compressed_table
from saec.torch.table.tiered import TieredTable

Make = Callable[..., Any]
ROWS = 500
KINDS = ["clusters", "tiers"]


@pytest.fixture(params=KINDS)
def module(request: pytest.FixtureRequest, clustered: Make, tiered: Make) -> CompressedEmbedding:
    make = clustered if request.param == "clusters" else tiered
    field: ClusteredField | TieredField = make("user", ROWS, 8)
    made = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    with torch.no_grad():
        made(torch.zeros(1, dtype=torch.int64))  # it does not exist before this
    return made


def shortcut(module: CompressedEmbedding) -> _native.Shortcut:
    found: _native.Shortcut = module.table.prepared.shortcut
    return found


@torch.no_grad()
def taken(module: CompressedEmbedding, ids: Any) -> Tensor | None:
    rows: Tensor | None = shortcut(module).rows(ids)
    return rows


SHAPES = [(), (0,), (1,), (63,), (64,), (300,), (2, 3), (0, 4), (4, 1, 5), (1,) * 7]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_shapes_of_ids(module: CompressedEmbedding, shape: Any, dtype: torch.dtype) -> None:
    ids = torch.randint(0, ROWS, shape, dtype=dtype)
    rows = taken(module, ids)
    assert rows is not None
    assert rows.shape == (*shape, 8)
    assert rows.dtype == torch.float32
    assert rows.is_contiguous()
    assert not rows.requires_grad
    assert rows.data_ptr() % 64 == 0 or not rows.numel()
    assert torch.equal(rows, module.decode()[ids.long()])


def test_strided_ids(module: CompressedEmbedding) -> None:
    ids, table = torch.randint(0, ROWS, (100, 3)), module.decode()
    for part in (ids[:, 1], ids[::7, 2], ids[3].expand(3), ids[0, 0].expand(70)):
        rows = taken(module, part)
        assert rows is not None
        assert torch.equal(rows, table[part])
    for part in (ids.T, ids[:, :2]):  # with two dimensions only if contiguous
        assert taken(module, part) is None
        with torch.no_grad():
            assert torch.equal(module(part), table[part])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_in_half_precision(module: CompressedEmbedding, dtype: torch.dtype) -> None:
    module.to(dtype)
    ids = torch.arange(ROWS)
    with torch.no_grad():
        expected = module(ids)  # the usual path, which makes a new shortcut
    rows = taken(module, ids)
    assert rows is not None
    assert rows.dtype == dtype
    assert torch.equal(rows, expected)


class Marked(Tensor):
    """A subclass, whose elements may be stored anywhere."""


def test_unsupported_ids_take_the_usual_path(module: CompressedEmbedding) -> None:
    ids = torch.arange(5)
    for other in (
        ids.float(),
        ids.short(),
        ids.bool(),
        ids.to("meta"),
        ids.as_subclass(Marked),
        torch.zeros((1,) * 8, dtype=torch.int64),
        torch.tensor([0, ROWS]),
        torch.tensor([-1]),
        ids.to_sparse(),
        None,
        7,
        [1, 2],
        ids.numpy(),
    ):
        assert taken(module, other) is None
    assert shortcut(module).rows(ids) is None  # gradients are recorded here
    assert taken(module, ids) is not None


def test_changed_parameters_are_seen(module: CompressedEmbedding) -> None:
    ids = torch.arange(ROWS)

    def check(change: Callable[[nn.Parameter], None], copied: bool) -> None:
        """copied: whether the change affects data that the core does not read in place."""
        old = shortcut(module)
        for parameter in module.parameters():
            with torch.no_grad():
                change(parameter)
                assert not copied or old.rows(ids) is None
                changed = module(ids)
                expected = module.table.reader.rows(ids, module.table.tensors)
                assert torch.equal(changed, expected)
        again = taken(module, ids)
        assert again is not None
        assert torch.equal(again, changed)

    def middle(parameter: nn.Parameter) -> Tensor:
        flat = parameter.data.view(-1)
        return flat[len(flat) // 2 : len(flat) // 2 + 1]

    tiers = isinstance(module.table, TieredTable)
    check(lambda parameter: parameter.add_(1), tiers)
    check(lambda parameter: middle(parameter).add_(1), tiers)
    check(lambda parameter: setattr(parameter, "data", parameter.data.clone() - 3), True)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    module(ids).sum().backward()
    optimizer.step()
    check(lambda parameter: None, False)


def test_other_parameters_are_seen(module: CompressedEmbedding) -> None:
    ids, table, old = torch.arange(9), module.table, shortcut(module)
    name = next(iter(table._parameters))
    kept = table._parameters[name]
    assert kept is not None
    table._parameters[name] = nn.Parameter(kept.detach().clone() + 1)
    assert taken(module, ids) is None
    table._parameters[name] = None
    assert taken(module, ids) is None
    del table._parameters[name]
    assert taken(module, ids) is None
    table._parameters[name] = kept
    assert taken(module, ids) is not None
    table.prepared.forget()
    assert shortcut(module) is None
    with torch.no_grad():
        assert old.rows(ids) is not None


def test_rows_made_in_inference_mode(module: CompressedEmbedding) -> None:
    ids = torch.arange(9)
    with torch.inference_mode():
        rows = shortcut(module).rows(ids)
        assert rows.is_inference()
    with torch.no_grad():
        assert not shortcut(module).rows(ids).is_inference()


def test_rows_have_their_own_memory(module: CompressedEmbedding) -> None:
    ids = torch.arange(ROWS)
    first, second = taken(module, ids), taken(module, ids)
    assert first is not None
    assert second is not None
    first.zero_()
    assert torch.equal(second, module.decode())
    kept = second.numpy()
    expected = kept.copy()
    del module, second
    assert np.array_equal(kept, expected)


def test_memory_is_freed(module: CompressedEmbedding) -> None:
    ids = torch.zeros(30_000, dtype=torch.int64)  # rows of 1 MB
    bad = torch.full((30_000,), ROWS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(500):
        taken(module, ids)
        taken(module, bad)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_hooks_are_called(module: CompressedEmbedding) -> None:
    calls = []
    handle = module.register_forward_hook(lambda *given: calls.append(given[2]))
    with torch.no_grad():
        rows = module(torch.arange(3))
    handle.remove()
    assert len(calls) == 1
    assert calls[0] is rows


@pytest.mark.parametrize("fullgraph", [False, True])
def test_graphs_do_not_use_the_shortcut(module: CompressedEmbedding, fullgraph: bool) -> None:
    torch._dynamo.reset()
    fast = torch.compile(module, fullgraph=fullgraph, backend="eager")
    ids = torch.arange(5)
    with torch.no_grad():
        assert torch.equal(fast(ids), module(ids))
        for parameter in module.parameters():
            parameter += 1
        assert torch.equal(fast(ids), module(ids))


@given(data=st.data())
def test_rows_equal_those_of_the_decoded_table(clustered: Make, data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(2, 3000)), data.draw(st.sampled_from([1, 3, 8, 16, 17]))
    bits = data.draw(st.integers(1, 9))
    field = clustered("user", rows, dim, bits)
    made = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    shape = data.draw(st.lists(st.integers(0, 70), max_size=2))
    ids = torch.randint(
        0, rows, shape, dtype=data.draw(st.sampled_from([torch.int32, torch.int64]))
    )
    with torch.no_grad():
        expected = made(ids)
        found = shortcut(made).rows(ids)
        assert torch.equal(found, expected)
        assert torch.equal(found, made.decode()[ids.long()])


class OldTensor:
    """A tensor of PyTorch before DLPack's C exchange API, which is read by its methods."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.is_cpu = numbers, True
        self.dtype, self.shape = numbers.dtype, numbers.shape

    def data_ptr(self) -> int:
        return self.numbers.ctypes.data

    def element_size(self) -> int:
        return self.numbers.itemsize

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.numbers.itemsize for step in self.numbers.strides)


def exchange_of(tensor: type) -> _native.Exchange:
    return _native.Exchange(tensor, [], lambda: 1)


@pytest.fixture(params=["old", "new"])
def tensor_of(request: pytest.FixtureRequest) -> tuple[_native.Exchange, Callable[..., Any]]:
    """An exchange, and what makes tensors on arrays' memory, with the API and without."""
    if request.param == "old":
        return exchange_of(OldTensor), OldTensor
    return exchange_of(Tensor), torch.from_numpy


def test_a_watch_compares_copied_bytes(
    tensor_of: tuple[_native.Exchange, Callable[..., Any]],
) -> None:
    exchange, make = tensor_of
    numbers = np.arange(100.0)
    watch = _native.Watch(exchange, [make(numbers)], [(False, None)])
    assert watch.holds([make(numbers)])
    assert watch.holds([make(numbers.copy())])
    assert not watch.holds([])
    assert not watch.holds([make(numbers.reshape(10, 10))])
    assert not watch.holds([make(numbers.astype(np.float32))])
    assert not watch.holds([make(np.stack([numbers] * 2, axis=1)[:, 0])])
    for place in range(100):
        numbers[place] += 1
        assert not watch.holds([make(numbers)])
        numbers[place] -= 1
    assert watch.holds([make(numbers)])
    for other in (None, 3, numbers):
        assert not watch.holds([other])


def test_a_watch_compares_addresses_of_tensors_read_in_place(
    tensor_of: tuple[_native.Exchange, Callable[..., Any]],
) -> None:
    exchange, make = tensor_of
    numbers = np.arange(100.0)
    watch = _native.Watch(exchange, [make(numbers)], [(True, [(80, 88), (792, 800)])])
    assert not watch.holds([make(numbers.copy())])
    for place in range(100):
        numbers[place] += 1
        assert watch.holds([make(numbers)]) == (place not in (10, 99))
        numbers[place] -= 1
    apart = np.arange(200.0)[::2]  # of which there is a copy
    watch = _native.Watch(exchange, [make(apart)], [(True, [])])
    assert watch.holds([make(apart)])
    apart[50] = 0
    assert not watch.holds([make(apart)])


def test_invalid_arguments_of_watches_are_refused() -> None:
    exchange, tensor = exchange_of(Tensor), torch.zeros(3)
    with pytest.raises(ValueError, match="tensors and uses differ in length: 1 and 0"):
        _native.Watch(exchange, [tensor], [])
    for wrong in ([(8, 4)], [(0, 13)]):
        with pytest.raises(ValueError, match="go beyond tensor 0 of 12 bytes"):
            _native.Watch(exchange, [tensor], [(True, wrong)])
    for elsewhere in (tensor.to("meta"), torch.zeros(1, 1, 1, 1, 1), 7):
        with pytest.raises(ValueError, match="tensor 0 is not a tensor in memory"):
            _native.Watch(exchange, [elsewhere], [(True, [])])


def test_guards() -> None:
    hooks: dict[int, Any] = {}
    held: dict[str, Any] = {"table": module}
    guards = _native.Guards([hooks], [(held, "table", module), (held, "forward", None)])
    assert guards.hold()
    for name, value in (("table", 3), ("forward", 3)):
        kept = held.copy()
        held[name] = value
        assert not guards.hold()
        del held[name]
        held.update(kept)
        assert guards.hold()
    held["forward"] = None
    assert guards.hold()
    hooks[1] = module
    assert not guards.hold()


def test_recorded_operations_take_the_usual_path(module: CompressedEmbedding) -> None:
    ids = torch.arange(3)
    answers: list[Any] = [False]
    exchange = _native.Exchange(Tensor, [lambda: answers[0]], torch.get_num_threads)
    made, table = module.table.prepared, module.table
    watch = _native.Watch(
        exchange, table.tensors, table.reader.uses(made._made.table, table.tensors)
    )
    names = table.reader.names[: len(table.tensors)]
    short = _native.Shortcut(made._made.table, watch, made.places, names, 0)
    for nothing in (False, None, 0):
        answers[0] = nothing
        assert short.rows(ids) is not None
    for something in (True, 1, object()):
        answers[0] = something
        assert short.rows(ids) is None

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    with Recorded():
        assert taken(module, ids) is None
    assert taken(module, ids) is not None


def test_invalid_arguments_of_shortcuts_are_refused(module: CompressedEmbedding) -> None:
    old = exchange_of(OldTensor)
    watch, table = _native.Watch(old, [], []), module.table.prepared._made.table
    with pytest.raises(ValueError, match="this PyTorch has no C exchange API"):
        _native.Shortcut(table, watch, [], [], 0)
    with pytest.raises(ValueError, match="the element type is a number from 0 to 2, not 3"):
        _native.Shortcut(table, watch, [], [], 3)
    with pytest.raises(ValueError, match="places and tensors differ in length: 1 and 0"):
        _native.Shortcut(table, watch, [({}, "codes")], ["codes"], 0)
    for wrong in ((watch, watch, []), (table, table, []), (table, watch, [3])):
        with pytest.raises((TypeError, RuntimeError)):
            _native.Shortcut(*wrong, [], 0)
    guards = _native.Guards([], [])
    with pytest.raises(ValueError, match="there are no tables"):
        _native.Shortcuts([], guards)
    for wrong_tables, wrong_guards in (([table], guards), ([shortcut(module)], table)):
        with pytest.raises((TypeError, RuntimeError)):
            _native.Shortcuts(wrong_tables, wrong_guards)
