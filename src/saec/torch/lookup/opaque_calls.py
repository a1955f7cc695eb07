"""Lookups without gradients in graphs of ``torch.compile``: one operator that finds its module by a
number, instead of one with the table's tensors as arguments.

Each tensor argument of a graph is checked several times per call, which for a few ids takes many
times as long as the rows. The operator calls the module as it would be called without a graph. So
it reads the tensors that the module holds when the graph runs. It must not be used in a graph that
writes to them or replaces them: :func:`opaque` detects this while the graph is made, and
lookups then use :func:`saec.torch.lookup.operator.pool`, as in exported programs.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from saec.torch.lookup.recorded_calls import transformed

__all__ = ["look_up", "look_up_bags", "new_number", "opaque", "readable"]

_numbers = itertools.count()
_modules: dict[int, weakref.ref[nn.Module]] = {}

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# Modules, by number, whose tensors are inputs of the graph of a function, by its code.
_shared: set[tuple[int, CodeType]] = set()


def new_number(module: nn.Module) -> int:
    """A number by which graphs find ``module`` as long as it exists."""
    number = next(_numbers)
    _modules[number] = weakref.ref(module, lambda _: _modules.pop(number, None))
    return number


def readable(ids: Tensor, sample: Tensor) -> bool:
    """In traced code, whether ids and a table's values have types that the operators accept."""
    # Not is_cpu, which would be a node of the graph.
    return ids.device.type == sample.device.type == "cpu" and sample.dtype in _DTYPES


def opaque(number: int) -> bool:
    """In traced code, whether the graph may contain a call of this module as an operator.

    It uses parts of Dynamo without public names; if a version of
    PyTorch lacks them, the answer is no.
    """
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        output: Any = InstructionTranslator.current_tx().output
        code = output.root_tx.f_code
        if output.export or torch.compiler.is_exporting():
            return False
        module = _modules[number]()
        if module is None or transformed() or (number, code) in _shared:
            return False
        if any(_replaced(held, output.side_effects) for held in _dictionaries(module)):
            return False
        _watch(output, number, code)
    except (AttributeError, ImportError):
        return False
    return True


# Its answer becomes a constant of the graph. torch.compiler.assume_constant_result sets the same
# mark, but imports Dynamo first, which takes longer than importing the rest of PyTorch.
opaque._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _dictionaries(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The dictionaries in which a module and its submodules hold tensors and modules."""
    for part in module.modules():
        yield from (part._parameters, part._buffers, part._modules)


def _replaced(held: dict[str, Any], side_effects: Any) -> bool:
    """Whether traced code has replaced a tensor, as ``torch.func.functional_call`` does."""
    variable = side_effects.id_to_variable.get(id(held))
    return variable is not None and bool(side_effects.is_modified(variable))


class _Unshared:
    """Checks the finished graph: none of its inputs may be memory of modules that it calls.

    Otherwise the graph is made once more, with the tensors of those modules as inputs.
    """

    def __init__(self, output: Any, code: CodeType) -> None:
        self._example, self._code = output.example_value_from_input_node, code
        self._forget = output.root_tx.speculation_log.clear
        self.numbers: set[int] = set()

    def __call__(self, graph: torch.fx.GraphModule) -> None:
        """Raise the exception that restarts Dynamo, if necessary."""
        from torch._dynamo.exc import RestartAnalysis

        inputs = [self._example(node) for node in graph.graph.nodes if node.op == "placeholder"]
        memory = {_memory(value) for value in inputs if isinstance(value, Tensor)}
        shared = {number for number in self.numbers if not memory.isdisjoint(_memory_of(number))}
        if shared:
            _shared.update((number, self._code) for number in shared)
            self._forget()  # the result is another graph
            raise RestartAnalysis(restart_reason="the graph has tensors of compressed tables")


def _watch(output: Any, number: int, code: CodeType) -> None:
    """Register the module, and :class:`_Unshared` as a check of the graph."""
    watching = [end for end in output.register_finalizer_fns if isinstance(end, _Unshared)]
    if not watching:
        watching = [_Unshared(output, code)]
        output.add_graph_finalizer(watching[0])
    watching[0].numbers.add(number)


def _memory(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _memory_of(number: int) -> set[int]:
    module = _modules[number]()
    held = [] if module is None else [*module.parameters(), *module.buffers()]
    return {_memory(tensor) for tensor in held}


_torch_library: Any = torch.library  # parts of which have no types
_LIBRARY = _torch_library.Library("saec", "FRAGMENT")
# The results depend on more than the arguments, so they must be neither shared nor
# computed beforehand. The tag of random operators states this.
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    torch.Tag.nondeterministic_seeded,
    torch.Tag.needs_fixed_stride_order,
)
# The dtype is an index into _DTYPES, because PyTorch takes a microsecond to pass a dtype.
_LIBRARY.define("look_up(Tensor ids, int module, int dim, int dtype) -> Tensor", tags=_TAGS)
_LIBRARY.define(
    "look_up_bags(Tensor ids, Tensor? offsets, Tensor? weights, int module, SymInt bags, int dim, "
    "int dtype) -> Tensor",
    tags=_TAGS,
)


def _look_up(ids: Tensor, module: int, dim: int, dtype: int) -> Tensor:
    """Vectors ``ids.shape + (dim,)`` of the module for ``ids``.

    Raises:
        IdError: an id is out of range.
    """
    called: Any = _modules[module]()
    if torch.is_grad_enabled():  # for frozen tables; lookups are faster without gradients
        return _without_gradients(called, ids)
    found: Tensor = called.forward(ids)
    return found


def _look_up_bags(
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    module: int,
    bags: int,
    dim: int,
    dtype: int,
) -> Tensor:
    """Bags (bags, dim) of the module; errors as in :func:`_look_up`."""
    return _without_gradients(_modules[module](), ids, offsets, weights)


@torch.no_grad()
def _without_gradients(module: Any, *arguments: Any) -> Tensor:
    found: Tensor = module.forward(*arguments)
    return found


def _shape(ids: Tensor, module: int, dim: int, dtype: int) -> Tensor:
    return ids.new_empty((*ids.shape, dim), dtype=_DTYPES[dtype])


def _bags_shape(
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    module: int,
    bags: int,
    dim: int,
    dtype: int,
) -> Tensor:
    return ids.new_empty((bags, dim), dtype=_DTYPES[dtype])


for _name, _run, _fake in (
    ("look_up", _look_up, _shape),
    ("look_up_bags", _look_up_bags, _bags_shape),
):
    _LIBRARY.impl(_name, _run, "CPU")
    _torch_library.register_fake(f"saec::{_name}", _fake, lib=_LIBRARY)


def look_up(number: int, sample: Tensor, ids: Tensor) -> Tensor:
    """In traced code, the call of an embedding module as an operator.

    Args:
        number: of the module.
        sample: any tensor with the device, dtype and width of its vectors; guards of the graph
            ensure that these do not change.
        ids: as the module takes them.
    """
    found: Tensor = torch.ops.saec.look_up(
        ids, number, sample.shape[-1], _DTYPES.index(sample.dtype)
    )
    return found


def look_up_bags(
    number: int,
    sample: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    bags: int,
) -> Tensor:
    """The same for a module of bags, with this number of bags."""
    found: Tensor = torch.ops.saec.look_up_bags(
        ids, offsets, weights, number, bags, sample.shape[-1], _DTYPES.index(sample.dtype)
    )
    return found
